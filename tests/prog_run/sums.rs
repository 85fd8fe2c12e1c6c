//! Transport checksums of zero: a sum like any other to TCP, "there is none" to UDP.

use anyhow::Result;
use strake_abi::proto;
use strake_abi::service::Service;

use crate::harness::*;
use crate::six_harness::{self, LOCAL6, POD6, REMOTE6, VIP6, back, seen6, tcp6, udp6};

/// The packet of a family whose checksum, at `field`, is zero: one in 65536 is so.
fn zero(field: usize, frame: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let mut frames = (0..=u16::MAX).map(|n| frame(&n.to_be_bytes()));
    frames.find(|frame| frame[field..field + 2] == [0, 0]).unwrap()
}

fn web() -> Result<Kernel> {
    let mut kernel = Kernel::new()?;
    for (id, protocol, port) in [(12, proto::TCP, 80), (13, proto::UDP, 53)] {
        let service = Service { id, backend_base: 40, ..Service::default() };
        kernel.service(frontend(VIP, port, protocol), service, &[backend(REMOTE, 8080, 0, 2)])?;
    }
    Ok(kernel)
}

#[test]
fn a_tcp_checksum_of_zero_is_translated_like_any() -> Result<()> {
    let mut kernel = web()?;
    let (client, vip, peer) = ((POD, 40000), (VIP, 80), (REMOTE, 8080));
    kernel.run("from_pod", &tcp(client, vip, SYN, &[]))?;
    let out = kernel.run("from_pod", &zero(50, |payload| tcp(client, vip, ACK, payload)))?;
    assert_eq!(seen(&out.frame).dst, peer, "and its checksum is right");
    let out = kernel.run("to_pod", &zero(50, |payload| tcp(peer, client, ACK, payload)))?;
    assert_eq!(seen(&out.frame).src, vip);
    drop(kernel);

    let mut kernel = six_harness::with_web(&[back(REMOTE6, 8080, 0, 2)])?;
    let (client, vip, peer) = ((POD6, 40000), (VIP6, 80), (REMOTE6, 8080));
    kernel.run("from_pod", &tcp6(client, vip, SYN, &[]))?;
    let out = kernel.run("from_pod", &zero(70, |payload| tcp6(client, vip, ACK, payload)))?;
    assert_eq!(seen6(&out.frame).dst, peer);
    let out = kernel.run("to_pod", &zero(70, |payload| tcp6(peer, client, ACK, payload)))?;
    assert_eq!(seen6(&out.frame).src, vip);
    Ok(())
}

#[test]
fn a_datagram_without_a_checksum_gets_none_and_one_that_has_one_keeps_having_one() -> Result<()> {
    let mut kernel = web()?;
    let (client, vip, peer) = ((POD, 40000), (VIP, 53), (REMOTE, 8080));
    let mut none = udp(client, vip, b"question");
    none[40..42].fill(0);
    let out = kernel.run("from_pod", &none)?;
    assert_eq!((&out.frame[30..34], &out.frame[40..42]), (&REMOTE[..], &[0, 0][..]));
    // A payload whose datagram to the backend sums up to zero, which is written as its other form.
    let payload = (0..=u16::MAX).map(u16::to_be_bytes).find(|p| udp(client, peer, p)[40..42] == [0xff, 0xff]).unwrap();
    let out = kernel.run("from_pod", &udp(client, vip, &payload))?;
    assert_eq!((seen(&out.frame).dst, &out.frame[40..42]), (peer, &[0xff, 0xff][..]));
    drop(kernel);

    let mut kernel = six_harness::with_web(&[back(LOCAL6, 8080, 0, 2)])?;
    let (client, vip) = ((POD6, 40000), (VIP6, 53));
    let there = (LOCAL6, 8080);
    let payload =
        (0..=u16::MAX).map(u16::to_be_bytes).find(|p| udp6(client, there, p)[60..62] == [0xff, 0xff]).unwrap();
    let out = kernel.run("from_pod", &udp6(client, vip, &payload))?;
    assert_eq!(seen6(&out.frame).dst, there);
    assert_eq!(out.frame[60..62], [0xff, 0xff], "IPv6 has no datagrams without a checksum");
    Ok(())
}
