//! Reading and shaping a Deployment's ReplicaSets: which is new, which are old, their annotations, hash and name.

use crate::runtime::{Key, ownership};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

/// The revision of a Deployment or ReplicaSet.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier revisions of a ReplicaSet that came back, comma separated.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the ReplicaSet was last scaled.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The same with surge.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// The label that tells a ReplicaSet's Pods from its siblings'.
pub const POD_TEMPLATE_HASH: &str = "pod-template-hash";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const ROLLBACK_TO: &str = "deprecated.deployment.rollback.to";
/// Longest revision history kept, in characters.
const HISTORY_LIMIT: usize = 2000;

/// The spec; a Deployment without one does not exist in the API.
pub fn spec(d: &Deployment) -> DeploymentSpec {
    d.spec.clone().unwrap_or_default()
}

/// `spec.replicas`, 1 when unset.
pub fn wanted(d: &Deployment) -> i32 {
    d.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// `spec.replicas` of a ReplicaSet.
pub fn size(rs: &ReplicaSet) -> i32 {
    rs.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

/// `status.availableReplicas` of a ReplicaSet.
pub fn available(rs: &ReplicaSet) -> i32 {
    rs.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

/// Sum of a reading over ReplicaSets.
pub fn sum<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>, f: impl Fn(&ReplicaSet) -> i32) -> i32 {
    sets.into_iter().map(f).sum()
}

fn strategy_type(d: &Deployment) -> &str {
    d.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.type_.as_deref()).unwrap_or("RollingUpdate")
}

/// The strategy is RollingUpdate.
pub fn is_rolling(d: &Deployment) -> bool {
    strategy_type(d) == "RollingUpdate"
}

fn scaled(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        None => {
            // Unset means 25 %.
            scaled(Some(&IntOrString::String("25%".into())), total, round_up)
        }
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(s)) => {
            let percent: f64 = s.trim_end_matches('%').parse().unwrap_or(0.0);
            let exact = percent * f64::from(total) / 100.0;
            (if round_up { exact.ceil() } else { exact.floor() }) as i32
        }
    }
}

/// `(maxSurge, maxUnavailable)` in Pods: surge rounds up, unavailability down, and both zero means one may be missing.
pub fn fenceposts(d: &Deployment) -> (i32, i32) {
    if !is_rolling(d) {
        return (0, 0);
    }
    let rolling = d.spec.as_ref().and_then(|s| s.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let surge = scaled(rolling.and_then(|r| r.max_surge.as_ref()), wanted(d), true);
    let unavailable = scaled(rolling.and_then(|r| r.max_unavailable.as_ref()), wanted(d), false);
    match (surge, unavailable) {
        (0, 0) => (0, 1.min(wanted(d))),
        (s, u) => (s, u.min(wanted(d))),
    }
}

/// An annotation as a number.
pub fn number(meta: &ObjectMeta, key: &str) -> Option<i64> {
    meta.annotations.as_ref()?.get(key)?.parse().ok()
}

/// The revision, 0 when there is none.
pub fn revision(meta: &ObjectMeta) -> i64 {
    number(meta, REVISION).unwrap_or(0)
}

/// Whether a ReplicaSet was made for this template: equal but for the hash label.
pub fn same_template(d: &PodTemplateSpec, rs: Option<&PodTemplateSpec>) -> bool {
    let Some(rs) = rs else { return false };
    let strip = |t: &PodTemplateSpec| {
        let mut t = t.clone();
        if let Some(labels) = t.metadata.as_mut().and_then(|m| m.labels.as_mut()) {
            labels.remove(POD_TEMPLATE_HASH);
        }
        t
    };
    let (a, b) = (strip(d), strip(rs));
    a == b || normal(&a) == normal(&b)
}

/// JSON without nulls, empty lists and empty label maps: what the API may or may not have kept.
fn normal(t: &PodTemplateSpec) -> serde_json::Value {
    fn prune(v: &mut serde_json::Value) {
        match v {
            serde_json::Value::Object(o) => {
                o.values_mut().for_each(prune);
                o.retain(|k, v| {
                    let empty_map = matches!(k.as_str(), "labels" | "annotations" | "metadata" | "nodeSelector")
                        && v.as_object().is_some_and(serde_json::Map::is_empty);
                    !v.is_null() && !empty_map && v.as_array().is_none_or(|a| !a.is_empty())
                });
            }
            serde_json::Value::Array(a) => a.iter_mut().for_each(prune),
            _ => {}
        }
    }
    let mut v = serde_json::to_value(t).unwrap_or_default();
    prune(&mut v);
    v
}

/// The ReplicaSet of the current template: the oldest, should there be several.
pub fn find_new(d: &Deployment, sets: &[ReplicaSet]) -> Option<usize> {
    let template = &d.spec.as_ref()?.template;
    (0..sets.len())
        .filter(|i| same_template(template, sets[*i].spec.as_ref().and_then(|s| s.template.as_ref())))
        .min_by_key(|i| by_creation(&sets[*i]))
}

/// Sort key: creation time, then name.
pub fn by_creation(rs: &ReplicaSet) -> (Option<k8s_openapi::jiff::Timestamp>, Option<String>) {
    (rs.metadata.creation_timestamp.as_ref().map(|t| t.0), rs.metadata.name.clone())
}

/// FNV-1a of the template (and the collision count), in the alphabet of safe names.
pub fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let json = serde_json::to_vec(&normal(template)).unwrap_or_default();
    let tail = collisions.map(|c| c.to_le_bytes());
    let bytes = json.iter().chain(tail.iter().flatten());
    let hash = bytes.fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    // Names must not spell words: no vowels, none of the digits that look like them.
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    hash.to_string().bytes().map(|b| ALPHABET[b as usize % ALPHABET.len()] as char).collect()
}

