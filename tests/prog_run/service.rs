//! The Service path of a Pod whose sockets no hook translated.

use anyhow::Result;
use strake_abi::conntrack::{BORDER_POD, CT_TRANSLATED, Conntrack, ConntrackKey, FlowState};
use strake_abi::endpoint::{ENDPOINT_NO_SOCKET, ENDPOINTS, ENDPOINTS_BY_IP, Endpoint};
use strake_abi::flow::{Counter, DropReason, EventKind, Verdict};
use strake_abi::service::{
    BACKEND_HOST, BACKEND_LOCAL, MEMBERS, MemberKey, SERVICE_DROP_IF_EMPTY, SERVICES, Service, ServiceKey,
};
use strake_abi::{Addr4, Port, proto};

use crate::harness::*;

const CLIENT: End = (POD, 40000);
const WEB: End = (VIP, 80);

fn web() -> Service {
    Service { id: 12, backend_base: 40, ..Service::default() }
}

fn with_web(backends: &[strake_abi::service::Backend]) -> Result<Kernel> {
    let mut kernel = Kernel::new()?;
    kernel.service(frontend(VIP, 80, proto::TCP), web(), backends)?;
    Ok(kernel)
}

/// Opens a connection to the VIP and returns the ends that the backend sees.
fn open(kernel: &mut Kernel, client: End) -> Result<Seen> {
    let out = kernel.run("from_pod", &tcp(client, WEB, SYN, &[]))?;
    assert_eq!(out.verdict, PASS);
    Ok(seen(&out.frame))
}

#[test]
fn a_connection_stays_with_its_backend_and_its_answers_come_from_the_vip() -> Result<()> {
    let backends =
        [backend(LOCAL, 8080, BACKEND_LOCAL, 1), backend(REMOTE, 8080, 0, 2), backend([10, 244, 2, 2], 8080, 0, 3)];
    let mut kernel = with_web(&backends)?;
    let first = open(&mut kernel, CLIENT)?;
    assert_eq!(first.src, CLIENT);
    assert!(backends.iter().any(|b| b.addr.v4() == Some(Addr4::new(first.dst.0)) && first.dst.1 == 8080));

    for payload in [&b""[..], b"GET / HTTP/1.0\r\n\r\n", b"odd"] {
        let out = kernel.run("from_pod", &tcp(CLIENT, WEB, ACK, payload))?;
        assert_eq!((out.verdict, seen(&out.frame).dst), (PASS, first.dst));
        assert!(out.frame.ends_with(payload));
        let out = kernel.run("to_pod", &tcp(first.dst, CLIENT, ACK, payload))?;
        assert_eq!((out.verdict, seen(&out.frame).src, seen(&out.frame).dst), (PASS, WEB, CLIENT));
    }
    // The backend's own border leaves the answer alone: it is the client's to translate back.
    let rows = kernel.conntrack()?;
    assert_eq!(rows.len(), 2);
    let (key, original) = rows.iter().find(|(k, _)| k.tuple.dst == Addr4::new(VIP)).unwrap();
    assert_eq!((key.border, original.packets, original.service_id), (BORDER_POD, 4, 12));
    Ok(())
}

/// To a Pod of this node, called directly and through a Service: straight into it, with the addresses of its own link.
#[test]
fn a_pod_of_this_node_is_reached_past_the_routing() -> Result<()> {
    const LOCAL_IFINDEX: u32 = 4242;
    let (mac, host_mac) = ([2, 0, 0, 0, 9, 1], [2, 0, 0, 0, 9, 2]);
    let mut kernel = with_web(&[backend(LOCAL, 8080, BACKEND_LOCAL, 1)])?;
    let endpoint = Endpoint { ip: Addr4::new(LOCAL), mac, host_mac, ..Endpoint::default() };
    kernel.insert(ENDPOINTS, LOCAL_IFINDEX, endpoint)?;
    kernel.insert(ENDPOINTS_BY_IP, Addr4::new(LOCAL), LOCAL_IFINDEX)?;
    for (to, flags) in [((LOCAL, 9), SYN), (WEB, SYN), (WEB, ACK)] {
        let out = kernel.run("from_pod", &tcp(CLIENT, to, flags, b"x"))?;
        assert_eq!(out.verdict, REDIRECT, "{to:?}");
        assert_eq!(out.frame[..12], [mac, host_mac].concat());
        let dst = if to == WEB { (LOCAL, 8080) } else { to };
        assert_eq!((seen(&out.frame).src, seen(&out.frame).dst), (CLIENT, dst));
    }
    // An address that no Pod has any more is the routing's business.
    kernel.remove::<Addr4, u32>(ENDPOINTS_BY_IP, Addr4::new(LOCAL))?;
    let frame = tcp(CLIENT, (LOCAL, 9), ACK, b"x");
    let out = kernel.run("from_pod", &frame)?;
    assert_eq!((out.verdict, out.frame), (PASS, frame));
    Ok(())
}

