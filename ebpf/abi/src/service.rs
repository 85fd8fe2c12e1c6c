//! Services and their backends: one lookup decides a Service, one index its backend.
//!
//! ```text
//!  SERVICES { 10.96.3.7 :80 TCP internal } -> { id 12, base 40, count 3, .. }
//!                                                       |
//!  BACKENDS  ... |40: 10.244.0.5:8080 |41: 10.244.1.9:8080 |42: 10.244.2.4:8080 | ...
//! ```
//!
//! A slice is immutable while a Service points at it: the agent writes a new slice, swaps the Service's value in one
//! update, and reuses the old slice only after a grace period (a program that read the old value may still index it).

use crate::addr::{Addr4, Addr6, Port};
use crate::macros::abi_struct;

/// Hash [`ServiceKey`] -> [`Service`].
pub const SERVICES: &str = "SERVICES";
/// Hash [`ServiceKey6`] -> [`Service`].
pub const SERVICES_V6: &str = "SERVICES_V6";
/// Array (`BPF_F_MMAPABLE`) of [`Backend`], slices of which belong to Services. Slices, ids, members and affinity are
/// those of both families: a Service's value does not say which it is of, and need not.
pub const BACKENDS: &str = "BACKENDS";
/// Hash [`MemberKey`] -> [`Backend`]: the live backends of each Service port that needs stickiness: those with ClientIP
/// affinity and those over UDP. A choice remembered somewhere is valid only while its row is here.
pub const MEMBERS: &str = "MEMBERS";
/// LRU hash [`AffinityKey`] -> [`Affinity`]; written by the programs.
pub const AFFINITY: &str = "AFFINITY";
/// LRU hash [`AffinityKey6`] -> [`Affinity`]: clients of the network that came by IPv6.
pub const AFFINITY_V6: &str = "AFFINITY_V6";
/// LPM trie [`SourceKey`] -> `u32` (1): lists of ranges of clients, of both families. A list is immutable, as a slice is:
/// another one is written beside it, and the Service's value swapped. Few Services have one, so nothing is gained by a
/// shorter key for IPv4.
pub const SOURCE_RANGES: &str = "SOURCE_RANGES";
/// Array of [`MaglevRow`], runs of which are tables of Services. A table is immutable while a Service points at it, like a
/// slice, and goes with its slice: its entries are positions in that.
pub const MAGLEV: &str = "MAGLEV";

/// [`ServiceKey::scope`] of traffic from Pods and from the node itself.
pub const SCOPE_INTERNAL: u8 = 0;
/// [`ServiceKey::scope`] of traffic that came in from the network. There is no fallback from one scope to the other:
/// a frontend reachable from both sides has two rows.
pub const SCOPE_EXTERNAL: u8 = 1;

abi_struct! {
    /// A frontend.
    ///
    /// * ClusterIP, externalIP, LoadBalancer IP: its address and port.
    /// * NodePort: address [`Addr4::ANY`]; consulted when the destination is in `NODES` with
    ///   [`crate::endpoint::NODE_LOCAL`] and the port is in the NodePort range.
    /// * "This ClusterIP exists": port 0, protocol 0, scope internal, with a zero value. An unknown port of such an
    ///   address is rejected; an address of the Service prefix without this row is dropped (the behaviour of
    ///   kube-proxy's nftables mode, KEP-3866).
    pub struct ServiceKey: 8 {
        /// Frontend address.
        pub addr: Addr4 = 0,
        /// Frontend port.
        pub port: Port = 4,
        /// IANA protocol number.
        pub proto: u8 = 6,
        /// [`SCOPE_INTERNAL`] or [`SCOPE_EXTERNAL`].
        pub scope: u8 = 7,
    }
}

abi_struct! {
    /// A frontend of IPv6: as [`ServiceKey`], with [`Addr6::ANY`] and `NODES_V6` for NodePorts. The agent, which treats both families alike, names IPv4
    /// frontends by it too, with a mapped address: [`ServiceKey6::v4`] tells them apart.
    pub struct ServiceKey6: 20 {
        /// Frontend address.
        pub addr: Addr6 = 0,
        /// Frontend port.
        pub port: Port = 16,
        /// IANA protocol number.
        pub proto: u8 = 18,
        /// [`SCOPE_INTERNAL`] or [`SCOPE_EXTERNAL`].
        pub scope: u8 = 19,
    }
}

impl ServiceKey6 {
    /// The key in `SERVICES`, if the frontend is IPv4's.
    pub fn v4(&self) -> Option<ServiceKey> {
        let addr = self.addr.v4()?;
        Some(ServiceKey { addr, port: self.port, proto: self.proto, scope: self.scope })
    }
}

impl From<ServiceKey> for ServiceKey6 {
    fn from(key: ServiceKey) -> Self {
        Self { addr: key.addr.into(), port: key.port, proto: key.proto, scope: key.scope }
    }
}

