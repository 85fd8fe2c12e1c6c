//! Direct server return: into a packet at the node that the client asked, out of it at the backend's.

use anyhow::Result;
use strake_abi::config::DSR;
use strake_abi::conntrack::{CT_DSR, CT_TRANSLATED};
use strake_abi::endpoint::{ENDPOINTS_BY_IP, ENDPOINTS_IP_V6};
use strake_abi::flow::DropReason;
use strake_abi::service::{
    BACKEND_LOCAL, Backend, SCOPE_EXTERNAL, SERVICE_DSR, SERVICE_NODE_PORT, Service, ServiceKey, ServiceKey6,
};
use strake_abi::{Addr4, Addr6, proto};

use crate::harness::*;
use crate::six_harness::*;

const CLIENT: End = (OUTSIDE, 50000);
const CLIENT6: End6 = (OUTSIDE6, 50000);

/// A node with two backends of a NodePort of both families, one here and one elsewhere.
fn node(here: &[Backend], here6: &[Backend]) -> Result<Kernel> {
    let mut kernel = Kernel::new()?;
    kernel.configure(|c| {
        c.flags |= DSR;
        c.uplink_mtu = 1500;
    })?;
    let service = Service { id: 12, backend_base: 40, flags: SERVICE_NODE_PORT | SERVICE_DSR, ..Service::default() };
    let six = Service { id: 13, backend_base: 80, ..service };
    for protocol in [proto::TCP, proto::UDP] {
        let key = ServiceKey { addr: Addr4::ANY, scope: SCOPE_EXTERNAL, ..frontend(NODE, 30080, protocol) };
        kernel.service(key, service, here)?;
        let key = ServiceKey6 { addr: Addr6::ANY, ..front(NODE6, 30080, protocol, SCOPE_EXTERNAL) };
        kernel.service6(key, six, here6)?;
    }
    kernel.insert(ENDPOINTS_BY_IP, Addr4::new(LOCAL), IFINDEX)?;
    kernel.insert(ENDPOINTS_IP_V6, Addr6::from(LOCAL6), IFINDEX)?;
    Ok(kernel)
}

/// As the asked node: the Pod is on another.
fn asked() -> Result<Kernel> {
    node(&[backend(REMOTE, 8080, 0, 2)], &[back(REMOTE6, 8080, 0, 3)])
}

/// As the backend's: the Pod is the second of two.
fn serving() -> Result<Kernel> {
    let four = [backend(REMOTE, 9090, 0, 2), backend(LOCAL, 8080, BACKEND_LOCAL, 1)];
    node(&four, &[back(REMOTE6, 9090, 0, 4), back(LOCAL6, 8080, BACKEND_LOCAL, 3)])
}

fn without_outer(frame: &[u8], len: usize) -> Vec<u8> {
    [&frame[..14], &frame[14 + len..]].concat()
}

/// What another node sends of a packet to port 8080.
fn wrapped(src: [u8; 4], dst: [u8; 4], frame: &[u8]) -> Vec<u8> {
    let mut header =
        etherparse::Ipv4Header::new((frame.len() - 14) as u16, 64, etherparse::IpNumber(4), src, dst).unwrap();
    header.identification = 8080;
    header.header_checksum = header.calc_header_checksum();
    let mut out = frame[..14].to_vec();
    header.write(&mut out).unwrap();
    out.extend(&frame[14..]);
    out
}

fn wrapped6(src: std::net::Ipv6Addr, dst: std::net::Ipv6Addr, frame: &[u8]) -> Vec<u8> {
    let mut out = frame[..14].to_vec();
    out.extend([0x60, 0, 0x1f, 0x90]);
    out.extend(((frame.len() - 14) as u16).to_be_bytes());
    out.extend([41, 64]);
    out.extend(src.octets());
    out.extend(dst.octets());
    out.extend(&frame[14..]);
    out
}

