//! Packets built by an independent implementation, and checksums computed from scratch.

extern crate std;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use std::net::Ipv6Addr;
use std::vec::Vec;

use super::*;
use crate::rewrite;

fn head(frame: &[u8]) -> Head {
    frame[..HEAD_LEN].try_into().unwrap()
}

/// The checksum of a transport segment, word by word over the pseudo header and all bytes.
fn from_scratch(frame: &[u8], at: usize, field: usize, protocol: u8) -> u16 {
    let mut bytes = frame[22..54].to_vec();
    bytes.extend_from_slice(&((frame.len() - at) as u32).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, protocol]);
    bytes.extend_from_slice(&frame[at..]);
    bytes[40 + field] = 0;
    bytes[41 + field] = 0;
    bytes.push(0);
    let sum: u64 = bytes.chunks_exact(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let mut sum = sum;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

fn field(frame: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

fn tuple() -> impl Strategy<Value = Tuple6> {
    (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u16>(), any::<u16>()).prop_map(|(src, dst, sport, dport)| Tuple {
        src: Ipv6Addr::from(src).into(),
        dst: Ipv6Addr::from(dst).into(),
        sport: Port::new(sport),
        dport: Port::new(dport),
    })
}

fn build(t: &Tuple6, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let ip = PacketBuilder::ethernet2([1; 6], [2; 6]).ipv6(t.src.octets(), t.dst.octets(), 64);
    let mut frame = Vec::new();
    match protocol {
        proto::TCP => ip.tcp(t.sport.get(), t.dport.get(), 7, 100).write(&mut frame, payload).unwrap(),
        proto::UDP => ip.udp(t.sport.get(), t.dport.get()).write(&mut frame, payload).unwrap(),
        _ => ip.icmpv6_echo_request(t.sport.get(), 1).write(&mut frame, payload).unwrap(),
    }
    frame
}

fn fixed(head: &Head, len: u32) -> Result<Ipv6, Malformed> {
    let (src, dst) = (Addr6::ANY, Addr6::ANY);
    let mut ip =
        Ip { src, dst, proto: 0, ttl: 0, fragment: Fragment::Later, id: 1, offset: 9, more: true, l4: 0, l4_len: 0 };
    super::fixed(&mut ip, head, len).map(|()| ip)
}

/// Walks as the programs do.
fn walk(frame: &[u8], ip: &mut Ipv6) -> Result<(), Step> {
    for _ in 0..=MAX_HEADERS {
        if !is_extension(ip.proto) {
            return Ok(());
        }
        let bytes = frame.get(ip.l4..ip.l4 + 8).ok_or(Step::Malformed)?;
        match step(ip, bytes.try_into().unwrap()) {
            Step::On => {}
            Step::Data => return Ok(()),
            other => return Err(other),
        }
    }
    Err(Step::Odd)
}

/// Puts extension headers in front of the transport header of a frame.
fn extend(frame: &[u8], headers: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut out = frame[..HEAD_LEN].to_vec();
    let mut at = 20;
    for (number, body) in headers {
        out[at] = *number;
        at = out.len();
        out.extend_from_slice(body);
        out[at] = frame[20];
    }
    out.extend_from_slice(&frame[HEAD_LEN..]);
    let len = (out.len() - HEAD_LEN) as u16;
    out[18..20].copy_from_slice(&len.to_be_bytes());
    out
}

fn options(words: u8) -> Vec<u8> {
    let mut body = std::vec![0; 8 * (usize::from(words) + 1)];
    body[1] = words;
    body
}

proptest! {
    #[test]
    fn agrees_with_an_independent_parser(t in tuple(), payload in proptest::collection::vec(any::<u8>(), 0..64)) {
        let frame = build(&t, proto::UDP, &payload);
        let ip = fixed(&head(&frame), frame.len() as u32).unwrap();
        prop_assert_eq!((ip.src, ip.dst), (t.src, t.dst));
        prop_assert_eq!((ip.proto, ip.ttl, ip.l4, ip.fragment), (17, 64, 54, Fragment::No));
        prop_assert_eq!(usize::from(ip.l4_len), 8 + payload.len());
        let l4: [u8; 8] = frame[54..62].try_into().unwrap();
        prop_assert_eq!(Addr6::transport(17, &l4), Transport::Ports { sport: t.sport, dport: t.dport });
        prop_assert_eq!(fixed(&head(&frame), frame.len() as u32 - 1), Err(Malformed));
    }

    #[test]
    fn a_walk_ends_at_the_transport_header(t in tuple(), hop in 0u8..3, routing in 0u8..3, auth in 1u8..5, dest in 0u8..3) {
        let frame = build(&t, proto::TCP, b"payload");
        let mut auth_body = std::vec![0; 4 * (usize::from(auth) + 2)];
        auth_body[1] = auth;
        let mut fragment = std::vec![0; 8];
        fragment[4..].copy_from_slice(&[1, 2, 3, 4]);
        let all = [(0, options(hop)), (43, options(routing)), (44, fragment), (51, auth_body), (60, options(dest))];
        for count in 0..=all.len() {
            let long = extend(&frame, &all[..count]);
            let mut ip = fixed(&head(&long), long.len() as u32).unwrap();
            prop_assert_eq!(walk(&long, &mut ip), Ok(()));
            prop_assert_eq!((ip.proto, ip.fragment), (proto::TCP, Fragment::No), "an atomic fragment is whole");
            prop_assert_eq!(&long[ip.l4..], &frame[54..]);
            prop_assert_eq!(usize::from(ip.l4_len), frame.len() - 54);
        }
    }

    #[test]
    fn arbitrary_chains_never_point_outside_the_packet(numbers in proptest::collection::vec(prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60), any::<u8>()], 1..9), bytes in proptest::collection::vec(any::<u8>(), 54..400)) {
        let mut frame = bytes;
        frame[14] = 0x60;
        frame[20] = numbers[0];
        let len = (frame.len() - HEAD_LEN) as u16;
        frame[18..20].copy_from_slice(&len.to_be_bytes());
        let mut ip = fixed(&head(&frame), frame.len() as u32).unwrap();
        if walk(&frame, &mut ip).is_ok() {
            prop_assert_eq!(ip.l4 + usize::from(ip.l4_len), frame.len());
        }
    }

    /// A packet rewritten with the differences has the checksum that one built anew has.
    #[test]
    fn rewritten_equals_built(old in tuple(), new in tuple(), which in 0usize..3, payload in proptest::collection::vec(any::<u8>(), 0..50)) {
        let protocol = [proto::TCP, proto::UDP, proto::ICMPV6][which];
        let (old, new) = if protocol == proto::ICMPV6 { (Tuple { dport: Port(0), ..old }, Tuple { dport: Port(0), ..new }) } else { (old, new) };
        let mut frame = build(&old, protocol, &payload);
        let at = 54 + Addr6::checksum_offset(protocol).unwrap();
        prop_assert_eq!(field(&frame, at) % 0xffff, from_scratch(&frame, 54, at - 54, protocol) % 0xffff);
        let d = rewrite::differences(protocol, &old, &new);
        frame[22..38].copy_from_slice(&new.src.octets());
        frame[38..54].copy_from_slice(&new.dst.octets());
        if protocol == proto::ICMPV6 {
            frame[58..60].copy_from_slice(&rewrite::echo_id(&new).0.to_ne_bytes());
        } else {
            frame[54..58].copy_from_slice(&rewrite::ports(&new));
        }
        let sum = u16::from_ne_bytes([frame[at], frame[at + 1]]);
        let sum = checksum::update(checksum::update(sum, d.addresses), d.ports);
        frame[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
        prop_assert_eq!(field(&frame, at) % 0xffff, from_scratch(&frame, 54, at - 54, protocol) % 0xffff);
    }

    #[test]
    fn reset_is_what_rfc_9293_says(t in tuple(), seq in any::<u32>(), ack in any::<u32>(), flags in any::<u8>(), payload in proptest::collection::vec(any::<u8>(), 0..30)) {
        use crate::packet::tcp_flag::{ACK, FIN, RST, SYN};
        let mut frame = build(&t, proto::TCP, &payload);
        frame[58..62].copy_from_slice(&seq.to_be_bytes());
        frame[62..66].copy_from_slice(&ack.to_be_bytes());
        frame[67] = flags;
        let sum = from_scratch(&frame, 54, 16, proto::TCP);
        frame[70..72].copy_from_slice(&sum.to_be_bytes());
        let ip = fixed(&head(&frame), frame.len() as u32).unwrap();
        let mut out: reply::Frame = [0xee; _];
        let done = reply::tcp_reset(&mut out, &head(&frame), &ip, frame[54..74].try_into().unwrap());
        prop_assert_eq!(done, flags & RST == 0);
        if !done {
            return Ok(());
        }
        let sliced = SlicedPacket::from_ethernet(&out[..reply::RESET_LEN]).unwrap();
        let Some(NetSlice::Ipv6(ip)) = sliced.net else { panic!("not IPv6") };
        let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("not TCP") };
        prop_assert_eq!((ip.header().source(), ip.header().destination()), (t.dst.octets(), t.src.octets()));
        prop_assert_eq!(tcp.checksum() % 0xffff, from_scratch(&out[..reply::RESET_LEN], 54, 16, proto::TCP) % 0xffff);
        prop_assert!(tcp.rst() && tcp.source_port() == t.dport.get() && tcp.destination_port() == t.sport.get());
        if flags & ACK != 0 {
            prop_assert!(tcp.sequence_number() == ack && !tcp.ack());
        } else {
            let len = payload.len() as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            prop_assert!(tcp.sequence_number() == 0 && tcp.ack());
            prop_assert_eq!(tcp.acknowledgment_number(), seq.wrapping_add(len));
        }
    }

    #[test]
    fn unreachable_quotes_the_packet(long in any::<bool>(), t in tuple(), payload in proptest::collection::vec(any::<u8>(), 12..30)) {
        let frame = build(&t, proto::UDP, &payload);
        let ip = fixed(&head(&frame), frame.len() as u32).unwrap();
        let mut out: reply::Frame = [0xee; _];
        let tail = long.then(|| frame[62..74].try_into().unwrap());
        let quoted = if long { 60 } else { 48 };
        prop_assert!(reply::port_unreachable(&mut out, &head(&frame), &ip, frame[54..62].try_into().unwrap(), tail));
        let out = &out[..62 + quoted];
        prop_assert_eq!(&out[54..56], &[1, 4]);
        prop_assert_eq!(field(out, 56) % 0xffff, from_scratch(out, 54, 2, proto::ICMPV6) % 0xffff);
        prop_assert_eq!(&out[62..], &frame[14..14 + quoted]);
        prop_assert_eq!(usize::from(field(out, 18)), 8 + quoted);
        prop_assert_eq!((&out[22..38], &out[38..54]), (&frame[38..54], &frame[22..38]));
    }
}

