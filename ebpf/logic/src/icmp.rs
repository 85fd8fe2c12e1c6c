//! ICMP errors of translated flows: the quoted packet is turned back into what its sender sent (RFC 5508, 4.2).
//!
//! ```text
//!   router R ---- ICMP { src R, dst N, quotes P' } ---->  translated: { src R, dst P, quotes P -> VIP }
//!                                     P' = the packet after our translation
//! ```
//!
//! The row of the flow is found under the mirror of the quoted tuple, whichever direction was quoted.

use strake_abi::conntrack::Tuple4;
use strake_abi::{Addr4, proto};

use crate::checksum;
use crate::packet::{IPV4_LEN, Transport, transport};
use crate::rewrite;

/// The quoted packet: tuple and protocol, and the length of its IPv4 header in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// As it was on the wire.
    pub tuple: Tuple4,
    /// Its protocol.
    pub proto: u8,
}

/// Length of the quoted IPv4 header, if these 20 bytes begin one whose transport header is quoted too.
#[inline(always)]
pub const fn quoted_header_len(ip: &[u8; IPV4_LEN]) -> Option<usize> {
    let len = ((ip[0] & 0x0f) as usize) * 4;
    let later = u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff != 0;
    if ip[0] >> 4 != 4 || len < IPV4_LEN || later { None } else { Some(len) }
}

/// Reads a quoted packet; `None` if it has no ports.
#[inline(always)]
pub const fn quoted(ip: &[u8; IPV4_LEN], l4: &[u8; 8]) -> Option<Quoted> {
    match transport(ip[9], l4) {
        Transport::Ports { sport, dport } => Some(Quoted {
            tuple: Tuple4 {
                src: Addr4::new([ip[12], ip[13], ip[14], ip[15]]),
                dst: Addr4::new([ip[16], ip[17], ip[18], ip[19]]),
                sport,
                dport,
            },
            proto: ip[9],
        }),
        _ => None,
    }
}

/// What to write to turn the quoted packet and the one that quotes it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Source and destination of the outer header (offset 12 of it).
    pub outer: [u8; 8],
    /// Difference for the outer IPv4 checksum.
    pub outer_difference: u32,
    /// Bytes 10 to 20 of the quoted IPv4 header: checksum, source, destination.
    pub inner: [u8; 10],
    /// The first 8 bytes of the quoted transport header (its checksum too, where that is among them).
    pub inner_l4: [u8; 8],
    /// Difference for the ICMP checksum.
    pub icmp_difference: u32,
}

/// An ICMP error and the packet it quotes.
#[derive(Clone, Copy, Debug)]
pub struct Error {
    /// Source of the error.
    pub src: Addr4,
    /// Its destination.
    pub dst: Addr4,
    /// The quoted IPv4 header, without options.
    pub ip: [u8; IPV4_LEN],
    /// The first bytes of the quoted transport header.
    pub l4: [u8; 8],
    /// What they say.
    pub quoted: Quoted,
}