fn copied(key: &str) -> bool {
    ![LAST_APPLIED, REVISION, REVISION_HISTORY, DESIRED_REPLICAS, MAX_REPLICAS, ROLLBACK_TO].contains(&key)
}

/// Brings the ReplicaSet's annotations up to date with the Deployment's and with `new_revision`; true if changed.
pub fn sync_annotations(d: &Deployment, rs: &mut ReplicaSet, new_revision: i64) -> bool {
    let before = rs.metadata.annotations.clone();
    let annotations = rs.metadata.annotations.get_or_insert_default();
    for (k, v) in d.metadata.annotations.iter().flatten().filter(|(k, _)| copied(k)) {
        annotations.insert(k.clone(), v.clone());
    }
    let old = annotations.get(REVISION).cloned();
    let old_number: i64 = old.as_deref().and_then(|o| o.parse().ok()).unwrap_or(0);
    if old_number < new_revision {
        annotations.insert(REVISION.into(), new_revision.to_string());
        if let Some(old) = old.filter(|_| old_number > 0) {
            let history = annotations.get(REVISION_HISTORY).filter(|h| !h.is_empty()).cloned();
            let mut history: Vec<String> =
                history.map(|h| h.split(',').map(String::from).collect()).unwrap_or_default();
            history.push(old);
            while history.join(",").len() > HISTORY_LIMIT && history.len() > 1 {
                history.remove(0);
            }
            annotations.insert(REVISION_HISTORY.into(), history.join(","));
        }
    }
    rs.metadata.annotations != before
}

/// Notes the Deployment's size on the ReplicaSet, for proportional scaling; true if changed.
pub fn note_size(d: &Deployment, rs: &mut ReplicaSet) -> bool {
    let annotations = rs.metadata.annotations.get_or_insert_default();
    let mut set = |k: &str, v: i32| annotations.insert(k.into(), v.to_string()) != Some(v.to_string());
    let desired = set(DESIRED_REPLICAS, wanted(d));
    set(MAX_REPLICAS, wanted(d) + fenceposts(d).0) || desired
}

/// The ReplicaSet of the current template, as yet of size 0.
pub fn for_template(d: &Deployment, revision: i64) -> ReplicaSet {
    let spec = spec(d);
    let hash = template_hash(&spec.template, d.status.as_ref().and_then(|s| s.collision_count));
    let with_hash = |labels: Option<BTreeMap<String, String>>| {
        let mut labels = labels.unwrap_or_default();
        labels.insert(POD_TEMPLATE_HASH.into(), hash.clone());
        Some(labels)
    };
    let mut template = spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.labels = with_hash(meta.labels.take());
    let labels = meta.labels.clone();
    let selector = LabelSelector {
        match_labels: with_hash(spec.selector.match_labels.clone()),
        match_expressions: spec.selector.match_expressions.clone(),
    };
    let mut rs = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", d.metadata.name.as_deref().unwrap_or_default())),
            namespace: d.metadata.namespace.clone(),
            labels,
            owner_references: Some(vec![ownership::controller_reference(d)]),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        }),
        status: None,
    };
    sync_annotations(d, &mut rs, revision);
    note_size(d, &mut rs);
    rs
}

/// Namespace and name, for messages.
pub fn key(rs: &ReplicaSet) -> Key {
    Key::of(&rs.metadata)
}
