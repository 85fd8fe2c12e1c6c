//! A client, two nodes, and a backend on the second: what the first sends on before its stack.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use serde_json::{Value, json};
use strake_datapath::{Attachment, Config, ConntrackFilter, Datapath, Origin, Question, XdpAttached, XdpMode, load};
use strake_tests::lab::chain;
use strake_tests::lan::{CLIENT, Lan, NODES, NODES6};

use crate::{alone, upgrade};

const PORT: u16 = 30080;

fn lan(mode: XdpMode) -> Lan {
    let mut lan = Lan::new(&[env!("CARGO_BIN_EXE_strake-net-helper")]);
    lan.node_port("web", ["10.96.0.7", "fd00:10:96::7"], PORT, &json!({}));
    start(&mut lan, mode);
    lan
}

fn start(lan: &mut Lan, mode: XdpMode) {
    lan.start(|config| Config { xdp: mode, ..config });
}

fn fronts() -> [SocketAddr; 2] {
    [(NODES[0], PORT).into(), (NODES6[0], PORT).into()]
}

/// Every family and protocol, and the node's own address as what the backend sees.
fn calls_are_answered(lan: &Lan) {
    for (front, node) in fronts().into_iter().zip([NODES[0].to_string(), format!("[{}]", NODES6[0])]) {
        let answer = lan.on_client(&["tcp", &front.to_string()]).line();
        assert!(answer.starts_with(&format!("web {node}:")), "{front}: {answer}");
        assert!(answer.ends_with(&format!("as {front}")), "{front}: {answer}");
        let answer = lan.on_client(&["udp", &front.to_string()]).line();
        assert!(answer.starts_with(&format!("web {node}:")), "{front}: {answer}");
        assert!(answer.ends_with(&format!("from {front}")), "{front}: {answer}");
        let many = lan.on_client(&["tcp-many", &front.to_string(), "20", "0"]).line();
        assert!(many.starts_with("done 20 failed 0"), "{front}: {many}");
    }
}

fn serves_in(mode: XdpMode, got: XdpAttached) {
    let _alone = alone();
    let lan = lan(mode);
    let status = lan.datapaths[0].status().unwrap();
    assert_eq!((status.xdp.mode, status.xdp.why.as_str()), (got, ""));
    assert!(status.attached.iter().any(|a| a.program == format!("xdp_lb-{got}") && a.target == "up0"));
    let _servers = lan.serve();
    calls_are_answered(&lan);
    // A connection is at least four packets one way and three the other; nothing of it is seen by the stack's hook.
    let forwarded = lan.counted(0, "xdp_forwarded");
    assert!(forwarded >= 2 * (21 * 7 + 2), "{forwarded}");
    assert_eq!(lan.counted(0, "service_opened"), 2 * 22);
}

#[test]
fn packets_for_another_node_are_sent_on_from_the_driver() {
    serves_in(XdpMode::Native, XdpAttached::Native);
}

#[test]
fn packets_for_another_node_are_sent_on_by_generic_xdp_where_that_is_asked_for() {
    serves_in(XdpMode::Generic, XdpAttached::Generic);
}

#[test]
fn a_virtual_uplink_is_left_to_the_stack_unless_asked_and_the_reason_is_told() {
    let _alone = alone();
    let lan = lan(XdpMode::Auto);
    let status = lan.datapaths[0].status().unwrap();
    assert_eq!(status.xdp.mode, XdpAttached::Off);
    assert!(status.xdp.why.contains("up0 is a virtual interface (veth)"), "{}", status.xdp.why);
    let _servers = lan.serve();
    calls_are_answered(&lan);
    assert_eq!(lan.counted(0, "xdp_forwarded"), 0);
}

