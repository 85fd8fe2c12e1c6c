//! Packets in packets: IPv4 in IPv4 (RFC 2003) and IPv6 in IPv6 (RFC 2473), as a node sends on what another answers.
//!
//! ```text
//!  | Ethernet | IP: node -> Pod | IP: client -> VIP | TCP / UDP ...
//!             |---- outer ------|---- as it came, one hop less
//! ```
//!
//! The outer header carries a number of 16 bits: the identification of IPv4, part of the flow label of IPv6. Who makes
//! segments of a packet may count the former up, so only that of a packet with one segment is to be believed.
//!
//! May not know: which packets are sent so, and to whom.

use strake_abi::{Addr4, Addr6, Port};

use crate::checksum;
use crate::packet::{ETH_LEN, IPV4_LEN};
use crate::{ipv6, packet, reply};

/// Protocol number of IPv4 as payload.
pub const IPIP: u8 = 4;
/// Next header of IPv6 as payload.
pub const IP6IP6: u8 = 41;
/// Bytes of an IPv6 header.
pub const IPV6_LEN: usize = 40;
/// Hops of an outer header: as many as of any packet of the node.
const HOPS: u8 = 64;

/// The number that an outer IPv4 header carries.
#[inline(always)]
pub fn carried4(head: &packet::Head) -> Port {
    Port::new(u16::from_be_bytes([head[ETH_LEN + 4], head[ETH_LEN + 5]]))
}

/// The number that an outer IPv6 header carries.
#[inline(always)]
pub fn carried6(head: &ipv6::Head) -> Port {
    Port::new(u16::from_be_bytes([head[ETH_LEN + 2], head[ETH_LEN + 3]]))
}

/// Writes the outer IPv4 header of `inner_len` bytes of IPv4 as the first 20 bytes of `out`. False if both do not fit into
/// one packet.
#[inline(always)]
pub fn outer4(out: &mut reply::Frame, src: Addr4, dst: Addr4, carried: Port, inner_len: u32) -> bool {
    let total = inner_len + IPV4_LEN as u32;
    if total > 0xffff {
        return false;
    }
    let [hi, lo] = (total as u16).to_be_bytes();
    // Never fragmented, so the identification is free (RFC 6864).
    let [first, second] = carried.get().to_be_bytes();
    reply::put::<0, 12>(out, &[0x45, 0, hi, lo, first, second, 0x40, 0, HOPS, IPIP, 0, 0]);
    reply::put::<12, 4>(out, &src.octets());
    reply::put::<16, 4>(out, &dst.octets());
    let field = checksum::finish(reply::sum::<0, IPV4_LEN>(out), false);
    reply::put::<10, 2>(out, &field.to_ne_bytes());
    true
}

/// Writes the outer IPv6 header of `inner_len` bytes of IPv6 as the first 40 bytes of `out`. False if it has no room to say
/// so many.
#[inline(always)]
pub fn outer6(out: &mut ipv6::reply::Frame, src: &Addr6, dst: &Addr6, carried: Port, inner_len: u32) -> bool {
    if inner_len > 0xffff {
        return false;
    }
    let [hi, lo] = (inner_len as u16).to_be_bytes();
    let [first, second] = carried.get().to_be_bytes();
    let fixed = [0x60, 0, first, second, hi, lo, IP6IP6, HOPS];
    let mut i = 0;
    while i < 8 {
        out[i] = fixed[i];
        i += 1;
    }
    let mut word = 0;
    while word < 4 {
        let (from, to) = (src.0[word].to_ne_bytes(), dst.0[word].to_ne_bytes());
        i = 0;
        while i < 4 {
            out[8 + word * 4 + i] = from[i];
            out[24 + word * 4 + i] = to[i];
            i += 1;
        }
        word += 1;
    }
    true
}

/// Makes of a "port unreachable" in `out` a "fragmentation needed" with the largest packet that fits (RFC 1191).
#[inline(always)]
pub fn too_big4(out: &mut reply::Frame, mtu: u16) {
    let [hi, lo] = mtu.to_be_bytes();
    let changed = checksum::difference(&[3, 3, 0, 0], &[3, 4, hi, lo]);
    let field = checksum::update(u16::from_ne_bytes([out[36], out[37]]), changed);
    reply::put::<34, 2>(out, &[3, 4]);
    reply::put::<36, 2>(out, &field.to_ne_bytes());
    reply::put::<40, 2>(out, &[hi, lo]);
}

