//! A packet in the kernel: reading, writing and sending it on. The helpers of `sched_cls`, with names and types.

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, TC_ACT_OK, TC_ACT_REDIRECT, TC_ACT_SHOT,
    TC_ACT_UNSPEC,
};
use aya_ebpf::helpers::generated::{
    bpf_get_socket_cookie, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh,
    bpf_redirect_peer, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use core::mem::MaybeUninit;
use strake_abi::config::CHAINED;
use strake_abi::conntrack::{ConntrackKey, FragmentPorts, Tuple};
use strake_abi::flow::{Counter, DropReason, Hook, Verdict};
use strake_abi::{Port, proto};
use strake_logic::choose::is_fresh;
use strake_logic::packet::{self, Fragment, Ip, Transport, ethertype};
use strake_logic::sctp;

use crate::maps;
use crate::report::{self, count, now_ns, seconds};
use crate::wire::Wire;

/// What becomes of a packet, in one byte.
///
/// Functions that are not inlined return this and not a `Result<_, DropReason>`: two bytes are returned through memory,
/// which costs one of the five arguments, and padding that is sometimes undefined does not pass the verifier.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Action(u8);

/// It goes on as if nobody had looked.
pub const PASS: Action = Action(TC_ACT_OK as u8);
/// It goes on, and nobody has looked: no row speaks for it, or it has been seen to by the programs of another version.
pub const NEXT: Action = Action(32);
/// It is discarded, and somebody has said why.
pub const DROP: Action = Action(TC_ACT_SHOT as u8);
/// It goes where a redirect said.
const REDIRECT: Action = Action(TC_ACT_REDIRECT as u8);
/// From here on: discarded, and the reason is the difference.
const REASONS: u8 = 64;
/// From here on: to be answered with a refusal, and the reason is the difference.
const REFUSALS: u8 = 128;

/// The packet is to be answered with a refusal, which its hook does ([`crate::refuse`]): from here the stack would not
/// suffice for it.
#[inline(always)]
pub fn refusal(reason: DropReason) -> Action {
    Action(REFUSALS + reason as u8)
}

impl Action {
    /// The reason of a refusal that is to be sent.
    #[inline(always)]
    pub const fn refusal(self) -> Option<u8> {
        if self.0 >= REFUSALS { Some(self.0 - REFUSALS) } else { None }
    }
}

/// A result in one byte.
#[inline(always)]
pub fn settle(result: Result<Action, DropReason>) -> Action {
    match result {
        Ok(action) => action,
        Err(reason) => Action(REASONS + reason as u8),
    }
}

/// What the program returns to the kernel. A reason that nobody has told yet is told.
#[inline(always)]
pub fn code<A: Wire>(skb: Skb, hook: Hook, action: Action) -> i32 {
    if action.0 >= REASONS {
        report::refused::<A>(skb, hook, action.0 - REASONS, Verdict::Dropped);
        return TC_ACT_SHOT;
    }
    // Other programs may sit behind ours (a CNI plugin's, say), and they have their say.
    if action == NEXT {
        return TC_ACT_UNSPEC;
    }
    if action == PASS {
        if maps::config().is_some_and(|config| config.flags & CHAINED != 0) {
            skb.mark(hook);
        }
        return TC_ACT_UNSPEC;
    }
    i32::from(action.0)
}

/// The helper's word: redirected, or refused.
#[inline(always)]
fn redirected(ret: i64) -> Action {
    if ret as i32 == TC_ACT_REDIRECT { REDIRECT } else { DROP }
}

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

    /// Whether the kernel has put it together from several, or will take it apart.
    #[inline(always)]
    pub fn is_gso(self) -> bool {
        // SAFETY: see `len`.
        unsafe { (*self.0).gso_size != 0 }
    }

    /// The interface that the program is attached to.
    #[inline(always)]
    pub fn ifindex(self) -> u32 {
        // SAFETY: see `len`.
        unsafe { (*self.0).ifindex }
    }

    /// A number that no packet carries by chance: of this hook at this interface.
    #[inline(always)]
    fn seen_at(self, hook: Hook) -> u32 {
        const SEEN: u32 = 0x5354_0000;
        SEEN ^ (hook as u32) << 12 ^ self.ifindex()
    }

    /// Tells the programs behind, those of another version, that it has been seen to.
    #[inline(always)]
    fn mark(self, hook: Hook) {
        // SAFETY: the context is valid while the program runs; these words are for programs to leave notes.
        unsafe { (*self.0).cb[0] = self.seen_at(hook) };
    }

    /// Whether the programs before, those of another version, have seen to it.
    #[inline(always)]
    pub fn is_seen(self, hook: Hook) -> bool {
        // SAFETY: see `mark`.
        let noted = unsafe { (*self.0).cb[0] };
        noted == self.seen_at(hook) && maps::config().is_some_and(|config| config.flags & CHAINED != 0)
    }

    /// Whether the kernel holds it for IPv6.
    #[inline(always)]
    pub fn is_ipv6(self) -> bool {
        // SAFETY: see `len`.
        unsafe { (*self.0).protocol == u32::from(ethertype::IPV6.to_be()) }
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
    pub fn load_into<T: Copy>(self, offset: usize, out: &mut T) -> bool {
        let (to, len) = (core::ptr::from_mut(out).cast(), size_of::<T>() as u32);
        // SAFETY: the helper writes at most `len` bytes; T is an array of bytes or an integer.
        unsafe { bpf_skb_load_bytes(self.0.cast(), offset as u32, to, len) == 0 }
    }

    /// Overwrites a part of the frame; checksums are the caller's.
    #[inline(always)]
    pub fn store<T: Copy>(self, offset: usize, value: &T) -> Result<(), DropReason> {
        self.store_with(offset, value, 0)
    }

    /// The same, and the change is added to the sum that the device made of the packet, if it made one: for what no
    /// checksum of the same header makes up for.
    #[inline(always)]
    pub fn store_summed<T: Copy>(self, offset: usize, value: &T) -> Result<(), DropReason> {
        self.store_with(offset, value, u64::from(BPF_F_RECOMPUTE_CSUM))
    }

    #[inline(always)]
    fn store_with<T: Copy>(self, offset: usize, value: &T, flags: u64) -> Result<(), DropReason> {
        let (from, len) = (core::ptr::from_ref(value).cast(), size_of::<T>() as u32);
        // SAFETY: `value` is readable for its size.
        checked(unsafe { bpf_skb_store_bytes(self.0.cast(), offset as u32, from, len, flags) })
    }

    /// Overwrites `N` bytes of the frame with the first of `from`, which has at least as many.
    #[inline(always)]
    pub fn store_first<const N: usize, T>(self, offset: usize, from: &T) -> Result<(), DropReason> {
        self.store_first_with::<N, T>(offset, from, 0)
    }

    /// The same, as in [`Self::store_summed`].
    #[inline(always)]
    pub fn store_first_summed<const N: usize, T>(self, offset: usize, from: &T) -> Result<(), DropReason> {
        self.store_first_with::<N, T>(offset, from, u64::from(BPF_F_RECOMPUTE_CSUM))
    }

    #[inline(always)]
    fn store_first_with<const N: usize, T>(self, offset: usize, from: &T, flags: u64) -> Result<(), DropReason> {
        const { assert!(N <= size_of::<T>()) };
        let from = core::ptr::from_ref(from).cast();
        // SAFETY: `from` is readable for N bytes (asserted).
        checked(unsafe { bpf_skb_store_bytes(self.0.cast(), offset as u32, from, N as u32, flags) })
    }

    /// Applies a difference to the IPv4 checksum at `offset`.
    #[inline(always)]
    pub fn fix_l3(self, offset: usize, difference: u32) -> Result<(), DropReason> {
        // SAFETY: the helper checks the offset.
        checked(unsafe { bpf_l3_csum_replace(self.0.cast(), offset as u32, 0, u64::from(difference), 0) })
    }

    /// Applies a difference to the checksum of a transport protocol at `offset`. `pseudo`: the difference is one of the
    /// pseudo header, which counts too while the checksum is left to the device.
    #[inline(always)]
    pub fn fix_l4(self, offset: usize, difference: u32, protocol: u8, pseudo: bool) -> Result<(), DropReason> {
        // Zero is "none" to UDP: it stays, and what comes to zero is written as its other form (RFC 768, RFC 8200, 8.1).
        // To the others it is a sum like any.
        let none = if protocol == proto::UDP { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let flags = none | if pseudo { u64::from(BPF_F_PSEUDO_HDR) } else { 0 };
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
pub fn into_pod(ifindex: u32) -> Action {
    // SAFETY: no memory is involved.
    redirected(unsafe { bpf_redirect_peer(ifindex, 0) })
}

/// Out of an interface as it is.
#[inline(always)]
pub fn out_of(ifindex: u32) -> Action {
    // SAFETY: no memory is involved.
    redirected(unsafe { bpf_redirect(ifindex, 0) })
}

/// Out of an interface to the neighbour that the routing table names for the packet's destination.
#[inline(always)]
pub fn out_to_neighbour(ifindex: u32) -> Action {
    // SAFETY: no parameters are given.
    redirected(unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) })
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

/// A packet that was read. It stays where it is, in [`crate::work::Work`].
#[repr(C)]
pub struct Packet<A: Wire> {
    pub ip: Ip<A>,
    pub tuple: Tuple<A>,
    /// When its flow was looked for.
    pub now_ns: u64,
    /// Bytes of the frame.
    pub len: u32,
    pub kind: Kind,
    /// Of TCP; of SCTP what its chunks say, in the same terms.
    pub tcp_flags: u8,
    pub head: A::Head,
}

impl<A: Wire> Packet<A> {
    /// Reads Ethernet and the fixed part of the IP header. False if there are not as many bytes.
    #[inline(always)]
    pub fn read_head(&mut self, skb: Skb) -> bool {
        self.len = skb.len();
        skb.load_into(0, &mut self.head)
    }

    /// The EtherType in the head.
    #[inline(always)]
    pub fn ether_type(&self) -> u16 {
        packet::ether_type(A::ethernet(&self.head))
    }

    /// Reads the IP headers.
    #[inline(always)]
    pub fn read_ip(&mut self, skb: Skb) -> Result<(), DropReason> {
        A::read_ip(skb, &self.head, self.len, &mut self.ip)?;
        self.tuple = packet::tuple(&self.ip, Port(0), Port(0));
        self.kind = Kind::Other;
        self.tcp_flags = 0;
        Ok(())
    }

    /// Both, for hooks that leave everything but well-formed IP alone.
    #[inline(always)]
    pub fn read_headers(&mut self, skb: Skb) -> bool {
        self.read_head(skb) && self.ether_type() == A::ETHERTYPE && self.read_ip(skb).is_ok()
    }

    /// The row of this packet at a border.
    #[inline(always)]
    pub const fn key(&self, border: u8) -> ConntrackKey<A> {
        ConntrackKey { tuple: self.tuple, proto: self.ip.proto, border, reserved: 0 }
    }

    /// The same, written to where it stays. Field by field: the whole would go by way of the stack.
    #[inline(always)]
    pub const fn put_key(&self, key: &mut ConntrackKey<A>, border: u8) {
        key.tuple = self.tuple;
        key.proto = self.ip.proto;
        key.border = border;
        key.reserved = 0;
    }

    /// Reads the transport header.
    #[inline(never)]
    pub fn read(&mut self, skb: Skb, border: u8) -> Result<(), DropReason> {
        if A::checksum_offset(self.ip.proto).is_none() {
            return Ok(());
        }
        if self.ip.fragment == Fragment::Later {
            self.kind = Kind::Lost;
            followed(self, border);
            return Ok(());
        }
        if self.ip.l4_len < 8 {
            return Err(DropReason::Malformed);
        }
        let bytes: [u8; 8] = skb.load(self.ip.l4).ok_or(DropReason::Malformed)?;
        match A::transport(self.ip.proto, &bytes) {
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
                if self.ip.proto == proto::SCTP {
                    if self.ip.l4_len < sctp::SHORTEST {
                        return Err(DropReason::Malformed);
                    }
                    self.tcp_flags = chunks(skb, self.ip.l4, self.ip.l4_len);
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

/// What the chunks of an SCTP packet at `l4` say.
#[inline(never)]
fn chunks(skb: Skb, l4: usize, len: u16) -> u8 {
    sctp::flags(len, |at| skb.load(l4 + at as usize))
}

/// Finds the ports of a later fragment.
#[inline(never)]
pub fn followed<A: Wire>(packet: &mut Packet<A>, border: u8) {
    // An identification is used again: what came too long ago is another datagram's.
    let fresh = |ports: &&FragmentPorts| is_fresh(seconds(now_ns()), ports.since_s, A::REASSEMBLY_S);
    let Some(ports) = A::fragment(&packet.ip, border).filter(fresh) else { return };
    packet.tuple.sport = ports.sport;
    packet.tuple.dport = ports.dport;
    packet.kind = Kind::Flow;
    count(Counter::FragmentFollowed);
}

#[inline(never)]
fn remember<A: Wire>(packet: &Packet<A>, border: u8) {
    let (sport, dport) = (packet.tuple.sport, packet.tuple.dport);
    let ports = FragmentPorts { sport, dport, since_s: seconds(now_ns()) };
    // A full LRU map makes room; if it cannot, the later fragments are lost, and counted when they come.
    A::put_fragment(&packet.ip, border, &ports);
}
