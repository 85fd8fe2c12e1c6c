//! Ingress of the host side of each Pod's veth: everything that a Pod sends.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use strake_abi::config::{Config, DIRECT, HANDOVER, TRACK_ALL};
use strake_abi::conntrack::{BORDER_POD, CT_HAIRPIN, CT_SOCKET, CT_TRANSLATED, DIRECTION_REPLY, Tuple};
use strake_abi::endpoint::{ENDPOINT_NO_SOCKET, Endpoint};
use strake_abi::flow::{Counter, DropReason, Hook};
use strake_abi::service::{SCOPE_INTERNAL, SERVICE_DROP_IF_EMPTY, Service};
use strake_abi::{Addr4, Addr6, proto};
use strake_logic::packet::{self, Fragment, ethertype};
use strake_logic::{arp, flow};

use crate::family::End;
use crate::maps::{self, ENDPOINTS, get};
use crate::refuse::code_or_refuse;
use crate::report::{self, count, now_ns, seconds};
use crate::service::Target;
use crate::skb::{Action, DROP, Kind, NEXT, PASS, Packet, Skb, code, into_pod, refusal, settle};
use crate::translate::{apply, carry, turn_ethernet};
use crate::wire::Wire;
use crate::work::Work;
use crate::{park, service, track};

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    if skb.is_seen(Hook::FromPod) {
        return code::<Addr4>(skb, Hook::FromPod, NEXT);
    }
    if skb.is_ipv6() {
        return six(skb);
    }
    code_or_refuse::<Addr4>(skb, Hook::FromPod, settle(run::<Addr4>(skb)))
}

#[inline(never)]
fn six(skb: Skb) -> i32 {
    code_or_refuse::<Addr6>(skb, Hook::FromPod, settle(run::<Addr6>(skb)))
}

#[inline(always)]
fn run<A: Wire>(skb: Skb) -> Result<Action, DropReason> {
    let config = maps::config().ok_or(DropReason::NotConfigured)?;
    let endpoint = get!(ENDPOINTS, &skb.ifindex()).ok_or(DropReason::UnknownEndpoint)?;
    let work = A::work().ok_or(DropReason::NotConfigured)?;
    let packet = &mut work.packet;
    if !packet.read_head(skb) {
        return Err(DropReason::Malformed);
    }
    if packet::source_mac(A::ethernet(&packet.head)) != endpoint.mac {
        return Err(DropReason::SpoofedMac);
    }
    match packet.ether_type() {
        kind if kind == A::ETHERTYPE => {}
        ethertype::ARP => return Ok(arp(skb, endpoint)),
        _ => return Err(DropReason::UnsupportedProtocol),
    }
    packet.read_ip(skb)?;
    if !A::admit(skb, endpoint, &packet.ip)? {
        return Ok(PASS);
    }
    packet.read(skb, BORDER_POD)?;
    if packet.kind == Kind::Lost && park::hold(skb, packet, BORDER_POD) {
        return Ok(DROP);
    }
    if packet.ip.fragment == Fragment::First && !park::release(skb, packet, BORDER_POD) {
        return Err(DropReason::RewriteFailed);
    }
    if let Some(action) = A::dns(skb, config, work) {
        return Ok(action);
    }
    match work.packet.kind {
        Kind::Flow => {}
        Kind::IcmpError => return Ok(A::icmp_error(skb, Hook::FromPod, BORDER_POD, work)),
        Kind::Lost if A::is_cluster_ip(config, work.packet.ip.dst) => return Err(DropReason::FragmentUnknown),
        Kind::Lost | Kind::Other => return Ok(PASS),
    }

    let Work { packet, new, .. } = &mut *work;
    packet.now_ns = now_ns();
    let now_s = seconds(packet.now_ns);
    packet.put_key(&mut new.key, BORDER_POD);
    let key = &new.key;
    let Some(row) = track::find(key) else { return Ok(open(skb, work, endpoint, config)) };
    let opener = if row.direction == DIRECTION_REPLY && row.flags & CT_HAIRPIN == 0 {
        if config.flags & DIRECT == 0 {
            return Ok(PASS);
        }
        // An answer of this Pod in a flow that another Pod of this node opened: what `to_pod` of that one would do is done
        // here, as the packet will not pass it. The address may have gone to another Pod, or none: then the routing
        // knows better.
        let opener = get!(ENDPOINTS, &row.ifindex).filter(|opener| A::is_of(opener, packet.ip.dst));
        if opener.is_none() {
            return Ok(PASS);
        }
        opener
    } else if track::is_live(config, key, row, packet.tcp_flags, now_s)
        && !is_orphan(packet, row.flags, row.service_id, row.backend_id)
    {
        None
    } else {
        return Ok(open(skb, work, endpoint, config));
    };
    // See `carry`: what is not translated may not be looked at afterwards.
    let (flags, ifindex) = (row.flags, row.ifindex);
    carry(Hook::FromPod, skb, key, row, packet, now_s)?;
    if let Some(opener) = opener {
        return enter(skb, opener, ifindex);
    }
    let to = if flags & CT_TRANSLATED != 0 { &row.to } else { &packet.tuple };
    send(skb, config, packet, to, flags)
}

