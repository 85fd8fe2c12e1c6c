//! Ingress of the host side of each Pod's veth: everything that a Pod sends.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use strake_abi::config::{Config, DIRECT, DNS, TRACK_ALL};
use strake_abi::conntrack::{
    BORDER_POD, CT_HAIRPIN, CT_SOCKET, CT_TRANSLATED, Conntrack, ConntrackKey, DIRECTION_REPLY, Tuple4,
};
use strake_abi::endpoint::{ENDPOINT_NO_SOCKET, Endpoint};
use strake_abi::flow::{Counter, DropReason, Hook};
use strake_abi::service::{SCOPE_INTERNAL, SERVICE_DROP_IF_EMPTY, Service};
use strake_abi::{Addr4, Port, proto};
use strake_logic::packet::{self, Fragment, ethertype};
use strake_logic::{arp, flow};

use crate::maps::{self, ENDPOINTS, ENDPOINTS_BY_IP, SOCK_FLOWS, get};
use crate::refuse::code_or_refuse;
use crate::report::{self, count, now_ns, seconds};
use crate::skb::{Action, Kind, PASS, Packet, Skb, into_pod, refusal, settle};
use crate::translate::{apply, carry, turn_ethernet};
use crate::work::{Work, work};
use crate::{dns, icmp, service, track};

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    code_or_refuse(skb, Hook::FromPod, settle(run(skb)))
}

#[inline(always)]
fn run(skb: Skb) -> Result<Action, DropReason> {
    let config = maps::config().ok_or(DropReason::NotConfigured)?;
    let endpoint = get!(ENDPOINTS, &skb.ifindex()).ok_or(DropReason::UnknownEndpoint)?;
    let work = work().ok_or(DropReason::NotConfigured)?;
    let packet = &mut work.packet;
    if !packet.read_head(skb) {
        return Err(DropReason::Malformed);
    }
    if packet::source_mac(&packet.head) != endpoint.mac {
        return Err(DropReason::SpoofedMac);
    }
    match packet::ether_type(&packet.head) {
        ethertype::IPV4 => {}
        ethertype::ARP => return Ok(arp(skb, endpoint)),
        _ => return Err(DropReason::UnsupportedProtocol),
    }
    if !packet.read_ip() {
        return Err(DropReason::Malformed);
    }
    if packet.ip.src != endpoint.ip {
        return Err(DropReason::SpoofedIp);
    }
    packet.read(skb, BORDER_POD)?;
    if packet.ip.dst == config.cluster_dns {
        let question = packet.ip.proto == proto::UDP && packet.tuple.dport == Port::new(53);
        let question = question && packet.kind == Kind::Flow && config.flags & DNS != 0;
        return Ok(if question { dns::answer(skb, work) } else { PASS });
    }
    match packet.kind {
        Kind::Flow => {}
        Kind::IcmpError => return Ok(icmp::translate(skb, Hook::FromPod, BORDER_POD, work)),
        Kind::Lost if config.service_cidr.contains(packet.ip.dst) => return Err(DropReason::FragmentUnknown),
        Kind::Lost | Kind::Other => return Ok(PASS),
    }

    let now = now_ns();
    let now_s = seconds(now);
    let key = packet.key(BORDER_POD);
    if let Some(row) = track::find(&key) {
        if row.direction == DIRECTION_REPLY && row.flags & CT_HAIRPIN == 0 {
            if config.flags & DIRECT == 0 {
                return Ok(PASS);
            }
            return answer(skb, &key, row, packet, now_s);
        }
        if track::is_live(config, &key, row, packet.tcp_flags, now_s)
            && !is_orphan(packet.ip.proto, row.flags, row.service_id, row.backend_id)
        {
            track::touch(Hook::FromPod, &key, row, packet, now_s);
            if row.flags & CT_TRANSLATED == 0 {
                return Ok(deliver(skb, config, packet.ip.dst));
            }
            let (to, flags) = (row.to, row.flags);
            return forward(skb, config, packet, &to, flags);
        }
    }
    Ok(open(skb, work, endpoint, config, now))
}

/// An answer of this Pod in a flow that another Pod of this node opened: what `to_pod` of that one would do, as the
/// packet will not pass it.
#[inline(always)]
fn answer(
    skb: Skb,
    key: &ConntrackKey,
    row: &mut Conntrack,
    packet: &Packet,
    now_s: u32,
) -> Result<Action, DropReason> {
    let ifindex = row.ifindex;
    // The address may have gone to another Pod, or none: then the routing knows better.
    let Some(opener) = get!(ENDPOINTS, &ifindex).filter(|opener| opener.ip == packet.ip.dst) else { return Ok(PASS) };
    carry(Hook::FromPod, skb, key, row, packet, now_s)?;
    enter(skb, opener, ifindex)
}

