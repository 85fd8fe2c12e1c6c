//! Packets built in place of one that is refused, as [`crate::reply`] has it for IPv4: a TCP reset, an ICMPv6 "port
//! unreachable".

use strake_abi::proto;

use super::{HEAD_LEN, Head, IPV6_LEN, Ipv6};
use crate::checksum;
use crate::packet::tcp_flag::{ACK, FIN, RST, SYN};
use crate::packet::{ETH_LEN, Fragment};
use crate::reply::TAIL_LEN;

/// Bytes of a frame with a reset: Ethernet, IPv6, TCP without options.
pub const RESET_LEN: usize = HEAD_LEN + 20;
/// Bytes of a frame with an error that quotes the fixed header and 8 bytes: what receivers need. RFC 4443 (2.4) asks for
/// as much as fits into 1280; nobody reads it, and its checksum would be a loop over the packet.
pub const UNREACHABLE_LEN: usize = HEAD_LEN + 8 + IPV6_LEN + 8;

/// Room for the longest of them.
pub type Frame = [u8; 124];

const HOP_LIMIT: u8 = 64;

#[inline(always)]
pub(crate) fn put<const AT: usize, const N: usize>(out: &mut Frame, bytes: &[u8; N]) {
    let mut i = 0;
    while i < N {
        out[AT + i] = bytes[i];
        i += 1;
    }
}

/// A function of its own, so that what was just written is read again and not kept: there are more bytes than registers
/// and stack. So below.
#[inline(never)]
pub(super) fn sum<const LEN: usize>(frame: &Frame) -> u32 {
    let mut total = 0;
    let mut i = 0;
    while i < LEN {
        total += u64::from(u16::from_ne_bytes([frame[HEAD_LEN + i], frame[HEAD_LEN + i + 1]]));
        i += 2;
    }
    checksum::narrow(total)
}

/// Ethernet and IPv6 turned around.
#[inline(never)]
fn turn(out: &mut Frame, head: &Head, len: u16, protocol: u8) {
    let mut i = 0;
    while i < 6 {
        out[i] = head[6 + i];
        out[6 + i] = head[i];
        i += 1;
    }
    let [hi, lo] = len.to_be_bytes();
    put::<12, 10>(out, &[head[12], head[13], 0x60, 0, 0, 0, hi, lo, protocol, HOP_LIMIT]);
    i = 0;
    while i < 16 {
        out[22 + i] = head[38 + i];
        out[38 + i] = head[22 + i];
        i += 1;
    }
}

#[inline(never)]
fn quote(out: &mut Frame, head: &Head) {
    let mut i = 0;
    while i < IPV6_LEN {
        out[62 + i] = head[ETH_LEN + i];
        i += 1;
    }
}

/// Writes the reset that answers a segment (RFC 9293, 3.5.2) as the first [`RESET_LEN`] bytes of `out`. False if the
/// segment is itself a reset.
#[inline(always)]
pub fn tcp_reset(out: &mut Frame, head: &Head, ip: &Ipv6, tcp: &[u8; 20]) -> bool {
    let flags = tcp[13];
    if flags & RST != 0 {
        return false;
    }
    turn(out, head, 20, proto::TCP);
    put::<54, 4>(out, &[tcp[2], tcp[3], tcp[0], tcp[1]]);
    if flags & ACK != 0 {
        put::<58, 10>(out, &[tcp[8], tcp[9], tcp[10], tcp[11], 0, 0, 0, 0, 0x50, RST]);
    } else {
        let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let header = u16::from(tcp[12] >> 4) * 4;
        let data = u32::from(ip.l4_len.saturating_sub(header));
        let syn_fin = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let [a, b, c, d] = seq.wrapping_add(data).wrapping_add(syn_fin).to_be_bytes();
        put::<58, 10>(out, &[0, 0, 0, 0, a, b, c, d, 0x50, RST | ACK]);
    }
    put::<68, 6>(out, &[0; 6]);
    let pseudo_in = checksum::pseudo6(&ip.src.0, &ip.dst.0, proto::TCP, ip.l4_len);
    let pseudo = checksum::pseudo6(&ip.dst.0, &ip.src.0, proto::TCP, 20);
    let field = if checksum::is_partial(u16::from_ne_bytes([tcp[16], tcp[17]]), pseudo_in) {
        checksum::fold(pseudo)
    } else {
        checksum::finish(checksum::add(pseudo, sum::<20>(out)), false)
    };
    put::<70, 2>(out, &field.to_ne_bytes());
    true
}

/// Writes ICMPv6 "destination unreachable, port unreachable" (type 1, code 4) from the address that was asked, as the
/// first [`UNREACHABLE_LEN`] bytes of `out`; with a `tail` of what is quoted, as the first [`TAIL_LEN`] more. False if the
/// packet has extension headers, which would not be quoted.
#[inline(always)]
pub fn port_unreachable(out: &mut Frame, head: &Head, ip: &Ipv6, l4: &[u8; 8], tail: Option<&[u8; TAIL_LEN]>) -> bool {
    if ip.l4 != HEAD_LEN || matches!(ip.fragment, Fragment::Later) {
        return false;
    }
    const LEN: usize = UNREACHABLE_LEN - HEAD_LEN;
    let len = if tail.is_some() { LEN + TAIL_LEN } else { LEN } as u16;
    turn(out, head, len, proto::ICMPV6);
    put::<54, 8>(out, &[1, 4, 0, 0, 0, 0, 0, 0]);
    quote(out, head);
    put::<102, 8>(out, l4);
    let pseudo = checksum::pseudo6(&ip.dst.0, &ip.src.0, proto::ICMPV6, len);
    let total = match tail {
        Some(tail) => {
            put::<UNREACHABLE_LEN, TAIL_LEN>(out, tail);
            sum::<{ LEN + TAIL_LEN }>(out)
        }
        None => sum::<LEN>(out),
    };
    let field = checksum::finish(checksum::add(pseudo, total), false);
    put::<56, 2>(out, &field.to_ne_bytes());
    true
}
