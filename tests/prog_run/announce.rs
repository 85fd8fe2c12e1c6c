//! LoadBalancer addresses that the node announces: neighbours' questions come in by the uplink, and answers go out.

use std::net::Ipv6Addr;

use anyhow::Result;
use strake_abi::announce::{ANNOUNCED, Announced};
use strake_abi::flow::Counter;
use strake_abi::{Addr4, Addr6};

use crate::harness::*;

const ADDRESS: [u8; 4] = [192, 168, 50, 200];
const ASKER: [u8; 4] = [192, 168, 50, 1];
const ASKER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x33];
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x44];

/// An ARP packet, padded as it comes from a wire.
fn arp(operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &ASKER_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]].concat();
    frame.extend([&ASKER_MAC[..], &sender, &[0; 6], &target].concat());
    frame.resize(60, 0);
    frame
}

/// For so many seconds from now.
fn announce(kernel: &mut Kernel, address: impl Into<Addr6>, seconds: i64) -> Result<()> {
    let now = i64::try_from(strake_datapath::boot_ns())?;
    let until_ns = u64::try_from(now + seconds * 1_000_000_000)?;
    kernel.insert(ANNOUNCED, address.into(), Announced { until_ns, mac: UPLINK_MAC, reserved: 0 })
}

#[test]
fn a_question_for_an_announced_address_is_answered() -> Result<()> {
    let mut kernel = Kernel::new()?;
    announce(&mut kernel, Addr4::new(ADDRESS), 15)?;
    // A neighbour's question, and that of one who wants to know whether the address is free.
    for asker in [ASKER, [0; 4]] {
        let out = kernel.run("from_net", &arp(1, asker, ADDRESS))?;
        assert_eq!(out.verdict, REDIRECT);
        let frame = &out.frame;
        assert_eq!((&frame[..6], &frame[6..12], &frame[12..14]), (&ASKER_MAC[..], &UPLINK_MAC[..], &[8, 6][..]));
        assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, 2]);
        assert_eq!((&frame[22..28], &frame[28..32]), (&UPLINK_MAC[..], &ADDRESS[..]));
        assert_eq!((&frame[32..38], &frame[38..42]), (&ASKER_MAC[..], &asker[..]));
    }
    assert_eq!(kernel.counted(Counter::NeighbourAnswered)?, 2);
    Ok(())
}

#[test]
fn everything_else_is_the_stacks() -> Result<()> {
    let mut kernel = Kernel::new()?;
    announce(&mut kernel, Addr4::new(ADDRESS), 15)?;
    announce(&mut kernel, Addr4::new([192, 168, 50, 201]), -1)?;
    let mut strange = arp(1, ASKER, ADDRESS);
    strange[16] = 0x86;
    for (what, frame) in [
        ("another address", arp(1, ASKER, [192, 168, 50, 202])),
        ("an announcement that has ended", arp(1, ASKER, [192, 168, 50, 201])),
        ("an answer", arp(2, ASKER, ADDRESS)),
        ("who announces itself", arp(1, ADDRESS, ADDRESS)),
        ("not for IPv4", strange),
        ("cut short", arp(1, ASKER, ADDRESS)[..30].to_vec()),
    ] {
        let out = kernel.run("from_net", &frame)?;
        assert_eq!((out.verdict, out.frame), (PASS, frame), "{what}");
    }
    assert_eq!(kernel.counted(Counter::NeighbourAnswered)?, 0);
    Ok(())
}

const ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 0x200);
const ASKER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 1);

/// A neighbour solicitation with a right checksum; with its sender's link address, if it has one to tell.
fn solicitation(asker: Ipv6Addr, target: Ipv6Addr, hops: u8) -> Vec<u8> {
    let mut payload = target.octets().to_vec();
    if !asker.is_unspecified() {
        payload.extend([&[1, 1][..], &ASKER_MAC].concat());
    }
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x200);
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(ASKER_MAC, [0x33, 0x33, 0xff, 0, 2, 0])
        .ipv6(asker.octets(), group.octets(), hops)
        .icmpv6_raw(135, 0, [0; 4])
        .write(&mut frame, &payload)
        .unwrap();
    frame
}

#[test]
fn a_solicitation_for_an_announced_address_is_answered() -> Result<()> {
    let mut kernel = Kernel::new()?;
    announce(&mut kernel, ADDRESS6, 15)?;
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    for (asker, to, to_mac, flags) in
        [(ASKER6, ASKER6, ASKER_MAC, 0x60), (Ipv6Addr::UNSPECIFIED, all_nodes, [0x33, 0x33, 0, 0, 0, 1], 0x20)]
    {
        let out = kernel.run("from_net", &solicitation(asker, ADDRESS6, 255))?;
        assert_eq!(out.verdict, REDIRECT, "{asker}");
        let frame = &out.frame;
        assert_eq!((frame.len(), &frame[..6], &frame[6..12]), (86, &to_mac[..], &UPLINK_MAC[..]));
        let sliced = etherparse::SlicedPacket::from_ethernet(frame)?;
        let Some(etherparse::NetSlice::Ipv6(ip)) = &sliced.net else { panic!("not IPv6: {frame:02x?}") };
        let header = ip.header();
        assert_eq!((header.source_addr(), header.destination_addr(), header.hop_limit()), (ADDRESS6, to, 255));
        let Some(etherparse::TransportSlice::Icmpv6(icmp)) = &sliced.transport else { panic!("not ICMPv6") };
        assert!(icmp.is_checksum_valid(header.source(), header.destination()), "{frame:02x?}");
        assert_eq!((icmp.type_u8(), icmp.code_u8(), frame[58]), (136, 0, flags));
        assert_eq!((&frame[62..78], &frame[78..86]), (&ADDRESS6.octets()[..], &[2, 1, 2, 0, 0, 0, 0, 0x44][..]));
    }
    assert_eq!(kernel.counted(Counter::NeighbourAnswered)?, 2);
    // One that a router has passed on, one for another address, and one after the end.
    let other = Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 0x201);
    for frame in [solicitation(ASKER6, ADDRESS6, 64), solicitation(ASKER6, other, 255)] {
        let out = kernel.run("from_net", &frame)?;
        assert_eq!((out.verdict, out.frame), (PASS, frame));
    }
    announce(&mut kernel, ADDRESS6, -1)?;
    assert_eq!(kernel.run("from_net", &solicitation(ASKER6, ADDRESS6, 255))?.verdict, PASS);
    Ok(())
}
