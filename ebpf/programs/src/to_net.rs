//! Egress of the uplink: masquerade of what Pods send out of the cluster, answers of NodePorts.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use strake_abi::config::{Config, HANDOVER, MASQUERADE, TRACK_ALL};
use strake_abi::conntrack::{BORDER_NET, CT_QUIET, CT_SNAT};
use strake_abi::flow::{Counter, DropReason, Hook};
use strake_abi::{Addr4, Addr6, proto};
use strake_logic::packet::Fragment;
use strake_logic::{choose, flow};

use crate::report::{self, count, now_ns, seconds};
use crate::skb::{Action, Kind, NEXT, PASS, Skb, code, settle};
use crate::translate::{apply, carry};
use crate::wire::Wire;
use crate::work::Work;
use crate::{maps, service, track};

#[classifier]
pub fn to_net(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    if skb.is_seen(Hook::ToNet) {
        return code::<Addr4>(skb, Hook::ToNet, NEXT);
    }
    if skb.is_ipv6() {
        return six(skb);
    }
    code::<Addr4>(skb, Hook::ToNet, settle(run::<Addr4>(skb)))
}

#[inline(never)]
fn six(skb: Skb) -> i32 {
    code::<Addr6>(skb, Hook::ToNet, settle(run::<Addr6>(skb)))
}

#[inline(always)]
fn run<A: Wire>(skb: Skb) -> Result<Action, DropReason> {
    let Some(config) = maps::config() else { return Ok(PASS) };
    let Some(work) = A::work() else { return Ok(PASS) };
    let packet = &mut work.packet;
    if !packet.read_headers(skb) {
        return Ok(PASS);
    }
    // A ClusterIP means nothing outside: a process of the node that no socket hook served would send it to the router.
    if A::is_cluster_ip(config, packet.ip.dst) {
        return Err(DropReason::NoService);
    }
    if packet.read(skb, BORDER_NET).is_err() {
        return Ok(PASS);
    }
    match packet.kind {
        Kind::Flow => {}
        Kind::IcmpError => return Ok(A::icmp_error(skb, Hook::ToNet, BORDER_NET, work)),
        Kind::Lost | Kind::Other => return Ok(PASS),
    }
    let Work { packet, new, .. } = &mut *work;
    packet.now_ns = now_ns();
    let now_s = seconds(packet.now_ns);
    packet.put_key(&mut new.key, BORDER_NET);
    let key = &new.key;
    if let Some(row) = track::find(key)
        && track::is_live(config, key, row, packet.tcp_flags, now_s)
    {
        carry(Hook::ToNet, skb, key, row, packet, now_s)?;
        return Ok(PASS);
    }
    // Of a flow that the programs behind have opened, or will.
    if config.flags & HANDOVER != 0 {
        return Ok(NEXT);
    }
    if config.flags & MASQUERADE == 0
        || !A::is_own_pod(config, packet.ip.src)
        || A::is_in_cluster(config, packet.ip.dst)
    {
        return Ok(PASS);
    }
    Ok(masquerade(skb, work, config))
}

/// The first packet of a Pod's flow to the world. What is not a first packet (an answer to somebody outside who talks
/// to the Pod directly) keeps its source.
#[inline(never)]
fn masquerade<A: Wire>(skb: Skb, work: &mut Work<A>, config: &Config) -> Action {
    settle(open(skb, work, config))
}

#[inline(always)]
fn open<A: Wire>(skb: Skb, work: &mut Work<A>, config: &Config) -> Result<Action, DropReason> {
    let packet = &work.packet;
    let tuple = &packet.tuple;
    let opens = !flow::says_when(packet.ip.proto) || flow::is_open(packet.tcp_flags);
    // An echo reply has its identifier on the other side.
    let answers = packet.ip.proto == A::ICMP && tuple.sport.0 == 0;
    let later = packet.ip.fragment == Fragment::Later;
    if !A::is_routed(&tuple.dst) || !opens || answers || later || A::is_node(&tuple.dst) {
        return Ok(PASS);
    }
    let Some(node) = A::node(config) else { return Ok(PASS) };
    let sport = choose::port(service::random(), config.snat_port_min, config.snat_port_max);
    track::begin(work, skb.ifindex(), BORDER_NET);
    work.new.row.to.src = node;
    work.new.row.to.sport = sport;
    // Such a flow has been told at the Pod's border already.
    let protocol = work.packet.ip.proto;
    let quiet = protocol == proto::SCTP || protocol == proto::TCP && config.flags & TRACK_ALL != 0;
    work.new.row.flags = if quiet { CT_SNAT | CT_QUIET } else { CT_SNAT };
    track::open(config, work)?;
    count(Counter::Masqueraded);
    if quiet {
        apply(skb, &work.packet, &work.new.row.to)?;
        return Ok(PASS);
    }
    report::opened(Hook::ToNet, work.packet.ip.proto, &work.packet.tuple, &work.new.row);
    apply(skb, &work.packet, &work.new.row.to)?;
    Ok(PASS)
}
