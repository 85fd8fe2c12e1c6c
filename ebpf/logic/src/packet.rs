//! Headers: Ethernet, IPv4 (RFC 791), and the part of TCP, UDP, SCTP and ICMP that decides where a packet goes.
//!
//! ```text
//!  0            14                    14 + ihl*4
//!  | Ethernet   | IPv4 (ihl*4 bytes)  | TCP / UDP / SCTP / ICMP ...
//!  |------ Head: 34 bytes ------|     |- Transport: 8 or 20 bytes
//! ```

use strake_abi::conntrack::Tuple;
use strake_abi::{Addr4, Mac, Port, proto};

use crate::sctp;

/// Length of an Ethernet header without a tag.
pub const ETH_LEN: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Ethernet and the fixed part of IPv4.
pub const HEAD_LEN: usize = ETH_LEN + IPV4_LEN;

/// EtherTypes (IANA).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// ARP (RFC 826).
    pub const ARP: u16 = 0x0806;
}

/// Bits of the flags byte of a TCP header.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset the connection.
    pub const RST: u8 = 0x04;
    /// The acknowledgment field is significant.
    pub const ACK: u8 = 0x10;
}

/// The first 34 bytes of a frame. Anything shorter is not a packet that a Pod needs.
pub type Head = [u8; HEAD_LEN];

/// Source Ethernet address.
#[inline(always)]
pub const fn source_mac(head: &[u8; ETH_LEN]) -> Mac {
    [head[6], head[7], head[8], head[9], head[10], head[11]]
}

/// EtherType.
#[inline(always)]
pub const fn ether_type(head: &[u8; ETH_LEN]) -> u16 {
    u16::from_be_bytes([head[12], head[13]])
}

/// Where a packet stands in a fragmented datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// The datagram is whole.
    No,
    /// The first piece, with the ports.
    First,
    /// Another piece, without.
    Later,
}

/// The headers between Ethernet and transport, as far as they are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Protocol number; of IPv6 the one at the end of the chain, as far as it was walked.
    pub proto: u8,
    /// Time to live, hop limit.
    pub ttl: u8,
    /// Whether and how it is fragmented.
    pub fragment: Fragment,
    /// Identification, network byte order. IPv4's has 16 bits.
    pub id: u32,
    /// Offset in the datagram, in units of 8 bytes.
    pub offset: u16,
    /// Whether another piece follows.
    pub more: bool,
    /// Offset of the transport header in the frame. IPv4: 34 to 74.
    pub l4: usize,
    /// Bytes of the transport header and what follows, per the length field of the header.
    pub l4_len: u16,
}

/// The IPv4 header.
pub type Ipv4 = Ip<Addr4>;

/// Why bytes are not an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads the IPv4 header of a frame of `frame_len` bytes.
///
/// # Errors
/// [`Malformed`] if the version is not 4, a length contradicts another, or the frame is shorter than the packet.
#[inline(always)]
pub fn ipv4(head: &Head, frame_len: u32) -> Result<Ipv4, Malformed> {
    let version = head[14] >> 4;
    let ihl = usize::from(head[14] & 0x0f) * 4;
    let total = u16::from_be_bytes([head[16], head[17]]);
    if version != 4 || ihl < IPV4_LEN || (total as usize) < ihl || ETH_LEN as u32 + u32::from(total) > frame_len {
        return Err(Malformed);
    }
    let bits = u16::from_be_bytes([head[20], head[21]]);
    let fragment = if bits & 0x1fff != 0 {
        Fragment::Later
    } else if bits & 0x2000 != 0 {
        Fragment::First
    } else {
        Fragment::No
    };
    Ok(Ipv4 {
        src: Addr4::new([head[26], head[27], head[28], head[29]]),
        dst: Addr4::new([head[30], head[31], head[32], head[33]]),
        proto: head[23],
        ttl: head[22],
        fragment,
        id: u16::from_ne_bytes([head[18], head[19]]) as u32,
        offset: bits & 0x1fff,
        more: bits & 0x2000 != 0,
        l4: ETH_LEN + ihl,
        l4_len: total - ihl as u16,
    })
}

