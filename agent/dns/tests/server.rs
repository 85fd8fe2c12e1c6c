//! The server on real sockets, asked as resolvers ask.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
};
use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use strake_dns::{Config, Error, Server, UpstreamConfig};
use strake_state::{
    Endpoint, EndpointPort, EndpointSlice, LbOwner, Namespace, ObjectName, Protocol, Rare, Service, ServicePort,
    ServiceType, SessionAffinity, TrafficPolicy, World,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(namespace: &str, name: &str, ips: &[&str]) -> Service {
    Service {
        name: ObjectName::new(namespace, name),
        service_type: ServiceType::ClusterIP,
        cluster_ips: ips.iter().map(|i| ip(i)).collect(),
        headless: ips.is_empty(),
        external_name: None,
        external_ips: vec![],
        load_balancer_ips: vec![],
        load_balancer_source_ranges: vec![],
        lb_owner: LbOwner::Other,
        invalid_source_ranges: vec![],
        lb_algorithm: None,
        ports: vec![
            ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, node_port: 0 },
            ServicePort { name: "metrics".into(), protocol: Protocol::Udp, port: 9090, node_port: 0 },
        ],
        affinity: SessionAffinity::None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        publish_not_ready: false,
        health_check_node_port: 0,
        other_proxy: false,
    }
}

fn external(name: &str, target: &str) -> Service {
    let external_name = Some(target.into());
    Service { service_type: ServiceType::ExternalName, headless: false, external_name, ..service("a", name, &[]) }
}

fn endpoint(address: &str, hostname: Option<&str>, ready: bool) -> Endpoint {
    let rare = hostname.map(|name| Box::new(Rare { hostname: Some(name.into()), ..Rare::default() }));
    Endpoint { address: ip(address), ready, serving: ready, terminating: false, node: None, rare }
}

fn world() -> World {
    let mut services = strake_state::Services::new();
    for service in [
        service("kube-system", "kube-dns", &["10.96.0.10"]),
        service("a", "web", &["10.96.0.20", "fd00::20"]),
        service("a", "db", &[]),
        service("a", "many", &[]),
        external("out", "www.example.com"),
        external("near", "web.a.svc.cluster.local"),
        external("circle", "circle.a.svc.cluster.local"),
    ] {
        services.insert(service.name.clone(), Arc::new(service));
    }
    let ports = vec![EndpointPort { name: "http".into(), protocol: Protocol::Tcp, port: 8080 }];
    let slice = |service: &str, endpoints: Vec<Endpoint>| {
        let name = ObjectName::new("a", format!("{service}-x"));
        let of = ObjectName::new("a", service);
        let slice = EndpointSlice {
            name,
            service: of.clone(),
            ports: ports.clone(),
            endpoints: endpoints.into(),
            triggered_ms: None,
        };
        (of, Arc::from([Arc::new(slice)]))
    };
    let db = vec![
        endpoint("10.244.0.1", Some("db-0"), true),
        endpoint("10.244.0.2", None, true),
        endpoint("10.244.0.3", Some("db-2"), false),
    ];
    let many = (0..200).map(|i| endpoint(&format!("10.244.1.{i}"), None, true)).collect();
    let namespaces = ["a", "empty"]
        .map(|n| (Box::<str>::from(n), Arc::new(Namespace { name: n.into(), socket_lb_disabled: false })));
    World {
        synced: true,
        generation: 7,
        services,
        slices: [slice("db", db), slice("many", many)].into_iter().collect(),
        namespaces: namespaces.into_iter().collect(),
        ..World::default()
    }
}

