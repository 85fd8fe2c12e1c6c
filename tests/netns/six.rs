//! IPv6 sockets: IPv4 Services by mapped addresses.

use serde_json::json;
use strake_datapath::ApplyOutcome;
use strake_tests::lab::NODE_IP;

use crate::{VIP, alone, lab};

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
    lab.start();
    let vip = format!("[::ffff:{VIP}]:80");
    assert_eq!(lab.in_pod(&client, &["tcp", &vip]).line(), "error ConnectionRefused");
    lab.opt_out(&client);
    lab.apply();
    assert_eq!(lab.in_pod(&client, &["tcp", &vip]).line(), "error ConnectionRefused");
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
