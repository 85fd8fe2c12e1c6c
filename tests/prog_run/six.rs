//! IPv6 at a Pod's border: what it may send, and Services without socket hooks.

use std::net::Ipv6Addr;

use anyhow::Result;
use strake_abi::conntrack::FlowState;
use strake_abi::endpoint::{ENDPOINTS, ENDPOINTS_IP_V6, Endpoint};
use strake_abi::flow::{Counter, DropReason, EventKind, Verdict};
use strake_abi::service::{BACKEND_LOCAL, MEMBERS, MemberKey, SERVICE_DROP_IF_EMPTY, SERVICES_V6, Service};
use strake_abi::{Addr6, Port, proto};

use crate::harness::*;
use crate::six_harness::*;

const CLIENT: End6 = (POD6, 40000);
const WEB: End6 = (VIP6, 80);
const LOG: End6 = (VIP6, 53);
const PEER: End6 = (REMOTE6, 8080);

fn drops(kernel: &mut Kernel, frame: &[u8], reason: DropReason) -> Result<()> {
    let before = kernel.dropped(reason)?;
    assert_eq!(kernel.run("from_pod", frame)?.verdict, DROP, "{reason}");
    assert_eq!(kernel.dropped(reason)?, before + 1, "{reason}");
    Ok(())
}

#[test]
fn a_connection_stays_with_its_backend_and_its_answers_come_from_the_vip() -> Result<()> {
    let backends = [back(LOCAL6, 8080, BACKEND_LOCAL, 1), back(REMOTE6, 8080, 0, 2), back(OTHER_NODE6, 8080, 0, 3)];
    let mut kernel = with_web(&backends)?;
    let out = kernel.run("from_pod", &tcp6(CLIENT, WEB, SYN, &[]))?;
    assert_eq!(out.verdict, PASS);
    let first = seen6(&out.frame);
    assert_eq!((first.src, first.dst.1), (CLIENT, 8080));
    assert!([LOCAL6, REMOTE6, OTHER_NODE6].contains(&first.dst.0));
    for payload in [&b""[..], b"GET / HTTP/1.0\r\n\r\n", b"odd"] {
        let out = kernel.run("from_pod", &tcp6(CLIENT, WEB, ACK, payload))?;
        assert_eq!((out.verdict, seen6(&out.frame).dst), (PASS, first.dst));
        assert!(out.frame.ends_with(payload));
        let out = kernel.run("to_pod", &tcp6(first.dst, CLIENT, ACK, payload))?;
        assert_eq!((out.verdict, seen6(&out.frame).src, seen6(&out.frame).dst), (PASS, WEB, CLIENT));
    }
    let rows = kernel.conntrack6()?;
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|(_, row)| row.service_id == 12), "{rows:?}");
    let reply = rows.iter().find(|(key, _)| key.tuple.dst == Addr6::from(POD6)).unwrap();
    assert_eq!(reply.1.state, FlowState::Established as u8);
    assert!(kernel.conntrack()?.is_empty(), "the other family's map is untouched");
    Ok(())
}

#[test]
fn datagrams_find_their_backend_and_leave_it_when_it_is_gone() -> Result<()> {
    let mut kernel = with_web(&[back(REMOTE6, 8080, 0, 2)])?;
    for payload in [&b"q"[..], b"longer question"] {
        let out = kernel.run("from_pod", &udp6(CLIENT, LOG, payload))?;
        assert_eq!((seen6(&out.frame).src, seen6(&out.frame).dst), (CLIENT, PEER));
        let out = kernel.run("to_pod", &udp6(PEER, CLIENT, payload))?;
        assert_eq!((seen6(&out.frame).src, seen6(&out.frame).dst), (LOG, CLIENT));
    }
    kernel.remove::<_, strake_abi::service::Backend>(MEMBERS, MemberKey { service_id: 13, backend_id: 2 })?;
    let service = Service { id: 13, backend_base: 50, ..Service::default() };
    kernel.service6(front(VIP6, 53, proto::UDP, 0), service, &[back(LOCAL6, 5353, BACKEND_LOCAL, 8)])?;
    let out = kernel.run("from_pod", &udp6(CLIENT, LOG, b"again"))?;
    assert_eq!(seen6(&out.frame).dst, (LOCAL6, 5353));
    assert_eq!(kernel.counted(Counter::BackendReplaced)?, 1);
    Ok(())
}