/// A server that is running, and what keeps it so.
struct Running {
    address: SocketAddr,
    world: watch::Sender<Arc<World>>,
    cancel: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn start(upstream: Vec<SocketAddr>) -> Running {
    let config = Config {
        upstream: UpstreamConfig::Servers(upstream),
        ..Config::new(vec!["127.0.0.1:0".parse().unwrap()], "cluster.local")
    };
    let server = Server::bind(config).await.unwrap();
    let address = server.local_addrs()[0];
    let (world, receiver) = watch::channel(Arc::new(world()));
    let cancel = CancellationToken::new();
    tokio::spawn(server.run(receiver, cancel.clone()));
    Running { address, world, cancel }
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

impl Running {
    async fn udp(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(bytes, self.address).await.unwrap();
        let mut buffer = vec![0; 65_535];
        let wait = Duration::from_secs(6);
        let length = tokio::time::timeout(wait, socket.recv(&mut buffer)).await.ok()?.unwrap();
        buffer.truncate(length);
        Some(buffer)
    }

    async fn tcp(&self, message: &Message) -> Message {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let bytes = message.to_vec().unwrap();
        stream.write_u16(bytes.len() as u16).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }

    async fn exchange(&self, message: &Message) -> Message {
        let answer = Message::from_vec(&self.udp(&message.to_vec().unwrap()).await.expect("an answer")).unwrap();
        assert_eq!(answer.metadata.id, message.metadata.id);
        assert_eq!(answer.queries, message.queries);
        answer
    }

    /// `NoError: DATA, DATA` with sorted data, or the code and what the authority section has.
    async fn ask(&self, name: &str, kind: RecordType) -> String {
        let answer = self.exchange(&query(name, kind)).await;
        if answer.answers.is_empty() {
            let authority: Vec<_> = answer.authorities.iter().map(|r| r.record_type().to_string()).collect();
            return format!("{:?} {}", answer.metadata.response_code, authority.join(" ")).trim_end().to_owned();
        }
        assert!(answer.metadata.recursion_available);
        let mut data: Vec<_> = answer.answers.iter().map(|r| r.data.to_string()).collect();
        data.sort();
        data.join(", ")
    }
}

#[tokio::test]
async fn services_answer_by_the_specification() {
    use RecordType::{A, AAAA, CNAME, MX, NS, SOA, SRV, TXT};
    let server = start(vec![]).await;
    for (name, kind, expected) in [
        ("web.a.svc.cluster.local.", A, "10.96.0.20"),
        ("web.a.svc.cluster.local.", AAAA, "fd00::20"),
        ("web.a.svc.cluster.local.", MX, "NoError SOA"),
        ("kube-dns.kube-system.svc.cluster.local.", AAAA, "NoError SOA"),
        ("_http._tcp.web.a.svc.cluster.local.", SRV, "0 100 80 web.a.svc.cluster.local."),
        ("_metrics._udp.web.a.svc.cluster.local.", SRV, "0 100 9090 web.a.svc.cluster.local."),
        ("_http._tcp.web.a.svc.cluster.local.", A, "NoError SOA"),
        ("_http._udp.web.a.svc.cluster.local.", SRV, "NXDomain SOA"),
        ("_tcp.web.a.svc.cluster.local.", A, "NoError SOA"),
        ("_sctp.web.a.svc.cluster.local.", A, "NXDomain SOA"),
        // Headless: the endpoints that are ready.
        ("db.a.svc.cluster.local.", A, "10.244.0.1, 10.244.0.2"),
        ("db.a.svc.cluster.local.", AAAA, "NoError SOA"),
        ("db-0.db.a.svc.cluster.local.", A, "10.244.0.1"),
        ("10-244-0-2.db.a.svc.cluster.local.", A, "10.244.0.2"),
        ("db-2.db.a.svc.cluster.local.", A, "NXDomain SOA"),
        (
            "_http._tcp.db.a.svc.cluster.local.",
            SRV,
            "0 100 8080 10-244-0-2.db.a.svc.cluster.local., 0 100 8080 db-0.db.a.svc.cluster.local.",
        ),
        // Pods.
        ("10-244-0-9.a.pod.cluster.local.", A, "10.244.0.9"),
        ("fd00--9.a.pod.cluster.local.", AAAA, "fd00::9"),
        ("10-244-0-9.nowhere.pod.cluster.local.", A, "NXDomain SOA"),
        ("10-244-0-999.a.pod.cluster.local.", A, "NXDomain SOA"),
        // Names above others, and names that are not there.
        ("svc.cluster.local.", A, "NoError SOA"),
        ("empty.svc.cluster.local.", A, "NoError SOA"),
        ("nowhere.svc.cluster.local.", A, "NXDomain SOA"),
        ("none.a.svc.cluster.local.", A, "NXDomain SOA"),
        ("www.example.com.a.svc.cluster.local.", A, "NXDomain SOA"),
        ("www.example.com.svc.cluster.local.", A, "NXDomain SOA"),
        // The zone itself.
        ("dns-version.cluster.local.", TXT, "1.1.0"),
        ("cluster.local.", NS, "ns.dns.cluster.local."),
        ("ns.dns.cluster.local.", A, "10.96.0.10"),
        ("cluster.local.", A, "NoError SOA"),
        ("cluster.local.", SOA, "ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5"),
        // ExternalName.
        ("out.a.svc.cluster.local.", CNAME, "www.example.com."),
        ("near.a.svc.cluster.local.", A, "10.96.0.20, web.a.svc.cluster.local."),
        ("circle.a.svc.cluster.local.", A, "ServFail"),
    ] {
        assert_eq!(server.ask(name, kind).await, expected, "{name} {kind}");
    }
}

#[tokio::test]
async fn addresses_lead_back_to_names() {
    let server = start(vec![]).await;
    for (name, expected) in [
        ("20.0.96.10.in-addr.arpa.", "web.a.svc.cluster.local."),
        ("1.0.244.10.in-addr.arpa.", "db-0.db.a.svc.cluster.local."),
        ("2.0.244.10.in-addr.arpa.", "10-244-0-2.db.a.svc.cluster.local."),
        ("0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", "web.a.svc.cluster.local."),
        // Not of the cluster, and no upstream.
        ("9.9.9.9.in-addr.arpa.", "ServFail"),
    ] {
        assert_eq!(server.ask(name, RecordType::PTR).await, expected, "{name}");
    }
    let mut changed = world();
    changed.services = strake_state::Services::new();
    server.world.send_replace(Arc::new(changed));
    assert_eq!(server.ask("20.0.96.10.in-addr.arpa.", RecordType::PTR).await, "ServFail", "the index is stale");
}

#[tokio::test]
async fn an_answer_spells_the_name_as_the_question_does_and_is_authoritative() {
    let server = start(vec![]).await;
    let answer = server.exchange(&query("WeB.a.SVC.cluster.LOCAL.", RecordType::A)).await;
    assert_eq!(answer.answers[0].name.to_string(), "WeB.a.SVC.cluster.LOCAL.");
    assert_eq!(answer.queries[0].name().to_string(), "WeB.a.SVC.cluster.LOCAL.");
    assert!(answer.metadata.authoritative && answer.metadata.recursion_desired);
    assert_eq!(answer.answers[0].ttl, 5);
    let glue = server.exchange(&query("_http._tcp.web.a.svc.cluster.local.", RecordType::SRV)).await;
    let mut glue: Vec<_> = glue.additionals.iter().map(|r| r.data.to_string()).collect();
    glue.sort();
    assert_eq!(glue, ["10.96.0.20", "fd00::20"]);
}

#[tokio::test]
async fn what_does_not_fit_is_truncated_and_whole_over_tcp() {
    let server = start(vec![]).await;
    let mut question = query("many.a.svc.cluster.local.", RecordType::A);
    let bytes = server.udp(&question.to_vec().unwrap()).await.unwrap();
    let plain = Message::from_vec(&bytes).unwrap();
    assert!(bytes.len() <= 512 && plain.metadata.truncation && plain.edns.is_none());
    assert!(!plain.answers.is_empty(), "as many as fit");
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    question.set_edns(edns);
    let bytes = server.udp(&question.to_vec().unwrap()).await.unwrap();
    let larger = Message::from_vec(&bytes).unwrap();
    assert!(bytes.len() <= 1232 && larger.metadata.truncation && larger.edns.is_some());
    assert!(larger.answers.len() > plain.answers.len());
    let whole = server.tcp(&question).await;
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (200, false));
}

#[tokio::test]
async fn many_questions_share_a_connection_and_silence_ends_it() {
    let server = start(vec![]).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut bytes = Vec::new();
    for _ in 0..3 {
        let message = query("web.a.svc.cluster.local.", RecordType::A).to_vec().unwrap();
        bytes.extend_from_slice(&(message.len() as u16).to_be_bytes());
        bytes.extend_from_slice(&message);
    }
    // In pieces that are no messages.
    for piece in bytes.chunks(7) {
        stream.write_all(piece).await.unwrap();
    }
    for _ in 0..3 {
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
    }
    let begin = Instant::now();
    let end = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut [0; 1])).await;
    assert_eq!(end.expect("it is closed in time").unwrap(), 0);
    assert!(begin.elapsed() > Duration::from_secs(5), "closed too early");
}

