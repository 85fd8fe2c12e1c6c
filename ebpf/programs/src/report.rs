//! Counting and telling. An event that finds no room is counted as lost; nothing is ever silent.

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use strake_abi::config::{Config, EVENTS as EVENTS_ON};
use strake_abi::conntrack::{Conntrack, Tuple};
use strake_abi::flow::{Counter, DropReason, EventKind, FlowEvent, Hook, Verdict};
use strake_abi::{Addr4, Port, proto};

use crate::maps::{self, COUNTERS, DROPS, EVENTS, EVENTS_LOST, EVENTS_WOKEN};
use crate::skb::{Packet, Skb};
use crate::wire::Wire;

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: no memory is involved.
    unsafe { bpf_ktime_get_ns() }
}

/// Seconds of the same.
#[inline(always)]
pub const fn seconds(ns: u64) -> u32 {
    (ns / 1_000_000_000) as u32
}

#[inline(always)]
fn increment(map: &PerCpuArray<u64>, index: u32) {
    if let Some(slot) = map.get_ptr_mut(index) {
        // SAFETY: the slot is this CPU's; an interrupt may lose one increment, not more.
        unsafe { *slot += 1 }
    }
}

/// One more of these.
#[inline(always)]
pub fn count(counter: Counter) {
    increment(&COUNTERS, counter as u32);
}

/// One more packet or connect() refused for this reason.
#[inline(always)]
pub fn count_drop(reason: DropReason) {
    increment(&DROPS, reason as u32);
}

/// An event being written, in the ring buffer itself: on the stack it would take a third of it.
pub struct Event {
    entry: RingBufEntry<FlowEvent>,
    quiet_ns: u64,
}

impl Event {
    /// Room for an event, all zero but its kind, hook and protocol; or one more that is lost.
    #[inline(always)]
    pub fn begin(config: &Config, kind: EventKind, hook: Hook, proto: u8) -> Option<Self> {
        if config.flags & EVENTS_ON == 0 {
            return None;
        }
        let Some(mut entry) = EVENTS.reserve::<FlowEvent>(0) else {
            increment(&EVENTS_LOST, kind as u32);
            return None;
        };
        entry.write(FlowEvent { kind: kind as u8, hook: hook as u8, proto, ..FlowEvent::default() });
        Some(Self { entry, quiet_ns: u64::from(config.event_quiet_us) * 1_000 })
    }

    /// Its fields.
    #[inline(always)]
    pub fn fields(&mut self) -> &mut FlowEvent {
        // SAFETY: `begin` wrote all of it.
        unsafe { self.entry.assume_init_mut() }
    }

    /// Addresses: who, what was asked for, and what it reaches.
    #[inline(always)]
    pub fn ends<A: Wire>(&mut self, asked: &Tuple<A>, backend: A, backend_port: Port) {
        let event = self.fields();
        asked.src.tell(&mut event.src);
        asked.dst.tell(&mut event.dst);
        backend.tell(&mut event.backend);
        event.src_port = asked.sport;
        event.dst_port = asked.dport;
        event.backend_port = backend_port;
    }

    /// Hands it to the reader.
    #[inline(always)]
    pub fn submit(self) {
        let flags = match self.quiet_ns {
            0 => 0,
            quiet_ns if is_quiet(quiet_ns) => BPF_RB_NO_WAKEUP,
            _ => BPF_RB_FORCE_WAKEUP,
        };
        self.entry.submit(u64::from(flags));
    }
}

/// Whether this CPU woke the reader so lately that it will look again by itself (`strake_abi::flow::EVENT_QUIET_US`).
#[inline(always)]
fn is_quiet(quiet_ns: u64) -> bool {
    let Some(woken) = EVENTS_WOKEN.get_ptr_mut(0) else { return false };
    let now = now_ns();
    // SAFETY: the slot is this CPU's; a program that interrupts this one may wake the reader once more, not less.
    unsafe {
        if now - *woken < quiet_ns {
            return true;
        }
        *woken = now;
    }
    false
}

