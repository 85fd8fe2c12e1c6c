//! Direct server return: the node that a client's packet comes to sends it, whole, inside another one to the node of the
//! backend, which answers the client itself.
//!
//! ```text
//!  client C ──► [from_net of A] known or chosen: in an IP packet A -> Pod ──► [from_net of B] taken out, C -> Pod
//!     ▲                                                                                          │
//!     └───────────────────────────────── VIP -> C ◄──────────────────────── [to_net of B] ◄── Pod
//! ```
//!
//! A keeps one row, of the client's direction; B keeps both. What port of the Pod is meant, the outer header carries, and B
//! reads when the flow opens, so nothing is sent beside the packet. B takes out only what a node sent to a Pod that is its
//! own, for a Service that it knows; what anybody else sends to a Pod in this form is that Pod's, as it is.

use aya_ebpf::bindings::{
    BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_ADJ_ROOM_FIXED_GSO, bpf_adj_room_mode,
};
use aya_ebpf::helpers::generated::bpf_skb_adjust_room;
use strake_abi::config::{Config, DSR, HANDOVER};
use strake_abi::conntrack::Tuple;
use strake_abi::flow::{Counter, DropReason, Hook, Verdict};
use strake_abi::service::{BACKEND_LOCAL, SCOPE_EXTERNAL, SERVICE_DSR, Service};
use strake_abi::{Addr4, Addr6, Port};
use strake_logic::packet::{ETH_LEN, Fragment, IPV4_LEN};
use strake_logic::{flow, ipv6, packet, reply, tunnel};

use crate::maps;
use crate::report::{self, count};
use crate::service::{self, Target};
use crate::skb::{Action, DROP, PASS, Packet, Skb, out_of, out_to_neighbour, refusal, settle};
use crate::translate::apply;
use crate::wire::Wire;
use crate::work::Work;
use crate::{outside, track};

/// What an outer header of a family is.
pub trait Outer: Copy + PartialEq {
    /// The front of a packet that is built in place.
    type Frame: 'static;
    /// Ethernet and the fixed part of the header.
    type Head: Copy + 'static;
    const PROTO: u8;
    const LEN: u32;
    const GROW: u32;
    const UNSPECIFIED: Self;
    /// Writes it at the beginning of `out`.
    fn build(out: &mut Self::Frame, src: &Self, to: &Tuple<Self>, inner_len: u32) -> bool;
    /// The port that it says.
    fn carried(head: &Self::Head) -> Port;
    fn store(skb: Skb, outer: &Self::Frame) -> Result<(), DropReason>;
    /// See [`tunnel::too_big4`].
    fn too_big(out: &mut Self::Frame, mtu: u16);
}

impl Outer for Addr4 {
    type Frame = reply::Frame;
    type Head = packet::Head;
    const PROTO: u8 = tunnel::IPIP;
    const LEN: u32 = IPV4_LEN as u32;
    const GROW: u32 = BPF_F_ADJ_ROOM_ENCAP_L3_IPV4;
    const UNSPECIFIED: Self = Self::ANY;

    #[inline(always)]
    fn build(out: &mut Self::Frame, src: &Self, to: &Tuple<Self>, inner_len: u32) -> bool {
        tunnel::outer4(out, *src, to.dst, to.dport, inner_len)
    }

    #[inline(always)]
    fn carried(head: &Self::Head) -> Port {
        tunnel::carried4(head)
    }

    #[inline(always)]
    fn store(skb: Skb, outer: &Self::Frame) -> Result<(), DropReason> {
        skb.store_first::<IPV4_LEN, _>(ETH_LEN, outer)
    }

    #[inline(always)]
    fn too_big(out: &mut Self::Frame, mtu: u16) {
        tunnel::too_big4(out, mtu);
    }
}

