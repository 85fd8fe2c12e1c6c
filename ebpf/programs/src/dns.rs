//! Answering a Pod's DNS question from the table, in place.

use aya_ebpf::helpers::generated::{bpf_skb_load_bytes, bpf_skb_store_bytes};
use core::hint::black_box;
use strake_abi::Addr4;
use strake_abi::dns::{DNS_HAS_A, DNS_NODATA_AAAA, DnsName, DnsZone, SOA_MAX};
use strake_abi::flow::Counter;
use strake_logic::dns::{self, MESSAGE_AT, MESSAGE_MAX, MESSAGE_MIN, Pass, Question, Scratch, Type, reply};
use strake_logic::packet::{Fragment, HEAD_LEN};

use crate::maps::{DNS_NAMES, DNS_ZONE, get};
use crate::report::count;
use crate::skb::{Action, DROP, PASS, Skb, into_pod};
use crate::work::Work;

/// Where the DNS message begins in a frame without IP options.
const MESSAGE: usize = HEAD_LEN + 8;
/// Two roots and five numbers. Not 1: that a number is not zero tells older verifiers nothing about its range.
const SOA_MIN: usize = 22;

/// Answers and sends the packet back into its Pod, or passes it to the agent's server.
#[inline(never)]
pub fn answer(skb: Skb, work: &mut Work<Addr4>) -> Action {
    let question = match prepare(skb, work) {
        Ok(question) => question,
        Err(reason) => return pass(reason),
    };
    if let Some(name) = find(&work.dns) {
        return give(skb, work, &question, name);
    }
    match DNS_ZONE.get(0) {
        Some(zone) if is_impossible(&work.dns, zone) => deny(skb, work, &question, zone, reply::NXDOMAIN),
        _ => pass(Pass::Name),
    }
}

#[inline(always)]
fn pass(reason: Pass) -> Action {
    count(match reason {
        Pass::Name => Counter::DnsPassedName,
        Pass::Type => Counter::DnsPassedType,
        Pass::Form => Counter::DnsPassedForm,
    });
    PASS
}

/// `value` if it is from MIN to MAX. The compiler would make one comparison of the two, with a number that the verifier
/// does not connect to `value` any more.
#[inline(always)]
fn bounded<const MIN: usize, const MAX: usize>(value: usize) -> Option<usize> {
    let value = black_box(value);
    if value > MAX {
        return None;
    }
    let value = black_box(value);
    if value < MIN {
        return None;
    }
    Some(value)
}

/// Copies the message and takes the question apart.
#[inline(always)]
fn prepare(skb: Skb, work: &mut Work<Addr4>) -> Result<Question, Pass> {
    let Work { packet, header, dns: scratch, .. } = work;
    let len = usize::from(packet.ip.l4_len.saturating_sub(8));
    if packet.ip.l4 != HEAD_LEN || packet.ip.fragment != Fragment::No {
        return Err(Pass::Form);
    }
    let len = bounded::<MESSAGE_MIN, MESSAGE_MAX>(len).ok_or(Pass::Form)?;
    // Both lengths must say the same.
    let Some(udp) = skb.load::<[u8; 8]>(HEAD_LEN) else { return Err(Pass::Form) };
    if u16::from_be_bytes([udp[4], udp[5]]) != packet.ip.l4_len {
        return Err(Pass::Form);
    }
    header[..8].copy_from_slice(&udp);
    let message = core::ptr::from_mut(&mut scratch.message).cast::<u8>();
    // SAFETY: `len` is at most MESSAGE_MAX, which is the size of the buffer behind MESSAGE_AT.
    let ret = unsafe { bpf_skb_load_bytes(skb.0.cast(), MESSAGE as u32, message.add(MESSAGE_AT).cast(), len as u32) };
    if ret != 0 || !dns::is_query(scratch) {
        return Err(Pass::Form);
    }
    if !scan(scratch) {
        return Err(Pass::Name);
    }
    dns::question(scratch, scratch.name_len, len)
}

