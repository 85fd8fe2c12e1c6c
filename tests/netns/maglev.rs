//! Maglev with real clients: two nodes, one after the other.

use serde_json::json;
use strake_datapath::{Config, Datapath, LbAlgorithm, MapSizes, Origin, Question};
use strake_tests::lab::{Lab, LabPod, NODE_IP, OUTSIDE_IP};

use crate::{VIP, alone, lab};

/// Where each client port is led, on a node of its own with three Pods that the API lists in this order.
fn led(
    order: [usize; 3],
    annotation: Option<&str>,
    config: impl FnOnce(Config) -> Config,
) -> (Vec<String>, Vec<String>) {
    let mut lab: Lab = lab();
    let pods = ["one", "two", "three"].map(|name| lab.pod(name));
    let backends = order.map(|i| (pods[i].ip, 5514));
    let extra = json!({"type": "NodePort", "ports": [{"port": 514, "protocol": "UDP", "nodePort": 30514}]});
    lab.service("log", VIP, "UDP", 514, extra, &backends);
    if let Some(algorithm) = annotation {
        lab.annotate("log", &json!({"strake.io/lb-algorithm": algorithm}));
    }
    let datapath = lab.start_with(config(lab.config()));
    let _servers = pods.each_ref().map(|pod| lab.serve(pod, 5514));
    let ports: Vec<String> = (0..24).map(|i| (41_000 + i * 7).to_string()).collect();
    let predicted = predicted(&datapath, &ports);
    let led = ports.iter().map(|port| {
        let answer = lab.outside(&["udp-from", port, &format!("{NODE_IP}:30514")]).line();
        answer.split(' ').next().unwrap_or_default().to_owned()
    });
    let led: Vec<String> = led.collect();
    if annotation != Some("random") {
        assert_eq!(predicted.into_iter().flatten().collect::<Vec<_>>(), led);
    } else {
        assert!(predicted.iter().all(Option::is_none), "{predicted:?}");
    }
    let trace = datapath.trace(&strake_state::ObjectName::new("default", "log")).unwrap();
    let outcomes = trace.frontends.into_iter().map(|f| format!("{}: {}", f.frontend, f.outcome)).collect();
    (led, outcomes)
}

/// The Pod that each client port is said to be led to; none where that is left to chance.
fn predicted(datapath: &Datapath, ports: &[String]) -> Vec<Option<String>> {
    let ask = |port: &String| {
        let question = Question {
            origin: Origin::Outside(OUTSIDE_IP.into()),
            source_port: port.parse().ok(),
            to: format!("{NODE_IP}:30514").parse().unwrap(),
            protocol: 17,
        };
        let told = datapath.explain(&question).unwrap();
        let [one] = &told.backends[..] else { return None };
        assert!(told.outcome.contains("every node's Maglev table") && told.to_string().contains("MAGLEV["), "{told}");
        Some(one.who.pod.as_deref()?.trim_start_matches("default/").to_owned())
    };
    ports.iter().map(ask).collect()
}

#[test]
fn two_nodes_lead_a_client_to_the_same_pod() {
    let _alone = alone();
    let (one, outcomes) = led([0, 1, 2], Some("maglev"), |config| config);
    for pod in ["one", "two", "three"] {
        assert!(one.iter().filter(|name| *name == pod).count() >= 3, "{one:?}");
    }
    let outcome = |text: &str| outcomes.iter().find(|outcome| outcome.starts_with(text)).unwrap().clone();
    assert!(outcome("0.0.0.0:30514/UDP external").contains("by Maglev"), "{outcomes:?}");
    assert!(outcome("0.0.0.0:30514/UDP internal").ends_with("each as likely"), "{outcomes:?}");
    // Another list of endpoints, and the node's choice instead of the Service's.
    let (two, _) = led([2, 0, 1], None, |config| Config { lb_algorithm: LbAlgorithm::Maglev, ..config });
    assert_eq!(one, two);
    // The other way round: 24 clients led alike by chance are one in 3^24.
    let (random, _) = led([0, 1, 2], Some("random"), |config| Config { lb_algorithm: LbAlgorithm::Maglev, ..config });
    assert_ne!(one, random);
}

