//! Which addresses the kernel answers neighbours for, and until when. A view of `ANNOUNCED` of its own: no apply waits
//! for it, and it waits for none.
//!
//! May not know: Leases, Services, who decides.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;
use strake_abi::announce::{ANNOUNCED, Announced};
use strake_abi::{Addr6, Mac};

use crate::maps::{MapsError, Rows};

/// Nanoseconds of the clock that announcements end by. It goes on while the machine sleeps.
pub fn boot_ns() -> u64 {
    // Every kernel with BPF has this clock.
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |time| time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// A handle on the announced addresses; clones share it.
#[derive(Clone)]
pub struct Announcer(Arc<Mutex<Rows<Addr6, Announced>>>);

impl Announcer {
    /// The map pinned in this folder.
    pub fn open(maps: &Path) -> Result<Self, MapsError> {
        Ok(Self(Arc::new(Mutex::new(Rows::open(maps, ANNOUNCED)?))))
    }

    /// Answers for these addresses, at this Ethernet address, until that moment of [`boot_ns`].
    pub fn answer(&self, addresses: &[IpAddr], mac: Mac, until_ns: u64) -> Result<(), MapsError> {
        let rows = addresses.iter().map(|ip| (Addr6::from(*ip), Announced { until_ns, mac, reserved: 0 }));
        self.0.lock().put(&rows.collect::<Vec<_>>())
    }

    /// Answers for these addresses no more.
    pub fn silence(&self, addresses: &[IpAddr]) -> Result<(), MapsError> {
        self.0.lock().remove(&addresses.iter().map(|ip| Addr6::from(*ip)).collect::<Vec<_>>())
    }

    /// Removes the rows that have ended: those of an agent before this one.
    pub fn sweep(&self) -> Result<(), MapsError> {
        let (mut rows, now) = (self.0.lock(), boot_ns());
        let ended = rows.all()?.into_iter().filter(|(_, row)| row.until_ns <= now).map(|(ip, _)| ip);
        let ended: Vec<Addr6> = ended.collect();
        rows.remove(&ended)
    }

    /// The addresses that are answered for now.
    pub fn answered(&self) -> Result<Vec<IpAddr>, MapsError> {
        let now = boot_ns();
        let rows = self.0.lock().all()?;
        Ok(rows.into_iter().filter(|(_, row)| row.until_ns > now).map(|(ip, _)| ip.ip()).collect())
    }
}