/// A function of its own: the verifier forgets which of the words the name ended in when it returns, and goes on with
/// one state instead of twenty.
#[inline(never)]
fn scan(scratch: &mut Scratch) -> bool {
    dns::scan(scratch)
}

#[inline(never)]
fn is_name(scratch: &Scratch, name: &DnsName) -> bool {
    dns::is_name(scratch, &name.name, scratch.name_len)
}

#[inline(never)]
fn is_impossible(scratch: &Scratch, zone: &DnsZone) -> bool {
    dns::is_impossible(scratch, zone)
}

#[inline(always)]
fn find(scratch: &Scratch) -> Option<&'static DnsName> {
    let name = get!(DNS_NAMES, &scratch.key)?;
    (u32::from(name.name_len) == scratch.name_len && is_name(scratch, name)).then_some(name)
}

#[inline(always)]
fn give(skb: Skb, work: &mut Work<Addr4>, question: &Question, name: &DnsName) -> Action {
    match question.kind {
        Type::A if name.flags & DNS_HAS_A != 0 => address(skb, work, question, name),
        Type::Aaaa if name.flags & DNS_NODATA_AAAA != 0 => match DNS_ZONE.get(0) {
            Some(zone) => deny(skb, work, question, zone, 0),
            None => pass(Pass::Type),
        },
        _ => pass(Pass::Type),
    }
}

#[inline(never)]
fn address(skb: Skb, work: &mut Work<Addr4>, question: &Question, name: &DnsName) -> Action {
    let answer = reply::answer(name);
    let parts = reply::answer_parts(question, &answer);
    if !front(skb, work, question, &parts) {
        return DROP;
    }
    let at = MESSAGE + question.end;
    let mut done = skb.store(at, &answer).is_ok();
    if let Some(dnssec_ok) = question.edns {
        done &= skb.store(at + reply::ANSWER_LEN, &reply::opt(dnssec_ok)).is_ok();
    }
    count(Counter::DnsAnswered);
    if done { into_pod(skb.ifindex()) } else { DROP }
}

/// A negative answer: "no data" (0) or "no such name".
#[inline(never)]
fn deny(skb: Skb, work: &mut Work<Addr4>, question: &Question, zone: &DnsZone, rcode: u8) -> Action {
    let Some(head) = reply::soa_head(zone, work.dns.name_len) else { return pass(Pass::Type) };
    let parts = reply::negative_parts(question, &head, zone, rcode);
    if !front(skb, work, question, &parts) {
        return DROP;
    }
    let at = MESSAGE + question.end;
    let Some(rdata_len) = bounded::<SOA_MIN, SOA_MAX>(usize::from(zone.soa_len)) else { return DROP };
    let rdata_at = (at + reply::SOA_HEAD_LEN) as u32;
    let rdata = core::ptr::from_ref(&zone.soa_rdata);
    // SAFETY: `rdata_len` is at most the size of `soa_rdata`.
    let ret = unsafe { bpf_skb_store_bytes(skb.0.cast(), rdata_at, rdata.cast(), rdata_len as u32, 0) };
    let mut done = ret == 0 && skb.store(at, &head).is_ok();
    if let Some(dnssec_ok) = question.edns {
        done &= skb.store(at + reply::SOA_HEAD_LEN + rdata_len, &reply::opt(dnssec_ok)).is_ok();
    }
    count(if rcode == 0 { Counter::DnsNoData } else { Counter::DnsNoName });
    if done { into_pod(skb.ifindex()) } else { DROP }
}

/// Gives the frame its new length and its new front.
#[inline(always)]
fn front(skb: Skb, work: &mut Work<Addr4>, question: &Question, parts: &reply::Parts) -> bool {
    let Work { packet, frame, header, dns, .. } = work;
    let Some(udp) = header.first_chunk() else { return false };
    reply::front(frame, &packet.head, &packet.ip, udp, dns, question, parts);
    let len = MESSAGE + question.end + parts.len;
    skb.resize(len as u32).is_ok() && skb.store_first::<{ reply::FRONT_LEN }, _>(0, frame).is_ok()
}
