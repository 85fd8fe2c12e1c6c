//! NodeStatus from the machine and the runtime. `compute` is pure but for the pressure readings.

use std::collections::BTreeMap;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeRuntimeHandler, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::machine::{Capacity, Machine, filesystem, meminfo};
use crate::config::Config;
use crate::cri::Cri;

/// Images listed at most (stock).
const IMAGES: usize = 50;

/// The runtime's state.
#[derive(Clone, Debug)]
pub struct RuntimeCondition {
    /// Whether it answers and is ready, or why not.
    pub runtime: Result<(), String>,
    /// Whether Pod networks can be made, or why not.
    pub network: Result<(), String>,
    /// `containerd://1.6.20`.
    pub version: String,
    /// RuntimeClass handlers it has.
    pub handlers: Vec<String>,
}

impl RuntimeCondition {
    /// Both are fine.
    pub fn ready(&self) -> bool {
        self.runtime.is_ok() && self.network.is_ok()
    }
}

/// Asks the runtime.
pub async fn runtime_condition(cri: &Cri) -> RuntimeCondition {
    let version = match cri.version().await {
        Ok(v) => format!("{}://{}", v.runtime_name, v.runtime_version),
        Err(_) => String::new(),
    };
    match cri.status().await {
        Ok(s) => {
            let conditions = s.status.unwrap_or_default().conditions;
            let of = |name: &str| match conditions.iter().find(|c| c.r#type == name) {
                Some(c) if c.status => Ok(()),
                Some(c) => Err(format!("{name}=false reason:{} message:{}", c.reason, c.message)),
                None => Err(format!("{name} is not told by the runtime")),
            };
            let handlers = s.runtime_handlers.into_iter().map(|h| h.name).collect();
            RuntimeCondition { runtime: of("RuntimeReady"), network: of("NetworkReady"), version, handlers }
        }
        Err(e) => {
            let why = Err(e.to_string());
            RuntimeCondition { runtime: why.clone(), network: why, version, handlers: Vec::new() }
        }
    }
}

fn resources(c: Capacity) -> BTreeMap<String, Quantity> {
    let cpu = if c.cpu_milli % 1000 == 0 { (c.cpu_milli / 1000).to_string() } else { format!("{}m", c.cpu_milli) };
    [
        ("cpu", cpu),
        ("memory", format!("{}Ki", c.memory / 1024)),
        ("ephemeral-storage", format!("{}Ki", c.storage / 1024)),
        ("pods", c.pods.to_string()),
        ("hugepages-1Gi", "0".into()),
        ("hugepages-2Mi", "0".into()),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), Quantity(v)))
    .collect()
}

fn addresses(c: &Config) -> Vec<NodeAddress> {
    let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
    let mut out: Vec<NodeAddress> = c.node_ips.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
    out.push(address("Hostname", c.node_name.clone()));
    out
}

/// What presses: reason and message by condition.
fn pressures(c: &Config) -> [(&'static str, bool, &'static str, &'static str); 3] {
    let memory = meminfo("MemAvailable").is_some_and(|m| m < 100 << 20);
    let low = |path: &std::path::Path| {
        filesystem(path).is_some_and(|(size, free, inodes)| size > 0 && (free * 10 < size || inodes < 5))
    };
    let disk = low(&c.pods_dir);
    let number = |path: &str| std::fs::read_to_string(path).ok().and_then(|s| s.trim().parse::<u64>().ok());
    let tasks = std::fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|s| s.split([' ', '/']).nth(4).and_then(|n| n.parse::<u64>().ok()));
    let most = number("/proc/sys/kernel/pid_max");
    let pids = matches!((tasks, most), (Some(t), Some(m)) if t * 10 > m * 9);
    let text =
        |on: bool, yes: (&'static str, &'static str), no: (&'static str, &'static str)| if on { yes } else { no };
    let m = text(
        memory,
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    );
    let d = text(
        disk,
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    );
    let p = text(
        pids,
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    );
    [("MemoryPressure", memory, m.0, m.1), ("DiskPressure", disk, d.0, d.1), ("PIDPressure", pids, p.0, p.1)]
}

