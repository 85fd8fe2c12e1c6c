//! Tracked connections as an engineer asks for them.

use std::ops::ControlFlow;

use serde_json::json;
use strake_abi::conntrack::{BORDER_POD, CONNTRACK, CT_TRANSLATED, Conntrack, ConntrackKey, DIRECTION_REPLY, Tuple4};
use strake_abi::{Addr4, Port};
use strake_datapath::{Config, Connection, ConntrackFilter, Datapath, FilterError, FlowState, ListError, MapSizes};
use strake_state::ObjectName;

use crate::{VIP, alone, lab};

fn list(datapath: &Datapath, filter: &ConntrackFilter) -> Vec<Connection> {
    let mut all = Vec::new();
    let each = |connection| {
        all.push(connection);
        ControlFlow::Continue(())
    };
    datapath.connections().unwrap().list(filter, each).unwrap();
    all
}

fn of_pod(name: &str) -> ConntrackFilter {
    ConntrackFilter { pod: Some(ObjectName::new("default", name)), ..ConntrackFilter::default() }
}

#[test]
fn a_connection_is_one_with_its_names_and_begins_anew_when_it_is_forgotten() {
    let _alone = alone();
    let mut lab = lab();
    let (hooked, plain) = (lab.pod("hooked"), lab.pod("plain"));
    let (one, two) = (lab.pod("one"), lab.pod("two"));
    lab.opt_out(&plain);
    lab.service("web", VIP, "TCP", 80, json!({}), &[(one.ip, 8080)]);
    let datapath = lab.start();
    if !datapath.features().netns_cookie {
        return; // Below 5.14 a Pod cannot opt out.
    }
    let _servers = [lab.serve(&one, 8080), lab.serve(&two, 8080)];
    let vip = format!("{VIP}:80");
    let mut clients = [&hooked, &plain].map(|pod| {
        let mut client = lab.in_pod(pod, &["tcp-long", &vip]);
        assert_eq!(client.line(), "connected");
        assert!(client.ask("").starts_with("one "));
        client
    });

    let web = ConntrackFilter { service: Some(ObjectName::new("default", "web")), ..ConntrackFilter::default() };
    let mut found = list(&datapath, &web);
    found.sort_by(|a, b| a.source.who.pod.cmp(&b.source.who.pod));
    let [by_hook, by_packet] = &found[..] else { panic!("not one row a connection: {found:#?}") };
    for (connection, pod) in [(by_hook, "default/hooked"), (by_packet, "default/plain")] {
        assert_eq!(connection.source.who.pod.as_deref(), Some(pod));
        assert_eq!(connection.destination.who.pod.as_deref(), Some("default/one"));
        assert_eq!(connection.frontend, Some(vip.parse().unwrap()));
        assert_eq!((connection.service.as_deref(), connection.state), (Some("default/web"), "established"));
        assert!(connection.packets >= 3 && connection.reply_packets >= 2, "{connection:?}");
        assert!(connection.bytes > 0 && connection.reply_bytes > 0 && connection.age_seconds < 60, "{connection:?}");
    }
    assert!(by_hook.flags.contains(&"socket-hook") && !by_hook.flags.contains(&"translated"), "{by_hook:?}");
    assert!(by_packet.flags.contains(&"translated"), "{by_packet:?}");

    // Each condition restricts.
    let count = |filter: &ConntrackFilter| list(&datapath, filter).len();
    assert_eq!((count(&of_pod("plain")), count(&of_pod("one")), count(&of_pod("two"))), (1, 2, 0));
    let with = |change: fn(&mut ConntrackFilter)| {
        let mut filter = web.clone();
        change(&mut filter);
        count(&filter)
    };
    assert_eq!(with(|f| f.protocol = Some(17)), 0);
    assert_eq!(with(|f| f.state = Some(FlowState::New)), 0);
    assert_eq!(with(|f| f.state = Some(FlowState::Established)), 2);
    assert_eq!(with(|f| f.port = Some(80)), 2, "the frontend's, which a hooked connection's packets do not show");
    assert_eq!(with(|f| f.port = Some(443)), 0);
    assert_eq!(with(|f| f.ip = VIP.parse().ok()), 2);
    assert_eq!(with(|f| f.ip = "10.96.0.99".parse().ok()), 0);
    let mut connections = datapath.connections().unwrap();
    let unknown = connections.flush(&of_pod("nobody")).unwrap_err();
    assert!(matches!(unknown, ListError::Filter(FilterError::Pod { .. })), "{unknown}");

    // Forgotten, it goes on with the only backend there is, and is tracked again; the other was not touched.
    let flushed = connections.flush(&of_pod("plain")).unwrap();
    assert_eq!((flushed.connections, flushed.rows), (1, 2));
    assert_eq!((count(&of_pod("plain")), count(&of_pod("hooked"))), (0, 1));
    let [hook_client, packet_client] = &mut clients;
    assert!(packet_client.ask("").starts_with("one "));
    assert_eq!(count(&of_pod("plain")), 1);
    // What a hook translated goes on untracked.
    assert_eq!(connections.flush(&of_pod("hooked")).unwrap().connections, 1);
    assert!(hook_client.ask("").starts_with("one "));
    assert_eq!(count(&of_pod("hooked")), 0);
    // With another backend than before, that one knows nothing of the connection and resets it.
    lab.endpoints("web", "TCP", &[(two.ip, 8080)]);
    lab.apply();
    assert!(packet_client.ask("").starts_with("one "), "a live connection stays with its backend");
    assert_eq!(connections.flush(&web).unwrap().connections, 1);
    let answer = packet_client.ask("");
    assert!(answer.starts_with("error "), "{answer}");
}

