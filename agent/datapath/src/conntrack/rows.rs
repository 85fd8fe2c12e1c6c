//! Rows of connections without their family: all that differs is a map, and the length of its addresses.
//!
//! May not know: what is asked of them.

use std::net::{IpAddr, SocketAddr};

use strake_abi::conntrack::{CONNTRACK, CONNTRACK_V6, Conntrack, ConntrackKey};
use strake_abi::{Addr6, Port, conntrack};

/// Source and destination, of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    pub src: SocketAddr,
    pub dst: SocketAddr,
}

impl Tuple {
    pub fn mirror(self) -> Self {
        Self { src: self.dst, dst: self.src }
    }
}

/// A row without its family.
#[derive(Clone, Copy)]
pub struct Side {
    pub border: u8,
    pub protocol: u8,
    pub direction: u8,
    pub key: Tuple,
    pub to: Tuple,
    pub service_id: u32,
    pub backend_id: u32,
    pub last_seen_s: u32,
    pub packets: u64,
    pub bytes: u64,
    pub created_ns: u64,
    pub flags: u16,
    pub state: u8,
    pub ifindex: u32,
    pub cookie: u64,
}

/// A map of connections: those of one length of addresses.
pub trait Family {
    const MAP: &'static str;
    type Key: aya::Pod;
    type Row: aya::Pod;

    fn side(key: &Self::Key, row: &Self::Row) -> Side;

    /// The key of the other direction.
    fn peer(key: &Self::Key, row: &Self::Row) -> Self::Key;

    /// The key of a packet at a border; none if it is the other family's.
    fn key(packet: Tuple, protocol: u8, border: u8) -> Option<Self::Key>;
}

/// Rows differ by their addresses alone.
macro_rules! family {
    ($map:expr, $family:ident: $key:ty => $row:ty) => {
        pub enum $family {}

        impl Family for $family {
            const MAP: &'static str = $map;
            type Key = $key;
            type Row = $row;

            fn side(key: &Self::Key, row: &Self::Row) -> Side {
                let end = |addr, port: Port| SocketAddr::new(Addr6::from(addr).ip(), port.get());
                let (asked, to) = (&key.tuple, &row.to);
                Side {
                    border: key.border,
                    protocol: key.proto,
                    direction: row.direction,
                    key: Tuple { src: end(asked.src, asked.sport), dst: end(asked.dst, asked.dport) },
                    to: Tuple { src: end(to.src, to.sport), dst: end(to.dst, to.dport) },
                    service_id: row.service_id,
                    backend_id: row.backend_id,
                    last_seen_s: row.last_seen_s,
                    packets: row.packets,
                    bytes: row.bytes,
                    created_ns: row.created_ns,
                    flags: row.flags,
                    state: row.state,
                    ifindex: row.ifindex,
                    cookie: row.cookie,
                }
            }

            fn peer(key: &Self::Key, row: &Self::Row) -> Self::Key {
                Self::Key { tuple: row.to.mirror(), ..*key }
            }

            fn key(packet: Tuple, protocol: u8, border: u8) -> Option<Self::Key> {
                let (IpAddr::$family(src), IpAddr::$family(dst)) = (packet.src.ip(), packet.dst.ip()) else {
                    return None;
                };
                let (sport, dport) = (Port::new(packet.src.port()), Port::new(packet.dst.port()));
                let tuple = conntrack::Tuple { src: src.into(), dst: dst.into(), sport, dport };
                Some(Self::Key { tuple, proto: protocol, border, reserved: 0 })
            }
        }
    };
}
family!(CONNTRACK, V4: ConntrackKey => Conntrack);
family!(CONNTRACK_V6, V6: ConntrackKey<Addr6> => Conntrack<Addr6>);
