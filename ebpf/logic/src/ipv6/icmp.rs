//! ICMPv6 errors of translated flows, as [`crate::icmp`] has it for IPv4. IPv6 has no header checksum, and that of ICMPv6
//! covers the outer addresses too.

use strake_abi::conntrack::Tuple6;
use strake_abi::{Addr6, proto};

use super::{IPV6_LEN, Ipv6, address, addresses, portless};
use crate::checksum;
use crate::packet::{Fragment, Ip, Transport};
use crate::rewrite::{self, Address};

/// An error and the packet it quotes.
#[derive(Clone, Copy, Debug)]
pub struct Error {
    /// Source of the error.
    pub src: Addr6,
    /// Its destination.
    pub dst: Addr6,
    /// The quoted fixed header.
    pub fixed: [u8; IPV6_LEN],
    /// The quoted headers, once the chain was walked.
    pub ip: Ipv6,
    /// The first bytes of the quoted transport header.
    pub l4: [u8; 8],
    /// The quoted tuple.
    pub tuple: Tuple6,
}

/// What to write to turn the quoted packet and the one that quotes it back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Source and destination of the outer header (offset 8 of it).
    pub outer: [u32; 8],
    /// Source and destination of the quoted header.
    pub inner: [u32; 8],
    /// The first 8 bytes of the quoted transport header (its checksum too, where that is among them).
    pub inner_l4: [u8; 8],
    /// Difference for the ICMPv6 checksum.
    pub icmp_difference: u32,
}

/// The headers of a packet quoted at `at`, whose chain is still to be walked. `None` if it is not IPv6.
#[inline(always)]
pub const fn quoted(fixed: &[u8; IPV6_LEN], at: usize) -> Option<Ipv6> {
    if fixed[0] >> 4 != 6 {
        return None;
    }
    Some(Ip {
        src: address::<8, IPV6_LEN>(fixed),
        dst: address::<24, IPV6_LEN>(fixed),
        proto: fixed[6],
        ttl: fixed[7],
        fragment: Fragment::No,
        offset: 0,
        more: false,
        id: 0,
        l4: at + IPV6_LEN,
        l4_len: u16::from_be_bytes([fixed[4], fixed[5]]),
    })
}

/// The quoted tuple; `None` if there are no ports.
#[inline(always)]
pub fn tuple(ip: &Ipv6, l4: &[u8; 8]) -> Option<Tuple6> {
    match Addr6::transport(ip.proto, l4) {
        Transport::Ports { sport, dport } => Some(Tuple6 { sport, dport, ..portless(ip.src, ip.dst) }),
        _ => None,
    }
}

/// Writes what has to change into `out`. `to` is the translation found under the mirror of the quoted tuple.
#[inline(always)]
pub fn translate(out: &mut Rewrite, error: &Error, to: &Tuple6) {
    let original = to.mirror();
    let (l4, quoted) = (&error.l4, &error.tuple);
    let differences = rewrite::differences(error.ip.proto, quoted, &original);
    out.inner = addresses(&original);
    let mut change = differences.addresses;

    out.inner_l4 = *l4;
    let sum = checksum::add(differences.addresses, differences.ports);
    if error.ip.proto == proto::ICMPV6 {
        let [x, y] = rewrite::echo_id(&original).0.to_ne_bytes();
        out.inner_l4[4] = x;
        out.inner_l4[5] = y;
        let [x, y] = checksum::update(u16::from_ne_bytes([l4[2], l4[3]]), sum).to_ne_bytes();
        out.inner_l4[2] = x;
        out.inner_l4[3] = y;
        change = checksum::add(change, checksum::difference(&[l4[2], l4[3]], &[x, y]));
    } else {
        let [w, x, y, z] = rewrite::ports(&original);
        out.inner_l4[0] = w;
        out.inner_l4[1] = x;
        out.inner_l4[2] = y;
        out.inner_l4[3] = z;
        if error.ip.proto == proto::UDP && (l4[6] != 0 || l4[7] != 0) {
            let [y, z] = checksum::update(u16::from_ne_bytes([l4[6], l4[7]]), sum).to_ne_bytes();
            out.inner_l4[6] = y;
            out.inner_l4[7] = z;
            change = checksum::add(change, checksum::difference(&[l4[6], l4[7]], &[y, z]));
        }
    }
    change = checksum::add(change, differences.ports);

    // The error goes to whoever sent the quoted packet. Its source is kept if it is a router's, and translated if it is
    // the destination of the flow itself.
    let source = if error.src == quoted.dst { original.dst } else { error.src };
    let new = portless(source, original.src);
    out.outer = addresses(&new);
    out.icmp_difference = checksum::add(change, Addr6::difference(&portless(error.src, error.dst), &new));
}