#[test]
fn the_asked_node_sends_the_packet_on_in_another() -> Result<()> {
    let mut kernel = asked()?;
    let front = (NODE, 30080);
    for frame in [tcp(CLIENT, front, SYN, &[]), tcp(CLIENT, front, ACK, b"more"), udp(CLIENT, front, b"question")] {
        let out = kernel.run("from_net", &frame)?;
        assert_eq!(out.verdict, REDIRECT);
        let (outer, _) = etherparse::Ipv4Header::from_slice(&out.frame[14..]).unwrap();
        assert_eq!((outer.source, outer.destination, outer.protocol.0), (NODE, REMOTE, 4));
        assert_eq!(usize::from(outer.total_len), frame.len() - 14 + 20);
        assert_eq!(outer.calc_header_checksum(), outer.header_checksum);
        assert_eq!(outer.identification, 8080);
        let inner = without_outer(&out.frame, 20);
        let (was, is) = (seen(&frame), seen(&inner));
        assert_eq!((is.src, is.dst, is.proto, is.ttl), (was.src, was.dst, was.proto, was.ttl - 1));
        assert_eq!(inner[34..], frame[34..]);
    }
    let rows = kernel.conntrack()?;
    assert_eq!(rows.len(), 2, "one row a flow: {rows:?}");
    assert!(rows.iter().all(|(_, row)| row.flags == CT_DSR | CT_TRANSLATED && row.to.dst == Addr4::new(REMOTE)));
    Ok(())
}

#[test]
fn the_asked_node_sends_the_packet_on_in_another_of_ipv6() -> Result<()> {
    let mut kernel = asked()?;
    let front = (NODE6, 30080);
    for frame in [tcp6(CLIENT6, front, SYN, &[]), tcp6(CLIENT6, front, ACK, b"more"), udp6(CLIENT6, front, b"question")]
    {
        let out = kernel.run("from_net", &frame)?;
        assert_eq!(out.verdict, REDIRECT);
        let (outer, _) = etherparse::Ipv6Header::from_slice(&out.frame[14..]).unwrap();
        let ends = (outer.source, outer.destination, outer.next_header.0);
        assert_eq!(ends, (NODE6.octets(), REMOTE6.octets(), 41));
        assert_eq!(usize::from(outer.payload_length), frame.len() - 14);
        assert_eq!(outer.flow_label.value(), 8080);
        let inner = without_outer(&out.frame, 40);
        let (was, is) = (seen6(&frame), seen6(&inner));
        assert_eq!((is.src, is.dst, is.proto, is.hops), (was.src, was.dst, was.proto, was.hops - 1));
    }
    assert_eq!(kernel.conntrack6()?.len(), 2);
    Ok(())
}

/// Its own address as a source from the network is what a node's routing refuses; and a Pod's is masqueraded on the way.
#[test]
fn a_client_that_is_a_node_or_a_pod_is_served_by_source_translation() -> Result<()> {
    let mut kernel = asked()?;
    for client in [OTHER_NODE, POD] {
        let out = kernel.run("from_net", &tcp((client, 50000), (NODE, 30080), SYN, &[]))?;
        assert_eq!((out.verdict, seen(&out.frame).src.0, seen(&out.frame).dst), (REDIRECT, NODE, (REMOTE, 8080)));
    }
    let out = kernel.run("from_net", &tcp6((OTHER_NODE6, 50000), (NODE6, 30080), SYN, &[]))?;
    assert_eq!((out.verdict, seen6(&out.frame).src.0, seen6(&out.frame).dst), (REDIRECT, NODE6, (REMOTE6, 8080)));
    Ok(())
}

/// The NodePort is one of the other node's address.
#[test]
fn the_backends_node_takes_it_out_and_answers_as_the_one_asked() -> Result<()> {
    let mut kernel = serving()?;
    let front = (OTHER_NODE, 30080);
    for (frame, answer) in [
        (tcp(CLIENT, front, SYN, &[]), tcp((LOCAL, 8080), CLIENT, SYN | ACK, &[])),
        (tcp(CLIENT, front, ACK, b"more"), tcp((LOCAL, 8080), CLIENT, ACK, b"yes")),
        (udp(CLIENT, front, b"question"), udp((LOCAL, 8080), CLIENT, b"answer")),
    ] {
        let out = kernel.run("from_net", &wrapped(OTHER_NODE, LOCAL, &frame))?;
        assert_eq!(out.verdict, PASS);
        assert_eq!((seen(&out.frame).src, seen(&out.frame).dst), (CLIENT, (LOCAL, 8080)));
        let out = kernel.run("to_net", &answer)?;
        assert_eq!((out.verdict, seen(&out.frame).src, seen(&out.frame).dst), (PASS, front, CLIENT));
    }
    Ok(())
}

