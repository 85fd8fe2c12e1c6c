//! Names of the programs in the object, and of the maps that outlive an agent.

/// cgroup/connect4: TCP connect() and UDP connect().
pub const SOCK_CONNECT4: &str = "sock_connect4";
/// cgroup/sendmsg4: sendto() and sendmsg() of unconnected UDP sockets.
pub const SOCK_SENDMSG4: &str = "sock_sendmsg4";
/// cgroup/recvmsg4: the source that recvfrom() and recvmsg() report.
pub const SOCK_RECVMSG4: &str = "sock_recvmsg4";
/// cgroup/getpeername4 (5.8).
pub const SOCK_GETPEER4: &str = "sock_getpeer4";
/// cgroup/connect6: TCP connect() and UDP connect() of IPv6 sockets.
pub const SOCK_CONNECT6: &str = "sock_connect6";
/// cgroup/sendmsg6: sendto() and sendmsg() of unconnected UDP sockets to IPv6 addresses that are not mapped.
pub const SOCK_SENDMSG6: &str = "sock_sendmsg6";
/// cgroup/recvmsg6: the source that recvfrom() and recvmsg() report to IPv6 sockets.
pub const SOCK_RECVMSG6: &str = "sock_recvmsg6";
/// cgroup/getpeername6 (5.8).
pub const SOCK_GETPEER6: &str = "sock_getpeer6";
/// cgroup/sock_release (5.9).
pub const SOCK_RELEASE: &str = "sock_release";
/// tc ingress, host side of each Pod's veth.
pub const FROM_POD: &str = "from_pod";
/// tc egress, host side of each Pod's veth.
pub const TO_POD: &str = "to_pod";
/// tc ingress, uplink.
pub const FROM_NET: &str = "from_net";
/// tc egress, uplink.
pub const TO_NET: &str = "to_net";

/// The programs of type cgroup/sock_addr, in order of attachment: what translates back comes before what translates.
pub const SOCK_ADDR: [&str; 8] = [
    SOCK_GETPEER4,
    SOCK_GETPEER6,
    SOCK_RECVMSG4,
    SOCK_RECVMSG6,
    SOCK_SENDMSG4,
    SOCK_SENDMSG6,
    SOCK_CONNECT4,
    SOCK_CONNECT6,
];
/// xdp, uplink.
pub const XDP_LB: &str = "xdp_lb";
/// The programs of type sched_cls.
pub const CLASSIFIERS: [&str; 4] = [FROM_POD, TO_POD, FROM_NET, TO_NET];

/// Every map, by its name in the object and (each at most 15 bytes, the kernel's limit) in the kernel. All of them are
/// pinned, so that another start of the agent finds connections, choices and counters where they were.
pub const MAPS: [&str; 38] = [
    crate::config::CONFIG,
    crate::service::SERVICES,
    crate::service::SERVICES_V6,
    crate::service::BACKENDS,
    crate::service::MEMBERS,
    crate::service::AFFINITY,
    crate::service::AFFINITY_V6,
    crate::service::SOURCE_RANGES,
    crate::service::MAGLEV,
    crate::sock::SOCK_FLOWS,
    crate::sock::SOCK_NAT,
    crate::sock::SOCK_FLOWS_V6,
    crate::sock::SOCK_NAT_V6,
    crate::conntrack::CONNTRACK,
    crate::conntrack::FRAGMENTS,
    crate::conntrack::CONNTRACK_V6,
    crate::conntrack::FRAGMENTS_V6,
    crate::conntrack::AWAITED,
    crate::conntrack::PARKED,
    crate::conntrack::PARKED_SCRATCH,
    crate::announce::ANNOUNCED,
    crate::endpoint::ENDPOINTS,
    crate::endpoint::ENDPOINTS_BY_IP,
    crate::endpoint::ENDPOINTS_IP_V6,
    crate::endpoint::PODS_BY_NETNS,
    crate::endpoint::NODES,
    crate::endpoint::NODES_V6,
    crate::dns::DNS_NAMES,
    crate::dns::DNS_ZONE,
    crate::flow::EVENTS,
    crate::flow::EVENTS_LOST,
    crate::flow::EVENTS_WOKEN,
    crate::flow::DROPS,
    crate::flow::COUNTERS,
    SCRATCH,
    SCRATCH_V6,
    ROUTES,
    ROUTES_V6,
];

/// Per-CPU scratch memory of the packet path; of no interest to anybody else.
pub const SCRATCH: &str = "SCRATCH";
/// The same for IPv6 packets.
pub const SCRATCH_V6: &str = "SCRATCH_V6";
/// What the routing table said lately, by flow, on each CPU.
pub const ROUTES: &str = "ROUTES";
/// The same of IPv6.
pub const ROUTES_V6: &str = "ROUTES_V6";

#[cfg(test)]
mod tests {
    #[test]
    fn names_fit_the_kernel() {
        for name in super::MAPS.iter().chain(&super::SOCK_ADDR).chain(&super::CLASSIFIERS).chain([&super::XDP_LB]) {
            assert!(name.len() <= 15, "{name}");
        }
    }
}
