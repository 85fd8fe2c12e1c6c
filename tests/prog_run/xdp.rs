//! The uplink's driver: what is sent on before the stack, what is left to it, and that both work on the same flows.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use strake_abi::conntrack::{CT_REDIRECT, DIRECTION_REPLY, FlowState};
use strake_abi::flow::{Counter, DropReason, EventKind, Hook};
use strake_abi::program::XDP_LB;
use strake_abi::service::{
    BACKEND_LOCAL, Backend, SCOPE_EXTERNAL, SERVICE_NODE_PORT, Service, ServiceKey, ServiceKey6,
};
use strake_abi::{Addr4, Addr6, Port, proto};

use crate::harness::*;
use crate::six_harness::{
    End6, LOCAL6, NODE6, OTHER_NODE6, OUTSIDE6, REMOTE6, back, extended, front, seen6, tcp6, udp6,
};
use crate::uplink::{Uplink, ip, mac};

const CLIENT: End = (OUTSIDE, 50000);
const FRONT: End = (NODE, 30080);
const CLIENT6: End6 = (OUTSIDE6, 50000);
const FRONT6: End6 = (NODE6, 30080);
const PEER: End = (REMOTE, 8080);
const PEER6: End6 = (REMOTE6, 8080);

/// A kernel in a network, with NodePort 30080 of TCP (id 12) and UDP (13) of each family.
struct Wired {
    kernel: Kernel,
    _uplink: Uplink,
}

impl Wired {
    fn new(backends: &[Backend], backends6: &[Backend]) -> Result<Self> {
        Self::with(backends, backends6, |_| {})
    }

    fn with(backends: &[Backend], backends6: &[Backend], edit: impl Fn(&mut Service)) -> Result<Self> {
        let uplink = Uplink::enter()?;
        let mut kernel = Kernel::new()?;
        kernel.configure(|config| config.uplink_ifindex = uplink.ifindex)?;
        for (id, protocol) in [(12, proto::TCP), (13, proto::UDP)] {
            let mut service = Service { id, flags: SERVICE_NODE_PORT, ..Service::default() };
            edit(&mut service);
            let key = ServiceKey { addr: Addr4::ANY, scope: SCOPE_EXTERNAL, ..frontend(NODE, 30080, protocol) };
            kernel.service(key, Service { backend_base: 40, ..service }, backends)?;
            let key = ServiceKey6 { addr: Addr6::ANY, ..front(NODE6, 30080, protocol, SCOPE_EXTERNAL) };
            kernel.service6(key, Service { backend_base: 60, id: id + 10, ..service }, backends6)?;
        }
        Ok(Self { kernel, _uplink: uplink })
    }

    fn xdp(&mut self, frame: &[u8]) -> Result<Out> {
        self.kernel.run(XDP_LB, frame)
    }

    /// Left to the stack as it is.
    fn passed(&mut self, what: &str, frame: &[u8]) -> Result<()> {
        let out = self.xdp(frame)?;
        assert_eq!((out.verdict, out.frame.as_slice()), (XDP_PASS, frame), "{what}");
        Ok(())
    }
}

fn remote() -> Result<Wired> {
    Wired::new(&[backend(REMOTE, 8080, 0, 2)], &[back(REMOTE6, 8080, 0, 3)])
}

/// Ethernet addresses of a frame, destination first.
fn macs(frame: &[u8]) -> [&[u8]; 2] {
    [&frame[..6], &frame[6..12]]
}

