//! DNS questions and answers on the wire, with damaged ones.

extern crate std;

use std::string::{String, ToString};
use std::vec::Vec;
use std::{format, fs, vec};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use proptest::prelude::*;
use strake_abi::Addr4;
use strake_abi::dns::{DNS_HAS_A, DNS_NODATA_AAAA, DnsKey, DnsName, DnsZone};

use super::table::{Soa, WireName, zone};
use super::{
    MESSAGE_AT, MESSAGE_MAX, MESSAGE_MIN, Pass, Question, Scratch, Type, is_impossible, is_name, is_query, question,
    reply, scan,
};
use crate::packet::{self, HEAD_LEN};

const CLIENT: [u8; 4] = [10, 244, 0, 5];
const SERVER: [u8; 4] = [10, 96, 0, 10];

/// What from_pod does with a message, on the host.
fn ask(scratch: &mut Scratch, message: &[u8]) -> Result<Question, Pass> {
    if !(MESSAGE_MIN..=MESSAGE_MAX).contains(&message.len()) {
        return Err(Pass::Form);
    }
    let mut bytes: Vec<u8> = scratch.message.iter().flat_map(|w| w.to_ne_bytes()).collect();
    bytes[MESSAGE_AT..MESSAGE_AT + message.len()].copy_from_slice(message);
    for (word, chunk) in scratch.message.iter_mut().zip(bytes.chunks(8)) {
        *word = u64::from_ne_bytes(chunk.try_into().unwrap());
    }
    if !is_query(scratch) {
        return Err(Pass::Form);
    }
    if !scan(scratch) {
        return Err(Pass::Name);
    }
    question(scratch, scratch.name_len, message.len())
}

fn cluster_zone() -> DnsZone {
    let name = |n| WireName::from_dotted(n).unwrap();
    let soa = Soa { serial: 1, refresh: 7200, retry: 1800, expire: 86400, minimum: 5 };
    zone(&name("cluster.local"), &name("ns.dns.cluster.local"), &name("hostmaster.cluster.local"), &soa, 5).unwrap()
}

/// A whole reply frame to a query frame, or why there is none.
fn reply_frame(frame: &[u8], rows: &[(DnsKey, DnsName)]) -> Result<Vec<u8>, Pass> {
    let head: packet::Head = frame[..HEAD_LEN].try_into().unwrap();
    let ip = packet::ipv4(&head, frame.len() as u32).unwrap();
    let udp: [u8; 8] = frame[34..42].try_into().unwrap();
    let mut scratch = Scratch { message: [u64::MAX; 40], ..Scratch::new() };
    let asked = ask(&mut scratch, &frame[42..])?;
    let row = rows.iter().find(|(k, n)| {
        *k == scratch.key && u32::from(n.name_len) == scratch.name_len && is_name(&scratch, &n.name, scratch.name_len)
    });
    let zone = cluster_zone();
    let mut tail = Vec::new();
    let denied = row.is_none();
    if denied && !is_impossible(&scratch, &zone) {
        return Err(Pass::Name);
    }
    let parts = match asked.kind {
        Type::A if !denied => {
            let (_, name) = row.unwrap();
            let answer = reply::answer(name);
            tail.extend_from_slice(&answer);
            reply::answer_parts(&asked, &answer)
        }
        _ => {
            let soa = reply::soa_head(&zone, scratch.name_len).unwrap();
            tail.extend_from_slice(&soa);
            tail.extend(zone.soa_rdata.iter().flatten().take(usize::from(zone.soa_len)));
            reply::negative_parts(&asked, &soa, &zone, if denied { reply::NXDOMAIN } else { 0 })
        }
    };
    if let Some(dnssec_ok) = asked.edns {
        tail.extend_from_slice(&reply::opt(dnssec_ok));
    }
    assert_eq!(tail.len(), parts.len);
    let mut front: crate::reply::Frame = [0xee; _];
    reply::front(&mut front, &head, &ip, &udp, &scratch, &asked, &parts);
    let mut out = front[..reply::FRONT_LEN].to_vec();
    out.extend_from_slice(&frame[54..42 + asked.end]);
    out.extend_from_slice(&tail);
    Ok(out)
}

fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([1; 6], [2; 6])
        .ipv4(CLIENT, SERVER, 64)
        .udp(40000, 53)
        .write(&mut frame, message)
        .unwrap();
    frame
}

