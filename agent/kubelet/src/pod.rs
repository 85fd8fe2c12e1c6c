//! What the rest of the kubelet asks of a Pod object: names, policies, container kinds, QoS, resources. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::quantity;

/// Grace period of a Pod that names none, seconds.
pub const DEFAULT_GRACE: i64 = 30;

/// QoS class of a Pod (its name is the API's word).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Every container has limits equal to its requests for cpu and memory.
    Guaranteed,
    /// Some request or limit.
    Burstable,
    /// None.
    BestEffort,
}

impl Qos {
    /// The API's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The part of the cgroup path between the parent and the Pod.
    pub fn cgroup(self) -> &'static str {
        match self {
            Self::Guaranteed => "",
            Self::Burstable => "/burstable",
            Self::BestEffort => "/besteffort",
        }
    }
}

/// When a container that ended is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Always,
    /// After a non-zero exit.
    OnFailure,
    /// Never.
    Never,
}

impl Restart {
    fn parse(text: &str) -> Self {
        match text {
            "OnFailure" => Self::OnFailure,
            "Never" => Self::Never,
            _ => Self::Always,
        }
    }
}

/// `metadata.uid`, empty when absent.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}
/// `metadata.name`.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}
/// `metadata.namespace`.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}
/// The name the stock kubelet uses in messages: `NAME_NAMESPACE(UID)`.
pub fn formatted(pod: &Pod) -> String {
    format!("{}_{}({})", name(pod), namespace(pod), uid(pod))
}

/// Containers of the spec; empty without a spec.
pub fn containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().map_or(&[], |s| &s.containers)
}
/// Init containers and sidecars, in order.
pub fn init_containers(pod: &Pod) -> &[Container] {
    pod.spec.as_ref().and_then(|s| s.init_containers.as_deref()).unwrap_or_default()
}
/// Ephemeral containers.
pub fn ephemeral_containers(pod: &Pod) -> &[EphemeralContainer] {
    pod.spec.as_ref().and_then(|s| s.ephemeral_containers.as_deref()).unwrap_or_default()
}
/// An ephemeral container in the shape of the others.
pub fn as_container(e: &EphemeralContainer) -> Container {
    Container {
        args: e.args.clone(),
        command: e.command.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        name: e.name.clone(),
        resources: e.resources.clone(),
        security_context: e.security_context.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        tty: e.tty,
        volume_mounts: e.volume_mounts.clone(),
        working_dir: e.working_dir.clone(),
        restart_policy: Some("Never".into()),
        ..Default::default()
    }
}
/// The container of that name, of whatever kind.
pub fn container(pod: &Pod, name: &str) -> Option<Container> {
    containers(pod)
        .iter()
        .chain(init_containers(pod))
        .find(|c| c.name == name)
        .cloned()
        .or_else(|| ephemeral_containers(pod).iter().find(|e| e.name == name).map(as_container))
}
/// Whether an init container is a sidecar (KEP-753).
pub fn is_sidecar(c: &Container) -> bool {
    c.restart_policy.as_deref() == Some("Always")
}

/// The Pod's restart policy.
pub fn restart_policy(pod: &Pod) -> Restart {
    Restart::parse(pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or_default())
}

/// Whether a regular container that exited with `code` is started again (with KEP-5307's rules of the container).
pub fn restarts_after(pod: &Pod, c: &Container, code: i32) -> bool {
    for rule in c.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|v| *v == code);
        if (codes.operator == "In") == listed {
            return rule.action == "Restart" || rule.action == "RestartAllContainers";
        }
    }
    let policy = c.restart_policy.as_deref().map_or_else(|| restart_policy(pod), Restart::parse);
    match policy {
        Restart::Always => true,
        Restart::OnFailure => code != 0,
        Restart::Never => false,
    }
}

