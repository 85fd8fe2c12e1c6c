//! The one border between the kernel half of Strake and everything else: every map key, map value and event.
//!
//! What it is for: `ebpf/programs` and the agent compile against the same `#[repr(C)]` types, so that a field cannot
//! mean two things. It holds no logic beyond conversions and knows neither Kubernetes, nor aya's loader, nor packets.
//!
//! Rules that every type here keeps, most of them checked by the compiler (see [`macros`]):
//!
//! * `#[repr(C)]`, no padding, size and offsets asserted; reserved fields are zero;
//! * addresses are [`Addr4`] and ports are [`Port`]: **network byte order, exactly as on the wire**, and only their
//!   constructors swap. Every other integer is in the host's order;
//! * a value that the kernel updates in place (conntrack) is never written by the agent, only deleted;
//! * a name of a map, a program, a reason or a counter exists once, here, and is also its metric label and CLI text.
//!
//! ```text
//!                    service::SERVICES  (addr, port, proto, scope) -> { slice, id, flags }
//!                                                     |
//!                    service::BACKENDS  [ ....|b0 b1 b2|..... ]   one contiguous slice a Service port
//!                                                     |
//!   sock hooks -----> sock::SOCK_FLOWS, SOCK_NAT      |       <----- conntrack::CONNTRACK --- from_pod, to_pod,
//!   (by socket cookie)                                |              (by wire tuple)           from_net, to_net
//!                                                     v
//!                    flow::EVENTS (ring buffer), flow::EVENTS_LOST, flow::DROPS, flow::COUNTERS
//! ```
//!
//! # IPv6
//!
//! Keys of IPv4 and IPv6 are in separate maps, as hot paths hash keys of different length: an [`Addr6`] where [`Addr4`]
//! stood (as a type parameter, where generic code reads both), `*Key6` with the same fields in the same order, and a second map ([`service::SERVICES_V6`],
//! [`sock::SOCK_NAT_V6`] ...). What is found by an index or by ids is shared: [`service::Backend`] has room for the long
//! address, so one array, one set of members and one numbering serve both. [`flow::FlowEvent`] has carried 128-bit
//! addresses since version 1 (IPv4 is mapped, `::ffff:a.b.c.d`).
//!
//! # Versions
//!
//! | version | what changed |
//! |---|---|
//! | 1 | the first |
//! | 2 | [`service::Backend`] has a long address; `*_V6` maps of the socket hooks |
//! | 3 | [`service::SOURCE_RANGES`], [`service::MAGLEV`] |
//! | 4 | IPv6 packets: [`conntrack::CONNTRACK_V6`] and others, IPv6 addresses in `CONFIG` and `ENDPOINTS` |
//! | 5 | [`conntrack::PARKED`]; [`conntrack::FragmentPorts`] has an age |
//! | 6 | [`announce::ANNOUNCED`] |
//! | 7 | one more counter, [`flow::Counter::XdpForwarded`] |
//! | 8 | `CONFIG` has the uplink's MTU where it had zero |

#![no_std]

pub mod addr;
pub mod announce;
pub mod config;
pub mod conntrack;
pub mod dns;
pub mod endpoint;
pub mod flow;
#[cfg(feature = "user")]
pub mod layout;
mod macros;
pub mod program;
pub mod service;
pub mod sock;

pub use addr::{Addr4, Addr6, Cidr4, Cidr6, Mac, Port};

/// Version of everything in this crate, for people: which of two agents is the later. What decides whether a pinned map is
/// used as it is, is how its rows look (`layout`); and a map that does not look so is made anew and its rows carried over,
/// by the names of fields. So a field is never given another meaning under its old name.
pub const ABI_VERSION: u32 = 8;

/// Transport protocols, as in the IPv4 header and at the end of IPv6's chain (IANA protocol numbers).
pub mod proto {
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = 132;
}
