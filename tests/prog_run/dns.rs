//! Questions answered at `from_pod`, and questions left to the agent.

use anyhow::Result;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use strake_abi::Addr4;
use strake_abi::dns::{DNS_HAS_A, DNS_NAMES, DNS_NODATA_AAAA, DNS_ZONE};
use strake_abi::flow::Counter;
use strake_logic::dns::table::{Soa, WireName, zone};

use crate::harness::*;

const CLIENT: End = (POD, 40000);

fn with_names(count: u32) -> Result<Kernel> {
    let mut kernel = Kernel::new()?;
    let name = |n: &str| WireName::from_dotted(n).unwrap();
    for i in 0..count {
        let (key, row) = name(&format!("web-{i}.default.svc.cluster.local")).row(
            Addr4(i.to_be()),
            5,
            DNS_HAS_A | DNS_NODATA_AAAA,
            1,
        );
        kernel.insert(DNS_NAMES, key, row)?;
    }
    let (key, row) = name("web.default.svc.cluster.local").row(Addr4::new(VIP), 5, DNS_HAS_A | DNS_NODATA_AAAA, 1);
    kernel.insert(DNS_NAMES, key, row)?;
    let soa = Soa { serial: 1, refresh: 7200, retry: 1800, expire: 86400, minimum: 5 };
    let row = zone(&name("cluster.local"), &name("ns.dns.cluster.local"), &name("hostmaster.cluster.local"), &soa, 5);
    kernel.set(DNS_ZONE, 0, row.unwrap())?;
    Ok(kernel)
}

