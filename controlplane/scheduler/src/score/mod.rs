//! Which of the nodes that may run the Pod should? Each score is 0 to 100, then weighted as upstream does.

pub mod interpod;
pub mod spread;

use crate::filter::{node_term, tolerates};
use crate::podinfo::{PodInfo, SpreadConstraint};
use crate::snapshot::{NodeId, NodeInfo, Snapshot};

/// The best score of one plugin.
pub const MAX: i64 = 100;
const WEIGHT_TAINTS: i64 = 3;
const WEIGHT_NODE_AFFINITY: i64 = 2;
const WEIGHT_SPREAD: i64 = 2;
const WEIGHT_INTERPOD: i64 = 2;
const MIB: f64 = 1024.0 * 1024.0;

/// Total scores of `nodes`, in their order. `defaults` are the cluster's own soft constraints for a Pod without any.
pub fn scores(snapshot: &mut Snapshot, pod: &PodInfo, nodes: &[NodeId], defaults: &[SpreadConstraint]) -> Vec<i64> {
    let mut total: Vec<i64> = nodes
        .iter()
        .map(|id| {
            let node = snapshot.node(*id);
            least_allocated(pod, node) + balanced(pod, node) + image_locality(snapshot, pod, node)
        })
        .collect();
    let mut add = |weight: i64, scores: Vec<i64>| {
        for (t, s) in total.iter_mut().zip(scores) {
            *t += weight * s;
        }
    };
    let each = |f: &dyn Fn(&NodeInfo) -> i64| nodes.iter().map(|id| f(snapshot.node(*id))).collect::<Vec<i64>>();
    add(WEIGHT_TAINTS, normalized(each(&|n| intolerable(pod, n)), true));
    add(WEIGHT_NODE_AFFINITY, normalized(each(&|n| preferred_affinity(pod, n)), false));
    if let Some(s) = interpod::scores(snapshot, pod, nodes) {
        add(WEIGHT_INTERPOD, s);
    }
    if let Some(s) = spread::scores(snapshot, pod, nodes, defaults) {
        add(WEIGHT_SPREAD, s);
    }
    total
}

/// Scales to 0..=100 by the largest; `reverse` makes the smallest the best.
fn normalized(scores: Vec<i64>, reverse: bool) -> Vec<i64> {
    let most = scores.iter().copied().max().unwrap_or(0);
    if most == 0 {
        return vec![if reverse { MAX } else { 0 }; scores.len()];
    }
    scores.into_iter().map(|s| if reverse { MAX - MAX * s / most } else { MAX * s / most }).collect()
}

/// The emptier the better: mean of free CPU and memory, in percent of what there is.
fn least_allocated(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let part = |have: i64, used: i64, want: i64| match have {
        0 => None,
        _ if used + want > have => Some(0),
        _ => Some((have - used - want) * MAX / have),
    };
    let parts = [
        part(node.allocatable.milli_cpu, node.nonzero.0, pod.nonzero.0),
        part(node.allocatable.memory, node.nonzero.1, pod.nonzero.1),
    ];
    let parts: Vec<i64> = parts.into_iter().flatten().collect();
    if parts.is_empty() { 0 } else { parts.iter().sum::<i64>() / parts.len() as i64 }
}

/// CPU and memory used to the same degree are best. Pods without requests do not care.
fn balanced(pod: &PodInfo, node: &NodeInfo) -> i64 {
    if pod.requests.milli_cpu == 0 && pod.requests.memory == 0 {
        return 0;
    }
    let part = |have: i64, used: i64, want: i64| (have > 0).then(|| ((used + want) as f64 / have as f64).min(1.0));
    let (have, used, want) = (&node.allocatable, &node.requested, &pod.requests);
    match (part(have.milli_cpu, used.milli_cpu, want.milli_cpu), part(have.memory, used.memory, want.memory)) {
        (Some(cpu), Some(memory)) => ((1.0 - (cpu - memory).abs() / 2.0) * MAX as f64) as i64,
        _ => MAX,
    }
}

/// Nodes that have the images, by their size, and less so if few nodes have them.
fn image_locality(snapshot: &Snapshot, pod: &PodInfo, node: &NodeInfo) -> i64 {
    let Some(spec) = &pod.pod.spec else { return 0 };
    if node.images.is_empty() {
        return 0;
    }
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let (mut sum, mut containers) = (0.0, 0);
    let nodes = snapshot.node_ids().len().max(1) as f64;
    for c in all {
        containers += 1;
        let name = full_name(c.image.as_deref().unwrap_or_default());
        if let Some(size) = node.images.get(&name) {
            sum += *size as f64 * snapshot.nodes_with_image(&name) as f64 / nodes;
        }
    }
    let (least, most) = (23.0 * MIB, 1000.0 * MIB * f64::from(containers.max(1)));
    ((sum.clamp(least, most) - least) / (most - least) * MAX as f64) as i64
}

/// An image name with a tag, as nodes list them.
fn full_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or_default();
    if last.contains(':') || image.contains('@') { image.to_string() } else { format!("{image}:latest") }
}

/// How many PreferNoSchedule taints the Pod does not tolerate.
fn intolerable(pod: &PodInfo, node: &NodeInfo) -> i64 {
    let soft = node.taints().iter().filter(|t| t.effect == "PreferNoSchedule");
    soft.filter(|taint| !pod.tolerations().iter().any(|t| tolerates(t, taint))).count() as i64
}

/// Weights of the preferred node affinity terms that match.
fn preferred_affinity(pod: &PodInfo, node: &NodeInfo) -> i64 {
    pod.pod
        .spec
        .as_ref()
        .and_then(|s| s.affinity.as_ref()?.node_affinity.as_ref())
        .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
        .into_iter()
        .flatten()
        .filter(|p| {
            let t = &p.preference;
            let empty = t.match_expressions.as_ref().is_none_or(Vec::is_empty)
                && t.match_fields.as_ref().is_none_or(Vec::is_empty);
            empty || node_term(t, node)
        })
        .map(|p| i64::from(p.weight))
        .sum()
}
