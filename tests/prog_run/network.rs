//! The uplink: NodePorts, masquerade, and what comes back.

use anyhow::Result;
use strake_abi::flow::{Counter, DropReason};
use strake_abi::service::{BACKEND_LOCAL, Backend, SCOPE_EXTERNAL, SERVICE_NODE_PORT, Service, ServiceKey};
use strake_abi::{Addr4, proto};

use crate::harness::*;

const CLIENT: End = (OUTSIDE, 50000);
const FRONT: End = (NODE, 30080);

fn node_port(backends: &[Backend]) -> Result<Kernel> {
    let mut kernel = Kernel::new()?;
    let service = Service { id: 12, backend_base: 40, flags: SERVICE_NODE_PORT, ..Service::default() };
    for scope in [0, SCOPE_EXTERNAL] {
        let key = ServiceKey { addr: Addr4::ANY, scope, ..frontend(NODE, 30080, proto::TCP) };
        kernel.service(key, service, backends)?;
    }
    Ok(kernel)
}

#[test]
fn a_node_port_with_a_local_backend_keeps_the_client() -> Result<()> {
    let mut kernel = node_port(&[backend(LOCAL, 8080, BACKEND_LOCAL, 1)])?;
    let out = kernel.run("from_net", &tcp(CLIENT, FRONT, SYN, &[]))?;
    assert_eq!(out.verdict, PASS);
    let there = seen(&out.frame);
    assert_eq!((there.src, there.dst), (CLIENT, (LOCAL, 8080)));
    // The answer leaves the backend's border as it is, and the uplink as the node's.
    let answer = tcp((LOCAL, 8080), CLIENT, SYN | ACK, &[]);
    let out = kernel.run("to_net", &answer)?;
    assert_eq!((out.verdict, seen(&out.frame).src, seen(&out.frame).dst), (PASS, FRONT, CLIENT));
    Ok(())
}

/// Another proxy opened it, and its connection tracking carries it on while ours takes over.
#[test]
fn a_connection_that_was_opened_before_us_is_left_alone() -> Result<()> {
    let mut kernel = node_port(&[backend(LOCAL, 8080, BACKEND_LOCAL, 1), backend(REMOTE, 8080, 0, 2)])?;
    for flags in [ACK, ACK | FIN, SYN | ACK, RST] {
        let frame = tcp(CLIENT, FRONT, flags, b"x");
        let out = kernel.run("from_net", &frame)?;
        assert_eq!((out.verdict, out.frame), (PASS, frame), "{flags:#x}");
    }
    Ok(())
}

#[test]
fn a_node_port_with_a_remote_backend_goes_out_as_the_node() -> Result<()> {
    let mut kernel = node_port(&[backend(REMOTE, 8080, 0, 2)])?;
    let out = kernel.run("from_net", &tcp(CLIENT, FRONT, SYN, &[]))?;
    assert_eq!(out.verdict, REDIRECT);
    let there = seen(&out.frame);
    assert_eq!((there.src.0, there.dst, there.ttl), (NODE, (REMOTE, 8080), 63));
    assert!((61000..=65535).contains(&there.src.1));
    // On its way out it passes to_net, which has no business with it.
    let passed = kernel.run("to_net", &out.frame)?;
    assert_eq!((passed.verdict, &passed.frame), (PASS, &out.frame));

    let out = kernel.run("from_net", &tcp((REMOTE, 8080), there.src, SYN | ACK, &[]))?;
    assert_eq!(out.verdict, REDIRECT);
    assert_eq!((seen(&out.frame).src, seen(&out.frame).dst), (FRONT, CLIENT));
    Ok(())
}

/// Ports are taken at random; of a range that is two thirds full, a free one is found.
#[test]
fn a_port_of_the_node_is_found_while_most_are_taken() -> Result<()> {
    let mut kernel = node_port(&[backend(REMOTE, 8080, 0, 2)])?;
    kernel.configure(|config| (config.snat_port_min, config.snat_port_max) = (61_000, 61_999))?;
    for port in 0..667 {
        let out = kernel.run("from_net", &tcp((OUTSIDE, 1000 + port), FRONT, SYN, &[]))?;
        assert_eq!(out.verdict, REDIRECT, "connection {port}");
    }
    assert_eq!(kernel.dropped(DropReason::PortsExhausted)?, 0);
    Ok(())
}

#[test]
fn a_node_port_is_served_at_node_addresses_only() -> Result<()> {
    let mut kernel = node_port(&[backend(REMOTE, 8080, 0, 2)])?;
    let frame = tcp(CLIENT, (OTHER_NODE, 30080), SYN, &[]);
    let out = kernel.run("from_net", &frame)?;
    assert_eq!((out.verdict, out.frame), (PASS, frame));
    // A Pod reaches it too, at its own border.
    let out = kernel.run("from_pod", &tcp((POD, 40000), FRONT, SYN, &[]))?;
    assert_eq!(seen(&out.frame).dst, (REMOTE, 8080));
    let out = kernel.run("to_pod", &tcp((REMOTE, 8080), (POD, 40000), SYN | ACK, &[]))?;
    assert_eq!(seen(&out.frame).src, FRONT);
    Ok(())
}

#[test]
fn a_node_port_without_endpoint_is_refused_out_of_the_uplink() -> Result<()> {
    let mut kernel = node_port(&[])?;
    let out = kernel.run("from_net", &tcp(CLIENT, FRONT, SYN, &[]))?;
    assert_eq!((out.verdict, seen(&out.frame).dst, out.frame[47]), (REDIRECT, CLIENT, RST | ACK));
    assert_eq!(kernel.dropped(DropReason::NoEndpoints)?, 1);
    Ok(())
}

