//! Hard topology spread constraints (KEP-895): no domain may get further ahead of the emptiest than `maxSkew`.

use super::{Plugin, Refusal, node_affinity, untolerated};
use crate::podinfo::{PodInfo, SpreadConstraint};
use crate::snapshot::{NodeInfo, Snapshot};
use std::collections::HashMap;
use strake_controllers::runtime::labels;

/// Matching Pods by domain, for each constraint.
#[derive(Debug, Default)]
pub struct Prepared {
    domains: Vec<(HashMap<String, i32>, i32)>,
}

/// Whether the nodes a constraint looks at include this one.
pub fn eligible(pod: &PodInfo, c: &SpreadConstraint, node: &NodeInfo) -> bool {
    (!c.honor_affinity || node_affinity(pod, node))
        && (!c.honor_taints || untolerated(pod, node, &["NoSchedule", "NoExecute"]).is_none())
}

/// Counts the domains.
pub fn prepare(snapshot: &mut Snapshot, pod: &PodInfo) -> Prepared {
    let mut prepared = Prepared::default();
    for c in &pod.hard_spread {
        let key = snapshot.count(&pod.namespace, &c.selector);
        let counted = snapshot.counted(&key);
        let mut domains: HashMap<String, i32> = HashMap::new();
        for id in snapshot.node_ids() {
            let node = snapshot.node(*id);
            // Only nodes that have every constraint's label take part.
            let all_labels = pod.hard_spread.iter().all(|c| node.label(&c.topology_key).is_some());
            if let (true, true, Some(domain)) = (all_labels, eligible(pod, c, node), node.label(&c.topology_key)) {
                *domains.entry(domain.to_string()).or_insert(0) += counted.map_or(0, |c| c.on(*id));
            }
        }
        let least = domains.values().copied().min().unwrap_or(0);
        let least = if (domains.len() as i32) < c.min_domains { 0 } else { least };
        prepared.domains.push((domains, least));
    }
    prepared
}

impl Prepared {
    /// Checks a node.
    pub fn check(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        for (c, (domains, least)) in pod.hard_spread.iter().zip(&self.domains) {
            let Some(domain) = node.label(&c.topology_key) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Refusal::new(Plugin::PodTopologySpread, reason, true));
            };
            let own = i32::from(labels::matches(&c.selector, pod.labels()));
            let skew = domains.get(domain).copied().unwrap_or(0) + own - least;
            if skew > c.max_skew {
                let reason = "node(s) didn't match pod topology spread constraints";
                return Err(Refusal::new(Plugin::PodTopologySpread, reason, false));
            }
        }
        Ok(())
    }
}