#[test]
fn odd_chains_are_told() {
    let t = Tuple { src: Addr6([1; 4]), dst: Addr6([2; 4]), sport: Port::new(1), dport: Port::new(2) };
    let frame = build(&t, proto::TCP, &[]);
    let try_chain = |headers: &[(u8, Vec<u8>)]| {
        let long = extend(&frame, headers);
        let mut ip = fixed(&head(&long), long.len() as u32).unwrap();
        walk(&long, &mut ip).map(|()| ip)
    };
    let many: Vec<_> = (0..=MAX_HEADERS).map(|_| (60, options(0))).collect();
    assert_eq!(try_chain(&many[1..]).map(|ip| ip.proto), Ok(proto::TCP));
    assert_eq!(try_chain(&many), Err(Step::Odd));
    assert_eq!(try_chain(&[(60, options(0)), (0, options(0))]), Err(Step::Odd), "hop-by-hop is the first");
    let mut routing = options(0);
    routing[3] = 1;
    assert_eq!(try_chain(&[(43, routing)]), Err(Step::Odd), "segments left");
    let mut long = options(0);
    long[1] = 200;
    assert_eq!(try_chain(&[(60, long)]), Err(Step::Malformed));
    for (bits, fragment) in [(1u16, Fragment::First), (8, Fragment::Later), (9, Fragment::Later), (0, Fragment::No)] {
        let mut body = std::vec![0; 8];
        body[2..4].copy_from_slice(&bits.to_be_bytes());
        body[4..].copy_from_slice(&[9, 8, 7, 6]);
        let ip = try_chain(&[(44, body)]).unwrap();
        assert_eq!((ip.fragment, ip.id, ip.proto), (fragment, u32::from_ne_bytes([9, 8, 7, 6]), proto::TCP));
    }
}