#[test]
fn a_flow_to_another_node_goes_out_from_the_driver_and_its_answers_too() -> Result<()> {
    let mut wired = remote()?;
    type Build = fn(End, End, bool) -> Vec<u8>;
    let built: [Build; 2] = [
        |src, dst, opens| tcp(src, dst, if opens { SYN } else { ACK }, b"hello"),
        |src, dst, _| udp(src, dst, b"hello"),
    ];
    for (round, build) in built.into_iter().enumerate() {
        let out = wired.xdp(&build(CLIENT, FRONT, true))?;
        assert_eq!(out.verdict, XDP_TX);
        let there = seen(&out.frame);
        assert_eq!((there.src.0, there.dst, there.ttl), (NODE, PEER, 63));
        assert!((61000..=65535).contains(&there.src.1));
        assert_eq!(macs(&out.frame), [&HOST_MAC, &POD_MAC], "to the next hop, from the uplink");
        let out = wired.xdp(&build(PEER, there.src, false))?;
        assert_eq!(out.verdict, XDP_TX);
        assert_eq!((seen(&out.frame).src, seen(&out.frame).dst, seen(&out.frame).ttl), (FRONT, CLIENT, 63));
        // And on it goes, from the same port.
        assert_eq!(seen(&wired.xdp(&build(CLIENT, FRONT, false))?.frame).src, there.src);
        assert_eq!(wired.kernel.counted(Counter::XdpForwarded)?, 3 * (round as u64 + 1));
    }
    assert_eq!(wired.kernel.counted(Counter::ServiceOpened)?, 2);
    let rows = wired.kernel.conntrack()?;
    assert!(rows.iter().all(|(_, row)| row.flags & CT_REDIRECT != 0));
    let answers = rows.iter().filter(|(_, row)| row.direction == DIRECTION_REPLY);
    assert!(answers.clone().all(|(_, row)| row.state == FlowState::Established as u8) && answers.count() == 2);
    let counted: Vec<u64> = rows.iter().map(|(_, row)| row.packets).collect();
    assert_eq!((counted.len(), counted.iter().sum::<u64>()), (4, 6), "each packet once");
    Ok(())
}

#[test]
fn ipv6_flows_to_another_node_go_out_from_the_driver_too() -> Result<()> {
    let mut wired = remote()?;
    type Build = fn(End6, End6, bool) -> Vec<u8>;
    let built: [Build; 2] = [
        |src, dst, opens| tcp6(src, dst, if opens { SYN } else { ACK }, b"hello"),
        |src, dst, _| udp6(src, dst, b"hello"),
    ];
    for build in built {
        let out = wired.xdp(&build(CLIENT6, FRONT6, true))?;
        assert_eq!(out.verdict, XDP_TX);
        let there = seen6(&out.frame);
        assert_eq!((there.src.0, there.dst, there.hops), (NODE6, PEER6, 63));
        assert_eq!(macs(&out.frame), [&HOST_MAC, &POD_MAC]);
        let out = wired.xdp(&build(PEER6, there.src, false))?;
        assert_eq!(out.verdict, XDP_TX);
        assert_eq!((seen6(&out.frame).src, seen6(&out.frame).dst, seen6(&out.frame).hops), (FRONT6, CLIENT6, 63));
        assert_eq!(seen6(&wired.xdp(&build(CLIENT6, FRONT6, false))?.frame).src, there.src);
    }
    assert_eq!(wired.kernel.counted(Counter::XdpForwarded)?, 6);
    Ok(())
}

/// Each packet of a flow may pass the driver's hook or the stack's: both know it, and count it once.
#[test]
fn a_flow_that_one_hook_began_goes_on_at_the_other() -> Result<()> {
    for (first, second) in [(XDP_LB, "from_net"), ("from_net", XDP_LB)] {
        let mut wired = remote()?;
        let out = wired.kernel.run(first, &tcp(CLIENT, FRONT, SYN, &[]))?;
        let there = seen(&out.frame);
        assert_eq!(there.dst, PEER, "{first}");
        let answer = wired.kernel.run(second, &tcp(PEER, there.src, SYN | ACK, &[]))?;
        assert_eq!((seen(&answer.frame).src, seen(&answer.frame).dst), (FRONT, CLIENT), "{second}");
        let more = wired.kernel.run(second, &tcp(CLIENT, FRONT, ACK, b"x"))?;
        assert_eq!((seen(&more.frame).src, seen(&more.frame).dst), (there.src, PEER), "{second}");
        let opened: Vec<_> = wired.kernel.events()?.into_iter().map(|e| (e.kind, e.hook)).collect();
        let hook = if first == XDP_LB { Hook::XdpLb } else { Hook::FromNet };
        assert_eq!(opened, [(EventKind::Open as u8, hook as u8)], "one flow, told once");
        assert_eq!(wired.kernel.counted(Counter::ConntrackCreated)?, 1);
    }
    Ok(())
}