/// Connections live through a change of the hook that carries them: a new program, none, the other mode.
#[test]
fn connections_live_through_restarts_and_changes_of_mode() {
    let _alone = alone();
    let mut lan = lan(XdpMode::Native);
    let _servers = lan.serve();
    let mut held = fronts().map(|front| lan.on_client(&["tcp-long", &front.to_string()]));
    for client in &mut held {
        assert_eq!(client.line(), "connected");
        assert!(client.ask("").starts_with("web "));
    }
    for (mode, how) in [
        (XdpMode::Native, Some(Attachment::Replaced)),
        (XdpMode::Off, None),
        (XdpMode::Generic, Some(Attachment::Fresh)),
        (XdpMode::Native, Some(Attachment::Fresh)),
    ] {
        start(&mut lan, mode);
        let status = lan.datapaths[0].status().unwrap();
        let found = status.attached.iter().find(|a| a.program.starts_with("xdp_lb"));
        assert_eq!(found.map(|a| a.how), how, "{mode:?}");
        let before = lan.counted(0, "xdp_forwarded");
        for client in &mut held {
            let line = client.ask("again");
            assert!(line.starts_with("web "), "{mode:?}: {line}");
        }
        let forwarded = lan.counted(0, "xdp_forwarded") - before;
        assert_eq!(forwarded > 0, mode != XdpMode::Off, "{mode:?}: {forwarded}");
    }
}

/// Where another program has the hook, ours stays away and says so.
#[test]
fn an_uplink_with_another_xdp_program_is_left_to_it() {
    let _alone = alone();
    let mut lan = Lan::new(&[env!("CARGO_BIN_EXE_strake-net-helper")]);
    lan.node_port("web", ["10.96.0.7", "fd00:10:96::7"], PORT, &json!({}));
    let bare = strake_tests::bare::Bare::load(strake_tests::bare::Kind::Xdp).unwrap();
    let _link = lan.within("n1", || bare.attach_xdp("up0")).unwrap();
    start(&mut lan, XdpMode::Native);
    let status = lan.datapaths[0].status().unwrap();
    assert_eq!(status.xdp.mode, XdpAttached::Off);
    assert!(status.xdp.why.contains("another XDP program is attached"), "{}", status.xdp.why);
}

/// The program in the first node's driver.
fn program(lan: &Lan) -> Option<u64> {
    let shown: Value = serde_json::from_str(&lan.ip("n1", "-j -d link show dev up0")).unwrap();
    shown[0]["xdp"]["prog"]["id"].as_u64()
}

/// A version whose rows look different takes over, and this one from it again, while the driver sends packets on.
#[test]
fn programs_and_their_maps_are_exchanged_under_the_driver() {
    let _alone = alone();
    let mut lan = lan(XdpMode::Native);
    let _servers = lan.serve();
    let mut running = Vec::new();
    for front in fronts().map(|front| front.to_string()) {
        // Of new flows fewer than the node has ports for, towards the one server.
        for (command, pause_ms) in [("tcp-stream", "3"), ("tcp-until", "25"), ("udp-stream", "3"), ("udp-until", "25")]
        {
            running.push((format!("{command} {front}"), lan.on_client(&[command, &front, pause_ms])));
        }
    }
    for (what, helper) in &mut running {
        assert_eq!(helper.line(), "begun", "{what}");
    }
    let dropped = upgrade::drops(&lan.datapaths[0]);
    for round in 0..2 {
        let (ours, before) = (program(&lan), lan.counted(0, "xdp_forwarded"));
        lan.datapaths.clear();
        let config = Config { xdp: XdpMode::Native, ..lan.config(0) };
        lan.within("n1", || {
            let mut loaded = load(&config, &upgrade::other()).unwrap_or_else(|error| panic!("{}", chain(&error)));
            assert!(loaded.is_beside() && !loaded.waits());
            loaded.take_over(None).unwrap_or_else(|error| panic!("{}", chain(&error)));
        });
        let theirs = program(&lan);
        assert!(theirs.is_some() && theirs != ours, "round {round}: {theirs:?} after {ours:?}");
        std::thread::sleep(Duration::from_millis(300));
        start(&mut lan, XdpMode::Native);
        let status = lan.datapaths[0].status().unwrap();
        let found = status.attached.iter().find(|a| a.program == "xdp_lb-native").unwrap();
        assert_eq!((status.xdp.mode, found.how), (XdpAttached::Native, Attachment::Replaced), "round {round}");
        assert!(program(&lan).is_some_and(|id| Some(id) != theirs), "round {round}");
        // Both versions' programs have sent on.
        let forwarded = lan.counted(0, "xdp_forwarded") - before;
        assert!(forwarded > 100, "round {round}: {forwarded}");
    }
    let said: Vec<_> = running.into_iter().map(|(what, helper)| format!("{what}: {}", helper.finish())).collect();
    assert_eq!(upgrade::drops(&lan.datapaths[0]), dropped, "{said:#?}");
    assert!(said.iter().all(|said| said.contains(" failed 0") && !said.contains("done 0")), "{said:#?}");
    calls_are_answered(&lan);
}