/// An IPv4-mapped address; its first eight bytes are zero already.
#[inline(always)]
pub fn map(field: &mut [u8; 16], addr: Addr4) {
    let words = field.as_mut_ptr().cast::<u32>();
    // SAFETY: the fields of an event that hold addresses are at multiples of 8 (asserted in `strake-abi`).
    unsafe {
        *words.add(2) = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
        *words.add(3) = addr.0;
    }
}

/// A flow begins. `asked` is what its opener asked for.
#[inline(never)]
pub fn opened<A: Wire>(hook: Hook, proto: u8, asked: &Tuple<A>, row: &Conntrack<A>) {
    let Some(config) = maps::config() else { return };
    let Some(mut event) = Event::begin(config, EventKind::Open, hook, proto) else { return };
    event.ends(asked, row.to.dst, row.to.dport);
    let fields = event.fields();
    fields.timestamp_ns = row.created_ns;
    fields.cookie = row.cookie;
    fields.service_id = row.service_id;
    fields.backend_id = row.backend_id;
    fields.ifindex = row.ifindex;
    event.submit();
}

/// A flow ends. `original` and `reply` are its rows.
#[inline(never)]
pub fn closed<A: Wire>(hook: Hook, proto: u8, original: &Conntrack<A>, reply: &Conntrack<A>) {
    let Some(config) = maps::config() else { return };
    let Some(mut event) = Event::begin(config, EventKind::Close, hook, proto) else { return };
    event.ends(&reply.to.mirror(), original.to.dst, original.to.dport);
    let now = now_ns();
    let fields = event.fields();
    fields.timestamp_ns = now;
    fields.cookie = original.cookie;
    fields.packets = original.packets;
    fields.bytes = original.bytes;
    fields.reply_packets = reply.packets;
    fields.reply_bytes = reply.bytes;
    fields.duration_ns = now.saturating_sub(original.created_ns);
    fields.service_id = original.service_id;
    fields.backend_id = original.backend_id;
    fields.ifindex = original.ifindex;
    event.submit();
}

/// Counts and tells a refusal, reading the packet once more for it. `reason` is a [`DropReason`].
#[inline(never)]
pub fn refused<A: Wire>(skb: Skb, hook: Hook, reason: u8, verdict: Verdict) {
    increment(&DROPS, u32::from(reason));
    // Whatever speaks it speaks it all the time: a number, not a story.
    if reason == DropReason::UnsupportedProtocol as u8 {
        return;
    }
    let Some(config) = maps::config() else { return };
    let Some(work) = A::work() else { return };
    let packet = &mut work.packet;
    if !packet.read_headers(skb) {
        if let Some(event) = Event::begin(config, EventKind::Drop, hook, 0) {
            tell_refusal(event, skb, reason, verdict);
        }
        return;
    }
    // Whatever could be read before something was wrong is told.
    let _ = packet.read(skb, 0);
    if let Some(event) = Event::begin(config, EventKind::Drop, hook, packet.ip.proto) {
        tell_read(event, packet, skb, reason, verdict);
    }
}

/// The same of a packet that was read.
#[inline(never)]
pub fn refused_as_read<A: Wire>(skb: Skb, packet: &Packet<A>, hook: Hook, reason: u8, verdict: Verdict) {
    increment(&DROPS, u32::from(reason));
    let Some(config) = maps::config() else { return };
    if let Some(event) = Event::begin(config, EventKind::Drop, hook, packet.ip.proto) {
        tell_read(event, packet, skb, reason, verdict);
    }
}

#[inline(always)]
fn tell_read<A: Wire>(mut event: Event, packet: &Packet<A>, skb: Skb, reason: u8, verdict: Verdict) {
    event.ends(&packet.tuple, packet.tuple.dst, packet.tuple.dport);
    if packet.ip.proto == proto::TCP {
        event.fields().tcp_flags = packet.tcp_flags;
    }
    tell_refusal(event, skb, reason, verdict);
}

#[inline(always)]
fn tell_refusal(mut event: Event, skb: Skb, reason: u8, verdict: Verdict) {
    let fields = event.fields();
    fields.timestamp_ns = now_ns();
    fields.verdict = verdict as u8;
    fields.reason = reason;
    fields.ifindex = skb.ifindex();
    event.submit();
}