/// The choice for a backend of this node is made in the driver as well, or the share of the others would grow.
#[test]
fn a_backend_on_this_node_is_chosen_in_the_driver_and_served_by_the_stack() -> Result<()> {
    let local = [backend(LOCAL, 8080, BACKEND_LOCAL, 1)];
    let mut wired = Wired::new(&local, &[back(LOCAL6, 8080, BACKEND_LOCAL, 4)])?;
    let frame = tcp(CLIENT, FRONT, SYN, &[]);
    wired.passed("to a local backend", &frame)?;
    let out = wired.kernel.run("from_net", &frame)?;
    assert_eq!((out.verdict, seen(&out.frame).src, seen(&out.frame).dst), (PASS, CLIENT, (LOCAL, 8080)));
    let answer = wired.kernel.run("to_net", &tcp((LOCAL, 8080), CLIENT, SYN | ACK, &[]))?;
    assert_eq!(seen(&answer.frame).src, FRONT);
    let rows = wired.kernel.conntrack()?;
    assert_eq!(rows.iter().map(|(_, row)| row.packets).collect::<Vec<_>>(), [1, 1], "no packet counts twice");
    assert_eq!(wired.kernel.counted(Counter::ServiceOpened)?, 1);

    let frame = tcp6(CLIENT6, FRONT6, SYN, &[]);
    wired.passed("to a local backend", &frame)?;
    assert_eq!(seen6(&wired.kernel.run("from_net", &frame)?.frame).dst, (LOCAL6, 8080));
    Ok(())
}

#[test]
fn the_shares_of_local_and_remote_backends_are_equal() -> Result<()> {
    let mut wired = Wired::new(&[backend(LOCAL, 8080, BACKEND_LOCAL, 1), backend(REMOTE, 8080, 0, 2)], &[])?;
    let mut gone = 0;
    for port in 0..1000 {
        let frame = tcp((OUTSIDE, 20000 + port), FRONT, SYN, &[]);
        let out = wired.xdp(&frame)?;
        let stack = if out.verdict == XDP_PASS { wired.kernel.run("from_net", &frame)? } else { out };
        gone += u32::from(seen(&stack.frame).dst == PEER);
    }
    // Six standard deviations.
    assert!((405..=595).contains(&gone), "{gone} of 1000 to the remote one of two");
    Ok(())
}

#[test]
fn affinity_and_the_middle_of_a_connection_are_those_of_the_stacks_hook() -> Result<()> {
    let backends: Vec<_> = (1..=8).map(|n| backend([10, 244, 1, n], 8080, 0, n.into())).collect();
    let mut wired = Wired::with(&backends, &[], |service| service.affinity_timeout_s = 60)?;
    let first = seen(&wired.xdp(&tcp(CLIENT, FRONT, SYN, &[]))?.frame).dst;
    for port in 1..20 {
        let hook = if port % 2 == 0 { XDP_LB } else { "from_net" };
        let out = wired.kernel.run(hook, &tcp((OUTSIDE, 50000 + port), FRONT, SYN, &[]))?;
        assert_eq!(seen(&out.frame).dst, first, "{hook}");
    }
    wired.passed("opened by nobody we know", &tcp((OUTSIDE, 40000), FRONT, ACK, b"x"))?;
    Ok(())
}