/// The address came from the outside and has no backend for policy's sake: drop instead of reject
/// (externalTrafficPolicy Local on a node without endpoints, KEP-1669).
pub const SERVICE_DROP_IF_EMPTY: u32 = 1 << 0;
/// Socket hooks leave this frontend to the packet path.
pub const SERVICE_NO_SOCKET: u32 = 1 << 1;
/// The frontend is a NodePort (for reports).
pub const SERVICE_NODE_PORT: u32 = 1 << 2;
/// With a [`Service::source_list`]: the node's own address is within.
pub const SERVICE_ADMITS_NODE: u32 = 1 << 3;
/// With a [`Service::source_list`]: so is every Pod of this node. This is what a socket hook goes by where it cannot tell
/// the address of the socket's Pod.
pub const SERVICE_ADMITS_PODS: u32 = 1 << 4;
/// Flows from outside to a Pod on another node go there as they came (see [`crate::config::DSR`]).
pub const SERVICE_DSR: u32 = 1 << 5;

abi_struct! {
    /// What a frontend leads to.
    pub struct Service: 32 {
        /// Names one port of one Service with one set of backends. Frontends with the same backends (its ClusterIP
        /// and its NodePort) share it, and with it the ClientIP affinity. Never 0, never reused while a conntrack
        /// entry may hold it.
        pub id: u32 = 0,
        /// First index of the slice in `BACKENDS`.
        pub backend_base: u32 = 4,
        /// Length of the slice. 0: no endpoint, the connection is rejected (or dropped, see flags).
        pub backend_count: u32 = 8,
        /// Seconds of ClientIP affinity since its last use; 0 is none.
        pub affinity_timeout_s: u32 = 12,
        /// `SERVICE_*`.
        pub flags: u32 = 16,
        /// The list in [`SOURCE_RANGES`] whose clients may open connections (`loadBalancerSourceRanges`); 0: all may.
        pub source_list: u32 = 20,
        /// First row of the table in [`MAGLEV`].
        pub maglev_base: u32 = 24,
        /// Entries of that table; 0: there is none, and backends are chosen at random.
        pub maglev_size: u32 = 28,
    }
}

/// The backend is a Pod of this node, or this node itself.
pub const BACKEND_LOCAL: u8 = 1 << 0;
/// The backend is in the node's own network namespace.
pub const BACKEND_HOST: u8 = 1 << 1;

abi_struct! {
    /// One endpoint of a Service port. All zero is an unused slot. The IPv4 paths read the last 12 bytes only.
    pub struct Backend: 24 {
        /// Endpoint address; IPv4 is mapped.
        pub addr: Addr6 = 0,
        /// Endpoint port.
        pub port: Port = 16,
        /// `BACKEND_*`.
        pub flags: u8 = 18,
        /// Zero.
        pub reserved: u8 = 19,
        /// Names one (address, port, protocol) in the whole node; never 0.
        pub id: u32 = 20,
    }
}

/// Entries of a [`MaglevRow`].
pub const MAGLEV_ROW: u32 = 32;

abi_struct! {
    /// A piece of a Maglev table: a cache line, as an array's values are at least 8 bytes apart.
    pub struct MaglevRow: 64 {
        /// Positions in the slice.
        pub entries: [u16; 32] = 0,
    }
}

abi_struct! {
    /// "This backend is live for this Service port."
    pub struct MemberKey: 8 {
        /// [`Service::id`].
        pub service_id: u32 = 0,
        /// [`Backend::id`].
        pub backend_id: u32 = 4,
    }
}

abi_struct! {
    /// A client of a Service with ClientIP affinity. The client of a socket hook is the Pod's address (the node's for
    /// host processes), that of the packet path is the source address, so both paths agree. For a Service of IPv6 it is
    /// the same IPv4 address, which names the Pod as well: every Pod has one. Clients of the network have their own
    /// ([`AffinityKey6`]).
    pub struct AffinityKey: 8 {
        /// Client address.
        pub client: Addr4 = 0,
        /// [`Service::id`].
        pub service_id: u32 = 4,
    }
}

abi_struct! {
    /// A client of the network at an IPv6 frontend of a Service with ClientIP affinity.
    pub struct AffinityKey6: 20 {
        /// Client address.
        pub client: Addr6 = 0,
        /// [`Service::id`].
        pub service_id: u32 = 16,
    }
}

abi_struct! {
    /// A range of clients on a list. Its length counts [`SourceKey::bits`] of this key.
    pub struct SourceKey: 20 {
        /// [`Service::source_list`]; never 0, never reused.
        pub list: u32 = 0,
        /// Network address; IPv4 is mapped.
        pub addr: Addr6 = 4,
    }
}

impl SourceKey {
    /// All bits: of one client.
    pub const BITS: u32 = 160;

    /// Bits that count for a range of `prefix` bits of the longer address (an IPv4 one has 96 more than written).
    pub const fn bits(prefix: u8) -> u32 {
        32 + prefix as u32
    }
}

abi_struct! {
    /// The backend that a client sticks to.
    pub struct Affinity: 8 {
        /// [`Backend::id`]; checked against `MEMBERS` at each use.
        pub backend_id: u32 = 0,
        /// Seconds of `CLOCK_MONOTONIC` at the last new connection.
        pub last_used_s: u32 = 4,
    }
}
