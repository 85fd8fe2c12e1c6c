//! What must hold for any bytes: no panic, nothing read or written outside of the frame, and where an independent parser
//! understands the bytes too, the same reading. Run on the corpus by `corpus.rs`, and on whatever libFuzzer thinks of by
//! `cargo xtask fuzz`.

use etherparse::{NetSlice, SlicedPacket};
use strake_abi::conntrack::{Tuple, Tuple4, Tuple6};
use strake_abi::dns::DnsZone;
use strake_abi::{Addr4, Addr6, Port, proto};
use strake_logic::packet::{ETH_LEN, Fragment, HEAD_LEN, IPV4_LEN, Ip};
use strake_logic::{arp, checksum, dns, icmp, ipv6, packet, reply, sctp};

/// By name, which is that of the corpus's folder too.
pub const TARGETS: [(&str, fn(&[u8])); 4] =
    [("ipv4", ipv4), ("ipv6", ipv6_frame), ("dns", dns_message), ("arp", arp_message)];

/// The bytes of a file of the corpus: two digits each, lines that begin with `#` are for people.
#[allow(dead_code, reason = "libFuzzer gives bytes")]
pub fn from_hex(text: &str) -> Vec<u8> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.flat_map(str::split_whitespace).map(|byte| u8::from_str_radix(byte, 16).expect("two digits")).collect()
}

/// `N` bytes of the frame, if it has them.
fn bytes<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The sum of all 16-bit words, an odd byte last.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(0, |sum, pair| {
        checksum::add(sum, u16::from_ne_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]).into())
    })
}

/// Whether a message with its checksum in it, and the sum of its pseudo header, is whole. Zero has two forms.
fn is_whole(pseudo: u32, message: &[u8]) -> bool {
    matches!(checksum::fold(checksum::add(pseudo, sum(message))), 0 | 0xffff)
}

fn ipv4(frame: &[u8]) {
    let Some(head) = bytes::<HEAD_LEN>(frame, 0) else { return };
    let Ok(ip) = packet::ipv4(&head, frame.len() as u32) else { return };
    let end = ip.l4 + usize::from(ip.l4_len);
    assert!((HEAD_LEN..=HEAD_LEN + 40).contains(&ip.l4) && end <= frame.len());
    if packet::ether_type(head.first_chunk().unwrap()) == 0x0800
        && let Ok(SlicedPacket { net: Some(NetSlice::Ipv4(other)), .. }) = SlicedPacket::from_ethernet(frame)
    {
        let other = other.header();
        assert_eq!((ip.src, ip.dst), (Addr4::new(other.source()), Addr4::new(other.destination())));
        assert_eq!((ip.proto, ip.ttl), (other.protocol().0, other.ttl()));
        let fragment = match (other.fragments_offset().value(), other.more_fragments()) {
            (0, false) => Fragment::No,
            (0, true) => Fragment::First,
            _ => Fragment::Later,
        };
        assert_eq!(ip.fragment, fragment);
    }
    let mut out: reply::Frame = [0xee; _];
    if ip.proto == proto::TCP
        && let Some(tcp) = bytes(&frame[..end], ip.l4)
        && reply::tcp_reset(&mut out, &head, &ip, &tcp)
    {
        assert!(out[reply::RESET_LEN..].iter().all(|byte| *byte == 0xee));
        assert!(is_whole(0, &out[ETH_LEN..HEAD_LEN]));
        let field = u16::from_ne_bytes([out[50], out[51]]);
        let pseudo = checksum::pseudo(ip.dst.0, ip.src.0, proto::TCP, 20);
        assert!(is_whole(pseudo, &out[34..54]) || field == checksum::fold(pseudo));
    }
    let Some(l4) = bytes::<8>(&frame[..end], ip.l4) else { return };
    for tail in [None, bytes(&frame[..end], ip.l4 + 8)] {
        let mut out: reply::Frame = [0xee; _];
        let end = reply::UNREACHABLE_LEN + tail.map_or(0, |_| reply::TAIL_LEN);
        if reply::port_unreachable(&mut out, &head, &ip, &l4, tail.as_ref()) {
            assert!(is_whole(0, &out[ETH_LEN..HEAD_LEN]) && is_whole(0, &out[34..end]));
            assert!(out[end..].iter().all(|byte| *byte == 0xee));
        }
    }
    if ip.proto == proto::SCTP {
        sctp_packet(&frame[ip.l4..end]);
    }
    if ip.proto == proto::ICMP && packet::transport(ip.proto, &l4) == packet::Transport::IcmpError {
        icmp_error(&frame[..end], &ip);
    }
}

