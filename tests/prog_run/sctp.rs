//! SCTP by packets, in both families: every row of what a Service does, and the checksum over all of it.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use strake_abi::Port;
use strake_abi::conntrack::FlowState;
use strake_abi::flow::{Counter, DropReason, EventKind, Verdict};
use strake_abi::service::{BACKEND_LOCAL, MEMBERS, MemberKey, SERVICE_DROP_IF_EMPTY, Service};

use crate::harness::{self, DROP, Kernel, PASS, REDIRECT, icmp_error};
use crate::sctp_harness::*;
use crate::six_harness;

fn plain() -> Service {
    Service::default()
}

/// What became of a packet: the verdict, and the ends, with the checksum verified.
fn through(kernel: &mut Kernel, hook: &str, frame: &[u8]) -> Result<(u32, SocketAddr, SocketAddr)> {
    let out = kernel.run(hook, frame)?;
    let (src, dst) = seen(&out.frame);
    Ok((out.verdict, src, dst))
}

fn at(addr: IpAddr, port: u16) -> SocketAddr {
    (addr, port).into()
}

/// States of all rows of both families.
fn states(kernel: &mut Kernel) -> Result<Vec<u8>> {
    let four = kernel.conntrack()?.into_iter().map(|(_, row)| row.state);
    Ok(four.chain(kernel.conntrack6()?.into_iter().map(|(_, row)| row.state)).collect())
}

#[test]
fn a_service_is_answered_and_every_checksum_holds() -> Result<()> {
    for net in NETS {
        let (client, front, peer) = (net.client(), net.front(), at(net.remote, 9868));
        let mut kernel = net.kernel(plain(), &[back(net.remote, 9868, 0, 2)])?;
        assert_eq!(through(&mut kernel, "from_pod", &init(client, front))?, (PASS, client, peer));
        assert_eq!(through(&mut kernel, "to_pod", &sctp(peer, client, &[(INIT_ACK, 90)]))?, (PASS, front, client));
        for chunks in [&[(COOKIE_ECHO, 77), (DATA, 1)][..], &[(SACK, 12), (DATA, 1400)], &[(DATA, 255)], &[(SACK, 12)]]
        {
            assert_eq!(through(&mut kernel, "from_pod", &sctp(client, front, chunks))?, (PASS, client, peer));
            assert_eq!(through(&mut kernel, "to_pod", &sctp(peer, client, chunks))?, (PASS, front, client));
        }
        assert_eq!(kernel.counted(Counter::ServiceOpened)?, 1);
    }
    Ok(())
}

/// Between veths nobody computes it: the device does, from what the packet says when it gets there.
#[test]
fn a_checksum_that_is_left_to_the_device_stays_so() -> Result<()> {
    for net in NETS {
        let (client, front, peer) = (net.client(), net.front(), at(net.remote, 9868));
        let mut kernel = net.kernel(plain(), &[back(net.remote, 9868, 0, 2)])?;
        for (hook, frame, expected) in [
            ("from_pod", init(client, front), (client, peer)),
            ("to_pod", sctp(peer, client, &[(INIT_ACK, 90)]), (front, client)),
        ] {
            let out = kernel.run(hook, &unfinished(frame.clone(), net.l4()))?;
            let (src, dst, l4) = ends(&out.frame);
            assert_eq!(((src, dst), &out.frame[l4 + 8..l4 + 12]), (expected, &[0; 4][..]));
            // Nothing else was touched: finished now, it is the packet that a finished one becomes.
            assert_eq!(out.frame[l4 + 12..], frame[l4 + 12..]);
        }
    }
    Ok(())
}

#[test]
fn other_addresses_alone_leave_the_checksum_as_it_is() -> Result<()> {
    for net in NETS {
        let peer = at(net.remote, 3868);
        let mut kernel = net.kernel(plain(), &[back(net.remote, 3868, 0, 2)])?;
        let frame = init(net.client(), net.front());
        let out = kernel.run("from_pod", &frame)?;
        assert_eq!(seen(&out.frame), (net.client(), peer));
        assert_eq!(out.frame[net.l4()..], frame[net.l4()..]);
    }
    Ok(())
}