impl Outer for Addr6 {
    type Frame = ipv6::reply::Frame;
    type Head = ipv6::Head;
    const PROTO: u8 = tunnel::IP6IP6;
    const LEN: u32 = tunnel::IPV6_LEN as u32;
    const GROW: u32 = BPF_F_ADJ_ROOM_ENCAP_L3_IPV6;
    const UNSPECIFIED: Self = Self::ANY;

    #[inline(always)]
    fn build(out: &mut Self::Frame, src: &Self, to: &Tuple<Self>, inner_len: u32) -> bool {
        tunnel::outer6(out, src, &to.dst, to.dport, inner_len)
    }

    #[inline(always)]
    fn carried(head: &Self::Head) -> Port {
        tunnel::carried6(head)
    }

    #[inline(always)]
    fn store(skb: Skb, outer: &Self::Frame) -> Result<(), DropReason> {
        skb.store_first::<{ tunnel::IPV6_LEN }, _>(ETH_LEN, outer)
    }

    #[inline(always)]
    fn too_big(out: &mut Self::Frame, mtu: u16) {
        tunnel::too_big6(out, mtu);
    }
}

/// Whether a flow to this backend, which is on another node, goes there so: a Pod, which B will find, and a client that B
/// cannot be itself.
#[inline(always)]
pub fn serves<A: Wire>(config: &Config, service: &Service, backend: &Target<A>, client: &A) -> bool {
    service.flags & SERVICE_DSR != 0
        && A::is_in_cluster(config, backend.addr)
        && !A::is_in_cluster(config, *client)
        && !A::is_node(client)
}

/// Sends a packet on, as it is, to the node of the Pod that `to` names.
#[inline(never)]
pub fn encapsulate<A: Wire>(
    skb: Skb,
    config: &Config,
    packet: &Packet<A>,
    frame: &mut A::Frame,
    to: &Tuple<A>,
) -> Action {
    let inner_len = (packet.ip.l4 - ETH_LEN) as u32 + u32::from(packet.ip.l4_len);
    let mtu = config.uplink_mtu;
    // The kernel makes the segments of a packet that it put together from several smaller by the header.
    if mtu > A::LEN && inner_len + A::LEN > mtu && !skb.is_gso() {
        return refusal(DropReason::PacketTooBig);
    }
    settle(wrapped(skb, config, packet, frame, to, inner_len))
}

#[inline(always)]
fn wrapped<A: Wire>(
    skb: Skb,
    config: &Config,
    packet: &Packet<A>,
    frame: &mut A::Frame,
    to: &Tuple<A>,
    inner_len: u32,
) -> Result<Action, DropReason> {
    let Some(node) = A::node(config) else { return Err(DropReason::NotConfigured) };
    if !A::build(frame, &node, to, inner_len) {
        return Err(DropReason::PacketTooBig);
    }
    A::decrement_hops(skb, &packet.ip)?;
    resize(skb, A::LEN as i32, A::GROW)?;
    A::store(skb, frame)?;
    Ok(out_to_neighbour(skb.ifindex()))
}

/// Bytes more, or less, between Ethernet and IP.
#[inline(always)]
fn resize(skb: Skb, difference: i32, flags: u32) -> Result<(), DropReason> {
    // SAFETY: no pointer into the frame is kept anywhere.
    let ret = unsafe { bpf_skb_adjust_room(skb.0, difference, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC, u64::from(flags)) };
    if ret == 0 { Ok(()) } else { Err(DropReason::RewriteFailed) }
}

/// Tells the sender what fits, if that is the refusal that `action` is. Where a packet does not fit the stack would not
/// suffice for it.
#[inline(always)]
pub fn told_what_fits<A: Wire>(skb: Skb, action: Action) -> Action {
    if action.refusal() == Some(DropReason::PacketTooBig as u8) { too_big::<A>(skb) } else { action }
}

