//! Egress of the uplink: masquerade of what Pods send out of the cluster, answers of NodePorts.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use strake_abi::config::{Config, MASQUERADE};
use strake_abi::conntrack::{BORDER_NET, CT_SNAT, CT_TRANSLATED, Tuple4};
use strake_abi::flow::{Counter, DropReason, Hook};
use strake_abi::proto;
use strake_logic::packet::{Fragment, HEAD_LEN};
use strake_logic::{choose, flow};

use crate::maps::{self, NODES, get};
use crate::report::{self, count, dropped, now_ns, seconds};
use crate::skb::{Kind, PASS, Packet, Skb, ipv4};
use crate::track::{self, New};
use crate::translate::apply;
use crate::{icmp, service};

#[classifier]
pub fn to_net(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    match run(skb) {
        Ok(action) => action,
        Err(reason) => dropped(skb, Hook::ToNet, reason),
    }
}

#[inline(always)]
fn run(skb: Skb) -> Result<i32, DropReason> {
    let Some(config) = maps::config() else { return Ok(PASS) };
    let mut head = [0; HEAD_LEN];
    let Some(ip) = ipv4(skb, &mut head) else { return Ok(PASS) };
    // A ClusterIP means nothing outside: a process of the node that no socket hook served would send it to the router.
    if config.service_cidr.contains(ip.dst) {
        return Err(DropReason::NoService);
    }
    let mut packet = Packet::new(skb, &head, ip);
    if packet.read(skb, BORDER_NET).is_err() {
        return Ok(PASS);
    }
    match packet.kind {
        Kind::Flow => {}
        Kind::IcmpError => return icmp::translate(skb, Hook::ToNet, BORDER_NET, &packet),
        Kind::Lost | Kind::Other => return Ok(PASS),
    }
    let now = now_ns();
    let now_s = seconds(now);
    let key = packet.key(BORDER_NET);
    if let Some(row) = track::find(&key)
        && track::is_live(config, &key, row, packet.tcp_flags, now_s)
    {
        track::touch(Hook::ToNet, &key, row, &packet, now_s);
        if row.flags & CT_TRANSLATED != 0 {
            let to = row.to;
            apply(skb, &packet, &to)?;
        }
        return Ok(PASS);
    }
    if config.flags & MASQUERADE == 0 || !config.pod_cidr.contains(ip.src) || config.cluster_cidr.contains(ip.dst) {
        return Ok(PASS);
    }
    masquerade(skb, &packet, config, now)
}

/// The first packet of a Pod's flow to the world. What is not a first packet (an answer to somebody outside who talks
/// to the Pod directly) keeps its source.
#[inline(never)]
fn masquerade(skb: Skb, packet: &Packet<'_>, config: &Config, now: u64) -> Result<i32, DropReason> {
    let [first, ..] = packet.ip.dst.octets();
    let multicast = first >= 224;
    let opens = packet.ip.proto != proto::TCP || flow::is_open(packet.tcp_flags);
    // An echo reply has its identifier on the other side.
    let answers = packet.ip.proto == proto::ICMP && packet.tuple.sport.0 == 0;
    if multicast || !opens || answers || packet.ip.fragment == Fragment::Later || get!(NODES, &packet.ip.dst).is_some()
    {
        return Ok(PASS);
    }
    let sport = choose::port(service::random(), config.snat_port_min, config.snat_port_max);
    let mut new = New::of(packet, BORDER_NET, Tuple4 { src: config.node_ip, sport, ..packet.tuple }, now);
    new.row.ifindex = skb.ifindex();
    new.row.flags = CT_SNAT;
    track::open(config, &mut new)?;
    count(Counter::Masqueraded);
    report::opened(Hook::ToNet, packet.ip.proto, &packet.tuple, &new.row);
    apply(skb, packet, &new.row.to)?;
    Ok(PASS)
}
