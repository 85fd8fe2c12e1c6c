//! A packet in the kernel: reading, writing and sending it on. The helpers of `sched_cls`, with names and types.

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_OK, TC_ACT_SHOT};
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh,
    bpf_redirect_peer, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use core::mem::MaybeUninit;
use strake_abi::conntrack::{ConntrackKey, FragmentKey, FragmentPorts, Tuple4};
use strake_abi::flow::{Counter, DropReason};
use strake_abi::{Port, proto};
use strake_logic::packet::{self, Fragment, HEAD_LEN, Head, Ipv4, Transport};

use crate::maps::{FRAGMENTS, get};
use crate::report::count;

/// Go on as if nobody had looked.
pub const PASS: i32 = TC_ACT_OK;
/// Discard.
pub const DROP: i32 = TC_ACT_SHOT;

/// The kernel's `struct __sk_buff`.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Skb(pub *mut __sk_buff);

impl Skb {
    /// Bytes of the frame.
    #[inline(always)]
    pub fn len(self) -> u32 {
        // SAFETY: the context is valid while the program runs; so below.
        unsafe { (*self.0).len }
    }

    /// The interface that the program is attached to.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: see `len`.
        unsafe { (*self.0).ifindex }
    }

    /// Copies from the frame.
    #[inline(always)]
    pub fn load<T: Copy>(self, offset: usize) -> Option<T> {
        let mut out = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes all of `out` or fails; T is an array of bytes or an integer.
        unsafe {
            let ret = bpf_skb_load_bytes(self.0.cast(), offset as u32, out.as_mut_ptr().cast(), size_of::<T>() as u32);
            if ret == 0 { Some(out.assume_init()) } else { None }
        }
    }

    /// Copies from the frame to where it stays.
    #[inline(always)]
    pub fn load_into<const N: usize>(self, offset: usize, out: &mut [u8; N]) -> bool {
        // SAFETY: the helper writes at most N bytes.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset as u32, out.as_mut_ptr().cast(), N as u32) == 0 }
    }

    /// Overwrites a part of the frame; checksums are the caller's.
    #[inline(always)]
    pub fn store<T: Copy>(self, offset: usize, value: &T) -> Result<(), DropReason> {
        // SAFETY: `value` is readable for its size.
        let ret = unsafe {
            bpf_skb_store_bytes(
                self.0.cast(),
                offset as u32,
                core::ptr::from_ref(value).cast(),
                size_of::<T>() as u32,
                0,
            )
        };
        checked(ret)
    }

    /// Applies a difference to the IPv4 checksum at `offset`.
    #[inline(always)]
    pub fn fix_l3(self, offset: usize, difference: u32) -> Result<(), DropReason> {
        // SAFETY: the helper checks the offset.
        checked(unsafe { bpf_l3_csum_replace(self.0.cast(), offset as u32, 0, u64::from(difference), 0) })
    }

    /// Applies a difference to the transport checksum at `offset`. `pseudo`: the difference is one of the pseudo header,
    /// which counts too while the checksum is left to the device. A UDP checksum of zero stays ("none").
    #[inline(always)]
    pub fn fix_l4(self, offset: usize, difference: u32, pseudo: bool) -> Result<(), DropReason> {
        let flags = u64::from(BPF_F_MARK_MANGLED_0) | if pseudo { u64::from(BPF_F_PSEUDO_HDR) } else { 0 };
        // SAFETY: the helper checks the offset.
        checked(unsafe { bpf_l4_csum_replace(self.0.cast(), offset as u32, 0, u64::from(difference), flags) })
    }

    /// Cuts or lengthens the frame at its end.
    #[inline(always)]
    pub fn resize(self, len: u32) -> Result<(), DropReason> {
        // SAFETY: no pointer into the frame is kept anywhere.
        checked(unsafe { bpf_skb_change_tail(self.0, len, 0) })
    }

    /// Cookie of the socket that sent the packet, 0 if it is not of this machine.
    #[inline(always)]
    pub fn cookie(self) -> u64 {
        // SAFETY: the context is valid.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }
}

/// Into the Pod behind the veth `ifindex`, past its queue (only from an ingress hook).
#[inline(always)]
pub fn into_pod(ifindex: u32) -> i32 {
    // SAFETY: no memory is involved.
    unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
}

/// Out of an interface as it is.
#[inline(always)]
pub fn out_of(ifindex: u32) -> i32 {
    // SAFETY: no memory is involved.
    unsafe { bpf_redirect(ifindex, 0) as i32 }
}