/// Straight into the Pod of this node that has the address: past the routing of the node, the queue of the veth, and
/// `to_pod`. What is for anybody else is left to the routing. No hop is counted: both ends are on one link, so to say.
#[inline(never)]
fn deliver<A: Wire>(skb: Skb, config: &Config, dst: &A) -> Action {
    if config.flags & DIRECT == 0 {
        return PASS;
    }
    let Some(ifindex) = A::pod_at(dst) else { return PASS };
    let Some(endpoint) = get!(ENDPOINTS, &ifindex) else { return PASS };
    settle(enter(skb, endpoint, ifindex))
}

#[inline(always)]
fn enter(skb: Skb, endpoint: &Endpoint, ifindex: u32) -> Result<Action, DropReason> {
    skb.store(0, &[endpoint.mac, endpoint.host_mac])?;
    Ok(into_pod(ifindex))
}

#[inline(never)]
fn arp(skb: Skb, endpoint: &Endpoint) -> Action {
    settle(match skb.load(packet::ETH_LEN) {
        Some(arp) if arp::is_sane(&arp, &endpoint.mac, endpoint.ip) => Ok(PASS),
        Some(_) => Err(DropReason::SpoofedArp),
        None => Err(DropReason::Malformed),
    })
}

/// Whether a UDP flow, or an SCTP association that is begun anew from the same port, leads to a backend that is gone: it
/// must not stay pinned to it.
#[inline(always)]
fn is_orphan<A: Wire>(packet: &Packet<A>, flags: u16, service_id: u32, backend_id: u32) -> bool {
    let protocol = packet.ip.proto;
    let asks = protocol == proto::UDP || protocol == proto::SCTP && flow::is_open(packet.tcp_flags);
    if !asks || service_id == 0 || flags & CT_SOCKET != 0 {
        return false;
    }
    let gone = service::is_member(service_id, backend_id).is_none();
    if gone {
        count(Counter::BackendReplaced);
    }
    gone
}

#[inline(always)]
fn forward<A: Wire>(
    skb: Skb,
    config: &Config,
    packet: &Packet<A>,
    to: &Tuple<A>,
    flags: u16,
) -> Result<Action, DropReason> {
    apply(skb, packet, to)?;
    send(skb, config, packet, to, flags)
}

/// On its way, now that it carries `to`.
#[inline(always)]
fn send<A: Wire>(
    skb: Skb,
    config: &Config,
    packet: &Packet<A>,
    to: &Tuple<A>,
    flags: u16,
) -> Result<Action, DropReason> {
    if flags & CT_HAIRPIN != 0 {
        turn_ethernet(skb, A::ethernet(&packet.head))?;
        return Ok(into_pod(skb.ifindex()));
    }
    Ok(deliver(skb, config, &to.dst))
}

