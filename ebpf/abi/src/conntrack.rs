//! Connection tracking and every address translation of the packet path, in one map of each family.
//!
//! A flow has two rows, one a direction, each keyed by the tuple **as it is on the wire before translation** and
//! holding the tuple after it. They are each other's mirror:
//!
//! ```text
//!  original  { P:p -> VIP:v }  to { P:p -> B:b }        key of the peer row = mirror of `to`
//!  reply     { B:b -> P:p   }  to { VIP:v -> P:p }      `to` of the peer row = mirror of the key
//! ```
//!
//! Translation is undone at the border where it was done, so a key also holds the border:
//!
//! | border | original direction at | reply direction at | what |
//! |---|---|---|---|
//! | [`BORDER_POD`] | `from_pod` of the client | `to_pod` of the client | Service path, hairpin, identity (tracked only) |
//! | [`BORDER_NET`] | `from_net` | `to_net` | NodePort to a local backend |
//! | [`BORDER_NET`] | `from_net` | `from_net` | NodePort to a remote backend |
//! | [`BORDER_NET`] | `to_net` | `from_net` | masquerade |
//!
//! The reply row is inserted with `BPF_NOEXIST`: finding another flow's row there *is* the detection of a tuple
//! collision, and the same act allocates a port.

use crate::addr::{Addr4, Addr6, Port};
use crate::macros::{abi_struct, abi_struct_wide, named_enum};

/// LRU hash [`ConntrackKey`] -> [`Conntrack`].
pub const CONNTRACK: &str = "CONNTRACK";
/// The same of IPv6, with long addresses.
pub const CONNTRACK_V6: &str = "CONNTRACK_V6";
/// LRU hash [`FragmentKey`] -> [`FragmentPorts`]: ports of datagrams that arrive in pieces.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// LRU hash [`FragmentKey6`] -> [`FragmentPorts`].
pub const FRAGMENTS_V6: &str = "FRAGMENTS_V6";
/// LRU hash [`FragmentKey6`] (IPv4 mapped) -> `u32` (seconds of `CLOCK_MONOTONIC`): datagrams of which pieces are in [`PARKED`].
pub const AWAITED: &str = "FRAG_AWAITED";
/// LRU hash [`ParkedKey`] -> a frame: pieces that came before the first of their datagram, and wait for it. Of interest to
/// the programs only.
pub const PARKED: &str = "FRAG_PARKED";
/// Per-CPU memory for one frame.
pub const PARKED_SCRATCH: &str = "FRAG_SCRATCH";

/// [`ConntrackKey::border`]: the host side of a Pod's veth.
pub const BORDER_POD: u8 = 0;
/// [`ConntrackKey::border`]: the uplink.
pub const BORDER_NET: u8 = 1;

abi_struct_wide! {
    /// Source and destination of a packet. For ICMP and ICMPv6 echo the identifier is the port of the side that asks, and the
    /// other port is 0.
    pub struct Tuple: 12 / 36 {
        /// Source address.
        pub src: A = 0 / 0,
        /// Destination address.
        pub dst: A = 4 / 16,
        /// Source port.
        pub sport: Port = 8 / 32,
        /// Destination port.
        pub dport: Port = 10 / 34,
    }
}

/// The tuple of an IPv4 packet.
pub type Tuple4 = Tuple<Addr4>;
/// The tuple of an IPv6 packet.
pub type Tuple6 = Tuple<Addr6>;

impl<A: Copy> Tuple<A> {
    /// The tuple of an answer.
    #[inline(always)]
    pub const fn mirror(self) -> Self {
        Self { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport }
    }
}

abi_struct_wide! {
    /// A packet at a border.
    pub struct ConntrackKey: 16 / 40 {
        /// The tuple on the wire, before translation.
        pub tuple: Tuple<A> = 0 / 0,
        /// IANA protocol number.
        pub proto: u8 = 12 / 36,
        /// [`BORDER_POD`] or [`BORDER_NET`].
        pub border: u8 = 13 / 37,
        /// Zero.
        pub reserved: u16 = 14 / 38,
    }
}

/// [`Conntrack::direction`]: packets of the side that opened the flow.
pub const DIRECTION_ORIGINAL: u8 = 0;
/// [`Conntrack::direction`]: packets of the other side.
pub const DIRECTION_REPLY: u8 = 1;