#[test]
fn a_pod_of_this_node_is_reached_past_the_routing_and_its_answers_translated_there() -> Result<()> {
    let mut kernel = with_web(&[back(POD6, 8080, BACKEND_LOCAL, 1)])?;
    // The only veth of these tests is both Pods': first the client's, then the backend's.
    let row = |ip6: Ipv6Addr| Endpoint {
        ip: strake_abi::Addr4::new(POD),
        ip6: ip6.into(),
        mac: if ip6 == POD6 { POD_MAC } else { HOST_MAC },
        host_mac: [2, 0, 0, 0, 9, 2],
        ..Endpoint::default()
    };
    kernel.insert(ENDPOINTS, IFINDEX, row(LOCAL6))?;
    kernel.insert(ENDPOINTS_IP_V6, Addr6::from(POD6), IFINDEX)?;
    let client = (LOCAL6, 40000);
    for (to, flags) in [((POD6, 9), SYN), (WEB, SYN), (WEB, ACK)] {
        let out = kernel.run("from_pod", &tcp6(client, to, flags, b"x"))?;
        assert_eq!(out.verdict, REDIRECT, "{to:?}");
        assert_eq!(out.frame[..12], [HOST_MAC, [2, 0, 0, 0, 9, 2]].concat());
        let dst = if to == WEB { (POD6, 8080) } else { to };
        assert_eq!((seen6(&out.frame).src, seen6(&out.frame).dst), (client, dst));
    }
    kernel.insert(ENDPOINTS, IFINDEX, row(LOCAL6))?;
    let mut answer = tcp6((POD6, 8080), client, SYN | ACK, &[]);
    answer[6..12].copy_from_slice(&POD_MAC);
    // A veth of the backend's own: its row of the opener is found by the flow's interface.
    kernel.insert(ENDPOINTS, IFINDEX, Endpoint { ip6: POD6.into(), ..row(POD6) })?;
    let out = kernel.run("from_pod", &answer)?;
    assert_eq!((out.verdict, out.frame), (PASS, answer), "the opener's veth has another address now");
    Ok(())
}

#[test]
fn extension_headers_are_walked_up_to_a_bound() -> Result<()> {
    let mut kernel = with_web(&[back(REMOTE6, 8080, 0, 2)])?;
    let options = [0, 0, 1, 4, 0, 0, 0, 0];
    let frame = extended(&tcp6(CLIENT, WEB, SYN, b"x"), &[(0, &options), (60, &options)]);
    let out = kernel.run("from_pod", &frame)?;
    let seen = seen6(&out.frame);
    assert_eq!((out.verdict, seen.dst, seen.l4), (PASS, PEER, 70));
    let answer = extended(&tcp6(PEER, CLIENT, SYN | ACK, &[]), &[(60, &options)]);
    assert_eq!(seen6(&kernel.run("to_pod", &answer)?.frame).src, WEB);

    let many = [(60u8, &options[..]); 7];
    drops(&mut kernel, &extended(&tcp6(CLIENT, WEB, SYN, &[]), &many), DropReason::ExtensionHeaders)?;
    let source_route = [0, 0, 0, 1, 0, 0, 0, 0];
    drops(&mut kernel, &extended(&tcp6(CLIENT, WEB, SYN, &[]), &[(43, &source_route)]), DropReason::ExtensionHeaders)?;
    let late = extended(&tcp6(CLIENT, WEB, SYN, &[]), &[(60, &options), (0, &options)]);
    drops(&mut kernel, &late, DropReason::ExtensionHeaders)?;
    let lying = [0, 40, 1, 4, 0, 0, 0, 0];
    drops(&mut kernel, &extended(&tcp6(CLIENT, WEB, SYN, &[]), &[(60, &lying)]), DropReason::Malformed)?;
    // Elsewhere they are somebody else's affair.
    for program in ["to_pod", "from_net", "to_net"] {
        let frame = extended(&tcp6((OUTSIDE6, 1), (NODE6, 30080), SYN, &[]), &many);
        let out = kernel.run(program, &frame)?;
        assert_eq!((out.verdict, out.frame), (PASS, frame), "{program}");
    }
    Ok(())
}

