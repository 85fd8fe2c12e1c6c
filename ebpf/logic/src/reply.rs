//! Packets built in place of one that is refused: a TCP reset, an ICMP "port unreachable".
//!
//! Each is the frame's own bytes turned around, so it goes back out of the interface it came in by.

use strake_abi::proto;

use crate::checksum;
use crate::packet::tcp_flag::{ACK, FIN, RST, SYN};
use crate::packet::{ETH_LEN, HEAD_LEN, Head, IPV4_LEN, Ipv4};

/// Bytes of a frame with a reset: Ethernet, IPv4, TCP without options.
pub const RESET_LEN: usize = HEAD_LEN + 20;
/// Bytes of a frame with an ICMP error that quotes a header without options and 8 bytes (RFC 792).
pub const UNREACHABLE_LEN: usize = HEAD_LEN + 8 + IPV4_LEN + 8;

/// Bytes more that are quoted of an SCTP packet: the first chunk of an INIT, by whose tag its sender knows it (RFC 9260, 10).
pub const TAIL_LEN: usize = 12;

/// Room for the longest front of a packet that is built in place. Callers own it (per-CPU memory in the kernel): arrays
/// that are returned by value would be taken apart by the compiler, byte by byte, and fill the stack.
pub type Frame = [u8; 84];

/// Time to live of what is built here (RFC 1700's default).
const TTL: u8 = 64;

/// Copies `N` bytes to a constant place.
#[inline(always)]
pub(crate) fn put<const AT: usize, const N: usize>(out: &mut Frame, bytes: &[u8; N]) {
    let mut i = 0;
    while i < N {
        out[AT + i] = bytes[i];
        i += 1;
    }
}

/// Sum of `LEN` bytes (even) at a constant place.
#[inline(always)]
pub(crate) fn sum<const AT: usize, const LEN: usize>(frame: &Frame) -> u32 {
    let mut total = 0;
    let mut i = 0;
    while i < LEN {
        total += u64::from(u16::from_ne_bytes([frame[AT + i], frame[AT + i + 1]]));
        i += 2;
    }
    checksum::narrow(total)
}

/// Ethernet and IPv4 turned around, with a new length, protocol and checksum. Options are not kept.
#[inline(always)]
pub(crate) fn turn(out: &mut Frame, head: &Head, total: u16, protocol: u8) {
    let mut i = 0;
    while i < 6 {
        out[i] = head[6 + i];
        out[6 + i] = head[i];
        i += 1;
    }
    let [hi, lo] = total.to_be_bytes();
    // Version 4, 5 words; identification 0 is right for what is never fragmented (DF set, RFC 6864).
    put::<12, 14>(out, &[head[12], head[13], 0x45, 0, hi, lo, 0, 0, 0x40, 0, TTL, protocol, 0, 0]);
    i = 0;
    while i < 4 {
        out[26 + i] = head[30 + i];
        out[30 + i] = head[26 + i];
        i += 1;
    }
    let field = checksum::finish(sum::<ETH_LEN, IPV4_LEN>(out), false);
    put::<24, 2>(out, &field.to_ne_bytes());
}

