//! A packet in its driver: reading it, and changing it where it stands. What [`crate::skb`] is to the classifiers.

use aya_ebpf::bindings::xdp_md;
use strake_abi::conntrack::Tuple;
use strake_abi::proto;
use strake_logic::checksum;
use strake_logic::packet::{self, ETH_LEN};
use strake_logic::plain::{self, Plain, TCP_LEN, UDP_LEN};
use strake_logic::rewrite::{self, Differences};

use crate::route::Route;
use crate::skb::{Kind, Packet};
use crate::wire::Wire;

/// The kernel's `struct xdp_md`.
#[derive(Clone, Copy)]
pub struct Frame(pub *mut xdp_md);

impl Frame {
    #[inline(always)]
    fn ends(self) -> (usize, usize) {
        // SAFETY: the context is valid while the program runs. Volatile: 32 bits at a time are what the kernel lets a
        // program read of it, and makes pointers of.
        unsafe {
            let context = self.0;
            (
                (&raw const (*context).data).read_volatile() as usize,
                (&raw const (*context).data_end).read_volatile() as usize,
            )
        }
    }

    /// Bytes of the frame.
    #[inline(always)]
    pub fn len(self) -> u32 {
        let (data, end) = self.ends();
        (end - data) as u32
    }

    /// A part of the frame, which is valid until its head is moved.
    #[inline(always)]
    pub fn at<T>(self, offset: usize) -> Option<&'static mut T> {
        const { assert!(align_of::<T>() == 1) };
        let (data, end) = self.ends();
        if data + offset + size_of::<T>() > end {
            return None;
        }
        // SAFETY: these bytes are within the frame, T is an array of bytes, and nobody else holds a reference to them
        // while this one is used.
        Some(unsafe { &mut *((data + offset) as *mut T) })
    }

    /// EtherType, 0 if there is none.
    #[inline(always)]
    pub fn ether_type(self) -> u16 {
        self.at::<[u8; ETH_LEN]>(0).map_or(0, |ethernet| packet::ether_type(ethernet))
    }

    /// Reads a plain packet of TCP or UDP that has another hop to live and a checksum to update. False: it is not one.
    #[inline(always)]
    pub fn read<A: Wire + Plain>(self, packet: &mut Packet<A>) -> bool {
        packet.len = self.len();
        let Some(front) = self.at::<<A as Plain>::Front>(0) else { return false };
        if !A::plain(&mut packet.ip, front, packet.len) || packet.ip.ttl <= 1 {
            return false;
        }
        let protocol = packet.ip.proto;
        if protocol != proto::TCP && protocol != proto::UDP {
            return false;
        }
        // While it is left to the device, only the stack knows how to go on with it (`CHECKSUM_PARTIAL`).
        let pseudo = A::pseudo(&packet.ip);
        if protocol == proto::TCP { self.read_tcp(packet, pseudo) } else { self.read_udp(packet, pseudo) }
    }

    // The transports are functions of their own, each with a look at the frame's end: the compiler would make one of the
    // two, with a length that the verifier does not connect to either.

    #[inline(never)]
    fn read_tcp<A: Wire + Plain>(self, packet: &mut Packet<A>, pseudo: u32) -> bool {
        let Some(header) = self.at::<[u8; TCP_LEN]>(A::L4) else { return false };
        if packet.ip.l4_len < TCP_LEN as u16 || checksum::is_partial(plain::tcp_sum(header), pseudo) {
            return false;
        }
        packet.tuple = packet::tuple(&packet.ip, port(header[0], header[1]), port(header[2], header[3]));
        packet.tcp_flags = header[13];
        packet.kind = Kind::Flow;
        true
    }

    #[inline(never)]
    fn read_udp<A: Wire + Plain>(self, packet: &mut Packet<A>, pseudo: u32) -> bool {
        let Some(header) = self.at::<[u8; UDP_LEN]>(A::L4) else { return false };
        if packet.ip.l4_len < UDP_LEN as u16 || checksum::is_partial(plain::udp_sum(header), pseudo) {
            return false;
        }
        packet.tuple = packet::tuple(&packet.ip, port(header[0], header[1]), port(header[2], header[3]));
        packet.tcp_flags = 0;
        packet.kind = Kind::Flow;
        true
    }

    #[inline(never)]
    fn carry_tcp<A: Plain>(self, to: &Tuple<A>, differences: &Differences) -> bool {
        self.at(A::L4).map(|header| plain::tcp(header, to, differences)).is_some()
    }

    #[inline(never)]
    fn carry_udp<A: Plain>(self, to: &Tuple<A>, differences: &Differences) -> bool {
        self.at(A::L4).map(|header| plain::udp(header, to, differences)).is_some()
    }

    /// Makes the packet carry the tuple `to`, on its way along `route`. False if it was left as it is.
    #[inline(always)]
    pub fn forward<A: Wire + Plain>(self, packet: &Packet<A>, to: &Tuple<A>, route: &Route) -> bool {
        let differences = rewrite::differences(packet.ip.proto, &packet.tuple, to);
        let carried = match packet.ip.proto {
            proto::TCP => self.carry_tcp(to, &differences),
            _ => self.carry_udp(to, &differences),
        };
        let Some(front) = self.at::<<A as Plain>::Front>(0).filter(|_| carried) else { return false };
        A::forward(front, to, differences.addresses, &route.next, &route.from);
        true
    }
}

#[inline(always)]
const fn port(a: u8, b: u8) -> strake_abi::Port {
    strake_abi::Port(u16::from_ne_bytes([a, b]))
}