/// The first packet of a flow, or one that no row speaks for.
#[inline(never)]
fn open<A: Wire>(skb: Skb, work: &mut Work<A>, endpoint: &Endpoint, config: &Config) -> Action {
    // Of a flow that the programs behind have opened, or will.
    if config.flags & HANDOVER != 0 {
        return NEXT;
    }
    let protocol = work.packet.ip.proto;
    if protocol != A::ICMP
        && let Some(service) = A::service_at(config, &work.packet.tuple, protocol, SCOPE_INTERNAL)
    {
        return open_service(skb, work, service, config);
    }
    if let Some(reason) = A::unknown_port(config, &work.packet.tuple.dst) {
        return match reason {
            DropReason::NoServicePort if protocol != A::ICMP => refusal(DropReason::NoServicePort),
            reason => settle(Err(reason)),
        };
    }
    let opted_out = endpoint.flags & ENDPOINT_NO_SOCKET != 0;
    let wanted = match protocol {
        proto::TCP => flow::is_open(work.packet.tcp_flags) && (opted_out || config.flags & TRACK_ALL != 0),
        // No socket hook sees SCTP: what is direct and what goes by a Service meet here.
        proto::SCTP => flow::is_open(work.packet.tcp_flags),
        proto::UDP => opted_out,
        _ => false,
    };
    if wanted && work.packet.ip.fragment != Fragment::Later {
        return settle(open_direct(skb, work, config));
    }
    deliver(skb, config, &work.packet.tuple.dst)
}

/// A flow that is not to be translated here. It is written down so that a Service's flow with the same ends is seen to
/// collide with it, and because the socket may have used a Service that the packet does not show any more.
#[inline(always)]
fn open_direct<A: Wire>(skb: Skb, work: &mut Work<A>, config: &Config) -> Result<Action, DropReason> {
    track::begin(work, skb.ifindex(), BORDER_POD);
    let row = &mut work.new.row;
    row.cookie = skb.cookie();
    let mut asked = row.to;
    if let Some((vip, ids)) = A::chosen(row.cookie, End { addr: asked.dst, port: asked.dport }) {
        row.flags |= CT_SOCKET;
        row.service_id = ids.service;
        row.backend_id = ids.backend;
        asked.dst = vip.addr;
        asked.dport = vip.port;
    }
    track::open(config, work)?;
    report::opened(Hook::FromPod, work.packet.ip.proto, &asked, &work.new.row);
    if work.new.row.flags & CT_TRANSLATED != 0 {
        apply(skb, &work.packet, &work.new.row.to)?;
    }
    Ok(deliver(skb, config, &work.packet.ip.dst))
}

#[inline(never)]
fn open_service<A: Wire>(skb: Skb, work: &mut Work<A>, service: &Service, config: &Config) -> Action {
    if work.packet.ip.fragment == Fragment::Later {
        return settle(Err(DropReason::FragmentUnknown));
    }
    let src = &work.packet.tuple.src;
    if !service::admits(service, *src) {
        return settle(Err(DropReason::SourceNotInRanges));
    }
    let backend: Option<Target<A>> = if service.backend_count == 0 {
        None
    } else {
        service::choose(service, A::pod_client(skb, *src), seconds(work.packet.now_ns))
    };
    let Some(backend) = backend else {
        if service.flags & SERVICE_DROP_IF_EMPTY != 0 {
            return settle(Err(DropReason::NoEndpoints));
        }
        return refusal(DropReason::NoEndpoints);
    };
    track::begin(work, skb.ifindex(), BORDER_POD);
    let row = &mut work.new.row;
    row.to.dst = backend.addr;
    row.to.dport = backend.port;
    row.cookie = skb.cookie();
    row.service_id = service.id;
    row.backend_id = backend.id;
    if row.to.dst == row.to.src {
        // From a global address, Linux' SCTP answers no link-local one (`sctp_v6_get_dst`), as the gateway's is in IPv6.
        let node = if work.packet.ip.proto == proto::SCTP { A::node(config) } else { None };
        row.to.src = node.unwrap_or(A::gateway(config));
        row.flags = CT_HAIRPIN;
        count(Counter::Hairpin);
    }
    settle(opened(skb, work, config))
}

#[inline(always)]
fn opened<A: Wire>(skb: Skb, work: &mut Work<A>, config: &Config) -> Result<Action, DropReason> {
    track::open(config, work)?;
    count(Counter::ServiceOpened);
    report::opened(Hook::FromPod, work.packet.ip.proto, &work.new.key.tuple, &work.new.row);
    forward(skb, config, &work.packet, &work.new.row.to, work.new.row.flags)
}
