//! ICMP errors about packets of translated flows.

use strake_abi::conntrack::{BORDER_POD, CT_HAIRPIN, CT_REDIRECT, CT_TRANSLATED, ConntrackKey, DIRECTION_ORIGINAL};
use strake_abi::flow::{Counter, DropReason, Hook};
use strake_abi::{Addr4, proto};
use strake_logic::icmp;
use strake_logic::packet::ETH_LEN;

use crate::report::count;
use crate::skb::{Action, PASS, Skb, into_pod, out_to_neighbour, settle};
use crate::track;
use crate::translate::turn_ethernet;
use crate::wire::Wire;
use crate::work::Work;

/// Bytes of an ICMP header, after which the quoted packet begins.
const ICMP_LEN: usize = 8;

/// Turns the error and what it quotes back, if it is about a flow that was translated at this border; passes it as it
/// is otherwise.
#[inline(never)]
pub fn translate(skb: Skb, hook: Hook, border: u8, work: &mut Work<Addr4>) -> Action {
    settle(run(skb, hook, border, work))
}

#[inline(always)]
fn run(skb: Skb, hook: Hook, border: u8, work: &mut Work<Addr4>) -> Result<Action, DropReason> {
    let Work { packet, error, rewrite, .. } = work;
    let at = packet.ip.l4 + ICMP_LEN;
    if !skb.load_into(at, &mut error.ip) {
        return Ok(PASS);
    }
    let Some(ip_len) = icmp::quoted_header_len(&error.ip) else { return Ok(PASS) };
    if !skb.load_into(at + ip_len, &mut error.l4) {
        return Ok(PASS);
    }
    let Some(quoted) = icmp::quoted(&error.ip, &error.l4) else { return Ok(PASS) };
    error.src = packet.ip.src;
    error.dst = packet.ip.dst;
    error.quoted = quoted;
    let key = ConntrackKey { tuple: quoted.tuple.mirror(), proto: quoted.proto, border, reserved: 0 };
    let Some(row) = track::find(&key) else { return Ok(PASS) };
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
    skb.store(ETH_LEN + 12, &rewrite.outer)?;
    skb.fix_l3(ETH_LEN + 10, rewrite.outer_difference)?;
    skb.store(at + 10, &rewrite.inner)?;
    skb.store(at + ip_len, &rewrite.inner_l4)?;
    skb.fix_l4(packet.ip.l4 + 2, rewrite.icmp_difference, proto::ICMP, false)?;
    count(Counter::IcmpErrorTranslated);
    if flags & CT_HAIRPIN != 0 && border == BORDER_POD {
        turn_ethernet(skb, Addr4::ethernet(&packet.head))?;
        return Ok(into_pod(skb.ifindex()));
    }
    if flags & CT_REDIRECT != 0 {
        return Ok(out_to_neighbour(skb.ifindex()));
    }
    Ok(PASS)
}
