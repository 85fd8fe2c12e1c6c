//! A Pod speaks as itself only, and what it sends is well formed or goes nowhere.

use anyhow::Result;
use strake_abi::endpoint::{ENDPOINTS, Endpoint};
use strake_abi::flow::{DropReason, EventKind, Verdict};

use crate::harness::*;

fn drops(kernel: &mut Kernel, frame: &[u8], reason: DropReason) -> Result<()> {
    let before = kernel.dropped(reason)?;
    assert_eq!(kernel.run("from_pod", frame)?.verdict, DROP, "{reason}");
    assert_eq!(kernel.dropped(reason)?, before + 1, "{reason}");
    Ok(())
}

#[test]
fn a_pod_cannot_borrow_an_address() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let honest = tcp((POD, 40000), (LOCAL, 80), SYN, &[]);
    assert_eq!(kernel.run("from_pod", &honest)?.verdict, PASS);
    kernel.events()?;

    let mut other_mac = honest.clone();
    other_mac[11] ^= 1;
    drops(&mut kernel, &other_mac, DropReason::SpoofedMac)?;

    let mut other_ip = tcp((LOCAL, 40000), (REMOTE, 80), SYN, &[]);
    other_ip[6..12].copy_from_slice(&POD_MAC);
    drops(&mut kernel, &other_ip, DropReason::SpoofedIp)?;

    let events = kernel.events()?;
    assert_eq!(events.len(), 2);
    assert_eq!((events[1].kind, events[1].verdict), (EventKind::Drop as u8, Verdict::Dropped as u8));
    assert_eq!(events[1].reason, DropReason::SpoofedIp as u8);
    assert_eq!(events[1].src, strake_abi::Addr4::new(LOCAL).mapped());
    assert_eq!((events[1].src_port.get(), events[1].dst_port.get()), (40000, 80));
    Ok(())
}

#[test]
fn arp_about_itself_passes_and_about_others_does_not() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let arp = |mac: [u8; 6], ip: [u8; 4]| {
        let mut frame = vec![0xff; 6];
        frame.extend_from_slice(&POD_MAC);
        frame.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        frame.extend_from_slice(&mac);
        frame.extend_from_slice(&ip);
        frame.extend_from_slice(&[0; 6]);
        frame.extend_from_slice(&GATEWAY);
        frame
    };
    assert_eq!(kernel.run("from_pod", &arp(POD_MAC, POD))?.verdict, PASS);
    drops(&mut kernel, &arp(POD_MAC, LOCAL), DropReason::SpoofedArp)?;
    drops(&mut kernel, &arp([2; 6], POD), DropReason::SpoofedArp)?;
    drops(&mut kernel, &arp(POD_MAC, POD)[..38], DropReason::Malformed)
}

#[test]
fn what_is_not_ip_is_counted_and_not_told() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let mut frame = tcp((POD, 40000), (LOCAL, 80), SYN, &[]);
    frame[12..14].copy_from_slice(&[0x88, 0xcc]);
    drops(&mut kernel, &frame, DropReason::UnsupportedProtocol)?;
    assert!(kernel.events()?.is_empty());
    Ok(())
}

#[test]
fn truncated_packets_are_malformed_at_every_length() -> Result<()> {
    let mut kernel = Kernel::new()?;
    for frame in [tcp((POD, 40000), (VIP, 80), SYN, b"hello"), udp((POD, 40000), (DNS, 53), &[0; 40])] {
        // The kernel does not run a program on less than an IPv4 header (6.18).
        for len in 34..frame.len() {
            let out = kernel.run("from_pod", &frame[..len])?;
            assert_eq!(out.verdict, DROP, "{len} of {} bytes", frame.len());
        }
        // A total length that ends inside the transport header.
        for total in 20..28u8 {
            let mut short = frame.clone();
            short[17] = total;
            drops(&mut kernel, &short, DropReason::Malformed)?;
        }
    }
    // The other hooks leave what they cannot read to the kernel.
    for program in ["to_pod", "from_net", "to_net"] {
        let frame = tcp((OUTSIDE, 40000), (NODE, 30080), SYN, &[]);
        for len in 34..frame.len() {
            assert_eq!(kernel.run(program, &frame[..len])?.verdict, PASS, "{program}, {len} bytes");
        }
    }
    Ok(())
}

#[test]
fn a_veth_without_endpoint_and_a_node_without_configuration_let_nothing_out() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let frame = tcp((POD, 40000), (LOCAL, 80), SYN, &[]);
    kernel.remove::<u32, Endpoint>(ENDPOINTS, IFINDEX)?;
    drops(&mut kernel, &frame, DropReason::UnknownEndpoint)?;
    kernel.configure(|c| c.abi_version = 0)?;
    drops(&mut kernel, &frame, DropReason::NotConfigured)?;
    assert_eq!(kernel.run("to_net", &frame)?.verdict, PASS);
    Ok(())
}

#[test]
fn events_that_found_no_room_are_counted_and_none_is_forgotten() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let mut frame = tcp((POD, 40000), (LOCAL, 80), SYN, &[]);
    frame[11] ^= 1;
    const PACKETS: u64 = 12_000;
    kernel.repeat("from_pod", &frame, PACKETS as u32)?;
    assert_eq!(kernel.dropped(DropReason::SpoofedMac)?, PACKETS);
    let lost = kernel.per_cpu(strake_abi::flow::EVENTS_LOST, EventKind::Drop as u32)?;
    let told = kernel.events()?.len() as u64;
    assert!(lost > 0 && told > 6000, "{told} told, {lost} lost");
    assert_eq!(told + lost, PACKETS);
    // Events that are switched off are not lost.
    kernel.configure(|c| c.flags &= !strake_abi::config::EVENTS)?;
    kernel.run("from_pod", &frame)?;
    assert!(kernel.events()?.is_empty());
    assert_eq!(kernel.per_cpu(strake_abi::flow::EVENTS_LOST, EventKind::Drop as u32)?, lost);
    Ok(())
}