#[test]
fn later_fragments_follow_the_first() -> Result<()> {
    let mut kernel = with_web(&[back(REMOTE6, 8080, 0, 2)])?;
    let whole = udp6(CLIENT, LOG, &[7; 64]);
    let fragment = |bits: u16| {
        let [hi, lo] = bits.to_be_bytes();
        extended(&whole, &[(44, &[0, 0, hi, lo, 1, 2, 3, 4])])
    };
    assert_eq!(kernel.run("from_pod", &fragment(64))?.verdict, DROP);
    assert_eq!((kernel.counted(Counter::FragmentParked)?, kernel.dropped(DropReason::FragmentUnknown)?), (1, 0));
    let first = kernel.run("from_pod", &fragment(1))?;
    assert_eq!((first.verdict, &first.frame[38..54]), (PASS, &REMOTE6.octets()[..]));
    assert_eq!(&first.frame[64..66], &8080u16.to_be_bytes());
    let later = kernel.run("from_pod", &fragment(64))?;
    assert_eq!((later.verdict, &later.frame[38..54]), (PASS, &REMOTE6.octets()[..]));
    assert_eq!(later.frame[54..], fragment(64)[54..], "what follows the header is data");
    assert_eq!(kernel.counted(Counter::FragmentFollowed)?, 1);
    Ok(())
}

#[test]
fn a_pod_speaks_from_its_own_address_and_to_its_link() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let from_pod = |mut frame: Vec<u8>| {
        frame[..6].copy_from_slice(&HOST_MAC);
        frame[6..12].copy_from_slice(&POD_MAC);
        frame
    };
    let link = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 5);
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let nobody = Ipv6Addr::UNSPECIFIED;
    let about = |target: Ipv6Addr| [&[0; 4][..], &target.octets()].concat();
    let (first, later) = ([0, 0, 0, 1, 1, 2, 3, 4], [0, 0, 1, 0, 1, 2, 3, 4]);
    for frame in [
        icmp6(POD6, GATEWAY6, 135, 0, &about(GATEWAY6)),
        icmp6(link, GATEWAY6, 136, 0, &about(link)),
        icmp6(POD6, GATEWAY6, 136, 0, &about(POD6)),
        // Duplicate address detection, router solicitation.
        icmp6(nobody, routers, 135, 0, &about(POD6)),
        icmp6(link, routers, 133, 0, &[0; 4]),
    ] {
        let frame = from_pod(frame);
        let out = kernel.run("from_pod", &frame)?;
        assert_eq!((out.verdict, out.frame), (PASS, frame));
    }
    drops(&mut kernel, &from_pod(icmp6(POD6, GATEWAY6, 136, 0, &about(LOCAL6))), DropReason::SpoofedNdp)?;
    drops(&mut kernel, &from_pod(icmp6(link, routers, 134, 0, &[0; 20])), DropReason::SpoofedNdp)?;
    drops(&mut kernel, &from_pod(icmp6(link, POD6, 137, 0, &[0; 36])), DropReason::SpoofedIp)?;
    drops(&mut kernel, &from_pod(icmp6(link, GATEWAY6, 137, 0, &[0; 36])), DropReason::SpoofedNdp)?;
    let pieces = extended(&icmp6(POD6, GATEWAY6, 136, 0, &about(POD6)), &[(44, &first)]);
    drops(&mut kernel, &from_pod(pieces), DropReason::SpoofedNdp)?;
    // A later fragment, whose data begins as an announcement of somebody else's address would: it waits for its first.
    let data = extended(&icmp6(POD6, REMOTE6, 136, 0, &about(LOCAL6)), &[(44, &later)]);
    assert_eq!(kernel.run("from_pod", &from_pod(data))?.verdict, DROP);
    assert_eq!(kernel.counted(Counter::FragmentParked)?, 1);
    // All else between addresses of the link: multicast listener reports, the node's own servers.
    for frame in [
        extended(&icmp6(nobody, routers, 143, 0, &[0; 4]), &[(0, &[0, 0, 5, 2, 0, 0, 1, 0])]),
        extended(&icmp6(link, GATEWAY6, 136, 0, &about(link)), &[(44, &later)]),
        icmp6(link, GATEWAY6, 128, 0, &[0; 8]),
        udp6((link, 546), (routers, 547), b"dhcp"),
        tcp6((link, 40000), (GATEWAY6, 10250), SYN, &[]),
    ] {
        drops(&mut kernel, &from_pod(frame), DropReason::UnsupportedProtocol)?;
    }
    for src in [LOCAL6, NODE6, OUTSIDE6, link, nobody] {
        drops(&mut kernel, &from_pod(tcp6((src, 1), (REMOTE6, 80), SYN, &[])), DropReason::SpoofedIp)?;
    }
    let mut other = tcp6(CLIENT, (REMOTE6, 80), SYN, &[]);
    other[11] ^= 1;
    drops(&mut kernel, &other, DropReason::SpoofedMac)?;
    Ok(())
}

