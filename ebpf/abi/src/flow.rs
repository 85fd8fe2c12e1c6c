//! What the programs report: events, losses, drops and counters.
//!
//! An event that does not fit into the ring buffer is counted in `EVENTS_LOST` by its kind, so `sent + lost` is what
//! happened. Drops are counted in `DROPS` whether their event was lost or not.

use crate::addr::Port;
use crate::macros::{abi_struct, named_enum};

/// Ring buffer of [`FlowEvent`]s.
pub const EVENTS: &str = "EVENTS";
/// Per-CPU array of `u64`, indexed by [`EventKind`].
pub const EVENTS_LOST: &str = "EVENTS_LOST";
/// Per-CPU array of one `u64`: nanoseconds of `CLOCK_MONOTONIC` when this CPU last woke the reader of [`EVENTS`].
pub const EVENTS_WOKEN: &str = "EVENTS_WOKEN";
/// What [`crate::config::Config::event_quiet_us`] is set to: waking a reader costs more than the event it is told of.
///
/// The reader keeps its side of the bargain: woken, it reads, waits for longer than this, and reads again; it sleeps
/// when such a second look found nothing. An event that wakes nobody lies within the quiet time of one that did, and
/// that one was read, so the second look finds it.
pub const EVENT_QUIET_US: u32 = 5_000;
/// Per-CPU array of `u64`, indexed by [`DropReason`].
pub const DROPS: &str = "DROPS";
/// Per-CPU array of `u64`, indexed by [`Counter`].
pub const COUNTERS: &str = "COUNTERS";

named_enum! {
    /// What happened.
    pub enum EventKind {
        /// A socket hook chose a backend for connect(): who asked is known (process, cgroup, cookie), the source port
        /// is not yet. If the socket is a Pod's, `Open` follows with the same cookie.
        Connect = 0 => "connect",
        /// The first packet of a flow passed a border.
        Open = 1 => "open",
        /// A tracked flow of TCP or SCTP ended; the counters are set.
        Close = 2 => "close",
        /// A packet or a connect() was refused; `reason` is set.
        Drop = 3 => "drop",
    }
}

named_enum! {
    /// What became of it.
    pub enum Verdict {
        /// It goes on, to the backend if there is one.
        Forwarded = 0 => "forwarded",
        /// It was refused with an answer (ECONNREFUSED, TCP reset, ICMP unreachable).
        Rejected = 1 => "rejected",
        /// It was discarded without an answer.
        Dropped = 2 => "dropped",
    }
}

named_enum! {
    /// Why a packet or a connect() was refused.
    pub enum DropReason {
        /// It was not.
        None = 0 => "none",
        /// The source address is not the Pod's.
        SpoofedIp = 1 => "spoofed_ip",
        /// The source Ethernet address is not the Pod's.
        SpoofedMac = 2 => "spoofed_mac",
        /// An ARP packet claims an address that is not the Pod's.
        SpoofedArp = 3 => "spoofed_arp",
        /// The packet is shorter than its headers say, or they contradict each other.
        Malformed = 4 => "malformed",
        /// None of IPv4, IPv6 and ARP.
        UnsupportedProtocol = 5 => "unsupported_protocol",
        /// The veth has no row in `ENDPOINTS`.
        UnknownEndpoint = 6 => "unknown_endpoint",
        /// The Service has no ready endpoint.
        NoEndpoints = 7 => "no_endpoints",
        /// The ClusterIP has no such port.
        NoServicePort = 8 => "no_service_port",
        /// No Service has this address of the Service prefix.
        NoService = 9 => "no_service",
        /// No source port was free for this destination.
        PortsExhausted = 10 => "snat_ports_exhausted",
        /// A later fragment came without its first.
        FragmentUnknown = 11 => "fragment_unknown",
        /// The flow could not be written into `CONNTRACK`.
        ConntrackFull = 12 => "conntrack_full",
        /// The kernel refused to change the packet.
        RewriteFailed = 13 => "rewrite_failed",
        /// The time to live ended here.
        TtlExceeded = 14 => "ttl_exceeded",
        /// `CONFIG` has not been written.
        NotConfigured = 15 => "not_configured",
        /// The client is in none of the Service's `loadBalancerSourceRanges`.
        SourceNotInRanges = 16 => "source_not_in_ranges",
        /// A neighbour discovery message claims an address that is not the Pod's, or is a router's to send.
        SpoofedNdp = 17 => "spoofed_ndp",
        /// IPv6 extension headers are more, or other, than are walked.
        ExtensionHeaders = 18 => "ipv6_extension_headers",
        /// A fragmented SCTP packet whose ports would have to change, and its checksum with them.
        SctpFragment = 19 => "sctp_fragment",
        /// With the header that takes it to the backend's node, it is longer than the uplink takes.
        PacketTooBig = 20 => "packet_too_big",
        /// Another node sent it for a Service or a backend that this node does not know.
        TunnelUnknown = 21 => "tunnel_unknown",
    }
}

