//! A whole cluster with 30,000 Services of four endpoints: how long from a write at the API server to the first
//! connection that is answered, quiet and while 1,000 slices change a second, and what the node's agent takes for it.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client};
use nix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use strake_rig::Room;
use strake_tests::cluster::Cluster;

use crate::Scale;
use crate::report::{Report, Samples, print_head, print_row};

/// Requests at a time while the cluster is filled.
const AT_ONCE: usize = 32;
/// Requests that may be late while slices change.
const LATE: usize = 200;
const PORT: u16 = 18080;
/// Between two tries of the client that waits for the answer.
const TRY: Duration = Duration::from_micros(200);

pub fn run(scale: Scale) -> i32 {
    let services = if scale.is_quick() { 3_000 } else { 30_000 };
    let cluster = Cluster::start("api", 2);
    let node = &cluster.rooms()[1];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let api = runtime.block_on(Objects::of(&cluster));
    println!("writing {services} Services and their slices");
    let empty = Usage::of(cluster.pid(node));
    runtime.block_on(stream::iter(1..=services).for_each_concurrent(AT_ONCE, |number| api.fill(number)));

    let _server = helper(node, &["api-listen", &format!("{}:{PORT}", node.ip)]);
    let mut probe = Probe::start(node);
    let mut markers = |count| {
        let times = (0..count).map(|_| runtime.block_on(api.marker(node, &mut probe))).collect();
        let mut samples = Samples::default();
        samples.block(times);
        samples
    };
    let quiet = markers(scale.block / 3);
    let loaded = Usage::of(cluster.pid(node));

    let busy = Arc::new(AtomicBool::new(true));
    let stream = runtime.spawn(churn(api.clone(), services, busy.clone()));
    let before = (Usage::of(cluster.pid(node)), monotonic());
    let changing = markers(scale.block / 3);
    let after = (Usage::of(cluster.pid(node)), monotonic());
    busy.store(false, Ordering::Relaxed);
    let changes = runtime.block_on(stream).unwrap() as f64;
    let seconds = (after.1 - before.1).as_secs_f64();

    // Another process, which lists everything at its start.
    cluster.signal(cluster.pid(node), "TERM");
    cluster.start_agent(node);
    markers(3);
    let restarted = Usage::of(cluster.pid(node));

    let mut report = Report::default();
    let title = format!("from the write of an EndpointSlice to the first connection, {services} Services");
    print_head(&title, "quiet");
    print_row("quiet", &quiet, &quiet);
    print_row("while slices change", &changing, &quiet);
    report.compare(&title, &quiet, None);
    report.compare(&format!("{title}, while slices change"), &changing, None);
    let cpu = (after.0.cpu - before.0.cpu).as_secs_f64() / seconds;
    println!("\n  {:.0} changed slices a second: the agent takes {:.1} % of a core", changes / seconds, cpu * 100.0);
    report.figure("slices changed a second", "1/s", changes / seconds);
    report.figure("agent while they change", "of a core", cpu);
    for (what, usage) in [("empty", empty), ("as it grew", loaded), ("started anew", restarted)] {
        let [own, resident, maps] = [usage.own >> 20, usage.resident >> 20, usage.maps >> 20];
        println!(
            "  the agent, {what}: {own} MiB of its own, {resident} MiB resident with its binary; BPF maps {maps} MiB"
        );
        report.figure(&format!("agent's own memory, {what}"), "bytes", usage.own as f64);
        report.figure(&format!("agent resident, {what}"), "bytes", usage.resident as f64);
        report.figure(&format!("BPF maps, {what}"), "bytes", usage.maps as f64);
    }
    report.write("api").unwrap();
    0
}

#[derive(Clone)]
struct Objects {
    services: Api<Service>,
    slices: Api<EndpointSlice>,
}

impl Objects {
    async fn of(cluster: &Cluster) -> Self {
        let path = cluster.data_dir().join("admin.kubeconfig");
        let kubeconfig = Kubeconfig::read_from(path).unwrap();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config).unwrap();
        Self { services: Api::namespaced(client.clone(), "default"), slices: Api::namespaced(client, "default") }
    }

    async fn fill(&self, number: usize) {
        let name = format!("load-{number}");
        self.service(&name).await;
        self.slice(&name, &endpoints(number, 4)).await;
    }

    /// Its ClusterIP.
    async fn service(&self, name: &str) -> SocketAddr {
        let service = object(json!({
            "metadata": {"name": name}, "spec": {"ports": [{"name": "http", "port": 80}]},
        }));
        let made: Service = self.services.create(&PostParams::default(), &service).await.unwrap();
        let ip = made.spec.and_then(|spec| spec.cluster_ip).unwrap();
        SocketAddr::new(ip.parse().unwrap(), 80)
    }

    async fn slice(&self, name: &str, endpoints: &Value) {
        let slice = object(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "protocol": "TCP", "port": PORT}],
            "endpoints": endpoints,
        }));
        self.slices.create(&PostParams::default(), &slice).await.unwrap();
    }

    /// One Service more, answered by a process of the node, and gone again. From the write of its slice to the answer.
    async fn marker(&self, node: &Room, probe: &mut Probe) -> Duration {
        let vip = self.service("marker").await;
        probe.wait_for(vip);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let started = monotonic();
        self.slice("marker", &json!([{"addresses": [node.ip], "nodeName": node.name}])).await;
        // A busy agent may still serve the address to the marker before, which had it too.
        let took = loop {
            if let Some(took) = probe.answered().checked_sub(started) {
                break took;
            }
            probe.wait_for(vip);
        };
        self.slices.delete("marker", &DeleteParams::default()).await.unwrap();
        self.services.delete("marker", &DeleteParams::default()).await.unwrap();
        took
    }
}

fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// As the endpointslice controller writes them.
fn endpoints(number: usize, count: usize) -> Value {
    let one = |i: usize| {
        let at = number * 4 + i;
        json!({
            "addresses": [format!("10.{}.{}.{}", 128 + at / 62_500, at / 250 % 250, 1 + at % 250)],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": format!("node-{}", at % 1_000),
            "zone": format!("zone-{}", at % 3),
            "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("load-{number}-7d4b9c-{i}")},
        })
    };
    (0..count).map(one).collect()
}

/// Slices lose an endpoint or get it back, up to ten every hundredth of a second. Returns how many did.
async fn churn(api: Objects, services: usize, busy: Arc<AtomicBool>) -> usize {
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let (mut next, mut under_way) = (0, tokio::task::JoinSet::new());
    while busy.load(Ordering::Relaxed) {
        ticks.tick().await;
        // A server that cannot take a thousand a second is not asked for more than it takes.
        for _ in 0..10.min(LATE.saturating_sub(under_way.len())) {
            let (number, count) = (1 + next % services, if next / services % 2 == 0 { 3 } else { 4 });
            next += 1;
            let slices = api.slices.clone();
            let patch = Patch::Merge(json!({"endpoints": endpoints(number, count)}));
            under_way.spawn(async move {
                slices.patch(&format!("load-{number}"), &PatchParams::default(), &patch).await.unwrap();
            });
        }
        while under_way.try_join_next().is_some() {}
    }
    let waiting = under_way.len();
    under_way.join_all().await;
    next - waiting
}

/// What a process takes.
struct Usage {
    /// Its own memory, without the pages of its binary.
    own: u64,
    resident: u64,
    maps: u64,
    cpu: Duration,
}

impl Usage {
    fn of(pid: i32) -> Self {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
        let (status, stat) = (read("status"), read("stat"));
        let bytes = |name: &str| {
            let kib = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
            kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
        };
        // Behind the name, which may hold spaces: the 14th and 15th fields are ticks of a hundredth of a second.
        let fields: Vec<u64> =
            stat.rsplit(')').next().unwrap().split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
        Self {
            own: bytes("RssAnon:"),
            resident: bytes("VmRSS:"),
            maps: crate::scale::maps(pid),
            cpu: Duration::from_millis((fields[11] + fields[12]) * 10),
        }
    }
}

fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into()
}

/// This program in a node's room.
fn helper(room: &Room, words: &[&str]) -> Helper {
    let this = std::env::current_exe().unwrap();
    let mut command = room.command(&this.display().to_string());
    command.arg("helper").args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (stdin, stdout) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut helper = Helper { child, stdin, stdout };
    assert_eq!(helper.line(), "ready");
    helper
}

struct Helper {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Helper {
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client on the node that tries until it is answered.
struct Probe(Helper);

impl Probe {
    fn start(room: &Room) -> Self {
        Self(helper(room, &["api-probe"]))
    }

    fn wait_for(&mut self, address: SocketAddr) {
        writeln!(self.0.stdin, "{address}").unwrap();
    }

    /// When it was.
    fn answered(&mut self) -> Duration {
        Duration::from_nanos(self.0.line().parse().unwrap())
    }
}

/// The processes in the node's room.
pub fn helper_main(words: &[&str]) -> io::Result<()> {
    match words {
        ["api-listen", address] => {
            let listener = TcpListener::bind(address)?;
            println!("ready");
            listener.incoming().try_for_each(|stream| stream.map(drop))
        }
        _ => {
            println!("ready");
            for line in io::stdin().lock().lines() {
                let address: SocketAddr = line?.parse().map_err(io::Error::other)?;
                while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
                    std::thread::sleep(TRY);
                }
                println!("{}", monotonic().as_nanos());
            }
            Ok(())
        }
    }
}