/// Computes the status; times of unchanged conditions are kept from `previous`.
pub fn compute(
    c: &Config,
    m: &Machine,
    runtime: &RuntimeCondition,
    images: &[cri::Image],
    previous: Option<&NodeStatus>,
) -> NodeStatus {
    let now = Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default();
    let mut conditions = Vec::new();
    let mut add = |type_: &str, on: bool, reason: &str, message: String| {
        let status = if on { "True" } else { "False" };
        let before = previous.iter().flat_map(|p| p.conditions.iter().flatten()).find(|c| c.type_ == type_);
        let since = before.filter(|b| b.status == status).and_then(|b| b.last_transition_time.clone());
        conditions.push(NodeCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_heartbeat_time: Some(Time(now)),
            last_transition_time: Some(since.unwrap_or(Time(now))),
        });
    };
    for (type_, on, reason, message) in pressures(c) {
        add(type_, on, reason, message.into());
    }
    match (&runtime.runtime, &runtime.network) {
        (Ok(()), Ok(())) => add("Ready", true, "KubeletReady", "kubelet is posting ready status".into()),
        (Err(e), _) => add("Ready", false, "KubeletNotReady", format!("container runtime is down: {e}")),
        (_, Err(e)) => add("Ready", false, "KubeletNotReady", format!("container runtime network not ready: {e}")),
    }
    let mut images: Vec<ContainerImage> = images
        .iter()
        .map(|i| ContainerImage {
            names: Some(i.repo_digests.iter().chain(&i.repo_tags).cloned().collect()),
            size_bytes: i64::try_from(i.size).ok(),
        })
        .filter(|i| i.names.as_ref().is_some_and(|n| !n.is_empty()))
        .collect();
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.names.cmp(&b.names)));
    images.truncate(IMAGES);
    let handlers = runtime.handlers.iter().map(|h| NodeRuntimeHandler { name: Some(h.clone()), features: None });
    let handlers: Vec<_> = handlers.collect();
    NodeStatus {
        capacity: Some(resources(m.total)),
        allocatable: Some(resources(m.allocatable())),
        addresses: Some(addresses(c)),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(c.listen.port()) }),
        }),
        images: Some(images),
        node_info: Some(NodeSystemInfo {
            architecture: m.arch.into(),
            boot_id: m.boot_id.clone(),
            container_runtime_version: runtime.version.clone(),
            kernel_version: m.kernel.clone(),
            kube_proxy_version: String::new(),
            kubelet_version: c.version.clone(),
            machine_id: m.machine_id.clone(),
            operating_system: "linux".into(),
            os_image: m.os_image.clone(),
            system_uuid: m.system_uuid.clone(),
            swap: None,
        }),
        runtime_handlers: (!handlers.is_empty()).then_some(handlers),
        ..Default::default()
    }
}

/// Whether the Ready condition is True.
pub fn is_ready(s: &NodeStatus) -> bool {
    s.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Whether two statuses differ in nothing but heartbeats.
pub fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let still = |s: &NodeStatus| {
        let mut s = s.clone();
        for c in s.conditions.iter_mut().flatten() {
            c.last_heartbeat_time = None;
        }
        s
    };
    still(a) == still(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(network: Result<(), String>) -> RuntimeCondition {
        RuntimeCondition { runtime: Ok(()), network, version: "containerd://1".into(), handlers: vec![] }
    }

    #[test]
    fn a_node_without_network_says_why_and_a_heartbeat_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let c = Config::under(dir.path(), "n1", [192, 0, 2, 1].into(), "/s".into());
        let m = Machine::read(dir.path(), 110).unwrap();
        let no = compute(&c, &m, &condition(Err("cni plugin not initialized".into())), &[], None);
        assert!(!is_ready(&no));
        let ready = compute(&c, &m, &condition(Ok(())), &[], Some(&no));
        assert!(is_ready(&ready) && !same(&no, &ready));
        let mut later = ready.clone();
        later.conditions.as_mut().unwrap()[0].last_heartbeat_time = None;
        assert!(same(&ready, &later));
        assert_eq!(ready.daemon_endpoints.unwrap().kubelet_endpoint.unwrap().port, 10250);
        assert_eq!(ready.addresses.unwrap()[0].address, "192.0.2.1");
    }
}
