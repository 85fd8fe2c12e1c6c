//! A node in namespaces of its own, without a cluster: Pods, a machine outside, a cgroup, a bpffs, and the datapath.
//!
//! ```text
//!   pod netns eth0 10.244.0.K ══ veth ══ node netns up0 192.0.2.1 ══ veth ══ outside netns eth0 192.0.2.100
//! ```
//!
//! Everything is named after the process and removed when the lab is dropped, also by a panic. Needs root, iproute2
//! and a mounted cgroup2. Nothing of the machine itself is touched.

use std::borrow::Borrow;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::node::v1::RuntimeClass;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use strake_datapath::{ApplyOutcome, Config, Datapath, EndpointSpec};
use strake_flow::FlowLog;
use strake_state::{Cache, Change, Extract, Kind, ObjectName, World};
use tokio_util::sync::CancellationToken;

pub const NODE_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const OUTSIDE_IP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
pub const NODE_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0, 0, 0, 0, 0, 1);
pub const OUTSIDE_IP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0, 0, 0, 0, 0, 0x100);
const GATEWAY: &str = "169.254.1.1";

/// Runs a command to its end; panics with its output when it fails.
pub fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("{}: {error}", command.join(" ")));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}: {}{}", command.join(" "), text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn ip(arguments: &str) -> String {
    let words: Vec<&str> = std::iter::once("ip").chain(arguments.split_whitespace()).collect();
    run(&words)
}