/// Writes the reset that answers a segment (RFC 9293, 3.5.2: "if the connection does not exist") as the first
/// [`RESET_LEN`] bytes of `out`. False if the segment is itself a reset.
#[inline(always)]
pub fn tcp_reset(out: &mut Frame, head: &Head, ip: &Ipv4, tcp: &[u8; 20]) -> bool {
    let flags = tcp[13];
    if flags & RST != 0 {
        return false;
    }
    turn(out, head, (IPV4_LEN + 20) as u16, proto::TCP);
    put::<34, 4>(out, &[tcp[2], tcp[3], tcp[0], tcp[1]]);
    if flags & ACK != 0 {
        put::<38, 10>(out, &[tcp[8], tcp[9], tcp[10], tcp[11], 0, 0, 0, 0, 0x50, RST]);
    } else {
        let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let header = u16::from(tcp[12] >> 4) * 4;
        let data = u32::from(ip.l4_len.saturating_sub(header));
        let syn_fin = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let [a, b, c, d] = seq.wrapping_add(data).wrapping_add(syn_fin).to_be_bytes();
        put::<38, 10>(out, &[0, 0, 0, 0, a, b, c, d, 0x50, RST | ACK]);
    }
    put::<48, 6>(out, &[0; 6]);
    let pseudo_in = checksum::pseudo(ip.src.0, ip.dst.0, proto::TCP, ip.l4_len);
    let pseudo = checksum::pseudo(ip.dst.0, ip.src.0, proto::TCP, 20);
    let field = if checksum::is_partial(u16::from_ne_bytes([tcp[16], tcp[17]]), pseudo_in) {
        checksum::fold(pseudo)
    } else {
        checksum::finish(checksum::add(pseudo, sum::<34, 20>(out)), false)
    };
    put::<50, 2>(out, &field.to_ne_bytes());
    true
}