#[test]
fn what_is_refused_is_refused_by_the_stack_s_hook_with_its_reason() -> Result<()> {
    let mut wired = Wired::with(&[backend(REMOTE, 8080, 0, 2)], &[], |service| service.source_list = 7)?;
    wired.kernel.admit(7, [198, 51, 100, 0], 24)?;
    let frame = tcp(CLIENT, FRONT, SYN, &[]);
    wired.passed("not admitted", &frame)?;
    assert_eq!(wired.kernel.dropped(DropReason::SourceNotInRanges)?, 0, "not twice");
    assert_eq!(wired.kernel.run("from_net", &frame)?.verdict, DROP);
    assert_eq!(wired.kernel.dropped(DropReason::SourceNotInRanges)?, 1);
    assert_eq!(wired.xdp(&tcp(([198, 51, 100, 5], 50000), FRONT, SYN, &[]))?.verdict, XDP_TX);
    drop(wired);

    let mut wired = Wired::new(&[], &[])?;
    wired.passed("without endpoint", &tcp(CLIENT, FRONT, SYN, &[]))?;
    wired.passed("without endpoint", &tcp6(CLIENT6, FRONT6, SYN, &[]))?;
    assert_eq!(wired.kernel.conntrack()?.len() + wired.kernel.conntrack6()?.len(), 0);
    Ok(())
}

#[test]
fn what_is_not_plain_is_left_to_the_stack() -> Result<()> {
    let mut wired = remote()?;
    let good = tcp(CLIENT, FRONT, SYN, &[]);
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        edit(&mut frame);
        frame
    };
    wired.passed("ARP", &edited(&|f| f[12..14].copy_from_slice(&[8, 6])))?;
    wired.passed("a VLAN tag", &edited(&|f| f[12..14].copy_from_slice(&[0x81, 0])))?;
    wired.passed("IPv4 options", &edited(&|f| f[14] = 0x46))?;
    wired.passed("a first fragment", &edited(&|f| f[20] = 0x20))?;
    wired.passed("a later fragment", &edited(&|f| f[21] = 4))?;
    wired.passed("the last hop", &edited(&|f| f[22] = 1))?;
    wired.passed("longer than it is", &edited(&|f| f[17] = 200))?;
    wired.passed("another protocol", &edited(&|f| f[23] = 132))?;
    wired.passed("an ICMP error", &icmp_error(OUTSIDE, NODE, 3, 4, &good))?;
    wired.passed("a truncated segment", &good[..50])?;
    wired.passed("another machine's frame", &edited(&|f| f[0..6].copy_from_slice(&[2, 9, 9, 9, 9, 9])))?;
    let good = tcp6(CLIENT6, FRONT6, SYN, &[]);
    wired.passed("an extension header", &extended(&good, &[(60, &[0, 0, 1, 4, 0, 0, 0, 0])]))?;
    wired.passed("a fragment header", &extended(&good, &[(44, &[0, 0, 0, 1, 0, 0, 0, 9])]))?;
    let mut last = good.clone();
    last[21] = 1;
    wired.passed("the last hop", &last)?;
    assert_eq!(wired.kernel.counted(Counter::XdpForwarded)?, 0);
    Ok(())
}

/// The sum of a pseudo header is what a packet of this machine carries until a device makes the checksum of it.
#[test]
fn a_checksum_that_is_left_to_the_device_is_left_to_the_stack() -> Result<()> {
    let mut wired = remote()?;
    let ones = |words: &[&[u8]]| {
        let bytes: Vec<u8> = words.concat();
        let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        (sum as u16).to_be_bytes()
    };
    let mut frame = udp(CLIENT, FRONT, b"half");
    let sum = ones(&[&OUTSIDE, &NODE, &[0, proto::UDP], &frame[38..40]]);
    frame[40..42].copy_from_slice(&sum);
    wired.passed("IPv4", &frame)?;
    let mut frame = tcp6(CLIENT6, FRONT6, SYN, b"");
    let sum = ones(&[&frame[22..54], &[0, proto::TCP], &frame[18..20]]);
    frame[70..72].copy_from_slice(&sum);
    wired.passed("IPv6", &frame)?;
    // None at all is fine over IPv4.
    let mut frame = udp(CLIENT, FRONT, b"none");
    frame[40..42].fill(0);
    let out = wired.xdp(&frame)?;
    assert_eq!((out.verdict, &out.frame[40..42], seen(&out.frame).dst), (XDP_TX, &[0, 0][..], PEER));
    Ok(())
}