/// Its rows are given back at once: nothing of it needs translating any more.
#[test]
fn a_closed_flow_that_was_not_translated_leaves_no_row() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let server = (REMOTE, 80);
    for (program, frame) in [
        ("from_pod", tcp(CLIENT, server, SYN, &[])),
        ("to_pod", tcp(server, CLIENT, SYN | ACK, &[])),
        ("from_pod", tcp(CLIENT, server, FIN | ACK, &[])),
    ] {
        kernel.run(program, &frame)?;
        assert_eq!(kernel.conntrack()?.len(), 2);
    }
    kernel.run("to_pod", &tcp(server, CLIENT, FIN | ACK, &[]))?;
    assert!(kernel.conntrack()?.is_empty());
    let kinds: Vec<u8> = kernel.events()?.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Open as u8, EventKind::Close as u8]);
    // The last acknowledgement opens nothing.
    assert_eq!(kernel.run("from_pod", &tcp(CLIENT, server, ACK, &[]))?.verdict, PASS);
    assert!(kernel.conntrack()?.is_empty());
    Ok(())
}

#[test]
fn every_backend_is_chosen_and_only_those_of_the_slice() -> Result<()> {
    let backends =
        [backend(LOCAL, 8080, BACKEND_LOCAL, 1), backend(REMOTE, 8081, 0, 2), backend(NODE, 6443, BACKEND_HOST, 3)];
    let mut kernel = with_web(&backends)?;
    // Neighbours in the array that belong to somebody else.
    for (index, id) in [(39, 90), (43, 91)] {
        kernel.set(strake_abi::service::BACKENDS, index, backend(OUTSIDE, 1, 0, id))?;
    }
    let mut hits = [0; 3];
    for port in 0..300 {
        let dst = open(&mut kernel, (POD, 20000 + port))?.dst;
        let which = backends.iter().position(|b| (b.addr.ip(), b.port.get()) == (dst.0.into(), dst.1));
        hits[which.unwrap_or_else(|| panic!("{dst:?} is of another slice"))] += 1;
    }
    assert!(hits.iter().all(|n| *n > 50), "{hits:?}");
    Ok(())
}

#[test]
fn a_flow_is_told_when_it_opens_and_when_it_closes() -> Result<()> {
    let mut kernel = with_web(&[backend(REMOTE, 8080, 0, 2)])?;
    let peer = (REMOTE, 8080);
    for (program, frame) in [
        ("from_pod", tcp(CLIENT, WEB, SYN, &[])),
        ("to_pod", tcp(peer, CLIENT, SYN | ACK, &[])),
        ("from_pod", tcp(CLIENT, WEB, ACK, b"question")),
        ("to_pod", tcp(peer, CLIENT, ACK, b"a longer answer")),
        ("to_pod", tcp(peer, CLIENT, FIN | ACK, &[])),
        ("from_pod", tcp(CLIENT, WEB, FIN | ACK, &[])),
        ("to_pod", tcp(peer, CLIENT, ACK, &[])),
    ] {
        assert_eq!(kernel.run(program, &frame)?.verdict, PASS);
    }
    let events = kernel.events()?;
    assert_eq!(events.iter().map(|e| e.kind).collect::<Vec<_>>(), [EventKind::Open as u8, EventKind::Close as u8]);
    for event in &events {
        assert_eq!(event.src, Addr4::new(POD).mapped());
        assert_eq!((event.dst, event.dst_port), (Addr4::new(VIP).mapped(), Port::new(80)));
        assert_eq!((event.backend, event.backend_port), (Addr4::new(REMOTE).mapped(), Port::new(8080)));
        assert_eq!((event.service_id, event.backend_id, event.ifindex), (12, 2, IFINDEX));
    }
    assert_eq!((events[1].packets, events[1].reply_packets), (3, 3));
    assert!(events[1].bytes > 54 * 3 && events[1].reply_bytes > 54 * 3 && events[1].duration_ns > 0);
    // A SYN from the same port is a new connection: the closed one is history.
    open(&mut kernel, CLIENT)?;
    assert_eq!(kernel.events()?[0].kind, EventKind::Open as u8);
    let rows = kernel.conntrack()?;
    assert!(rows.iter().all(|(_, row)| row.state == FlowState::New as u8), "{rows:?}");
    Ok(())
}

