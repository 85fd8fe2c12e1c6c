//! What it takes to program 30,000 Services of four endpoints: all of them into empty tables, one more, and a stream of
//! changed endpoints; beside the same done by `nft`, as kube-proxy does it.
//!
//! Ours is timed from the change in the agent's cache to the end of the last map write.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use strake_state::Cache;
use strake_tests::lab::{Lab, NODE_IP, cache_of, change};
use strake_tests::peers::{self, PeerService};

use crate::report::{Report, Samples, median, print_head, print_row};
use crate::rooms::{idle, objects};
use crate::{Scale, lab};

const SERVICES: usize = 30_000;
/// Changes that are gathered before a snapshot in the stream: a hundredth of a second at 1,000 a second.
const GATHERED: usize = 10;

/// Snapshots a second in the stream.
const STREAM_HZ: f64 = 100.0;

pub fn run(scale: Scale, arguments: &[&str]) -> i32 {
    let resident_before = resident();
    let (mut cold, mut cold_nft) = (Samples::default(), Samples::default());
    let (mut one, mut one_nft) = (Samples::default(), Samples::default());
    let mut stream = Samples::default();
    let mut cache = cache_of((1..=SERVICES).map(idle).flat_map(|service| objects(&service)));
    let snapshot = resident().saturating_sub(resident_before);
    let mut memory = None;
    for _ in 0..scale.rounds.div_ceil(4) {
        let mut ours = lab();
        ours.start();
        let started = Instant::now();
        apply(&mut cache, &ours);
        cold.block(vec![started.elapsed()]);
        memory.get_or_insert_with(|| (resident().saturating_sub(resident_before), maps(std::process::id() as i32)));
        one.block((0..scale.block / 20).map(|step| one_more(&mut cache, &ours, step)).collect());
        stream.block((0..scale.block / 20).map(|step| churn(&mut cache, &ours, step)).collect());
    }
    // Once: this is a matter of minutes.
    if !arguments.contains(&"--alone") {
        let all: Vec<PeerService> = (1..=SERVICES).map(idle).collect();
        let peer = lab();
        if let Some(took) = nft(&peer, &peers::nftables(&all, NODE_IP)) {
            cold_nft.block(vec![took]);
            one_nft.block((0..6).filter_map(|step| nft(&peer, &addition(step))).collect());
        }
    }
    let mut report = Report::default();
    for (what, ours, theirs) in [
        ("all 30,000 x 4 into empty tables", &cold, Some(&cold_nft)),
        ("one Service and its slice more, or less", &one, Some(&one_nft)),
        ("ten changed slices at once", &stream, None),
    ] {
        let theirs = theirs.filter(|samples| !samples.quantiles(0.5).is_empty());
        print_head(what, "Strake");
        print_row("Strake", ours, ours);
        if let Some(theirs) = theirs {
            print_row("nftables", theirs, ours);
        }
        report.compare(what, ours, theirs.map(|samples| ("nftables", samples)));
    }
    let (agent, maps) = memory.unwrap_or_default();
    let share = median(&stream.quantiles(0.5)) * STREAM_HZ / 1e6;
    println!("\n  1,000 changed slices a second: {:.2} % of a core", share * 100.0);
    println!("  resident: {} MiB with the snapshot, {} MiB once it is programmed", snapshot >> 20, agent >> 20);
    println!("  the maps themselves: {} MiB", maps >> 20);
    report.figure("1,000 changed slices a second", "of a core", share);
    report.figure("resident with the snapshot", "bytes", snapshot as f64);
    report.figure("resident once it is programmed", "bytes", agent as f64);
    report.figure("maps", "bytes", maps as f64);
    report.write("scale").unwrap();
    0
}

fn apply(cache: &mut Cache, lab: &Lab) {
    let world = Arc::new(cache.snapshot());
    lab.apply_world(&world);
}

/// Adds the Service with the next number, or removes it again.
fn one_more(cache: &mut Cache, lab: &Lab, step: usize) -> Duration {
    let service = idle(SERVICES + 1 + step / 2);
    let changes = objects(&service).map(|object| match change(&object) {
        strake_state::Change::Service(name, _) if step % 2 == 1 => strake_state::Change::Service(name, None),
        strake_state::Change::Slice(name, _) if step % 2 == 1 => strake_state::Change::Slice(name, None),
        change => change,
    });
    let started = Instant::now();
    for change in changes {
        cache.apply(change);
    }
    apply(cache, lab);
    started.elapsed()
}

/// Some Services lose an endpoint, or get it back.
fn churn(cache: &mut Cache, lab: &Lab, step: usize) -> Duration {
    let changes: Vec<_> = (0..GATHERED)
        .map(|number| {
            let mut service = idle(1 + step / 2 * GATHERED + number);
            if step.is_multiple_of(2) {
                service.backends.pop();
            }
            let [_, slice] = objects(&service);
            change(&slice)
        })
        .collect();
    let started = Instant::now();
    for change in changes {
        cache.apply(change);
    }
    apply(cache, lab);
    started.elapsed()
}

/// What kube-proxy writes for one Service that comes, or goes again.
fn addition(step: usize) -> String {
    let service = idle(SERVICES + 1 + step / 2);
    let (name, vip) = (&service.name, service.vip);
    let list = service.backends.iter().enumerate().map(|(index, (ip, port))| format!("{index} : {ip} . {port}"));
    let list: Vec<String> = list.collect();
    let hairpin: Vec<String> =
        service.backends.iter().map(|(ip, port)| format!("{ip} . {ip} . tcp . {port}")).collect();
    let elements = format!(
        "cluster-ips {{ {vip} }}\n{{}} element ip kube-proxy hairpin-connections {{ {} }}\n\
         {{}} element ip kube-proxy service-ips {{ {vip} . tcp . 80 : goto service-{name} }}\n",
        hairpin.join(", ")
    );
    if step.is_multiple_of(2) {
        format!(
            "add chain ip kube-proxy service-{name}\n\
             add rule ip kube-proxy service-{name} meta l4proto tcp dnat ip to numgen random mod {} map {{ {} }}\n\
             add element ip kube-proxy {}",
            list.len(),
            list.join(", "),
            elements.replace("{}", "add")
        )
    } else {
        format!(
            "delete element ip kube-proxy {}flush chain ip kube-proxy service-{name}\n\
             delete chain ip kube-proxy service-{name}\n",
            elements.replace("{}", "delete")
        )
    }
}

/// Feeds rules to nft and says how long it took; None when it is not installed.
fn nft(lab: &Lab, rules: &str) -> Option<Duration> {
    Command::new("nft").arg("--version").stdout(Stdio::null()).status().ok()?;
    let started = Instant::now();
    peers::load(&lab.node, &["nft", "-f", "-"], rules)?;
    Some(started.elapsed())
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}

/// Bytes of the BPF maps that a process has open.
pub fn maps(pid: i32) -> u64 {
    let mut maps = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten() {
        let info = std::fs::read_to_string(entry.path()).unwrap_or_default();
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    maps.values().sum()
}
