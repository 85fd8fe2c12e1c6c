//! Services and backends change under traffic.

use serde_json::json;
use strake_datapath::ApplyOutcome;

use crate::{VIP, alone, lab};

#[test]
fn no_new_connection_fails_while_backends_come_and_go() {
    let _alone = alone();
    let mut lab = lab();
    let (hooked, plain) = (lab.pod("hooked"), lab.pod("plain"));
    let (one, two) = (lab.pod("one"), lab.pod("two"));
    lab.opt_out(&plain);
    lab.service("web", VIP, "TCP", 80, json!({}), &[(one.ip, 8080), (two.ip, 8080)]);
    lab.start();
    let _servers = [lab.serve(&one, 8080), lab.serve(&two, 8080)];
    let clients = [&hooked, &plain].map(|pod| lab.in_pod(pod, &["tcp-many", &format!("{VIP}:80"), "300", "2"]));
    for round in 0..40 {
        let only = if round % 2 == 0 { one.ip } else { two.ip };
        lab.endpoints("web", "TCP", &[(only, 8080)]);
        assert!(matches!(lab.apply(), ApplyOutcome::Applied(_)));
        lab.endpoints("web", "TCP", &[(one.ip, 8080), (two.ip, 8080)]);
        lab.apply();
    }
    for client in clients {
        assert_eq!(client.finish(), "done 300 failed 0  names one,two");
    }
}

#[test]
fn a_removed_backend_gets_no_new_connection_at_once() {
    let _alone = alone();
    let mut lab = lab();
    let (client, one, two) = (lab.pod("client"), lab.pod("one"), lab.pod("two"));
    lab.service("web", VIP, "TCP", 80, json!({}), &[(one.ip, 8080), (two.ip, 8080)]);
    lab.start();
    let _servers = [lab.serve(&one, 8080), lab.serve(&two, 8080)];
    lab.endpoints("web", "TCP", &[(two.ip, 8080)]);
    lab.apply();
    let answer = lab.in_pod(&client, &["tcp-many", &format!("{VIP}:80"), "50", "0"]).line();
    assert_eq!(answer, "done 50 failed 0  names two");
}

#[test]
fn udp_leaves_a_removed_backend_at_once_connected_or_not() {
    let _alone = alone();
    let mut lab = lab();
    let (client, plain) = (lab.pod("client"), lab.pod("plain"));
    let (one, two) = (lab.pod("one"), lab.pod("two"));
    lab.opt_out(&plain);
    lab.service("log", VIP, "UDP", 514, json!({}), &[(one.ip, 5514)]);
    let datapath = lab.start();
    let _servers = [lab.serve(&one, 5514), lab.serve(&two, 5514)];
    let vip = format!("{VIP}:514");
    let mut hooked = lab.in_pod(&client, &["udp-connected", &vip]);
    let mut packets = lab.in_pod(&plain, &["udp-connected", &vip]);
    for socket in [&mut hooked, &mut packets] {
        assert_eq!(socket.line(), format!("connected {vip}"));
        assert!(socket.ask("").starts_with("one "));
    }
    lab.endpoints("log", "UDP", &[(two.ip, 5514)]);
    let ApplyOutcome::Applied(applied) = lab.apply() else { panic!("nothing applied") };
    // Below 5.14 a Pod cannot opt out: both are hooked.
    let opted_out = datapath.features().netns_cookie;
    assert_eq!(applied.swept.sockets, if opted_out { 1 } else { 2 }, "hooked Pods' connected sockets: {applied:?}");
    let answer = hooked.ask("");
    assert!(answer.starts_with("error "), "it still talks to the removed backend: {answer}");
    let answer = packets.ask("");
    let expected = if opted_out { "two " } else { "error " };
    assert!(answer.starts_with(expected), "the packet path chooses again: {answer}");
    let answer = lab.in_pod(&client, &["udp", &vip]).line();
    assert!(answer.starts_with("two "), "{answer}");
}

#[test]
fn a_trace_names_the_entries_that_a_connection_meets() {
    let _alone = alone();
    let mut lab = lab();
    let web = lab.pod("web");
    lab.service("web", VIP, "TCP", 80, json!({}), &[(web.ip, 8080)]);
    let datapath = lab.start();
    let trace = datapath.trace(&strake_state::ObjectName::new("default", "web")).unwrap();
    let text = trace.to_string();
    assert!(text.contains("SERVICES[10.96.0.7:80/TCP internal]"), "{text}");
    assert!(text.contains(&format!("{}:8080 default/web", web.ip)), "{text}");
    assert!(text.contains("DNS_NAMES["), "{text}");
    let gone = datapath.trace(&strake_state::ObjectName::new("default", "gone")).unwrap();
    assert!(gone.note.unwrap().contains("no Service default/gone"));
}
