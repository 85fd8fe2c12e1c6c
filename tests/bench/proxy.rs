//! Short connections (connect, one byte each way, close) through a ClusterIP: by our socket hooks and by our packet
//! path, beside dialling the Pod, and beside kube-proxy's rules, at 1 and 1,000 Services.
//!
//! Four labs, each with a client and a server Pod on one node: plain routing, ours, nftables, iptables. Blocks of all
//! targets follow one another, in an order that rotates, so that the machine's moods hit everybody.

use std::net::Ipv4Addr;

use serde_json::json;
use strake_tests::lab::{Helper, Lab, LabPod, NODE_IP};
use strake_tests::peers::{self, PeerService};

use crate::report::{Report, Samples, print_head, print_row};
use crate::{Scale, lab};

const PORT: u16 = 8080;
const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 255, 1);
const CLIENT_CPU: &str = "0";
const SERVER_CPU: &str = "1";

/// A lab with its server running.
struct Room {
    lab: Lab,
    web: LabPod,
    _server: Helper,
}

impl Room {
    fn new() -> Self {
        let mut lab = lab();
        let web = lab.pod("web");
        lab.pod("client");
        lab.pod("plain");
        let mut server = lab.in_pod(&web, &["bench-server", &format!("{}:{PORT}", web.ip), SERVER_CPU]);
        assert_eq!(server.line(), "ready");
        Self { lab, web, _server: server }
    }

    fn client(&self, pod: usize) -> Helper {
        self.lab.in_pod(&self.lab.pods[pod], &["bench-client", CLIENT_CPU])
    }
}

/// `count` Services of three endpoints that nobody dials, and then the one that is.
fn services(count: usize, web: &LabPod) -> Vec<PeerService> {
    let mut services: Vec<PeerService> = (1..count)
        .map(|number| {
            let [high, low] = (number as u16).to_be_bytes();
            PeerService {
                name: format!("s{number}"),
                vip: Ipv4Addr::new(10, 96, high + 1, low),
                port: 80,
                node_port: None,
                backends: (0..3).map(|i| (Ipv4Addr::new(10, 244, 100 + high * 3 + i, low), PORT)).collect(),
            }
        })
        .collect();
    services.push(PeerService {
        name: "web".into(),
        vip: VIP,
        port: 80,
        node_port: None,
        backends: vec![(web.ip, PORT)],
    });
    services
}

struct Target {
    name: String,
    client: Helper,
    order: String,
    samples: Samples,
}

pub fn run(scale: Scale) -> i32 {
    let mut report = Report::default();
    let mut good = true;
    for count in [1, 1000] {
        let targets = measure(count, scale);
        let of = |name: &str| targets.iter().find(|target| target.name == name).map(|target| &target.samples);
        let direct = of("direct (plain routing)").unwrap();
        print_head(&format!("{count} Services, {} connections each", scale.rounds * scale.block), "direct");
        for target in &targets {
            print_row(&target.name, &target.samples, direct);
        }
        for ours in ["Strake, socket hooks", "Strake, packet path"] {
            let samples = of(ours).unwrap();
            good &= samples.failed == 0;
            let case = format!("ClusterIP at {count} Services: {ours}");
            report.compare(&case, samples, Some(("direct (plain routing)", direct)));
            for peer in ["direct (through Strake)", "nftables", "iptables"] {
                report.compare(&case, samples, of(peer).map(|theirs| (peer, theirs)));
            }
        }
    }
    report.write("proxy").unwrap();
    if !good {
        eprintln!("connections through Strake failed");
    }
    i32::from(!good)
}

fn measure(count: usize, scale: Scale) -> Vec<Target> {
    let (plain, mut ours, nft, iptables) = (Room::new(), Room::new(), Room::new(), Room::new());
    for service in services(count, &ours.web) {
        ours.lab.service(&service.name, &service.vip.to_string(), "TCP", service.port, json!({}), &service.backends);
    }
    let opted_out = ours.lab.pods[2].clone();
    ours.lab.opt_out(&opted_out);
    ours.lab.start();
    let _reader = ours.lab.read_flows();
    let rules = peers::nftables(&services(count, &nft.web), NODE_IP);
    let has_nft = peers::load(&nft.lab.node, &["nft", "-f", "-"], &rules).is_some();
    let rules = peers::iptables(&services(count, &iptables.web));
    let has_iptables = peers::load(&iptables.lab.node, &["iptables-restore"], &rules).is_some();

    let direct = |room: &Room| format!("{}:{PORT}", room.web.ip);
    let vip = format!("{VIP}:80");
    let mut list = vec![
        ("direct (plain routing)", &plain, 1, direct(&plain)),
        ("direct (through Strake)", &ours, 1, direct(&ours)),
        ("Strake, socket hooks", &ours, 1, vip.clone()),
        ("Strake, packet path", &ours, 2, vip.clone()),
    ];
    if has_nft {
        list.push(("nftables", &nft, 1, vip.clone()));
        list.push(("direct (beside nftables)", &nft, 1, direct(&nft)));
    } else {
        println!("nft is not installed: no nftables figures");
    }
    if has_iptables {
        list.push(("iptables", &iptables, 1, vip.clone()));
        list.push(("direct (beside iptables)", &iptables, 1, direct(&iptables)));
    } else {
        println!("iptables is not installed: no iptables figures");
    }
    let mut targets: Vec<Target> = list
        .into_iter()
        .map(|(name, room, pod, addr)| Target {
            name: name.into(),
            client: room.client(pod),
            order: format!("{addr} {}", scale.block),
            samples: Samples::default(),
        })
        .collect();
    // One block each to warm up, not counted.
    for target in &mut targets {
        Samples::default().measure(&mut target.client, &target.order);
    }
    let length = targets.len();
    for round in 0..scale.rounds {
        for step in 0..length {
            let target = &mut targets[(round + step) % length];
            target.samples.measure(&mut target.client, &target.order);
        }
    }
    targets
}
