//! SCTP with real sockets, by packets and in both families. Ignored elsewhere, as a machine's kernel may have no SCTP:
//! `cargo xtask vm` runs them, with the module loaded.
//!
//! The uplink and the machine outside end in bridges, which, as most network cards, compute no CRC: what leaves there is
//! finished by the kernel, and what comes in there has to be right. Between veths nobody finishes it.

use std::net::IpAddr;

use serde_json::json;
use strake_datapath::{ConntrackFilter, FlowState};
use strake_tests::lab::{Helper, Lab, LabPod, NODE_IP, NODE_IP6, OUTSIDE_IP, OUTSIDE_IP6, run, within};

use crate::{VIP, alone, lab};

const VIP6: &str = "fd00:10:96::7";

/// A lab of both families whose two machines have their addresses on bridges.
fn bridged() -> Lab {
    let mut lab = lab();
    for (netns, device, port) in [(&lab.node, "up0", "port0"), (&lab.outside, "eth0", "port1")] {
        let ip = |arguments: &str| {
            let words: Vec<&str> = ["ip", "-n", netns].into_iter().chain(arguments.split(' ')).collect();
            run(&words)
        };
        ip(&format!("addr flush dev {device}"));
        ip(&format!("link set {device} down"));
        ip(&format!("link set {device} name {port}"));
        ip(&format!("link add {device} type bridge"));
        ip(&format!("link set {port} master {device}"));
        ip(&format!("link set {port} up"));
        ip(&format!("link set {device} up"));
        let own = if device == "up0" { NODE_IP } else { OUTSIDE_IP };
        ip(&format!("addr add {own}/24 dev {device}"));
    }
    lab.with_ipv6();
    lab
}

fn ready(mut server: Helper) -> Helper {
    assert_eq!(server.line(), "ready");
    server
}

fn serve(lab: &Lab, pod: &LabPod, ip: IpAddr) -> Helper {
    ready(lab.in_pod(pod, &["sctp-serve", &end(ip, 9868), &pod.name]))
}

fn end(ip: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(ip, port).to_string()
}