/// A translated error is whole where it was whole before.
fn icmp_error(frame: &[u8], ip: &packet::Ipv4) {
    let at = ip.l4 + 8;
    let Some(inner) = bytes::<IPV4_LEN>(frame, at) else { return };
    let Some(len) = icmp::quoted_header_len(&inner) else { return };
    let Some(l4) = bytes::<8>(frame, at + len) else { return };
    let Some(quoted) = icmp::quoted(&inner, &l4) else { return };
    let error = icmp::Error { src: ip.src, dst: ip.dst, ip: inner, l4, quoted };
    let to = Tuple4 {
        src: Addr4::new([10, 96, 0, 7]),
        dst: quoted.tuple.src,
        sport: Port::new(80),
        dport: quoted.tuple.sport,
    };
    let mut out = icmp::Rewrite::default();
    icmp::translate(&mut out, &error, &to);
    let before = &frame[ip.l4..];
    if !is_whole(0, before) {
        return;
    }
    let mut after = before.to_vec();
    after[18..28].copy_from_slice(&out.inner);
    after[8 + len..16 + len].copy_from_slice(&out.inner_l4);
    let field = checksum::update(u16::from_ne_bytes([after[2], after[3]]), out.icmp_difference);
    after[2..4].copy_from_slice(&field.to_ne_bytes());
    assert!(is_whole(0, &after));
}

/// Its chunks are read where there are chunks, and other ports change its checksum as they should.
fn sctp_packet(packet: &[u8]) {
    let read = |at: u32| {
        assert!(at.is_multiple_of(4) && (12..=packet.len() - 4).contains(&(at as usize)));
        bytes(packet, at as usize)
    };
    sctp::flags(packet.len() as u16, read);
    let (Some(ports), Some(field)) = (bytes::<4>(packet, 0), bytes::<4>(packet, 8)) else { return };
    let (new, mut after) = ([0x1f, 0x90, 0x75, 0x30], packet.to_vec());
    after[..4].copy_from_slice(&new);
    let updated = u32::from_le_bytes(sctp::update(field, ports, new, packet.len() as u16));
    assert_eq!(updated ^ u32::from_le_bytes(field), crc32c(packet) ^ crc32c(&after));
}

/// Bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let feed = |register: u32, byte: &u8| {
        (0..8).fold(register ^ u32::from(*byte), |r, _| (r >> 1) ^ if r & 1 == 1 { 0x82f6_3b78 } else { 0 })
    };
    !bytes.iter().fold(u32::MAX, feed)
}

