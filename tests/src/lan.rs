//! Two nodes and a client on one Ethernet, in namespaces of their own, each node with a datapath, one Pod on the second.
//!
//! ```text
//!   client eth0 192.0.2.100 ══╗
//!   node1  up0  192.0.2.1   ══╬══ bridge, in a namespace too
//!   node2  up0  192.0.2.2   ══╝
//!     ║ web 10.244.1.5                          and fd00:192::64, ::1, ::2; fd00:10:244:1::5
//! ```
//!
//! Neighbours are known from the start and checksums are finished by who sends, so that what is forwarded before the stack
//! can be counted. Everything is removed when it is dropped. Needs root.
#![expect(unsafe_code, reason = "SIOCETHTOOL has no safe wrapper")]

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use strake_datapath::{Config, Datapath, EndpointSpec};
use strake_state::ObjectName;

use crate::bare::{Bare, Kind};
use crate::lab::{Helper, cache_on, cgroup2, chain, run, start_helper, within};

pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0, 0, 0, 0, 0, 0x64);
pub const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
pub const NODES6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0x192, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 0x192, 0, 0, 0, 0, 0, 2)];
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
pub const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 5);

const NAMES: [&str; 3] = ["n1", "n2", "client"];

fn ip(arguments: &str) -> String {
    let words: Vec<&str> = std::iter::once("ip").chain(arguments.split_whitespace()).collect();
    run(&words)
}

fn mac(number: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, number as u8 + 1]
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// An interface of the calling thread's namespace leaves no checksum to a device any more.
fn finish_checksums(interface: &str) {
    leave_checksums(interface, false);
}

/// Whether checksums, and with them segments, are left to the device (`ETHTOOL_STXCSUM`).
fn leave_checksums(interface: &str, leave: bool) {
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        data: *mut [u32; 2],
        rest: [u64; 2],
    }
    let mut data = [0x17, leave.into()];
    let mut request = Request { name: [0; libc::IFNAMSIZ], data: &raw mut data, rest: [0; 2] };
    request.name[..interface.len()].copy_from_slice(interface.as_bytes());
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: the request is a `struct ifreq` that points to a live `struct ethtool_value`.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), 0x8946, &raw mut request) };
    assert_eq!(result, 0, "checksums of {interface}: {}", std::io::Error::last_os_error());
}

/// The two nodes.
pub struct Lan {
    id: String,
    helper: Vec<String>,
    pub datapaths: Vec<Datapath>,
    objects: Vec<Value>,
    /// Programs at the bridge's ends of the links.
    queues: Vec<OwnedFd>,
}

