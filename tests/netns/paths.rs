//! A Pod and the node reach Services: by socket hooks, by packets, by name.

use serde_json::json;
use strake_tests::lab::NODE_IP;

use crate::{VIP, alone, lab};

#[test]
fn a_pod_reaches_a_cluster_ip_and_sees_the_vip_as_its_peer() {
    let _alone = alone();
    let mut lab = lab();
    let (client, web) = (lab.pod("client"), lab.pod("web"));
    lab.service("web", VIP, "TCP", 80, json!({}), &[(web.ip, 8080)]);
    let datapath = lab.start();
    let _server = lab.serve(&web, 8080);
    let answer = lab.in_pod(&client, &["tcp", &format!("{VIP}:80")]).line();
    assert!(answer.starts_with(&format!("web {}:", client.ip)), "{answer}");
    assert!(answer.ends_with(&format!("as {VIP}:80")), "getpeername shows the backend: {answer}");
    // The node itself has the hooks too.
    let answer = lab.on_node(&["tcp", &format!("{VIP}:80")]).line();
    assert!(answer.starts_with("web ") && answer.ends_with(&format!("as {VIP}:80")), "{answer}");
    let status = datapath.status().unwrap();
    assert_eq!(status.counters["sock_connect_translated"], 2);
    assert_eq!(status.attached.len(), strake_abi::program::SOCK_ADDR.len() + 1 + 2 + 2 * 2, "{:?}", status.attached);
}

#[test]
fn udp_answers_come_from_the_vip_whether_the_socket_is_connected_or_not() {
    let _alone = alone();
    let mut lab = lab();
    let (client, log) = (lab.pod("client"), lab.pod("log"));
    lab.service("log", VIP, "UDP", 514, json!({}), &[(log.ip, 5514)]);
    lab.start();
    let _server = lab.serve(&log, 5514);
    let mut unconnected = lab.in_pod(&client, &["udp", &format!("{VIP}:514")]);
    for _ in 0..2 {
        let answer = unconnected.line();
        assert!(answer.starts_with("log ") && answer.ends_with(&format!("from {VIP}:514")), "{answer}");
    }
    let mut connected = lab.in_pod(&client, &["udp-connected", &format!("{VIP}:514")]);
    assert_eq!(connected.line(), format!("connected {VIP}:514"));
    assert!(connected.ask("").starts_with("log "));
}

#[test]
fn a_pod_that_opted_out_of_the_socket_hooks_sees_the_same_services() {
    let _alone = alone();
    let mut lab = lab();
    let (client, web) = (lab.pod("client"), lab.pod("web"));
    lab.opt_out(&client);
    lab.service("web", VIP, "TCP", 80, json!({}), &[(web.ip, 8080)]);
    lab.service("log", "10.96.0.8", "UDP", 514, json!({}), &[(web.ip, 8080)]);
    let datapath = lab.start();
    let _server = lab.serve(&web, 8080);
    let answer = lab.in_pod(&client, &["tcp", &format!("{VIP}:80")]).line();
    assert!(answer.starts_with(&format!("web {}:", client.ip)), "{answer}");
    assert!(answer.ends_with(&format!("as {VIP}:80")), "{answer}");
    let answer = lab.in_pod(&client, &["udp", "10.96.0.8:514"]).line();
    assert!(answer.starts_with("web ") && answer.ends_with("from 10.96.0.8:514"), "{answer}");
    let status = datapath.status().unwrap();
    assert_eq!(status.counters["sock_connect_translated"], 0);
    assert!(status.counters["service_opened"] >= 2);
    assert!(!status.endpoints.iter().find(|endpoint| endpoint.pod == "default/client").unwrap().socket_hooks);
}