#[test]
fn no_endpoint_is_a_reset_for_tcp_and_unreachable_for_udp() -> Result<()> {
    let mut kernel = with_web(&[])?;
    let out = kernel.run("from_pod", &tcp(CLIENT, WEB, SYN, &[]))?;
    assert_eq!(out.verdict, REDIRECT);
    let answer = seen(&out.frame);
    assert_eq!((answer.src, answer.dst), (WEB, CLIENT));
    assert_eq!(out.frame.len(), 54);
    assert_eq!(out.frame[47], RST | ACK);
    assert_eq!(out.frame[42..46], 1001u32.to_be_bytes());
    assert_eq!((&out.frame[..6], &out.frame[6..12]), (&POD_MAC[..], &HOST_MAC[..]));

    kernel.service(frontend(VIP, 53, proto::UDP), Service { id: 13, ..web() }, &[])?;
    let question = udp(CLIENT, (VIP, 53), b"anyone?");
    let out = kernel.run("from_pod", &question)?;
    assert_eq!(out.verdict, REDIRECT);
    let answer = seen(&out.frame);
    assert_eq!((answer.src.0, answer.dst.0, answer.proto), (VIP, POD, proto::ICMP));
    assert_eq!(&out.frame[34..36], &[3, 3]);
    assert_eq!(&out.frame[42..], &question[14..42]);

    assert_eq!(kernel.dropped(DropReason::NoEndpoints)?, 2);
    let events = kernel.events()?;
    assert!(events.iter().all(|e| e.verdict == Verdict::Rejected as u8 && e.reason == DropReason::NoEndpoints as u8));
    // Nobody answers a reset.
    assert_eq!(kernel.run("from_pod", &tcp(CLIENT, WEB, RST, &[]))?.verdict, DROP);
    Ok(())
}

#[test]
fn a_local_policy_without_local_endpoint_is_silent() -> Result<()> {
    let mut kernel = Kernel::new()?;
    kernel.service(frontend(VIP, 80, proto::TCP), Service { flags: SERVICE_DROP_IF_EMPTY, ..web() }, &[])?;
    assert_eq!(kernel.run("from_pod", &tcp(CLIENT, WEB, SYN, &[]))?.verdict, DROP);
    assert_eq!(kernel.dropped(DropReason::NoEndpoints)?, 1);
    Ok(())
}

#[test]
fn an_unknown_port_is_rejected_and_an_unknown_address_dropped() -> Result<()> {
    let mut kernel = with_web(&[backend(REMOTE, 8080, 0, 2)])?;
    kernel.insert(SERVICES, ServiceKey { port: Port(0), proto: 0, ..frontend(VIP, 0, 0) }, Service::default())?;
    let out = kernel.run("from_pod", &tcp(CLIENT, (VIP, 81), SYN, &[]))?;
    assert_eq!((out.verdict, out.frame[47]), (REDIRECT, RST | ACK));
    assert_eq!(kernel.dropped(DropReason::NoServicePort)?, 1);
    assert_eq!(kernel.run("from_pod", &tcp(CLIENT, (VIP2, 80), SYN, &[]))?.verdict, DROP);
    assert_eq!(kernel.dropped(DropReason::NoService)?, 1);
    Ok(())
}

#[test]
fn a_pod_reaches_itself_through_its_service() -> Result<()> {
    let mut kernel = with_web(&[backend(POD, 8080, BACKEND_LOCAL, 1)])?;
    let out = kernel.run("from_pod", &tcp(CLIENT, WEB, SYN, &[]))?;
    assert_eq!(out.verdict, REDIRECT);
    let there = seen(&out.frame);
    assert_eq!((there.src, there.dst), ((GATEWAY, 40000), (POD, 8080)));
    assert_eq!((&out.frame[..6], &out.frame[6..12]), (&POD_MAC[..], &HOST_MAC[..]));

    let out = kernel.run("from_pod", &tcp((POD, 8080), (GATEWAY, 40000), SYN | ACK, &[]))?;
    assert_eq!(out.verdict, REDIRECT);
    let back = seen(&out.frame);
    assert_eq!((back.src, back.dst), (WEB, CLIENT));
    assert_eq!(kernel.counted(Counter::Hairpin)?, 1);
    let out = kernel.run("from_pod", &tcp(CLIENT, WEB, ACK, b"x"))?;
    assert_eq!((out.verdict, seen(&out.frame).dst), (REDIRECT, (POD, 8080)));
    Ok(())
}

