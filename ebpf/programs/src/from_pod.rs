//! Ingress of the host side of each Pod's veth: everything that a Pod sends.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use strake_abi::config::{Config, DNS, TRACK_ALL};
use strake_abi::conntrack::{BORDER_POD, CT_HAIRPIN, CT_SOCKET, CT_TRANSLATED, DIRECTION_REPLY, Tuple4};
use strake_abi::endpoint::{ENDPOINT_NO_SOCKET, Endpoint};
use strake_abi::flow::{Counter, DropReason, Hook};
use strake_abi::service::{SCOPE_INTERNAL, SERVICE_DROP_IF_EMPTY, Service};
use strake_abi::{Port, proto};
use strake_logic::packet::{self, Fragment, HEAD_LEN, ethertype};
use strake_logic::{arp, flow};

use crate::maps::{self, ENDPOINTS, SOCK_FLOWS, get};
use crate::refuse::refuse;
use crate::report::{self, count, dropped, now_ns, seconds};
use crate::skb::{Kind, PASS, Packet, Skb, into_pod};
use crate::track::{self, New};
use crate::translate::{apply, turn_ethernet};
use crate::{dns, icmp, service};

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    match run(skb) {
        Ok(action) => action,
        Err(reason) => dropped(skb, Hook::FromPod, reason),
    }
}

