//! IPv6 sockets: IPv4 Services by mapped addresses, and Services of IPv6.

use std::net::Ipv6Addr;

use serde_json::json;
use strake_datapath::ApplyOutcome;
use strake_tests::lab::{Helper, Lab, NODE_IP, NODE_IP6, OUTSIDE_IP6};

use crate::{VIP, alone, lab};

const VIP6: &str = "fd00:96::7";
/// Addresses of a Pod's own.
const FIVE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 5);
const SIX: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 6);

fn ready(mut server: Helper) -> Helper {
    assert_eq!(server.line(), "ready");
    server
}

fn outside(lab: &Lab, port: u16) -> Helper {
    ready(lab.outside(&["serve", &format!("[{OUTSIDE_IP6}]:{port}"), "world"]))
}

#[test]
fn an_ipv6_socket_reaches_an_ipv4_service_by_its_mapped_address() {
    let _alone = alone();
    let mut lab = lab();
    let (client, web) = (lab.pod("client"), lab.pod("web"));
    let extra = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    lab.service("web", VIP, "TCP", 80, extra, &[(web.ip, 8080)]);
    lab.service("log", "10.96.0.8", "UDP", 514, json!({}), &[(web.ip, 8080)]);
    let datapath = lab.start();
    let _server = lab.serve(&web, 8080);
    let vip = format!("[::ffff:{VIP}]:80");
    let answer = lab.in_pod(&client, &["tcp", &vip]).line();
    assert!(answer.starts_with(&format!("web {}:", client.ip)), "{answer}");
    assert!(answer.ends_with(&format!("as {vip}")), "getpeername shows the backend: {answer}");
    // Nothing but the hook serves a process of the node.
    for addr in [vip.clone(), format!("[::ffff:{NODE_IP}]:30080"), "[::ffff:127.0.0.1]:30080".into()] {
        let answer = lab.on_node(&["tcp", &addr]).line();
        assert!(answer.starts_with("web ") && answer.ends_with(&format!("as {addr}")), "{addr}: {answer}");
    }
    let vip = "[::ffff:10.96.0.8]:514";
    let mut unconnected = lab.on_node(&["udp", vip]);
    for _ in 0..2 {
        let answer = unconnected.line();
        assert!(answer.starts_with("web ") && answer.ends_with(&format!("from {vip}")), "{answer}");
    }
    let mut connected = lab.in_pod(&client, &["udp-connected", vip]);
    assert_eq!(connected.line(), format!("connected {vip}"));
    assert!(connected.ask("").starts_with("web "));
    let counters = datapath.status().unwrap().counters;
    assert_eq!((counters["sock_connect_translated"], counters["sock_sendmsg_translated"]), (5, 2));
    assert_eq!(counters["service_opened"], 0, "no packet carried a VIP");
}

#[test]
fn the_sockets_of_one_client_share_its_affinity_in_both_families() {
    let _alone = alone();
    let mut lab = lab();
    let client = lab.pod("client");
    let pods = ["one", "two", "three"].map(|name| lab.pod(name));
    let backends = pods.clone().map(|pod| (pod.ip, 8080));
    lab.service("web", VIP, "TCP", 80, json!({"sessionAffinity": "ClientIP"}), &backends);
    lab.start();
    let _servers = pods.each_ref().map(|pod| lab.serve(pod, 8080));
    for netns in [&client, &pods[0]] {
        let first = lab.in_pod(netns, &["tcp-many", &format!("[::ffff:{VIP}]:80"), "20", "0"]).line();
        let then = lab.in_pod(netns, &["tcp-many", &format!("{VIP}:80"), "20", "0"]).line();
        assert_eq!(first, then);
        assert!(first.starts_with("done 20 failed 0") && !first.contains(','), "{first}");
    }
}

#[test]
fn a_service_without_endpoints_refuses_an_ipv6_socket_at_once() {
    let _alone = alone();
    let mut lab = lab();
    let client = lab.pod("client");
    lab.service("none", VIP, "TCP", 80, json!({}), &[]);
    let features = lab.start().features();
    let vip = format!("[::ffff:{VIP}]:80");
    // Below 5.18 a hook cannot say which error; below 5.14 a Pod cannot opt out of it.
    let hook = if features.set_retval { "error ConnectionRefused" } else { "error PermissionDenied" };
    assert_eq!(lab.in_pod(&client, &["tcp", &vip]).line(), hook);
    lab.opt_out(&client);
    lab.apply();
    let packets = if features.netns_cookie { "error ConnectionRefused" } else { hook };
    assert_eq!(lab.in_pod(&client, &["tcp", &vip]).line(), packets);
}