#[test]
fn two_services_with_one_backend_do_not_share_a_tuple() -> Result<()> {
    let mut kernel = with_web(&[backend(REMOTE, 8080, 0, 2)])?;
    kernel.service(frontend(VIP2, 80, proto::TCP), Service { id: 13, ..web() }, &[backend(REMOTE, 8080, 0, 2)])?;
    let first = open(&mut kernel, CLIENT)?;
    assert_eq!(first.src, CLIENT);
    let out = kernel.run("from_pod", &tcp(CLIENT, (VIP2, 80), SYN, &[]))?;
    let second = seen(&out.frame);
    assert_eq!(second.dst, first.dst);
    assert_ne!(second.src.1, 40000);
    assert!((61000..=65535).contains(&second.src.1));
    assert_eq!(kernel.counted(Counter::Collision)?, 1);

    let out = kernel.run("to_pod", &tcp(first.dst, CLIENT, SYN | ACK, &[]))?;
    assert_eq!((seen(&out.frame).src, seen(&out.frame).dst), (WEB, CLIENT));
    let out = kernel.run("to_pod", &tcp(second.dst, second.src, SYN | ACK, &[]))?;
    assert_eq!((seen(&out.frame).src, seen(&out.frame).dst), ((VIP2, 80), CLIENT));
    Ok(())
}

#[test]
fn a_direct_connection_and_one_through_the_vip_do_not_share_a_tuple() -> Result<()> {
    // Direct first.
    let mut kernel = with_web(&[backend(REMOTE, 8080, 0, 2)])?;
    let direct = kernel.run("from_pod", &tcp(CLIENT, (REMOTE, 8080), SYN, &[]))?;
    assert_eq!(seen(&direct.frame).src, CLIENT);
    assert_ne!(open(&mut kernel, CLIENT)?.src, CLIENT);
    let out = kernel.run("to_pod", &tcp((REMOTE, 8080), CLIENT, SYN | ACK, &[]))?;
    assert_eq!(seen(&out.frame).src, (REMOTE, 8080), "the direct connection's answer stays direct");
    drop(kernel);
    // VIP first: the direct one is moved, both ways.
    let mut kernel = with_web(&[backend(REMOTE, 8080, 0, 2)])?;
    open(&mut kernel, CLIENT)?;
    let moved = seen(&kernel.run("from_pod", &tcp(CLIENT, (REMOTE, 8080), SYN, &[]))?.frame);
    assert_ne!(moved.src, CLIENT);
    let out = kernel.run("to_pod", &tcp((REMOTE, 8080), moved.src, SYN | ACK, &[]))?;
    assert_eq!((seen(&out.frame).src, seen(&out.frame).dst), ((REMOTE, 8080), CLIENT));
    Ok(())
}

#[test]
fn client_ip_affinity_holds_and_lets_go_of_a_backend_that_left() -> Result<()> {
    let backends: Vec<_> = (1..=20).map(|i| backend([10, 244, 1, i], 8080, 0, u32::from(i))).collect();
    let mut kernel = Kernel::new()?;
    let service = Service { affinity_timeout_s: 10800, ..web() };
    kernel.service(frontend(VIP, 80, proto::TCP), service, &backends)?;
    let first = open(&mut kernel, (POD, 20000))?.dst;
    for port in 1..40 {
        assert_eq!(open(&mut kernel, (POD, 20000 + port))?.dst, first);
    }
    assert_eq!(kernel.counted(Counter::AffinityHit)?, 39);
    let gone = MemberKey { service_id: 12, backend_id: u32::from(first.0[3]) };
    kernel.remove::<_, strake_abi::service::Backend>(MEMBERS, gone)?;
    // The slice still holds it in this test, so look at the count and not at the choice.
    open(&mut kernel, (POD, 30000))?;
    assert_eq!(kernel.counted(Counter::BackendReplaced)?, 1);
    Ok(())
}

#[test]
fn a_udp_flow_leaves_a_backend_that_is_gone_at_once() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let service = Service { id: 13, backend_base: 10, ..Service::default() };
    kernel.service(frontend(VIP, 53, proto::UDP), service, &[backend(REMOTE, 5353, 0, 7)])?;
    let ask = |kernel: &mut Kernel| -> Result<End> {
        Ok(seen(&kernel.run("from_pod", &udp(CLIENT, (VIP, 53), b"q"))?.frame).dst)
    };
    assert_eq!(ask(&mut kernel)?, (REMOTE, 5353));
    assert_eq!(ask(&mut kernel)?, (REMOTE, 5353));
    kernel.remove::<_, strake_abi::service::Backend>(MEMBERS, MemberKey { service_id: 13, backend_id: 7 })?;
    kernel.service(frontend(VIP, 53, proto::UDP), service, &[backend(LOCAL, 5353, BACKEND_LOCAL, 8)])?;
    assert_eq!(ask(&mut kernel)?, (LOCAL, 5353));
    let out = kernel.run("to_pod", &udp((LOCAL, 5353), CLIENT, b"a"))?;
    assert_eq!(seen(&out.frame).src, (VIP, 53));
    Ok(())
}