/// Seconds a deleted Pod has: what the deletion asked for, else the spec.
pub fn grace_period(pod: &Pod) -> i64 {
    if pod.metadata.deletion_timestamp.is_some()
        && let Some(g) = pod.metadata.deletion_grace_period_seconds
    {
        return g.max(1);
    }
    pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE).max(1)
}

/// Whether the Pod shares the node's network.
pub fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_network) == Some(true)
}

/// Whether the API says the Pod has finished.
pub fn finished(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|s| s.phase.as_deref()), Some("Succeeded" | "Failed"))
}

type List = BTreeMap<String, Quantity>;

fn amount(list: Option<&List>, resource: &str) -> i64 {
    let read = if resource == "cpu" { quantity::milli } else { quantity::value };
    list.and_then(|l| l.get(resource)).and_then(read).unwrap_or(0)
}

/// A container's request: its own, else its limit. cpu in thousandths, the rest in units.
pub fn request(r: Option<&ResourceRequirements>, resource: &str) -> i64 {
    let Some(r) = r else { return 0 };
    match r.requests.as_ref().and_then(|l| l.get(resource)) {
        Some(_) => amount(r.requests.as_ref(), resource),
        None => amount(r.limits.as_ref(), resource),
    }
}
/// A container's limit, 0 for none. cpu in thousandths, the rest in units.
pub fn limit(r: Option<&ResourceRequirements>, resource: &str) -> i64 {
    r.map_or(0, |r| amount(r.limits.as_ref(), resource))
}

/// What the scheduler and admission count for the Pod: containers and sidecars together, or the largest init
/// container with the sidecars before it, plus overhead; pod-level requests win.
pub fn pod_request(pod: &Pod, resource: &str) -> i64 {
    let Some(spec) = &pod.spec else { return 0 };
    let mut total = containers(pod).iter().map(|c| request(c.resources.as_ref(), resource)).sum::<i64>();
    let mut sidecars = 0;
    let mut peak = 0;
    for c in init_containers(pod) {
        let own = request(c.resources.as_ref(), resource);
        if is_sidecar(c) {
            sidecars += own;
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(own + sidecars);
        }
    }
    total = (total + sidecars).max(peak);
    if let Some(pod_level) = spec.resources.as_ref()
        && pod_level.requests.as_ref().is_some_and(|l| l.contains_key(resource))
    {
        total = amount(pod_level.requests.as_ref(), resource);
    }
    total + amount(spec.overhead.as_ref(), resource)
}

/// The Pod's limit when every container has one (0 otherwise), by the same rule.
pub fn pod_limit(pod: &Pod, resource: &str) -> i64 {
    let Some(spec) = &pod.spec else { return 0 };
    let pod_level = limit(spec.resources.as_ref(), resource);
    if pod_level > 0 {
        return pod_level + amount(spec.overhead.as_ref(), resource);
    }
    let limits = |c: &Container| limit(c.resources.as_ref(), resource);
    if containers(pod).iter().chain(init_containers(pod)).any(|c| limits(c) == 0) {
        return 0;
    }
    let total: i64 = containers(pod).iter().map(limits).sum();
    let mut sidecars = 0;
    let mut peak = 0;
    for c in init_containers(pod) {
        if is_sidecar(c) {
            sidecars += limits(c);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(limits(c) + sidecars);
        }
    }
    (total + sidecars).max(peak) + amount(spec.overhead.as_ref(), resource)
}

/// QoS class, as the API server computes it for `status.qosClass`.
pub fn qos(pod: &Pod) -> Qos {
    let pod_level = pod.spec.as_ref().and_then(|s| s.resources.as_ref());
    let all: Vec<Option<&ResourceRequirements>> = match pod_level {
        Some(r) => vec![Some(r)],
        None => containers(pod).iter().chain(init_containers(pod)).map(|c| c.resources.as_ref()).collect(),
    };
    let mut guaranteed = true;
    let mut any = false;
    for r in all {
        for resource in ["cpu", "memory"] {
            let (req, lim) = (request(r, resource), limit(r, resource));
            any |= req > 0 || lim > 0;
            guaranteed &= lim > 0 && req == lim;
        }
    }
    match (any, guaranteed) {
        (false, _) => Qos::BestEffort,
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
    }
}

