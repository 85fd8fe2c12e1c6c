//! The labs that are compared: each a node with a server Pod and two client Pods, and `count` Services of four endpoints
//! as ours, nftables' or iptables'. Knows nothing of what is measured in them.

use std::net::Ipv4Addr;

use serde_json::{Value, json};
use strake_tests::lab::{FlowReader, Helper, Lab, LabPod, NODE_IP};
use strake_tests::peers::{self, PeerService};

use crate::lab;

pub const PORT: u16 = 8080;
/// The Service that is dialled.
pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 255, 1);
const ENDPOINTS: usize = 4;
const CLIENT_CPU: &str = "0";
const SERVER_CPU: &str = "1";

/// A lab with its server running.
pub struct Room {
    pub lab: Lab,
    pub web: LabPod,
    _server: Helper,
    _reader: Option<FlowReader>,
}

/// Which of a room's Pods dials.
#[derive(Clone, Copy)]
pub enum Dialler {
    Client,
    /// Opted out of the socket hooks, where there are any.
    Plain,
}

impl Room {
    /// Plain routing: no BPF program, no rule.
    pub fn plain() -> Self {
        let mut lab = lab();
        let web = lab.pod("web");
        lab.pod("client");
        lab.pod("plain");
        let mut server = lab.in_pod(&web, &["bench-server", &format!("{}:{PORT}", web.ip), SERVER_CPU]);
        assert_eq!(server.line(), "ready");
        Self { lab, web, _server: server, _reader: None }
    }

    /// With our datapath, and somebody who reads its flows as the agent does.
    pub fn ours(count: usize) -> Self {
        let mut room = Self::plain();
        let plain = room.lab.pods[2].clone();
        room.lab.opt_out(&plain);
        for service in services(count, room.web.ip) {
            objects(&service).into_iter().for_each(|object| room.lab.put_unchecked(object));
        }
        room.lab.start();
        room._reader = Some(room.lab.read_flows());
        room
    }

    /// None, said aloud, where nft is not installed.
    pub fn nftables(count: usize) -> Option<Self> {
        let room = Self::plain();
        let rules = peers::nftables(&services(count, room.web.ip), NODE_IP);
        room.ruled(&["nft", "-f", "-"], &rules)
    }

    /// None, said aloud, where iptables is not installed.
    pub fn iptables(count: usize) -> Option<Self> {
        let room = Self::plain();
        let rules = peers::iptables(&services(count, room.web.ip));
        room.ruled(&["iptables-restore"], &rules)
    }

    fn ruled(self, program: &[&str], rules: &str) -> Option<Self> {
        let loaded = peers::load(&self.lab.node, program, rules);
        if loaded.is_none() {
            println!("{} is not installed: no figures of it", program[0]);
        }
        loaded.map(|()| self)
    }

    pub fn client(&self, dialler: Dialler) -> Helper {
        self.lab.in_pod(&self.lab.pods[1 + dialler as usize], &["bench-client", CLIENT_CPU])
    }

    /// The server, dialled itself.
    pub fn direct(&self) -> String {
        format!("{}:{PORT}", self.web.ip)
    }
}

/// `count` - 1 Services of four endpoints that nobody dials, and then the one that is, with the one endpoint `web`.
pub fn services(count: usize, web: Ipv4Addr) -> Vec<PeerService> {
    let mut services: Vec<PeerService> = (1..count).map(idle).collect();
    let backends = vec![(web, PORT)];
    services.push(PeerService { name: "web".into(), vip: VIP, port: 80, node_port: None, backends });
    services
}

/// The Service with a number (1 to 65,000) that nobody dials.
pub fn idle(number: usize) -> PeerService {
    let address = |base: [u8; 4], offset: usize| Ipv4Addr::from(u32::from_be_bytes(base) + offset as u32);
    PeerService {
        name: format!("s{number}"),
        vip: address([10, 96, 1, 0], number),
        port: 80,
        node_port: None,
        backends: (0..ENDPOINTS).map(|i| (address([10, 128, 0, 0], number * ENDPOINTS + i), PORT)).collect(),
    }
}

/// The API's objects of a Service.
pub fn objects(service: &PeerService) -> [Value; 2] {
    let name = &service.name;
    let endpoints: Vec<Value> =
        service.backends.iter().map(|(ip, _)| json!({"addresses": [ip], "nodeName": "n1"})).collect();
    [
        json!({
            "kind": "Service",
            "metadata": {"namespace": "default", "name": name},
            "spec": {"clusterIP": service.vip, "ports": [{"protocol": "TCP", "port": service.port}]},
        }),
        json!({
            "kind": "EndpointSlice",
            "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "", "protocol": "TCP", "port": PORT}],
            "endpoints": endpoints,
        }),
    ]
}
