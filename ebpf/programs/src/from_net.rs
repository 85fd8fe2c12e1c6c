//! Ingress of the uplink: NodePorts and other Services reached from outside, and answers of masqueraded flows.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use strake_abi::config::Config;
use strake_abi::conntrack::{BORDER_NET, CT_REDIRECT, CT_SNAT, CT_TRANSLATED, Tuple4};
use strake_abi::flow::{Counter, DropReason, Hook};
use strake_abi::proto;
use strake_abi::service::{BACKEND_LOCAL, SCOPE_EXTERNAL, SERVICE_DROP_IF_EMPTY, Service};
use strake_logic::{choose, flow};
use strake_logic::packet::Fragment;

use crate::refuse::code_or_refuse;
use crate::report::{self, count, now_ns, seconds};
use crate::skb::{Action, Kind, PASS, Packet, Skb, out_to_neighbour, refusal, settle};
use crate::translate::{apply, decrement_ttl};
use crate::work::{Work, work};
use crate::{icmp, maps, service, track};

#[classifier]
pub fn from_net(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    code_or_refuse(skb, Hook::FromNet, settle(run(skb)))
}

#[inline(always)]
fn run(skb: Skb) -> Result<Action, DropReason> {
    // A node without configuration is a node without Services: its own traffic goes on.
    let Some(config) = maps::config() else { return Ok(PASS) };
    let Some(work) = work() else { return Ok(PASS) };
    let packet = &mut work.packet;
    if !packet.read_ipv4(skb) {
        return Ok(PASS);
    }
    if packet.read(skb, BORDER_NET).is_err() {
        return Ok(PASS);
    }
    match packet.kind {
        Kind::Flow => {}
        Kind::IcmpError => return Ok(icmp::translate(skb, Hook::FromNet, BORDER_NET, work)),
        Kind::Lost | Kind::Other => return Ok(PASS),
    }
    let now = now_ns();
    let now_s = seconds(now);
    let key = packet.key(BORDER_NET);
    if let Some(row) = track::find(&key)
        && track::is_live(config, &key, row, packet.tcp_flags, now_s)
    {
        track::touch(Hook::FromNet, &key, row, packet, now_s);
        if row.flags & CT_TRANSLATED == 0 {
            return Ok(PASS);
        }
        let (to, flags) = (row.to, row.flags);
        return forward(skb, packet, &to, flags);
    }
    Ok(open(skb, work, config, now))
}

#[inline(always)]
fn forward(skb: Skb, packet: &Packet, to: &Tuple4, flags: u16) -> Result<Action, DropReason> {
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
fn open(skb: Skb, work: &mut Work, config: &Config, now: u64) -> Action {
    let (tuple, protocol) = (work.packet.tuple, work.packet.ip.proto);
    if work.packet.ip.fragment == Fragment::Later {
        return PASS;
    }
    // The middle of a connection that we did not open: another proxy's that we took over from, or a stray, which the
    // stack resets.
    if protocol == proto::TCP && !flow::is_open(work.packet.tcp_flags) {
        return PASS;
    }
    if protocol != proto::ICMP
        && let Some(service) = service::find(config, tuple.dst, tuple.dport, protocol, SCOPE_EXTERNAL)
    {
        return open_service(skb, work, service, config, now);
    }
    // Someone outside talks to a Pod directly. A TCP answer is told from a new flow by its flags; for the rest, the row
    // keeps `to_net` from masquerading the Pod's answers.
    if protocol != proto::TCP && config.pod_cidr.contains(tuple.dst) && !config.cluster_cidr.contains(tuple.src) {
        track::begin(work, skb, BORDER_NET, tuple, now);
        return settle(track::open(config, work).map(|()| PASS));
    }
    PASS
}

#[inline(never)]
fn open_service(skb: Skb, work: &mut Work, service: &Service, config: &Config, now: u64) -> Action {
    let tuple = work.packet.tuple;
    if !service::admits(service, tuple.src) {
        return settle(Err(DropReason::SourceNotInRanges));
    }
    let backend = match service.backend_count {
        0 => None,
        _ => service::choose_outside(service, &tuple, work.packet.ip.proto, seconds(now)),
    };
    let Some(backend) = backend else {
        if service.flags & SERVICE_DROP_IF_EMPTY != 0 {
            return settle(Err(DropReason::NoEndpoints));
        }
        return refusal(DropReason::NoEndpoints);
    };
    let mut to = Tuple4 { dst: backend.addr, dport: backend.port, ..tuple };
    let mut flags = 0;
    if backend.flags & BACKEND_LOCAL == 0 {
        to.src = config.node_ip;
        to.sport = choose::port(service::random(), config.snat_port_min, config.snat_port_max);
        flags = CT_SNAT | CT_REDIRECT;
    }
    track::begin(work, skb, BORDER_NET, to, now);
    let row = &mut work.new.row;
    row.service_id = service.id;
    row.backend_id = backend.id;
    row.flags = flags;
    settle(opened(skb, work, config))
}

#[inline(always)]
fn opened(skb: Skb, work: &mut Work, config: &Config) -> Result<Action, DropReason> {
    track::open(config, work)?;
    count(Counter::ServiceOpened);
    report::opened(Hook::FromNet, work.packet.ip.proto, &work.new.key.tuple, &work.new.row);
    forward(skb, &work.packet, &work.new.row.to, work.new.row.flags)
}