#[test]
fn nothing_of_ipv6_is_taken_from_a_pod_without_an_address_of_it() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let endpoint = Endpoint { ip: strake_abi::Addr4::new(POD), mac: POD_MAC, ..Endpoint::default() };
    kernel.insert(ENDPOINTS, IFINDEX, endpoint)?;
    let link = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 5);
    let routers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    let nobody = Ipv6Addr::UNSPECIFIED;
    kernel.events()?;
    for mut frame in [
        tcp6(CLIENT, (REMOTE6, 80), SYN, &[]),
        tcp6((nobody, 1), (REMOTE6, 80), SYN, &[]),
        tcp6((link, 1), (GATEWAY6, 10250), SYN, &[]),
        icmp6(link, routers, 133, 0, &[0; 4]),
        icmp6(nobody, routers, 135, 0, &[&[0; 4][..], &link.octets()].concat()),
    ] {
        frame[..6].copy_from_slice(&HOST_MAC);
        frame[6..12].copy_from_slice(&POD_MAC);
        drops(&mut kernel, &frame, DropReason::UnsupportedProtocol)?;
    }
    assert!(kernel.events()?.is_empty(), "every Pod's kernel speaks it, unasked: a number, not a story");
    Ok(())
}

#[test]
fn truncated_packets_are_malformed_at_every_length() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let options = [0, 0, 1, 4, 0, 0, 0, 0];
    let frame = extended(&tcp6(CLIENT, WEB, SYN, b"hello"), &[(60, &options)]);
    // The kernel does not run a program on less than an IPv6 header.
    for len in 54..frame.len() {
        assert_eq!(kernel.run("from_pod", &frame[..len])?.verdict, DROP, "{len} bytes");
        for program in ["to_pod", "from_net", "to_net"] {
            assert_eq!(kernel.run(program, &frame[..len])?.verdict, PASS, "{program}, {len} bytes");
        }
    }
    // A payload length that ends inside the headers.
    for len in 0..28u8 {
        let mut short = frame.clone();
        short[19] = len;
        drops(&mut kernel, &short, DropReason::Malformed)?;
    }
    Ok(())
}

#[test]
fn no_endpoint_is_a_reset_for_tcp_and_unreachable_for_udp() -> Result<()> {
    let mut kernel = with_web(&[])?;
    let out = kernel.run("from_pod", &tcp6(CLIENT, WEB, SYN, &[]))?;
    assert_eq!(out.verdict, REDIRECT);
    let answer = seen6(&out.frame);
    assert_eq!((answer.src, answer.dst, out.frame.len()), (WEB, CLIENT, 74));
    assert_eq!((out.frame[67], &out.frame[62..66]), (RST | ACK, &1001u32.to_be_bytes()[..]));
    assert_eq!((&out.frame[..6], &out.frame[6..12]), (&POD_MAC[..], &HOST_MAC[..]));

    let question = udp6(CLIENT, LOG, b"anyone?");
    let out = kernel.run("from_pod", &question)?;
    let answer = seen6(&out.frame);
    assert_eq!((out.verdict, answer.src.0, answer.dst.0, answer.proto), (REDIRECT, VIP6, POD6, proto::ICMPV6));
    assert_eq!(&out.frame[54..56], &[1, 4]);
    assert_eq!(&out.frame[62..], &question[14..62]);

    assert_eq!(kernel.dropped(DropReason::NoEndpoints)?, 2);
    let events = kernel.events()?;
    assert_eq!(events.len(), 2);
    for event in events {
        assert_eq!((event.verdict, event.reason), (Verdict::Rejected as u8, DropReason::NoEndpoints as u8));
        assert_eq!((event.src, event.dst), (POD6.octets(), VIP6.octets()));
    }
    assert_eq!(kernel.run("from_pod", &tcp6(CLIENT, WEB, RST, &[]))?.verdict, DROP, "nobody answers a reset");
    let silent = Service { id: 14, flags: SERVICE_DROP_IF_EMPTY, ..Service::default() };
    kernel.service6(front(VIP6, 81, proto::TCP, 0), silent, &[])?;
    drops(&mut kernel, &tcp6(CLIENT, (VIP6, 81), SYN, &[]), DropReason::NoEndpoints)
}

