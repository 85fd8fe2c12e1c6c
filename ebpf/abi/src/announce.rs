//! LoadBalancer addresses that this node answers ARP and neighbour discovery for.

use crate::addr::Mac;
use crate::macros::abi_struct;

/// Hash [`crate::Addr6`] (the address, IPv4 as `::ffff:a.b.c.d`) -> [`Announced`].
pub const ANNOUNCED: &str = "ANNOUNCED";

abi_struct! {
    /// Until when an address is this node's, and where neighbours find it.
    pub struct Announced: 16 {
        /// Nanoseconds of `CLOCK_BOOTTIME`, which goes on while the machine sleeps. A row that has ended answers nothing:
        /// a node whose agent has died falls silent by itself.
        pub until_ns: u64 = 0,
        /// The uplink's Ethernet address.
        pub mac: Mac = 8,
        /// Zero.
        pub reserved: u16 = 14,
    }
}
