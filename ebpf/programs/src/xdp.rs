//! The uplink's driver, before the stack: flows of NodePorts, external and LoadBalancer addresses whose backend is on
//! another node go out again from here, and so do the backend's answers.
//!
//! ```text
//!             known flow that leaves by the uplink? ──► translate, to the next hop, out again
//!  packet ──► Service reached from outside?  choose, write the flow down ──► backend on another node? the same
//!             anything else ─────────────────────────────────────────────► the stack, with from_net in front of it
//! ```
//!
//! Both hooks choose in the same way and keep flows in the same rows, so a flow may pass either with each packet. What is
//! chosen here and not sent from here is in its row when [`crate::from_net`] comes to it. Refusals, with their answers and
//! reasons, are made there alone, and so is everything that is not plain ([`strake_logic::plain`]).

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use strake_abi::config::{CHAINED, Config};
use strake_abi::conntrack::{BORDER_NET, CT_REDIRECT};
use strake_abi::flow::{Counter, Hook};
use strake_abi::service::SCOPE_EXTERNAL;
use strake_abi::{Addr4, Addr6, proto};
use strake_logic::flow;
use strake_logic::packet::ethertype;
use strake_logic::plain::Plain;

use crate::report::{self, count, now_ns, seconds};
use crate::route::{self, Route};
use crate::wire::Wire;
use crate::work::Work;
use crate::xdp_frame::Frame;
use crate::{maps, outside, service, track};

#[xdp]
pub fn xdp_lb(ctx: XdpContext) -> u32 {
    let frame = Frame(ctx.ctx);
    match frame.ether_type() {
        ethertype::IPV4 => four(frame),
        ethertype::IPV6 => six(frame),
        _ => XDP_PASS,
    }
}

#[inline(never)]
fn four(frame: Frame) -> u32 {
    run::<Addr4>(frame)
}

#[inline(never)]
fn six(frame: Frame) -> u32 {
    run::<Addr6>(frame)
}

#[inline(always)]
fn run<A: Wire + Plain>(frame: Frame) -> u32 {
    let Some(config) = maps::config() else { return XDP_PASS };
    // While programs are exchanged, the stack's hooks agree among themselves on who knows a flow.
    if config.flags & CHAINED != 0 {
        return XDP_PASS;
    }
    let Some(work) = A::work() else { return XDP_PASS };
    if !frame.read(&mut work.packet) {
        return XDP_PASS;
    }
    let Work { packet, new, .. } = &mut *work;
    packet.now_ns = now_ns();
    let now_s = seconds(packet.now_ns);
    packet.put_key(&mut new.key, BORDER_NET);
    let key = &new.key;
    if let Some(row) = track::find(key)
        && track::is_live(config, key, row, packet.tcp_flags, now_s)
    {
        if row.flags & CT_REDIRECT == 0 {
            return XDP_PASS;
        }
        let mut route = Route::default();
        if !route::find(frame, config, packet, &row.to, &mut route) || !frame.forward(packet, &row.to, &route) {
            return XDP_PASS;
        }
        track::touch(Hook::XdpLb, key, row, packet, now_s);
        count(Counter::XdpForwarded);
        return XDP_TX;
    }
    open(frame, work, config)
}

/// The first packet of a flow, or one that no row speaks for.
#[inline(never)]
fn open<A: Wire + Plain>(frame: Frame, work: &mut Work<A>, config: &Config) -> u32 {
    let packet = &work.packet;
    if packet.ip.proto == proto::TCP && !flow::is_open(packet.tcp_flags) {
        return XDP_PASS;
    }
    let Some(service) = A::service_at(config, &packet.tuple, packet.ip.proto, SCOPE_EXTERNAL) else { return XDP_PASS };
    if !service::admits(service, packet.tuple.src) {
        return XDP_PASS;
    }
    let Some(backend) = outside::choose(service, packet) else { return XDP_PASS };
    if outside::lead(work, config, service, &backend, config.uplink_ifindex).is_err() {
        return XDP_PASS;
    }
    let row = &mut work.new.row;
    let mut route = Route::default();
    let goes = row.flags & CT_REDIRECT != 0 && route::find(frame, config, &work.packet, &row.to, &mut route);
    if !goes {
        // Whoever sends it on counts it.
        row.packets = 0;
        row.bytes = 0;
    }
    // Why it cannot be written is found out, and told, once more by whoever refuses the packet for it.
    if track::open(config, work).is_err() {
        return XDP_PASS;
    }
    count(Counter::ServiceOpened);
    report::opened(Hook::XdpLb, work.packet.ip.proto, &work.new.key.tuple, &work.new.row);
    if !goes || !frame.forward(&work.packet, &work.new.row.to, &route) {
        return XDP_PASS;
    }
    count(Counter::XdpForwarded);
    XDP_TX
}
