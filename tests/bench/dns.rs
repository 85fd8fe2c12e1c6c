//! A Service's A record asked from a Pod, with 30,000 names in the table: the kernel's answer beside the agent's own
//! server and dnsmasq, each asked by a client in the same Pod.
//!
//! All three run on one node: the kernel answers at the cluster DNS address, the servers on addresses of the node.

use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use serde_json::json;
use strake_state::World;
use strake_tests::lab::{Lab, NODE_IP};
use tokio_util::sync::CancellationToken;

use crate::report::{Report, Samples, print_head, print_row};
use crate::{Scale, lab};

const NAMES: usize = 30_000;
const SERVER_CPU: &str = "1";
const OURS: &str = "kernel (from_pod)";

fn vip(number: usize) -> Ipv4Addr {
    let [high, low] = (number as u16).to_be_bytes();
    Ipv4Addr::new(10, 96, high, low)
}

/// dnsmasq with all names, ended when dropped.
struct Dnsmasq(Child);

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn dnsmasq(lab: &Lab, folder: &std::path::Path) -> Option<Dnsmasq> {
    Command::new("dnsmasq").arg("--version").stdout(Stdio::null()).status().ok()?;
    let hosts: String = (20..NAMES + 20).map(|n| format!("{} s{n}.default.svc.cluster.local\n", vip(n))).collect();
    let file = folder.join("hosts");
    std::fs::write(&file, hosts).unwrap();
    let child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{}", lab.node))
        .args(["taskset", "-c", SERVER_CPU, "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts"])
        .args(["--conf-file=/dev/null", "--port=5354", "--user=root", "--pid-file=", "--cache-size=10000"])
        .arg(format!("--listen-address={NODE_IP}"))
        .args(["--bind-interfaces", &format!("--addn-hosts={}", file.display())])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Some(Dnsmasq(child))
}

/// The agent's own server, in the node's namespace, on a thread with a CPU of its own.
fn agent(lab: &Lab, world: Arc<World>, token: CancellationToken) -> std::thread::JoinHandle<()> {
    let netns = std::fs::File::open(format!("/run/netns/{}", lab.node)).unwrap();
    std::thread::spawn(move || {
        nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        let mut cpus = nix::sched::CpuSet::new();
        let cpu: usize = SERVER_CPU.parse().unwrap();
        cpus.set(cpu % std::thread::available_parallelism().map_or(1, std::num::NonZero::get)).unwrap();
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (_sender, worlds) = tokio::sync::watch::channel(world);
        let mut config = strake_dns::Config::new(vec![(NODE_IP, 5353).into()], "cluster.local");
        config.upstream = strake_dns::UpstreamConfig::Servers(Vec::new());
        runtime.block_on(strake_dns::serve(config, worlds, token)).unwrap();
    })
}

pub fn run(scale: Scale) -> i32 {
    let mut lab = lab();
    let client = lab.pod("client");
    for number in 20..NAMES + 20 {
        lab.put_unchecked(json!({
            "kind": "Service",
            "metadata": {"namespace": "default", "name": format!("s{number}")},
            "spec": {"clusterIP": vip(number), "ports": [{"port": 80}]},
        }));
    }
    let datapath = lab.start();
    let status = datapath.status().unwrap();
    assert_eq!(status.names, NAMES, "names in the kernel's table");
    if let Some(applied) = status.last_apply {
        let (plan, write) = (applied.plan_us / 1000, applied.write_us / 1000);
        println!("{NAMES} Services: {} map entries, planned in {plan} ms, written in {write} ms", applied.writes);
    }

    let folder = tempfile::tempdir().unwrap();
    let token = CancellationToken::new();
    let world = lab.world();
    let server = agent(&lab, world, token.clone());
    let peer = dnsmasq(&lab, folder.path());
    let mut list = vec![(OURS, "10.96.0.10:53".to_owned()), ("agent's server", format!("{NODE_IP}:5353"))];
    match peer {
        Some(_) => list.push(("dnsmasq", format!("{NODE_IP}:5354"))),
        None => println!("dnsmasq is not installed: no figures of it"),
    }
    let mut worker = lab.in_pod(&client, &["bench-dns", "0"]);
    let mut targets: Vec<(&str, String, Samples)> =
        list.into_iter().map(|(name, server)| (name, server, Samples::default())).collect();
    // Until each answers: servers need a moment to read 30,000 names.
    for (name, server, _) in &targets {
        let order = format!("{server} 1 s20.default.svc.cluster.local");
        let answers = (0..600).any(|_| {
            let mut probe = Samples::default();
            probe.measure(&mut worker, &order);
            if probe.failed > 0 {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            probe.failed == 0
        });
        assert!(answers, "{name} at {server} does not answer");
    }
    let length = targets.len();
    for round in 0..scale.rounds {
        for step in 0..length {
            let (_, server, samples) = &mut targets[(round + step) % length];
            let number = 20 + (round * 7919) % NAMES;
            samples.measure(&mut worker, &format!("{server} {} s{number}.default.svc.cluster.local", scale.block));
        }
    }
    token.cancel();
    server.join().unwrap();
    drop(peer);

    let mut report = Report::default();
    print_head(
        &format!("A record of a Service, {NAMES} names, {} questions each", scale.rounds * scale.block),
        "kernel",
    );
    for (name, _, samples) in &targets {
        print_row(name, samples, &targets[0].2);
    }
    let ours = &targets[0].2;
    for (name, _, samples) in &targets[1..] {
        report.compare("A record of a Service, 30,000 names", ours, Some((name, samples)));
    }
    report.write("dns").unwrap();
    i32::from(ours.failed > 0)
}