named_enum! {
    /// Where.
    pub enum Hook {
        /// cgroup/connect4
        SockConnect4 = 0 => "sock_connect4",
        /// cgroup/sendmsg4
        SockSendmsg4 = 1 => "sock_sendmsg4",
        /// cgroup/recvmsg4
        SockRecvmsg4 = 2 => "sock_recvmsg4",
        /// cgroup/getpeername4
        SockGetpeername4 = 3 => "sock_getpeer4",
        /// cgroup/sock_release
        SockRelease = 4 => "sock_release",
        /// Ingress of the host side of a Pod's veth.
        FromPod = 5 => "from_pod",
        /// Egress of the host side of a Pod's veth.
        ToPod = 6 => "to_pod",
        /// Ingress of the uplink.
        FromNet = 7 => "from_net",
        /// Egress of the uplink.
        ToNet = 8 => "to_net",
        /// cgroup/connect6
        SockConnect6 = 9 => "sock_connect6",
        /// cgroup/recvmsg6
        SockRecvmsg6 = 10 => "sock_recvmsg6",
        /// cgroup/getpeername6
        SockGetpeername6 = 11 => "sock_getpeer6",
        /// cgroup/sendmsg6
        SockSendmsg6 = 12 => "sock_sendmsg6",
        /// The uplink's driver, before the stack.
        XdpLb = 13 => "xdp_lb",
    }
}

named_enum! {
    /// What is counted beside drops.
    pub enum Counter {
        /// connect() translated to a backend.
        SockConnect = 0 => "sock_connect_translated",
        /// Datagrams translated to a backend by sendmsg.
        SockSendmsg = 1 => "sock_sendmsg_translated",
        /// Sources translated back by recvmsg.
        SockRecvmsg = 2 => "sock_recvmsg_translated",
        /// Service connections that the packet path opened.
        ServiceOpened = 3 => "service_opened",
        /// Flows masqueraded.
        Masqueraded = 4 => "masqueraded",
        /// Collisions of tuples, solved with another source port.
        Collision = 5 => "tuple_collision",
        /// Flows where a Pod reached itself.
        Hairpin = 6 => "hairpin",
        /// DNS questions answered with an address.
        DnsAnswered = 7 => "dns_answered",
        /// DNS questions answered with "no data".
        DnsNoData = 8 => "dns_no_data",
        /// DNS questions left to the agent: no such name in the table.
        DnsPassedName = 9 => "dns_passed_unknown_name",
        /// DNS questions left to the agent: another type or class.
        DnsPassedType = 10 => "dns_passed_type",
        /// DNS messages left to the agent: a form the kernel does not answer (several questions, options, too long).
        DnsPassedForm = 11 => "dns_passed_form",
        /// ICMP errors translated back to their flow.
        IcmpErrorTranslated = 12 => "icmp_error_translated",
        /// Later fragments that found their ports.
        FragmentFollowed = 13 => "fragment_followed",
        /// A remembered backend was gone and another was chosen.
        BackendReplaced = 14 => "backend_replaced",
        /// ClientIP affinity led to the backend.
        AffinityHit = 15 => "affinity_hit",
        /// Connections left alone because their Pod opted out of the socket hooks.
        SockOptOut = 16 => "sock_opted_out",
        /// Flows written to `CONNTRACK`.
        ConntrackCreated = 17 => "conntrack_created",
        /// DNS questions answered with "no such name".
        DnsNoName = 18 => "dns_no_name",
        /// Later fragments that wait for their first.
        FragmentParked = 19 => "fragment_parked",
        /// Of these, the ones that their first has released.
        FragmentReleased = 20 => "fragment_released",
        /// Questions of neighbours for an announced address, answered.
        NeighbourAnswered = 21 => "neighbour_answered",
        /// Rows of `CONNTRACK` that were written where one was that had ended.
        ConntrackReplaced = 22 => "conntrack_rows_replaced",
        /// Rows of `CONNTRACK` that were given back when their flow ended.
        ConntrackFreed = 23 => "conntrack_rows_freed",
        /// Packets of NodePort and LoadBalancer flows sent on before the stack.
        XdpForwarded = 24 => "xdp_forwarded",
    }
}

