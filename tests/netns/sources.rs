//! `loadBalancerSourceRanges` with real clients: outside, in Pods, on the node.

use std::time::{Duration, Instant};

use serde_json::json;
use strake_tests::lab::{Lab, LabPod, NODE_IP, OUTSIDE_IP};

use crate::{VIP, alone, lab};

const LB: &str = "198.51.100.77";

/// A Service of type LoadBalancer with these ranges, on TCP port 80 and UDP port 514.
fn publish(lab: &mut Lab, web: &LabPod, ranges: &[&str]) {
    lab.put(json!({
        "kind": "Service",
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": VIP, "loadBalancerSourceRanges": ranges,
            "ports": [
                {"name": "web", "port": 80, "nodePort": 30080},
                {"name": "log", "port": 514, "protocol": "UDP"},
            ],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": LB}]}},
    }));
    let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": 8080});
    lab.put(json!({
        "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": "web", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [port("web", "TCP"), port("log", "UDP")],
        "endpoints": [{"addresses": [web.ip], "nodeName": "n1"}],
    }));
}

/// The machine outside sends what is for the LoadBalancer IP to the node, as a router would.
fn route(lab: &Lab) {
    let to = format!("{LB}/32");
    let via = NODE_IP.to_string();
    strake_tests::lab::run(&["ip", "-n", &lab.outside, "route", "add", &to, "via", &via]);
}

#[test]
fn a_client_outside_is_served_or_gets_no_answer_as_the_ranges_say() {
    let _alone = alone();
    let mut lab = lab();
    let web = lab.pod("web");
    route(&lab);
    publish(&mut lab, &web, &["203.0.113.0/24", &format!("{OUTSIDE_IP}/32")]);
    let datapath = lab.start();
    let _server = lab.serve(&web, 8080);
    let (front, node_port) = (format!("{LB}:80"), format!("{NODE_IP}:30080"));
    let answer = lab.outside(&["tcp", &front]).line();
    assert!(answer.starts_with(&format!("web {OUTSIDE_IP}:")) && answer.ends_with(&format!("as {front}")), "{answer}");
    let mut held = lab.outside(&["tcp-long", &front]);
    assert_eq!(held.line(), "connected");

    publish(&mut lab, &web, &["203.0.113.0/24", "192.0.2.128/25"]);
    lab.apply();
    let dropped = || datapath.status().unwrap().drops["source_not_in_ranges"];
    assert_eq!(dropped(), 0);
    assert_eq!(lab.outside(&["tcp", &front]).line(), "error TimedOut");
    assert!(dropped() >= 1);
    assert!(held.ask("").starts_with("web "), "a connection outlives its range");
    let answer = lab.outside(&["tcp", &node_port]).line();
    assert!(answer.starts_with("web "), "a NodePort is not restricted: {answer}");
    let trace = datapath.trace(&strake_state::ObjectName::new("default", "web")).unwrap();
    let ranges = |address: &str| {
        let found = trace.frontends.iter().find(|f| f.frontend == format!("{address} external")).unwrap();
        found.source_ranges.clone()
    };
    assert_eq!(ranges(&format!("{front}/TCP")).unwrap(), ["192.0.2.128/25", "203.0.113.0/24"]);
    assert_eq!(ranges("0.0.0.0:30080/TCP"), None);
    assert!(trace.to_string().contains("SOURCE_RANGES admits 192.0.2.128/25, 203.0.113.0/24; others are dropped"));

    // Everybody again, by the one range that says so; and the rows of the ranges are gone.
    publish(&mut lab, &web, &["203.0.113.0/24", "0.0.0.0/0"]);
    lab.apply();
    assert!(lab.outside(&["tcp", &front]).line().starts_with("web "));
    let status = datapath.status().unwrap();
    let rows = status.maps.iter().find(|map| map.map == "SOURCE_RANGES").unwrap();
    assert_eq!(rows.entries, 0);
}