/// Two Services of two backends each, which have a table of 32 rows.
fn two_with_tables(lab: &mut Lab) -> [LabPod; 2] {
    let pods = ["one", "two"].map(|name| lab.pod(name));
    for (service, port) in [("a", 30514), ("b", 30515)] {
        let extra = json!({"type": "NodePort", "ports": [{"port": 514, "protocol": "UDP", "nodePort": port}]});
        let vip = format!("10.96.0.{}", port - 30500);
        lab.service(service, &vip, "UDP", 514, extra, &pods.each_ref().map(|pod| (pod.ip, 5514)));
        lab.annotate(service, &json!({"strake.io/lb-algorithm": "maglev"}));
    }
    pods
}

fn room(datapath: &Datapath) -> (u64, u32) {
    let maps = datapath.status().unwrap().maps;
    maps.iter().find(|map| map.map == "MAGLEV").map(|map| (map.entries, map.capacity)).unwrap()
}

#[test]
fn without_room_for_a_table_a_service_is_served_and_a_warning_says_so() {
    let _alone = alone();
    let mut lab = lab();
    let pods = two_with_tables(&mut lab);
    let sizes = MapSizes { maglev: 40, ..MapSizes::default() };
    // As large as may be.
    let datapath = lab.start_with(Config { sizes, max_rows: 40, ..lab.config() });
    let _servers = pods.each_ref().map(|pod| lab.serve(pod, 5514));
    for port in ["30514", "30515"] {
        let answer = lab.outside(&["udp-from", "41000", &format!("{NODE_IP}:{port}")]).line();
        assert!(answer.starts_with("one ") || answer.starts_with("two "), "{answer}");
    }
    let status = || datapath.status().unwrap();
    let warnings = || status().warnings.into_iter().map(|w| format!("{} {}", w.object, w.message)).collect::<Vec<_>>();
    let without = "default/b no room in MAGLEV for the table of port 514/UDP: its backends are chosen at random";
    assert_eq!(warnings(), [without]);
    assert_eq!(room(&datapath), (32, 40));
    // Its room becomes free: the other's table is made, without waiting for a grace period.
    lab.annotate("a", &json!({}));
    lab.apply();
    lab.apply();
    assert_eq!(warnings(), [""; 0]);
    let trace = datapath.trace(&strake_state::ObjectName::new("default", "b")).unwrap();
    assert!(trace.frontends.iter().any(|f| f.outcome.contains("by Maglev")), "{trace}");
}

#[test]
fn tables_get_more_room_when_services_need_it() {
    let _alone = alone();
    let mut lab = lab();
    let pods = two_with_tables(&mut lab);
    let sizes = MapSizes { maglev: 40, ..MapSizes::default() };
    let config = Config { sizes, ..lab.config() };
    let datapath = lab.start_with(config.clone());
    let _servers = pods.each_ref().map(|pod| lab.serve(pod, 5514));
    assert_eq!((room(&datapath), datapath.status().unwrap().warnings.len()), ((64, 128), 0));
    let led = |lab: &Lab| {
        let ask = |port: u32| lab.outside(&["udp-from", &(41_000 + port).to_string(), &format!("{NODE_IP}:30515")]);
        (0..6).map(|i| ask(i * 7).line().split(' ').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let before = led(&lab);
    // A third and a fourth fill it, the fifth needs more again, and a restart keeps it all.
    for number in 0..3 {
        let port = 30_600 + number;
        let extra = json!({"type": "NodePort", "ports": [{"port": 514, "protocol": "UDP", "nodePort": port}]});
        let (name, vip) = (format!("more{number}"), format!("10.96.1.{number}"));
        lab.service(&name, &vip, "UDP", 514, extra, &pods.each_ref().map(|pod| (pod.ip, 5514)));
        lab.annotate(&name, &json!({"strake.io/lb-algorithm": "maglev"}));
        lab.apply();
    }
    assert_eq!((room(&datapath), datapath.status().unwrap().warnings.len()), ((160, 256), 0));
    assert_eq!(led(&lab), before);
    drop(datapath);
    lab.stop();
    let datapath = lab.start_with(config);
    assert_eq!(room(&datapath), (160, 256));
    assert_eq!(led(&lab), before);
}