abi_struct! {
    /// An event. Addresses are IPv6 or IPv4-mapped IPv6, in network byte order.
    pub struct FlowEvent: 152 {
        /// Nanoseconds of `CLOCK_MONOTONIC`.
        pub timestamp_ns: u64 = 0,
        /// Socket cookie, 0 if the packet's socket is not of this machine.
        pub cookie: u64 = 8,
        /// cgroup id of the process (socket hooks), else 0.
        pub cgroup_id: u64 = 16,
        /// Network namespace cookie of the socket (socket hooks), else 0.
        pub netns_cookie: u64 = 24,
        /// `Close`: packets the opener sent.
        pub packets: u64 = 32,
        /// `Close`: bytes the opener sent.
        pub bytes: u64 = 40,
        /// `Close`: packets it was sent.
        pub reply_packets: u64 = 48,
        /// `Close`: bytes it was sent.
        pub reply_bytes: u64 = 56,
        /// `Close`: nanoseconds since `Open`.
        pub duration_ns: u64 = 64,
        /// The side that opened the flow; unspecified (`::`) if a socket hook does not know it.
        pub src: [u8; 16] = 72,
        /// What it asked for (the VIP, if a Service is involved).
        pub dst: [u8; 16] = 88,
        /// What it reaches; equal to `dst` when nothing was translated.
        pub backend: [u8; 16] = 104,
        /// Port of `src`, 0 if unknown.
        pub src_port: Port = 120,
        /// Port of `dst`.
        pub dst_port: Port = 122,
        /// Port of `backend`.
        pub backend_port: Port = 124,
        /// [`EventKind`].
        pub kind: u8 = 126,
        /// [`Verdict`].
        pub verdict: u8 = 127,
        /// [`DropReason`].
        pub reason: u8 = 128,
        /// [`Hook`].
        pub hook: u8 = 129,
        /// IANA protocol number.
        pub proto: u8 = 130,
        /// Flags byte of the TCP header, 0 otherwise.
        pub tcp_flags: u8 = 131,
        /// [`crate::service::Service::id`], 0 for none.
        pub service_id: u32 = 132,
        /// [`crate::service::Backend::id`], 0 for none.
        pub backend_id: u32 = 136,
        /// Interface the packet was seen at, 0 for socket hooks.
        pub ifindex: u32 = 140,
        /// Process id (thread group, initial namespace) of socket hooks, else 0.
        pub pid: u32 = 144,
        /// Zero.
        pub reserved: u32 = 148,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_are_one_to_one() {
        for reason in DropReason::ALL {
            assert_eq!(DropReason::from_u8(*reason as u8), Some(*reason));
            assert_eq!(DropReason::ALL.iter().filter(|r| r.as_str() == reason.as_str()).count(), 1);
        }
        for counter in Counter::ALL {
            assert_eq!(Counter::from_u8(*counter as u8), Some(*counter));
            assert_eq!(Counter::ALL.iter().filter(|c| c.as_str() == counter.as_str()).count(), 1);
        }
        assert_eq!(Counter::SLOTS as usize, Counter::ALL.len());
        assert_eq!(DropReason::from_u8(255), None);
    }
}