#[test]
fn a_pod_goes_out_as_the_node_and_answers_find_it() -> Result<()> {
    let mut kernel = Kernel::new()?;
    for (frame, server) in [
        (tcp((POD, 40000), (OUTSIDE, 443), SYN, &[]), (OUTSIDE, 443)),
        (udp((POD, 40000), (OUTSIDE, 123), b"time"), (OUTSIDE, 123)),
    ] {
        let out = kernel.run("to_net", &frame)?;
        assert_eq!(out.verdict, PASS);
        let there = seen(&out.frame);
        assert_eq!((there.src.0, there.dst), (NODE, server));
        assert!((61000..=65535).contains(&there.src.1));
        let answer = match there.proto {
            proto::TCP => tcp(server, there.src, SYN | ACK, &[]),
            _ => udp(server, there.src, b"noon"),
        };
        let out = kernel.run("from_net", &answer)?;
        assert_eq!((out.verdict, seen(&out.frame).dst), (PASS, (POD, 40000)));
        // The same flow keeps its port.
        let again = match there.proto {
            proto::TCP => tcp((POD, 40000), server, ACK, b"more"),
            _ => udp((POD, 40000), server, b"again"),
        };
        assert_eq!(seen(&kernel.run("to_net", &again)?.frame).src, there.src);
    }
    assert_eq!(kernel.counted(Counter::Masqueraded)?, 2);
    Ok(())
}

#[test]
fn ping_is_masqueraded_by_its_identifier() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let echo = |src: [u8; 4], dst: [u8; 4], request: bool, id: u16| {
        let (from, to) = if src == POD { (POD_MAC, HOST_MAC) } else { (HOST_MAC, POD_MAC) };
        let builder = etherparse::PacketBuilder::ethernet2(from, to).ipv4(src, dst, 64);
        let builder = if request { builder.icmpv4_echo_request(id, 1) } else { builder.icmpv4_echo_reply(id, 1) };
        let mut frame = Vec::new();
        builder.write(&mut frame, b"abcdefgh").unwrap();
        frame
    };
    let out = kernel.run("to_net", &echo(POD, OUTSIDE, true, 77))?;
    let there = seen(&out.frame);
    assert_eq!((there.src.0, there.dst.0), (NODE, OUTSIDE));
    let id = u16::from_be_bytes([out.frame[38], out.frame[39]]);
    assert!((61000..=65535).contains(&id));
    let out = kernel.run("from_net", &echo(OUTSIDE, NODE, false, id))?;
    assert_eq!(seen(&out.frame).dst.0, POD);
    assert_eq!(&out.frame[38..40], &77u16.to_be_bytes());
    Ok(())
}

#[test]
fn what_stays_in_the_cluster_keeps_its_source() -> Result<()> {
    let mut kernel = Kernel::new()?;
    for frame in [
        tcp((POD, 40000), (REMOTE, 80), SYN, &[]),
        tcp((POD, 40000), (OTHER_NODE, 6443), SYN, &[]),
        tcp((NODE, 40000), (OUTSIDE, 443), SYN, &[]),
        udp((POD, 5353), ([224, 0, 0, 251], 5353), b"mdns"),
        // Answers to somebody outside who reached the Pod directly.
        tcp((POD, 80), (OUTSIDE, 40000), SYN | ACK, &[]),
    ] {
        let out = kernel.run("to_net", &frame)?;
        assert_eq!((out.verdict, out.frame), (PASS, frame));
    }
    let out = kernel.run("from_net", &udp((OUTSIDE, 4000), (POD, 9), b"hello"))?;
    assert_eq!(out.verdict, PASS);
    let answer = udp((POD, 9), (OUTSIDE, 4000), b"hello yourself");
    assert_eq!(kernel.run("to_net", &answer)?.frame, answer);
    Ok(())
}

#[test]
fn a_cluster_ip_never_leaves_the_node() -> Result<()> {
    let mut kernel = Kernel::new()?;
    assert_eq!(kernel.run("to_net", &tcp((NODE, 40000), (VIP, 80), SYN, &[]))?.verdict, DROP);
    assert_eq!(kernel.dropped(DropReason::NoService)?, 1);
    Ok(())
}

#[test]
fn full_ports_are_a_reason() -> Result<()> {
    let mut kernel = Kernel::new()?;
    kernel.configure(|c| (c.snat_port_min, c.snat_port_max) = (61000, 61001))?;
    let mut refused = 0;
    for port in 0..40 {
        let out = kernel.run("to_net", &tcp((POD, 20000 + port), (OUTSIDE, 443), SYN, &[]))?;
        refused += u64::from(out.verdict == DROP);
    }
    assert!(refused >= 38, "{refused} refused of 40 over two ports");
    assert_eq!(kernel.dropped(DropReason::PortsExhausted)?, refused);
    Ok(())
}

#[test]
fn an_icmp_error_finds_its_way_through_the_masquerade() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let out = kernel.run("to_net", &udp((POD, 40000), (OUTSIDE, 123), b"time"))?;
    let router = [198, 51, 100, 1];
    let error = kernel.run("from_net", &icmp_error(router, NODE, 3, 4, &out.frame))?;
    assert_eq!(error.verdict, PASS);
    let outer = seen(&error.frame);
    assert_eq!((outer.src.0, outer.dst.0), (router, POD));
    assert_eq!(&error.frame[54..62], &[POD, OUTSIDE].concat()[..]);
    assert_eq!(&error.frame[62..64], &40000u16.to_be_bytes());
    Ok(())
}