/// What the transport header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP, UDP or SCTP, or ICMP echo with its identifier as a port (see [`Tuple`]).
    Ports {
        /// Source.
        sport: Port,
        /// Destination.
        dport: Port,
    },
    /// An ICMP error that quotes a packet.
    IcmpError,
    /// Anything else: it has no flow.
    Other,
}

/// Reads the first 8 bytes of a transport header.
#[inline(always)]
pub const fn transport(protocol: u8, bytes: &[u8; 8]) -> Transport {
    let (first, second) = (u16::from_ne_bytes([bytes[0], bytes[1]]), u16::from_ne_bytes([bytes[2], bytes[3]]));
    match protocol {
        proto::TCP | proto::UDP | proto::SCTP => Transport::Ports { sport: Port(first), dport: Port(second) },
        proto::ICMP => {
            let id = Port(u16::from_ne_bytes([bytes[4], bytes[5]]));
            match bytes[0] {
                8 => Transport::Ports { sport: id, dport: Port(0) },
                0 => Transport::Ports { sport: Port(0), dport: id },
                // Destination unreachable, time exceeded, parameter problem (RFC 792).
                3 | 11 | 12 => Transport::IcmpError,
                _ => Transport::Other,
            }
        }
        _ => Transport::Other,
    }
}

/// Offset, in the transport header, of its checksum.
#[inline(always)]
pub const fn checksum_offset(protocol: u8) -> Option<usize> {
    match protocol {
        proto::TCP => Some(16),
        proto::UDP => Some(6),
        proto::ICMP => Some(2),
        proto::SCTP => Some(sctp::CHECKSUM),
        _ => None,
    }
}

/// The tuple of a packet.
#[inline(always)]
pub const fn tuple<A: Copy>(ip: &Ip<A>, sport: Port, dport: Port) -> Tuple<A> {
    Tuple { src: ip.src, dst: ip.dst, sport, dport }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn head(bytes: &[u8]) -> Head {
        bytes[..HEAD_LEN].try_into().unwrap()
    }

    proptest! {
        #[test]
        fn agrees_with_an_independent_parser(src in any::<[u8; 4]>(), dst in any::<[u8; 4]>(), sport in any::<u16>(), dport in any::<u16>(), ttl in any::<u8>(), payload in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut frame = std::vec::Vec::new();
            PacketBuilder::ethernet2([1; 6], [2; 6]).ipv4(src, dst, ttl).udp(sport, dport).write(&mut frame, &payload).unwrap();
            let ip = ipv4(&head(&frame), frame.len() as u32).unwrap();
            prop_assert_eq!(ip.src.octets(), src);
            prop_assert_eq!(ip.dst.octets(), dst);
            prop_assert_eq!((ip.proto, ip.ttl, ip.l4, ip.fragment), (17, ttl, 34, Fragment::No));
            prop_assert_eq!(usize::from(ip.l4_len), 8 + payload.len());
            let l4: [u8; 8] = frame[34..42].try_into().unwrap();
            prop_assert_eq!(transport(17, &l4), Transport::Ports { sport: Port::new(sport), dport: Port::new(dport) });
            // One byte less than the header promises.
            prop_assert_eq!(ipv4(&head(&frame), frame.len() as u32 - 1), Err(Malformed));
        }

        #[test]
        fn arbitrary_bytes_never_point_outside_the_frame(bytes in proptest::array::uniform32(any::<u8>()), len in 34u32..2000) {
            let mut frame = [0u8; HEAD_LEN];
            frame[2..].copy_from_slice(&bytes);
            if let Ok(ip) = ipv4(&frame, len) {
                prop_assert!(ip.l4 + usize::from(ip.l4_len) <= len as usize);
                prop_assert!((34..=74).contains(&ip.l4));
            }
        }
    }

    extern crate std;
}