#[test]
fn a_pod_of_a_sandboxed_runtime_is_served_by_its_packets_as_soon_as_its_class_is_known() {
    let _alone = alone();
    let mut lab = lab();
    let (client, web) = (lab.pod("client"), lab.pod("web"));
    lab.runtime_class(&client, "safe");
    lab.service("web", VIP, "TCP", 80, json!({}), &[(web.ip, 8080)]);
    let datapath = lab.start();
    if !datapath.features().netns_cookie {
        return; // Below 5.14 no Pod can opt out.
    }
    let _server = lab.serve(&web, 8080);
    let endpoint = || {
        let status = datapath.status().unwrap();
        let found = status.endpoints.into_iter().find(|endpoint| endpoint.pod == "default/client").unwrap();
        (found.socket_hooks, found.opted_out.unwrap_or_default(), status.counters["sock_connect_translated"])
    };
    // Nothing is known of the class, and its name says nothing.
    assert!(lab.in_pod(&client, &["tcp", &format!("{VIP}:80")]).line().starts_with("web "));
    assert_eq!(endpoint(), (true, String::new(), 1));
    lab.put(json!({"kind": "RuntimeClass", "metadata": {"name": "safe"}, "handler": "runsc"}));
    lab.apply();
    let answer = lab.in_pod(&client, &["tcp", &format!("{VIP}:80")]).line();
    assert!(answer.starts_with(&format!("web {}:", client.ip)), "{answer}");
    let why = "runtime class safe, whose handler runsc has sockets of its own";
    assert_eq!(endpoint(), (false, why.into(), 1));
    let question = strake_datapath::Question {
        origin: strake_datapath::Origin::Pod(strake_state::ObjectName::new("default", "client")),
        source_port: None,
        to: format!("{VIP}:80").parse().unwrap(),
        protocol: 6,
    };
    let told = datapath.explain(&question).unwrap().to_string();
    assert!(told.contains(why), "{told}");
    // An ordinary runtime under the same class name has the hooks again.
    lab.put(json!({"kind": "RuntimeClass", "metadata": {"name": "safe"}, "handler": "crun"}));
    lab.apply();
    assert!(lab.in_pod(&client, &["tcp", &format!("{VIP}:80")]).line().starts_with("web "));
    assert_eq!(endpoint(), (true, String::new(), 2));
}

#[test]
fn a_pod_reaches_itself_through_its_service_on_both_paths() {
    let _alone = alone();
    let mut lab = lab();
    let web = lab.pod("web");
    lab.service("web", VIP, "TCP", 80, json!({}), &[(web.ip, 8080)]);
    lab.start();
    let _server = lab.serve(&web, 8080);
    let answer = lab.in_pod(&web, &["tcp", &format!("{VIP}:80")]).line();
    assert!(answer.starts_with("web "), "socket path: {answer}");
    lab.opt_out(&web);
    lab.apply();
    let answer = lab.in_pod(&web, &["tcp", &format!("{VIP}:80")]).line();
    assert!(answer.starts_with("web "), "packet path: {answer}");
}

#[test]
fn a_service_without_endpoints_refuses_at_once_on_both_paths() {
    let _alone = alone();
    let mut lab = lab();
    let client = lab.pod("client");
    lab.service("none", VIP, "TCP", 80, json!({}), &[]);
    let features = lab.start().features();
    // Below 5.18 a hook cannot say which error; below 5.14 a Pod cannot opt out of it.
    let hook = if features.set_retval { "error ConnectionRefused" } else { "error PermissionDenied" };
    assert_eq!(lab.in_pod(&client, &["tcp", &format!("{VIP}:80")]).line(), hook);
    lab.opt_out(&client);
    lab.apply();
    let packets = if features.netns_cookie { "error ConnectionRefused" } else { hook };
    assert_eq!(lab.in_pod(&client, &["tcp", &format!("{VIP}:80")]).line(), packets);
}

#[test]
fn the_kernel_answers_the_names_of_services_and_keeps_the_case_of_the_question() {
    let _alone = alone();
    let mut lab = lab();
    let client = lab.pod("client");
    lab.service("web", VIP, "TCP", 80, json!({}), &[]);
    let datapath = lab.start();
    let ask = |name: &str, kind: &str| lab.in_pod(&client, &["dns", "10.96.0.10:53", name, kind]).line();
    let whole = format!("rcode 0 answers 1 {VIP} same-question true from 10.96.0.10:53");
    assert_eq!(ask("web.default.svc.cluster.local", "1"), whole);
    assert_eq!(ask("wEb.DefAult.svc.cluster.LOCAL", "1"), whole);
    assert_eq!(ask("web.default.svc.cluster.local", "28"), "rcode 0 answers 0 - same-question true from 10.96.0.10:53");
    assert_eq!(datapath.status().unwrap().counters["dns_answered"], 2);
}

#[test]
fn a_node_port_is_reached_on_the_nodes_own_addresses() {
    let _alone = alone();
    let mut lab = lab();
    let (client, web) = (lab.pod("client"), lab.pod("web"));
    let extra = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    lab.service("web", VIP, "TCP", 80, extra, &[(web.ip, 8080)]);
    lab.start();
    let _server = lab.serve(&web, 8080);
    for addr in ["127.0.0.1:30080".to_owned(), format!("{NODE_IP}:30080")] {
        let answer = lab.on_node(&["tcp", &addr]).line();
        assert!(answer.starts_with("web "), "{addr}: {answer}");
    }
    let answer = lab.in_pod(&client, &["tcp", &format!("{NODE_IP}:30080")]).line();
    assert!(answer.starts_with("web "), "{answer}");
}
