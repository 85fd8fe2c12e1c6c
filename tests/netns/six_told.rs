//! Connections of IPv6 as an engineer asks for them.

use std::net::SocketAddr;
use std::ops::ControlFlow;

use serde_json::json;
use strake_datapath::{Connection, ConntrackFilter, Datapath, Fate, Origin, Question};
use strake_state::ObjectName;
use strake_tests::lab::{NODE_IP6, OUTSIDE_IP6};

use crate::{VIP, alone, lab};

const VIP6: &str = "[fd00:10:96::7]:80";
const TCP: u8 = 6;

fn list(datapath: &Datapath, filter: &ConntrackFilter) -> Vec<Connection> {
    let mut all = Vec::new();
    let each = |connection| {
        all.push(connection);
        ControlFlow::Continue(())
    };
    datapath.connections().unwrap().list(filter, each).unwrap();
    all
}

#[test]
fn connections_of_both_families_are_listed_counted_told_and_forgotten() {
    let _alone = alone();
    let mut lab = lab();
    lab.with_ipv6();
    let (client, one, two) = (lab.pod("client"), lab.pod("one"), lab.pod("two"));
    let (client6, one6, two6) = (lab.pod6(&client), lab.pod6(&one), lab.pod6(&two));
    lab.opt_out(&client);
    lab.service("web", VIP, "TCP", 80, json!({"clusterIPs": [VIP, "fd00:10:96::7"]}), &[(one.ip, 8080)]);
    lab.endpoints6("web", "TCP", &[(one6, 8080), (two6, 8080)]);
    let datapath = lab.start();
    if !datapath.features().netns_cookie {
        return; // Below 5.14 a Pod cannot opt out.
    }
    let _servers = [(&one, "one"), (&two, "two")].map(|(pod, name)| {
        let mut server = lab.in_pod(pod, &["serve", "[::]:8080", name]);
        assert_eq!(server.line(), "ready");
        server
    });
    let open = |to: &str| {
        let mut connection = lab.in_pod(&client, &["tcp-long", to]);
        assert_eq!(connection.line(), "connected");
        let answer = connection.ask("");
        let (name, peer) = answer.split_once(' ').unwrap();
        (connection, name.to_owned(), peer.parse::<SocketAddr>().unwrap())
    };
    let (_short, ..) = open(&format!("{VIP}:80"));
    let (mut long, name, source) = open(VIP6);
    assert_eq!(source.ip(), client6);

    let web = ConntrackFilter { service: Some(ObjectName::new("default", "web")), ..ConntrackFilter::default() };
    let found = list(&datapath, &web);
    assert_eq!(found.len(), 2, "one of each family: {found:#?}");
    let only = ConntrackFilter { ip: Some(client6.into()), ..web.clone() };
    let [connection] = &list(&datapath, &only)[..] else { panic!("not one of IPv6: {found:#?}") };
    assert_eq!((connection.source.ip, connection.source.port), (source.ip(), source.port()));
    assert_eq!((connection.frontend, connection.state), (Some(VIP6.parse().unwrap()), "established"));
    assert_eq!(connection.source.who.pod.as_deref(), Some("default/client"));
    assert_eq!(connection.destination.who.pod, Some(format!("default/{name}")));
    assert!(connection.packets >= 3 && connection.reply_packets >= 2, "{connection:?}");
    let entries = |map: &str| datapath.status().unwrap().maps.iter().find(|m| m.map == map).unwrap().entries;
    assert_eq!((entries("CONNTRACK"), entries("CONNTRACK_V6")), (2, 2));

    // What is asked about it is told from its rows.
    let ask = |origin, source_port, to: &str| {
        datapath.explain(&Question { origin, source_port, to: to.parse().unwrap(), protocol: TCP }).unwrap()
    };
    let told = ask(Origin::Pod(ObjectName::new("default", "client")), Some(source.port()), VIP6);
    assert_eq!(told.backends.len(), 1, "{told}");
    assert_eq!(told.backends[0].who.pod, Some(format!("default/{name}")), "{told}");
    assert!(told.to_string().contains("CONNTRACK_V6[[") && told.outcome.contains("exists"), "{told}");
    let told = ask(Origin::Ip(client6.into()), None, VIP6);
    assert_eq!((told.verdict, told.backends.len()), (Fate::Forwarded, 2), "{told}");

    // Forgotten, and tracked again with what it sends next; the other family's stays.
    let flushed = datapath.connections().unwrap().flush(&only).unwrap();
    assert_eq!((flushed.connections, flushed.rows), (1, 2));
    assert_eq!((entries("CONNTRACK"), entries("CONNTRACK_V6")), (2, 0));
    long.ask("");
    assert_eq!(entries("CONNTRACK_V6"), 2);
}

#[test]
fn an_ipv6_clients_affinity_is_told_as_it_happens() {
    let _alone = alone();
    let mut lab = lab();
    lab.with_ipv6();
    let (one, two) = (lab.pod("one"), lab.pod("two"));
    let (one6, two6) = (lab.pod6(&one), lab.pod6(&two));
    let extra = json!({
        "type": "NodePort", "sessionAffinity": "ClientIP", "ports": [{"port": 80, "nodePort": 30080}],
    });
    lab.service("web", "fd00:10:96::7", "TCP", 80, extra, &[]);
    lab.endpoints6("web", "TCP", &[(one6, 8080), (two6, 8080)]);
    let datapath = lab.start();
    let _servers = [(&one, "one"), (&two, "two")].map(|(pod, name)| {
        let mut server = lab.in_pod(pod, &["serve", "[::]:8080", name]);
        assert_eq!(server.line(), "ready");
        server
    });
    let there = format!("[{NODE_IP6}]:30080");
    let ask = || {
        let origin = Origin::Outside(OUTSIDE_IP6.into());
        let question = Question { origin, source_port: None, to: there.parse().unwrap(), protocol: TCP };
        datapath.explain(&question).unwrap()
    };
    let told = ask();
    assert_eq!(told.backends.len(), 2, "{told}");
    let answer = lab.outside(&["tcp", &there]).line();
    let told = ask();
    let [backend] = &told.backends[..] else { panic!("{told}") };
    assert_eq!(backend.who.pod.as_deref(), Some(&*format!("default/{}", answer.split(' ').next().unwrap())));
    assert!(told.to_string().contains(&format!("AFFINITY_V6[{OUTSIDE_IP6}, service")), "{told}");
}
