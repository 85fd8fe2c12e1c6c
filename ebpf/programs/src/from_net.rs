//! Ingress of the uplink: NodePorts and other Services reached from outside, and answers of masqueraded flows.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use strake_abi::config::Config;
use strake_abi::conntrack::{BORDER_NET, CT_REDIRECT, CT_SNAT, CT_TRANSLATED, Tuple4};
use strake_abi::flow::{Counter, DropReason, Hook};
use strake_abi::proto;
use strake_abi::service::{BACKEND_LOCAL, SCOPE_EXTERNAL, SERVICE_DROP_IF_EMPTY, Service};
use strake_logic::choose;
use strake_logic::packet::{Fragment, HEAD_LEN};

use crate::refuse::refuse;
use crate::report::{self, count, dropped, now_ns, seconds};
use crate::skb::{Kind, PASS, Packet, Skb, ipv4, out_to_neighbour};
use crate::track::{self, New};
use crate::translate::{apply, decrement_ttl};
use crate::{icmp, maps, service};

#[classifier]
pub fn from_net(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    match run(skb) {
        Ok(action) => action,
        Err(reason) => dropped(skb, Hook::FromNet, reason),
    }
}

#[inline(always)]
fn run(skb: Skb) -> Result<i32, DropReason> {
    // A node without configuration is a node without Services: its own traffic goes on.
    let Some(config) = maps::config() else { return Ok(PASS) };
    let mut head = [0; HEAD_LEN];
    let Some(ip) = ipv4(skb, &mut head) else { return Ok(PASS) };
    let mut packet = Packet::new(skb, &head, ip);
    if packet.read(skb, BORDER_NET).is_err() {
        return Ok(PASS);
    }
    match packet.kind {
        Kind::Flow => {}
        Kind::IcmpError => return icmp::translate(skb, Hook::FromNet, BORDER_NET, &packet),
        Kind::Lost | Kind::Other => return Ok(PASS),
    }
    let now = now_ns();
    let now_s = seconds(now);
    let key = packet.key(BORDER_NET);
    if let Some(row) = track::find(&key)
        && track::is_live(config, &key, row, packet.tcp_flags, now_s)
    {
        track::touch(Hook::FromNet, &key, row, &packet, now_s);
        if row.flags & CT_TRANSLATED == 0 {
            return Ok(PASS);
        }
        let (to, flags) = (row.to, row.flags);
        return forward(skb, &packet, &to, flags);
    }
    open(skb, &packet, config, now)
}

#[inline(always)]
fn forward(skb: Skb, packet: &Packet<'_>, to: &Tuple4, flags: u16) -> Result<i32, DropReason> {
    if flags & CT_REDIRECT == 0 {
        apply(skb, packet, to)?;
        return Ok(PASS);
    }
    // The new source is the node's own address, which its routing refuses to forward: it goes out from here.
    decrement_ttl(skb, packet)?;
    apply(skb, packet, to)?;
    Ok(out_to_neighbour(skb.ifindex()))
}

#[inline(never)]
fn open(skb: Skb, packet: &Packet<'_>, config: &Config, now: u64) -> Result<i32, DropReason> {
    let (tuple, protocol) = (packet.tuple, packet.ip.proto);
    if packet.ip.fragment == Fragment::Later {
        return Ok(PASS);
    }
    if protocol != proto::ICMP
        && let Some(service) = service::find(config, tuple.dst, tuple.dport, protocol, SCOPE_EXTERNAL)
    {
        return open_service(skb, packet, service, config, now);
    }
    // Someone outside talks to a Pod directly. A TCP answer is told from a new flow by its flags; for the rest, the row
    // keeps `to_net` from masquerading the Pod's answers.
    if protocol != proto::TCP && config.pod_cidr.contains(tuple.dst) && !config.cluster_cidr.contains(tuple.src) {
        let mut new = New::of(packet, BORDER_NET, tuple, now);
        new.row.ifindex = skb.ifindex();
        track::open(config, &mut new)?;
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
    let backend =
        if service.backend_count == 0 { None } else { service::choose(service, packet.tuple.src, seconds(now)) };
    let Some(backend) = backend else {
        if service.flags & SERVICE_DROP_IF_EMPTY != 0 {
            return Err(DropReason::NoEndpoints);
        }
        return Ok(refuse(skb, Hook::FromNet, packet, DropReason::NoEndpoints));
    };
    let mut to = Tuple4 { dst: backend.addr, dport: backend.port, ..packet.tuple };
    let mut flags = 0;
    if backend.flags & BACKEND_LOCAL == 0 {
        to.src = config.node_ip;
        to.sport = choose::port(service::random(), config.snat_port_min, config.snat_port_max);
        flags = CT_SNAT | CT_REDIRECT;
    }
    let mut new = New::of(packet, BORDER_NET, to, now);
    new.row.ifindex = skb.ifindex();
    new.row.service_id = service.id;
    new.row.backend_id = backend.id;
    new.row.flags = flags;
    track::open(config, &mut new)?;
    count(Counter::ServiceOpened);
    report::opened(Hook::FromNet, packet.ip.proto, &packet.tuple, &new.row);
    forward(skb, packet, &new.row.to, new.row.flags)
}