#[test]
fn a_client_keeps_its_backend() -> Result<()> {
    for net in NETS {
        let backends: Vec<_> = (1..=20).map(|id| back(net.remote, 9000 + id, 0, id.into())).collect();
        let sticky = Service { affinity_timeout_s: 10800, ..plain() };
        for (hook, front, client) in [("from_pod", net.front(), net.pod), ("from_net", net.node_port(), net.outside)] {
            let mut kernel = net.kernel(sticky, &backends)?;
            let first = through(&mut kernel, hook, &init(at(client, 20000), front))?.2;
            for port in 20001..20020 {
                assert_eq!(through(&mut kernel, hook, &init(at(client, port), front))?.2, first);
            }
            assert_eq!(kernel.counted(Counter::AffinityHit)?, 19);
            drop(kernel);
            // And without affinity they are spread.
            let mut kernel = net.kernel(plain(), &backends)?;
            let mut chosen: Vec<SocketAddr> = (20000..20060)
                .map(|port| Ok(through(&mut kernel, hook, &init(at(client, port), front))?.2))
                .collect::<Result<_>>()?;
            chosen.sort();
            chosen.dedup();
            assert!(chosen.len() > 10, "{chosen:?}");
        }
    }
    Ok(())
}

#[test]
fn a_node_port_leads_to_a_backend_of_this_node_and_of_another() -> Result<()> {
    for net in NETS {
        let (client, front) = (net.outsider(), net.node_port());
        let mut kernel = net.kernel(plain(), &[back(net.local, 9868, BACKEND_LOCAL, 1)])?;
        let peer = at(net.local, 9868);
        assert_eq!(through(&mut kernel, "from_net", &init(client, front))?, (PASS, client, peer));
        assert_eq!(through(&mut kernel, "to_net", &sctp(peer, client, &[(INIT_ACK, 60)]))?, (PASS, front, client));
        drop(kernel);

        let mut kernel = net.kernel(plain(), &[back(net.remote, 9868, 0, 2)])?;
        let peer = at(net.remote, 9868);
        let (verdict, src, dst) = through(&mut kernel, "from_net", &init(client, front))?;
        assert_eq!((verdict, src.ip(), dst), (REDIRECT, net.node, peer));
        assert!((61000..=65535).contains(&src.port()));
        let back = through(&mut kernel, "from_net", &sctp(peer, src, &[(INIT_ACK, 60)]))?;
        assert_eq!(back, (REDIRECT, front, client));
        let more = through(&mut kernel, "from_net", &sctp(client, front, &[(COOKIE_ECHO, 40), (DATA, 700)]))?;
        assert_eq!(more, (REDIRECT, src, peer));
    }
    Ok(())
}

/// The middle of an association that another proxy opened, or nobody.
#[test]
fn only_an_init_opens_from_outside() -> Result<()> {
    for net in NETS {
        let mut kernel = net.kernel(plain(), &[back(net.local, 9868, BACKEND_LOCAL, 1)])?;
        for chunks in [&[(DATA, 9)][..], &[(COOKIE_ECHO, 50)], &[(SHUTDOWN, 4)], &[(INIT_ACK, 50)], &[(ABORT, 0)]] {
            let frame = sctp(net.outsider(), net.node_port(), chunks);
            let out = kernel.run("from_net", &frame)?;
            assert_eq!((out.verdict, out.frame), (PASS, frame));
        }
        assert!(states(&mut kernel)?.is_empty());
    }
    Ok(())
}

#[test]
fn a_pod_goes_out_as_the_node() -> Result<()> {
    for net in NETS {
        let mut kernel = Kernel::new()?;
        let server = at(net.outside, 2905);
        let (verdict, src, dst) = through(&mut kernel, "to_net", &init(net.client(), server))?;
        assert_eq!((verdict, src.ip(), dst), (PASS, net.node, server));
        assert!((61000..=65535).contains(&src.port()));
        let answer = sctp(server, src, &[(INIT_ACK, 100)]);
        assert_eq!(through(&mut kernel, "from_net", &answer)?, (PASS, server, net.client()));
        let more = sctp(net.client(), server, &[(COOKIE_ECHO, 100)]);
        assert_eq!(through(&mut kernel, "to_net", &more)?, (PASS, src, server));
        // An answer to somebody outside who talks to the Pod directly keeps its source.
        let answer = sctp(net.client(), net.outsider(), &[(INIT_ACK, 100)]);
        assert_eq!(kernel.run("to_net", &answer)?.frame, answer);
        // Said once: at the Pod's border.
        assert!(kernel.events()?.is_empty());
    }
    Ok(())
}