#[test]
fn an_ipv6_udp_socket_leaves_a_removed_backend_at_once() {
    let _alone = alone();
    let mut lab = lab();
    let (client, one, two) = (lab.pod("client"), lab.pod("one"), lab.pod("two"));
    lab.service("log", VIP, "UDP", 514, json!({}), &[(one.ip, 5514)]);
    lab.start();
    let _servers = [lab.serve(&one, 5514), lab.serve(&two, 5514)];
    let vip = format!("[::ffff:{VIP}]:514");
    let mut sockets = [lab.in_pod(&client, &["udp-connected", &vip]), lab.on_node(&["udp-connected", &vip])];
    for socket in &mut sockets {
        assert_eq!(socket.line(), format!("connected {vip}"));
        assert!(socket.ask("").starts_with("one "));
    }
    lab.endpoints("log", "UDP", &[(two.ip, 5514)]);
    let ApplyOutcome::Applied(applied) = lab.apply() else { panic!("nothing applied") };
    assert_eq!(applied.swept.sockets, 2, "one in each network namespace: {applied:?}");
    for socket in &mut sockets {
        let answer = socket.ask("");
        assert!(answer.starts_with("error "), "it still talks to the removed backend: {answer}");
    }
    let answer = lab.in_pod(&client, &["udp", &vip]).line();
    assert!(answer.starts_with("two "), "{answer}");
}

#[test]
fn each_address_of_a_dual_stack_service_leads_to_endpoints_of_its_family() {
    let _alone = alone();
    let mut lab = lab();
    lab.with_ipv6();
    let web = lab.pod("web");
    let extra = json!({
        "type": "NodePort", "clusterIPs": [VIP, VIP6], "externalIPs": ["2001:db8::7"],
        "ports": [{"port": 80, "nodePort": 30080}],
    });
    lab.service("web", VIP, "TCP", 80, extra, &[(web.ip, 8080)]);
    lab.endpoints6("web", "TCP", &[(OUTSIDE_IP6, 8080)]);
    let datapath = lab.start();
    let _servers = [lab.serve(&web, 8080), outside(&lab, 8080)];
    let on_node = |addr: &str| lab.on_node(&["tcp", addr]).line();
    let answer = on_node(&format!("{VIP}:80"));
    assert!(answer.starts_with("web "), "{answer}");
    for addr in
        [format!("[{VIP6}]:80"), "[2001:db8::7]:80".to_owned(), format!("[{NODE_IP6}]:30080"), "[::1]:30080".to_owned()]
    {
        let answer = on_node(&addr);
        assert!(answer.starts_with(&format!("world [{NODE_IP6}]:")), "{addr}: {answer}");
        assert!(answer.ends_with(&format!("as {addr}")), "getpeername shows the backend: {answer}");
    }
    let trace = datapath.trace(&strake_state::ObjectName::new("default", "web")).unwrap();
    let text = trace.to_string();
    assert!(text.contains(&format!("SERVICES_V6[[{VIP6}]:80/TCP internal]")), "{text}");
    assert!(text.contains(&format!("[{OUTSIDE_IP6}]:8080")), "{text}");
    let status = datapath.status().unwrap();
    let entries = |name: &str| status.maps.iter().find(|map| map.map == name).unwrap().entries;
    assert_eq!((entries("SERVICES_V6"), entries("NODES_V6")), (6, 2));
    assert_eq!(status.counters["service_opened"], 0);
    lab.stop();
    lab.start();
    assert!(matches!(lab.apply(), ApplyOutcome::Unchanged), "a restart must find the rows of both families again");
}

