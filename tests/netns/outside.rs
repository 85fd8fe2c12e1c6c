//! What passes the uplink, and what must not pass at all.

use std::time::Duration;

use serde_json::json;
use strake_flow::proto::{Filter, Kind, Verdict};
use strake_flow::{FlowLog, Item};
use strake_tests::lab::{NODE_IP, OUTSIDE_IP};
use tokio_util::sync::CancellationToken;

use crate::{VIP, alone, lab};

#[test]
fn a_node_port_is_reached_from_outside() {
    let _alone = alone();
    let mut lab = lab();
    let web = lab.pod("web");
    let extra = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    lab.service("web", VIP, "TCP", 80, extra, &[(web.ip, 8080)]);
    lab.start();
    let _server = lab.serve(&web, 8080);
    for _ in 0..3 {
        let answer = lab.outside(&["tcp", &format!("{NODE_IP}:30080")]).line();
        assert!(answer.starts_with(&format!("web {OUTSIDE_IP}:")), "{answer}");
        assert!(answer.ends_with(&format!("as {NODE_IP}:30080")), "{answer}");
    }
}

/// From outside with the client's own address, from another Pod, and from the node by every address it has.
#[test]
fn a_host_port_leads_to_its_pod_from_everywhere() {
    let _alone = alone();
    let mut lab = lab();
    let (web, client) = (lab.pod("web"), lab.pod("client"));
    lab.host_port(&web, 8080, 8888);
    let datapath = lab.start();
    let _server = lab.serve(&web, 8080);
    let there = format!("{NODE_IP}:8888");
    let answer = lab.outside(&["tcp", &there]).line();
    assert!(answer.starts_with(&format!("web {OUTSIDE_IP}:")) && answer.ends_with(&format!("as {there}")), "{answer}");
    let answer = lab.in_pod(&client, &["tcp", &there]).line();
    assert!(answer.starts_with(&format!("web {}:", client.ip)), "{answer}");
    for address in [there.as_str(), "127.0.0.1:8888"] {
        let answer = lab.on_node(&["tcp", address]).line();
        assert!(answer.starts_with("web ") && answer.ends_with(&format!("as {address}")), "{answer}");
    }
    assert_eq!(datapath.status().unwrap().warnings.len(), 0);
}

#[test]
fn a_pod_leaves_the_cluster_with_the_nodes_address() {
    let _alone = alone();
    let mut lab = lab();
    let client = lab.pod("client");
    let datapath = lab.start();
    let mut server = lab.outside(&["serve", &format!("{OUTSIDE_IP}:9000"), "world"]);
    assert_eq!(server.line(), "ready");
    let answer = lab.in_pod(&client, &["tcp", &format!("{OUTSIDE_IP}:9000")]).line();
    assert!(answer.starts_with(&format!("world {NODE_IP}:")), "{answer}");
    let answer = lab.in_pod(&client, &["udp", &format!("{OUTSIDE_IP}:9000")]).line();
    assert!(answer.starts_with(&format!("world {NODE_IP}:")), "{answer}");
    assert!(datapath.status().unwrap().counters["masqueraded"] >= 2);
}

#[test]
fn a_spoofed_packet_is_dropped_and_the_flow_log_says_why() {
    let _alone = alone();
    let mut lab = lab();
    let (evil, web) = (lab.pod("evil"), lab.pod("web"));
    lab.service("web", VIP, "TCP", 80, json!({}), &[(web.ip, 8080)]);
    let datapath = lab.start();
    let world = lab.world();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let (_sender, worlds) = tokio::sync::watch::channel(world);
        let token = CancellationToken::new();
        let config = strake_flow::Config::new(datapath.maps_folder());
        let log = FlowLog::start(&config, worlds, token.clone()).unwrap();
        let (_, mut flows) = log.history().read(&Filter::default(), 0);
        let sent = lab.in_pod(&evil, &["spoof", "10.244.0.200:1000", &format!("{}:8080", web.ip)]).line();
        assert_eq!(sent, "sent");
        let dropped = async {
            loop {
                if let Ok(Item::Flow(flow)) = flows.recv().await
                    && flow.kind == i32::from(Kind::Drop)
                {
                    return flow;
                }
            }
        };
        let flow = tokio::time::timeout(Duration::from_secs(5), dropped).await.expect("no event of the drop");
        assert_eq!((flow.verdict, flow.reason.as_str()), (Verdict::Dropped.into(), "spoofed_ip"));
        assert_eq!(flow.source.as_ref().unwrap().ip, "10.244.0.200");
        assert_eq!(flow.destination.as_ref().unwrap().pod, "web");

        // And a good connection shows both ends and the Service.
        let _server = lab.serve(&web, 8080);
        assert!(lab.in_pod(&evil, &["tcp", &format!("{VIP}:80")]).line().starts_with("web "));
        let opened = async {
            loop {
                if let Ok(Item::Flow(flow)) = flows.recv().await
                    && flow.kind == i32::from(Kind::Open)
                    && flow.service_name == "web"
                {
                    return flow;
                }
            }
        };
        let flow = tokio::time::timeout(Duration::from_secs(5), opened).await.expect("no event of the connection");
        assert_eq!(flow.source.as_ref().unwrap().pod, "evil");
        assert_eq!(flow.destination.as_ref().unwrap().pod, "web");
        assert_eq!((flow.frontend_ip.as_str(), flow.frontend_port), (VIP, 80));
        token.cancel();
    });
    assert!(datapath.status().unwrap().drops["spoofed_ip"] >= 1);
}