/// By socket hooks and by packets alike. Silence where the kernel can have it, and what it ends in where not.
#[test]
fn pods_and_the_node_are_clients_too() {
    let _alone = alone();
    let mut lab = lab();
    let (client, other, web) = (lab.pod("client"), lab.pod("other"), lab.pod("web"));
    lab.opt_out(&other);
    publish(&mut lab, &web, &[&format!("{}/32", client.ip), &format!("{NODE_IP}/32"), &format!("{}/32", other.ip)]);
    let datapath = lab.start();
    let features = datapath.features();
    if !features.netns_cookie {
        // Whose socket it is cannot be told (Linux 5.14): a range must hold all Pods.
        return;
    }
    let _server = lab.serve(&web, 8080);
    let (front, log) = (format!("{LB}:80"), format!("{LB}:514"));
    let pods = [&client, &other];
    for pod in pods {
        let answer = lab.in_pod(pod, &["tcp", &front]).line();
        assert!(
            answer.starts_with(&format!("web {}:", pod.ip)) && answer.ends_with(&format!("as {front}")),
            "{answer}"
        );
        assert!(lab.in_pod(pod, &["udp", &log]).line().starts_with("web "));
    }
    assert!(lab.on_node(&["tcp", &front]).line().starts_with("web "));
    assert!(lab.on_node(&["udp", &log]).line().starts_with("web "));

    publish(&mut lab, &web, &["203.0.113.0/24"]);
    lab.apply();
    let drops = || datapath.status().unwrap().drops["source_not_in_ranges"];
    for pod in pods {
        let before = drops();
        assert_eq!(lab.in_pod(pod, &["tcp", &front]).line(), "error TimedOut", "{}", pod.name);
        assert_eq!(lab.in_pod(pod, &["udp", &log]).line(), "error WouldBlock", "{}: no answer", pod.name);
        assert!(drops() >= before + 2);
        // The ClusterIP is not restricted.
        assert!(lab.in_pod(pod, &["tcp", &format!("{VIP}:80")]).line().starts_with("web "));
    }
    let before = drops();
    let tcp = if features.set_retval { "error TimedOut" } else { "error PermissionDenied" };
    let asked = Instant::now();
    assert_eq!(lab.on_node(&["tcp", &front]).line(), tcp);
    assert!(asked.elapsed() < Duration::from_secs(2), "the hook says so at once: {:?}", asked.elapsed());
    assert_eq!(lab.on_node(&["udp", &log]).line(), "error PermissionDenied");
    assert_eq!(drops(), before + 2);
    assert!(lab.on_node(&["tcp", &format!("{NODE_IP}:30080")]).line().starts_with("web "));
}

/// A Pod of another CNI plugin: its socket does not show its address, so that a range must hold all Pods of the node.
#[test]
fn somebody_elses_pods_are_admitted_together_or_not_at_all() {
    let _alone = alone();
    let mut lab = lab();
    let (client, web) = (lab.pod("client"), lab.pod("web"));
    // Their veths are not ours.
    let pods = std::mem::take(&mut lab.pods);
    publish(&mut lab, &web, &["10.244.0.0/16"]);
    let config = strake_datapath::Config { host_ports: false, masquerade: false, dns: false, ..lab.config() };
    let datapath = lab.start_with(config);
    let _server = lab.serve(&web, 8080);
    let warnings = || datapath.status().unwrap().warnings.into_iter().map(|w| w.message).collect::<Vec<_>>();
    let front = format!("{LB}:80");
    let cookies = datapath.features().netns_cookie;
    if cookies {
        assert!(lab.in_pod(&client, &["tcp", &front]).line().starts_with("web "));
        assert_eq!(warnings(), [""; 0]);
    }
    publish(&mut lab, &web, &[&format!("{}/32", client.ip)]);
    lab.apply();
    let refused = if datapath.features().set_retval { "error TimedOut" } else { "error PermissionDenied" };
    assert_eq!(lab.in_pod(&client, &["tcp", &front]).line(), refused);
    assert!(warnings()[0].starts_with("Pods of this node are refused at its LoadBalancer IPs"), "{:?}", warnings());
    lab.pods = pods;
}
