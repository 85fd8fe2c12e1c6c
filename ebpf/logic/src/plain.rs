//! Packets whose headers stand at fixed places, as most do: no IPv4 options, no extension headers, no fragments. What is
//! forwarded before the stack has seen it is such a packet, read and changed in place.
//!
//! ```text
//!  0            14            34 / 54
//!  | Ethernet   | IPv4 / IPv6 | TCP (20 bytes) / UDP (8) ...
//!  |-------- Front -----------|
//! ```

use strake_abi::conntrack::{Tuple, Tuple4, Tuple6};
use strake_abi::{Addr4, Addr6, Mac};

use crate::checksum;
use crate::ipv6;
use crate::packet::{self, Fragment, HEAD_LEN, Ip};
use crate::rewrite::{self, Address, Differences};

/// Bytes of a TCP header without options.
pub const TCP_LEN: usize = 20;
/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;

/// What plain packets of a family have.
pub trait Plain: Address {
    /// Ethernet and the IP header.
    type Front: Copy;
    /// Where the transport header begins.
    const L4: usize;
    /// `AF_INET` or `AF_INET6`.
    const FAMILY: u8;

    /// Reads the header of a frame of `frame_len` bytes. False if the packet is malformed or not plain.
    fn plain(ip: &mut Ip<Self>, front: &Self::Front, frame_len: u32) -> bool;

    /// Sum of the pseudo header.
    fn pseudo(ip: &Ip<Self>) -> u32;

    /// The address as the routing table is asked for it: in the first word, or in all.
    fn words(self) -> [u32; 4];

    /// Makes the front one that a router would send on with the addresses of `to`, one hop less, from the Ethernet
    /// address `from` to `next`. `difference` is what the addresses change in a checksum.
    fn forward(front: &mut Self::Front, to: &Tuple<Self>, difference: u32, next: &Mac, from: &Mac);
}

impl Plain for Addr4 {
    type Front = packet::Head;
    const L4: usize = HEAD_LEN;
    const FAMILY: u8 = 2;

    #[inline(always)]
    fn plain(ip: &mut Ip<Self>, front: &Self::Front, frame_len: u32) -> bool {
        let Ok(read) = packet::ipv4(front, frame_len) else { return false };
        *ip = read;
        ip.l4 == HEAD_LEN && matches!(ip.fragment, Fragment::No)
    }

    #[inline(always)]
    fn pseudo(ip: &Ip<Self>) -> u32 {
        checksum::pseudo(ip.src.0, ip.dst.0, ip.proto, ip.l4_len)
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        [self.0, 0, 0, 0]
    }

    #[inline(always)]
    fn forward(front: &mut Self::Front, to: &Tuple4, difference: u32, next: &Mac, from: &Mac) {
        let (ttl, proto) = (front[22], front[23]);
        let hop = checksum::difference(&[ttl, proto], &[ttl.wrapping_sub(1), proto]);
        let field = u16::from_ne_bytes([front[24], front[25]]);
        let field = checksum::update(checksum::update(field, difference), hop);
        front[..6].copy_from_slice(next);
        front[6..12].copy_from_slice(from);
        front[22] = ttl.wrapping_sub(1);
        front[24..26].copy_from_slice(&field.to_ne_bytes());
        front[26..34].copy_from_slice(&rewrite::addresses(to));
    }
}

impl Plain for Addr6 {
    type Front = ipv6::Head;
    const L4: usize = ipv6::HEAD_LEN;
    const FAMILY: u8 = 10;

    #[inline(always)]
    fn plain(ip: &mut Ip<Self>, front: &Self::Front, frame_len: u32) -> bool {
        ipv6::fixed(ip, front, frame_len).is_ok()
    }

    #[inline(always)]
    fn pseudo(ip: &Ip<Self>) -> u32 {
        checksum::pseudo6(&ip.src.0, &ip.dst.0, ip.proto, ip.l4_len)
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        self.0
    }

    #[inline(always)]
    fn forward(front: &mut Self::Front, to: &Tuple6, _: u32, next: &Mac, from: &Mac) {
        front[..6].copy_from_slice(next);
        front[6..12].copy_from_slice(from);
        front[21] = front[21].wrapping_sub(1);
        front[22..38].copy_from_slice(&to.src.octets());
        front[38..54].copy_from_slice(&to.dst.octets());
    }
}

