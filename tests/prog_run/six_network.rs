//! IPv6 at the uplink: NodePorts, masquerade, and what comes back.

use anyhow::Result;
use strake_abi::conntrack::FlowState;
use strake_abi::flow::{Counter, DropReason};
use strake_abi::service::{BACKEND_LOCAL, Backend, SCOPE_EXTERNAL, SERVICE_DROP_IF_EMPTY, SERVICE_NODE_PORT, Service};
use strake_abi::{Addr6, proto};

use crate::harness::*;
use crate::six_harness::*;

const CLIENT: End6 = (OUTSIDE6, 50000);
const FRONT: End6 = (NODE6, 30080);
const POD_END: End6 = (POD6, 40000);

fn node_port(backends: &[Backend], flags: u32) -> Result<Kernel> {
    let mut kernel = Kernel::new()?;
    let service = Service { id: 12, backend_base: 40, flags, ..Service::default() };
    for protocol in [proto::TCP, proto::UDP] {
        let key = front(std::net::Ipv6Addr::UNSPECIFIED, 30080, protocol, SCOPE_EXTERNAL);
        assert_eq!(key.addr, Addr6::ANY);
        kernel.service6(key, service, backends)?;
    }
    Ok(kernel)
}

#[test]
fn a_node_port_with_a_local_backend_keeps_the_client() -> Result<()> {
    let mut kernel = node_port(&[back(LOCAL6, 8080, BACKEND_LOCAL, 1)], SERVICE_NODE_PORT)?;
    let out = kernel.run("from_net", &tcp6(CLIENT, FRONT, SYN, &[]))?;
    assert_eq!((out.verdict, seen6(&out.frame).src, seen6(&out.frame).dst), (PASS, CLIENT, (LOCAL6, 8080)));
    let out = kernel.run("to_net", &tcp6((LOCAL6, 8080), CLIENT, SYN | ACK, &[]))?;
    assert_eq!((out.verdict, seen6(&out.frame).src, seen6(&out.frame).dst), (PASS, FRONT, CLIENT));
    let out = kernel.run("from_net", &udp6(CLIENT, FRONT, b"question"))?;
    assert_eq!(seen6(&out.frame).dst, (LOCAL6, 8080));
    let out = kernel.run("to_net", &udp6((LOCAL6, 8080), CLIENT, b"answer"))?;
    assert_eq!(seen6(&out.frame).src, FRONT);
    // The middle of a connection that was opened before us.
    let frame = tcp6((OUTSIDE6, 50001), FRONT, ACK, b"x");
    let out = kernel.run("from_net", &frame)?;
    assert_eq!((out.verdict, out.frame), (PASS, frame));
    Ok(())
}

#[test]
fn a_node_port_with_a_remote_backend_goes_out_as_the_node() -> Result<()> {
    let mut kernel = node_port(&[back(REMOTE6, 8080, 0, 2)], SERVICE_NODE_PORT)?;
    let out = kernel.run("from_net", &tcp6(CLIENT, FRONT, SYN, &[]))?;
    assert_eq!(out.verdict, REDIRECT);
    let there = seen6(&out.frame);
    assert_eq!((there.src.0, there.dst, there.hops), (NODE6, (REMOTE6, 8080), 63));
    assert!((61000..=65535).contains(&there.src.1));
    let passed = kernel.run("to_net", &out.frame)?;
    assert_eq!((passed.verdict, &passed.frame), (PASS, &out.frame));
    let out = kernel.run("from_net", &tcp6((REMOTE6, 8080), there.src, SYN | ACK, &[]))?;
    assert_eq!((out.verdict, seen6(&out.frame).src, seen6(&out.frame).dst), (REDIRECT, FRONT, CLIENT));
    // A hop limit that ends here.
    let mut last = tcp6((OUTSIDE6, 50002), FRONT, SYN, &[]);
    last[21] = 1;
    assert_eq!(kernel.run("from_net", &last)?.verdict, DROP);
    assert_eq!(kernel.dropped(DropReason::TtlExceeded)?, 1);
    // A node without an IPv6 address cannot stand in for a client.
    kernel.configure(|c| c.node_ip6 = Addr6::ANY)?;
    assert_eq!(kernel.run("from_net", &tcp6((OUTSIDE6, 50003), FRONT, SYN, &[]))?.verdict, DROP);
    assert_eq!(kernel.dropped(DropReason::NotConfigured)?, 1);
    Ok(())
}