impl Lan {
    /// Makes the namespaces. `helper` is how to start the helper (see [`crate::net_helper`]).
    pub fn new(helper: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let id = format!("sl{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let helper = helper.iter().map(|part| (*part).to_owned()).collect();
        let mut lan = Self { id, helper, datapaths: Vec::new(), objects: Vec::new(), queues: Vec::new() };
        let bridge = lan.netns("lan");
        for name in ["lan", "web"].into_iter().chain(NAMES) {
            ip(&format!("netns add {}", lan.netns(name)));
            ip(&format!("-n {} link set lo up", lan.netns(name)));
        }
        ip(&format!("-n {bridge} link add br0 type bridge mcast_snooping 0"));
        ip(&format!("-n {bridge} link set br0 up"));
        let links = [("up0", NODES[0], NODES6[0]), ("up0", NODES[1], NODES6[1]), ("eth0", CLIENT, CLIENT6)];
        for (number, (name, (link, address, address6))) in NAMES.iter().zip(&links).enumerate() {
            let netns = lan.netns(name);
            ip(&format!(
                "-n {bridge} link add {name} type veth peer name {link} address {} netns {netns}",
                text(mac(number))
            ));
            ip(&format!("-n {bridge} link set {name} master br0 up"));
            ip(&format!("-n {netns} link set {link} up"));
            ip(&format!("-n {netns} addr add {address}/24 dev {link}"));
            ip(&format!("-n {netns} addr add {address6}/64 dev {link} nodad"));
            // What a veth sends from its driver arrives at a peer that has a queue for it.
            let pass = Bare::load(Kind::XdpPass).unwrap();
            lan.queues.push(within(&bridge, || pass.attach_xdp(name)).unwrap());
            within(&netns, || {
                finish_checksums(link);
                fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
            });
            for (other, (_, address, address6)) in links.iter().enumerate().filter(|(other, _)| *other != number) {
                let known = format!("lladdr {} dev {link} nud permanent", text(mac(other)));
                ip(&format!("-n {netns} neigh add {address} {known}"));
                ip(&format!("-n {netns} neigh add {address6} {known}"));
            }
        }
        for (number, other) in [(0, 1), (1, 0)] {
            let netns = lan.netns(NAMES[number]);
            within(&netns, || {
                fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
                fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
            });
            ip(&format!("-n {netns} route add 10.244.{other}.0/24 via {}", NODES[other]));
            ip(&format!("-n {netns} route add fd00:10:244:{other}::/64 via {}", NODES6[other]));
            fs::create_dir_all(lan.cgroup(number)).unwrap();
            let bpf = lan.bpf(number);
            fs::create_dir_all(&bpf).unwrap();
            mount(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        }
        lan.plumb();
        lan
    }

    fn netns(&self, name: &str) -> String {
        format!("{}-{name}", self.id)
    }

    fn cgroup(&self, node: usize) -> PathBuf {
        cgroup2().join(format!("{}-{}", self.id, NAMES[node]))
    }

    fn bpf(&self, node: usize) -> PathBuf {
        std::env::temp_dir().join(format!("{}-{}-bpf", self.id, NAMES[node]))
    }

    /// The Pod's veth and routes.
    fn plumb(&self) {
        let (node, pod) = (self.netns("n2"), self.netns("web"));
        ip(&format!(
            "-n {node} link add veth5 address {} type veth peer name eth0 address {} netns {pod}",
            text(mac(10)),
            text(mac(11))
        ));
        ip(&format!("-n {node} link set veth5 up"));
        ip(&format!("-n {pod} link set eth0 up"));
        ip(&format!("-n {pod} addr add {POD}/32 dev eth0"));
        ip(&format!("-n {pod} route add 169.254.1.1 dev eth0 scope link"));
        ip(&format!("-n {pod} route add default via 169.254.1.1 dev eth0"));
        ip(&format!("-n {pod} neigh add 169.254.1.1 lladdr {} dev eth0 nud permanent", text(mac(10))));
        ip(&format!("-n {pod} addr add {POD6}/128 dev eth0 nodad"));
        ip(&format!("-n {pod} route add default via fe80::1 dev eth0"));
        ip(&format!("-n {pod} neigh add fe80::1 lladdr {} dev eth0 nud permanent", text(mac(10))));
        ip(&format!("-n {node} addr add fe80::1/64 dev veth5 nodad"));
        ip(&format!("-n {node} route add {POD}/32 dev veth5"));
        ip(&format!("-n {node} route add {POD6}/128 dev veth5"));
        ip(&format!("-n {node} neigh add {POD} lladdr {} dev veth5 nud permanent", text(mac(11))));
        ip(&format!("-n {node} neigh add {POD6} lladdr {} dev veth5 nud permanent", text(mac(11))));
        within(&pod, || finish_checksums("eth0"));
    }

    /// Adds a NodePort Service of both families (TCP and UDP) whose one endpoint is the Pod's port 8080.
    pub fn node_port(&mut self, name: &str, vips: [&str; 2], port: u16, annotations: &Value) {
        let ports: Vec<Value> = ["TCP", "UDP"]
            .iter()
            .map(
                |protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 80, "nodePort": port}),
            )
            .collect();
        self.objects.push(json!({
            "kind": "Service",
            "metadata": {"namespace": "default", "name": name, "annotations": annotations},
            "spec": {
                "type": "NodePort", "clusterIP": vips[0], "clusterIPs": vips, "ports": ports,
                "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            },
        }));
        for (family, address) in [("IPv4", IpAddr::V4(POD)), ("IPv6", IpAddr::V6(POD6))] {
            self.objects.push(json!({
                "kind": "EndpointSlice",
                "metadata": {
                    "namespace": "default", "name": format!("{name}-{}", family.to_lowercase()),
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": family,
                "ports": [
                    {"name": "tcp", "protocol": "TCP", "port": 8080}, {"name": "udp", "protocol": "UDP", "port": 8080},
                ],
                "endpoints": [{"addresses": [address], "nodeName": "n2"}],
            }));
        }
    }

    fn nodes(&self) -> Vec<Value> {
        let node = |number: usize| {
            let (cidr, cidr6) = (format!("10.244.{number}.0/24"), format!("fd00:10:244:{number}::/64"));
            json!({
                "kind": "Node",
                "metadata": {"name": NAMES[number]},
                "spec": {"podCIDR": cidr, "podCIDRs": [cidr, cidr6]},
                "status": {"addresses": [
                    {"type": "InternalIP", "address": NODES[number]}, {"type": "InternalIP", "address": NODES6[number]},
                ]},
            })
        };
        vec![
            node(0),
            node(1),
            json!({
                "kind": "Pod",
                "metadata": {"namespace": "default", "name": "web"},
                "spec": {"nodeName": "n2", "containers": []},
                "status": {"podIP": POD, "podIPs": [{"ip": POD}, {"ip": POD6}], "phase": "Running"},
            }),
        ]
    }

    /// Configuration of a node's datapath.
    pub fn config(&self, node: usize) -> Config {
        let pins = self.bpf(node).join("pins");
        Config { uplink: Some("up0".into()), ..Config::new(NAMES[node], self.cgroup(node), pins) }
    }

    /// Starts the datapath of each node, changed by `edit`, over what another may have left.
    pub fn start(&mut self, edit: impl Fn(Config) -> Config) {
        self.datapaths.clear();
        let objects: Vec<Value> = self.nodes().into_iter().chain(self.objects.iter().cloned()).collect();
        for (number, name) in NAMES.iter().enumerate().take(2) {
            let config = edit(self.config(number));
            let world = Arc::new(cache_on(name, &objects).snapshot());
            let datapath = within(&self.netns(name), || {
                let datapath = Datapath::start(config).unwrap_or_else(|error| panic!("{}", chain(&error)));
                if number == 1 {
                    datapath.add_endpoint(self.endpoint()).unwrap_or_else(|error| panic!("{}", chain(&error)));
                }
                datapath.apply(&world).unwrap_or_else(|error| panic!("{}", chain(&error)));
                datapath
            });
            self.datapaths.push(datapath);
        }
    }

    fn endpoint(&self) -> EndpointSpec {
        EndpointSpec {
            pod: ObjectName::new("default", "web"),
            ip: POD,
            ip6: Some(POD6),
            ifindex: nix::net::if_::if_nametoindex("veth5").unwrap(),
            interface: "veth5".into(),
            mac: mac(11),
            host_mac: mac(10),
            netns: format!("/run/netns/{}", self.netns("web")).into(),
        }
    }

    /// From here on packets are as large as a veth takes, segments and checksums are made when one leaves the machine,
    /// which none does, and nothing is sent from a driver.
    pub fn leave_segments_to_devices(&mut self) {
        self.queues.clear();
        for (name, link) in [("client", "eth0"), ("n1", "up0"), ("n2", "up0"), ("web", "eth0")] {
            within(&self.netns(name), || leave_checksums(link, true));
        }
    }

    /// What a node has counted.
    pub fn counted(&self, node: usize, counter: &str) -> u64 {
        self.datapaths[node].status().unwrap().counters[counter]
    }

    /// Starts the helper on the client.
    pub fn on_client(&self, arguments: &[&str]) -> Helper {
        start_helper(&self.helper, &self.netns("client"), "-", arguments)
    }

    /// Starts the helper in the Pod.
    pub fn in_pod(&self, arguments: &[&str]) -> Helper {
        start_helper(&self.helper, &self.netns("web"), "-", arguments)
    }

    /// Starts the server in the Pod that answers with who asks, at both of its addresses.
    pub fn serve(&self) -> [Helper; 2] {
        [format!("{POD}:8080"), format!("[{POD6}]:8080")].map(|address| {
            let mut server = self.in_pod(&["serve", &address, "web"]);
            assert_eq!(server.line(), "ready");
            server
        })
    }

    /// Runs `ip` in a namespace: `n1`, `n2`, `client`, `web` or `lan`.
    pub fn ip(&self, name: &str, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.netns(name)))
    }

    /// Runs `work` in a namespace.
    pub fn within<T: Send>(&self, name: &str, work: impl FnOnce() -> T + Send) -> T {
        within(&self.netns(name), work)
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.datapaths.clear();
        for node in 0..2 {
            let _ = Datapath::cleanup(&self.bpf(node).join("pins"), &[]);
            let _ = umount2(&self.bpf(node), MntFlags::MNT_DETACH);
            let _ = fs::remove_dir(self.bpf(node));
            let _ = fs::remove_dir(self.cgroup(node));
        }
        for name in NAMES.into_iter().chain(["web", "lan"]) {
            let netns = self.netns(name);
            drop(Command::new("ip").args(["netns", "del", &netns]).stderr(Stdio::null()).status());
        }
    }
}
