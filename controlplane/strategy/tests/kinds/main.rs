//! What each kind does when it is written, one file a kind or concept.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is the report")]

mod admission;
mod autoscaling;
mod certificates;
mod configuration;
mod extension;
mod jobs;
mod metadata;
mod namespaces_and_nodes;
mod networking;
mod pod_defaults;
mod pod_updates;
mod pods;
mod properties;
mod quotas;
mod rbac;
mod scale;
mod services;
mod storage;
mod workloads;

use serde_json::{Value, json};
use std::sync::Arc;
use strake_machinery::{Kind, Registry};

/// The registry's row.
pub fn kind(api_version: &str, name: &str) -> Arc<Kind> {
    Registry::builtin().by_type(api_version, name).unwrap_or_else(|| panic!("no kind {api_version} {name}")).clone()
}

/// The object as it would be stored: filled, prepared, with the metadata a server adds.
pub fn created(kind: &Kind, mut obj: Value) -> Value {
    strake_strategy::default(kind, &mut obj);
    let meta = &mut obj["metadata"];
    if meta.get("name").is_none() {
        meta["name"] = "x".into();
    }
    if kind.namespaced {
        meta["namespace"] = "ns".into();
    }
    meta["uid"] = "0a1b".into();
    meta["creationTimestamp"] = "2026-01-02T03:04:05Z".into();
    strake_strategy::prepare_create(kind, &mut obj);
    strake_strategy::default(kind, &mut obj);
    obj
}

/// `field: message` of each error against creating the object.
pub fn refused(kind: &Kind, obj: Value) -> Vec<String> {
    told(strake_strategy::validate_create(kind, &created(kind, obj)))
}

/// Updates `old` (as stored) by `change`; answers the prepared object and what is against it.
pub fn updated(kind: &Kind, old: &Value, part: &str, change: impl FnOnce(&mut Value)) -> (Value, Vec<String>) {
    let mut old = old.clone();
    old["metadata"]["resourceVersion"] = "1".into();
    let mut new = old.clone();
    change(&mut new);
    strake_strategy::default(kind, &mut new);
    strake_strategy::prepare_update(kind, &mut new, &old, part);
    strake_strategy::default(kind, &mut new);
    let errors = told(strake_strategy::validate_update(kind, &new, &old, part));
    (new, errors)
}

pub fn told(errors: Vec<strake_strategy::FieldError>) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// A Pod with one container, into which the fields of `spec` are put.
pub fn pod(spec: Value) -> Value {
    let mut p = json!({ "spec": { "containers": [{ "name": "app", "image": "app:1" }] } });
    for (k, v) in spec.as_object().unwrap() {
        p["spec"][k] = v.clone();
    }
    p
}

/// A Pod whose container has the fields of `container` too.
pub fn pod_with(container: Value) -> Value {
    let mut c = json!({ "name": "app", "image": "app:1" });
    for (k, v) in container.as_object().unwrap() {
        c[k] = v.clone();
    }
    json!({ "spec": { "containers": [c] } })
}
