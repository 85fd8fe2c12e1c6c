//! Soft topology spread constraints: the Pod's own, or the cluster's defaults for Pods behind Services and workloads.

use super::MAX;
use crate::filter::spread::eligible;
use crate::podinfo::{PodInfo, SpreadConstraint};
use crate::snapshot::{NodeId, Snapshot};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::HashMap;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// The defaults of upstream's System defaulting, for Pods that `selector` (their Services' and owner's) matches.
pub fn defaults(selector: &LabelSelector) -> Vec<SpreadConstraint> {
    [(3, HOSTNAME), (5, ZONE)]
        .map(|(max_skew, key)| SpreadConstraint {
            max_skew,
            topology_key: key.into(),
            selector: selector.clone(),
            min_domains: 1,
            honor_affinity: true,
            honor_taints: false,
        })
        .into()
}

/// Scores of `nodes`; None when there is no constraint.
pub fn scores(
    snapshot: &mut Snapshot,
    pod: &PodInfo,
    nodes: &[NodeId],
    defaults: &[SpreadConstraint],
) -> Option<Vec<i64>> {
    let own = !pod.soft_spread.is_empty();
    let constraints = if own || !pod.hard_spread.is_empty() { &pod.soft_spread[..] } else { defaults };
    if constraints.is_empty() {
        return None;
    }
    // A node that lacks a label of the Pod's own constraints scores nothing; the defaults just skip it.
    let ignored = |id: NodeId| own && constraints.iter().any(|c| snapshot_label(snapshot, id, c).is_none());
    let ignored: Vec<bool> = nodes.iter().map(|id| ignored(*id)).collect();
    let mut raw = vec![0.0_f64; nodes.len()];
    for c in constraints {
        let key = snapshot.count(&pod.namespace, &c.selector);
        let per_host = c.topology_key == HOSTNAME;
        // Every node is eligible: the totals kept by the snapshot are the ones wanted.
        let simple = !c.honor_taints && is_unconstrained(pod);
        if !per_host && simple {
            snapshot.count_domains(&key, &c.topology_key);
        }
        let Some(counted) = snapshot.counted(&key) else { continue };
        let values: Vec<Option<&str>> = nodes.iter().map(|id| snapshot_label(snapshot, *id, c)).collect();
        let mut domains: HashMap<&str, i32> = HashMap::new();
        let size = if per_host {
            ignored.iter().filter(|i| !**i).count()
        } else {
            for v in values.iter().zip(&ignored).filter(|(_, i)| !**i).filter_map(|(v, _)| *v) {
                domains.entry(v).or_insert(0);
            }
            match counted.by_domain(&c.topology_key).filter(|_| simple) {
                Some(totals) => domains.iter_mut().for_each(|(v, n)| *n = totals.get(*v).copied().unwrap_or(0)),
                None => {
                    for (id, n) in counted.by_node() {
                        if let Some(v) = snapshot_label(snapshot, id, c)
                            && let Some(total) = domains.get_mut(v)
                            && eligible(pod, c, snapshot.node(id))
                        {
                            *total += n;
                        }
                    }
                }
            }
            domains.len()
        };
        let weight = (size as f64 + 2.0).ln();
        for (i, (id, v)) in nodes.iter().zip(&values).enumerate() {
            let Some(v) = v else { continue };
            let n = if per_host { counted.on(*id) } else { domains.get(v).copied().unwrap_or(0) };
            raw[i] += f64::from(n) * weight + f64::from(c.max_skew - 1);
        }
    }
    let rounded: Vec<i64> = raw.iter().map(|r| r.round() as i64).collect();
    let used = || rounded.iter().zip(&ignored).filter(|(_, i)| !**i).map(|(r, _)| *r);
    let (least, most) = (used().min().unwrap_or(0), used().max().unwrap_or(0));
    Some(
        rounded
            .iter()
            .zip(&ignored)
            .map(|(r, ignored)| match (ignored, most) {
                (true, _) => 0,
                (false, 0) => MAX,
                (false, most) => MAX * (most + least - r) / most,
            })
            .collect(),
    )
}

/// No nodeSelector and no node affinity.
fn is_unconstrained(pod: &PodInfo) -> bool {
    pod.pod.spec.as_ref().is_none_or(|s| {
        s.node_selector.as_ref().is_none_or(|n| n.is_empty())
            && s.affinity.as_ref().is_none_or(|a| a.node_affinity.is_none())
    })
}

fn snapshot_label<'a>(snapshot: &'a Snapshot, id: NodeId, c: &SpreadConstraint) -> Option<&'a str> {
    snapshot.node(id).label(&c.topology_key)
}
