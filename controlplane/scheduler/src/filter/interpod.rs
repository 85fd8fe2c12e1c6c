//! Required affinity and anti-affinity between Pods, in both directions.

use super::{Plugin, Refusal};
use crate::podinfo::{PodInfo, Term};
use crate::snapshot::{NodeInfo, Snapshot};
use std::collections::HashSet;

type Domain = (String, String);

/// Domains (label, value) that attract or repel the Pod.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Where a placed Pod wants nobody like this one.
    repelled: HashSet<Domain>,
    /// Where Pods are that this one must be with.
    affinity: HashSet<Domain>,
    /// Where Pods are that this one must not be with.
    anti: HashSet<Domain>,
    /// No Pod matches the affinity, but this one does itself: it may be the first of its group.
    first: bool,
}

fn domain(term: &Term, node: &NodeInfo) -> Option<Domain> {
    node.label(&term.topology_key).map(|v| (term.topology_key.clone(), v.to_string()))
}

/// Looks at the placed Pods.
pub fn prepare(snapshot: &Snapshot, pod: &PodInfo) -> Prepared {
    let mut p = Prepared::default();
    let spaces = &snapshot.namespaces;
    for (other, id) in snapshot.pods_with_anti_affinity() {
        for term in other.anti_affinity.iter().filter(|t| t.matches(pod, spaces)) {
            p.repelled.extend(domain(term, snapshot.node(id)));
        }
    }
    if pod.affinity.is_empty() && pod.anti_affinity.is_empty() {
        return p;
    }
    let mut look = |other: &PodInfo, node: &NodeInfo| {
        if !pod.affinity.is_empty() && pod.affinity.iter().all(|t| t.matches(other, spaces)) {
            p.affinity.extend(pod.affinity.iter().filter_map(|t| domain(t, node)));
        }
        for term in pod.anti_affinity.iter().filter(|t| t.matches(other, spaces)) {
            p.anti.extend(domain(term, node));
        }
    };
    // Most terms are about the Pod's own namespace: no need to look at everybody.
    let own = |t: &Term| t.namespace_selector.is_none() && t.namespaces.iter().all(|n| n == &pod.namespace);
    if pod.affinity.iter().chain(&pod.anti_affinity).all(own) {
        snapshot.in_namespace(&pod.namespace).for_each(|(o, id)| look(o, snapshot.node(id)));
    } else {
        snapshot.pods().for_each(|(o, id)| look(o, snapshot.node(id)));
    }
    p.first = p.affinity.is_empty() && pod.affinity.iter().all(|t| t.matches(pod, spaces));
    p
}

impl Prepared {
    /// Checks a node.
    pub fn check(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let refuse = |reason: &str, unresolvable| Err(Refusal::new(Plugin::InterPodAffinity, reason, unresolvable));
        let labelled = pod.affinity.iter().all(|t| node.label(&t.topology_key).is_some());
        let together = pod.affinity.iter().all(|t| domain(t, node).is_some_and(|d| self.affinity.contains(&d)));
        if !pod.affinity.is_empty() && !(labelled && (together || self.first)) {
            return refuse("node(s) didn't match pod affinity rules", true);
        }
        if pod.anti_affinity.iter().any(|t| domain(t, node).is_some_and(|d| self.anti.contains(&d))) {
            return refuse("node(s) didn't match pod anti-affinity rules", false);
        }
        if self.repelled.iter().any(|(k, v)| node.label(k) == Some(v)) {
            return refuse("node(s) didn't satisfy existing pods anti-affinity rules", false);
        }
        Ok(())
    }
}