#[test]
fn ipv6_datagrams_come_from_the_vip_and_their_sockets_leave_a_removed_backend_at_once() {
    let _alone = alone();
    let mut lab = lab();
    lab.with_ipv6();
    let pod = lab.pod("pod");
    lab.addresses6(&pod, &[FIVE, SIX]);
    // A client in each network namespace, with a backend there to go to and one to leave.
    lab.service("log", VIP6, "UDP", 514, json!({}), &[]);
    lab.service("out", "fd00:96::8", "UDP", 514, json!({}), &[]);
    lab.endpoints6("log", "UDP", &[(FIVE, 5514)]);
    lab.endpoints6("out", "UDP", &[(OUTSIDE_IP6, 5514)]);
    let datapath = lab.start();
    let mut servers = vec![outside(&lab, 5514)];
    for (addr, name) in [(FIVE, "five"), (SIX, "six")] {
        servers.push(ready(lab.in_pod(&pod, &["serve", &format!("[{addr}]:5514"), name])));
    }
    servers.push(ready(lab.on_node(&["serve", &format!("[{NODE_IP6}]:5514"), "node"])));
    let (log, out) = (format!("[{VIP6}]:514"), "[fd00:96::8]:514".to_owned());
    let start = |how: &str| [lab.in_pod(&pod, &[how, &log]), lab.on_node(&[how, &out])];
    let (mut connected, mut unconnected) = (start("udp-connected"), start("udp-long"));
    for (i, (vip, first)) in [(&log, "five "), (&out, "world ")].into_iter().enumerate() {
        assert_eq!(connected[i].line(), format!("connected {vip}"));
        assert!(connected[i].ask("").starts_with(first));
        for _ in 0..2 {
            let answer = unconnected[i].ask("");
            assert!(answer.starts_with(first) && answer.ends_with(&format!(" from {vip}")), "{answer}");
        }
    }
    let counters = datapath.status().unwrap().counters;
    assert_eq!((counters["sock_connect_translated"], counters["sock_sendmsg_translated"]), (2, 4));

    lab.endpoints6("log", "UDP", &[(SIX, 5514)]);
    lab.endpoints6("out", "UDP", &[(NODE_IP6, 5514)]);
    let ApplyOutcome::Applied(applied) = lab.apply() else { panic!("nothing applied") };
    assert_eq!(applied.swept.sockets, 2, "one in each network namespace: {applied:?}");
    assert_eq!(applied.swept.rows, 2 + 2 * 2, "two connected sockets, two unconnected with two rows each");
    for (i, (vip, then)) in [(&log, "six "), (&out, "node ")].into_iter().enumerate() {
        let answer = connected[i].ask("");
        assert!(answer.starts_with("error "), "it still talks to the removed backend: {answer}");
        let answer = unconnected[i].ask("");
        assert!(answer.starts_with(then) && answer.ends_with(&format!(" from {vip}")), "{answer}");
    }
}

#[test]
fn affinity_and_refusals_are_those_of_ipv4() {
    let _alone = alone();
    let mut lab = lab();
    lab.with_ipv6();
    let pod = lab.pod("pod");
    lab.addresses6(&pod, &[FIVE, SIX]);
    lab.service("web", VIP6, "TCP", 80, json!({"sessionAffinity": "ClientIP"}), &[]);
    lab.endpoints6("web", "TCP", &[(FIVE, 8080), (SIX, 8080)]);
    lab.service("each", "fd00:96::9", "TCP", 80, json!({}), &[]);
    lab.endpoints6("each", "TCP", &[(FIVE, 8080), (SIX, 8080)]);
    lab.service("none", "fd00:96::8", "TCP", 80, json!({}), &[]);
    let datapath = lab.start();
    let serve = |addr: Ipv6Addr, name: &str| ready(lab.in_pod(&pod, &["serve", &format!("[{addr}]:8080"), name]));
    let _servers = [serve(FIVE, "five"), serve(SIX, "six")];
    let many = |vip: &str| lab.in_pod(&pod, &["tcp-many", &format!("[{vip}]:80"), "40", "0"]).line();
    assert_eq!(many("fd00:96::9"), "done 40 failed 0  names five,six");
    let sticky = many(VIP6);
    assert!(sticky.starts_with("done 40 failed 0  names ") && !sticky.contains(','), "{sticky}");
    assert_eq!(datapath.status().unwrap().counters["affinity_hit"], 39);
    // Below 5.18 a hook cannot say which error, and leaves a Pod's packets to from_pod.
    let features = datapath.features();
    let refused = if features.set_retval { "error ConnectionRefused" } else { "error " };
    let answer = lab.in_pod(&pod, &["tcp", "[fd00:96::8]:80"]).line();
    assert!(answer.starts_with(refused), "{answer}");
    let refused = if features.set_retval { "error ConnectionRefused" } else { "error PermissionDenied" };
    assert_eq!(lab.on_node(&["tcp", "[fd00:96::8]:80"]).line(), refused);
}

