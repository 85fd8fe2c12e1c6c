//! The bytes of an answer.

use strake_abi::dns::{DnsName, DnsZone, SOA_MAX};
use strake_abi::proto;

use super::{HEADER_LEN, Question, Scratch};
use crate::checksum;
use crate::packet::{HEAD_LEN, Head, Ipv4};
use crate::reply::{Frame, put, sum};

/// Ethernet, IPv4, UDP and DNS header.
pub const FRONT_LEN: usize = HEAD_LEN + 8 + HEADER_LEN;
/// An A record whose owner is the question's name.
pub const ANSWER_LEN: usize = 16;
/// An OPT record without options.
pub const OPT_LEN: usize = 11;
/// A SOA record up to its rdata, owner compressed.
pub const SOA_HEAD_LEN: usize = 12;

/// Response code "name error" (RFC 1035, 4.1.1).
pub const NXDOMAIN: u8 = 3;

/// What is appended to the question, one after the other, and how long it is together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Records in the answer section: 1 or 0.
    pub answers: u8,
    /// Response code: 0 or [`NXDOMAIN`].
    pub rcode: u8,
    /// Bytes of all parts.
    pub len: usize,
    /// One's complement sum of all parts, at their place.
    pub sum: u32,
}

/// A sum of bytes that begin at an odd offset counts with its bytes swapped (RFC 1071, 2.B).
#[inline(always)]
const fn placed(sum: u32, offset: usize) -> u32 {
    if offset % 2 == 1 { checksum::fold(sum).swap_bytes() as u32 } else { sum }
}

/// The A record.
#[inline(always)]
pub const fn answer(name: &DnsName) -> [u8; ANSWER_LEN] {
    let ([a, b, c, d], [t, u, v, w]) = (name.addr.octets(), name.ttl.to_be_bytes());
    [0xc0, HEADER_LEN as u8, 0, 1, 0, 1, t, u, v, w, 0, 4, a, b, c, d]
}

/// The OPT record of an answer: version 0, 1232 bytes of UDP payload (the value of DNS flag day 2020), DO as asked.
#[inline(always)]
pub const fn opt(dnssec_ok: bool) -> [u8; OPT_LEN] {
    [0, 0, 41, 0x04, 0xd0, 0, 0, if dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]
}

/// The SOA record without its rdata, for a question whose name has `name_len` bytes. `None` if the zone has no SOA or
/// is not a suffix of the name by length.
#[inline(always)]
pub const fn soa_head(zone: &DnsZone, name_len: u32) -> Option<[u8; SOA_HEAD_LEN]> {
    let zone_len = zone.zone_len as u32;
    if zone.soa_len == 0 || zone.soa_len as usize > SOA_MAX || zone_len > name_len {
        return None;
    }
    let [o0, o1] = (0xc000 | (HEADER_LEN as u32 + name_len - zone_len) as u16).to_be_bytes();
    let ([t, u, v, w], [l0, l1]) = (zone.ttl.to_be_bytes(), zone.soa_len.to_be_bytes());
    Some([o0, o1, 0, 6, 0, 1, t, u, v, w, l0, l1])
}

/// Length and sum of an answer with an A record.
#[inline(always)]
pub fn answer_parts(question: &Question, answer: &[u8; ANSWER_LEN]) -> Parts {
    let sum = placed(checksum::sum(answer), question.end);
    with_opt(question, Parts { answers: 1, rcode: 0, len: ANSWER_LEN, sum })
}

/// Length and sum of a negative answer: "no data" (`rcode` 0) or [`NXDOMAIN`].
#[inline(always)]
pub fn negative_parts(question: &Question, head: &[u8; SOA_HEAD_LEN], zone: &DnsZone, rcode: u8) -> Parts {
    let mut total = u64::from(checksum::sum(head));
    let mut i = 0;
    while i < zone.soa_rdata.len() {
        let word = u64::from_ne_bytes(zone.soa_rdata[i]);
        total += (word & 0xffff_ffff) + (word >> 32);
        i += 1;
    }
    let sum = placed(checksum::narrow(total), question.end);
    with_opt(question, Parts { answers: 0, rcode, len: SOA_HEAD_LEN + zone.soa_len as usize, sum })
}

#[inline(always)]
fn with_opt(question: &Question, parts: Parts) -> Parts {
    let Some(dnssec_ok) = question.edns else { return parts };
    let bytes = opt(dnssec_ok);
    let [a, b, c, d, e, f, g, h, i, j, k] = bytes;
    let sum = checksum::sum(&[a, b, c, d, e, f, g, h, i, j, k, 0]);
    Parts { len: parts.len + OPT_LEN, sum: checksum::add(parts.sum, placed(sum, question.end + parts.len)), ..parts }
}

/// Writes the first [`FRONT_LEN`] bytes of the reply.
///
/// The UDP checksum is what the query's was: absent, left to the device (see [`checksum::is_partial`]) or finished.
#[inline(always)]
pub fn front(
    out: &mut Frame,
    head: &Head,
    ip: &Ipv4,
    udp: &[u8; 8],
    scratch: &Scratch,
    question: &Question,
    parts: &Parts,
) {
    let udp_len = (8 + question.end + parts.len) as u16;
    crate::reply::turn(out, head, 20 + udp_len, proto::UDP);
    let [u0, u1] = udp_len.to_be_bytes();
    put::<34, 8>(out, &[udp[2], udp[3], udp[0], udp[1], u0, u1, 0, 0]);
    let [_, _, _, _, id0, id1, f0, f1] = scratch.message[0].to_ne_bytes();
    let [_, _, _, _, _, _, _, additional] = scratch.message[1].to_ne_bytes();
    // QR, AA and RD as asked; RA, CD as asked.
    let (high, low) = (0x84 | (f0 & 0x01), 0x80 | (f1 & 0x10) | parts.rcode);
    put::<42, HEADER_LEN>(out, &[id0, id1, high, low, 0, 1, 0, parts.answers, 0, 1 - parts.answers, 0, additional]);

    let field = u16::from_ne_bytes([udp[6], udp[7]]);
    let pseudo = checksum::pseudo(ip.dst.0, ip.src.0, proto::UDP, udp_len);
    let answer = if field == 0 {
        0
    } else if checksum::is_partial(field, checksum::pseudo(ip.src.0, ip.dst.0, proto::UDP, ip.l4_len)) {
        checksum::fold(pseudo)
    } else {
        let [t0, t1, c0, c1, ..] = scratch.read(question.end - 4).to_ne_bytes();
        let asked = placed(checksum::sum(&[t0, t1, c0, c1]), question.end - 4);
        let total = checksum::add(checksum::add(pseudo, sum::<34, 20>(out)), scratch.name_sum);
        checksum::finish(checksum::add(total, checksum::add(asked, parts.sum)), true)
    };
    put::<40, 2>(out, &answer.to_ne_bytes());
}
