//! SCTP packets of either family, and what is seen in one, with the checksum computed from scratch.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use strake_abi::service::{Backend, SCOPE_EXTERNAL, Service, ServiceKey6};
use strake_abi::{Addr6, Port, proto};

use crate::harness::{self, HOST_MAC, Kernel, POD_MAC, backend6};
use crate::six_harness;

pub const INIT: u8 = 1;
pub const INIT_ACK: u8 = 2;
pub const ABORT: u8 = 6;
pub const SHUTDOWN: u8 = 7;
pub const SHUTDOWN_ACK: u8 = 8;
pub const COOKIE_ECHO: u8 = 10;
pub const COOKIE_ACK: u8 = 11;
pub const SHUTDOWN_COMPLETE: u8 = 14;
pub const DATA: u8 = 0;
pub const SACK: u8 = 3;

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    pub pod: IpAddr,
    /// A Pod of this node, and one of another.
    pub local: IpAddr,
    pub remote: IpAddr,
    pub node: IpAddr,
    pub outside: IpAddr,
    pub vip: IpAddr,
    pub router: IpAddr,
}

const fn four([a, b, c, d]: [u8; 4]) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

pub const NETS: [Net; 2] = [
    Net {
        pod: four(harness::POD),
        local: four(harness::LOCAL),
        remote: four(harness::REMOTE),
        node: four(harness::NODE),
        outside: four(harness::OUTSIDE),
        vip: four(harness::VIP),
        router: four(harness::OTHER_NODE),
    },
    Net {
        pod: IpAddr::V6(six_harness::POD6),
        local: IpAddr::V6(six_harness::LOCAL6),
        remote: IpAddr::V6(six_harness::REMOTE6),
        node: IpAddr::V6(six_harness::NODE6),
        outside: IpAddr::V6(six_harness::OUTSIDE6),
        vip: IpAddr::V6(six_harness::VIP6),
        router: IpAddr::V6(six_harness::OTHER_NODE6),
    },
];

impl Net {
    pub fn is_six(&self) -> bool {
        self.pod.is_ipv6()
    }

    pub fn client(&self) -> SocketAddr {
        (self.pod, 40000).into()
    }

    pub fn front(&self) -> SocketAddr {
        (self.vip, 3868).into()
    }

    pub fn node_port(&self) -> SocketAddr {
        (self.node, 30868).into()
    }

    pub fn outsider(&self) -> SocketAddr {
        (self.outside, 50000).into()
    }

    /// Bytes in front of the SCTP header.
    pub fn l4(&self) -> usize {
        if self.is_six() { 54 } else { 34 }
    }

    /// A kernel with one Service: its ClusterIP and a NodePort, both on these backends.
    pub fn kernel(&self, service: Service, backends: &[Backend]) -> Result<Kernel> {
        let mut kernel = Kernel::new()?;
        let service = Service { id: 12, backend_base: 40, ..service };
        let any = if self.is_six() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        for (addr, port, scope) in
            [(self.vip, 3868, 0), (any, 30868, 0), (any, 30868, SCOPE_EXTERNAL), (self.vip, 3868, SCOPE_EXTERNAL)]
        {
            let key = ServiceKey6 { addr: Addr6::from(addr), port: Port::new(port), proto: proto::SCTP, scope };
            kernel.service6(key, service, backends)?;
        }
        Ok(kernel)
    }
}

pub fn back(addr: IpAddr, port: u16, flags: u8, id: u32) -> Backend {
    backend6(addr, port, flags, id)
}

/// CRC-32c, bit by bit as its definition has it (RFC 3720, B.4).
pub fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let mut register = u32::MAX;
    for byte in bytes {
        register ^= u32::from(*byte);
        for _ in 0..8 {
            register = if register & 1 == 1 { (register >> 1) ^ 0x82f6_3b78 } else { register >> 1 };
        }
    }
    (!register).to_le_bytes()
}

/// The SCTP part of a packet, its checksum in it: types of chunks, and bytes of their values.
fn segment(src: SocketAddr, dst: SocketAddr, chunks: &[(u8, usize)]) -> Vec<u8> {
    let mut bytes = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
    bytes.extend([0xca, 0xfe, 0, 7, 0, 0, 0, 0]);
    for (kind, value) in chunks {
        bytes.extend([*kind, 3]);
        bytes.extend((*value as u16 + 4).to_be_bytes());
        bytes.extend((0..*value).map(|i| (i * 31 % 251) as u8));
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let sum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&sum);
    bytes
}

/// A packet with right checksums.
pub fn sctp(src: SocketAddr, dst: SocketAddr, chunks: &[(u8, usize)]) -> Vec<u8> {
    let ours = [NETS[0].pod, NETS[1].pod].contains(&src.ip());
    let (from, to) = if ours { (POD_MAC, HOST_MAC) } else { (HOST_MAC, POD_MAC) };
    let builder = etherparse::PacketBuilder::ethernet2(from, to);
    let number = etherparse::IpNumber(proto::SCTP);
    let (bytes, mut frame) = (segment(src, dst, chunks), Vec::new());
    match (src.ip(), dst.ip()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            builder.ipv4(src.octets(), dst.octets(), 64).write(&mut frame, number, &bytes).unwrap();
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            builder.ipv6(src.octets(), dst.octets(), 64).write(&mut frame, number, &bytes).unwrap();
        }
        ends => panic!("two families: {ends:?}"),
    }
    frame
}

/// An INIT: a tag, a window, two numbers of streams and one of the first data.
pub fn init(src: SocketAddr, dst: SocketAddr) -> Vec<u8> {
    sctp(src, dst, &[(INIT, 16)])
}

/// The same packet with its checksum left to the device.
pub fn unfinished(mut frame: Vec<u8>, l4: usize) -> Vec<u8> {
    frame[l4 + 8..l4 + 12].fill(0);
    frame
}

/// Source and destination, after the checksums were verified: of IPv4's header, and of SCTP over all of it.
pub fn seen(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let (src, dst, l4) = ends(frame);
    let mut bytes = frame[l4..].to_vec();
    let sum: [u8; 4] = bytes[8..12].try_into().unwrap();
    bytes[8..12].fill(0);
    assert_eq!(sum, crc32c(&bytes), "SCTP checksum of {src} -> {dst}");
    (src, dst)
}

/// The same without SCTP's checksum, and where SCTP begins.
pub fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr, usize) {
    let sliced = etherparse::SlicedPacket::from_ethernet(frame).unwrap_or_else(|e| panic!("{e}: {frame:02x?}"));
    let (src, dst, l4): (IpAddr, IpAddr, usize) = match &sliced.net {
        Some(etherparse::NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum, "IPv4 checksum");
            assert_eq!(header.protocol.0, proto::SCTP);
            (header.source.into(), header.destination.into(), 34)
        }
        Some(etherparse::NetSlice::Ipv6(ip)) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into(), 54)
        }
        other => panic!("not IP: {other:?}"),
    };
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    ((src, port(l4)).into(), (dst, port(l4 + 2)).into(), l4)
}
