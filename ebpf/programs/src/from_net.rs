//! Ingress of the uplink: NodePorts and other Services reached from outside, and answers of masqueraded flows.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use strake_abi::config::{Config, HANDOVER};
use strake_abi::conntrack::{BORDER_NET, CT_DSR, CT_REDIRECT, CT_TRANSLATED, FlowState, Tuple};
use strake_abi::flow::{Counter, DropReason, Hook};
use strake_abi::service::{SCOPE_EXTERNAL, SERVICE_DROP_IF_EMPTY, Service};
use strake_abi::{Addr4, Addr6};
use strake_logic::flow;
use strake_logic::packet::Fragment;

use crate::refuse::code_or_refuse;
use crate::report::{self, count, now_ns, seconds};
use crate::service::Target;
use crate::skb::{Action, DROP, Kind, NEXT, PASS, Packet, Skb, code, out_to_neighbour, refusal, settle};
use crate::translate::apply;
use crate::wire::Wire;
use crate::work::Work;
use crate::{announce, dsr, maps, outside, park, service, track};

#[classifier]
pub fn from_net(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    if skb.is_seen(Hook::FromNet) {
        return code::<Addr4>(skb, Hook::FromNet, NEXT);
    }
    if skb.is_ipv6() {
        return six(skb);
    }
    if announce::is_arp(skb) {
        return code::<Addr4>(skb, Hook::FromNet, announce::answer_arp(skb));
    }
    refuse_or_go_on::<Addr4>(skb, settle(run::<Addr4>(skb)))
}

#[inline(never)]
fn six(skb: Skb) -> i32 {
    refuse_or_go_on::<Addr6>(skb, settle(run::<Addr6>(skb)))
}

#[inline(always)]
fn refuse_or_go_on<A: Wire>(skb: Skb, action: Action) -> i32 {
    code_or_refuse::<A>(skb, Hook::FromNet, dsr::told_what_fits::<A>(skb, action))
}

#[inline(always)]
fn run<A: Wire>(skb: Skb) -> Result<Action, DropReason> {
    // A node without configuration is a node without Services: its own traffic goes on.
    let Some(config) = maps::config() else { return Ok(PASS) };
    let Some(work) = A::work() else { return Ok(PASS) };
    if !work.packet.read_headers(skb) {
        return Ok(PASS);
    }
    work.inner = dsr::is_wrapped(config, &work.packet);
    if work.inner && !dsr::unwrap(skb, work) {
        return Err(DropReason::Malformed);
    }
    let Work { packet, inner, .. } = &mut *work;
    if packet.read(skb, BORDER_NET).is_err() {
        return left(*inner);
    }
    if packet.kind == Kind::Lost && park::hold(skb, packet, BORDER_NET) {
        return Ok(DROP);
    }
    if packet.ip.fragment == Fragment::First && !park::release(skb, packet, BORDER_NET) {
        return Err(DropReason::RewriteFailed);
    }
    match packet.kind {
        Kind::Flow => {}
        _ if *inner => return Err(DropReason::TunnelUnknown),
        Kind::IcmpError => return Ok(A::icmp_error(skb, Hook::FromNet, BORDER_NET, work)),
        Kind::Other => return Ok(A::neighbour(skb, work)),
        Kind::Lost => return Ok(PASS),
    }
    let Work { packet, new, frame, inner, chosen, .. } = &mut *work;
    packet.now_ns = now_ns();
    let now_s = seconds(packet.now_ns);
    packet.put_key(&mut new.key, BORDER_NET);
    let key = &new.key;
    if let Some(row) = track::find(key)
        && track::is_live(config, key, row, packet.tcp_flags, now_s)
        // The programs behind may have given its port to another flow already.
        && (config.flags & HANDOVER == 0 || row.state != FlowState::Closed as u8)
        // The asked node may have chosen another Pod since.
        && (!*inner || row.to.dst == chosen.addr)
    {
        // See `translate::carry`.
        let flags = row.flags;
        track::touch(Hook::FromNet, key, row, packet, now_s);
        if flags & CT_TRANSLATED == 0 {
            return left(*inner);
        }
        if flags & CT_DSR != 0 {
            return Ok(dsr::encapsulate(skb, config, packet, frame, &row.to));
        }
        return forward(skb, packet, &row.to, flags);
    }
    Ok(if work.inner { dsr::open(skb, work, config) } else { open(skb, work, config) })
}