fn question(name: &str, kind: RecordType, edns: bool) -> Vec<u8> {
    let mut message = Message::new(0x4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if edns {
        let mut opt = Edns::new();
        opt.set_max_payload(1232);
        message.set_edns(opt);
    }
    udp(CLIENT, (DNS, 53), &message.to_vec().unwrap())
}

fn answer(out: &Out) -> Message {
    assert_eq!(out.verdict, REDIRECT);
    let ends = seen(&out.frame);
    assert_eq!((ends.src, ends.dst), ((DNS, 53), CLIENT));
    assert_eq!((&out.frame[..6], &out.frame[6..12]), (&POD_MAC[..], &HOST_MAC[..]));
    Message::from_vec(&out.frame[42..]).unwrap()
}

#[test]
fn a_service_name_is_answered_in_place_with_its_case_kept() -> Result<()> {
    let mut kernel = with_names(0)?;
    for edns in [false, true] {
        for name in ["web.default.svc.cluster.local.", "wEB.Default.sVc.ClusTer.locaL."] {
            let frame = question(name, RecordType::A, edns);
            let out = kernel.run("from_pod", &frame)?;
            let message = answer(&out);
            assert_eq!(message.metadata.id, 0x4711);
            assert!(message.metadata.authoritative && message.metadata.recursion_desired);
            assert_eq!(message.metadata.response_code, ResponseCode::NoError);
            assert_eq!(message.answers.len(), 1);
            assert_eq!(message.answers[0].ttl, 5);
            let RData::A(a) = message.answers[0].data else { panic!("not an A record") };
            assert_eq!(a.0.octets(), VIP);
            assert_eq!(&out.frame[54..54 + name.len() + 1], &frame[54..54 + name.len() + 1]);
            assert_eq!(message.edns.is_some(), edns);
        }
    }
    assert_eq!(kernel.counted(Counter::DnsAnswered)?, 4);
    Ok(())
}

#[test]
fn aaaa_of_an_ipv4_service_is_no_data() -> Result<()> {
    let mut kernel = with_names(0)?;
    for edns in [false, true] {
        let message =
            answer(&kernel.run("from_pod", &question("Web.default.svc.cluster.local.", RecordType::AAAA, edns))?);
        assert_eq!(message.metadata.response_code, ResponseCode::NoError);
        assert!(message.answers.is_empty());
        assert_eq!(message.authorities[0].name.to_ascii(), "cluster.local.");
        let RData::SOA(soa) = &message.authorities[0].data else { panic!("not a SOA") };
        assert_eq!((soa.mname.to_ascii().as_str(), soa.minimum), ("ns.dns.cluster.local.", 5));
        assert_eq!(message.edns.is_some(), edns);
    }
    assert_eq!(kernel.counted(Counter::DnsNoData)?, 2);
    Ok(())
}

#[test]
fn what_search_paths_make_of_a_full_name_is_denied() -> Result<()> {
    let mut kernel = with_names(0)?;
    for kind in [RecordType::A, RecordType::AAAA] {
        for edns in [false, true] {
            let name = "Web.default.svc.cluster.local.default.svc.Cluster.local.";
            let message = answer(&kernel.run("from_pod", &question(name, kind, edns))?);
            assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
            assert!(message.answers.is_empty());
            assert_eq!(message.authorities[0].name.to_ascii(), "Cluster.local.");
        }
    }
    assert_eq!(kernel.counted(Counter::DnsNoName)?, 4);
    Ok(())
}

#[test]
fn what_the_kernel_does_not_answer_goes_on_untouched() -> Result<()> {
    let mut kernel = with_names(0)?;
    let mut two = question("web.default.svc.cluster.local.", RecordType::A, false);
    two[47] = 2;
    // A UDP length that is not the packet's.
    let mut lies = question("web.default.svc.cluster.local.", RecordType::A, false);
    lies[39] -= 1;
    let tcp53 = tcp(CLIENT, (DNS, 53), SYN, &[]);
    for (frame, counter) in [
        (question("web.default.svc.cluster.local.", RecordType::TXT, false), Some(Counter::DnsPassedType)),
        (question("nobody.default.svc.cluster.local.", RecordType::A, false), Some(Counter::DnsPassedName)),
        (question("example.com.", RecordType::A, true), Some(Counter::DnsPassedName)),
        (question("com.default.svc.cluster.local.", RecordType::A, true), Some(Counter::DnsPassedName)),
        (lies, Some(Counter::DnsPassedForm)),
        (two, Some(Counter::DnsPassedForm)),
        (udp(CLIENT, (DNS, 53), b"hello"), Some(Counter::DnsPassedForm)),
        (udp(CLIENT, (DNS, 53), &[0xff; 1000]), Some(Counter::DnsPassedForm)),
        (tcp53, None),
        (udp(CLIENT, (DNS, 9153), b"metrics"), None),
    ] {
        let before = counter.map(|c| kernel.counted(c)).transpose()?;
        let out = kernel.run("from_pod", &frame)?;
        assert_eq!((out.verdict, out.frame), (PASS, frame), "{counter:?}");
        let after = counter.map(|c| kernel.counted(c)).transpose()?;
        assert_eq!(after, before.map(|n| n + 1));
    }
    Ok(())
}

#[test]
fn every_cut_of_a_question_passes() -> Result<()> {
    let mut kernel = with_names(0)?;
    let frame = question("web.default.svc.cluster.local.", RecordType::A, true);
    let message = &frame[42..];
    for len in 0..message.len() {
        let cut = udp(CLIENT, (DNS, 53), &message[..len]);
        let out = kernel.run("from_pod", &cut)?;
        assert_eq!((out.verdict, out.frame), (PASS, cut), "{len} bytes");
    }
    Ok(())
}

/// `cargo test -p strake-tests --test prog_run -- --ignored --nocapture measure`
#[test]
#[ignore = "a measurement"]
fn measure() -> Result<()> {
    let mut kernel = with_names(30_000)?;
    let hit = question("web-12345.default.svc.cluster.local.", RecordType::A, false);
    let miss = question("nobody.default.svc.cluster.local.", RecordType::A, false);
    let direct = tcp((POD, 40000), (LOCAL, 80), ACK, b"x");
    for round in 0..3 {
        // A packet that was answered is an answer afterwards, so a hit is run once a packet.
        let mut nanos: Vec<u128> = Vec::new();
        for _ in 0..2000 {
            nanos.push(kernel.run("from_pod", &hit)?.duration.as_nanos());
        }
        nanos.sort_unstable();
        println!("round {round}: hit p50 {} ns, p99 {} ns (one run each, clock included)", nanos[1000], nanos[1980]);
        println!("round {round}: miss {} ns", kernel.repeat("from_pod", &miss, 200_000)?.duration.as_nanos());
        println!(
            "round {round}: a segment of a flow nobody tracks {} ns",
            kernel.repeat("from_pod", &direct, 200_000)?.duration.as_nanos()
        );
    }
    Ok(())
}