fn ipv6_frame(frame: &[u8]) {
    let Some(head) = bytes::<{ ipv6::HEAD_LEN }>(frame, 0) else { return };
    let any = Addr6::ANY;
    let mut ip = Ip {
        src: any,
        dst: any,
        proto: 0,
        ttl: 0,
        fragment: Fragment::No,
        id: 0,
        offset: 0,
        more: false,
        l4: 0,
        l4_len: 0,
    };
    if ipv6::fixed(&mut ip, &head, frame.len() as u32).is_err() {
        return;
    }
    let end = ip.l4 + usize::from(ip.l4_len);
    assert!(end <= frame.len());
    if !walk(&frame[..end], &mut ip, end) {
        return;
    }
    let segment = end - ip.l4;
    let mut out: ipv6::reply::Frame = [0xee; _];
    if ip.proto == proto::TCP
        && let Some(tcp) = bytes(&frame[..end], ip.l4)
        && ipv6::reply::tcp_reset(&mut out, &head, &ip, &tcp)
    {
        assert!(out[ipv6::reply::RESET_LEN..].iter().all(|byte| *byte == 0xee));
        let partial = u16::from_ne_bytes([tcp[16], tcp[17]]) == checksum::fold(pseudo6(frame, segment, proto::TCP));
        assert!(partial || is_whole(pseudo6(&out, 20, proto::TCP), &out[ipv6::HEAD_LEN..ipv6::reply::RESET_LEN]));
    }
    let Some(l4) = bytes::<8>(&frame[..end], ip.l4) else { return };
    for tail in [None, bytes(&frame[..end], ip.l4 + 8)] {
        if ipv6::reply::port_unreachable(&mut out, &head, &ip, &l4, tail.as_ref()) {
            let end = ipv6::reply::UNREACHABLE_LEN + tail.map_or(0, |_| reply::TAIL_LEN);
            let message = &out[ipv6::HEAD_LEN..end];
            assert!(is_whole(pseudo6(&out, message.len(), proto::ICMPV6), message));
        }
    }
    if ip.proto == proto::SCTP {
        sctp_packet(&frame[ip.l4..end]);
    }
    let at = ip.l4 + 8;
    if ip.proto == proto::ICMPV6
        && (1..=4).contains(&l4[0])
        && let Some(fixed) = bytes::<{ ipv6::IPV6_LEN }>(frame, at)
        && let Some(mut quoted) = ipv6::icmp::quoted(&fixed, at)
    {
        let promised = quoted.l4 + usize::from(quoted.l4_len);
        if walk(&frame[..end], &mut quoted, promised)
            && let Some(inner) = bytes::<8>(&frame[..end], quoted.l4)
            && let Some(tuple) = ipv6::icmp::tuple(&quoted, &inner)
        {
            let error = ipv6::icmp::Error { src: ip.src, dst: ip.dst, fixed, ip: quoted, l4: inner, tuple };
            let to: Tuple6 = Tuple { src: any, dst: tuple.src, sport: Port::new(80), dport: tuple.sport };
            ipv6::icmp::translate(&mut ipv6::icmp::Rewrite::default(), &error, &to);
        }
    }
}

/// The sum of the pseudo header (RFC 8200, 8.1).
fn pseudo6(frame: &[u8], len: usize, protocol: u8) -> u32 {
    let mut pseudo = frame[22..ipv6::HEAD_LEN].to_vec();
    pseudo.extend((len as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    sum(&pseudo)
}

/// Goes along the chain as the programs do; whether there is a transport header at its end, in front of `end`.
fn walk(frame: &[u8], ip: &mut ipv6::Ipv6, end: usize) -> bool {
    for _ in 0..ipv6::MAX_HEADERS {
        if !ipv6::is_extension(ip.proto) {
            return true;
        }
        let Some(bytes) = bytes::<8>(frame, ip.l4) else { return false };
        let before = ip.l4;
        match ipv6::step(ip, &bytes) {
            ipv6::Step::On => assert!(ip.l4 > before && ip.l4 + usize::from(ip.l4_len) == end),
            ipv6::Step::Data => return false,
            ipv6::Step::Malformed | ipv6::Step::Odd => return false,
        }
    }
    false
}

fn arp_message(frame: &[u8]) {
    let Some(message) = bytes(frame, ETH_LEN) else { return };
    arp::is_sane(&message, &[2, 0, 0, 0, 0, 5], Addr4::new([10, 244, 0, 5]));
}

fn dns_message(message: &[u8]) {
    let mut scratch = dns::Scratch::new();
    let room = dns::MESSAGE_WORDS * 8 - dns::MESSAGE_AT;
    let message = &message[..message.len().min(room)];
    let mut words = vec![0_u8; dns::MESSAGE_WORDS * 8];
    words[dns::MESSAGE_AT..dns::MESSAGE_AT + message.len()].copy_from_slice(message);
    for (word, bytes) in scratch.message.iter_mut().zip(words.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    if !dns::scan(&mut scratch) {
        return;
    }
    let name_len = scratch.name_len;
    assert!(name_len as usize <= strake_abi::dns::NAME_MAX);
    dns::is_impossible(&scratch, &DnsZone::default());
    if dns::is_query(&scratch) {
        let _ = dns::question(&scratch, name_len, message.len());
    }
}
