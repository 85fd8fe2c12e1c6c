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
        let mut domains: HashMap<&str, i32> = HashMap::new();
        let size = if per_host {
            ignored.iter().filter(|i| !**i).count()
        } else {
            for (id, _) in nodes.iter().zip(&ignored).filter(|(_, i)| !**i) {
                if let Some(v) = snapshot_label(snapshot, *id, c) {
                    domains.entry(v).or_insert(0);
                }
            }
            for (id, n) in snapshot.counted(&key) {
                if let Some(v) = snapshot_label(snapshot, id, c)
                    && let Some(total) = domains.get_mut(v)
                    && eligible(pod, c, snapshot.node(id))
                {
                    *total += n;
                }
            }
            domains.len()
        };
        let weight = (size as f64 + 2.0).ln();
        for (i, id) in nodes.iter().enumerate() {
            let Some(v) = snapshot_label(snapshot, *id, c) else { continue };
            let n = if per_host { snapshot.counted_on(&key, *id) } else { domains.get(v).copied().unwrap_or(0) };
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

fn snapshot_label<'a>(snapshot: &'a Snapshot, id: NodeId, c: &SpreadConstraint) -> Option<&'a str> {
    snapshot.node(id).label(&c.topology_key)
}
