//! One Pod, one decision: the node it goes to, or why there is none.

use crate::filter::{self, Plugin, Prepared};
use crate::podinfo::{PodInfo, SpreadConstraint};
use crate::score;
use crate::snapshot::{NodeId, Snapshot};
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Fewer nodes than this are all looked at.
const MIN_FEASIBLE: usize = 100;

/// The outcome.
#[derive(Debug)]
pub enum Decision {
    /// This node.
    Node(NodeId),
    /// None, and why.
    Nowhere(Diagnosis),
}

/// Why no node fits.
#[derive(Debug, Default)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub nodes: usize,
    /// How many nodes gave each reason.
    pub reasons: BTreeMap<String, usize>,
    /// Who refused: what could make another attempt worthwhile.
    pub plugins: BTreeSet<Plugin>,
    /// Nodes that evicting Pods could make fit.
    pub resolvable: Vec<NodeId>,
}

impl Diagnosis {
    /// The message of the condition and the event, with what preemption found, if it was tried.
    pub fn message(&self, preemption: Option<&str>) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut parts: Vec<String> = self.reasons.iter().map(|(r, n)| format!("{n} {r}")).collect();
        parts.sort();
        let mut message = format!("0/{} nodes are available: {}.", self.nodes, parts.join(", "));
        if let Some(p) = preemption {
            message.push_str(" preemption: ");
            message.push_str(p);
        }
        message
    }
}

/// How many feasible nodes are enough to choose from among `nodes`.
pub fn enough(nodes: usize, percentage: u32) -> usize {
    if nodes < MIN_FEASIBLE {
        return nodes;
    }
    let percent = match percentage as usize {
        0 => 50usize.saturating_sub(nodes / 125).max(5),
        p => p.min(100),
    };
    (nodes * percent / 100).max(MIN_FEASIBLE)
}

/// Pods that were promised a node by preemption, by node: others must leave them their room.
pub type Nominated = HashMap<String, Vec<std::sync::Arc<PodInfo>>>;

/// Whether the Pod fits, also if the Pods nominated to this node (of at least its priority) were there already.
fn fits(
    snapshot: &Snapshot,
    prepared: &Prepared,
    pod: &PodInfo,
    id: NodeId,
    nominated: &Nominated,
) -> Result<(), filter::Refusal> {
    filter::check(snapshot, prepared, pod, id)?;
    let node = snapshot.node(id);
    let Some(promised) = nominated.get(&node.name) else { return Ok(()) };
    let promised: Vec<_> = promised.iter().filter(|p| p.uid != pod.uid && p.priority >= pod.priority).collect();
    if promised.is_empty() {
        return Ok(());
    }
    let mut with = node.clone();
    for p in promised {
        with.requested.add(&p.requests);
    }
    filter::fit(pod, &with)
}

/// Decides. `start` rotates where the search begins, so that all nodes get their turn; it is moved on.
pub fn decide(
    snapshot: &mut Snapshot,
    pod: &PodInfo,
    defaults: &[SpreadConstraint],
    nominated: &Nominated,
    percentage: u32,
    start: &mut usize,
) -> Decision {
    let prepared = filter::prepare(snapshot, pod);
    let ids = snapshot.node_ids();
    let total = ids.len();
    let mut diagnosis = Diagnosis { nodes: total, ..Default::default() };
    let want = enough(total, percentage);
    let mut feasible = Vec::with_capacity(want.min(total));
    let mut seen = 0;
    while seen < total && feasible.len() < want {
        let id = ids[(*start + seen) % total];
        seen += 1;
        match fits(snapshot, &prepared, pod, id, nominated) {
            Ok(()) => feasible.push(id),
            Err(refusal) => {
                for r in refusal.reasons {
                    *diagnosis.reasons.entry(r).or_insert(0) += 1;
                }
                diagnosis.plugins.insert(refusal.plugin);
                if !refusal.unresolvable {
                    diagnosis.resolvable.push(id);
                }
            }
        }
    }
    if total > 0 {
        *start = (*start + seen) % total;
    }
    match feasible.as_slice() {
        [] => Decision::Nowhere(diagnosis),
        [one] => Decision::Node(*one),
        _ => {
            let scores = score::scores(snapshot, pod, &feasible, defaults);
            Decision::Node(best(&feasible, &scores))
        }
    }
}

/// One of the nodes with the highest score, each with the same chance.
fn best(nodes: &[NodeId], scores: &[i64]) -> NodeId {
    let most = scores.iter().copied().max().unwrap_or(0);
    let top: Vec<NodeId> = nodes.iter().zip(scores).filter(|(_, s)| **s == most).map(|(n, _)| *n).collect();
    top[rand::rng().random_range(0..top.len())]
}
