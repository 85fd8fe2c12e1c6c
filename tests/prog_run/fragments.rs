//! Datagrams in pieces, in any order: packet by packet, and over real links.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
use strake_abi::conntrack::{BORDER_POD, FRAGMENTS, FragmentKey, FragmentPorts};
use strake_abi::flow::{Counter, DropReason};
use strake_abi::service::{BACKEND_LOCAL, SCOPE_EXTERNAL, SERVICE_NODE_PORT, Service, ServiceKey};
use strake_abi::{Addr4, Port, proto};

use crate::harness::*;
use crate::room::{Room, Space};

const CLIENT: End = (POD, 40000);
/// What one piece carries, as an Ethernet of 1,500 bytes has it.
const PIECE: usize = 1480;

/// The pieces of a datagram, as IPv4 packets.
fn pieces(src: End, dst: End, id: u16, bytes: usize) -> Vec<Vec<u8>> {
    let payload: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
    let datagram = udp(src, dst, &payload)[34..].to_vec();
    let count = datagram.len().div_ceil(PIECE);
    let piece = |(i, part): (usize, &[u8])| {
        let more = if i + 1 < count { 0x2000 } else { 0 };
        let mut packet = vec![0x45, 0];
        packet.extend((20 + part.len() as u16).to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend((more | (i * PIECE / 8) as u16).to_be_bytes());
        packet.extend([64, proto::UDP, 0, 0]);
        packet.extend(src.0);
        packet.extend(dst.0);
        packet.extend(part);
        packet
    };
    datagram.chunks(PIECE).enumerate().map(piece).collect()
}

/// Sends packets as they are.
fn send(packets: &[&Vec<u8>], to: [u8; 4]) -> Result<()> {
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw)?;
    let to = SockaddrIn::from(SocketAddrV4::new(to.into(), 0));
    for packet in packets {
        sendto(raw.as_raw_fd(), packet, &to, MsgFlags::empty())?;
    }
    Ok(())
}

/// A server that answers with the number of bytes it got and whether they are the right ones.
fn serve(space: &Space, addr: [u8; 4], port: u16) -> Result<()> {
    let socket = space.run(|| Ok(UdpSocket::bind((Ipv4Addr::from(addr), port))?))?;
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            let right = buffer[..len].iter().enumerate().all(|(i, byte)| *byte == (i * 31 % 251) as u8);
            let _ = socket.send_to(format!("{len} {right} {peer}").as_bytes(), peer);
        }
    });
    Ok(())
}

/// Orders of so many pieces: as they were made, the other way round, the first in the middle, the first before the last.
fn orders(count: usize) -> [Vec<usize>; 4] {
    let forward: Vec<usize> = (0..count).collect();
    let backward: Vec<usize> = (0..count).rev().collect();
    let mut middle: Vec<usize> = (1..count).collect();
    middle.insert(count / 2, 0);
    let mut late: Vec<usize> = (1..count).rev().collect();
    late.insert(count - 2, 0);
    [forward, backward, middle, late]
}

/// Every order, of a datagram of 3 pieces and one of as many as there are.
fn exchange(space: &Space, src: End, dst: End) -> Result<Vec<String>> {
    space.run(|| {
        let socket = UdpSocket::bind((Ipv4Addr::from(src.0), src.1))?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        let mut answers = Vec::new();
        // Of one client's datagrams to one address, no two have the same.
        let mut id = dst.1;
        for bytes in [4_000, 65_000] {
            for order in orders((bytes + 8_usize).div_ceil(PIECE)) {
                id = id.wrapping_add(101);
                let pieces = pieces(src, dst, id, bytes);
                let ordered: Vec<&Vec<u8>> = order.iter().map(|i| &pieces[*i]).collect();
                send(&ordered, dst.0)?;
                let mut buffer = [0; 100];
                let (len, from) = socket
                    .recv_from(&mut buffer)
                    .with_context(|| format!("no answer to {bytes} bytes in {order:?}"))?;
                assert_eq!(from, (Ipv4Addr::from(dst.0), dst.1).into());
                answers.push(String::from_utf8_lossy(&buffer[..len]).into_owned());
            }
        }
        Ok(answers)
    })
}

