//! IPv6 (RFC 8200): the fixed header, the chain of extension headers, and what a Pod may say on its link.
//!
//! ```text
//!  0            14            54
//!  | Ethernet   | IPv6        | extension headers, up to MAX_HEADERS ... | TCP / UDP / SCTP / ICMPv6 ...
//!  |--------- Head: 54 bytes -|                                          |- Transport: 8 or 20 bytes
//! ```
//!
//! The chain is walked one header at a time ([`step`]): whoever holds the packet reads 8 bytes for each.

pub mod icmp;
pub mod ndp;
pub mod reply;

use strake_abi::conntrack::{Tuple, Tuple6};
use strake_abi::{Addr6, Port, proto};

use crate::checksum;
use crate::packet::{ETH_LEN, Fragment, Ip, Malformed, Transport};
use crate::rewrite::Address;
use crate::sctp;

/// Length of the fixed header.
pub const IPV6_LEN: usize = 40;
/// Ethernet and the fixed header.
pub const HEAD_LEN: usize = ETH_LEN + IPV6_LEN;
/// Extension headers that are walked. RFC 8200 (4.1) has six kinds, of which two may stand twice; nobody sends as many.
pub const MAX_HEADERS: usize = 6;

/// The first 54 bytes of a frame.
pub type Head = [u8; HEAD_LEN];
/// The headers of an IPv6 packet.
pub type Ipv6 = Ip<Addr6>;

/// Numbers of extension headers (IANA).
mod next {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const AUTHENTICATION: u8 = 51;
    pub const DESTINATION: u8 = 60;
}

/// Source and destination address as they stand in the header (offset 8).
#[inline(always)]
pub const fn addresses(tuple: &Tuple6) -> [u32; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (tuple.src.0, tuple.dst.0);
    [a, b, c, d, e, f, g, h]
}

/// The address in 16 bytes of `bytes` that begin at `AT`.
#[inline(always)]
const fn address<const AT: usize, const N: usize>(bytes: &[u8; N]) -> Addr6 {
    let mut words = [0; 4];
    let mut i = 0;
    while i < 4 {
        let at = AT + 4 * i;
        words[i] = u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        i += 1;
    }
    Addr6(words)
}

/// Reads the fixed header of a frame of `frame_len` bytes into `ip`; the chain is still to be walked.
///
/// # Errors
/// [`Malformed`] if the version is not 6 or the frame is shorter than the packet.
#[inline(always)]
pub const fn fixed(ip: &mut Ipv6, head: &Head, frame_len: u32) -> Result<(), Malformed> {
    let len = u16::from_be_bytes([head[18], head[19]]);
    if head[14] >> 4 != 6 || HEAD_LEN as u32 + len as u32 > frame_len {
        return Err(Malformed);
    }
    // Field by field: the whole would go by way of the stack.
    ip.src = address::<22, HEAD_LEN>(head);
    ip.dst = address::<38, HEAD_LEN>(head);
    ip.proto = head[20];
    ip.ttl = head[21];
    ip.fragment = Fragment::No;
    ip.id = 0;
    ip.offset = 0;
    ip.more = false;
    ip.l4 = HEAD_LEN;
    ip.l4_len = len;
    Ok(())
}

/// Whether a header of this number is an extension header that is walked.
#[inline(always)]
pub const fn is_extension(number: u8) -> bool {
    matches!(number, next::HOP_BY_HOP | next::ROUTING | next::FRAGMENT | next::AUTHENTICATION | next::DESTINATION)
}

/// What a step along the chain found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next header, which `proto` and `l4` say now.
    On,
    /// A later fragment: what follows is data.
    Data,
    /// The header says that it is longer than the packet.
    Malformed,
    /// A header where none of its kind may be, or one that sends the packet elsewhere than its destination says.
    Odd,
}

/// Goes past the extension header `ip.proto` at `ip.l4`, which begins with `bytes`.
#[inline(always)]
pub const fn step(ip: &mut Ipv6, bytes: &[u8; 8]) -> Step {
    let (number, at) = (ip.proto, ip.l4);
    let len: u16 = match number {
        next::FRAGMENT => 8,
        next::AUTHENTICATION => (bytes[1] as u16 + 2) * 4,
        _ => (bytes[1] as u16 + 1) * 8,
    };
    if len > ip.l4_len {
        return Step::Malformed;
    }
    // With segments left, the last of them is the destination that checksums count (RFC 8200, 8.1).
    if number == next::ROUTING && bytes[3] != 0 || number == next::HOP_BY_HOP && at != HEAD_LEN {
        return Step::Odd;
    }
    ip.proto = bytes[0];
    ip.l4 = at + len as usize;
    ip.l4_len -= len;
    if number != next::FRAGMENT {
        return Step::On;
    }
    if !matches!(ip.fragment, Fragment::No) {
        return Step::Odd;
    }
    let bits = u16::from_be_bytes([bytes[2], bytes[3]]);
    ip.id = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    ip.offset = bits >> 3;
    ip.more = bits & 1 != 0;
    if bits & 0xfff8 != 0 {
        ip.fragment = Fragment::Later;
        return Step::Data;
    }
    // A whole datagram may carry a fragment header too (RFC 6946).
    if bits & 1 != 0 {
        ip.fragment = Fragment::First;
    }
    Step::On
}

impl Address for Addr6 {
    const ICMP: u8 = proto::ICMPV6;
    const ICMP_PSEUDO: bool = true;

    #[inline(always)]
    fn difference(old: &Tuple6, new: &Tuple6) -> u32 {
        checksum::add(!checksum::words(&addresses(old)), checksum::words(&addresses(new)))
    }

    #[inline(always)]
    fn transport(protocol: u8, bytes: &[u8; 8]) -> Transport {
        match protocol {
            proto::TCP | proto::UDP | proto::SCTP => Transport::Ports {
                sport: Port(u16::from_ne_bytes([bytes[0], bytes[1]])),
                dport: Port(u16::from_ne_bytes([bytes[2], bytes[3]])),
            },
            proto::ICMPV6 => {
                let id = Port(u16::from_ne_bytes([bytes[4], bytes[5]]));
                match bytes[0] {
                    128 => Transport::Ports { sport: id, dport: Port(0) },
                    129 => Transport::Ports { sport: Port(0), dport: id },
                    // Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443, 3).
                    1..=4 => Transport::IcmpError,
                    _ => Transport::Other,
                }
            }
            _ => Transport::Other,
        }
    }

    #[inline(always)]
    fn checksum_offset(protocol: u8) -> Option<usize> {
        match protocol {
            proto::TCP => Some(16),
            proto::UDP => Some(6),
            proto::ICMPV6 => Some(2),
            proto::SCTP => Some(sctp::CHECKSUM),
            _ => None,
        }
    }
}

/// The tuple of a quoted or whole packet without its ports.
#[inline(always)]
const fn portless(src: Addr6, dst: Addr6) -> Tuple6 {
    Tuple { src, dst, sport: Port(0), dport: Port(0) }
}

#[cfg(test)]
mod tests;