fn query(name: &str, kind: RecordType, edns: Option<bool>) -> Vec<u8> {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let mut query = Query::query(Name::from_ascii(name).unwrap(), kind);
    query.set_query_class(DNSClass::IN);
    message.add_query(query);
    if let Some(dnssec_ok) = edns {
        let mut opt = Edns::new();
        opt.set_max_payload(4096).set_dnssec_ok(dnssec_ok).set_version(0);
        message.set_edns(opt);
    }
    message.to_vec().unwrap()
}

/// Checks the packet with independent parsers and returns the message.
fn parse(frame: &[u8]) -> Message {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("not IPv4") };
    let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("not UDP") };
    let header = ip.header().to_header();
    assert_eq!(header.calc_header_checksum(), header.header_checksum);
    assert_eq!((header.source, header.destination), (SERVER, CLIENT));
    assert_eq!((udp.source_port(), udp.destination_port()), (53, 40000));
    let sum = udp.to_header().calc_checksum_ipv4_raw(SERVER, CLIENT, udp.payload()).unwrap();
    assert_eq!(sum % 0xffff, udp.checksum() % 0xffff);
    Message::from_vec(udp.payload()).unwrap()
}

fn row(name: &str) -> (DnsKey, DnsName) {
    let flags = DNS_HAS_A | DNS_NODATA_AAAA;
    WireName::from_dotted(name).unwrap().row(Addr4::new([10, 96, 3, 7]), 5, flags, 1)
}

fn label() -> impl Strategy<Value = String> {
    proptest::string::string_regex("[a-zA-Z0-9_]([a-zA-Z0-9-]{0,20}[a-zA-Z0-9])?").unwrap()
}

proptest! {
    #[test]
    fn an_a_record_is_answered_with_the_case_kept(labels in proptest::collection::vec(label(), 1..4), edns in proptest::option::of(any::<bool>())) {
        let asked = format!("{}.svc.cluster.local.", labels.join("."));
        let bytes = query(&asked, RecordType::A, edns);
        let out = reply_frame(&frame(&bytes), &[row("other.svc.cluster.local"), row(&asked)]).unwrap();
        prop_assert_eq!(&out[54..54 + asked.len() + 5], &bytes[12..12 + asked.len() + 5]);
        let message = parse(&out);
        prop_assert_eq!(message.metadata.id, 0x1234);
        prop_assert_eq!(message.metadata.message_type, MessageType::Response);
        prop_assert!(message.metadata.authoritative && message.metadata.recursion_desired && !message.metadata.truncation);
        prop_assert_eq!(message.answers.len(), 1);
        prop_assert_eq!(message.answers[0].ttl, 5);
        prop_assert_eq!(message.answers[0].name.to_ascii(), asked);
        let RData::A(a) = message.answers[0].data else { panic!("not an A record") };
        prop_assert_eq!(a.0.octets(), [10, 96, 3, 7]);
        prop_assert_eq!(message.edns.as_ref().map(|e| e.flags().dnssec_ok), edns);
    }

    #[test]
    fn aaaa_of_an_ipv4_service_is_no_data_with_soa(labels in proptest::collection::vec(label(), 1..4), edns in proptest::option::of(any::<bool>())) {
        let asked = format!("{}.svc.cluster.local.", labels.join("."));
        let message = parse(&reply_frame(&frame(&query(&asked, RecordType::AAAA, edns)), &[row(&asked)]).unwrap());
        prop_assert_eq!(message.metadata.response_code, ResponseCode::NoError);
        prop_assert!(message.answers.is_empty());
        prop_assert_eq!(message.authorities.len(), 1);
        prop_assert_eq!(message.authorities[0].name.to_ascii().to_lowercase(), "cluster.local.");
        let RData::SOA(soa) = &message.authorities[0].data else { panic!("not a SOA") };
        prop_assert_eq!((soa.minimum, soa.refresh), (5, 7200));
        prop_assert_eq!(soa.mname.to_ascii(), "ns.dns.cluster.local.");
        prop_assert_eq!(message.edns.as_ref().map(|e| e.flags().dnssec_ok), edns);
    }

    #[test]
    fn host_and_kernel_agree_on_the_key(labels in proptest::collection::vec(label(), 1..7)) {
        let name = labels.join(".");
        prop_assume!(name.len() < 150);
        let mut scratch = Scratch { message: [u64::MAX; 40], ..Scratch::new() };
        ask(&mut scratch, &query(&name, RecordType::A, None)).unwrap();
        let wire = WireName::from_dotted(&name).unwrap();
        prop_assert_eq!(scratch.key, wire.key());
        prop_assert_eq!(scratch.name_len as usize, wire.len());
        prop_assert!(is_name(&scratch, &wire.row(Addr4::ANY, 0, 0, 0).1.name, scratch.name_len));
    }

    #[test]
    fn arbitrary_messages_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        invariants(&bytes);
    }
}

