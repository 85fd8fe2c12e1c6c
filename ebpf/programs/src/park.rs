//! Fragments that come before the first of their datagram, without which nobody knows where they belong.
//!
//! ```text
//!  later piece, first not seen    hold      a copy into FRAG_PARKED, the datagram into FRAG_AWAITED; the packet ends
//!  first piece                    release   each waiting piece is put into the packet in turn, and a clone of that sent
//!                                           to this hook again; then the first goes on as if nothing had been
//!  the clones, after it           (none)    find the ports in FRAGMENTS and the flow that the first has opened
//! ```
//!
//! At the hooks that packets come in by; from there on they are in order. What was not released in time is not any more,
//! and leaves when its room is needed. A frame longer than there is room for is not held.
//!
//! Two CPUs: who holds looks for the first once more afterwards, and who releases has remembered the first before; so one
//! of them finds the piece, and the one that deletes it is the one that sends it.

use aya_ebpf::bindings::{BPF_ANY, BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::helpers::generated::{bpf_clone_redirect, bpf_skb_load_bytes, bpf_skb_store_bytes};
use strake_abi::conntrack::{FragmentKey6, ParkedKey};
use strake_abi::flow::{Counter, DropReason};
use strake_logic::choose::is_fresh;
use strake_logic::packet::Ip;

use crate::maps::{FRAG_AWAITED, FRAG_PARKED, FRAG_SCRATCH, get};
use crate::report::{count, now_ns, seconds};
use crate::skb::{Kind, Packet, Skb, followed};
use crate::wire::Wire;

/// Bytes of a frame there is room for, a power of two: an Ethernet of the usual size.
const ROOM: usize = 2_048;
/// Pieces of a datagram that are looked for: 64 KiB at 1,480 bytes each.
const PIECES: u32 = 45;
/// A frame that waits.
#[repr(C)]
pub struct Parked {
    since_s: u32,
    /// Bytes of the frame.
    len: u32,
    /// Offset of the piece after it; 0: it is the last.
    next: u32,
    frame: [u8; ROOM],
}

impl Parked {
    /// Its length, in a form in which the verifier sees that it is within 1 and `ROOM`: read anew, so that the compiler
    /// does not know it better.
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: a field of ours.
        let len = unsafe { (&raw const self.len).read_volatile() };
        (len.wrapping_sub(1) & (ROOM as u32 - 1)) + 1
    }

    #[inline(always)]
    fn load(&mut self, skb: Skb, len: u32) -> bool {
        if len == 0 || len > ROOM as u32 {
            return false;
        }
        self.len = len;
        let len = self.len();
        // SAFETY: `frame` has room for `len` bytes.
        unsafe { bpf_skb_load_bytes(skb.0.cast(), 0, self.frame.as_mut_ptr().cast(), len) == 0 }
    }

    /// Makes the packet carry this frame.
    #[inline(always)]
    fn store(&self, skb: Skb) -> Result<(), DropReason> {
        let len = self.len();
        skb.resize(len)?;
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        // SAFETY: `frame` is readable for `len` bytes.
        match unsafe { bpf_skb_store_bytes(skb.0.cast(), 0, self.frame.as_ptr().cast(), len, flags) } {
            0 => Ok(()),
            _ => Err(DropReason::RewriteFailed),
        }
    }
}

#[inline(always)]
fn scratch() -> Option<&'static mut Parked> {
    // SAFETY: the map is per CPU, its users do not interrupt each other (see `work`), and each takes it once.
    FRAG_SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}

#[inline(always)]
fn datagram<A: Wire>(ip: &Ip<A>, border: u8) -> FragmentKey6 {
    FragmentKey6 { src: ip.src.into(), dst: ip.dst.into(), id: ip.id, proto: ip.proto, border, reserved: 0 }
}

/// Holds a later fragment whose first was not seen. False if it is to go on: it cannot be held, or its first has come in
/// this moment, and its kind is `Flow` now.
#[inline(never)]
pub fn hold<A: Wire>(skb: Skb, packet: &mut Packet<A>, border: u8) -> bool {
    let Some(scratch) = scratch() else { return false };
    if !scratch.load(skb, packet.len) {
        return false;
    }
    scratch.since_s = seconds(now_ns());
    let after = u32::from(packet.ip.offset) + u32::from(packet.ip.l4_len / 8);
    scratch.next = if packet.ip.more { after } else { 0 };
    let datagram = datagram(&packet.ip, border);
    let key = ParkedKey { datagram, offset: packet.ip.offset, reserved: 0 };
    if FRAG_AWAITED.insert(&datagram, &scratch.since_s, u64::from(BPF_ANY)).is_err()
        || FRAG_PARKED.insert(&key, &*scratch, u64::from(BPF_ANY)).is_err()
    {
        return false;
    }
    followed(packet, border);
    if packet.kind == Kind::Flow {
        return FRAG_PARKED.remove(&key).is_err();
    }
    count(Counter::FragmentParked);
    true
}

/// Releases what waits for this first fragment. False: the packet is not what it was.
#[inline(never)]
pub fn release<A: Wire>(skb: Skb, packet: &Packet<A>, border: u8) -> bool {
    let datagram = datagram(&packet.ip, border);
    FRAG_AWAITED.remove(&datagram).is_err() || release_all::<A>(skb, &datagram, packet.len, packet.ip.l4_len / 8)
}

#[inline(never)]
fn release_all<A: Wire>(skb: Skb, datagram: &FragmentKey6, len: u32, step: u16) -> bool {
    let Some(first) = scratch() else { return true };
    if step == 0 || !first.load(skb, len) {
        return true;
    }
    let now_s = seconds(now_ns());
    let mut key = ParkedKey { datagram: *datagram, offset: step, reserved: 0 };
    for _ in 0..PIECES {
        let next = match get!(FRAG_PARKED, &key) {
            Some(piece) => {
                let next = piece.next;
                if is_fresh(now_s, piece.since_s, A::REASSEMBLY_S) {
                    send(skb, piece, &key);
                }
                next
            }
            // It has not come yet, or never waited.
            None => u32::from(key.offset) + u32::from(step),
        };
        if next == 0 || next > 0x1fff {
            break;
        }
        key.offset = next as u16;
    }
    first.store(skb).is_ok()
}

/// To this hook again, after the packet that is being looked at.
#[inline(always)]
fn send(skb: Skb, piece: &Parked, key: &ParkedKey) {
    let stored = piece.store(skb).is_ok();
    // Whoever deletes it has it; its room may be another's from here on.
    if FRAG_PARKED.remove(key).is_ok() && stored {
        count(Counter::FragmentReleased);
        // SAFETY: no pointer into the packet is kept anywhere.
        unsafe { bpf_clone_redirect(skb.0, skb.ifindex(), u64::from(BPF_F_INGRESS)) };
    }
}
