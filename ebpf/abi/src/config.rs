//! `CONFIG`: what the programs know about their node. One entry, index 0; written by the agent before it attaches
//! anything, and rewritten in one update when something changes.

use crate::addr::{Addr4, Addr6, Cidr4, Cidr6};
use crate::macros::abi_struct;

/// Array of one [`Config`].
pub const CONFIG: &str = "CONFIG";

/// Masquerade at `to_net` what leaves the cluster (and undo it at `from_net`).
pub const MASQUERADE: u32 = 1 << 0;
/// Answer DNS at `from_pod` from `DNS_NAMES`.
pub const DNS: u32 = 1 << 1;
/// Track and report connections that no Service is part of, too.
pub const TRACK_ALL: u32 = 1 << 2;
/// Send events (connect, open, close, drop). Counters run in any case.
pub const EVENTS: u32 = 1 << 3;
/// Hand packets between Pods of the node straight over, past its routing. Off where another proxy translates them there.
pub const DIRECT: u32 = 1 << 4;
/// Send what comes from outside for a Pod on another node there in a packet of its own (IP in IP), and take out of one what
/// another node sends so: the backend's node answers the client (direct server return).
pub const DSR: u32 = 1 << 5;
/// The programs share their hooks with those of another version for a moment, which come before or behind them: a packet
/// that was seen to is marked, and one that is marked is left alone. Set by the agent while it exchanges programs whose maps
/// differ. The meaning of this bit and the next, and that they are in `flags`, must not change between versions.
pub const CHAINED: u32 = 1 << 30;
/// The programs are to be replaced: what a row speaks for is served to the end, anything else is left to those behind.
pub const HANDOVER: u32 = 1 << 31;

/// Global of the programs, a `u8` in `.rodata` that the loader overrides with 1 where the kernel has the helper
/// `bpf_set_retval` for `cgroup/connect4` (5.18): a connect() to a Service without endpoints then fails with
/// ECONNREFUSED. Without it the connect of a Pod goes to the VIP and `from_pod` answers it with a reset, and that of a
/// process of the node fails with EPERM.
pub const HAVE_SET_RETVAL: &str = "HAVE_SET_RETVAL";

abi_struct! {
    /// The node, as the programs see it.
    pub struct Config: 216 {
        /// [`crate::ABI_VERSION`] of the agent that wrote the maps.
        pub abi_version: u32 = 0,
        /// [`MASQUERADE`], [`DNS`], [`TRACK_ALL`], [`EVENTS`], [`DIRECT`], [`DSR`].
        pub flags: u32 = 4,
        /// Address of the uplink: the source of masqueraded traffic and of NodePort traffic to remote backends.
        pub node_ip: Addr4 = 8,
        /// Address of the cluster DNS Service, bound on the node's `lo` by the agent's server.
        pub cluster_dns: Addr4 = 12,
        /// The Pods' gateway (169.254.1.1): the host side of each veth answers ARP for it, and it is the source
        /// that a Pod sees when it reaches itself through a Service.
        pub pod_gateway: Addr4 = 16,
        /// Interface index of the uplink, where `from_net` and `to_net` sit; 0 if there is none.
        pub uplink_ifindex: u32 = 20,
        /// Pod prefix of this node.
        pub pod_cidr: Cidr4 = 24,
        /// Pod prefix of the cluster: never masqueraded.
        pub cluster_cidr: Cidr4 = 32,
        /// Prefix of ClusterIPs: what has no Service in it is rejected or dropped, not routed away.
        pub service_cidr: Cidr4 = 40,
        /// First port (host order) that source translation may use. The range must not overlap with the node's
        /// `ip_local_port_range` nor with the NodePorts: 61000 to 65535 with stock settings.
        pub snat_port_min: u16 = 48,
        /// Last port (host order) that source translation may use.
        pub snat_port_max: u16 = 50,
        /// First NodePort (host order), inclusive.
        pub node_port_min: u16 = 52,
        /// Last NodePort (host order), inclusive.
        pub node_port_max: u16 = 54,
        /// Cookie of the node's own network namespace (`SO_NETNS_COOKIE`), 0 if unknown. A socket in it has no
        /// `from_pod` in front of it.
        pub host_netns_cookie: u64 = 56,
        /// Microseconds after a wakeup of the reader of `EVENTS` in which this CPU does not wake it again; 0 wakes it
        /// whenever it sleeps. See [`crate::flow::EVENT_QUIET_US`].
        pub event_quiet_us: u32 = 64,
        /// Idle seconds after which a UDP or ICMP flow is forgotten (a later packet chooses again).
        pub udp_timeout_s: u32 = 68,
        /// Idle seconds after which an established TCP flow may be forgotten.
        pub tcp_timeout_s: u32 = 72,
        /// Idle seconds after which a TCP flow that is being opened or closed may be forgotten.
        pub tcp_closing_timeout_s: u32 = 76,
        /// The agent's note to itself, of no meaning to the programs: no [`crate::service::Service::id`] or
        /// [`crate::service::Backend::id`] was ever handed out at or above it, so ids are not reused across restarts.
        pub next_id: u32 = 80,
        /// Longest IP packet that the uplink takes; 0 if unknown. Used with [`DSR`].
        pub uplink_mtu: u32 = 84,
        /// IPv6 address of the uplink; `::` if there is none: then IPv6 is not masqueraded, and an IPv6 NodePort has no
        /// way to remote backends.
        pub node_ip6: Addr6 = 88,
        /// As `pod_gateway` (fe80::1).
        pub pod_gateway6: Addr6 = 104,
        /// IPv6 Pod prefix of this node.
        pub pod_cidr6: Cidr6 = 120,
        /// IPv6 Pod prefix of the cluster.
        pub cluster_cidr6: Cidr6 = 152,
        /// Prefix of IPv6 ClusterIPs.
        pub service_cidr6: Cidr6 = 184,
    }
}
