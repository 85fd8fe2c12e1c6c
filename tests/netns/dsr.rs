//! Direct server return between two nodes: what reaches the Pod, which way its answers go, and what fits.

use std::net::SocketAddr;
use std::ops::ControlFlow;

use serde_json::json;
use strake_datapath::{Config, ConntrackFilter, Datapath, LbMode, Origin, Question, XdpAttached, XdpMode};
use strake_tests::lab::chain;
use strake_tests::lan::{CLIENT, CLIENT6, Lan, NODES, NODES6, POD, POD6};

use crate::alone;

const PORT: u16 = 30080;

fn lan(xdp: XdpMode) -> Lan {
    let mut lan = Lan::new(&[env!("CARGO_BIN_EXE_strake-net-helper")]);
    lan.node_port("web", ["10.96.0.7", "fd00:10:96::7"], PORT, &json!({}));
    lan.start(|config| Config { lb_mode: LbMode::Dsr, xdp, ..config });
    lan
}

/// The asked node's NodePort, and what the server is to see of the client.
fn fronts() -> [(SocketAddr, String); 2] {
    [((NODES[0], PORT).into(), format!("{CLIENT}:")), ((NODES6[0], PORT).into(), format!("[{CLIENT6}]:"))]
}

/// What the second node sends to the first goes to the client's Ethernet address from here on, where it is nobody's.
fn cut_the_way_back(lan: &Lan) {
    for node in [NODES[0].to_string(), NODES6[0].to_string()] {
        lan.ip("n2", &format!("neigh replace {node} lladdr 02:00:00:00:00:03 dev up0 nud permanent"));
    }
}

/// Every family and protocol: the client's own address is what the server sees, and the asked node's what the client sees.
fn calls_are_answered(lan: &Lan) {
    for (front, client) in fronts() {
        let answer = lan.on_client(&["tcp", &front.to_string()]).line();
        assert!(answer.starts_with(&format!("web {client}")), "{front}: {answer}");
        assert!(answer.ends_with(&format!("as {front}")), "{front}: {answer}");
        let answer = lan.on_client(&["udp", &front.to_string()]).line();
        assert!(answer.starts_with(&format!("web {client}")), "{front}: {answer}");
        assert!(answer.ends_with(&format!("from {front}")), "{front}: {answer}");
        let many = lan.on_client(&["tcp-many", &front.to_string(), "20", "0"]).line();
        assert!(many.starts_with("done 20 failed 0"), "{front}: {many}");
    }
}

fn serves(xdp: XdpMode, attached: XdpAttached) {
    let _alone = alone();
    let lan = lan(xdp);
    let status = lan.datapaths[0].status().unwrap();
    assert_eq!((status.load_balancer.mode, status.load_balancer.uplink_mtu), ("dsr", Some(1500)));
    assert_eq!(status.xdp.mode, attached);
    let _servers = lan.serve();
    cut_the_way_back(&lan);
    calls_are_answered(&lan);
    for node in 0..2 {
        assert_eq!(lan.counted(node, "service_opened"), 2 * 22, "node {node}");
        assert_eq!(lan.counted(node, "xdp_forwarded"), 0, "node {node}");
        let drops = lan.datapaths[node].status().unwrap().drops;
        assert!(drops.values().all(|count| *count == 0), "node {node}: {drops:?}");
    }
}

#[test]
fn the_pod_sees_the_client_and_its_answers_do_not_pass_the_asked_node() {
    serves(XdpMode::Off, XdpAttached::Off);
}

/// The driver's hook leaves these flows to the stack's.
#[test]
fn the_drivers_hook_hands_on_what_is_answered_directly() {
    serves(XdpMode::Native, XdpAttached::Native);
}

/// Without it the answers do pass there: what the others cut is the way back.
#[test]
fn without_it_the_answers_pass_the_asked_node() {
    let _alone = alone();
    let mut lan = lan(XdpMode::Off);
    lan.start(|config| Config { xdp: XdpMode::Off, ..config });
    let status = lan.datapaths[0].status().unwrap();
    assert_eq!((status.load_balancer.mode, status.load_balancer.uplink_mtu), ("snat", None));
    let _servers = lan.serve();
    for (front, client) in fronts() {
        let answer = lan.on_client(&["tcp", &front.to_string()]).line();
        assert!(answer.starts_with("web ") && !answer.contains(&client), "{answer}");
    }
    cut_the_way_back(&lan);
    for (front, _) in fronts() {
        let answer = lan.on_client(&["tcp", &front.to_string()]).line();
        assert!(answer.starts_with("error TimedOut"), "{answer}");
    }
}

