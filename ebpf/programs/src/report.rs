//! Counting and telling. An event that finds no room is counted as lost; nothing is ever silent.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::maps::PerCpuArray;
use strake_abi::config::{Config, EVENTS as EVENTS_ON};
use strake_abi::conntrack::{Conntrack, Tuple4};
use strake_abi::flow::{Counter, DropReason, EventKind, FlowEvent, Hook, Verdict};
use strake_abi::{Addr4, Port};
use strake_logic::packet::HEAD_LEN;

use crate::maps::{self, COUNTERS, DROPS, EVENTS, EVENTS_LOST};
use crate::skb::{DROP, Packet, Skb, ipv4};

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

/// Sends an event, or counts it as lost.
#[inline(always)]
pub fn send(config: &Config, event: &FlowEvent) {
    if config.flags & EVENTS_ON == 0 {
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<FlowEvent>(0) else {
        increment(&EVENTS_LOST, u32::from(event.kind));
        return;
    };
    entry.write(*event);
    let flags = if config.event_wakeup_bytes == 0 {
        0
    } else if EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) >= u64::from(config.event_wakeup_bytes) {
        BPF_RB_FORCE_WAKEUP
    } else {
        BPF_RB_NO_WAKEUP
    };
    entry.submit(u64::from(flags));
}

/// Addresses of an event: who, what was asked for, and what it reaches.
#[inline(always)]
pub fn ends(event: &mut FlowEvent, asked: &Tuple4, backend: Addr4, backend_port: Port) {
    event.src = asked.src.mapped();
    event.dst = asked.dst.mapped();
    event.backend = backend.mapped();
    event.src_port = asked.sport;
    event.dst_port = asked.dport;
    event.backend_port = backend_port;
}

/// A flow begins. `asked` is what its opener asked for.
#[inline(never)]
pub fn opened(hook: Hook, proto: u8, asked: &Tuple4, row: &Conntrack) {
    let Some(config) = maps::config() else { return };
    let mut event = FlowEvent {
        timestamp_ns: row.created_ns,
        cookie: row.cookie,
        kind: EventKind::Open as u8,
        verdict: Verdict::Forwarded as u8,
        hook: hook as u8,
        proto,
        service_id: row.service_id,
        backend_id: row.backend_id,
        ifindex: row.ifindex,
        ..FlowEvent::default()
    };
    ends(&mut event, asked, row.to.dst, row.to.dport);
    send(config, &event);
}

/// A flow ends. `original` and `reply` are its rows.
#[inline(never)]
pub fn closed(hook: Hook, proto: u8, original: &Conntrack, reply: &Conntrack) {
    let Some(config) = maps::config() else { return };
    let now = now_ns();
    let mut event = FlowEvent {
        timestamp_ns: now,
        cookie: original.cookie,
        packets: original.packets,
        bytes: original.bytes,
        reply_packets: reply.packets,
        reply_bytes: reply.bytes,
        duration_ns: now.saturating_sub(original.created_ns),
        kind: EventKind::Close as u8,
        verdict: Verdict::Forwarded as u8,
        hook: hook as u8,
        proto,
        service_id: original.service_id,
        backend_id: original.backend_id,
        ifindex: original.ifindex,
        ..FlowEvent::default()
    };
    ends(&mut event, &reply.to.mirror(), original.to.dst, original.to.dport);
    send(config, &event);
}

/// Counts and tells a refusal, reading the packet once more for it.
#[inline(never)]
fn refused(skb: Skb, hook: Hook, reason: DropReason, verdict: Verdict) {
    count_drop(reason);
    // Every Pod's kernel sends some of these by itself (IPv6 neighbour discovery): a number, not a story.
    if reason == DropReason::UnsupportedProtocol {
        return;
    }
    let Some(config) = maps::config() else { return };
    let mut event = FlowEvent {
        timestamp_ns: now_ns(),
        kind: EventKind::Drop as u8,
        verdict: verdict as u8,
        reason: reason as u8,
        hook: hook as u8,
        ifindex: skb.ifindex(),
        ..FlowEvent::default()
    };
    let mut head = [0; HEAD_LEN];
    if let Some(ip) = ipv4(skb, &mut head) {
        let mut packet = Packet::new(skb, &head, ip);
        // Whatever could be read before something was wrong is told.
        let _ = packet.read(skb, 0);
        event.proto = ip.proto;
        event.tcp_flags = packet.tcp_flags;
        ends(&mut event, &packet.tuple, packet.tuple.dst, packet.tuple.dport);
    }
    send(config, &event);
}

/// Discards a packet, and says so.
#[inline(always)]
pub fn dropped(skb: Skb, hook: Hook, reason: DropReason) -> i32 {
    refused(skb, hook, reason, Verdict::Dropped);
    DROP
}

/// Says that a packet is about to be answered with a refusal.
#[inline(always)]
pub fn rejected(skb: Skb, hook: Hook, reason: DropReason) {
    refused(skb, hook, reason, Verdict::Rejected);
}