/// As the node, whose address is of one scope with its own: see `open_service` of `from_pod`.
#[test]
fn a_pod_reaches_itself_through_its_service() -> Result<()> {
    for net in NETS {
        let mut kernel = net.kernel(plain(), &[back(net.pod, 9868, BACKEND_LOCAL, 1)])?;
        let itself = at(net.pod, 9868);
        let (verdict, src, dst) = through(&mut kernel, "from_pod", &init(net.client(), net.front()))?;
        assert_eq!((verdict, src, dst), (REDIRECT, at(net.node, 40000), itself));
        let answer = sctp(itself, src, &[(INIT_ACK, 60)]);
        assert_eq!(through(&mut kernel, "from_pod", &answer)?, (REDIRECT, net.front(), net.client()));
        assert_eq!(kernel.counted(Counter::Hairpin)?, 1);
    }
    Ok(())
}

/// As kube-proxy refuses it. A sender takes the error for its own by the tag in its INIT (RFC 9260, 10), which must be
/// among what is quoted.
#[test]
fn no_endpoint_is_port_unreachable_and_quotes_the_tag() -> Result<()> {
    for net in NETS {
        for (hook, client, front) in
            [("from_pod", net.client(), net.front()), ("from_net", net.outsider(), net.node_port())]
        {
            let mut kernel = net.kernel(plain(), &[])?;
            let frame = init(client, front);
            let out = kernel.run(hook, &frame)?;
            assert_eq!(out.verdict, REDIRECT);
            let (head, ip) = (net.l4(), net.l4() - 14);
            if net.is_six() {
                let answer = six_harness::seen6(&out.frame);
                assert_eq!((IpAddr::from(answer.src.0), IpAddr::from(answer.dst.0)), (front.ip(), client.ip()));
                assert_eq!(out.frame[54..56], [1, 4]);
            } else {
                let answer = harness::seen(&out.frame);
                assert_eq!((IpAddr::from(answer.src.0), IpAddr::from(answer.dst.0)), (front.ip(), client.ip()));
                assert_eq!(out.frame[34..36], [3, 3]);
            }
            assert_eq!(out.frame[head + 8..], frame[14..14 + ip + 20]);
            let events = kernel.events()?;
            assert_eq!((events.len(), events[0].verdict, events[0].tcp_flags), (1, Verdict::Rejected as u8, 0));
            // What is too short to have a tag is not answered.
            let short = sctp(client, front, &[(SHUTDOWN_ACK, 0)]);
            let verdict = kernel.run(hook, &short)?.verdict;
            assert_eq!(verdict, if hook == "from_pod" { DROP } else { PASS });
            drop(kernel);

            let silent = Service { flags: SERVICE_DROP_IF_EMPTY, ..plain() };
            let mut kernel = net.kernel(silent, &[])?;
            assert_eq!(kernel.run(hook, &frame)?.verdict, DROP, "a policy of Local, and nobody here");
            assert_eq!(kernel.dropped(DropReason::NoEndpoints)?, 1);
        }
    }
    Ok(())
}

#[test]
fn clients_outside_of_the_source_ranges_are_dropped() -> Result<()> {
    for net in NETS {
        let service = Service { source_list: 77, ..plain() };
        let mut kernel = net.kernel(service, &[back(net.local, 9868, BACKEND_LOCAL, 1)])?;
        let frame = init(net.outsider(), net.front());
        assert_eq!(kernel.run("from_net", &frame)?.verdict, DROP);
        assert_eq!(kernel.dropped(DropReason::SourceNotInRanges)?, 1);
        kernel.admit(77, net.outside, if net.is_six() { 64 } else { 24 })?;
        assert_eq!(through(&mut kernel, "from_net", &frame)?.2, at(net.local, 9868));
    }
    Ok(())
}