#[test]
fn an_icmp_error_about_a_translated_packet_reaches_its_sender_in_its_own_terms() -> Result<()> {
    let mut kernel = with_web(&[backend(REMOTE, 8080, 0, 2)])?;
    open(&mut kernel, CLIENT)?;
    // A router on the way to the backend: fragmentation needed.
    let about = tcp(CLIENT, (REMOTE, 8080), ACK, &[0; 100]);
    let out = kernel.run("to_pod", &icmp_error(OTHER_NODE, POD, 3, 4, &about))?;
    assert_eq!(out.verdict, PASS);
    let outer = seen(&out.frame);
    assert_eq!((outer.src.0, outer.dst.0), (OTHER_NODE, POD), "the router keeps its name");
    assert_eq!(&out.frame[42 + 12..42 + 20], &[POD, VIP].concat()[..]);
    assert_eq!(&out.frame[62..66], &[0x9c, 0x40, 0, 80]);
    assert_eq!(kernel.counted(Counter::IcmpErrorTranslated)?, 1);
    // The backend itself: its address is the VIP's.
    let out = kernel.run("to_pod", &icmp_error(REMOTE, POD, 3, 3, &about))?;
    assert_eq!(seen(&out.frame).src.0, VIP);
    // The client about an answer it got.
    let answer = tcp(WEB, CLIENT, ACK, &[0; 100]);
    let out = kernel.run("from_pod", &icmp_error(POD, VIP, 3, 4, &answer))?;
    assert_eq!(seen(&out.frame).dst.0, REMOTE);
    assert_eq!(&out.frame[42 + 12..42 + 20], &[REMOTE, POD].concat()[..]);
    // One about a flow nobody knows passes as it is.
    let stranger = icmp_error(OTHER_NODE, POD, 3, 4, &tcp(CLIENT, (LOCAL, 1), ACK, &[]));
    assert_eq!(kernel.run("to_pod", &stranger)?.frame, stranger);
    Ok(())
}

#[test]
fn a_pod_that_opted_out_has_its_direct_datagrams_tracked_too() -> Result<()> {
    let mut kernel = Kernel::new()?;
    kernel.configure(|c| c.flags &= !strake_abi::config::TRACK_ALL)?;
    let frame = udp(CLIENT, (REMOTE, 9), b"x");
    kernel.run("from_pod", &frame)?;
    assert!(kernel.conntrack()?.is_empty());
    let endpoint = Endpoint { ip: Addr4::new(POD), mac: POD_MAC, flags: ENDPOINT_NO_SOCKET, ..Endpoint::default() };
    kernel.insert(ENDPOINTS, IFINDEX, endpoint)?;
    kernel.run("from_pod", &frame)?;
    let rows: Vec<(ConntrackKey, Conntrack)> = kernel.conntrack()?;
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|(_, row)| row.flags & CT_TRANSLATED == 0));
    Ok(())
}

#[test]
fn a_flow_that_was_quiet_for_too_long_chooses_again() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let service = Service { id: 13, backend_base: 10, ..Service::default() };
    let backends = [backend(REMOTE, 5353, 0, 7), backend(LOCAL, 5353, BACKEND_LOCAL, 8)];
    kernel.service(frontend(VIP, 53, proto::UDP), service, &backends)?;
    let mut ask = |timeout: u32| -> Result<Vec<End>> {
        kernel.configure(|c| c.udp_timeout_s = timeout)?;
        let mut seen_at = Vec::new();
        for _ in 0..40 {
            seen_at.push(seen(&kernel.run("from_pod", &udp(CLIENT, (VIP, 53), b"q"))?.frame).dst);
        }
        Ok(seen_at)
    };
    let sticky = ask(60)?;
    assert!(sticky.iter().all(|dst| *dst == sticky[0]), "{sticky:?}");
    let forgetful = ask(0)?;
    assert!(forgetful.iter().any(|dst| *dst != forgetful[0]), "{forgetful:?}");
    Ok(())
}