#[test]
fn a_pods_datagram_reaches_a_service_in_any_order_of_its_pieces() -> Result<()> {
    let mut room = Room::new(true)?;
    serve(&room.other, LOCAL, 5353)?;
    let service = Service { id: 13, backend_base: 10, ..Service::default() };
    room.kernel.service(frontend(VIP, 53, proto::UDP), service, &[backend(LOCAL, 5353, BACKEND_LOCAL, 7)])?;
    let answers = exchange(&room.pod, (POD, 40_000), (VIP, 53))?;
    let client = format!("{}:40000", Ipv4Addr::from(POD));
    assert!(answers[..4].iter().all(|answer| *answer == format!("4000 true {client}")), "{answers:?}");
    assert!(answers[4..].iter().all(|answer| *answer == format!("65000 true {client}")), "{answers:?}");
    // All that waited was released: in three orders of each, all but one piece, one of two, or half of them.
    let parked = room.kernel.counted(Counter::FragmentParked)?;
    assert!(parked > 40 + 20, "{parked}");
    assert_eq!(room.kernel.counted(Counter::FragmentReleased)?, parked);
    assert_eq!(room.kernel.dropped(DropReason::FragmentUnknown)?, 0);
    Ok(())
}

#[test]
fn a_datagram_from_outside_reaches_a_node_port_in_any_order_of_its_pieces() -> Result<()> {
    let mut room = Room::new(true)?;
    serve(&room.other, LOCAL, 5353)?;
    serve(&room.outside, OTHER_NODE, 5353)?;
    for (port, backend) in [(30053, backend(LOCAL, 5353, BACKEND_LOCAL, 7)), (30054, backend(OTHER_NODE, 5353, 0, 8))] {
        let id = u32::from(port);
        let service = Service { id, backend_base: id - 30000, flags: SERVICE_NODE_PORT, ..Service::default() };
        let key = ServiceKey { addr: Addr4::ANY, scope: SCOPE_EXTERNAL, ..frontend(NODE, port, proto::UDP) };
        room.kernel.service(key, service, &[backend])?;
        let answers = exchange(&room.outside, (OTHER_NODE, 40_000 + port % 10), (NODE, port))?;
        assert!(answers.len() == 8 && answers.iter().all(|answer| answer.contains(" true ")), "{answers:?}");
    }
    let parked = room.kernel.counted(Counter::FragmentParked)?;
    assert!(parked > 100, "{parked}");
    assert_eq!(room.kernel.counted(Counter::FragmentReleased)?, parked);
    Ok(())
}

/// The kernel gave up on the rest of that datagram, too; its identification may be another's by now.
#[test]
fn a_first_fragment_is_forgotten_after_a_while() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let service = Service { id: 13, backend_base: 10, ..Service::default() };
    kernel.service(frontend(VIP, 53, proto::UDP), service, &[backend(REMOTE, 5353, 0, 7)])?;
    // A flow to go by.
    kernel.run("from_pod", &udp(CLIENT, (VIP, 53), b"whole"))?;
    let (src, dst) = (Addr4::new(CLIENT.0), Addr4::new(VIP));
    let key = FragmentKey { src, dst, id: u16::from_ne_bytes([0xab, 0xcd]), proto: proto::UDP, border: BORDER_POD };
    let mut later = udp(CLIENT, (VIP, 53), &[7; 64]);
    later[18..22].copy_from_slice(&[0xab, 0xcd, 0, 9]);
    for (age, verdict) in [(0, PASS), (20, PASS), (30, DROP)] {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)?.tv_sec() as u32;
        let row = FragmentPorts { sport: Port::new(CLIENT.1), dport: Port::new(53), since_s: now - age };
        kernel.insert(FRAGMENTS, key, row)?;
        assert_eq!(kernel.run("from_pod", &later)?.verdict, verdict, "{age} s");
    }
    Ok(())
}

