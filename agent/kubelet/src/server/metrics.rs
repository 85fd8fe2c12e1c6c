//! /metrics, /metrics/resource and /stats/summary.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::LazyLock;

use http::{Response, StatusCode};
use k8s_cri::v1 as cri;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{Body, json, text};
use crate::labels;
use crate::node::Machine;
use crate::pod;
use crate::pods::SharedRef;
use crate::pods::manager::Pods;
use crate::runtime::State;

static STARTED: LazyLock<Timestamp> = LazyLock::new(Timestamp::now);

/// The kubelet's own figures, in Prometheus' text form.
pub fn own(s: &SharedRef, pods: &Pods) -> Response<Body> {
    let views = pods.all();
    let mut out = String::new();
    let mut gauge = |name: &str, help: &str, rows: &[(String, f64)]| {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (labels, value) in rows {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    };
    let with_sandbox = views.iter().filter(|v| v.runtime.active_sandbox().is_some()).count();
    gauge("kubelet_running_pods", "Pods that have a running sandbox", &[(String::new(), with_sandbox as f64)]);
    let count = |state: State| views.iter().flat_map(|v| &v.runtime.containers).filter(|c| c.state == state).count();
    let rows = [
        ("created", State::Created),
        ("running", State::Running),
        ("exited", State::Exited),
        ("unknown", State::Unknown),
    ]
    .map(|(n, st)| (format!("{{container_state=\"{n}\"}}"), count(st) as f64));
    gauge("kubelet_running_containers", "Containers by state", &rows);
    let name = &s.config.node_name;
    gauge("kubelet_node_name", "The node's name, always 1", &[(format!("{{node=\"{name}\"}}"), 1.0)]);
    let version = &s.config.version;
    gauge("kubernetes_build_info", "Version, always 1", &[(format!("{{git_version=\"{version}\"}}"), 1.0)]);
    gauge("process_start_time_seconds", "Start of the process", &[(String::new(), STARTED.as_second() as f64)]);
    text(StatusCode::OK, out)
}

async fn stats(s: &SharedRef) -> Vec<cri::ContainerStats> {
    let answer = s.cri.container_stats(cri::ListContainerStatsRequest::default()).await;
    answer.map(|a| a.stats).unwrap_or_default()
}

fn label<'a>(c: &'a cri::ContainerStats, key: &str) -> &'a str {
    c.attributes.as_ref().and_then(|a| a.labels.get(key)).map_or("", String::as_str)
}
fn number(v: Option<&cri::UInt64Value>) -> u64 {
    v.map_or(0, |v| v.value)
}
fn cpu(c: &cri::ContainerStats) -> u64 {
    c.cpu.as_ref().map_or(0, |u| number(u.usage_core_nano_seconds.as_ref()))
}
fn memory(c: &cri::ContainerStats) -> u64 {
    c.memory.as_ref().map_or(0, |u| number(u.working_set_bytes.as_ref()))
}

/// CPU time of the node, nanoseconds, from /proc/stat.
fn node_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> =
        text.lines().next().unwrap_or_default().split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal
    let busy: u64 = fields.iter().enumerate().filter(|(i, _)| *i < 8 && *i != 3 && *i != 4).map(|(_, v)| v).sum();
    let hz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100).max(1) as u64;
    busy * (1_000_000_000 / hz)
}