#[inline(always)]
const fn updated(field: u16, differences: &Differences) -> u16 {
    checksum::update(checksum::update(field, differences.addresses), differences.ports)
}

/// The checksum field of a TCP header.
#[inline(always)]
pub const fn tcp_sum(header: &[u8; TCP_LEN]) -> u16 {
    u16::from_ne_bytes([header[16], header[17]])
}

/// The checksum field of a UDP header.
#[inline(always)]
pub const fn udp_sum(header: &[u8; UDP_LEN]) -> u16 {
    u16::from_ne_bytes([header[6], header[7]])
}

/// Makes a TCP header carry the ports of `to`.
#[inline(always)]
pub fn tcp<A>(header: &mut [u8; TCP_LEN], to: &Tuple<A>, differences: &Differences) {
    let field = updated(tcp_sum(header), differences);
    header[..4].copy_from_slice(&rewrite::ports(to));
    header[16..18].copy_from_slice(&field.to_ne_bytes());
}

/// The same of UDP, where zero is "none" and what comes to zero is written as its other form (RFC 768; RFC 8200, 8.1).
#[inline(always)]
pub fn udp<A>(header: &mut [u8; UDP_LEN], to: &Tuple<A>, differences: &Differences) {
    let old = udp_sum(header);
    let field = match updated(old, differences) {
        _ if old == 0 => 0,
        0 => 0xffff,
        field => field,
    };
    header[..4].copy_from_slice(&rewrite::ports(to));
    header[6..8].copy_from_slice(&field.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::net::{Ipv4Addr, Ipv6Addr};
    use etherparse::PacketBuilder;
    use proptest::prelude::*;
    use std::vec::Vec;
    use strake_abi::{Port, proto};

    const NEXT: Mac = [2, 0, 0, 0, 0, 9];
    const FROM: Mac = [2, 0, 0, 0, 0, 8];

    type Ends<A> = (A, A, u16, u16);

    fn tuple<A, B: Into<A> + Copy>(ends: &Ends<B>) -> Tuple<A> {
        Tuple { src: ends.0.into(), dst: ends.1.into(), sport: Port::new(ends.2), dport: Port::new(ends.3) }
    }

    fn four() -> impl Strategy<Value = Ends<Ipv4Addr>> {
        any::<(Ipv4Addr, Ipv4Addr, u16, u16)>()
    }

    fn six() -> impl Strategy<Value = Ends<Ipv6Addr>> {
        any::<(Ipv6Addr, Ipv6Addr, u16, u16)>()
    }

    fn build4(t: &Ends<Ipv4Addr>, ttl: u8, macs: [Mac; 2], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let ip = PacketBuilder::ethernet2(macs[0], macs[1]).ipv4(t.0.octets(), t.1.octets(), ttl);
        let mut frame = Vec::new();
        match protocol {
            proto::TCP => ip.tcp(t.2, t.3, 7, 100).write(&mut frame, payload).unwrap(),
            _ => ip.udp(t.2, t.3).write(&mut frame, payload).unwrap(),
        }
        frame
    }

    fn build6(t: &Ends<Ipv6Addr>, ttl: u8, macs: [Mac; 2], protocol: u8, payload: &[u8]) -> Vec<u8> {
        let ip = PacketBuilder::ethernet2(macs[0], macs[1]).ipv6(t.0.octets(), t.1.octets(), ttl);
        let mut frame = Vec::new();
        match protocol {
            proto::TCP => ip.tcp(t.2, t.3, 7, 100).write(&mut frame, payload).unwrap(),
            _ => ip.udp(t.2, t.3).write(&mut frame, payload).unwrap(),
        }
        frame
    }

    /// As the program does it.
    fn forward<A: Plain, const FRONT: usize>(frame: &mut [u8], to: &Tuple<A>) -> bool
    where
        A: Plain<Front = [u8; FRONT]>,
    {
        let mut ip = packet::Ip {
            src: to.src,
            dst: to.dst,
            proto: 0,
            ttl: 0,
            fragment: Fragment::Later,
            id: 0,
            offset: 0,
            more: false,
            l4: 0,
            l4_len: 0,
        };
        let len = frame.len() as u32;
        let (front, l4) = frame.split_first_chunk_mut::<FRONT>().unwrap();
        if !A::plain(&mut ip, front, len) {
            return false;
        }
        let port = |at: usize| Port(u16::from_ne_bytes([l4[at], l4[at + 1]]));
        let old = packet::tuple(&ip, port(0), port(2));
        let differences = rewrite::differences(ip.proto, &old, to);
        A::forward(front, to, differences.addresses, &NEXT, &FROM);
        match ip.proto {
            proto::TCP => tcp(l4.first_chunk_mut().unwrap(), to, &differences),
            _ => udp(l4.first_chunk_mut().unwrap(), to, &differences),
        }
        true
    }

    /// Equal but for the two forms of zero in a checksum.
    fn same(a: &[u8], b: &[u8], fields: &[usize]) -> bool {
        a.len() == b.len()
            && (0..a.len()).all(|i| a[i] == b[i] || fields.iter().any(|at| i == *at || i == at + 1))
            && fields.iter().all(|at| {
                let field = |f: &[u8]| u16::from_be_bytes([f[*at], f[at + 1]]) % 0xffff;
                field(a) == field(b)
            })
    }

    proptest! {
        /// What is forwarded is what an independent builder makes of the new addresses, ports and hops.
        #[test]
        fn forwarded_equals_built(old in four(), new in four(), ttl in 2u8.., udp in any::<bool>(), payload in proptest::collection::vec(any::<u8>(), 0..50)) {
            let protocol = if udp { proto::UDP } else { proto::TCP };
            let mut frame = build4(&old, ttl, [[1; 6], [2; 6]], protocol, &payload);
            let to: Tuple4 = tuple(&new);
            prop_assert!(forward(&mut frame, &to));
            let want = build4(&new, ttl - 1, [FROM, NEXT], protocol, &payload);
            prop_assert!(same(&frame, &want, &[24, if udp { 40 } else { 50 }]), "{frame:02x?} {want:02x?}");
        }

        #[test]
        fn forwarded_equals_built_in_ipv6(old in six(), new in six(), ttl in 2u8.., udp in any::<bool>(), payload in proptest::collection::vec(any::<u8>(), 0..50)) {
            let protocol = if udp { proto::UDP } else { proto::TCP };
            let mut frame = build6(&old, ttl, [[1; 6], [2; 6]], protocol, &payload);
            let to: Tuple6 = tuple(&new);
            prop_assert!(forward(&mut frame, &to));
            let want = build6(&new, ttl - 1, [FROM, NEXT], protocol, &payload);
            prop_assert!(same(&frame, &want, &[if udp { 60 } else { 70 }]), "{frame:02x?} {want:02x?}");
        }
    }

    #[test]
    fn options_and_fragments_are_not_plain() {
        let ends = (Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, 1, 2);
        let frame = build4(&ends, 64, [[1; 6], [2; 6]], proto::UDP, b"x");
        let plain = |edit: fn(&mut Vec<u8>)| {
            let mut frame = frame.clone();
            edit(&mut frame);
            forward::<Addr4, 34>(&mut frame, &tuple(&ends))
        };
        assert!(plain(|_| {}));
        assert!(!plain(|frame| frame[14] = 0x46), "options");
        assert!(!plain(|frame| frame[20] = 0x20), "a first fragment");
        assert!(!plain(|frame| frame[21] = 1), "a later one");
        assert!(!plain(|frame| frame[17] += 1), "longer than the frame");
    }

    #[test]
    fn a_datagram_without_a_checksum_gets_none() {
        let ends = (Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, 1, 2);
        let mut frame = build4(&ends, 64, [[1; 6], [2; 6]], proto::UDP, b"x");
        frame[40..42].fill(0);
        assert!(forward::<Addr4, 34>(&mut frame, &tuple(&(Ipv4Addr::BROADCAST, Ipv4Addr::LOCALHOST, 3, 4))));
        assert_eq!(frame[40..42], [0, 0]);
    }
}