/// Runs `work` on a thread inside a network namespace.
pub fn within<T: Send>(netns: &str, work: impl FnOnce() -> T + Send) -> T {
    let path = format!("/run/netns/{netns}");
    let file = fs::File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&file, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Where cgroup2 is mounted: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` beside version 1.
pub fn cgroup2() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    PathBuf::from(mount.expect("no cgroup2 file system is mounted").split(' ').nth(1).unwrap())
}

/// A Pod of the lab.
#[derive(Clone, Debug)]
pub struct LabPod {
    pub name: String,
    pub netns: String,
    pub ip: Ipv4Addr,
    pub spec: EndpointSpec,
}

/// A helper process: talked to by lines.
pub struct Helper {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Helper {
    /// The next line it prints; empty at its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends a line and returns the answer.
    pub fn ask(&mut self, line: &str) -> String {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{line}").and_then(|()| input.flush()).unwrap();
        self.line()
    }

    /// Closes its input and returns what it still prints.
    pub fn finish(mut self) -> String {
        self.input.take();
        let mut rest = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                return rest.join("\n");
            }
            rest.push(line);
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A reader of flows; it ends when dropped.
pub struct FlowReader {
    token: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for FlowReader {
    fn drop(&mut self) {
        self.token.cancel();
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// The lab.
pub struct Lab {
    pub id: String,
    pub node: String,
    pub outside: String,
    pub pods: Vec<LabPod>,
    pub cgroup: PathBuf,
    pub bpf: PathBuf,
    /// `program` and first arguments of the helper binary.
    helper: Vec<String>,
    objects: Vec<Value>,
    generation: u64,
    datapath: Option<Datapath>,
}

impl Lab {
    /// Makes the namespaces. `helper` is how to start the helper (see [`crate::net_helper`]).
    pub fn new(helper: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "this makes network namespaces and loads BPF: run it as root");
        let id = format!("sk{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let cgroup = cgroup2().join(&id);
        let bpf = std::env::temp_dir().join(format!("{id}-bpf"));
        let lab = Self {
            node: format!("{id}-node"),
            outside: format!("{id}-out"),
            pods: Vec::new(),
            cgroup,
            bpf,
            helper: helper.iter().map(|part| (*part).to_owned()).collect(),
            objects: vec![json!({
                "kind": "Node",
                "metadata": {"name": "n1"},
                "spec": {"podCIDR": "10.244.0.0/24"},
                "status": {"addresses": [{"type": "InternalIP", "address": NODE_IP}]},
            })],
            generation: 0,
            datapath: None,
            id,
        };
        fs::create_dir_all(&lab.cgroup).unwrap();
        fs::create_dir_all(&lab.bpf).unwrap();
        mount(Some("bpf"), &lab.bpf, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let (node, outside) = (&lab.node, &lab.outside);
        for netns in [node, outside] {
            ip(&format!("netns add {netns}"));
            ip(&format!("-n {netns} link set lo up"));
        }
        ip(&format!("-n {node} link add up0 type veth peer name eth0 netns {outside}"));
        ip(&format!("-n {node} addr add {NODE_IP}/24 dev up0"));
        ip(&format!("-n {outside} addr add {OUTSIDE_IP}/24 dev eth0"));
        ip(&format!("-n {node} link set up0 up"));
        ip(&format!("-n {outside} link set eth0 up"));
        within(node, || {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
            fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
        });
        lab
    }

    /// Makes a Pod: its namespace, its veth, its routes. It is served once the datapath runs.
    pub fn pod(&mut self, name: &str) -> LabPod {
        let number = self.pods.len() as u8 + 5;
        let address = Ipv4Addr::new(10, 244, 0, number);
        let (node, netns, interface) = (&self.node, format!("{}-{name}", self.id), format!("veth{number}"));
        ip(&format!("netns add {netns}"));
        ip(&format!("-n {node} link add {interface} type veth peer name eth0 netns {netns}"));
        ip(&format!("-n {netns} link set lo up"));
        ip(&format!("-n {netns} link set eth0 up"));
        ip(&format!("-n {node} link set {interface} up"));
        let link = |netns: &str, interface: &str| -> Value {
            let list: Value = serde_json::from_str(&ip(&format!("-n {netns} -j link show {interface}"))).unwrap();
            list[0].clone()
        };
        let mac = |link: &Value| -> (String, [u8; 6]) {
            let text = link["address"].as_str().unwrap();
            let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
            (text.to_owned(), bytes.try_into().unwrap())
        };
        let (host, pod) = (link(node, &interface), link(&netns, "eth0"));
        let (host_mac, pod_mac) = (mac(&host), mac(&pod));
        ip(&format!("-n {netns} addr add {address}/32 dev eth0"));
        ip(&format!("-n {netns} route add {GATEWAY} dev eth0 scope link"));
        ip(&format!("-n {netns} route add default via {GATEWAY} dev eth0"));
        ip(&format!("-n {netns} neigh add {GATEWAY} lladdr {} dev eth0 nud permanent", host_mac.0));
        ip(&format!("-n {node} route add {address}/32 dev {interface}"));
        ip(&format!("-n {node} neigh add {address} lladdr {} dev {interface} nud permanent", pod_mac.0));
        let pod = LabPod {
            name: name.to_owned(),
            ip: address,
            spec: EndpointSpec {
                pod: ObjectName::new("default", name),
                ip: address,
                ip6: None,
                ifindex: host["ifindex"].as_u64().unwrap() as u32,
                interface,
                mac: pod_mac.1,
                host_mac: host_mac.1,
                netns: format!("/run/netns/{netns}").into(),
            },
            netns,
        };
        fs::create_dir_all(self.cgroup.join(name)).unwrap();
        self.objects.push(pod_object(&pod, false));
        self.pods.push(pod.clone());
        if let Some(datapath) = self.datapath.clone() {
            within(&self.node, || datapath.add_endpoint(pod.spec.clone())).unwrap();
        }
        pod
    }

    /// Declares a hostPort of a Pod (TCP).
    pub fn host_port(&mut self, pod: &LabPod, container_port: u16, host_port: u16) {
        let mut object = pod_object(pod, false);
        object["spec"]["containers"] =
            json!([{"name": "c", "ports": [{"containerPort": container_port, "hostPort": host_port}]}]);
        self.put(object);
    }

    /// Gives the node and the machine outside an IPv6 address each, and says so in the Node object.
    pub fn with_ipv6(&mut self) {
        within(&self.node, || fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap());
        ip(&format!("-n {} addr add {NODE_IP6}/64 dev up0 nodad", self.node));
        ip(&format!("-n {} addr add {OUTSIDE_IP6}/64 dev eth0 nodad", self.outside));
        self.put(json!({
            "kind": "Node",
            "metadata": {"name": "n1"},
            "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24", "fd00:10:244::/64"]},
            "status": {"addresses": [
                {"type": "InternalIP", "address": NODE_IP}, {"type": "InternalIP", "address": NODE_IP6},
            ]},
        }));
    }

    /// Gives a Pod an IPv6 address on its veth, whose host side is its gateway, and returns it.
    pub fn pod6(&mut self, pod: &LabPod) -> Ipv6Addr {
        let LabPod { netns, spec, .. } = pod;
        let (node, interface) = (&self.node, &spec.interface);
        let address = Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, u16::from(pod.ip.octets()[3]));
        ip(&format!("-n {node} addr add fe80::1/64 dev {interface} nodad"));
        ip(&format!("-n {node} route add {address}/128 dev {interface}"));
        ip(&format!("-n {netns} addr add {address}/128 dev eth0 nodad"));
        ip(&format!("-n {netns} route add default via fe80::1 dev eth0"));
        let known = self.pods.iter_mut().find(|known| known.name == pod.name).unwrap();
        known.spec.ip6 = Some(address);
        let known = known.clone();
        self.put(pod_object(&known, false));
        let spec = known.spec;
        if let Some(datapath) = self.datapath.clone() {
            within(&self.node, || datapath.add_endpoint(spec)).unwrap();
        }
        address
    }

    /// Gives a Pod IPv6 addresses that it reaches without its veth.
    pub fn addresses6(&self, pod: &LabPod, addresses: &[Ipv6Addr]) {
        for address in addresses {
            ip(&format!("-n {} addr add {address}/128 dev lo", pod.netns));
        }
    }

    /// The Pod says `strake.io/socket-lb: disabled`.
    pub fn opt_out(&mut self, pod: &LabPod) {
        let known = self.pods.iter().find(|known| known.name == pod.name).unwrap_or(pod).clone();
        self.put(pod_object(&known, true));
    }

    /// The Pod runs in this class of runtime.
    pub fn runtime_class(&mut self, pod: &LabPod, class: &str) {
        let mut object = pod_object(pod, false);
        object["spec"]["runtimeClassName"] = class.into();
        self.put(object);
    }

    /// Adds or replaces an object of the cluster, by kind and name; [`Lab::apply`] makes it effective.
    pub fn put(&mut self, object: Value) {
        let same =
            |other: &Value| other["kind"] == object["kind"] && other["metadata"]["name"] == object["metadata"]["name"];
        self.objects.retain(|other| !same(other));
        self.objects.push(object);
    }

    /// Adds an object that was not put before. (Looking for one to replace takes long among many.)
    pub fn put_unchecked(&mut self, object: Value) {
        self.objects.push(object);
    }

    /// A Service with one unnamed port and its endpoints (address, ready).
    pub fn service(
        &mut self,
        name: &str,
        vip: &str,
        protocol: &str,
        port: u16,
        extra: Value,
        backends: &[(Ipv4Addr, u16)],
    ) {
        let mut spec = json!({"clusterIP": vip, "ports": [{"protocol": protocol, "port": port}]});
        for (key, value) in extra.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        self.put(json!({"kind": "Service", "metadata": {"namespace": "default", "name": name}, "spec": spec}));
        self.endpoints(name, protocol, backends);
    }

    /// Replaces the annotations of a Service.
    pub fn annotate(&mut self, service: &str, annotations: &Value) {
        let of = |object: &&mut Value| object["kind"] == "Service" && object["metadata"]["name"] == service;
        let object = self.objects.iter_mut().find(of).expect("the Service was put");
        object["metadata"]["annotations"] = annotations.clone();
    }

    /// Replaces the IPv6 endpoints of a Service.
    pub fn endpoints6(&mut self, service: &str, protocol: &str, backends: &[(Ipv6Addr, u16)]) {
        let port = backends.first().map_or(1, |backend| backend.1);
        let endpoints: Vec<Value> = backends.iter().map(|(ip, _)| json!({"addresses": [ip]})).collect();
        self.put(json!({
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default", "name": format!("{service}-v6"),
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv6",
            "ports": [{"name": "", "protocol": protocol, "port": port}],
            "endpoints": endpoints,
        }));
    }

    /// Replaces the endpoints of a Service.
    pub fn endpoints(&mut self, service: &str, protocol: &str, backends: &[(Ipv4Addr, u16)]) {
        let port = backends.first().map_or(1, |backend| backend.1);
        let endpoints: Vec<Value> =
            backends.iter().map(|(ip, _)| json!({"addresses": [ip], "nodeName": "n1"})).collect();
        self.put(json!({
            "kind": "EndpointSlice",
            "metadata": {
                "namespace": "default", "name": service, "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": "IPv4",
            "ports": [{"name": "", "protocol": protocol, "port": port}],
            "endpoints": endpoints,
        }));
    }

    /// The snapshot of what was put.
    pub fn world(&mut self) -> Arc<World> {
        self.generation += 1;
        Arc::new(world_of(&self.objects))
    }

    /// Configuration of the datapath in this lab.
    pub fn config(&self) -> Config {
        Config { uplink: Some("up0".into()), ..Config::new("n1", &self.cgroup, self.bpf.join("pins")) }
    }

    /// Starts the datapath (again), adds the Pods, applies what was put.
    pub fn start(&mut self) -> Datapath {
        self.start_with(self.config())
    }

    pub fn start_with(&mut self, config: Config) -> Datapath {
        let pods: Vec<EndpointSpec> = self.pods.iter().map(|pod| pod.spec.clone()).collect();
        let datapath = within(&self.node, || {
            let datapath = Datapath::start(config).unwrap_or_else(|error| panic!("{}", chain(&error)));
            for pod in pods {
                datapath.add_endpoint(pod).unwrap_or_else(|error| panic!("{}", chain(&error)));
            }
            datapath
        });
        self.datapath = Some(datapath.clone());
        self.apply();
        datapath
    }

    /// Reads what the programs report until the answer is dropped, as the agent does; for measurements, which would be
    /// too good with nobody to wake.
    pub fn read_flows(&self) -> FlowReader {
        let folder = self.datapath.as_ref().expect("the datapath runs").maps_folder();
        let token = CancellationToken::new();
        let stop = token.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let (_worlds, receiver) = tokio::sync::watch::channel(Arc::default());
                let _log = FlowLog::start(&strake_flow::Config::new(folder), receiver, stop.clone()).unwrap();
                stop.cancelled().await;
            });
        });
        FlowReader { token, thread: Some(thread) }
    }

    /// Drops the handle, as a process that ends does; programs and maps stay.
    pub fn stop(&mut self) {
        self.datapath = None;
    }

    /// Makes effective what was put.
    pub fn apply(&mut self) -> ApplyOutcome {
        let world = self.world();
        self.apply_world(&world)
    }

    /// Makes a snapshot effective that somebody else made.
    pub fn apply_world(&self, world: &Arc<World>) -> ApplyOutcome {
        let datapath = self.datapath.clone().expect("the datapath runs");
        within(&self.node, || datapath.apply(world)).unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// Starts the helper in a network namespace and, if told, in a cgroup below the lab's.
    pub fn spawn(&self, netns: &str, cgroup: Option<&str>, arguments: &[&str]) -> Helper {
        let cgroup = match cgroup {
            Some(cgroup) => self.cgroup.join(cgroup).display().to_string(),
            None => "-".to_owned(),
        };
        start_helper(&self.helper, netns, &cgroup, arguments)
    }

    /// Starts the helper in a Pod.
    pub fn in_pod(&self, pod: &LabPod, arguments: &[&str]) -> Helper {
        self.spawn(&pod.netns, Some(&pod.name), arguments)
    }

    /// Starts a server in a Pod that answers TCP and UDP with the Pod's name, and waits until it listens.
    pub fn serve(&self, pod: &LabPod, port: u16) -> Helper {
        let mut server = self.in_pod(pod, &["serve", &format!("{}:{port}", pod.ip), &pod.name]);
        assert_eq!(server.line(), "ready");
        server
    }

    /// Starts a client on the node itself, outside of every Pod.
    pub fn on_node(&self, arguments: &[&str]) -> Helper {
        self.spawn(&self.node, Some("."), arguments)
    }

    /// Starts a helper on the machine outside.
    pub fn outside(&self, arguments: &[&str]) -> Helper {
        self.spawn(&self.outside, None, arguments)
    }
}

/// Starts the helper in a network namespace and a cgroup (`-`: where we are).
pub(crate) fn start_helper(helper: &[String], netns: &str, cgroup: &str, arguments: &[&str]) -> Helper {
    let mut child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{netns}"))
        .args(helper)
        .arg(cgroup)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
    Helper { child, input, output }
}

/// An error and what caused it.
pub fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn pod_object(pod: &LabPod, opted_out: bool) -> Value {
    let annotations = if opted_out { json!({"strake.io/socket-lb": "disabled"}) } else { json!({}) };
    let ips = std::iter::once(IpAddr::V4(pod.ip)).chain(pod.spec.ip6.map(IpAddr::V6));
    let ips: Vec<Value> = ips.map(|ip| json!({"ip": ip})).collect();
    json!({
        "kind": "Pod",
        "metadata": {"namespace": "default", "name": pod.name, "annotations": annotations},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"podIP": pod.ip, "podIPs": ips, "phase": "Running"},
    })
}

/// A complete snapshot of the objects, for node `n1`.
pub fn world_of(objects: &[Value]) -> World {
    cache_of(objects).snapshot()
}

/// What the agent of node `n1` knows once it has listed the objects.
pub fn cache_of<O: Borrow<Value>>(objects: impl IntoIterator<Item = O>) -> Cache {
    cache_on("n1", objects)
}

/// The same of another node.
pub fn cache_on<O: Borrow<Value>>(node: &str, objects: impl IntoIterator<Item = O>) -> Cache {
    let mut cache = Cache::new(node);
    for kind in Kind::ALL {
        cache.apply(Change::Init(kind));
    }
    for object in objects {
        cache.apply(change(object.borrow()));
    }
    for kind in Kind::ALL {
        cache.apply(Change::InitDone(kind));
    }
    cache
}

/// An object as its watch brings it.
pub fn change(object: &Value) -> Change {
    let meta = &object["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let name = ObjectName::new(text(&meta["namespace"]), text(&meta["name"]));
    let object = object.clone();
    match object["kind"].as_str().unwrap() {
        "Service" => {
            let object: core::Service = serde_json::from_value(object).unwrap();
            Change::Service(name, object.extract().map(Arc::new))
        }
        "EndpointSlice" => {
            let object: discovery::EndpointSlice = serde_json::from_value(object).unwrap();
            Change::Slice(name, object.extract().map(Arc::new))
        }
        "Pod" => {
            let object: core::Pod = serde_json::from_value(object).unwrap();
            Change::Pod(name, object.extract().map(Arc::new))
        }
        "RuntimeClass" => {
            let object: RuntimeClass = serde_json::from_value(object).unwrap();
            Change::RuntimeClass(name.name, object.extract().map(Arc::new))
        }
        _ => {
            let object: core::Node = serde_json::from_value(object).unwrap();
            Change::Node(name.name, object.extract().map(Arc::new))
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.datapath = None;
        let quietly = |arguments: &[&str]| drop(Command::new("ip").args(arguments).stderr(Stdio::null()).status());
        let _ = Datapath::cleanup(&self.bpf.join("pins"), &[]);
        let _ = umount2(&self.bpf, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.bpf);
        let pods = self.pods.iter().map(|pod| pod.netns.as_str());
        for netns in pods.chain([self.node.as_str(), self.outside.as_str()]) {
            quietly(&["netns", "del", netns]);
        }
        remove_cgroup(&self.cgroup);
    }
}

/// Ends what is in a cgroup of ours and removes it.
fn remove_cgroup(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    for pid in fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Ok(pid) = pid.parse() {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
    // A process that was killed leaves its cgroup a moment later.
    for _ in 0..100 {
        if fs::remove_dir(path).is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
