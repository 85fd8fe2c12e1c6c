//! A client, two nodes, and a backend on the second: what the first sends on before its stack.

use std::net::SocketAddr;

use serde_json::json;
use strake_datapath::{Attachment, Config, XdpAttached, XdpMode};
use strake_tests::lan::{Lan, NODES, NODES6};

use crate::alone;

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