#[inline(never)]
fn too_big<A: Wire>(skb: Skb) -> Action {
    let (Some(config), Some(work)) = (maps::config(), A::work()) else { return DROP };
    let Work { packet, frame, .. } = work;
    let mtu = config.uplink_mtu.saturating_sub(A::LEN);
    let built = match skb.load::<[u8; 8]>(packet.ip.l4) {
        Some(quoted) => A::unreachable(frame, &packet.head, &packet.ip, &quoted, None),
        None => false,
    };
    let verdict = if built { Verdict::Rejected } else { Verdict::Dropped };
    report::refused_as_read(skb, packet, Hook::FromNet, DropReason::PacketTooBig as u8, verdict);
    if !built {
        return DROP;
    }
    A::too_big(frame, mtu.min(0xffff) as u16);
    if skb.resize(A::UNREACHABLE_LEN).and_then(|()| A::store_unreachable(skb, frame)).is_err() {
        return DROP;
    }
    out_of(skb.ifindex())
}

/// Whether the packet is one that another node sent so.
#[inline(always)]
pub fn is_wrapped<A: Wire>(config: &Config, packet: &Packet<A>) -> bool {
    config.flags & DSR != 0
        && packet.ip.proto == A::PROTO
        && packet.ip.fragment == Fragment::No
        && packet.ip.l4 == ETH_LEN + A::LEN as usize
        && A::is_node(&packet.ip.src)
        && (A::pod_at(&packet.ip.dst).is_some() || A::is_own_pod(config, packet.ip.dst))
}

/// Takes the client's packet out, and notes what Pod, and which port of it, the asked node chose.
#[inline(never)]
pub fn unwrap<A: Wire>(skb: Skb, work: &mut Work<A>) -> bool {
    let Work { packet, chosen, .. } = work;
    chosen.addr = packet.ip.dst;
    chosen.port = A::carried(&packet.head);
    chosen.flags = BACKEND_LOCAL;
    chosen.id = 0;
    resize(skb, -(A::LEN as i32), BPF_F_ADJ_ROOM_FIXED_GSO).is_ok() && packet.read_headers(skb)
}

/// Opens the flow of a packet that was taken out, as that of a backend here.
#[inline(never)]
pub fn open<A: Wire>(skb: Skb, work: &mut Work<A>, config: &Config) -> Action {
    settle(opened(skb, work, config))
}

#[inline(always)]
fn opened<A: Wire>(skb: Skb, work: &mut Work<A>, config: &Config) -> Result<Action, DropReason> {
    // The middle of a connection that is not known any more, and a header that others may have counted up; or the programs
    // behind know it, and would not know the packet.
    let protocol = work.packet.ip.proto;
    if config.flags & HANDOVER != 0 || flow::says_when(protocol) && !flow::is_open(work.packet.tcp_flags) {
        return Err(DropReason::TunnelUnknown);
    }
    let Some(service) = frontend(work, config) else { return Err(DropReason::TunnelUnknown) };
    if !service::admits(service, work.packet.tuple.src) {
        return Err(DropReason::SourceNotInRanges);
    }
    // Which of the Service's it is, the asked node knows.
    let backend = work.chosen;
    outside::lead(work, config, service, &backend, skb.ifindex())?;
    track::open(config, work)?;
    count(Counter::ServiceOpened);
    report::opened(Hook::FromNet, work.packet.ip.proto, &work.new.key.tuple, &work.new.row);
    apply(skb, &work.packet, &work.new.row.to)?;
    Ok(PASS)
}

/// The Service that the client asked for: a NodePort of the other node is one of every node.
#[inline(always)]
fn frontend<A: Wire>(work: &mut Work<A>, config: &Config) -> Option<&'static Service> {
    let Work { packet, new, .. } = work;
    let to = &mut new.row.to;
    *to = packet.tuple;
    if let Some(service) = A::service_at(config, to, packet.ip.proto, SCOPE_EXTERNAL) {
        return Some(service);
    }
    if !A::is_node(&to.dst) {
        return None;
    }
    to.dst = A::UNSPECIFIED;
    A::service_at(config, to, packet.ip.proto, SCOPE_EXTERNAL)
}