#[test]
fn cleanup_takes_the_program_out_of_the_driver() {
    let _alone = alone();
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let mut lan = lan(mode);
        assert!(program(&lan).is_some(), "{mode:?}");
        lan.datapaths.clear();
        assert!(program(&lan).is_some(), "{mode:?}: it stays when its agent stops");
        let root = lan.config(0).bpf_root;
        let removed = lan.within("n1", || Datapath::cleanup(&root, &["up0"])).unwrap();
        assert!(removed.iter().any(|pin| pin.ends_with(format!("links/xdp_lb-{}", mode.as_str()))), "{removed:?}");
        assert_eq!(program(&lan), None, "{mode:?}");
        assert!(!root.exists());
    }
}

/// What is told of a connection from outside names the hook that does it.
#[test]
fn a_flow_is_told_with_the_hook_that_sends_it_on() {
    let _alone = alone();
    let mut lan = lan(XdpMode::Native);
    let ask = |lan: &Lan, node: usize, source_port: Option<u16>| {
        let to = (NODES[node], PORT).into();
        let question = Question { origin: Origin::Outside(CLIENT.into()), source_port, to, protocol: 6 };
        let told = lan.datapaths[node].explain(&question).unwrap();
        let hooks: Vec<String> = told.steps.iter().map(|step| step.hook.clone()).collect();
        (hooks, told)
    };
    // From the first node to the second, and on the second to its own Pod.
    let (hooks, told) = ask(&lan, 0, None);
    assert_eq!(hooks, ["xdp_lb (up0, native)"], "{told}");
    assert!(told.steps[0].result.contains("sent on before the stack"), "{told}");
    assert!(told.source.as_ref().unwrap().starts_with(&NODES[0].to_string()), "{told}");
    let (hooks, told) = ask(&lan, 1, None);
    assert_eq!(hooks, ["xdp_lb (up0, native)", "from_net (up0)"], "{told}");
    assert!(!told.steps[0].result.contains("before the stack"), "{told}");
    assert_eq!(told.source, Some(CLIENT.to_string()), "{told}");
    // One that exists.
    let _servers = lan.serve();
    let mut clients = NODES.map(|node| lan.on_client(&["tcp-long", &format!("{node}:{PORT}")]));
    for (node, hook) in [(0, "xdp_lb (up0, native)"), (1, "from_net (up0)")] {
        assert_eq!(clients[node].line(), "connected");
        clients[node].ask("");
        let (mut port, front) = (None, Some((NODES[node], PORT).into()));
        let all = lan.datapaths[node].connections().unwrap();
        let listed = all.list(&ConntrackFilter::default(), |connection| {
            if connection.frontend == front {
                port = Some(connection.source.port);
            }
            ControlFlow::Continue(())
        });
        listed.unwrap();
        assert!(port.is_some());
        let (hooks, told) = ask(&lan, node, port);
        assert_eq!(hooks, [hook], "{told}");
    }
    // Without the driver's hook it is the stack's.
    start(&mut lan, XdpMode::Off);
    let (hooks, told) = ask(&lan, 0, None);
    assert_eq!(hooks, ["from_net (up0)"], "{told}");
    assert!(!told.to_string().contains("xdp_lb"), "{told}");
}