/// Makes of a "port unreachable" in `out` a "packet too big" with the largest packet that fits (RFC 4443, 3.2).
#[inline(always)]
pub fn too_big6(out: &mut ipv6::reply::Frame, mtu: u16) {
    let [hi, lo] = mtu.to_be_bytes();
    let changed = checksum::difference(&[1, 4, 0, 0], &[2, 0, hi, lo]);
    let field = checksum::update(u16::from_ne_bytes([out[56], out[57]]), changed).to_ne_bytes();
    let front = [2, 0, field[0], field[1], 0, 0, hi, lo];
    let mut i = 0;
    while i < 8 {
        out[54 + i] = front[i];
        i += 1;
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::packet::HEAD_LEN;
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;
    use std::net::Ipv6Addr;
    use std::vec::Vec;

    proptest! {
        #[test]
        fn an_outer_header_is_what_a_parser_reads(src in any::<[u8; 4]>(), dst in any::<[u8; 4]>(), port in any::<u16>(), payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut inner = Vec::new();
            PacketBuilder::ipv4([203, 0, 113, 9], [192, 168, 50, 11], 63).udp(5, 6).write(&mut inner, &payload).unwrap();
            let mut out = [0; size_of::<reply::Frame>()];
            prop_assert!(outer4(&mut out, Addr4::new(src), Addr4::new(dst), Port::new(port), inner.len() as u32));
            let bytes = [&out[..IPV4_LEN], &inner].concat();
            let (header, rest) = etherparse::Ipv4Header::from_slice(&bytes).unwrap();
            prop_assert_eq!((header.source, header.destination, header.protocol.0), (src, dst, IPIP));
            prop_assert_eq!(usize::from(header.total_len), bytes.len());
            prop_assert_eq!(header.calc_header_checksum(), header.header_checksum);
            prop_assert!(header.dont_fragment);
            let mut head: packet::Head = [0; HEAD_LEN];
            head[ETH_LEN..ETH_LEN + IPV4_LEN].copy_from_slice(&out[..IPV4_LEN]);
            prop_assert_eq!(carried4(&head).get(), port);
            prop_assert_eq!(rest, &inner[..]);
        }

        #[test]
        fn an_outer_header_of_ipv6_is_what_a_parser_reads(src in any::<[u8; 16]>(), dst in any::<[u8; 16]>(), port in any::<u16>(), len in 0u32..70000) {
            let addr = |octets: [u8; 16]| Addr6::from(Ipv6Addr::from(octets));
            let mut out = [0; size_of::<ipv6::reply::Frame>()];
            let fits = outer6(&mut out, &addr(src), &addr(dst), Port::new(port), len);
            prop_assert_eq!(fits, len <= 65535);
            if fits {
                let (header, _) = etherparse::Ipv6Header::from_slice(&out[..IPV6_LEN]).unwrap();
                prop_assert_eq!((header.source, header.destination, header.next_header.0), (src, dst, IP6IP6));
                prop_assert_eq!(u32::from(header.payload_length), len);
                let mut head: ipv6::Head = [0; ipv6::HEAD_LEN];
                head[ETH_LEN..ETH_LEN + IPV6_LEN].copy_from_slice(&out[..IPV6_LEN]);
                prop_assert_eq!(carried6(&head).get(), port);
            }
        }

        #[test]
        fn what_is_too_big_is_told_the_size_that_fits(mtu in 68u16..9000, sport in any::<u16>()) {
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4([10, 0, 0, 1], [10, 9, 0, 7], 64).tcp(sport, 80, 7, 100).write(&mut frame, &[1; 40]).unwrap();
            let head: packet::Head = frame[..HEAD_LEN].try_into().unwrap();
            let ip = packet::ipv4(&head, frame.len() as u32).unwrap();
            let mut out = [0; size_of::<reply::Frame>()];
            prop_assert!(reply::port_unreachable(&mut out, &head, &ip, frame[34..42].try_into().unwrap(), None));
            too_big4(&mut out, mtu);
            let sliced = SlicedPacket::from_ethernet(&out[..reply::UNREACHABLE_LEN]).unwrap();
            let Some(NetSlice::Ipv4(_)) = sliced.net else { panic!("not IPv4") };
            let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("not ICMP") };
            prop_assert_eq!((icmp.type_u8(), icmp.code_u8()), (3, 4));
            prop_assert_eq!(u16::from_be_bytes([out[40], out[41]]), mtu);
            prop_assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()) % 0xffff, icmp.checksum() % 0xffff);
        }

        #[test]
        fn what_is_too_big_of_ipv6_is_told_the_size_that_fits(mtu in 1280u16..9000, sport in any::<u16>()) {
            let (src, dst) = ([0x20; 16], [0xfd; 16]);
            let mut frame = Vec::new();
            PacketBuilder::ethernet2([1; 6], [2; 6]).ipv6(src, dst, 64).tcp(sport, 80, 7, 100).write(&mut frame, &[1; 40]).unwrap();
            let head: ipv6::Head = frame[..ipv6::HEAD_LEN].try_into().unwrap();
            let mut ip = ipv6::Ipv6 {
                src: Addr6::default(), dst: Addr6::default(), proto: 0, ttl: 0, fragment: packet::Fragment::No, id: 0, offset: 0,
                more: false, l4: 0, l4_len: 0,
            };
            prop_assert!(ipv6::fixed(&mut ip, &head, frame.len() as u32).is_ok());
            let mut out = [0; size_of::<ipv6::reply::Frame>()];
            prop_assert!(ipv6::reply::port_unreachable(&mut out, &head, &ip, frame[54..62].try_into().unwrap(), None));
            too_big6(&mut out, mtu);
            let sliced = SlicedPacket::from_ethernet(&out[..ipv6::reply::UNREACHABLE_LEN]).unwrap();
            let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("not ICMPv6") };
            prop_assert_eq!((icmp.type_u8(), icmp.code_u8()), (2, 0));
            prop_assert_eq!(u32::from_be_bytes(out[58..62].try_into().unwrap()), u32::from(mtu));
            prop_assert!(icmp.is_checksum_valid(dst, src));
        }
    }
}