#[test]
fn an_unknown_port_is_rejected_and_an_unknown_address_dropped() -> Result<()> {
    let mut kernel = with_web(&[back(REMOTE6, 8080, 0, 2)])?;
    kernel.insert(SERVICES_V6, front(VIP6, 0, 0, 0), Service::default())?;
    let out = kernel.run("from_pod", &tcp6(CLIENT, (VIP6, 81), SYN, &[]))?;
    assert_eq!((out.verdict, out.frame[67]), (REDIRECT, RST | ACK));
    assert_eq!(kernel.dropped(DropReason::NoServicePort)?, 1);
    drops(&mut kernel, &tcp6(CLIENT, (OTHER_VIP6, 80), SYN, &[]), DropReason::NoService)
}

#[test]
fn a_pod_reaches_itself_through_its_service() -> Result<()> {
    let mut kernel = with_web(&[back(POD6, 8080, BACKEND_LOCAL, 1)])?;
    let out = kernel.run("from_pod", &tcp6(CLIENT, WEB, SYN, &[]))?;
    let there = seen6(&out.frame);
    assert_eq!((out.verdict, there.src, there.dst), (REDIRECT, (GATEWAY6, 40000), (POD6, 8080)));
    assert_eq!((&out.frame[..6], &out.frame[6..12]), (&POD_MAC[..], &HOST_MAC[..]));
    let out = kernel.run("from_pod", &tcp6((POD6, 8080), (GATEWAY6, 40000), SYN | ACK, &[]))?;
    let back = seen6(&out.frame);
    assert_eq!((out.verdict, back.src, back.dst), (REDIRECT, WEB, CLIENT));
    assert_eq!(kernel.counted(Counter::Hairpin)?, 1);
    Ok(())
}

#[test]
fn two_services_with_one_backend_do_not_share_a_tuple() -> Result<()> {
    let mut kernel = with_web(&[back(REMOTE6, 8080, 0, 2)])?;
    let service = Service { id: 15, backend_base: 40, ..Service::default() };
    kernel.service6(front(OTHER_VIP6, 80, proto::TCP, 0), service, &[back(REMOTE6, 8080, 0, 2)])?;
    let first = seen6(&kernel.run("from_pod", &tcp6(CLIENT, WEB, SYN, &[]))?.frame);
    let second = seen6(&kernel.run("from_pod", &tcp6(CLIENT, (OTHER_VIP6, 80), SYN, &[]))?.frame);
    assert_eq!((first.src, second.dst), (CLIENT, first.dst));
    assert!((61000..=65535).contains(&second.src.1));
    assert_eq!(kernel.counted(Counter::Collision)?, 1);
    let out = kernel.run("to_pod", &tcp6(second.dst, second.src, SYN | ACK, &[]))?;
    assert_eq!((seen6(&out.frame).src, seen6(&out.frame).dst), ((OTHER_VIP6, 80), CLIENT));
    let out = kernel.run("to_pod", &tcp6(first.dst, CLIENT, SYN | ACK, &[]))?;
    assert_eq!((seen6(&out.frame).src, seen6(&out.frame).dst), (WEB, CLIENT));
    Ok(())
}

#[test]
fn a_flow_is_told_with_long_addresses_when_it_opens_and_when_it_closes() -> Result<()> {
    let mut kernel = with_web(&[back(REMOTE6, 8080, 0, 2)])?;
    for (program, frame) in [
        ("from_pod", tcp6(CLIENT, WEB, SYN, &[])),
        ("to_pod", tcp6(PEER, CLIENT, SYN | ACK, &[])),
        ("from_pod", tcp6(CLIENT, WEB, ACK, b"question")),
        ("to_pod", tcp6(PEER, CLIENT, FIN | ACK, &[])),
        ("from_pod", tcp6(CLIENT, WEB, FIN | ACK, &[])),
    ] {
        assert_eq!(kernel.run(program, &frame)?.verdict, PASS);
    }
    let events = kernel.events()?;
    assert_eq!(events.iter().map(|e| e.kind).collect::<Vec<_>>(), [EventKind::Open as u8, EventKind::Close as u8]);
    for event in &events {
        assert_eq!((event.src, event.dst, event.backend), (POD6.octets(), VIP6.octets(), REMOTE6.octets()));
        assert_eq!((event.dst_port, event.backend_port), (Port::new(80), Port::new(8080)));
        assert_eq!((event.service_id, event.backend_id, event.ifindex), (12, 2, IFINDEX));
    }
    assert_eq!((events[1].packets, events[1].reply_packets), (3, 2));
    // A direct connection is written down, and forgotten when it is closed.
    let direct = (REMOTE6, 9);
    for (program, frame) in
        [("from_pod", tcp6(CLIENT, direct, SYN, &[])), ("to_pod", tcp6(direct, CLIENT, RST | ACK, &[]))]
    {
        kernel.run(program, &frame)?;
    }
    assert_eq!(kernel.conntrack6()?.len(), 2, "the Service's flow ages, the direct one is gone");
    Ok(())
}

