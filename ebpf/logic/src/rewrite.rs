//! Translation of a packet: which bytes, and what becomes of the checksums.

use strake_abi::conntrack::{Tuple, Tuple4};
use strake_abi::{Addr4, Port, proto};

use crate::checksum;
use crate::packet::{self, Transport};

/// Source and destination address as they stand in an IPv4 header (offset 12).
#[inline(always)]
pub const fn addresses(tuple: &Tuple4) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (tuple.src.octets(), tuple.dst.octets());
    [a, b, c, d, e, f, g, h]
}

/// Source and destination port as they stand in a TCP, UDP or SCTP header (offset 0).
#[inline(always)]
pub const fn ports<A>(tuple: &Tuple<A>) -> [u8; 4] {
    let ([a, b], [c, d]) = (tuple.sport.0.to_ne_bytes(), tuple.dport.0.to_ne_bytes());
    [a, b, c, d]
}

/// The identifier of an ICMP echo: the port that is not 0.
#[inline(always)]
pub const fn echo_id<A>(tuple: &Tuple<A>) -> Port {
    if tuple.sport.0 != 0 { tuple.sport } else { tuple.dport }
}

/// The differences that a translation makes, for `bpf_l3_csum_replace` and `bpf_l4_csum_replace` with size 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Differences {
    /// Of the addresses: goes into the IPv4 checksum and, as part of the pseudo header, into that of TCP and UDP.
    pub addresses: u32,
    /// Of the ports or the identifier: goes into the transport checksum.
    pub ports: u32,
}

/// What a translation needs to know of a family.
pub trait Address: Copy + PartialEq {
    /// ICMP or ICMPv6.
    const ICMP: u8;
    /// Whether the ICMP checksum covers the addresses, as those of TCP and UDP do (RFC 4443, 2.3).
    const ICMP_PSEUDO: bool;

    /// What becomes of a sum in which the addresses of `old` are replaced by those of `new`.
    fn difference(old: &Tuple<Self>, new: &Tuple<Self>) -> u32;

    /// Reads the first 8 bytes of a transport header.
    fn transport(protocol: u8, bytes: &[u8; 8]) -> Transport;

    /// Offset, in the transport header, of its checksum.
    fn checksum_offset(protocol: u8) -> Option<usize>;
}

impl Address for Addr4 {
    const ICMP: u8 = proto::ICMP;
    const ICMP_PSEUDO: bool = false;

    #[inline(always)]
    fn difference(old: &Tuple4, new: &Tuple4) -> u32 {
        checksum::difference(&addresses(old), &addresses(new))
    }

    #[inline(always)]
    fn transport(protocol: u8, bytes: &[u8; 8]) -> Transport {
        packet::transport(protocol, bytes)
    }

    #[inline(always)]
    fn checksum_offset(protocol: u8) -> Option<usize> {
        packet::checksum_offset(protocol)
    }
}

/// Compares two tuples of one protocol.
#[inline(always)]
pub fn differences<A: Address>(protocol: u8, old: &Tuple<A>, new: &Tuple<A>) -> Differences {
    let ports = if protocol == A::ICMP {
        checksum::difference(&echo_id(old).0.to_ne_bytes(), &echo_id(new).0.to_ne_bytes())
    } else {
        checksum::difference(&ports(old), &ports(new))
    };
    Differences { addresses: A::difference(old, new), ports }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;
    use std::vec::Vec;

    fn tuple() -> impl Strategy<Value = Tuple4> {
        (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<u16>(), any::<u16>()).prop_map(|(s, d, sp, dp)| Tuple4 {
            src: Addr4::new(s),
            dst: Addr4::new(d),
            sport: Port::new(sp),
            dport: Port::new(dp),
        })
    }

    proptest! {
        /// A TCP packet rewritten with the differences has the checksums of a packet built anew.
        #[test]
        fn rewritten_equals_built(old in tuple(), new in tuple(), payload in proptest::collection::vec(any::<u8>(), 0..50)) {
            let build = |t: &Tuple4| {
                let mut frame = Vec::new();
                PacketBuilder::ethernet2([1; 6], [2; 6])
                    .ipv4(t.src.octets(), t.dst.octets(), 64)
                    .tcp(t.sport.get(), t.dport.get(), 7, 100)
                    .write(&mut frame, &payload)
                    .unwrap();
                frame
            };
            let mut frame = build(&old);
            let d = differences(proto::TCP, &old, &new);
            frame[26..34].copy_from_slice(&addresses(&new));
            frame[34..38].copy_from_slice(&ports(&new));
            let ip = checksum::update(u16::from_ne_bytes([frame[24], frame[25]]), d.addresses);
            frame[24..26].copy_from_slice(&ip.to_ne_bytes());
            let l4 = u16::from_ne_bytes([frame[50], frame[51]]);
            let l4 = checksum::update(checksum::update(l4, d.addresses), d.ports);
            frame[50..52].copy_from_slice(&l4.to_ne_bytes());
            let want = build(&new);
            // Zero has two forms; an independent parser accepts both.
            let sliced = SlicedPacket::from_ethernet(&frame).unwrap();
            let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4") };
            let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { panic!("not TCP") };
            let computed = tcp.calc_checksum_ipv4(ip.header().source(), ip.header().destination());
            prop_assert_eq!(computed.ok().map(|c| c % 0xffff), Some(tcp.checksum() % 0xffff));
            prop_assert_eq!(ip.header().to_header().calc_header_checksum() % 0xffff, ip.header().header_checksum() % 0xffff);
            prop_assert_eq!(&frame[26..50], &want[26..50]);
        }
    }
}