#[test]
fn an_icmp_error_reaches_its_sender_in_its_own_terms() -> Result<()> {
    for net in NETS {
        let (client, front, peer) = (net.client(), net.front(), at(net.remote, 9868));
        let mut kernel = net.kernel(plain(), &[back(net.remote, 9868, 0, 2)])?;
        kernel.run("from_pod", &init(client, front))?;
        let about = sctp(client, peer, &[(DATA, 1400)]);
        // Of a router on the way: the packet is too big.
        let (out, quoted) = match (net.router, net.pod) {
            (IpAddr::V4(router), IpAddr::V4(pod)) => {
                let out = kernel.run("to_pod", &icmp_error(router.octets(), pod.octets(), 3, 4, &about))?;
                let outer = harness::seen(&out.frame);
                assert_eq!((outer.src.0, outer.dst.0), (router.octets(), pod.octets()));
                (out, 42)
            }
            (IpAddr::V6(router), IpAddr::V6(pod)) => {
                let out = kernel.run("to_pod", &six_harness::error6(router, pod, 2, 0, &about))?;
                let outer = six_harness::seen6(&out.frame);
                assert_eq!((outer.src.0, outer.dst.0), (router, pod));
                (out, 62)
            }
            ends => panic!("two families: {ends:?}"),
        };
        assert_eq!(out.verdict, PASS);
        // Eight bytes of SCTP, which is all that an old router quotes: ports and tag.
        let sent = sctp(client, front, &[(DATA, 1400)]);
        let (ip, l4) = (net.l4() - 14, quoted + net.l4() - 14);
        assert_eq!(out.frame[l4..l4 + 8], sent[net.l4()..net.l4() + 8]);
        let addresses = if net.is_six() { 8..40 } else { 12..20 };
        assert_eq!(out.frame[quoted..quoted + ip][addresses.clone()], sent[14..14 + ip][addresses]);
        assert_eq!(kernel.counted(Counter::IcmpErrorTranslated)?, 1);
    }
    Ok(())
}

/// A datagram of two pieces, whose first has `first` bytes of SCTP (a multiple of eight).
fn pieces(net: &Net, frame: &[u8], first: usize) -> [Vec<u8>; 2] {
    let l4 = net.l4();
    if net.is_six() {
        let piece = |bits: u16, bytes: &[u8]| {
            let mut piece = six_harness::extended(&frame[..l4], &[(44, &[132, 0, 0, 0, 0, 0, 0xab, 0xcd])]);
            piece[l4 + 2..l4 + 4].copy_from_slice(&bits.to_be_bytes());
            piece.extend_from_slice(bytes);
            let len = (piece.len() - 54) as u16;
            piece[18..20].copy_from_slice(&len.to_be_bytes());
            piece
        };
        return [piece(1, &frame[l4..l4 + first]), piece(first as u16, &frame[l4 + first..])];
    }
    let piece = |bits: u16, bytes: &[u8]| {
        let mut piece = [&frame[..l4], bytes].concat();
        let len = (piece.len() - 14) as u16;
        piece[16..18].copy_from_slice(&len.to_be_bytes());
        piece[18..22].copy_from_slice(&[&[0xab, 0xcd][..], &bits.to_be_bytes()].concat());
        piece[24..26].fill(0);
        let sum = strake_logic::checksum::sum::<20>(piece[14..34].try_into().unwrap());
        piece[24..26].copy_from_slice(&strake_logic::checksum::finish(sum, false).to_ne_bytes());
        piece
    };
    [piece(0x2000, &frame[l4..l4 + first]), piece(first as u16 / 8, &frame[l4 + first..])]
}

#[test]
fn a_fragmented_packet_goes_on_while_it_keeps_its_ports() -> Result<()> {
    for net in NETS {
        let (client, front) = (net.client(), net.front());
        for port in [3868, 9868] {
            let mut kernel = net.kernel(plain(), &[back(net.remote, port, 0, 2)])?;
            kernel.run("from_pod", &init(client, front))?;
            let whole = sctp(client, front, &[(DATA, 600)]);
            for piece in pieces(&net, &whole, 304) {
                let out = kernel.run("from_pod", &piece)?;
                if port == 9868 {
                    assert_eq!(out.verdict, DROP);
                    continue;
                }
                assert_eq!(out.verdict, PASS);
                let l4 = if net.is_six() { 62 } else { 34 };
                assert_eq!(out.frame[l4..], piece[l4..], "not a byte of SCTP is another");
                let sent = init(client, at(net.remote, port));
                let addresses = if net.is_six() { 22..54 } else { 26..34 };
                assert_eq!(out.frame[addresses.clone()], sent[addresses]);
            }
            let dropped = if port == 9868 { 2 } else { 0 };
            assert_eq!(kernel.dropped(DropReason::SctpFragment)?, dropped);
        }
    }
    Ok(())
}

