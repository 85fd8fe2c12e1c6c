//! Preferred affinity and anti-affinity between Pods, in both directions.

use super::MAX;
use crate::podinfo::{PodInfo, Term};
use crate::snapshot::{NodeId, Snapshot};
use std::collections::HashMap;

/// What a placed Pod's required affinity towards the new one is worth.
const HARD_AFFINITY_WEIGHT: i64 = 1;

/// Scores of `nodes`; None when nobody has a preference.
pub fn scores(snapshot: &Snapshot, pod: &PodInfo, nodes: &[NodeId]) -> Option<Vec<i64>> {
    let spaces = &snapshot.namespaces;
    let mut domains: HashMap<(String, String), i64> = HashMap::new();
    let mut add = |term: &Term, id: NodeId, weight: i64| {
        if let Some(v) = snapshot.node(id).label(&term.topology_key) {
            *domains.entry((term.topology_key.clone(), v.to_string())).or_insert(0) += weight;
        }
    };
    if !pod.preferred.is_empty() {
        for (other, id) in snapshot.pods() {
            for term in pod.preferred.iter().filter(|t| t.matches(other, spaces)) {
                add(term, id, term.weight);
            }
        }
    }
    for (other, id) in snapshot.pods_with_affinity() {
        for term in other.preferred.iter().filter(|t| t.matches(pod, spaces)) {
            add(term, id, term.weight);
        }
        for term in other.affinity.iter().filter(|t| t.matches(pod, spaces)) {
            add(term, id, HARD_AFFINITY_WEIGHT);
        }
    }
    if domains.is_empty() {
        return None;
    }
    let raw: Vec<i64> = nodes
        .iter()
        .map(|id| {
            let node = snapshot.node(*id);
            domains.iter().filter(|((k, v), _)| node.label(k) == Some(v)).map(|(_, w)| w).sum()
        })
        .collect();
    let (least, most) = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
    let span = (most - least) as f64;
    Some(raw.iter().map(|r| if span > 0.0 { (MAX as f64 * (r - least) as f64 / span) as i64 } else { 0 }).collect())
}
