//! The IPv6 half of the harness: addresses, packets, and what is seen in one, with checksums computed from scratch.

use std::net::Ipv6Addr;

use anyhow::Result;
use etherparse::PacketBuilder;
use strake_abi::config::Config;
use strake_abi::service::{Backend, Service, ServiceKey6};
use strake_abi::{Addr6, Cidr6, Port, proto};

use crate::harness::{ACK, FIN, HOST_MAC, Kernel, POD_MAC, RST, SYN, backend6};

pub const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 5);
/// Another Pod of this node.
pub const LOCAL6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 9);
/// A Pod of another node.
pub const REMOTE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 0, 1, 0, 0, 0, 7);
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0, 0, 0, 0, 0, 11);
pub const OTHER_NODE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0, 0, 0, 0, 0, 12);
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 7);
pub const OTHER_VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, 8);

/// One end of a conversation.
pub type End6 = (Ipv6Addr, u16);

pub fn configure(config: &mut Config) {
    config.node_ip6 = NODE6.into();
    config.pod_gateway6 = GATEWAY6.into();
    config.pod_cidr6 = Cidr6::new(POD6, 64);
    config.cluster_cidr6 = Cidr6::new(POD6, 48);
    config.service_cidr6 = Cidr6::new(VIP6, 112);
}

pub fn front(addr: Ipv6Addr, port: u16, protocol: u8, scope: u8) -> ServiceKey6 {
    ServiceKey6 { addr: addr.into(), port: Port::new(port), proto: protocol, scope }
}

pub fn back(addr: Ipv6Addr, port: u16, flags: u8, id: u32) -> Backend {
    backend6(Addr6::from(addr), port, flags, id)
}

/// A kernel with one Service at VIP6:80/TCP and 53/UDP.
pub fn with_web(backends: &[Backend]) -> Result<Kernel> {
    let mut kernel = Kernel::new()?;
    let web = Service { id: 12, backend_base: 40, ..Service::default() };
    kernel.service6(front(VIP6, 80, proto::TCP, 0), web, backends)?;
    kernel.service6(front(VIP6, 53, proto::UDP, 0), Service { id: 13, ..web }, backends)?;
    Ok(kernel)
}

fn macs(src: Ipv6Addr) -> ([u8; 6], [u8; 6]) {
    if src == POD6 { (POD_MAC, HOST_MAC) } else { (HOST_MAC, POD_MAC) }
}

/// A TCP segment with right checksums.
pub fn tcp6(src: End6, dst: End6, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (from, to) = macs(src.0);
    let ip = PacketBuilder::ethernet2(from, to).ipv6(src.0.octets(), dst.0.octets(), 64);
    let mut builder = ip.tcp(src.1, dst.1, 1000, 64240);
    if flags & SYN != 0 {
        builder = builder.syn();
    }
    if flags & ACK != 0 {
        builder = builder.ack(77);
    }
    if flags & FIN != 0 {
        builder = builder.fin();
    }
    if flags & RST != 0 {
        builder = builder.rst();
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// A UDP datagram with right checksums.
pub fn udp6(src: End6, dst: End6, payload: &[u8]) -> Vec<u8> {
    let (from, to) = macs(src.0);
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(from, to).ipv6(src.0.octets(), dst.0.octets(), 64).udp(src.1, dst.1);
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// An ICMPv6 message with a right checksum; `body` is what follows type, code and checksum.
pub fn icmp6(src: Ipv6Addr, dst: Ipv6Addr, kind: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let (from, to) = macs(src);
    let mut frame = [to, from].concat();
    frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend_from_slice(&(body.len() as u16 + 4).to_be_bytes());
    frame.extend_from_slice(&[proto::ICMPV6, if (133..=137).contains(&kind) { 255 } else { 64 }]);
    frame.extend_from_slice(&src.octets());
    frame.extend_from_slice(&dst.octets());
    frame.extend_from_slice(&[kind, code, 0, 0]);
    frame.extend_from_slice(body);
    let sum = checksum(&frame, 54, 2, proto::ICMPV6);
    frame[56..58].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// An ICMPv6 error from `router` to `to`, about the packet in `about` (a frame).
pub fn error6(router: Ipv6Addr, to: Ipv6Addr, kind: u8, code: u8, about: &[u8]) -> Vec<u8> {
    let mut body = if kind == 2 { vec![0, 0, 0x05, 0] } else { vec![0; 4] };
    body.extend_from_slice(&about[14..]);
    icmp6(router, to, kind, code, &body)
}

/// The same frame with extension headers (number, bytes) in front of the transport header.
pub fn extended(frame: &[u8], headers: &[(u8, &[u8])]) -> Vec<u8> {
    let mut out = frame[..54].to_vec();
    let mut at = 20;
    for (number, bytes) in headers {
        out[at] = *number;
        at = out.len();
        out.extend_from_slice(bytes);
        out[at] = frame[20];
    }
    out.extend_from_slice(&frame[54..]);
    let len = out.len() as u16 - 54;
    out[18..20].copy_from_slice(&len.to_be_bytes());
    out
}

/// The checksum of a transport segment at `at`, word by word over pseudo header and all bytes but the field.
fn checksum(frame: &[u8], at: usize, field: usize, protocol: u8) -> u16 {
    let mut bytes = frame[22..54].to_vec();
    bytes.extend_from_slice(&((frame.len() - at) as u32).to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, protocol]);
    bytes.extend_from_slice(&frame[at..]);
    bytes[40 + field..42 + field].fill(0);
    bytes.push(0);
    let mut sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// What a frame says, after its checksum was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen6 {
    pub src: End6,
    pub dst: End6,
    pub proto: u8,
    pub hops: u8,
    /// Where the transport header begins.
    pub l4: usize,
}

pub fn seen6(frame: &[u8]) -> Seen6 {
    assert_eq!(&frame[12..15], &[0x86, 0xdd, 0x60], "IPv6: {frame:02x?}");
    assert_eq!(usize::from(u16::from_be_bytes([frame[18], frame[19]])), frame.len() - 54, "payload length");
    let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&frame[at..at + 16]).unwrap());
    let (mut protocol, mut l4) = (frame[20], 54);
    while matches!(protocol, 0 | 43 | 44 | 60) {
        protocol = frame[l4];
        l4 += if frame[l4 + 1] == 0 || protocol == 44 { 8 } else { 8 * (usize::from(frame[l4 + 1]) + 1) };
    }
    let field = match protocol {
        proto::TCP => 16,
        proto::UDP => 6,
        proto::ICMPV6 => 2,
        other => panic!("protocol {other}"),
    };
    let found = u16::from_be_bytes([frame[l4 + field], frame[l4 + field + 1]]);
    assert_eq!(found % 0xffff, checksum(frame, l4, field, protocol) % 0xffff, "checksum of protocol {protocol}");
    let port = |at: usize| if protocol == proto::ICMPV6 { 0 } else { u16::from_be_bytes([frame[at], frame[at + 1]]) };
    Seen6 { src: (address(22), port(l4)), dst: (address(38), port(l4 + 2)), proto: protocol, hops: frame[21], l4 }
}
