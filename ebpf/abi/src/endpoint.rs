//! Pods of this node and addresses of all nodes.

use crate::addr::{Addr4, Addr6, Mac};
use crate::macros::abi_struct;

/// Hash `u32` (interface index of the host side of the veth) -> [`Endpoint`]. A veth without a row drops everything
/// its Pod sends (`unknown_endpoint`), so the row is written before `from_pod` is attached.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// Hash [`Addr4`] (Pod address) -> `u32` (interface index): "is this a Pod of this node, and where".
pub const ENDPOINTS_BY_IP: &str = "ENDPOINTS_BY_IP";
/// The same for IPv6 addresses, [`crate::Addr6`].
pub const ENDPOINTS_IP_V6: &str = "ENDPOINTS_IP_V6";
/// Hash `u64` (network namespace cookie) -> [`PodNetns`]: who a socket belongs to.
pub const PODS_BY_NETNS: &str = "PODS_BY_NETNS";
/// Hash [`Addr4`] (an address of a node) -> `u32` (`NODE_*` flags).
pub const NODES: &str = "NODES";
/// Hash [`crate::Addr6`] (an IPv6 address of a node) -> `u32` (`NODE_*` flags).
pub const NODES_V6: &str = "NODES_V6";

/// [`NODES`]: an address of this node (127.0.0.1 and the like included); its NodePorts are served.
pub const NODE_LOCAL: u32 = 1 << 0;
/// [`NODES`]: an address of another node of the cluster; Pods reach it without masquerade.
pub const NODE_REMOTE: u32 = 1 << 1;

/// Socket hooks leave this Pod's sockets alone; the packet path serves it (annotation `strake.io/socket-lb`).
pub const ENDPOINT_NO_SOCKET: u16 = 1 << 0;

abi_struct! {
    /// A Pod of this node.
    pub struct Endpoint: 48 {
        /// The Pod's address; anything else as a source is spoofed.
        pub ip: Addr4 = 0,
        /// The Pod side's Ethernet address; anything else as a source is spoofed.
        pub mac: Mac = 4,
        /// The host side's Ethernet address.
        pub host_mac: Mac = 10,
        /// `ENDPOINT_*`.
        pub flags: u16 = 16,
        /// Zero.
        pub reserved: u16 = 18,
        /// Agent's number of the Pod, for reports.
        pub id: u32 = 20,
        /// Cookie of the Pod's network namespace, 0 if unknown.
        pub netns_cookie: u64 = 24,
        /// The Pod's IPv6 address, `::` if it has none. Beside it a Pod may speak from link-local addresses, on its link.
        pub ip6: Addr6 = 32,
    }
}

abi_struct! {
    /// A Pod of this node, seen from a socket.
    pub struct PodNetns: 12 {
        /// The Pod's address (the client of ClientIP affinity).
        pub ip: Addr4 = 0,
        /// Agent's number of the Pod, for reports.
        pub id: u32 = 4,
        /// `ENDPOINT_*`.
        pub flags: u32 = 8,
    }
}