/// `to` differs from the key.
pub const CT_TRANSLATED: u16 = 1 << 0;
/// The Pod talks to itself: the packet goes back into the veth it came from.
pub const CT_HAIRPIN: u16 = 1 << 1;
/// The packet leaves by the uplink it came in by (its new source is the node's own, which the stack does not forward).
pub const CT_REDIRECT: u16 = 1 << 2;
/// The flow was opened by a socket hook's choice; `service_id` comes from `SOCK_FLOWS`.
pub const CT_SOCKET: u16 = 1 << 3;
/// A FIN was seen from the original side (kept on the original row).
pub const CT_FIN_ORIGINAL: u16 = 1 << 4;
/// A FIN was seen from the reply side (kept on the original row).
pub const CT_FIN_REPLY: u16 = 1 << 5;
/// Source translation (masquerade, NodePort to a remote backend, re-ported collision).
pub const CT_SNAT: u16 = 1 << 6;

/// Another border tells the opening and closing of this flow.
pub const CT_QUIET: u16 = 1 << 7;

/// The packets go on inside others, as they came, to the node of `to.dst`, and the answers do not come back this way: the
/// flow has one row.
pub const CT_DSR: u16 = 1 << 8;

named_enum! {
    /// State of a flow (RFC 9293, for SCTP RFC 9260, seen from the middle). UDP and ICMP use `New` and `Established` only.
    pub enum FlowState {
        /// The first packet was seen.
        New = 0 => "new",
        /// Both sides were seen.
        Established = 1 => "established",
        /// One side has sent FIN, or SHUTDOWN.
        Closing = 2 => "closing",
        /// Both sides have, or one has reset or aborted. A SYN, or an INIT, starts anew.
        Closed = 3 => "closed",
    }
}

abi_struct_wide! {
    /// One direction of a flow. Updated in place by the programs; the agent only reads and deletes.
    pub struct Conntrack: 64 / 88 {
        /// The tuple after translation (equal to the key's when nothing is translated).
        pub to: Tuple<A> = 0 / 0,
        /// [`crate::service::Service::id`], 0 for none.
        pub service_id: u32 = 12 / 36,
        /// [`crate::service::Backend::id`], 0 for none.
        pub backend_id: u32 = 16 / 40,
        /// Seconds of `CLOCK_MONOTONIC` at the last packet of this direction.
        pub last_seen_s: u32 = 20 / 44,
        /// Packets of this direction (GSO super-packets count once).
        pub packets: u64 = 24 / 48,
        /// Bytes of this direction, Ethernet header included.
        pub bytes: u64 = 32 / 56,
        /// Nanoseconds of `CLOCK_MONOTONIC` at the first packet.
        pub created_ns: u64 = 40 / 64,
        /// `CT_*`.
        pub flags: u16 = 48 / 72,
        /// [`FlowState`], kept on both rows.
        pub state: u8 = 50 / 74,
        /// [`DIRECTION_ORIGINAL`] or [`DIRECTION_REPLY`].
        pub direction: u8 = 51 / 75,
        /// Interface of the Pod (border Pod) or uplink (border net) that the flow was opened at.
        pub ifindex: u32 = 52 / 76,
        /// Cookie of the client's socket if it is of this node, else 0.
        pub cookie: u64 = 56 / 80,
    }
}

abi_struct! {
    /// A fragmented datagram (RFC 791: source, destination, protocol, identification).
    pub struct FragmentKey: 12 {
        /// Source address.
        pub src: Addr4 = 0,
        /// Destination address.
        pub dst: Addr4 = 4,
        /// Identification, network byte order.
        pub id: u16 = 8,
        /// IANA protocol number.
        pub proto: u8 = 10,
        /// Border, as in [`ConntrackKey`].
        pub border: u8 = 11,
    }
}

abi_struct! {
    /// The same of IPv6 (RFC 8200, 4.5).
    pub struct FragmentKey6: 40 {
        /// Source address.
        pub src: Addr6 = 0,
        /// Destination address.
        pub dst: Addr6 = 16,
        /// Identification, network byte order.
        pub id: u32 = 32,
        /// IANA protocol number of what follows the extension headers.
        pub proto: u8 = 36,
        /// Border, as in [`ConntrackKey`].
        pub border: u8 = 37,
        /// Zero.
        pub reserved: u16 = 38,
    }
}

abi_struct! {
    /// A piece of a datagram.
    pub struct ParkedKey: 44 {
        /// Of which datagram, of either family: IPv4 is mapped.
        pub datagram: FragmentKey6 = 0,
        /// Offset in the datagram, in units of 8 bytes; never 0.
        pub offset: u16 = 40,
        /// Zero.
        pub reserved: u16 = 42,
    }
}

abi_struct! {
    /// Ports found in the first fragment.
    pub struct FragmentPorts: 8 {
        /// Source port.
        pub sport: Port = 0,
        /// Destination port.
        pub dport: Port = 2,
        /// Seconds of `CLOCK_MONOTONIC` at which it came.
        pub since_s: u32 = 4,
    }
}