#[test]
fn a_packet_with_no_way_out_of_the_uplink_is_the_stack_s_and_its_choice_is_kept() -> Result<()> {
    let backends: Vec<_> = (1..=8).map(|n| backend([10, 244, 1, n], 8080, 0, n.into())).collect();
    for broken in [
        "neigh del 192.168.50.12 dev up0",
        "route del 10.244.1.0/24",
        // Too long for the way (a forwarder heeds a route's own limit if it is locked): to say so is the stack's business.
        "route replace 10.244.1.0/24 via 192.168.50.12 mtu lock 600",
    ] {
        let mut wired = Wired::new(&backends, &[])?;
        ip(broken)?;
        if broken.starts_with("route del") {
            ip("route del default")?;
        }
        let frame = tcp(CLIENT, FRONT, SYN, &[7; 700]);
        wired.passed(broken, &frame)?;
        let row = wired.kernel.conntrack()?.into_iter().find(|(key, _)| key.tuple.dport == Port::new(30080));
        let (_, row) = row.with_context(|| format!("{broken}: no row"))?;
        let out = wired.kernel.run("from_net", &frame)?;
        let there = seen(&out.frame);
        assert_eq!((out.verdict, Addr4::new(there.dst.0)), (REDIRECT, row.to.dst), "{broken}");
        assert_eq!(wired.kernel.counted(Counter::ConntrackCreated)?, 1, "{broken}");
    }
    Ok(())
}

#[test]
fn a_closed_flow_is_told_once_with_all_its_packets() -> Result<()> {
    let mut wired = remote()?;
    let there = seen(&wired.xdp(&tcp(CLIENT, FRONT, SYN, &[]))?.frame).src;
    wired.xdp(&tcp(PEER, there, SYN | ACK, &[]))?;
    wired.xdp(&tcp(CLIENT, FRONT, FIN | ACK, &[]))?;
    wired.xdp(&tcp(PEER, there, FIN | ACK, &[]))?;
    let events = wired.kernel.events()?;
    let [opened, closed] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!((opened.kind, closed.kind), (EventKind::Open as u8, EventKind::Close as u8));
    assert_eq!((closed.packets, closed.reply_packets, closed.hook), (2, 2, Hook::XdpLb as u8));
    // The port is the client's again.
    assert_eq!(wired.xdp(&tcp(CLIENT, FRONT, SYN, &[]))?.verdict, XDP_TX);
    assert_eq!(wired.kernel.counted(Counter::ServiceOpened)?, 2);
    Ok(())
}

/// The routing table is asked once in a tenth of a second, and again for a packet that is longer than what it let through.
#[test]
fn a_change_of_the_way_is_followed_and_a_longer_packet_is_asked_for_anew() -> Result<()> {
    let mut wired = remote()?;
    wired.xdp(&tcp(CLIENT, FRONT, SYN, &[]))?;
    wired.xdp(&tcp6(CLIENT6, FRONT6, SYN, &[]))?;
    let frames = [tcp(CLIENT, FRONT, ACK, b"x"), tcp6(CLIENT6, FRONT6, ACK, b"x")];
    // Longer than the uplink takes, though the way is known.
    wired.passed("longer", &tcp(CLIENT, FRONT, ACK, &[7; 1_500]))?;
    wired.passed("longer, IPv6", &tcp6(CLIENT6, FRONT6, ACK, &[7; 1_500]))?;
    let other = [2, 0, 0, 0, 0, 9];
    for hop in [Ipv4Addr::from(OTHER_NODE).to_string(), OTHER_NODE6.to_string()] {
        ip(&format!("neigh replace {hop} lladdr {} dev up0 nud permanent", mac(other)))?;
    }
    for frame in &frames {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let out = wired.xdp(frame)?;
            assert_eq!(out.verdict, XDP_TX);
            if macs(&out.frame)[0] == other {
                break;
            }
            assert!(macs(&out.frame)[0] == HOST_MAC && Instant::now() < deadline, "still by the old neighbour");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // And no way at all.
    ip("link set up0 down")?;
    let deadline = Instant::now() + Duration::from_secs(5);
    while wired.xdp(&frames[0])?.verdict != XDP_PASS {
        assert!(Instant::now() < deadline, "still sent where there is no way");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