#[tokio::test]
async fn before_the_cluster_is_known_absence_is_not_claimed() {
    let server = start(vec![]).await;
    server.world.send_replace(Arc::new(World::default()));
    assert_eq!(server.ask("web.a.svc.cluster.local.", RecordType::A).await, "ServFail");
    server.world.send_replace(Arc::new(world()));
    assert_eq!(server.ask("web.a.svc.cluster.local.", RecordType::A).await, "10.96.0.20");
}

#[tokio::test]
async fn a_missing_upstream_fails_quickly() {
    let server = start(vec![]).await;
    let begin = Instant::now();
    assert_eq!(server.ask("www.example.com.", RecordType::A).await, "ServFail");
    assert_eq!(server.ask("out.a.svc.cluster.local.", RecordType::A).await, "www.example.com.");
    assert!(begin.elapsed() < Duration::from_secs(1));
    // One that does not listen, in a resolv.conf, and ourselves in it.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("resolv.conf");
    std::fs::write(&path, "search x\nnameserver 127.0.0.1\n").unwrap();
    let config = Config {
        upstream: UpstreamConfig::ResolvConf(path),
        ..Config::new(vec!["127.0.0.1:0".parse().unwrap()], "cluster.local")
    };
    let own = Server::bind(config).await.unwrap();
    let address = own.local_addrs()[0];
    let (world, receiver) = watch::channel(Arc::new(world()));
    let cancel = CancellationToken::new();
    tokio::spawn(own.run(receiver, cancel.clone()));
    let looping = Running { address, world, cancel };
    assert_eq!(looping.ask("www.example.com.", RecordType::A).await, "ServFail");
    assert!(begin.elapsed() < Duration::from_secs(2));
}