fn kilobytes(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The rows are 16 MB of keys and values alone.
#[test]
fn a_full_map_is_listed_and_flushed_in_little_memory() {
    const FLOWS: u32 = 100_000;
    let _alone = alone();
    let mut lab = lab();
    lab.pod("web");
    let sizes = MapSizes { conntrack: 262_144, ..MapSizes::default() };
    let datapath = lab.start_with(Config { sizes, ..lab.config() });
    let path = strake_datapath::maps_folder(&lab.config().bpf_root).join(CONNTRACK);
    let map = aya::maps::Map::from_map_data(aya::maps::MapData::from_pin(path).unwrap()).unwrap();
    let mut map: aya::maps::HashMap<_, ConntrackKey, Conntrack> = map.try_into().unwrap();
    for n in 0..FLOWS {
        let src = Addr4::new((0x0b00_0000 + n).to_be_bytes());
        let (vip, backend) = (Addr4::new([10, 96, 0, 7]), Addr4::new([10, 244, 0, 5]));
        let asked = Tuple4 { src, dst: vip, sport: Port::new(1000), dport: Port::new(80) };
        let to = Tuple4 { dst: backend, dport: Port::new(8080), ..asked };
        let key = |tuple| ConntrackKey { tuple, proto: 6, border: BORDER_POD, reserved: 0 };
        let row = Conntrack { to, flags: CT_TRANSLATED, state: 1, ..Conntrack::default() };
        let reply = Conntrack { to: asked.mirror(), direction: DIRECTION_REPLY, ..row };
        map.insert(key(to.mirror()), reply, 0).unwrap();
        map.insert(key(asked), row, 0).unwrap();
    }
    let mut connections = datapath.connections().unwrap();
    // From here on the peak of what is resident counts.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = kilobytes("VmHWM:");
    let mut seen = 0;
    let each = |_| {
        seen += 1;
        ControlFlow::Continue(())
    };
    connections.list(&ConntrackFilter::default(), each).unwrap();
    assert_eq!(seen, FLOWS);
    let only = ConntrackFilter { ip: "11.0.0.7".parse().ok(), ..ConntrackFilter::default() };
    assert_eq!(connections.flush(&only).unwrap().connections, 1);
    let flushed = connections.flush(&ConntrackFilter::default()).unwrap();
    assert_eq!((flushed.connections, flushed.rows), (u64::from(FLOWS) - 1, 2 * (u64::from(FLOWS) - 1)));
    let grown = kilobytes("VmHWM:") - before;
    assert!(grown < 8 << 10, "it took {grown} kB");
    assert_eq!(list(&datapath, &ConntrackFilter::default()).len(), 0);
}