fn meminfo(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
    line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn node_working_set() -> u64 {
    meminfo("MemTotal").saturating_sub(meminfo("MemAvailable"))
}

/// What autoscalers read.
pub async fn resource(s: &SharedRef, pods: &Pods) -> Response<Body> {
    let all = stats(s).await;
    let mut out = String::new();
    let seconds = |ns: u64| ns as f64 / 1e9;
    let _ = writeln!(
        out,
        "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total {}",
        seconds(node_cpu())
    );
    let _ = writeln!(
        out,
        "# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes {}",
        node_working_set()
    );
    let mut of_pods: HashMap<(&str, &str), (u64, u64)> = HashMap::new();
    let mut rows = [String::new(), String::new()];
    for c in &all {
        let (ns, name, container) =
            (label(c, labels::POD_NAMESPACE), label(c, labels::POD_NAME), label(c, labels::CONTAINER_NAME));
        let tags = format!("{{container=\"{container}\",namespace=\"{ns}\",pod=\"{name}\"}}");
        let _ = writeln!(rows[0], "container_cpu_usage_seconds_total{tags} {}", seconds(cpu(c)));
        let _ = writeln!(rows[1], "container_memory_working_set_bytes{tags} {}", memory(c));
        let sum = of_pods.entry((ns, name)).or_default();
        *sum = (sum.0 + cpu(c), sum.1 + memory(c));
    }
    let _ = write!(out, "# TYPE container_cpu_usage_seconds_total counter\n{}", rows[0]);
    let _ = write!(out, "# TYPE container_memory_working_set_bytes gauge\n{}", rows[1]);
    let _ = writeln!(out, "# TYPE pod_cpu_usage_seconds_total counter");
    for ((ns, name), (c, _)) in &of_pods {
        let _ = writeln!(out, "pod_cpu_usage_seconds_total{{namespace=\"{ns}\",pod=\"{name}\"}} {}", seconds(*c));
    }
    let _ = writeln!(out, "# TYPE pod_memory_working_set_bytes gauge");
    for ((ns, name), (_, m)) in &of_pods {
        let _ = writeln!(out, "pod_memory_working_set_bytes{{namespace=\"{ns}\",pod=\"{name}\"}} {m}");
    }
    let _ = writeln!(out, "# TYPE container_start_time_seconds gauge");
    for v in pods.all() {
        for r in v.runtime.running() {
            let _ = writeln!(
                out,
                "container_start_time_seconds{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}} {}",
                r.name,
                pod::namespace(&v.pod),
                pod::name(&v.pod),
                r.started_at as f64 / 1e9
            );
        }
    }
    let _ = writeln!(out, "# TYPE resource_scrape_error gauge\nresource_scrape_error 0");
    text(StatusCode::OK, out)
}

/// The Summary API.
pub async fn summary(s: &SharedRef, pods: &Pods) -> Response<Body> {
    let all = stats(s).await;
    let now = Timestamp::now();
    let fs = |path: &std::path::Path| -> Value {
        match nix::sys::statvfs::statvfs(path) {
            Ok(v) => {
                let unit = v.fragment_size();
                json!({"time": now, "availableBytes": v.blocks_available() * unit, "capacityBytes": v.blocks() * unit,
                    "usedBytes": (v.blocks() - v.blocks_free()) * unit, "inodesFree": v.files_free(),
                    "inodes": v.files(), "inodesUsed": v.files() - v.files_free()})
            }
            Err(_) => Value::Null,
        }
    };
    let pods: Vec<Value> = pods
        .all()
        .iter()
        .map(|v| {
            let uid = pod::uid(&v.pod);
            let own: Vec<&cri::ContainerStats> = all.iter().filter(|c| label(c, labels::POD_UID) == uid).collect();
            let containers: Vec<Value> = own
                .iter()
                .map(|c| {
                    let mem = c.memory.unwrap_or_default();
                    let layer = c.writable_layer.clone().unwrap_or_default();
                    json!({"name": label(c, labels::CONTAINER_NAME), "startTime": v.status.start_time,
                        "cpu": {"time": now, "usageCoreNanoSeconds": cpu(c),
                            "usageNanoCores": c.cpu.as_ref().map_or(0, |u| number(u.usage_nano_cores.as_ref()))},
                        "memory": {"time": now, "workingSetBytes": memory(c), "usageBytes": number(mem.usage_bytes.as_ref()),
                            "rssBytes": number(mem.rss_bytes.as_ref()), "pageFaults": number(mem.page_faults.as_ref()),
                            "majorPageFaults": number(mem.major_page_faults.as_ref())},
                        "rootfs": {"time": now, "usedBytes": number(layer.used_bytes.as_ref()),
                            "inodesUsed": number(layer.inodes_used.as_ref())}})
                })
                .collect();
            json!({"podRef": {"name": v.pod.metadata.name, "namespace": v.pod.metadata.namespace, "uid": uid},
                "startTime": v.status.start_time,
                "cpu": {"time": now, "usageCoreNanoSeconds": own.iter().map(|c| cpu(c)).sum::<u64>()},
                "memory": {"time": now, "workingSetBytes": own.iter().map(|c| memory(c)).sum::<u64>()},
                "containers": containers})
        })
        .collect();
    let started = *STARTED;
    let total = Machine::read(&s.config.root_dir, 0).map_or(0, |m| m.total.memory);
    json(&json!({
        "node": {"nodeName": s.config.node_name, "startTime": started,
            "cpu": {"time": now, "usageCoreNanoSeconds": node_cpu()},
            "memory": {"time": now, "workingSetBytes": node_working_set(), "availableBytes": meminfo("MemAvailable"),
                "usageBytes": total.saturating_sub(i64::try_from(meminfo("MemFree")).unwrap_or(0))},
            "fs": fs(&s.config.pods_dir), "runtime": {"imageFs": fs(&s.config.root_dir)}},
        "pods": pods}))
}
