//! Answers neighbours who ask for a LoadBalancer address that this node announces.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use strake_abi::announce::Announced;
use strake_abi::flow::Counter;
use strake_abi::{Addr6, Mac};
use strake_logic::arp::{self, ARP_FRAME};
use strake_logic::ipv6::HEAD_LEN;
use strake_logic::ipv6::ndp::{self, ADVERTISEMENT_LEN, NDP_LEN};
use strake_logic::packet::ethertype;

use crate::maps::{ANNOUNCED, get};
use crate::report::count;
use crate::skb::{Action, DROP, PASS, Skb, out_of};
use crate::work::Work;

/// Whether the frame is ARP.
#[inline(always)]
pub fn is_arp(skb: Skb) -> bool {
    // SAFETY: the context is valid while the program runs.
    unsafe { (*skb.0).protocol == u32::from(ethertype::ARP.to_be()) }
}

/// The uplink's Ethernet address, if this node announces the address now.
#[inline(always)]
pub fn announced(address: Addr6) -> Option<Mac> {
    let row: &Announced = get!(ANNOUNCED, &address)?;
    // SAFETY: no memory is involved.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if now < row.until_ns { Some(row.mac) } else { None }
}

/// A question for an announced address becomes its answer, in place; everything else is the stack's.
#[inline(never)]
pub fn answer_arp(skb: Skb) -> Action {
    let Some(mut frame) = skb.load::<[u8; ARP_FRAME]>(0) else { return PASS };
    let Some(asked) = arp::asked(&frame) else { return PASS };
    let Some(mac) = announced(Addr6::mapped(asked)) else { return PASS };
    arp::answer(&mut frame, &mac);
    if skb.store(0, &frame).is_err() {
        return DROP;
    }
    count(Counter::NeighbourAnswered);
    out_of(skb.ifindex())
}

/// The same for neighbour discovery. `work` has the packet's headers; the answer is built there.
#[inline(never)]
pub fn answer_ndp(skb: Skb, work: &mut Work<Addr6>) -> Action {
    let Some(message) = skb.load::<[u8; NDP_LEN]>(HEAD_LEN) else { return PASS };
    let Some(asked) = ndp::asked(&work.packet.head, &message) else { return PASS };
    let Some(mac) = announced(asked) else { return PASS };
    ndp::answer(&mut work.frame, &work.packet.head, asked, &mac);
    // A question may have more or less than an answer's one option.
    if skb.resize(ADVERTISEMENT_LEN as u32).is_err() || skb.store_first::<ADVERTISEMENT_LEN, _>(0, &work.frame).is_err()
    {
        return DROP;
    }
    count(Counter::NeighbourAnswered);
    out_of(skb.ifindex())
}