/// Writes what has to change into `out`. `to` is the translation found under the mirror of the quoted tuple.
#[inline(always)]
pub fn translate(out: &mut Rewrite, error: &Error, to: &Tuple4) {
    let original = to.mirror();
    let (ip, l4, quoted) = (&error.ip, &error.l4, &error.quoted);
    let differences = rewrite::differences(quoted.proto, &quoted.tuple, &original);
    // Bytes that change, before and after; every offset is even, so sums can be added.
    let field = u16::from_ne_bytes([ip[10], ip[11]]);
    let [c0, c1] = checksum::update(field, differences.addresses).to_ne_bytes();
    let [a, b, c, d, e, f, g, h] = rewrite::addresses(&original);
    out.inner = [c0, c1, a, b, c, d, e, f, g, h];
    let mut change = checksum::add(
        checksum::difference(&[ip[10], ip[11]], &[c0, c1]),
        checksum::difference(&rewrite::addresses(&quoted.tuple), &rewrite::addresses(&original)),
    );

    out.inner_l4 = *l4;
    if quoted.proto == proto::ICMP {
        let [x, y] = rewrite::echo_id(&original).0.to_ne_bytes();
        out.inner_l4[4] = x;
        out.inner_l4[5] = y;
        let sum = u16::from_ne_bytes([l4[2], l4[3]]);
        let [x, y] = checksum::update(sum, differences.ports).to_ne_bytes();
        out.inner_l4[2] = x;
        out.inner_l4[3] = y;
        change = checksum::add(change, checksum::difference(&[l4[2], l4[3]], &[x, y]));
    } else {
        let [w, x, y, z] = rewrite::ports(&original);
        out.inner_l4[0] = w;
        out.inner_l4[1] = x;
        out.inner_l4[2] = y;
        out.inner_l4[3] = z;
        if quoted.proto == proto::UDP && (l4[6] != 0 || l4[7] != 0) {
            let sum = checksum::add(differences.addresses, differences.ports);
            let [y, z] = checksum::update(u16::from_ne_bytes([l4[6], l4[7]]), sum).to_ne_bytes();
            out.inner_l4[6] = y;
            out.inner_l4[7] = z;
            change = checksum::add(change, checksum::difference(&[l4[6], l4[7]], &[y, z]));
        }
    }
    out.icmp_difference = checksum::add(change, differences.ports);

    // The error goes to whoever sent the quoted packet. Its source is kept if it is a router's, and translated if it is
    // the destination of the flow itself.
    let source = if error.src == quoted.tuple.dst { original.dst } else { error.src };
    let old = Tuple4 { src: error.src, dst: error.dst, ..Tuple4::default() };
    let new = Tuple4 { src: source, dst: original.src, ..Tuple4::default() };
    out.outer = rewrite::addresses(&new);
    out.outer_difference = checksum::difference(&rewrite::addresses(&old), &rewrite::addresses(&new));
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use etherparse::{Icmpv4Slice, Ipv4HeaderSlice, PacketBuilder, UdpHeaderSlice};
    use proptest::prelude::*;
    use std::vec::Vec;
    use strake_abi::Port;

    fn tuple() -> impl Strategy<Value = Tuple4> {
        (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<u16>(), any::<u16>()).prop_map(|(s, d, sp, dp)| Tuple4 {
            src: Addr4::new(s),
            dst: Addr4::new(d),
            sport: Port::new(sp),
            dport: Port::new(dp),
        })
    }

    proptest! {
        #[test]
        fn every_checksum_holds_afterwards(wire in tuple(), original in tuple(), router in any::<[u8; 4]>(), from_peer in any::<bool>()) {
            let mut datagram = Vec::new();
            PacketBuilder::ipv4(wire.src.octets(), wire.dst.octets(), 9).udp(wire.sport.get(), wire.dport.get()).write(&mut datagram, &[]).unwrap();
            let outer_src = if from_peer { wire.dst } else { Addr4::new(router) };
            let mut message = std::vec![3u8, 4, 0, 0, 0, 0, 5, 0xdc];
            message.extend_from_slice(&datagram);
            let sum = checksum::finish(checksum::sum::<36>(message[..].try_into().unwrap()), false);
            message[2..4].copy_from_slice(&sum.to_ne_bytes());

            let ip: [u8; 20] = datagram[..20].try_into().unwrap();
            let l4: [u8; 8] = datagram[20..28].try_into().unwrap();
            prop_assert_eq!(quoted_header_len(&ip), Some(20));
            let q = quoted(&ip, &l4).unwrap();
            prop_assert_eq!(q.tuple, wire);
            let mut r = Rewrite::default();
            translate(&mut r, &Error { src: outer_src, dst: wire.src, ip, l4, quoted: q }, &original.mirror());
            message[18..28].copy_from_slice(&r.inner);
            message[28..36].copy_from_slice(&r.inner_l4);
            let sum = checksum::update(u16::from_ne_bytes([message[2], message[3]]), r.icmp_difference);
            message[2..4].copy_from_slice(&sum.to_ne_bytes());

            let icmp = Icmpv4Slice::from_slice(&message).unwrap();
            prop_assert_eq!(icmp.icmp_type().calc_checksum(icmp.payload()) % 0xffff, icmp.checksum() % 0xffff);
            let ip = Ipv4HeaderSlice::from_slice(&message[8..28]).unwrap();
            prop_assert_eq!((ip.source(), ip.destination()), (original.src.octets(), original.dst.octets()));
            prop_assert_eq!(ip.to_header().calc_header_checksum() % 0xffff, ip.header_checksum() % 0xffff);
            let udp = UdpHeaderSlice::from_slice(&message[28..36]).unwrap().to_header();
            prop_assert_eq!((udp.source_port, udp.destination_port), (original.sport.get(), original.dport.get()));
            prop_assert_eq!(udp.calc_checksum_ipv4_raw(ip.source(), ip.destination(), &[]).unwrap() % 0xffff, udp.checksum % 0xffff);
            prop_assert_eq!(&r.outer[4..], &original.src.octets());
            let want = if outer_src == wire.dst { original.dst } else { outer_src };
            prop_assert_eq!(&r.outer[..4], &want.octets());
        }
    }
}