#[test]
fn a_node_port_is_served_at_node_addresses_only_and_other_addresses_where_they_are() -> Result<()> {
    let mut kernel = node_port(&[back(LOCAL6, 8080, BACKEND_LOCAL, 1)], SERVICE_NODE_PORT)?;
    let frame = tcp6(CLIENT, (OTHER_NODE6, 30080), SYN, &[]);
    let out = kernel.run("from_net", &frame)?;
    assert_eq!((out.verdict, out.frame), (PASS, frame));
    let external: std::net::Ipv6Addr = "2001:db8:1::7".parse()?;
    let service = Service { id: 13, backend_base: 60, ..Service::default() };
    let local = [back(LOCAL6, 8080, BACKEND_LOCAL, 1)];
    kernel.service6(front(external, 443, proto::TCP, SCOPE_EXTERNAL), service, &local)?;
    let out = kernel.run("from_net", &tcp6(CLIENT, (external, 443), SYN, &[]))?;
    assert_eq!(seen6(&out.frame).dst, (LOCAL6, 8080));
    let out = kernel.run("to_net", &tcp6((LOCAL6, 8080), CLIENT, SYN | ACK, &[]))?;
    assert_eq!(seen6(&out.frame).src, (external, 443));
    Ok(())
}

#[test]
fn no_endpoint_is_refused_out_of_the_uplink_and_a_local_policy_is_silent() -> Result<()> {
    let mut kernel = node_port(&[], SERVICE_NODE_PORT)?;
    let out = kernel.run("from_net", &tcp6(CLIENT, FRONT, SYN, &[]))?;
    assert_eq!((out.verdict, seen6(&out.frame).dst, out.frame[67]), (REDIRECT, CLIENT, RST | ACK));
    let out = kernel.run("from_net", &udp6(CLIENT, FRONT, b"x"))?;
    assert_eq!((out.verdict, seen6(&out.frame).dst.0, &out.frame[54..56]), (REDIRECT, OUTSIDE6, &[1, 4][..]));
    drop(kernel);
    let mut kernel = node_port(&[], SERVICE_NODE_PORT | SERVICE_DROP_IF_EMPTY)?;
    assert_eq!(kernel.run("from_net", &tcp6(CLIENT, FRONT, SYN, &[]))?.verdict, DROP);
    assert_eq!(kernel.dropped(DropReason::NoEndpoints)?, 1);
    Ok(())
}

#[test]
fn source_ranges_and_affinity_are_those_of_the_client() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let many: Vec<_> = (1..=20)
        .map(|i| back(std::net::Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 1, i), 80, BACKEND_LOCAL, i.into()))
        .collect();
    let service = Service { id: 12, backend_base: 40, affinity_timeout_s: 10800, source_list: 5, ..Service::default() };
    kernel.service6(front(VIP6, 80, proto::TCP, SCOPE_EXTERNAL), service, &many)?;
    assert_eq!(kernel.run("from_net", &tcp6(CLIENT, (VIP6, 80), SYN, &[]))?.verdict, DROP);
    assert_eq!(kernel.dropped(DropReason::SourceNotInRanges)?, 1);
    kernel.admit(5, OUTSIDE6, 64)?;
    let mut seen = Vec::new();
    for port in 0..20 {
        seen.push(seen6(&kernel.run("from_net", &tcp6((OUTSIDE6, 2000 + port), (VIP6, 80), SYN, &[]))?.frame).dst);
    }
    assert!(seen.iter().all(|dst| *dst == seen[0]), "{seen:?}");
    assert_eq!(kernel.counted(Counter::AffinityHit)?, 19);
    Ok(())
}

#[test]
fn a_pod_goes_out_as_the_node_and_answers_find_it() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let echo = |src, dst, kind, id: u16| icmp6(src, dst, kind, 0, &[&id.to_be_bytes()[..], b"\0\x01payload"].concat());
    for (frame, server) in [
        (tcp6(POD_END, (OUTSIDE6, 443), SYN, &[]), (OUTSIDE6, 443)),
        (udp6(POD_END, (OUTSIDE6, 123), b"time"), (OUTSIDE6, 123)),
    ] {
        let out = kernel.run("to_net", &frame)?;
        let there = seen6(&out.frame);
        assert_eq!((out.verdict, there.src.0, there.dst), (PASS, NODE6, server));
        assert!((61000..=65535).contains(&there.src.1));
        let answer = match there.proto {
            proto::TCP => tcp6(server, there.src, SYN | ACK, &[]),
            _ => udp6(server, there.src, b"noon"),
        };
        let out = kernel.run("from_net", &answer)?;
        assert_eq!((out.verdict, seen6(&out.frame).dst), (PASS, POD_END));
        assert_eq!(seen6(&kernel.run("to_net", &frame)?.frame).src, there.src, "the same flow keeps its port");
    }
    let out = kernel.run("to_net", &echo(POD6, OUTSIDE6, 128, 77))?;
    assert_eq!(seen6(&out.frame).src.0, NODE6);
    let id = u16::from_be_bytes([out.frame[58], out.frame[59]]);
    assert!((61000..=65535).contains(&id));
    let out = kernel.run("from_net", &echo(OUTSIDE6, NODE6, 129, id))?;
    assert_eq!((seen6(&out.frame).dst.0, &out.frame[58..60]), (POD6, &77u16.to_be_bytes()[..]));
    assert_eq!(kernel.counted(Counter::Masqueraded)?, 3);
    assert!(kernel.conntrack6()?.iter().all(|(_, row)| row.state <= FlowState::Established as u8));
    Ok(())
}