#[test]
fn fragments_follow_the_first_and_wait_for_it() -> Result<()> {
    let mut kernel = Kernel::new()?;
    let service = Service { id: 13, backend_base: 10, ..Service::default() };
    kernel.service(frontend(VIP, 53, proto::UDP), service, &[backend(REMOTE, 5353, 0, 7)])?;
    let piece = |id: u8, index: u16| {
        let mut frame = udp(CLIENT, (VIP, 53), &[index as u8; 64]);
        frame[18..20].copy_from_slice(&[0xab, id]);
        // Of 72 bytes each; the third is the last.
        let more = if index < 2 { 0x2000 } else { 0 };
        frame[20..22].copy_from_slice(&(more | (index * 9)).to_be_bytes());
        frame[24..26].copy_from_slice(&[0, 0]);
        let sum =
            strake_logic::checksum::finish(strake_logic::checksum::sum::<20>(frame[14..34].try_into().unwrap()), false);
        frame[24..26].copy_from_slice(&sum.to_ne_bytes());
        frame
    };
    let first = |kernel: &mut Kernel, id: u8| -> Result<()> {
        let out = kernel.run("from_pod", &piece(id, 0))?;
        assert_eq!((out.verdict, &out.frame[30..34]), (PASS, &REMOTE[..]));
        assert_eq!(&out.frame[36..38], &5353u16.to_be_bytes());
        assert_eq!(out.frame.len(), piece(id, 0).len());
        assert_eq!(out.frame[42..], piece(id, 0)[42..], "it is what it was before others were released");
        Ok(())
    };
    let later = |kernel: &mut Kernel, id: u8, index: u16| -> Result<()> {
        let out = kernel.run("from_pod", &piece(id, index))?;
        assert_eq!((out.verdict, &out.frame[30..34]), (PASS, &REMOTE[..]));
        assert_eq!(out.frame[34..], piece(id, index)[34..], "what follows the header is data");
        Ok(())
    };
    // In order.
    first(&mut kernel, 1)?;
    later(&mut kernel, 1, 1)?;
    later(&mut kernel, 1, 2)?;
    assert_eq!(kernel.counted(Counter::FragmentFollowed)?, 2);
    assert_eq!(kernel.counted(Counter::FragmentParked)?, 0);
    // The last comes first, then the first, then the one between: one was released.
    assert_eq!(kernel.run("from_pod", &piece(2, 2))?.verdict, DROP);
    first(&mut kernel, 2)?;
    later(&mut kernel, 2, 1)?;
    assert_eq!((kernel.counted(Counter::FragmentParked)?, kernel.counted(Counter::FragmentReleased)?), (1, 1));
    // All the other way round, one of them twice; and another datagram's piece goes on waiting.
    assert_eq!(kernel.run("from_pod", &piece(4, 1))?.verdict, DROP);
    for index in [2, 1, 2] {
        assert_eq!(kernel.run("from_pod", &piece(3, index))?.verdict, DROP);
    }
    first(&mut kernel, 3)?;
    assert_eq!((kernel.counted(Counter::FragmentParked)?, kernel.counted(Counter::FragmentReleased)?), (5, 3));
    // A datagram is released once.
    first(&mut kernel, 3)?;
    assert_eq!(kernel.counted(Counter::FragmentReleased)?, 3);
    assert_eq!(kernel.dropped(DropReason::FragmentUnknown)?, 0);
    // What there is no room for is refused as before.
    let mut giant = udp(CLIENT, (VIP, 53), &[0; 2100]);
    giant[20..22].copy_from_slice(&[0, 9]);
    assert_eq!(kernel.run("from_pod", &giant)?.verdict, DROP);
    assert_eq!(kernel.dropped(DropReason::FragmentUnknown)?, 1);
    Ok(())
}