/// Straight into the Pod of this node that has the address: past the routing of the node, the queue of the veth, and
/// `to_pod`. What is for anybody else is left to the routing. No hop is counted: both ends are on one link, so to say.
#[inline(never)]
fn deliver(skb: Skb, config: &Config, dst: Addr4) -> Action {
    if config.flags & DIRECT == 0 {
        return PASS;
    }
    let Some(ifindex) = get!(ENDPOINTS_BY_IP, &dst) else { return PASS };
    let Some(endpoint) = get!(ENDPOINTS, ifindex) else { return PASS };
    settle(enter(skb, endpoint, *ifindex))
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

/// Whether a UDP flow leads to a backend that is gone: it must not stay pinned to it.
#[inline(always)]
fn is_orphan(protocol: u8, flags: u16, service_id: u32, backend_id: u32) -> bool {
    if protocol != proto::UDP || service_id == 0 || flags & CT_SOCKET != 0 {
        return false;
    }
    let gone = service::is_member(service_id, backend_id).is_none();
    if gone {
        count(Counter::BackendReplaced);
    }
    gone
}

#[inline(always)]
fn forward(skb: Skb, config: &Config, packet: &Packet, to: &Tuple4, flags: u16) -> Result<Action, DropReason> {
    apply(skb, packet, to)?;
    if flags & CT_HAIRPIN != 0 {
        turn_ethernet(skb, &packet.head)?;
        return Ok(into_pod(skb.ifindex()));
    }
    Ok(deliver(skb, config, to.dst))
}

/// The first packet of a flow, or one that no row speaks for.
#[inline(never)]
fn open(skb: Skb, work: &mut Work, endpoint: &Endpoint, config: &Config, now: u64) -> Action {
    let (dst, dport, protocol) = (work.packet.tuple.dst, work.packet.tuple.dport, work.packet.ip.proto);
    if protocol != proto::ICMP
        && let Some(service) = service::find(config, dst, dport, protocol, SCOPE_INTERNAL)
    {
        return open_service(skb, work, service, config, now);
    }
    if config.service_cidr.contains(dst) {
        return match service::unknown_port(dst) {
            DropReason::NoServicePort if protocol != proto::ICMP => refusal(DropReason::NoServicePort),
            reason => settle(Err(reason)),
        };
    }
    let opted_out = endpoint.flags & ENDPOINT_NO_SOCKET != 0;
    let wanted = match protocol {
        proto::TCP => flow::is_open(work.packet.tcp_flags) && (opted_out || config.flags & TRACK_ALL != 0),
        proto::UDP => opted_out,
        _ => false,
    };
    if wanted && work.packet.ip.fragment != Fragment::Later {
        return settle(open_direct(skb, work, config, now));
    }
    deliver(skb, config, dst)
}

/// A flow that is not to be translated here. It is written down so that a Service's flow with the same ends is seen to
/// collide with it, and because the socket may have used a Service that the packet does not show any more.
#[inline(always)]
fn open_direct(skb: Skb, work: &mut Work, config: &Config, now: u64) -> Result<Action, DropReason> {
    let mut asked = work.packet.tuple;
    track::begin(work, skb, BORDER_POD, asked, now);
    let row = &mut work.new.row;
    row.cookie = skb.cookie();
    if let Some(sock) = get!(SOCK_FLOWS, &row.cookie)
        && sock.backend == asked.dst
        && sock.backend_port == asked.dport
    {
        row.flags |= CT_SOCKET;
        row.service_id = sock.service_id;
        row.backend_id = sock.backend_id;
        asked.dst = sock.vip;
        asked.dport = sock.vip_port;
    }
    track::open(config, work)?;
    report::opened(Hook::FromPod, work.packet.ip.proto, &asked, &work.new.row);
    if work.new.row.flags & CT_TRANSLATED != 0 {
        apply(skb, &work.packet, &work.new.row.to)?;
    }
    Ok(deliver(skb, config, work.packet.ip.dst))
}

#[inline(never)]
fn open_service(skb: Skb, work: &mut Work, service: &Service, config: &Config, now: u64) -> Action {
    if work.packet.ip.fragment == Fragment::Later {
        return settle(Err(DropReason::FragmentUnknown));
    }
    let tuple = work.packet.tuple;
    if !service::admits(service, tuple.src) {
        return settle(Err(DropReason::SourceNotInRanges));
    }
    let backend = if service.backend_count == 0 { None } else { service::choose(service, tuple.src, seconds(now)) };
    let Some(backend) = backend else {
        if service.flags & SERVICE_DROP_IF_EMPTY != 0 {
            return settle(Err(DropReason::NoEndpoints));
        }
        return refusal(DropReason::NoEndpoints);
    };
    let mut to = Tuple4 { dst: backend.addr, dport: backend.port, ..tuple };
    let hairpin = backend.addr == tuple.src;
    if hairpin {
        to.src = config.pod_gateway;
        count(Counter::Hairpin);
    }
    track::begin(work, skb, BORDER_POD, to, now);
    let row = &mut work.new.row;
    row.cookie = skb.cookie();
    row.service_id = service.id;
    row.backend_id = backend.id;
    row.flags = if hairpin { CT_HAIRPIN } else { 0 };
    settle(opened(skb, work, config))
}

#[inline(always)]
fn opened(skb: Skb, work: &mut Work, config: &Config) -> Result<Action, DropReason> {
    track::open(config, work)?;
    count(Counter::ServiceOpened);
    report::opened(Hook::FromPod, work.packet.ip.proto, &work.new.key.tuple, &work.new.row);
    forward(skb, config, &work.packet, &work.new.row.to, work.new.row.flags)
}