fn pours(lan: &Lan) {
    const BYTES: u64 = 20_000_000;
    let _sinks = [format!("{POD}:8080"), format!("[{POD6}]:8080")].map(|address| {
        let mut sink = lan.in_pod(&["sink", &address]);
        assert_eq!(sink.line(), "ready");
        sink
    });
    for (front, client) in fronts() {
        let told = lan.on_client(&["pour", &front.to_string(), &BYTES.to_string()]).line();
        assert!(told.starts_with(&format!("{BYTES} of {client}")), "{front}: {told}");
        assert!(told.ends_with(&format!("and {BYTES} back")), "{front}: {told}");
    }
}

/// Full packets of the client do not fit with the outer header: it is told so, and goes on with shorter ones.
#[test]
fn a_large_transfer_finds_the_size_that_fits() {
    let _alone = alone();
    let lan = lan(XdpMode::Off);
    pours(&lan);
    let routes = lan.ip("client", "route get 192.0.2.1") + &lan.ip("client", "-6 route get fd00:192::1");
    assert!(routes.contains("mtu 1480") && routes.contains("mtu 1460"), "{routes}");
    assert!(lan.datapaths[0].status().unwrap().drops["packet_too_big"] >= 2);
}

/// A packet that holds many segments goes on as one, of segments that are shorter by the header.
#[test]
fn large_packets_go_on_whole() {
    let _alone = alone();
    let mut lan = lan(XdpMode::Off);
    lan.leave_segments_to_devices();
    pours(&lan);
    let all = lan.datapaths[0].connections().unwrap();
    let mut longest = 0;
    let listed = all.list(&ConntrackFilter::default(), |connection| {
        longest = longest.max(connection.bytes / connection.packets.max(1));
        ControlFlow::Continue(())
    });
    listed.unwrap();
    assert!(longest > 3_000, "no packet had several segments: {longest} bytes each");
}

/// What is told of a connection says how it goes.
#[test]
fn a_flow_that_is_answered_directly_is_told_so() {
    let _alone = alone();
    let lan = lan(XdpMode::Off);
    let _servers = lan.serve();
    let front: SocketAddr = (NODES[0], PORT).into();
    let ask = |source_port| {
        let question = Question { origin: Origin::Outside(CLIENT.into()), source_port, to: front, protocol: 6 };
        lan.datapaths[0].explain(&question).unwrap()
    };
    let told = ask(None);
    assert_eq!(told.source, Some(CLIENT.to_string()), "{told}");
    assert!(told.to_string().contains("answers the client itself"), "{told}");
    let mut client = lan.on_client(&["tcp-long", &front.to_string()]);
    assert_eq!(client.line(), "connected");
    assert!(client.ask("").starts_with("web "));
    let mut port = None;
    let all = lan.datapaths[0].connections().unwrap();
    let listed = all.list(&ConntrackFilter::default(), |connection| {
        assert_eq!(connection.flags, ["translated", "answered-directly"]);
        assert_eq!((connection.frontend, connection.destination.ip), (Some(front), POD.into()));
        port = Some(connection.source.port);
        ControlFlow::Continue(())
    });
    listed.unwrap();
    assert!(port.is_some());
    let told = ask(port);
    assert!(told.to_string().contains("inside an IP packet to its Pod"), "{told}");
}

/// There is nowhere to send by.
#[test]
fn without_an_uplink_it_is_refused() {
    let _alone = alone();
    let lan = Lan::new(&[env!("CARGO_BIN_EXE_strake-net-helper")]);
    let config = Config { lb_mode: LbMode::Dsr, uplink: None, ..lan.config(0) };
    let error = lan.within("n1", || Datapath::start(config).map(drop)).unwrap_err();
    assert!(chain(&error).contains("--load-balancer-mode=dsr"), "{}", chain(&error));
}