/// A name server with one name, counting what it is asked.
async fn upstream() -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counter = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let question = query.queries[0].clone();
            let mut answer = Message::response(query.metadata.id, OpCode::Query);
            answer.metadata.recursion_available = true;
            answer.add_query(question.clone());
            let name = question.name().to_lowercase();
            let www = Name::from_ascii("www.example.com.").unwrap();
            if name == www && question.query_type() == RecordType::A {
                let data = RData::A(rdata::A([192, 0, 2, 80].into()));
                answer.add_answer(Record::from_rdata(question.name().clone(), 300, data));
            } else {
                if name != www {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                let zone = Name::from_ascii("example.com.").unwrap();
                let soa = rdata::SOA::new(zone.clone(), zone.clone(), 1, 1, 1, 1, 60);
                answer.add_authority(Record::from_rdata(zone, 60, RData::SOA(soa)));
            }
            socket.send_to(&answer.to_vec().unwrap(), peer).await.unwrap();
        }
    });
    (address, asked)
}

#[tokio::test]
async fn upstream_answers_and_absences_are_passed_on_and_remembered() {
    let (address, asked) = upstream().await;
    let server = start(vec![address]).await;
    for _ in 0..3 {
        assert_eq!(server.ask("www.example.com.", RecordType::A).await, "192.0.2.80");
        assert_eq!(server.ask("none.example.com.", RecordType::A).await, "NXDomain SOA");
        assert_eq!(server.ask("www.example.com.", RecordType::AAAA).await, "NoError SOA");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 3, "each was asked once");
    assert_eq!(server.ask("out.a.svc.cluster.local.", RecordType::A).await, "192.0.2.80, www.example.com.");
    let spelled = server.exchange(&query("WWW.example.COM.", RecordType::A)).await;
    assert_eq!(spelled.answers[0].name.to_string(), "WWW.example.COM.");
    assert!(!spelled.metadata.authoritative);
}