/// Packets that a namespace took for broken.
fn broken(netns: &str) -> u64 {
    let text = within(netns, || std::fs::read_to_string("/proc/thread-self/net/sctp/snmp").unwrap());
    let line = text.lines().find(|line| line.starts_with("SctpChecksumErrors")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// What the tests have in both families: a Service with a NodePort on one Pod, one with the node itself as its endpoint, and
/// one with nobody.
struct Scene {
    lab: Lab,
    client: LabPod,
    web: LabPod,
    vips: [IpAddr; 2],
    pods: [IpAddr; 2],
    clients: [IpAddr; 2],
    node: [IpAddr; 2],
    outside: [IpAddr; 2],
}

fn scene() -> Scene {
    let mut lab = bridged();
    let (client, web) = (lab.pod("client"), lab.pod("web"));
    let clients = [client.ip.into(), lab.pod6(&client).into()];
    let web6 = lab.pod6(&web);
    let extra = |number: u16, vips: [&str; 2]| {
        let ports = json!([{"protocol": "SCTP", "port": 3868, "nodePort": number}]);
        json!({"type": "NodePort", "clusterIPs": vips, "ports": ports})
    };
    lab.service("web", VIP, "SCTP", 3868, extra(30868, [VIP, VIP6]), &[(web.ip, 9868)]);
    lab.endpoints6("web", "SCTP", &[(web6, 9868)]);
    lab.service("node", "10.96.0.8", "SCTP", 3868, extra(30869, ["10.96.0.8", "fd00:10:96::8"]), &[(NODE_IP, 9868)]);
    lab.endpoints6("node", "SCTP", &[(NODE_IP6, 9868)]);
    lab.service("none", "10.96.0.9", "SCTP", 3868, extra(30870, ["10.96.0.9", "fd00:10:96::9"]), &[]);
    Scene {
        pods: [web.ip.into(), web6.into()],
        vips: [VIP, VIP6].map(|ip| ip.parse().unwrap()),
        node: [NODE_IP.into(), NODE_IP6.into()],
        outside: [OUTSIDE_IP.into(), OUTSIDE_IP6.into()],
        clients,
        client,
        web,
        lab,
    }
}

#[test]
#[ignore = "this kernel may have no SCTP sockets"]
fn an_sctp_service_is_reached_by_every_path() {
    let _alone = alone();
    let Scene { mut lab, client, web, vips, pods, clients, node, outside } = scene();
    let datapath = lab.start();
    for family in [0, 1] {
        let (vip, pod, own) = (end(vips[family], 3868), pods[family], clients[family]);
        let _server = serve(&lab, &web, pod);
        // A Pod, its neighbour: with little and with much; itself.
        for how in [&["sctp", &vip][..], &["sctp-bulk", &vip, "300000"]] {
            let answer = lab.in_pod(&client, how).line();
            assert!(answer.starts_with(&format!("web {}:", show(own))), "{how:?}: {answer}");
            assert!(answer.ends_with(&format!("as {vip}")), "{how:?}: {answer}");
        }
        let answer = lab.in_pod(&web, &["sctp", &vip]).line();
        assert!(answer.starts_with("web ") && answer.ends_with(&format!("as {vip}")), "hairpin: {answer}");
        // A server of the node itself, whose answers pass to_pod.
        let _node = ready(lab.on_node(&["sctp-serve", &end(node[family], 9868), "node"]));
        let other = end(if family == 0 { "10.96.0.8" } else { "fd00:10:96::8" }.parse().unwrap(), 3868);
        let answer = lab.in_pod(&client, &["sctp-bulk", &other, "100000"]).line();
        assert!(answer.starts_with("node ") && answer.ends_with(&format!("as {other}")), "{answer}");
        // From outside, with checksums that are finished.
        let there = end(node[family], 30868);
        for how in [&["sctp", &there][..], &["sctp-bulk", &there, "300000"]] {
            let answer = lab.outside(how).line();
            assert!(answer.starts_with(&format!("web {}:", show(outside[family]))), "{how:?}: {answer}");
            assert!(answer.ends_with(&format!("as {there}")), "{how:?}: {answer}");
        }
        // A Pod to the world, with checksums that the uplink finishes.
        let _world = ready(lab.outside(&["sctp-serve", &end(outside[family], 9000), "world"]));
        for how in [&["sctp", &end(outside[family], 9000)][..], &["sctp-bulk", &end(outside[family], 9000), "300000"]] {
            let answer = lab.in_pod(&client, how).line();
            assert!(answer.starts_with(&format!("world {}:", show(node[family]))), "{how:?}: {answer}");
        }
    }
    for netns in [&client.netns, &web.netns, &lab.node, &lab.outside] {
        assert_eq!(broken(netns), 0, "{netns}");
    }
    let status = datapath.status().unwrap();
    assert!(status.counters["service_opened"] >= 10 && status.counters["masqueraded"] >= 4, "{:?}", status.counters);
    assert_eq!(status.counters["sock_connect_translated"], 0);
    assert!(status.warnings.is_empty(), "{:?}", status.warnings);
}

/// `10.244.0.5`, `[fd00::5]`: as in front of a port.
fn show(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

#[test]
#[ignore = "this kernel may have no SCTP sockets"]
fn an_sctp_service_without_endpoints_refuses() {
    let _alone = alone();
    let Scene { mut lab, client, node, .. } = scene();
    let datapath = lab.start();
    for (vip, node) in [("10.96.0.9", node[0]), ("fd00:10:96::9", node[1])] {
        for port in [3868, 3869] {
            let answer = lab.in_pod(&client, &["sctp", &end(vip.parse().unwrap(), port)]).line();
            assert_eq!(answer, "error ConnectionRefused", "{vip}:{port}");
        }
        assert_eq!(lab.outside(&["sctp", &end(node, 30870)]).line(), "error ConnectionRefused", "{node}");
    }
    let drops = datapath.status().unwrap().drops;
    // Of two connection attempts each, see `SCTP_TIMEOUT`.
    assert!(drops["no_endpoints"] >= 4 && drops["no_service_port"] >= 2, "{drops:?}");
}

#[test]
#[ignore = "this kernel may have no SCTP sockets"]
fn an_sctp_association_is_tracked_by_its_chunks() {
    let _alone = alone();
    let Scene { mut lab, client, web, vips, pods, .. } = scene();
    let datapath = lab.start();
    for family in [0, 1] {
        let _server = serve(&lab, &web, pods[family]);
        let mut open = lab.in_pod(&client, &["sctp-long", &end(vips[family], 3868)]);
        assert_eq!(open.line(), "connected");
        assert!(open.ask("").starts_with("web "));
        let states = |state| {
            let filter = ConntrackFilter { protocol: Some(132), state, ..ConntrackFilter::default() };
            let mut found = Vec::new();
            let each = |connection: strake_datapath::Connection| {
                found.push((connection.protocol.to_string(), connection.service.as_deref().map(str::to_owned)));
                std::ops::ControlFlow::Continue(())
            };
            datapath.connections().unwrap().list(&filter, each).unwrap();
            found
        };
        let one = [("SCTP".to_owned(), Some("default/web".to_owned()))];
        assert_eq!(states(Some(FlowState::Established)), one);
        assert_eq!(open.finish(), "");
        // SHUTDOWN, its acknowledgment, SHUTDOWN COMPLETE: they follow the end of the program.
        let ended = || states(Some(FlowState::Closed)) == one;
        assert!((0..100).any(|_| ended() || {
            std::thread::sleep(std::time::Duration::from_millis(20));
            false
        }));
        datapath.connections().unwrap().flush(&ConntrackFilter::default()).unwrap();
    }
}
