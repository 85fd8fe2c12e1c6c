//! UDP state that points at a backend which is gone: rows of `SOCK_NAT` and `SOCK_FLOWS` (and `_V6`), and connected
//! sockets.
//!
//! The packet path and unconnected sockets check their remembered choice against `MEMBERS`, so for them deleting the
//! member is enough and the rows are only swept. A connected socket was told a backend's address once, at connect();
//! it has to be ended. May not know: Services by name.

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use strake_abi::proto;
use strake_abi::service::MemberKey;
use tracing::{debug, warn};

use crate::maps::{KernelMaps, MapsError};
use crate::sockdiag::destroy_udp;

/// What was swept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Swept {
    pub rows: usize,
    pub sockets: usize,
}

/// Sweeps what remembers one of the `removed` members. Sockets that cannot be ended are logged: they fail by
/// themselves when their program times out, as they did before.
pub fn sweep(maps: &mut KernelMaps, removed: &[MemberKey], cgroup_root: &Path) -> Result<Swept, MapsError> {
    if removed.is_empty() {
        return Ok(Swept::default());
    }
    let removed: HashSet<MemberKey> = removed.iter().copied().collect();
    let gone = |service_id, backend_id| removed.contains(&MemberKey { service_id, backend_id });

    let nat = maps.sock_nat.all()?;
    let nat: Vec<_> =
        nat.into_iter().filter(|(_, row)| gone(row.service_id, row.backend_id)).map(|(key, _)| key).collect();
    maps.sock_nat.remove(&nat)?;
    let nat_v6 = maps.sock_nat_v6.all()?;
    let nat_v6: Vec<_> =
        nat_v6.into_iter().filter(|(_, row)| gone(row.service_id, row.backend_id)).map(|(key, _)| key).collect();
    maps.sock_nat_v6.remove(&nat_v6)?;

    let mut doomed = HashMap::new();
    for (cookie, flow) in maps.sock_flows.all()? {
        if flow.proto == u32::from(proto::UDP) && gone(flow.service_id, flow.backend_id) {
            doomed.insert(cookie, SocketAddr::from((Ipv4Addr::from(flow.backend), flow.backend_port.get())));
        }
    }
    for (cookie, flow) in maps.sock_flows_v6.all()? {
        if flow.proto == u32::from(proto::UDP) && gone(flow.service_id, flow.backend_id) {
            doomed.insert(cookie, SocketAddr::new(flow.backend.ip(), flow.backend_port.get()));
        }
    }
    let cookies: Vec<u64> = doomed.keys().copied().collect();
    let asked = doomed.len();
    let sockets = match destroy_udp(cgroup_root, doomed) {
        Ok(sockets) => sockets,
        Err(error) => {
            warn!(%error, asked, "connected UDP sockets of a removed backend could not be ended");
            0
        }
    };
    // A cookie is in one of the two.
    maps.sock_flows.remove(&cookies)?;
    maps.sock_flows_v6.remove(&cookies)?;
    let rows = nat.len() + nat_v6.len() + cookies.len();
    debug!(rows, sockets, "swept UDP state of removed backends");
    Ok(Swept { rows, sockets })
}