#[tokio::test]
async fn strange_questions_get_their_code() {
    let server = start(vec![]).await;
    let base = query("web.a.svc.cluster.local.", RecordType::A);
    let mut update = base.clone();
    update.metadata.op_code = OpCode::Update;
    let mut two = base.clone();
    two.add_query(base.queries[0].clone());
    let mut chaos = base.clone();
    chaos.queries[0].set_query_class(DNSClass::CH);
    let mut version = base.clone();
    let mut edns = Edns::new();
    edns.set_version(1);
    version.set_edns(edns);
    let transfer = query("cluster.local.", RecordType::AXFR);
    for (question, code) in [
        (update, ResponseCode::NotImp),
        (two, ResponseCode::FormErr),
        (chaos, ResponseCode::Refused),
        (version, ResponseCode::BADVERS),
        (transfer, ResponseCode::Refused),
    ] {
        let bytes = server.udp(&question.to_vec().unwrap()).await.expect("an answer");
        // By number: 16 has two names.
        let found = Message::from_vec(&bytes).unwrap().metadata.response_code;
        assert_eq!(u16::from(found), u16::from(code), "{question:?}");
    }
}

#[tokio::test]
async fn garbage_is_survived_and_responses_are_not_answered() {
    let server = start(vec![]).await;
    let good = query("web.a.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut seed = 1u64;
    for round in 0..3000 {
        // Cut short, or with bytes changed; every other one a response.
        let mut bytes = good.clone();
        let mut random = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize
        };
        for _ in 0..random() % 8 {
            let at = random() % bytes.len();
            bytes[at] = random() as u8;
        }
        bytes.truncate(random() % (good.len() + 1));
        if round % 2 == 0 && bytes.len() > 2 {
            bytes[2] |= 0x80;
        }
        socket.send_to(&bytes, server.address).await.unwrap();
        if round % 100 == 0 {
            assert_eq!(server.ask("web.a.svc.cluster.local.", RecordType::A).await, "10.96.0.20");
        }
    }
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&[0, 3, 1, 2, 3]).await.unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0, "closed");
    // A response is nobody's question.
    let mut response = query("web.a.svc.cluster.local.", RecordType::A);
    response.metadata.message_type = MessageType::Response;
    let answer = tokio::time::timeout(Duration::from_millis(300), server.udp(&response.to_vec().unwrap())).await;
    assert!(answer.is_err(), "a response was answered");
}

#[tokio::test]
async fn a_taken_port_and_a_wrong_domain_are_named() {
    let server = start(vec![]).await;
    let config = Config::new(vec![server.address], "cluster.local");
    let error = Server::bind(config).await.err().unwrap();
    assert!(matches!(&error, Error::Bind { protocol: "UDP", address, .. } if *address == server.address), "{error}");
    let config = Config::new(vec![], "cluster..local");
    assert!(matches!(Server::bind(config).await.err().unwrap(), Error::Domain { .. }));
}
