//! Egress of the host side of each Pod's veth: what a Pod is sent by its node and from other nodes. Answers of flows that
//! `from_pod` translated are translated back here: those of backends on another node, and those of the node itself (the
//! API server), which pass no other hook. What another Pod of the node sends does not come this way: its `from_pod`
//! translates it back and hands it over.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use strake_abi::conntrack::{BORDER_POD, DIRECTION_REPLY};
use strake_abi::flow::{DropReason, Hook};
use strake_abi::{Addr4, Addr6};

use crate::report::{now_ns, seconds};
use crate::skb::{Action, Kind, NEXT, PASS, Skb, code, settle};
use crate::track;
use crate::translate::carry;
use crate::wire::Wire;

#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    if skb.is_seen(Hook::ToPod) {
        return code::<Addr4>(skb, Hook::ToPod, NEXT);
    }
    if skb.is_ipv6() {
        return six(skb);
    }
    code::<Addr4>(skb, Hook::ToPod, settle(run::<Addr4>(skb)))
}

#[inline(never)]
fn six(skb: Skb) -> i32 {
    code::<Addr6>(skb, Hook::ToPod, settle(run::<Addr6>(skb)))
}

#[inline(always)]
fn run<A: Wire>(skb: Skb) -> Result<Action, DropReason> {
    let Some(work) = A::work() else { return Ok(PASS) };
    let packet = &mut work.packet;
    if !packet.read_headers(skb) {
        return Ok(PASS);
    }
    // What is malformed is the receiver's to judge.
    if packet.read(skb, BORDER_POD).is_err() {
        return Ok(PASS);
    }
    match packet.kind {
        Kind::Flow => {}
        Kind::IcmpError => return Ok(A::icmp_error(skb, Hook::ToPod, BORDER_POD, work)),
        Kind::Lost | Kind::Other => return Ok(PASS),
    }
    let key = packet.key(BORDER_POD);
    let Some(row) = track::find(&key) else { return Ok(NEXT) };
    if row.direction != DIRECTION_REPLY {
        return Ok(PASS);
    }
    carry(Hook::ToPod, skb, &key, row, packet, seconds(now_ns()))?;
    Ok(PASS)
}