/// What holds for any bytes that a Pod can send.
fn invariants(bytes: &[u8]) {
    let rows = [row("web.default.svc.cluster.local"), row("kubernetes.default.svc.cluster.local")];
    let mut scratch = Scratch::new();
    if let Ok(q) = ask(&mut scratch, bytes) {
        assert!(q.end <= bytes.len());
        assert_eq!(q.end, 12 + scratch.name_len as usize + 4);
    }
    if let Ok(out) = reply_frame(&frame(bytes), &rows) {
        let message = parse(&out);
        let name = message.queries[0].name().to_ascii().to_lowercase();
        let key = WireName::from_dotted(&name).map(|n| n.key());
        let known = rows.iter().any(|(k, _)| Some(*k) == key);
        let denied = message.metadata.response_code == ResponseCode::NXDomain && name.ends_with(".cluster.local.");
        assert!(known || denied, "answered {name}");
    }
}

#[test]
fn what_is_not_one_plain_question_is_passed() {
    let good = query("web.default.svc.cluster.local.", RecordType::A, None);
    let pass = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        edit(&mut bytes);
        reply_frame(&frame(&bytes), &[row("web.default.svc.cluster.local")]).unwrap_err()
    };
    let end = good.len();
    assert_eq!(pass(&|b| b[2] |= 0x80), Pass::Form, "a response");
    assert_eq!(pass(&|b| b[2] |= 0x28), Pass::Form, "an update");
    assert_eq!(pass(&|b| b[2] |= 0x02), Pass::Form, "truncated");
    assert_eq!(pass(&|b| b[5] = 2), Pass::Form, "two questions");
    assert_eq!(pass(&|b| b[7] = 1), Pass::Form, "an answer inside");
    assert_eq!(pass(&|b| b[11] = 1), Pass::Form, "an additional record that is not there");
    assert_eq!(pass(&|b| b.push(0)), Pass::Form, "something behind the question");
    assert_eq!(pass(&|b| b.truncate(end - 1)), Pass::Form, "cut short");
    assert_eq!(pass(&|b| b[end - 3] = 16), Pass::Type, "TXT");
    assert_eq!(pass(&|b| b[end - 1] = 3), Pass::Type, "class CHAOS");
    assert_eq!(pass(&|b| b[13] = b'x'), Pass::Name, "another name");
    let mut badvers = query("web.default.svc.cluster.local.", RecordType::A, Some(false));
    let at = badvers.len() - 5;
    badvers[at] = 1;
    assert_eq!(reply_frame(&frame(&badvers), &[row("web.default.svc.cluster.local")]).unwrap_err(), Pass::Form);
}