/// Writes ICMP "destination unreachable, port unreachable" (type 3, code 3) from the address that was asked, as the first
/// [`UNREACHABLE_LEN`] bytes of `out`; with a `tail` of what is quoted, as the first [`TAIL_LEN`] more. False if the packet
/// has IPv4 options (they would not be quoted) or is a later fragment (RFC 1122, 3.2.2).
#[inline(always)]
pub fn port_unreachable(out: &mut Frame, head: &Head, ip: &Ipv4, l4: &[u8; 8], tail: Option<&[u8; TAIL_LEN]>) -> bool {
    if ip.l4 != HEAD_LEN || matches!(ip.fragment, crate::packet::Fragment::Later) {
        return false;
    }
    let more = if tail.is_some() { TAIL_LEN } else { 0 };
    turn(out, head, (UNREACHABLE_LEN - ETH_LEN + more) as u16, proto::ICMP);
    put::<34, 8>(out, &[3, 3, 0, 0, 0, 0, 0, 0]);
    let mut i = 0;
    while i < IPV4_LEN {
        out[42 + i] = head[ETH_LEN + i];
        i += 1;
    }
    put::<62, 8>(out, l4);
    let mut total = sum::<34, 36>(out);
    if let Some(tail) = tail {
        put::<UNREACHABLE_LEN, TAIL_LEN>(out, tail);
        total = checksum::add(total, sum::<UNREACHABLE_LEN, TAIL_LEN>(out));
    }
    let field = checksum::finish(total, false);
    put::<36, 2>(out, &field.to_ne_bytes());
    true
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::packet;
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;
    use std::vec::Vec;

    fn head(frame: &[u8]) -> Head {
        frame[..HEAD_LEN].try_into().unwrap()
    }

    fn pseudo(src: [u8; 4], dst: [u8; 4], len: u16) -> u32 {
        checksum::pseudo(u32::from_ne_bytes(src), u32::from_ne_bytes(dst), proto::TCP, len)
    }

    /// A segment of this machine has only the pseudo header summed; so has its answer, which the device then finishes.
    #[test]
    fn an_unfinished_checksum_is_answered_with_an_unfinished_one() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([1; 6], [2; 6])
            .ipv4([10, 0, 0, 1], [10, 96, 0, 7], 64)
            .tcp(4000, 80, 7, 100)
            .syn()
            .write(&mut frame, &[])
            .unwrap();
        let finished: [u8; 20] = frame[34..54].try_into().unwrap();
        let mut partial = finished;
        partial[16..18].copy_from_slice(&checksum::fold(pseudo([10, 0, 0, 1], [10, 96, 0, 7], 20)).to_ne_bytes());
        let ip = packet::ipv4(&head(&frame), frame.len() as u32).unwrap();
        let [mut whole, mut half]: [Frame; 2] = [[0; _]; 2];
        assert!(tcp_reset(&mut whole, &head(&frame), &ip, &finished));
        assert!(tcp_reset(&mut half, &head(&frame), &ip, &partial));
        assert_eq!(half[50..52], checksum::fold(pseudo([10, 96, 0, 7], [10, 0, 0, 1], 20)).to_ne_bytes());
        // What the device makes of it: the sum of the segment with the field as it stands.
        let device = checksum::finish(sum::<34, 20>(&half), false);
        assert_eq!(whole[50..52], device.to_ne_bytes());
    }

    proptest! {
        #[test]
        fn reset_is_what_rfc_9293_says(sport in any::<u16>(), dport in any::<u16>(), seq in any::<u32>(), ack in any::<u32>(), flags in any::<u8>(), payload in proptest::collection::vec(any::<u8>(), 0..30)) {
            let mut frame = Vec::new();
            let mut builder = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([10, 0, 0, 1], [10, 96, 0, 7], 64).tcp(sport, dport, seq, 100);
            if flags & FIN != 0 { builder = builder.fin(); }
            if flags & SYN != 0 { builder = builder.syn(); }
            if flags & RST != 0 { builder = builder.rst(); }
            if flags & ACK != 0 { builder = builder.ack(ack); }
            builder.write(&mut frame, &payload).unwrap();
            let ip = packet::ipv4(&head(&frame), frame.len() as u32).unwrap();
            let mut out: Frame = [0xee; _];
            let done = tcp_reset(&mut out, &head(&frame), &ip, frame[34..54].try_into().unwrap());
            if flags & RST != 0 {
                prop_assert!(!done);
                return Ok(());
            }
            prop_assert!(done);
            let sliced = SlicedPacket::from_ethernet(&out[..RESET_LEN]).unwrap();
            let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("not IPv4") };
            let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
            prop_assert_eq!(ip.header().source(), [10, 96, 0, 7]);
            prop_assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
            let asked = u16::from_ne_bytes([frame[50], frame[51]]);
            if checksum::is_partial(asked, pseudo([10, 0, 0, 1], [10, 96, 0, 7], (frame.len() - HEAD_LEN) as u16)) {
                // One finished checksum in 65536 looks unfinished, and is answered in kind.
                prop_assert_eq!(tcp.checksum().to_be(), checksum::fold(pseudo([10, 96, 0, 7], [10, 0, 0, 1], 20)));
            } else {
                prop_assert_eq!(tcp.calc_checksum_ipv4([10, 96, 0, 7], [10, 0, 0, 1]).ok().map(|c| c % 0xffff), Some(tcp.checksum() % 0xffff));
            }
            prop_assert!(tcp.rst() && tcp.source_port() == dport && tcp.destination_port() == sport);
            if flags & ACK != 0 {
                prop_assert!(tcp.sequence_number() == ack && !tcp.ack());
            } else {
                let len = payload.len() as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
                prop_assert!(tcp.sequence_number() == 0 && tcp.ack());
                prop_assert_eq!(tcp.acknowledgment_number(), seq.wrapping_add(len));
            }
        }

        #[test]
        fn unreachable_quotes_the_packet(long in any::<bool>(), sport in any::<u16>(), dport in any::<u16>(), payload in proptest::collection::vec(any::<u8>(), 12..30)) {
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([10, 0, 0, 1], [10, 96, 0, 7], 64).udp(sport, dport).write(&mut frame, &payload).unwrap();
            let ip = packet::ipv4(&head(&frame), frame.len() as u32).unwrap();
            let mut out: Frame = [0xee; _];
            let tail = long.then(|| frame[42..54].try_into().unwrap());
            let quoted = if long { 40 } else { 28 };
            prop_assert!(port_unreachable(&mut out, &head(&frame), &ip, frame[34..42].try_into().unwrap(), tail));
            let sliced = SlicedPacket::from_ethernet(&out[..42 + quoted]).unwrap();
            let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("not IPv4") };
            let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("not ICMP") };
            prop_assert_eq!(ip.header().destination(), [10, 0, 0, 1]);
            prop_assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
            prop_assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, 3));
            prop_assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()) % 0xffff, icmp.checksum() % 0xffff);
            prop_assert_eq!(icmp.payload(), &frame[14..14 + quoted]);
        }
    }
}