#[test]
fn an_association_is_followed_from_its_init_to_its_end() -> Result<()> {
    for net in NETS {
        let (client, front, peer) = (net.client(), net.front(), at(net.remote, 9868));
        let mut kernel = net.kernel(plain(), &[back(net.remote, 9868, 0, 2)])?;
        for (reply, kind, state) in [
            (false, INIT, FlowState::New),
            (true, INIT_ACK, FlowState::New),
            (false, COOKIE_ECHO, FlowState::New),
            (true, COOKIE_ACK, FlowState::Established),
            (false, SHUTDOWN, FlowState::Closing),
            (true, SHUTDOWN_ACK, FlowState::Closing),
            (false, SHUTDOWN_COMPLETE, FlowState::Closed),
        ] {
            if reply {
                kernel.run("to_pod", &sctp(peer, client, &[(kind, 16)]))?;
            } else {
                kernel.run("from_pod", &sctp(client, front, &[(kind, 16)]))?;
            }
            assert_eq!(states(&mut kernel)?, [state as u8; 2], "after chunk {kind}");
        }
        let events = kernel.events()?;
        let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Open as u8, EventKind::Close as u8]);
        assert_eq!((events[1].packets, events[1].reply_packets, events[1].proto), (4, 3, 132));
        assert_eq!((events[1].dst_port, events[1].backend_port), (Port::new(3868), Port::new(9868)));
        // The same ports again: a new association.
        kernel.run("from_pod", &init(client, front))?;
        assert_eq!(states(&mut kernel)?, [FlowState::New as u8; 2]);
        // What is not translated is given back at once.
        let direct = at(net.remote, 7);
        kernel.run("from_pod", &init(client, direct))?;
        assert_eq!(states(&mut kernel)?.len(), 4);
        kernel.run("to_pod", &sctp(direct, client, &[(ABORT, 0)]))?;
        assert_eq!(states(&mut kernel)?.len(), 2);
    }
    Ok(())
}

/// No socket hook sees SCTP, so both ways to a backend meet on the packets' path.
#[test]
fn a_direct_association_and_one_through_the_vip_do_not_share_a_tuple() -> Result<()> {
    for net in NETS {
        let peer = at(net.remote, 9868);
        let mut kernel = net.kernel(plain(), &[back(net.remote, 9868, 0, 2)])?;
        assert_eq!(through(&mut kernel, "from_pod", &init(net.client(), peer))?, (PASS, net.client(), peer));
        let (_, src, dst) = through(&mut kernel, "from_pod", &init(net.client(), net.front()))?;
        assert_eq!((src.ip(), dst), (net.pod, peer));
        assert!((61000..=65535).contains(&src.port()));
        assert_eq!(kernel.counted(Counter::Collision)?, 1);
        let answer = |to| sctp(peer, to, &[(INIT_ACK, 60)]);
        assert_eq!(through(&mut kernel, "to_pod", &answer(net.client()))?.1, peer, "direct");
        assert_eq!(through(&mut kernel, "to_pod", &answer(src))?, (PASS, net.front(), net.client()));
    }
    Ok(())
}

#[test]
fn a_new_association_does_not_go_to_a_backend_that_is_gone() -> Result<()> {
    for net in NETS {
        let mut kernel = net.kernel(plain(), &[back(net.remote, 9868, 0, 2)])?;
        let frame = init(net.client(), net.front());
        kernel.run("from_pod", &frame)?;
        kernel.run("to_pod", &sctp(at(net.remote, 9868), net.client(), &[(COOKIE_ACK, 0)]))?;
        let key = MemberKey { service_id: 12, backend_id: 2 };
        kernel.remove::<_, strake_abi::service::Backend>(MEMBERS, key)?;
        kernel.set(strake_abi::service::BACKENDS, 40, back(net.local, 9868, BACKEND_LOCAL, 3))?;
        // What it has is led to its end, where it began.
        let data = sctp(net.client(), net.front(), &[(DATA, 30)]);
        assert_eq!(through(&mut kernel, "from_pod", &data)?.2, at(net.remote, 9868));
        assert_eq!(through(&mut kernel, "from_pod", &frame)?.2, at(net.local, 9868));
        assert_eq!(kernel.counted(Counter::BackendReplaced)?, 1);
    }
    Ok(())
}

#[test]
fn a_packet_without_a_chunk_is_malformed() -> Result<()> {
    for net in NETS {
        let mut kernel = net.kernel(plain(), &[back(net.remote, 9868, 0, 2)])?;
        let frame = sctp(net.client(), net.front(), &[]);
        assert_eq!(kernel.run("from_pod", &frame)?.verdict, DROP);
        assert_eq!(kernel.dropped(DropReason::Malformed)?, 1);
    }
    Ok(())
}
