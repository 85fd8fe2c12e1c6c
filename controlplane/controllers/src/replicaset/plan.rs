//! How many Pods to create, which to delete, and what the status says. Values in, values out.

use crate::runtime::{Error, elapsed, ownership, pods, seconds};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Most Pods created or deleted in one pass.
pub const MAX_BURST: usize = 500;
/// Pods with a lower value go first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The difference to be made.
#[derive(Debug, PartialEq)]
pub enum Scale {
    /// None.
    Keep,
    /// Create this many.
    Create(usize),
    /// Delete these, in this order.
    Delete(Vec<Arc<Pod>>),
}

/// A pass that did not get through.
#[derive(Debug)]
pub struct Failure {
    /// FailedCreate or FailedDelete.
    pub reason: &'static str,
    /// The first error.
    pub error: Error,
}

/// Compares wanted and active Pods. A ReplicaSet that is being deleted changes nothing.
pub fn scale(rs: &ReplicaSet, owned: &[Arc<Pod>], related: impl FnOnce() -> Vec<Arc<Pod>>, now: Timestamp) -> Scale {
    if rs.metadata.deletion_timestamp.is_some() {
        return Scale::Keep;
    }
    let wanted = replicas(rs).max(0) as usize;
    let active: Vec<Arc<Pod>> = owned.iter().filter(|p| pods::is_active(p)).cloned().collect();
    match active.len().cmp(&wanted) {
        Ordering::Equal => Scale::Keep,
        Ordering::Less => Scale::Create((wanted - active.len()).min(MAX_BURST)),
        Ordering::Greater => {
            let n = (active.len() - wanted).min(MAX_BURST);
            Scale::Delete(choose(active, n, &related(), now))
        }
    }
}

/// `spec.replicas`, 1 when unset.
pub fn replicas(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// The `n` Pods that are missed least.
fn choose(mut active: Vec<Arc<Pod>>, n: usize, related: &[Arc<Pod>], now: Timestamp) -> Vec<Arc<Pod>> {
    if n < active.len() {
        let mut on_node: HashMap<&str, usize> = HashMap::new();
        for p in related.iter().filter(|p| pods::is_active(p)) {
            *on_node.entry(pods::node_name(p)).or_insert(0) += 1;
        }
        let rank = |p: &Pod| on_node.get(pods::node_name(p)).copied().unwrap_or(0);
        active.sort_by(|a, b| deletion_order(a, rank(a), b, rank(b), now));
    }
    active.truncate(n);
    active
}

/// Less means deleted earlier. The rules in upstream's order (ActivePodsWithRanks, KEP-2185 for the logarithms).
fn deletion_order(a: &Pod, rank_a: usize, b: &Pod, rank_b: usize, now: Timestamp) -> Ordering {
    let bound = |p: &Pod| !pods::node_name(p).is_empty();
    let phase = |p: &Pod| match pods::phase(p) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let cost = |p: &Pod| {
        let annotation = p.metadata.annotations.as_ref().and_then(|a| a.get(DELETION_COST));
        annotation.and_then(|c| c.parse::<i32>().ok()).unwrap_or(0)
    };
    let created = |p: &Pod| p.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let both_ready = pods::is_ready(a) && pods::is_ready(b);
    bound(a)
        .cmp(&bound(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank_b.cmp(&rank_a))
        .then_with(
            || if both_ready { by_age(pods::ready_since(a), pods::ready_since(b), now) } else { Ordering::Equal },
        )
        .then_with(|| pods::restarts(b).cmp(&pods::restarts(a)))
        .then_with(|| by_age(created(a), created(b), now))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

/// Younger first, where ages of the same power of two are equal, so that ties are spread by uid.
fn by_age(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let log = |t: Option<Timestamp>| t.map(|t| elapsed(t, now).as_nanos().checked_ilog2().map_or(-1, i64::from));
    match (log(a), log(b)) {
        (Some(x), Some(y)) => x.cmp(&y),
        // An unset time is the youngest of all.
        (x, y) => x.is_some().cmp(&y.is_some()),
    }
}

/// A Pod as the template wants it, controlled by `rs`, named by the server.
pub fn pod_from_template(rs: &ReplicaSet) -> Pod {
    let template = rs.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
    let meta = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", rs.metadata.name.as_deref().unwrap_or_default())),
            namespace: rs.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![ownership::controller_reference(rs)]),
            ..Default::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The status these Pods and this pass amount to.
pub fn status(rs: &ReplicaSet, owned: &[Arc<Pod>], failure: Option<&Failure>, now: Timestamp) -> ReplicaSetStatus {
    let mut status = rs.status.clone().unwrap_or_default();
    let spec = rs.spec.as_ref();
    let template_labels = spec
        .and_then(|s| s.template.as_ref())
        .and_then(|t| t.metadata.as_ref())
        .and_then(|m| m.labels.clone())
        .unwrap_or_default();
    let min_ready = spec.and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let active = || owned.iter().filter(|p| pods::is_active(p));
    let count = |f: &dyn Fn(&Pod) -> bool| {
        let n = active().filter(|p| f(p)).count() as i32;
        (n != 0).then_some(n)
    };
    status.replicas = active().count() as i32;
    status.fully_labeled_replicas =
        count(&|p| crate::runtime::labels::contains(p.metadata.labels.as_ref(), &template_labels));
    status.ready_replicas = count(&pods::is_ready);
    status.available_replicas = count(&|p| pods::is_available(p, min_ready, now));
    status.terminating_replicas =
        Some(owned.iter().filter(|p| pods::is_terminating(p) && !pods::is_finished(p)).count() as i32);
    status.observed_generation = rs.metadata.generation;

    let conditions = status.conditions.get_or_insert_default();
    let failing = conditions.iter().any(|c| c.type_ == "ReplicaFailure");
    match failure {
        Some(f) if !failing => conditions.push(ReplicaSetCondition {
            type_: "ReplicaFailure".into(),
            status: "True".into(),
            reason: Some(f.reason.into()),
            message: Some(f.error.status().map_or_else(|| f.error.to_string(), |s| s.message.clone())),
            last_transition_time: Some(Time(seconds(now))),
        }),
        None if failing => conditions.retain(|c| c.type_ != "ReplicaFailure"),
        _ => {}
    }
    if conditions.is_empty() {
        status.conditions = None;
    }
    status
}

/// When the next ready Pod will have been ready for `minReadySeconds`.
pub fn next_look(rs: &ReplicaSet, owned: &[Arc<Pod>], now: Timestamp) -> Option<Duration> {
    let min_ready = rs.spec.as_ref().and_then(|s| s.min_ready_seconds).filter(|s| *s > 0)?;
    owned
        .iter()
        .filter(|p| pods::is_active(p))
        .filter_map(|p| pods::available_in(p, min_ready, now))
        .filter(|d| !d.is_zero())
        .min()
        // Ready times are whole seconds; land safely after the deadline.
        .map(|d| d + Duration::from_millis(50))
}