/// cgroup path of the Pod below the kubelet's parent.
pub fn cgroup(parent: &str, pod: &Pod) -> String {
    format!("{parent}{}/pod{}", qos(pod).cgroup(), uid(pod))
}

/// oom_score_adj of a container: less for what asked for more (stock's formula).
pub fn oom_score_adj(pod: &Pod, c: &Container, node_memory: i64) -> i64 {
    let critical = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0) >= 2_000_000_000;
    match qos(pod) {
        _ if critical => -997,
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let asked = request(c.resources.as_ref(), "memory");
            let score = 1000 - (1000 * i128::from(asked) / i128::from(node_memory.max(1))) as i64;
            score.clamp(3, 999)
        }
    }
}

/// Hash of a container's name and image: a change of it restarts the container (32-bit FNV-1a, hexadecimal).
pub fn hash(c: &Container) -> String {
    #[derive(serde::Serialize)]
    struct Identity<'a> {
        image: &'a str,
        name: &'a str,
    }
    let identity = Identity { image: c.image.as_deref().unwrap_or_default(), name: &c.name };
    let text = serde_json::to_string(&identity).unwrap_or_default();
    let mut h: u32 = 0x811c_9dc5;
    for b in text.bytes() {
        h ^= u32::from(b);
        h = h.wrapping_mul(0x0100_0193);
    }
    format!("{h:x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(v: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"uid": "u"}, "spec": v})).unwrap()
    }

    #[test]
    fn qos_class_follows_requests_and_limits() {
        let best = pod(serde_json::json!({"containers": [{"name": "a"}]}));
        assert_eq!(qos(&best), Qos::BestEffort);
        assert_eq!(cgroup("/s/kubepods", &best), "/s/kubepods/besteffort/podu");
        let burst = pod(serde_json::json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}]}));
        assert_eq!(qos(&burst), Qos::Burstable);
        let r = serde_json::json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let sure = pod(serde_json::json!({"containers": [{"name": "a", "resources": r}]}));
        assert_eq!(qos(&sure), Qos::Guaranteed);
        assert_eq!(cgroup("/s/kubepods", &sure), "/s/kubepods/podu");
        let half = pod(serde_json::json!({"containers": [{"name": "a", "resources": r}, {"name": "b"}]}));
        assert_eq!(qos(&half), Qos::Burstable);
        assert_eq!(pod_limit(&half, "cpu"), 0);
    }

    #[test]
    fn a_sidecar_counts_beside_the_containers_and_an_init_container_only_at_its_peak() {
        let p = pod(serde_json::json!({
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                {"name": "i", "resources": {"requests": {"cpu": "1"}}}],
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "300m"}}}]}));
        assert_eq!(pod_request(&p, "cpu"), 1100);
    }

    #[test]
    fn restart_rules_of_a_container_win_over_the_policy() {
        let p = pod(serde_json::json!({"restartPolicy": "Never", "containers": [
            {"name": "a"},
            {"name": "b", "restartPolicy": "Never",
             "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}));
        assert!(!restarts_after(&p, &containers(&p)[0], 42));
        assert!(restarts_after(&p, &containers(&p)[1], 42));
        assert!(!restarts_after(&p, &containers(&p)[1], 1));
    }

    #[test]
    fn the_score_of_a_burstable_container_falls_with_its_request() {
        let r = serde_json::json!({"requests": {"memory": "1Gi"}});
        let p = pod(serde_json::json!({"containers": [{"name": "a", "resources": r}, {"name": "b"}]}));
        assert_eq!(oom_score_adj(&p, &containers(&p)[0], 4 << 30), 750);
        assert_eq!(oom_score_adj(&p, &containers(&p)[1], 4 << 30), 999);
    }
}
