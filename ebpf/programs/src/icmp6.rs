//! ICMPv6 errors about packets of translated flows. As [`crate::icmp`]; the quoted packet may have extension headers too.

use strake_abi::conntrack::{BORDER_POD, CT_HAIRPIN, CT_REDIRECT, CT_TRANSLATED, DIRECTION_ORIGINAL};
use strake_abi::flow::{Counter, DropReason, Hook};
use strake_abi::{Addr6, proto};
use strake_logic::ipv6::icmp;
use strake_logic::packet::{ETH_LEN, Fragment};

use crate::report::count;
use crate::skb::{Action, PASS, Skb, into_pod, out_to_neighbour, settle};
use crate::track;
use crate::translate::turn_ethernet;
use crate::wire::Wire;
use crate::wire6::walk;
use crate::work::Work;

/// Bytes of an ICMPv6 header, after which the quoted packet begins.
const ICMP_LEN: usize = 8;

/// Turns the error and what it quotes back, if it is about a flow that was translated at this border; passes it as it
/// is otherwise.
#[inline(never)]
pub fn translate(skb: Skb, hook: Hook, border: u8, work: &mut Work<Addr6>) -> Action {
    settle(run(skb, hook, border, work))
}

#[inline(always)]
fn run(skb: Skb, hook: Hook, border: u8, work: &mut Work<Addr6>) -> Result<Action, DropReason> {
    let Work { packet, error, rewrite, new, .. } = work;
    let at = packet.ip.l4 + ICMP_LEN;
    if !skb.load_into(at, &mut error.fixed) {
        return Ok(PASS);
    }
    let Some(ip) = icmp::quoted(&error.fixed, at) else { return Ok(PASS) };
    error.ip = ip;
    if walk(skb, &mut error.ip).is_err() || error.ip.fragment == Fragment::Later {
        return Ok(PASS);
    }
    if !skb.load_into(error.ip.l4, &mut error.l4) {
        return Ok(PASS);
    }
    let Some(tuple) = icmp::tuple(&error.ip, &error.l4) else { return Ok(PASS) };
    error.src = packet.ip.src;
    error.dst = packet.ip.dst;
    error.tuple = tuple;
    let key = &mut new.key;
    track::mirror(&mut key.tuple, &error.tuple);
    key.proto = error.ip.proto;
    key.border = border;
    key.reserved = 0;
    let Some(row) = track::find(key) else { return Ok(PASS) };
    let flags = row.flags;
    if flags & CT_TRANSLATED == 0 {
        return Ok(PASS);
    }
    // At a Pod's border each direction has its own hook (see `conntrack`); the uplink's rows say it by themselves.
    if border == BORDER_POD {
        let here = (row.direction == DIRECTION_ORIGINAL) == (hook as u8 == Hook::FromPod as u8);
        if !here && flags & CT_HAIRPIN == 0 {
            return Ok(PASS);
        }
    }
    icmp::translate(rewrite, error, &row.to);
    skb.store(ETH_LEN + 8, &rewrite.outer)?;
    skb.store(at + 8, &rewrite.inner)?;
    skb.store(error.ip.l4, &rewrite.inner_l4)?;
    skb.fix_l4(packet.ip.l4 + 2, rewrite.icmp_difference, proto::ICMPV6, false)?;
    count(Counter::IcmpErrorTranslated);
    if flags & CT_HAIRPIN != 0 && border == BORDER_POD {
        turn_ethernet(skb, Addr6::ethernet(&packet.head))?;
        return Ok(into_pod(skb.ifindex()));
    }
    if flags & CT_REDIRECT != 0 {
        return Ok(out_to_neighbour(skb.ifindex()));
    }
    Ok(PASS)
}