#[test]
fn the_backends_node_takes_it_out_and_answers_as_the_one_asked_of_ipv6() -> Result<()> {
    let mut kernel = serving()?;
    let front = (OTHER_NODE6, 30080);
    for (frame, answer) in [
        (tcp6(CLIENT6, front, SYN, &[]), tcp6((LOCAL6, 8080), CLIENT6, SYN | ACK, &[])),
        (udp6(CLIENT6, front, b"question"), udp6((LOCAL6, 8080), CLIENT6, b"answer")),
    ] {
        let out = kernel.run("from_net", &wrapped6(OTHER_NODE6, LOCAL6, &frame))?;
        assert_eq!(out.verdict, PASS);
        assert_eq!((seen6(&out.frame).src, seen6(&out.frame).dst), (CLIENT6, (LOCAL6, 8080)));
        let out = kernel.run("to_net", &answer)?;
        assert_eq!((out.verdict, seen6(&out.frame).src, seen6(&out.frame).dst), (PASS, front, CLIENT6));
    }
    Ok(())
}

/// From anybody but a node, to anybody but a Pod of this node, or where it is not switched on: left as it is.
#[test]
fn nothing_is_taken_out_of_what_no_node_sent() -> Result<()> {
    let mut kernel = serving()?;
    let inner = tcp(CLIENT, (OTHER_NODE, 30080), SYN, &[]);
    for (src, dst) in [(OUTSIDE, LOCAL), (REMOTE, LOCAL), (OTHER_NODE, REMOTE)] {
        let frame = wrapped(src, dst, &inner);
        let out = kernel.run("from_net", &frame)?;
        assert_eq!((out.verdict, out.frame), (PASS, frame), "{src:?} to {dst:?}");
    }
    let six = wrapped6(OUTSIDE6, LOCAL6, &tcp6(CLIENT6, (OTHER_NODE6, 30080), SYN, &[]));
    let out = kernel.run("from_net", &six)?;
    assert_eq!((out.verdict, out.frame), (PASS, six));
    kernel.configure(|_| {})?;
    let frame = wrapped(OTHER_NODE, LOCAL, &inner);
    let out = kernel.run("from_net", &frame)?;
    assert_eq!((out.verdict, out.frame), (PASS, frame));
    assert!(kernel.conntrack()?.is_empty());
    // A Pod cannot pass for a node.
    let out = kernel.run("from_pod", &wrapped(OTHER_NODE, LOCAL, &inner))?;
    assert_eq!(out.verdict, DROP);
    Ok(())
}

#[test]
fn what_no_service_of_this_node_has_is_dropped() -> Result<()> {
    let mut kernel = serving()?;
    let frame = wrapped(OTHER_NODE, LOCAL, &tcp(CLIENT, (OTHER_NODE, 30081), SYN, &[]));
    assert_eq!(kernel.run("from_net", &frame)?.verdict, DROP);
    // Nor is the middle of a connection taken for its beginning.
    let frame = wrapped(OTHER_NODE, LOCAL, &tcp(CLIENT, (OTHER_NODE, 30080), ACK, &[]));
    assert_eq!(kernel.run("from_net", &frame)?.verdict, DROP);
    assert_eq!(kernel.dropped(DropReason::TunnelUnknown)?, 2);
    Ok(())
}

#[test]
fn what_does_not_fit_is_told_the_size_that_does() -> Result<()> {
    let mut kernel = asked()?;
    // 20 bytes of IPv4, 8 of UDP: 1480 and one byte more.
    let out = kernel.run("from_net", &udp(CLIENT, (NODE, 30080), &[7; 1452]))?;
    assert_eq!((out.verdict, out.frame.len()), (REDIRECT, 14 + 1500));
    let out = kernel.run("from_net", &udp(CLIENT, (NODE, 30080), &[7; 1453]))?;
    assert_eq!((out.verdict, seen(&out.frame).dst.0, seen(&out.frame).src.0), (REDIRECT, OUTSIDE, NODE));
    assert_eq!((&out.frame[34..36], &out.frame[38..42]), (&[3, 4][..], &[0, 0, 0x05, 0xc8][..]));
    let out = kernel.run("from_net", &udp6(CLIENT6, (NODE6, 30080), &[7; 1413]))?;
    assert_eq!((out.verdict, seen6(&out.frame).dst.0), (REDIRECT, OUTSIDE6));
    assert_eq!((&out.frame[54..56], &out.frame[58..62]), (&[2, 0][..], &[0, 0, 0x05, 0xb4][..]));
    assert_eq!(kernel.dropped(DropReason::PacketTooBig)?, 2);
    Ok(())
}