#[test]
fn options_are_ignored_and_the_opt_comes_back_empty() {
    let mut bytes = query("web.default.svc.cluster.local.", RecordType::A, Some(true));
    let at = bytes.len() - 2;
    bytes.splice(at.., [0u8, 12, 0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    let message = parse(&reply_frame(&frame(&bytes), &[row("web.default.svc.cluster.local")]).unwrap());
    assert_eq!(message.answers.len(), 1);
    assert!(message.edns.unwrap().flags().dnssec_ok);
}

#[test]
fn a_query_without_checksum_or_with_one_left_to_the_device_gets_the_like() {
    let rows = [row("web.default.svc.cluster.local")];
    let mut none = frame(&query("web.default.svc.cluster.local.", RecordType::A, None));
    none[40..42].copy_from_slice(&[0, 0]);
    let out = reply_frame(&none, &rows).unwrap();
    assert_eq!(&out[40..42], &[0, 0]);

    let pseudo = |frame: &[u8]| {
        let word = |at: usize| u32::from_ne_bytes(frame[at..at + 4].try_into().unwrap());
        crate::checksum::fold(crate::checksum::pseudo(word(26), word(30), 17, (frame.len() - 34) as u16))
    };
    let mut partial = none.clone();
    let field = pseudo(&partial);
    partial[40..42].copy_from_slice(&field.to_ne_bytes());
    let out = reply_frame(&partial, &rows).unwrap();
    assert_eq!(u16::from_ne_bytes([out[40], out[41]]), pseudo(&out));
}

#[test]
fn only_what_no_cluster_can_have_is_denied() {
    let zone = cluster_zone();
    let denied = |name: &str| {
        let mut scratch = Scratch { lower: [u64::MAX; 20], ..Scratch::new() };
        ask(&mut scratch, &query(name, RecordType::A, None)).unwrap();
        is_impossible(&scratch, &zone)
    };
    for name in [
        "web.default.svc.cluster.local.default.svc.cluster.local",
        "WEB.default.svc.cluster.local.svc.Cluster.local",
        "web.default.svc.cluster.local.cluster.local",
        "a.b.c.d.e.f.g.h.i.j.k.cluster.local",
        "a.b.web.default.svc.cluster.local",
        "x.10-0-0-1.default.pod.cluster.local",
        "www.example.com.cluster.local",
    ] {
        assert!(denied(name), "{name}");
    }
    for name in [
        "web.default.svc.cluster.local",
        "pod-0.web.default.svc.cluster.local",
        "_http._tcp.web.default.svc.cluster.local",
        "10-0-0-1.default.pod.cluster.local",
        "example.com.default.svc.cluster.local",
        "ns.dns.cluster.local",
        "default.svc.cluster.local",
        "svc.cluster.local",
        "cluster.local",
        "local",
        "www.example.com",
        "a.b.c.d.e.f.g.xcluster.local",
        "a.b.c.d.e.f.g.mycluster.local",
        "a.b.c.d.e.f.g.cluster.localx",
    ] {
        assert!(!denied(name), "{name}");
    }
    // A label that only looks like the zone's length byte and text is not the zone.
    let mut trick = query("a.b.c.d.e.f.xxxxxxxxxxxxxxxx", RecordType::A, None);
    let at = trick.len() - 4 - 1 - 16;
    trick[at..at + 16].copy_from_slice(b"y\x07cluster\x05localz");
    let mut scratch = Scratch::new();
    ask(&mut scratch, &trick).unwrap();
    assert!(!is_impossible(&scratch, &zone));
}

#[test]
fn an_impossible_name_is_denied_with_the_soa() {
    for edns in [None, Some(false)] {
        let asked = "web.default.svc.cluster.local.default.svc.cluster.local.";
        let message = parse(&reply_frame(&frame(&query(asked, RecordType::A, edns)), &[]).unwrap());
        assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
        assert!(message.answers.is_empty() && message.metadata.authoritative);
        assert_eq!(message.authorities[0].name.to_ascii(), "cluster.local.");
        assert_eq!(message.edns.is_some(), edns.is_some());
    }
}

#[test]
fn names_the_kernel_cannot_hold_are_refused_by_the_table() {
    assert!(WireName::from_dotted("").is_none());
    assert!(WireName::from_dotted("a..b").is_none());
    assert!(WireName::from_dotted(&"a".repeat(64)).is_none());
    assert!(WireName::from_dotted(&vec!["a".repeat(63); 3].join(".")).is_none());
    let longest = format!("{}.{}.svc.cluster.local", "a".repeat(63), "b".repeat(63));
    assert_eq!(WireName::from_dotted(&longest).unwrap().len(), 147);
}

/// Each file of the corpus, and thousands of mutations of it, the same ones in every run. A message that ever broke
/// something is added to the corpus under a name that says what it broke.
#[test]
fn corpus_and_its_mutations() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/dns");
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "the corpus is not there: {}", files.len());
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below.max(1)
    };
    for file in files {
        let hex = fs::read_to_string(&file).unwrap();
        let seed: Vec<u8> = hex
            .lines()
            .filter(|l| !l.starts_with('#'))
            .flat_map(|l| l.split_whitespace().map(ToString::to_string).collect::<Vec<_>>())
            .map(|b| u8::from_str_radix(&b, 16).unwrap())
            .collect();
        invariants(&seed);
        for _ in 0..3000 {
            let mut bytes = seed.clone();
            for _ in 0..=random(4) {
                let at = random(bytes.len());
                match random(5) {
                    0 if !bytes.is_empty() => bytes[at] = random(256) as u8,
                    1 if !bytes.is_empty() => bytes[at] ^= 1 << random(8),
                    2 => bytes.truncate(at),
                    3 => bytes.insert(at, random(256) as u8),
                    _ if !bytes.is_empty() => bytes[at] = [0, 1, 0x3f, 0x40, 0xc0, 0xff][random(6)],
                    _ => {}
                }
            }
            invariants(&bytes);
        }
    }
}