/// What is not ours is the stack's, but for what came inside another packet: it would go back to where that came from.
#[inline(always)]
fn left(inner: bool) -> Result<Action, DropReason> {
    if inner { Err(DropReason::TunnelUnknown) } else { Ok(PASS) }
}

#[inline(always)]
fn forward<A: Wire>(skb: Skb, packet: &Packet<A>, to: &Tuple<A>, flags: u16) -> Result<Action, DropReason> {
    if flags & CT_REDIRECT == 0 {
        apply(skb, packet, to)?;
        return Ok(PASS);
    }
    // The new source is the node's own address, which its routing refuses to forward: it goes out from here.
    A::decrement_hops(skb, &packet.ip)?;
    apply(skb, packet, to)?;
    Ok(out_to_neighbour(skb.ifindex()))
}

#[inline(never)]
fn open<A: Wire>(skb: Skb, work: &mut Work<A>, config: &Config) -> Action {
    // Of a flow that the programs behind have opened, or will.
    if config.flags & HANDOVER != 0 {
        return NEXT;
    }
    let (tuple, protocol) = (&work.packet.tuple, work.packet.ip.proto);
    if work.packet.ip.fragment == Fragment::Later {
        return PASS;
    }
    // The middle of a connection that we did not open: another proxy's that we took over from, or a stray, which the
    // stack resets or aborts.
    if flow::says_when(protocol) && !flow::is_open(work.packet.tcp_flags) {
        return PASS;
    }
    if protocol != A::ICMP
        && let Some(service) = A::service_at(config, tuple, protocol, SCOPE_EXTERNAL)
    {
        return open_service(skb, work, service, config);
    }
    // Someone outside talks to a Pod directly. An answer of TCP or SCTP is told from a new flow by its flags; for the
    // rest, the row keeps `to_net` from masquerading the Pod's answers.
    if !flow::says_when(protocol) && A::is_own_pod(config, tuple.dst) && !A::is_in_cluster(config, tuple.src) {
        track::begin(work, skb.ifindex(), BORDER_NET);
        return settle(track::open(config, work).map(|()| PASS));
    }
    PASS
}

#[inline(never)]
fn open_service<A: Wire>(skb: Skb, work: &mut Work<A>, service: &Service, config: &Config) -> Action {
    let src = &work.packet.tuple.src;
    if !service::admits(service, *src) {
        return settle(Err(DropReason::SourceNotInRanges));
    }
    let Some(backend) = outside::choose(service, &work.packet) else {
        if service.flags & SERVICE_DROP_IF_EMPTY != 0 {
            return settle(Err(DropReason::NoEndpoints));
        }
        return refusal(DropReason::NoEndpoints);
    };
    settle(opened(skb, work, service, &backend, config))
}

#[inline(always)]
fn opened<A: Wire>(
    skb: Skb,
    work: &mut Work<A>,
    service: &Service,
    backend: &Target<A>,
    config: &Config,
) -> Result<Action, DropReason> {
    outside::lead(work, config, service, backend, skb.ifindex())?;
    track::open(config, work)?;
    count(Counter::ServiceOpened);
    report::opened(Hook::FromNet, work.packet.ip.proto, &work.new.key.tuple, &work.new.row);
    let Work { packet, new, frame, .. } = work;
    if new.row.flags & CT_DSR != 0 {
        return Ok(dsr::encapsulate(skb, config, packet, frame, &new.row.to));
    }
    forward(skb, packet, &new.row.to, new.row.flags)
}