#[test]
fn a_pod_that_opted_out_of_the_socket_hooks_sees_the_same_ipv6_services() {
    let _alone = alone();
    let mut lab = lab();
    lab.with_ipv6();
    let (client, web) = (lab.pod("client"), lab.pod("web"));
    let (client6, web6) = (lab.pod6(&client), lab.pod6(&web));
    lab.opt_out(&client);
    lab.opt_out(&web);
    lab.service("web", "fd00:10:96::7", "TCP", 80, json!({}), &[]);
    lab.endpoints6("web", "TCP", &[(web6, 8080)]);
    lab.service("log", "fd00:10:96::8", "UDP", 514, json!({}), &[]);
    lab.endpoints6("log", "UDP", &[(web6, 8080)]);
    lab.service("out", "fd00:10:96::a", "TCP", 80, json!({}), &[]);
    lab.endpoints6("out", "TCP", &[(NODE_IP6, 8080)]);
    lab.service("none", "fd00:10:96::9", "TCP", 80, json!({}), &[]);
    let datapath = lab.start();
    if !datapath.features().netns_cookie {
        return; // Below 5.14 a Pod cannot opt out.
    }
    let _server = ready(lab.in_pod(&web, &["serve", &format!("[{web6}]:8080"), "web"]));
    let _node = ready(lab.on_node(&["serve", &format!("[{NODE_IP6}]:8080"), "node"]));
    let vip = "[fd00:10:96::7]:80";
    let answer = lab.in_pod(&client, &["tcp", vip]).line();
    assert!(answer.starts_with(&format!("web [{client6}]:")) && answer.ends_with(&format!("as {vip}")), "{answer}");
    let answer = lab.in_pod(&client, &["tcp-many", vip, "50", "0"]).line();
    assert_eq!(answer, "done 50 failed 0  names web");
    let answer = lab.in_pod(&client, &["udp", "[fd00:10:96::8]:514"]).line();
    assert!(answer.starts_with("web ") && answer.ends_with("from [fd00:10:96::8]:514"), "{answer}");
    // A server of the node itself, whose answers pass to_pod.
    let answer = lab.in_pod(&client, &["tcp", "[fd00:10:96::a]:80"]).line();
    assert!(answer.starts_with(&format!("node [{client6}]:")), "{answer}");
    // Itself, nobody, a port that its Service has not.
    let answer = lab.in_pod(&web, &["tcp", vip]).line();
    assert!(answer.starts_with("web ") && answer.ends_with(&format!("as {vip}")), "hairpin: {answer}");
    for addr in ["[fd00:10:96::9]:80", "[fd00:10:96::7]:81"] {
        assert_eq!(lab.in_pod(&client, &["tcp", addr]).line(), "error ConnectionRefused", "{addr}");
    }
    let status = datapath.status().unwrap();
    assert_eq!(status.counters["sock_connect_translated"], 0);
    assert!(status.counters["service_opened"] >= 54 && status.counters["hairpin"] >= 1, "{:?}", status.counters);
    assert_eq!((status.drops["spoofed_ip"], status.drops["spoofed_ndp"]), (0, 0), "{:?}", status.drops);
    assert!(status.warnings.is_empty(), "{:?}", status.warnings);
}

#[test]
fn an_ipv6_node_port_is_reached_from_outside_and_a_pod_goes_out_as_the_node() {
    let _alone = alone();
    let mut lab = lab();
    lab.with_ipv6();
    let web = lab.pod("web");
    let web6 = lab.pod6(&web);
    let extra = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    lab.service("web", "fd00:10:96::7", "TCP", 80, extra, &[]);
    lab.endpoints6("web", "TCP", &[(web6, 8080)]);
    let extra = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30081}]});
    lab.service("none", "fd00:10:96::8", "TCP", 80, extra, &[]);
    let datapath = lab.start();
    let _server = ready(lab.in_pod(&web, &["serve", &format!("[{web6}]:8080"), "web"]));
    let there = format!("[{NODE_IP6}]:30080");
    for _ in 0..3 {
        let answer = lab.outside(&["tcp", &there]).line();
        assert!(answer.starts_with(&format!("web [{OUTSIDE_IP6}]:")), "{answer}");
        assert!(answer.ends_with(&format!("as {there}")), "{answer}");
    }
    assert_eq!(lab.outside(&["tcp", &format!("[{NODE_IP6}]:30081")]).line(), "error ConnectionRefused");
    let _world = outside(&lab, 9000);
    for how in ["tcp", "udp"] {
        let answer = lab.in_pod(&web, &[how, &format!("[{OUTSIDE_IP6}]:9000")]).line();
        assert!(answer.starts_with(&format!("world [{NODE_IP6}]:")), "{how}: {answer}");
    }
    assert!(datapath.status().unwrap().counters["masqueraded"] >= 2);
}