#[test]
fn an_icmp_error_about_a_translated_packet_reaches_its_sender_in_its_own_terms() -> Result<()> {
    let mut kernel = with_web(&[back(REMOTE6, 8080, 0, 2)])?;
    kernel.run("from_pod", &tcp6(CLIENT, WEB, SYN, &[]))?;
    kernel.run("from_pod", &udp6(CLIENT, LOG, b"question"))?;
    // A router on the way to the backend: packet too big.
    let about = tcp6(CLIENT, PEER, ACK, &[0; 100]);
    let out = kernel.run("to_pod", &error6(OTHER_NODE6, POD6, 2, 0, &about))?;
    let outer = seen6(&out.frame);
    assert_eq!((out.verdict, outer.src.0, outer.dst.0), (PASS, OTHER_NODE6, POD6), "the router keeps its name");
    assert_eq!(&out.frame[62 + 8..62 + 40], &[POD6.octets(), VIP6.octets()].concat()[..]);
    assert_eq!(&out.frame[102..106], &[0x9c, 0x40, 0, 80]);
    // The backend itself: its address is the VIP's; what it quotes is a datagram as its sender sent it.
    let out = kernel.run("to_pod", &error6(REMOTE6, POD6, 1, 4, &udp6(CLIENT, PEER, b"question")))?;
    assert_eq!(seen6(&out.frame).src.0, VIP6);
    assert_eq!(out.frame[62 + 8..], udp6(CLIENT, LOG, b"question")[14 + 8..]);
    // The same behind an extension header.
    let long = extended(&tcp6(CLIENT, PEER, ACK, &[0; 100]), &[(60, &[0, 0, 1, 4, 0, 0, 0, 0])]);
    let out = kernel.run("to_pod", &error6(OTHER_NODE6, POD6, 2, 0, &long))?;
    seen6(&out.frame);
    assert_eq!(&out.frame[110..114], &[0x9c, 0x40, 0, 80]);
    // The client about an answer it got.
    let out = kernel.run("from_pod", &error6(POD6, VIP6, 2, 0, &tcp6(WEB, CLIENT, ACK, &[0; 100])))?;
    assert_eq!(seen6(&out.frame).dst.0, REMOTE6);
    assert_eq!(&out.frame[62 + 8..62 + 40], &[REMOTE6.octets(), POD6.octets()].concat()[..]);
    assert_eq!(kernel.counted(Counter::IcmpErrorTranslated)?, 4);
    // One about a flow nobody knows passes as it is.
    let stranger = error6(OTHER_NODE6, POD6, 2, 0, &tcp6(CLIENT, (LOCAL6, 1), ACK, &[]));
    assert_eq!(kernel.run("to_pod", &stranger)?.frame, stranger);
    Ok(())
}

#[test]
fn the_pod_of_an_affine_client_is_the_same_in_both_families() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let service = Service { id: 12, backend_base: 40, affinity_timeout_s: 10800, ..Service::default() };
    let many: Vec<_> =
        (1..=20).map(|i| back(Ipv6Addr::new(0xfd00, 0x244, 0, 1, 0, 0, 0, i), 80, 0, i.into())).collect();
    kernel.service6(front(VIP6, 80, proto::TCP, 0), service, &many)?;
    // As a socket hook would have left it.
    let key = strake_abi::service::AffinityKey { client: strake_abi::Addr4::new(POD), service_id: 12 };
    let now = std::fs::read_to_string("/proc/uptime")?.split('.').next().unwrap().parse::<u32>()?;
    let row = strake_abi::service::Affinity { backend_id: 17, last_used_s: now };
    kernel.insert(strake_abi::service::AFFINITY, key, row)?;
    for port in 0..20 {
        let out = kernel.run("from_pod", &tcp6((POD6, 20000 + port), WEB, SYN, &[]))?;
        assert_eq!(seen6(&out.frame).dst.0.segments()[7], 17);
    }
    assert_eq!(kernel.counted(Counter::AffinityHit)?, 20);
    Ok(())
}