#[inline(always)]
fn run(skb: Skb) -> Result<i32, DropReason> {
    let config = maps::config().ok_or(DropReason::NotConfigured)?;
    let endpoint = get!(ENDPOINTS, &skb.ifindex()).ok_or(DropReason::UnknownEndpoint)?;
    let mut head = [0; HEAD_LEN];
    if !skb.load_into(0, &mut head) {
        return Err(DropReason::Malformed);
    }
    if packet::source_mac(&head) != endpoint.mac {
        return Err(DropReason::SpoofedMac);
    }
    match packet::ether_type(&head) {
        ethertype::IPV4 => {}
        ethertype::ARP => {
            let arp = skb.load(packet::ETH_LEN).ok_or(DropReason::Malformed)?;
            let sane = arp::is_sane(&arp, &endpoint.mac, endpoint.ip);
            return if sane { Ok(PASS) } else { Err(DropReason::SpoofedArp) };
        }
        _ => return Err(DropReason::UnsupportedProtocol),
    }
    let ip = packet::ipv4(&head, skb.len()).map_err(|_| DropReason::Malformed)?;
    if ip.src != endpoint.ip {
        return Err(DropReason::SpoofedIp);
    }
    let mut packet = Packet::new(skb, &head, ip);
    packet.read(skb, BORDER_POD)?;
    if ip.dst == config.cluster_dns {
        let question = ip.proto == proto::UDP && packet.tuple.dport == Port::new(53) && packet.kind == Kind::Flow;
        return Ok(if question && config.flags & DNS != 0 { dns::answer(skb, &packet) } else { PASS });
    }
    match packet.kind {
        Kind::Flow => {}
        Kind::IcmpError => return icmp::translate(skb, Hook::FromPod, BORDER_POD, &packet),
        Kind::Lost if config.service_cidr.contains(ip.dst) => return Err(DropReason::FragmentUnknown),
        Kind::Lost | Kind::Other => return Ok(PASS),
    }

    let now = now_ns();
    let now_s = seconds(now);
    let key = packet.key(BORDER_POD);
    if let Some(row) = track::find(&key) {
        // An answer of this Pod to another one's flow; it is translated back at that one's border.
        if row.direction == DIRECTION_REPLY && row.flags & CT_HAIRPIN == 0 {
            return Ok(PASS);
        }
        if track::is_live(config, &key, row, packet.tcp_flags, now_s)
            && !is_orphan(packet.ip.proto, row.flags, row.service_id, row.backend_id)
        {
            track::touch(Hook::FromPod, &key, row, &packet, now_s);
            if row.flags & CT_TRANSLATED == 0 {
                return Ok(PASS);
            }
            let (to, flags) = (row.to, row.flags);
            return forward(skb, &packet, &to, flags);
        }
    }
    open(skb, &packet, endpoint, config, now)
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
fn forward(skb: Skb, packet: &Packet<'_>, to: &Tuple4, flags: u16) -> Result<i32, DropReason> {
    apply(skb, packet, to)?;
    if flags & CT_HAIRPIN != 0 {
        turn_ethernet(skb, packet.head)?;
        return Ok(into_pod(skb.ifindex()));
    }
    Ok(PASS)
}

/// The first packet of a flow, or one that no row speaks for.
#[inline(never)]
fn open(skb: Skb, packet: &Packet<'_>, endpoint: &Endpoint, config: &Config, now: u64) -> Result<i32, DropReason> {
    let (tuple, protocol) = (packet.tuple, packet.ip.proto);
    if protocol != proto::ICMP
        && let Some(service) = service::find(config, tuple.dst, tuple.dport, protocol, SCOPE_INTERNAL)
    {
        return open_service(skb, packet, service, config, now);
    }
    if config.service_cidr.contains(tuple.dst) {
        return match service::unknown_port(tuple.dst) {
            DropReason::NoServicePort if protocol != proto::ICMP => {
                Ok(refuse(skb, Hook::FromPod, packet, DropReason::NoServicePort))
            }
            reason => Err(reason),
        };
    }
    let opted_out = endpoint.flags & ENDPOINT_NO_SOCKET != 0;
    let wanted = match protocol {
        proto::TCP => flow::is_open(packet.tcp_flags) && (opted_out || config.flags & TRACK_ALL != 0),
        proto::UDP => opted_out,
        _ => false,
    };
    if wanted && packet.ip.fragment != Fragment::Later {
        return open_direct(skb, packet, config, now);
    }
    Ok(PASS)
}

/// A flow that is not to be translated here. It is written down so that a Service's flow with the same ends is seen to
/// collide with it, and because the socket may have used a Service that the packet does not show any more.
#[inline(never)]
fn open_direct(skb: Skb, packet: &Packet<'_>, config: &Config, now: u64) -> Result<i32, DropReason> {
    let mut new = New::of(packet, BORDER_POD, packet.tuple, now);
    new.row.ifindex = skb.ifindex();
    new.row.cookie = skb.cookie();
    let mut asked = packet.tuple;
    if let Some(sock) = get!(SOCK_FLOWS, &new.row.cookie)
        && sock.backend == asked.dst
        && sock.backend_port == asked.dport
    {
        new.row.flags |= CT_SOCKET;
        new.row.service_id = sock.service_id;
        new.row.backend_id = sock.backend_id;
        asked.dst = sock.vip;
        asked.dport = sock.vip_port;
    }
    track::open(config, &mut new)?;
    report::opened(Hook::FromPod, packet.ip.proto, &asked, &new.row);
    if new.row.flags & CT_TRANSLATED != 0 {
        apply(skb, packet, &new.row.to)?;
    }
    Ok(PASS)
}

#[inline(never)]
fn open_service(
    skb: Skb,
    packet: &Packet<'_>,
    service: &Service,
    config: &Config,
    now: u64,
) -> Result<i32, DropReason> {
    if packet.ip.fragment == Fragment::Later {
        return Err(DropReason::FragmentUnknown);
    }
    let backend =
        if service.backend_count == 0 { None } else { service::choose(service, packet.tuple.src, seconds(now)) };
    let Some(backend) = backend else {
        if service.flags & SERVICE_DROP_IF_EMPTY != 0 {
            return Err(DropReason::NoEndpoints);
        }
        return Ok(refuse(skb, Hook::FromPod, packet, DropReason::NoEndpoints));
    };
    let mut to = Tuple4 { dst: backend.addr, dport: backend.port, ..packet.tuple };
    let hairpin = backend.addr == packet.tuple.src;
    if hairpin {
        to.src = config.pod_gateway;
        count(Counter::Hairpin);
    }
    let mut new = New::of(packet, BORDER_POD, to, now);
    new.row.ifindex = skb.ifindex();
    new.row.cookie = skb.cookie();
    new.row.service_id = service.id;
    new.row.backend_id = backend.id;
    if hairpin {
        new.row.flags = CT_HAIRPIN;
    }
    track::open(config, &mut new)?;
    count(Counter::ServiceOpened);
    report::opened(Hook::FromPod, packet.ip.proto, &packet.tuple, &new.row);
    forward(skb, packet, &new.row.to, new.row.flags)
}
