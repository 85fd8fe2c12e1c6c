//! May this Pod run on that node? Pure functions; the reasons are the words `kubectl describe pod` shows.

pub mod interpod;
pub mod spread;

use crate::podinfo::PodInfo;
use crate::snapshot::{NodeId, NodeInfo, Snapshot};
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};
use std::collections::BTreeSet;

/// Which check refused: also what can make a new attempt worthwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plugin {
    /// `spec.unschedulable`.
    NodeUnschedulable,
    /// `spec.nodeName`.
    NodeName,
    /// Taints.
    TaintToleration,
    /// nodeSelector and node affinity.
    NodeAffinity,
    /// Host ports.
    NodePorts,
    /// Requests.
    NodeResourcesFit,
    /// Spread constraints.
    PodTopologySpread,
    /// Affinity between Pods.
    InterPodAffinity,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// By whom.
    pub plugin: Plugin,
    /// Why; several resources can be short at once.
    pub reasons: Vec<String>,
    /// No eviction of other Pods could change it.
    pub unresolvable: bool,
}

impl Refusal {
    fn new(plugin: Plugin, reason: impl Into<String>, unresolvable: bool) -> Self {
        Refusal { plugin, reasons: vec![reason.into()], unresolvable }
    }
}

/// What the filters need to know about the whole cluster, computed once for a Pod.
#[derive(Debug)]
pub struct Prepared {
    spread: spread::Prepared,
    interpod: interpod::Prepared,
}

/// Looks at the whole cluster once for this Pod.
pub fn prepare(snapshot: &mut Snapshot, pod: &PodInfo) -> Prepared {
    Prepared { spread: spread::prepare(snapshot, pod), interpod: interpod::prepare(snapshot, pod) }
}

/// Asks every filter in order; the first refusal counts.
pub fn check(snapshot: &Snapshot, prepared: &Prepared, pod: &PodInfo, id: NodeId) -> Result<(), Refusal> {
    let node = snapshot.node(id);
    unschedulable(pod, node)?;
    node_name(pod, node)?;
    taints(pod, node)?;
    if !node_affinity(pod, node) {
        let reason = "node(s) didn't match Pod's node affinity/selector";
        return Err(Refusal::new(Plugin::NodeAffinity, reason, true));
    }
    ports(pod, node)?;
    fit(pod, node)?;
    prepared.spread.check(pod, node)?;
    prepared.interpod.check(pod, node)
}

fn unschedulable(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    if !node.is_cordoned() {
        return Ok(());
    }
    let taint =
        Taint { key: "node.kubernetes.io/unschedulable".into(), effect: "NoSchedule".into(), ..Default::default() };
    if pod.tolerations().iter().any(|t| tolerates(t, &taint)) {
        return Ok(());
    }
    Err(Refusal::new(Plugin::NodeUnschedulable, "node(s) were unschedulable", true))
}

fn node_name(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let wanted = pod.node_name();
    if !wanted.is_empty() && wanted != node.name {
        return Err(Refusal::new(Plugin::NodeName, "node(s) didn't match the requested node name", true));
    }
    Ok(())
}

/// Whether a toleration tolerates a taint.
pub fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let effect = t.effect.as_deref().unwrap_or_default();
    let key = t.key.as_deref().unwrap_or_default();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match t.operator.as_deref().unwrap_or_default() {
        "Exists" => true,
        "" | "Equal" => {
            !key.is_empty() && t.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

/// The first taint with one of these effects that the Pod does not tolerate.
pub fn untolerated<'a>(pod: &PodInfo, node: &'a NodeInfo, effects: &[&str]) -> Option<&'a Taint> {
    node.taints()
        .iter()
        .filter(|t| effects.contains(&t.effect.as_str()))
        .find(|taint| !pod.tolerations().iter().any(|t| tolerates(t, taint)))
}

fn taints(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    match untolerated(pod, node, &["NoSchedule", "NoExecute"]) {
        Some(t) => {
            let value = t.value.as_deref().unwrap_or_default();
            let reason = format!("node(s) had untolerated taint {{{}: {value}}}", t.key);
            Err(Refusal::new(Plugin::TaintToleration, reason, true))
        }
        None => Ok(()),
    }
}

/// nodeSelector and required node affinity.
pub fn node_affinity(pod: &PodInfo, node: &NodeInfo) -> bool {
    let Some(spec) = &pod.pod.spec else { return true };
    if let Some(selector) = &spec.node_selector
        && !selector.iter().all(|(k, v)| node.label(k) == Some(v))
    {
        return false;
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref())
        .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    // Terms are alternatives; no term at all matches nothing.
    required.is_none_or(|s| s.node_selector_terms.iter().any(|t| node_term(t, node)))
}

/// Whether a node satisfies every requirement of a term; an empty term matches nothing.
pub fn node_term(term: &NodeSelectorTerm, node: &NodeInfo) -> bool {
    let labels = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    if labels.is_empty() && fields.is_empty() {
        return false;
    }
    labels.iter().all(|r| requirement(r, node.label(&r.key)))
        && fields.iter().all(|r| r.key == "metadata.name" && requirement(r, Some(&node.name)))
}

fn requirement(r: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = r.values.as_deref().unwrap_or_default();
    let among = |v: &str| values.iter().any(|x| x == v);
    let compare = |f: fn(&i64, &i64) -> bool| {
        let wanted = values.first().and_then(|v| v.parse::<i64>().ok());
        matches!((value.and_then(|v| v.parse::<i64>().ok()), wanted), (Some(a), Some(b)) if f(&a, &b))
    };
    match r.operator.as_str() {
        "In" => value.is_some_and(among),
        "NotIn" => !value.is_some_and(among),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

fn ports(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let any = |ip: &str| ip == "0.0.0.0";
    let taken = pod.host_ports.iter().any(|(protocol, ip, port)| {
        node.ports.keys().any(|(p, i, n)| p == protocol && n == port && (i == ip || any(i) || any(ip)))
    });
    if taken {
        let reason = "node(s) didn't have free ports for the requested pod ports";
        return Err(Refusal::new(Plugin::NodePorts, reason, false));
    }
    Ok(())
}

/// Requests against what is left. Names every resource that is short.
pub fn fit(pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
    let (want, have, used) = (&pod.requests, &node.allocatable, &node.requested);
    let mut short: BTreeSet<String> = BTreeSet::new();
    let mut never = false;
    if used.pods + 1 > have.pods {
        short.insert("Too many pods".into());
    }
    let mut compare = |name: &str, want: i64, have: i64, used: i64| {
        if want > 0 && want > have - used {
            short.insert(format!("Insufficient {name}"));
            never |= want > have;
        }
    };
    compare("cpu", want.milli_cpu, have.milli_cpu, used.milli_cpu);
    compare("memory", want.memory, have.memory, used.memory);
    compare("ephemeral-storage", want.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage);
    for (name, n) in &want.scalar {
        let of = |r: &crate::resources::Resources| r.scalar.get(name).copied().unwrap_or(0);
        compare(name, *n, of(have), of(used));
    }
    if short.is_empty() {
        return Ok(());
    }
    Err(Refusal { plugin: Plugin::NodeResourcesFit, reasons: short.into_iter().collect(), unresolvable: never })
}