/// Out of an interface to the neighbour that the routing table names for the packet's destination.
#[inline(always)]
pub fn out_to_neighbour(ifindex: u32) -> i32 {
    // SAFETY: no parameters are given.
    unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

#[inline(always)]
fn checked(ret: i64) -> Result<(), DropReason> {
    if ret == 0 { Ok(()) } else { Err(DropReason::RewriteFailed) }
}

/// What kind of packet it is, as far as flows are concerned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It has a tuple.
    Flow,
    /// A later fragment whose first one was not seen.
    Lost,
    /// An ICMP error about another packet.
    IcmpError,
    /// Neither.
    Other,
}

/// A packet that was read. The head stays where it was loaded to: arrays that move are taken apart by the compiler,
/// byte by byte, and fill the stack.
pub struct Packet<'a> {
    pub head: &'a Head,
    pub ip: Ipv4,
    pub tuple: Tuple4,
    pub kind: Kind,
    pub tcp_flags: u8,
    /// Bytes of the frame.
    pub len: u32,
}

impl<'a> Packet<'a> {
    /// A packet whose IPv4 header was read, before [`Packet::read`].
    #[inline(always)]
    pub fn new(skb: Skb, head: &'a Head, ip: Ipv4) -> Self {
        let tuple = packet::tuple(&ip, Port(0), Port(0));
        Self { head, ip, tuple, kind: Kind::Other, tcp_flags: 0, len: skb.len() }
    }

    /// The row of this packet at a border.
    #[inline(always)]
    pub const fn key(&self, border: u8) -> ConntrackKey {
        ConntrackKey { tuple: self.tuple, proto: self.ip.proto, border, reserved: 0 }
    }

    /// Reads the transport header.
    #[inline(never)]
    pub fn read(&mut self, skb: Skb, border: u8) -> Result<(), DropReason> {
        if packet::checksum_offset(self.ip.proto).is_none() {
            return Ok(());
        }
        if self.ip.fragment == Fragment::Later {
            self.kind = Kind::Lost;
            if let Some(ports) = followed(&self.ip, border) {
                self.tuple.sport = ports.sport;
                self.tuple.dport = ports.dport;
                self.kind = Kind::Flow;
            }
            return Ok(());
        }
        if self.ip.l4_len < 8 {
            return Err(DropReason::Malformed);
        }
        let bytes: [u8; 8] = skb.load(self.ip.l4).ok_or(DropReason::Malformed)?;
        match packet::transport(self.ip.proto, &bytes) {
            Transport::Ports { sport, dport } => {
                self.tuple.sport = sport;
                self.tuple.dport = dport;
                self.kind = Kind::Flow;
                if self.ip.proto == proto::TCP {
                    if self.ip.l4_len < 20 {
                        return Err(DropReason::Malformed);
                    }
                    self.tcp_flags = skb.load(self.ip.l4 + 13).ok_or(DropReason::Malformed)?;
                }
                if self.ip.fragment == Fragment::First {
                    remember(self, border);
                }
            }
            Transport::IcmpError => self.kind = Kind::IcmpError,
            Transport::Other => {}
        }
        Ok(())
    }
}

/// Reads the first 34 bytes into `head`, and the IPv4 header in them; nothing if it is not IPv4.
#[inline(always)]
pub fn ipv4(skb: Skb, head: &mut Head) -> Option<Ipv4> {
    if !skb.load_into(0, head) || packet::ether_type(head) != packet::ethertype::IPV4 {
        return None;
    }
    packet::ipv4(head, skb.len()).ok()
}

const fn fragment_key(ip: &Ipv4, border: u8) -> FragmentKey {
    FragmentKey { src: ip.src, dst: ip.dst, id: ip.id, proto: ip.proto, border }
}

#[inline(never)]
fn followed(ip: &Ipv4, border: u8) -> Option<FragmentPorts> {
    let ports = *get!(FRAGMENTS, &fragment_key(ip, border))?;
    count(Counter::FragmentFollowed);
    Some(ports)
}

#[inline(never)]
fn remember(packet: &Packet<'_>, border: u8) {
    let ports = FragmentPorts { sport: packet.tuple.sport, dport: packet.tuple.dport };
    // A full LRU map makes room; if it cannot, the later fragments are lost, and counted when they come.
    let _ = FRAGMENTS.insert(&fragment_key(&packet.ip, border), &ports, 0);
}

const _: () = assert!(HEAD_LEN == 34);
