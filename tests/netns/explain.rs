//! What is told of a connection is what becomes of it.

use std::net::{IpAddr, SocketAddr};

use serde_json::json;
use strake_datapath::{Datapath, ExplainError, Explanation, Fate, Origin, Question};
use strake_state::ObjectName;
use strake_tests::lab::{NODE_IP, OUTSIDE_IP};

use crate::{VIP, alone, lab};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

fn pod(name: &str) -> Origin {
    Origin::Pod(ObjectName::new("default", name))
}

fn ask(datapath: &Datapath, origin: Origin, to: &str, protocol: u8) -> Explanation {
    let question = Question { origin, source_port: None, to: to.parse().unwrap(), protocol };
    datapath.explain(&question).unwrap_or_else(|error| panic!("{question:?}: {error}"))
}

fn hooks(explanation: &Explanation) -> Vec<&str> {
    explanation.steps.iter().map(|step| step.hook.split(' ').next().unwrap()).collect()
}

fn addresses(explanation: &Explanation) -> Vec<String> {
    explanation.backends.iter().map(|backend| backend.address.to_string()).collect()
}

#[test]
fn a_connection_through_a_service_is_told_on_either_path() {
    let _alone = alone();
    let mut lab = lab();
    let (hooked, plain) = (lab.pod("hooked"), lab.pod("plain"));
    let (one, two) = (lab.pod("one"), lab.pod("two"));
    lab.opt_out(&plain);
    lab.service("web", VIP, "TCP", 80, json!({}), &[(one.ip, 8080), (two.ip, 8080)]);
    let datapath = lab.start();
    if !datapath.features().netns_cookie {
        return; // Below 5.14 a Pod cannot opt out.
    }
    let _servers = [lab.serve(&one, 8080), lab.serve(&two, 8080)];
    let (vip, both) = (format!("{VIP}:80"), [format!("{}:8080", one.ip), format!("{}:8080", two.ip)]);

    let told = ask(&datapath, pod("hooked"), &vip, TCP);
    assert_eq!(hooks(&told), ["sock_connect4", "from_pod"], "{told}");
    assert_eq!((told.verdict, told.service.as_deref()), (Fate::Forwarded, Some("default/web:80")), "{told}");
    assert_eq!(addresses(&told), both, "{told}");
    assert_eq!(told.source.as_deref(), Some(hooked.ip.to_string().as_str()), "{told}");
    let text = told.to_string();
    for part in [
        "SERVICES[10.96.0.7:80/TCP internal]",
        "default/web:80, id ",
        "PODS_BY_NETNS[",
        "served by the socket hooks",
        "default/one",
        "drawn by lot",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    // By its address it is the same.
    let by_ip = ask(&datapath, Origin::Ip(hooked.ip.into()), &vip, TCP);
    assert_eq!(by_ip, told);

    // A Pod that opted out: the same Service by the packets.
    let told = ask(&datapath, pod("plain"), &vip, TCP);
    assert_eq!(hooks(&told)[..2], ["sock_connect4", "from_pod"], "{told}");
    assert!(told.steps[0].result.contains("opted out (strake.io/socket-lb: disabled on the Pod)"), "{told}");
    assert_eq!(addresses(&told), both, "{told}");

    // One that exists is told with the backend that it has, and not with the lot.
    let mut client = lab.in_pod(&plain, &["tcp-long", &vip]);
    assert_eq!(client.line(), "connected");
    let answer = client.ask("");
    let (name, peer) = answer.split_once(' ').unwrap();
    let source_port = Some(peer.parse::<SocketAddr>().unwrap().port());
    let question = Question { origin: pod("plain"), source_port, to: vip.parse().unwrap(), protocol: TCP };
    let told = datapath.explain(&question).unwrap();
    assert_eq!(told.backends[0].who.pod, Some(format!("default/{name}")), "{told}");
    assert_eq!(told.backends.len(), 1, "{told}");
    assert!(told.to_string().contains("CONNTRACK[") && told.outcome.contains("exists"), "{told}");

    let mut client = lab.in_pod(&hooked, &["tcp-long", &vip]);
    assert_eq!(client.line(), "connected");
    let answer = client.ask("");
    let (name, peer) = answer.split_once(' ').unwrap();
    let source_port = Some(peer.parse::<SocketAddr>().unwrap().port());
    let question = Question { origin: pod("hooked"), source_port, to: vip.parse().unwrap(), protocol: TCP };
    let told = datapath.explain(&question).unwrap();
    assert_eq!(told.backends[0].who.pod, Some(format!("default/{name}")), "{told}");
    assert_eq!((told.backends.len(), told.service.as_deref()), (1, Some("default/web:80")), "{told}");

    // A process of the node.
    let told = ask(&datapath, Origin::Node, &vip, TCP);
    assert_eq!(hooks(&told)[0], "sock_connect4", "{told}");
    assert_eq!((addresses(&told), told.source.as_deref()), (both.to_vec(), Some("192.0.2.1")), "{told}");
    // Asking chose nothing, and made nothing.
    assert_eq!(datapath.status().unwrap().counters["sock_connect_translated"], 1);
}

#[test]
fn affinity_and_hairpin_are_told_as_they_happen() {
    let _alone = alone();
    let mut lab = lab();
    let (client, one, two) = (lab.pod("client"), lab.pod("one"), lab.pod("two"));
    lab.service("web", VIP, "TCP", 80, json!({"sessionAffinity": "ClientIP"}), &[(one.ip, 8080), (two.ip, 8080)]);
    lab.service("self", "10.96.0.8", "TCP", 80, json!({}), &[(client.ip, 8080)]);
    let datapath = lab.start();
    if !datapath.features().netns_cookie {
        return; // Below 5.14 a Pod is not told from others by its sockets, and cannot opt out.
    }
    let _servers = [lab.serve(&one, 8080), lab.serve(&two, 8080), lab.serve(&client, 8080)];
    let vip = format!("{VIP}:80");
    let before = ask(&datapath, pod("client"), &vip, TCP);
    assert_eq!(before.backends.len(), 2, "{before}");
    assert!(before.to_string().contains(&format!("AFFINITY[{}, service", client.ip)), "{before}");
    for _ in 0..3 {
        let answer = lab.in_pod(&client, &["tcp", &vip]).line();
        let told = ask(&datapath, pod("client"), &vip, TCP);
        let [backend] = &told.backends[..] else { panic!("{told}") };
        assert_eq!(backend.who.pod.as_deref(), Some(&*format!("default/{}", answer.split(' ').next().unwrap())));
        assert!(told.outcome.contains("ClientIP affinity"), "{told}");
    }
    lab.opt_out(&client);
    lab.apply();
    let told = ask(&datapath, pod("client"), "10.96.0.8:80", TCP);
    assert_eq!(told.source.as_deref(), Some("169.254.1.1"), "{told}");
    let answer = lab.in_pod(&client, &["tcp", "10.96.0.8:80"]).line();
    assert!(answer.starts_with("client 169.254.1.1:"), "{answer}");
}

#[test]
fn refusals_are_told_with_the_reason_that_the_counters_have() {
    let _alone = alone();
    let mut lab = lab();
    let plain = lab.pod("plain");
    lab.opt_out(&plain);
    lab.service("none", VIP, "TCP", 80, json!({}), &[]);
    let far = [(std::net::Ipv4Addr::new(10, 244, 7, 9), 8080)];
    lab.service("local", "10.96.0.8", "TCP", 80, json!({"internalTrafficPolicy": "Local"}), &[]);
    lab.put(json!({
        "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": "local", "labels": {"kubernetes.io/service-name": "local"}},
        "addressType": "IPv4", "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": [far[0].0], "nodeName": "n2"}],
    }));
    let extra = json!({
        "type": "LoadBalancer", "loadBalancerSourceRanges": ["198.51.100.0/24"],
    });
    lab.service("ranges", "10.96.0.9", "TCP", 80, extra.clone(), &far);
    lab.put(json!({
        "kind": "Service", "metadata": {"namespace": "default", "name": "ranges"},
        "spec": {"clusterIP": "10.96.0.9", "ports": [{"protocol": "TCP", "port": 80}], "type": "LoadBalancer",
                 "loadBalancerSourceRanges": ["198.51.100.0/24"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.5"}]}},
    }));
    let datapath = lab.start();
    if !datapath.features().netns_cookie {
        return; // Below 5.14 a Pod cannot opt out.
    }
    for (to, protocol, verdict, reason) in [
        ("10.96.0.7:80", TCP, Fate::Rejected, "no_endpoints"),
        ("10.96.0.8:80", TCP, Fate::Dropped, "no_endpoints"),
        ("10.96.0.7:81", TCP, Fate::Rejected, "no_service_port"),
        ("10.96.0.7:80", UDP, Fate::Rejected, "no_service_port"),
        ("10.96.0.7:0", ICMP, Fate::Dropped, "no_service_port"),
        ("10.96.0.99:80", TCP, Fate::Dropped, "no_service"),
        ("203.0.113.5:80", TCP, Fate::Dropped, "source_not_in_ranges"),
    ] {
        let told = ask(&datapath, pod("plain"), to, protocol);
        assert_eq!((told.verdict, told.reason), (verdict, Some(reason)), "{to}: {told}");
        if protocol == TCP {
            let before = datapath.status().unwrap().drops[reason];
            let answer = lab.in_pod(&plain, &["tcp", to]).line();
            let expected = if verdict == Fate::Rejected { "error ConnectionRefused" } else { "error TimedOut" };
            assert_eq!(answer, expected, "{to}: {told}");
            assert!(datapath.status().unwrap().drops[reason] > before, "{to}: {reason} was not counted");
        }
    }
    let outside = |ip: &str| ask(&datapath, Origin::Outside(ip.parse().unwrap()), "203.0.113.5:80", TCP);
    assert_eq!(outside("192.0.2.100").reason, Some("source_not_in_ranges"));
    assert_eq!(outside("198.51.100.7").verdict, Fate::Forwarded);
}

#[test]
fn what_passes_the_uplink_is_told_with_its_source_and_why() {
    let _alone = alone();
    let mut lab = lab();
    let (client, web) = (lab.pod("client"), lab.pod("web"));
    let extra = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    lab.service("web", VIP, "TCP", 80, extra, &[(web.ip, 8080)]);
    let extra = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30081}]});
    lab.service("far", "10.96.0.8", "TCP", 80, extra, &[]);
    lab.put(json!({
        "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": "far", "labels": {"kubernetes.io/service-name": "far"}},
        "addressType": "IPv4", "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": ["10.244.7.9"], "nodeName": "n2"}],
    }));
    let datapath = lab.start();
    let mut servers = vec![lab.serve(&web, 8080), lab.outside(&["serve", &format!("{OUTSIDE_IP}:9000"), "world"])];
    assert_eq!(servers[1].line(), "ready");

    // Out: masqueraded to the world, kept within the cluster.
    let world = format!("{OUTSIDE_IP}:9000");
    let told = ask(&datapath, pod("client"), &world, TCP);
    assert_eq!(hooks(&told), ["sock_connect4", "from_pod", "to_net"], "{told}");
    assert!(told.source.as_ref().unwrap().starts_with(&NODE_IP.to_string()), "{told}");
    assert!(told.source_why.as_ref().unwrap().contains("masqueraded"), "{told}");
    let answer = lab.in_pod(&client, &["tcp", &world]).line();
    assert!(answer.starts_with(&format!("world {NODE_IP}:")), "{answer}");
    let told = ask(&datapath, pod("client"), "10.244.7.9:8080", TCP);
    assert!(told.source_why.as_ref().unwrap().contains("a Pod of the cluster"), "{told}");

    // In: kept for a Pod of this node, translated for one of another.
    let outside = || Origin::Outside(OUTSIDE_IP.into());
    let told = ask(&datapath, outside(), &format!("{NODE_IP}:30080"), TCP);
    assert_eq!((hooks(&told), told.source.clone()), (vec!["from_net"], Some(OUTSIDE_IP.to_string())), "{told}");
    assert!(told.to_string().contains("NODES[192.0.2.1]"), "{told}");
    let answer = lab.outside(&["tcp", &format!("{NODE_IP}:30080")]).line();
    assert!(answer.starts_with(&format!("web {OUTSIDE_IP}:")), "{answer}");
    let told = ask(&datapath, outside(), &format!("{NODE_IP}:30081"), TCP);
    assert!(told.source.as_ref().unwrap().starts_with(&NODE_IP.to_string()), "{told}");
    // A ClusterIP is nobody's from there, and an address of the Service range is not routed away by the node.
    let told = ask(&datapath, outside(), &format!("{VIP}:80"), TCP);
    assert!(told.outcome.contains("own stack") && told.backends.is_empty(), "{told}");
    let told = ask(&datapath, Origin::Node, "10.96.0.99:80", TCP);
    assert_eq!((told.verdict, told.reason), (Fate::Dropped, Some("no_service")), "{told}");
    // The cluster DNS is answered at the Pod's interface.
    let told = ask(&datapath, pod("client"), "10.96.0.10:53", UDP);
    assert!(told.outcome.contains("DNS_NAMES"), "{told}");

    // Questions without an answer here.
    let wrong = |origin| {
        let question = Question { origin, source_port: None, to: "10.96.0.7:80".parse().unwrap(), protocol: TCP };
        datapath.explain(&question).unwrap_err()
    };
    assert!(matches!(wrong(pod("nobody")), ExplainError::NoPod { .. }));
    let stranger: IpAddr = "198.51.100.1".parse().unwrap();
    assert!(matches!(wrong(Origin::Ip(stranger)), ExplainError::UnknownSource { .. }));
    servers.clear();
}
