//! A packet in its driver: reading it, changing it where it stands, and asking the routing table about it. What
//! [`crate::skb`] is to the classifiers.

use aya_ebpf::bindings::{BPF_FIB_LOOKUP_OUTPUT, xdp_md};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use strake_abi::config::Config;
use strake_abi::conntrack::Tuple;
use strake_abi::{Mac, proto};
use strake_logic::checksum;
use strake_logic::packet::{self, ETH_LEN};
use strake_logic::plain::{self, Plain, TCP_LEN, UDP_LEN};
use strake_logic::rewrite::{self, Differences};

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

    /// Finds the way out of the uplink for the packet once it carries `to`. False if the stack would send it elsewhere, or
    /// does not know the neighbour, or the packet is too long, or the frame not this machine's.
    #[inline(never)]
    pub fn route<A: Wire + Plain>(self, config: &Config, packet: &Packet<A>, to: &Tuple<A>, route: &mut Route) -> bool {
        let mut lookup = Lookup {
            family: A::FAMILY,
            protocol: packet.ip.proto,
            sport: to.sport.0,
            dport: to.dport.0,
            len: (packet.len - ETH_LEN as u32) as u16,
            ifindex: config.uplink_ifindex,
            flow: 0,
            src: to.src.words(),
            dst: to.dst.words(),
            vlan: [0; 2],
            from: [0; 6],
            next: [0; 6],
        };
        const SIZE: i32 = size_of::<Lookup>() as i32;
        // SAFETY: `Lookup` is laid out as the kernel's structure, and of its size.
        let found = unsafe { bpf_fib_lookup(self.0.cast(), (&raw mut lookup).cast(), SIZE, BPF_FIB_LOOKUP_OUTPUT) };
        // Linux 5.10 finds neighbours that have not answered yet, too.
        if found != 0 || lookup.ifindex != config.uplink_ifindex || lookup.next == [0; 6] {
            return false;
        }
        route.next = lookup.next;
        route.from = lookup.from;
        let Some(ethernet) = self.at::<[u8; ETH_LEN]>(0) else { return false };
        ethernet.first_chunk::<6>().is_some_and(|to| *to == lookup.from)
    }
}

#[inline(always)]
const fn port(a: u8, b: u8) -> strake_abi::Port {
    strake_abi::Port(u16::from_ne_bytes([a, b]))
}

/// Ethernet addresses of the next hop.
#[derive(Clone, Copy, Default)]
pub struct Route {
    pub next: Mac,
    pub from: Mac,
}

/// The kernel's `struct bpf_fib_lookup`.
#[repr(C)]
struct Lookup {
    family: u8,
    protocol: u8,
    sport: u16,
    dport: u16,
    len: u16,
    ifindex: u32,
    flow: u32,
    src: [u32; 4],
    dst: [u32; 4],
    vlan: [u16; 2],
    from: Mac,
    next: Mac,
}

const _: () = assert!(size_of::<Lookup>() == 64);
