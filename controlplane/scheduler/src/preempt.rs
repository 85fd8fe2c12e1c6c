//! Preemption: which Pods of lower priority would have to go, and from which node that hurts least.

use crate::decide::Diagnosis;
use crate::filter;
use crate::podinfo::PodInfo;
use crate::snapshot::{NodeId, Snapshot};
use k8s_openapi::jiff::Timestamp;
use std::cmp::Reverse;
use std::sync::Arc;

/// Most candidate nodes looked at.
const MAX_CANDIDATES: usize = 100;

/// A node and the Pods to evict from it.
#[derive(Debug)]
pub struct Victims {
    /// The node.
    pub node: NodeId,
    /// Who goes, the most important first.
    pub pods: Vec<Arc<PodInfo>>,
}

/// Whether the Pod may preempt at all.
pub fn may_preempt(pod: &PodInfo) -> bool {
    pod.pod.spec.as_ref().and_then(|s| s.preemption_policy.as_deref()) != Some("Never")
}

/// The least harmful eviction that makes room, or upstream's words for why there is none.
///
/// The snapshot is changed and put back: victims are taken out, every filter is asked, and the ones that can stay
/// are put in again, the most important first.
pub fn preempt(snapshot: &mut Snapshot, pod: &PodInfo, diagnosis: &Diagnosis) -> Result<Victims, String> {
    let nodes = diagnosis.nodes;
    if !may_preempt(pod) {
        return Err("not eligible due to preemptionPolicy=Never.".into());
    }
    let mut best: Option<Victims> = None;
    for id in diagnosis.resolvable.iter().take(MAX_CANDIDATES) {
        if let Some(pods) = victims(snapshot, pod, *id) {
            let candidate = Victims { node: *id, pods };
            if best.as_ref().is_none_or(|b| harm(&candidate) < harm(b)) {
                best = Some(candidate);
            }
        }
    }
    best.ok_or_else(|| {
        let tried = diagnosis.resolvable.len();
        let mut parts = Vec::new();
        if nodes > tried {
            parts.push(format!("{} Preemption is not helpful for scheduling", nodes - tried));
        }
        if tried > 0 {
            parts.push(format!("{tried} No preemption victims found for incoming pod"));
        }
        parts.sort();
        format!("0/{nodes} nodes are available: {}.", parts.join(", "))
    })
}

fn started(pod: &PodInfo) -> Option<Timestamp> {
    pod.pod.status.as_ref()?.start_time.as_ref().map(|t| t.0)
}

/// Lower priority of the most important victim, then a lower sum, fewer of them, and the younger ones.
fn harm(v: &Victims) -> (i32, i64, usize, Reverse<Option<Timestamp>>) {
    let highest = v.pods.iter().map(|p| p.priority).max().unwrap_or(i32::MIN);
    // As upstream: offset so that negative priorities add up too.
    let sum = v.pods.iter().map(|p| i64::from(p.priority) + i64::from(i32::MAX) + 1).sum();
    let earliest = v.pods.iter().filter(|p| p.priority == highest).filter_map(|p| started(p)).min();
    (highest, sum, v.pods.len(), Reverse(earliest))
}

fn victims(snapshot: &mut Snapshot, pod: &PodInfo, id: NodeId) -> Option<Vec<Arc<PodInfo>>> {
    let name = snapshot.node(id).name.clone();
    let mut lower: Vec<Arc<PodInfo>> =
        snapshot.node(id).pods.values().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    lower.sort_by_key(|p| (Reverse(p.priority), started(p)));
    for p in &lower {
        snapshot.remove_pod(&p.uid);
    }
    let fits = |s: &mut Snapshot| {
        let prepared = filter::prepare(s, pod);
        filter::check(s, &prepared, pod, id).is_ok()
    };
    let mut out = Vec::new();
    let possible = fits(snapshot);
    for p in &lower {
        snapshot.place_pod(p.clone(), &name);
        if possible && !fits(snapshot) {
            snapshot.remove_pod(&p.uid);
            out.push(p.clone());
        }
    }
    for p in &out {
        snapshot.place_pod(p.clone(), &name);
    }
    possible.then_some(out).filter(|o| !o.is_empty())
}
