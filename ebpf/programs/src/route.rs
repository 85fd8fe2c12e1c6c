//! The way out of the uplink, for what the driver's hook sends on: asked of the kernel's routing table, and remembered for a
//! moment, by flow. An answer takes 200 ns and more, which is most of what a packet costs here; one that is a tenth of a
//! second old is what a router's own tables are at best when a route changes.
//!
//! By flow and not by destination: policy rules look at sources, and several next hops share flows by their ports. Where
//! flows are more than there is room for, those that share a place ask anew each time.

use aya_ebpf::bindings::BPF_FIB_LOOKUP_OUTPUT;
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use strake_abi::Mac;
use strake_abi::config::Config;
use strake_abi::conntrack::Tuple;
use strake_logic::packet::ETH_LEN;
use strake_logic::plain::Plain;

use crate::skb::Packet;
use crate::wire::Wire;
use crate::xdp_frame::Frame;

/// How long an answer holds.
const HOLDS_NS: u64 = 100_000_000;
/// Answers that a CPU remembers, as a power of two.
const BITS: u32 = 10;
/// Rows of the maps.
pub const REMEMBERED: u32 = 1 << BITS;

/// Ethernet addresses of the next hop, and of the uplink.
#[derive(Clone, Copy, Default)]
pub struct Route {
    pub next: Mac,
    pub from: Mac,
}

/// An answer of the routing table.
#[repr(C)]
pub struct Answer<A> {
    /// `CLOCK_MONOTONIC` nanoseconds until which it holds.
    until_ns: u64,
    /// What was asked.
    tuple: Tuple<A>,
    /// The longest frame that was let through so far.
    len: u32,
    route: Route,
    proto: u8,
    reserved: [u8; 3],
}

/// The place of a flow among the answers.
#[inline(always)]
fn place<A: Plain>(to: &Tuple<A>) -> u32 {
    let (src, dst) = (to.src.words(), to.dst.words());
    let ports = u32::from(to.sport.0) << 16 | u32::from(to.dport.0);
    let words = src[0] ^ src[1] ^ src[2] ^ src[3] ^ dst[0].rotate_left(16) ^ dst[1] ^ dst[2] ^ dst[3];
    (words ^ ports).wrapping_mul(0x9e37_79b1) >> (u32::BITS - BITS)
}

/// Finds the way out of the uplink for a packet once it carries `to`. False if the stack would send it elsewhere, or does
/// not know the neighbour, or the packet is too long, or the frame not this machine's.
#[inline(never)]
pub fn find<A: Wire + Plain>(
    frame: Frame,
    config: &Config,
    packet: &Packet<A>,
    to: &Tuple<A>,
    route: &mut Route,
) -> bool {
    let Some(answer) = A::route_answer(place(to)) else { return false };
    let known = answer.until_ns > packet.now_ns
        && answer.len >= packet.len
        && answer.proto == packet.ip.proto
        && answer.tuple == *to;
    if !known {
        if !ask(frame, config, packet, to, &mut answer.route) {
            return false;
        }
        answer.until_ns = packet.now_ns + HOLDS_NS;
        answer.tuple = *to;
        answer.len = packet.len;
        answer.proto = packet.ip.proto;
    }
    *route = answer.route;
    let Some(ethernet) = frame.at::<[u8; ETH_LEN]>(0) else { return false };
    ethernet.first_chunk::<6>().is_some_and(|to| *to == route.from)
}

#[inline(always)]
fn ask<A: Wire + Plain>(frame: Frame, config: &Config, packet: &Packet<A>, to: &Tuple<A>, route: &mut Route) -> bool {
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
    let found = unsafe { bpf_fib_lookup(frame.0.cast(), (&raw mut lookup).cast(), SIZE, BPF_FIB_LOOKUP_OUTPUT) };
    // Linux 5.10 finds neighbours that have not answered yet, too.
    if found != 0 || lookup.ifindex != config.uplink_ifindex || lookup.next == [0; 6] {
        return false;
    }
    route.next = lookup.next;
    route.from = lookup.from;
    true
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