#[test]
fn what_stays_in_the_cluster_or_on_the_link_keeps_its_source() -> Result<()> {
    let mut kernel = Kernel::new()?;
    for frame in [
        tcp6(POD_END, (REMOTE6, 80), SYN, &[]),
        tcp6(POD_END, (OTHER_NODE6, 6443), SYN, &[]),
        tcp6((NODE6, 40000), (OUTSIDE6, 443), SYN, &[]),
        udp6(POD_END, ("ff02::fb".parse()?, 5353), b"mdns"),
        udp6(POD_END, ("fe80::1".parse()?, 9), b"link"),
        tcp6((POD6, 80), (OUTSIDE6, 40000), SYN | ACK, &[]),
        icmp6(NODE6, GATEWAY6, 135, 0, &[0; 20]),
    ] {
        let out = kernel.run("to_net", &frame)?;
        assert_eq!((out.verdict, out.frame), (PASS, frame));
    }
    // Somebody outside talks to a Pod directly: its answers are its own.
    assert_eq!(kernel.run("from_net", &udp6((OUTSIDE6, 4000), (POD6, 9), b"hello"))?.verdict, PASS);
    let answer = udp6((POD6, 9), (OUTSIDE6, 4000), b"hello yourself");
    assert_eq!(kernel.run("to_net", &answer)?.frame, answer);
    // Without an address, or without masquerade, nothing is changed; a ClusterIP never leaves.
    let frame = tcp6(POD_END, (OUTSIDE6, 443), SYN, &[]);
    kernel.configure(|c| c.node_ip6 = Addr6::ANY)?;
    assert_eq!(kernel.run("to_net", &frame)?.frame, frame);
    kernel.configure(|c| c.flags &= !strake_abi::config::MASQUERADE)?;
    assert_eq!(kernel.run("to_net", &frame)?.frame, frame);
    assert_eq!(kernel.run("to_net", &tcp6((NODE6, 40000), (VIP6, 80), SYN, &[]))?.verdict, DROP);
    assert_eq!(kernel.dropped(DropReason::NoService)?, 1);
    Ok(())
}

#[test]
fn full_ports_are_a_reason() -> Result<()> {
    let mut kernel = Kernel::new()?;
    kernel.configure(|c| (c.snat_port_min, c.snat_port_max) = (61000, 61001))?;
    let mut refused = 0;
    for port in 0..40 {
        let out = kernel.run("to_net", &tcp6((POD6, 20000 + port), (OUTSIDE6, 443), SYN, &[]))?;
        refused += u64::from(out.verdict == DROP);
    }
    assert!(refused >= 38, "{refused} refused of 40 over two ports");
    assert_eq!(kernel.dropped(DropReason::PortsExhausted)?, refused);
    Ok(())
}

#[test]
fn an_icmp_error_finds_its_way_through_the_masquerade_and_the_node_port() -> Result<()> {
    let router = "2001:db8:ff::1".parse()?;
    let mut kernel = node_port(&[back(REMOTE6, 8080, 0, 2)], SERVICE_NODE_PORT)?;
    let out = kernel.run("to_net", &udp6(POD_END, (OUTSIDE6, 123), b"time"))?;
    let error = kernel.run("from_net", &error6(router, NODE6, 2, 0, &out.frame))?;
    assert_eq!((error.verdict, seen6(&error.frame).src.0, seen6(&error.frame).dst.0), (PASS, router, POD6));
    // What is quoted is, byte for byte, what the Pod had sent.
    assert_eq!(error.frame[62..], udp6(POD_END, (OUTSIDE6, 123), b"time")[14..]);

    let out = kernel.run("from_net", &tcp6(CLIENT, FRONT, SYN, &[]))?;
    let error = kernel.run("from_net", &error6(router, NODE6, 1, 0, &out.frame))?;
    assert_eq!((error.verdict, seen6(&error.frame).dst.0), (REDIRECT, OUTSIDE6));
    assert_eq!(&error.frame[62 + 8..62 + 40], &[OUTSIDE6.octets(), NODE6.octets()].concat()[..]);
    Ok(())
}
