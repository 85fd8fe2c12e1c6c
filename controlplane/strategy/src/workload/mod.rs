//! Kinds that make Pods from a template: Deployment, ReplicaSet, ReplicationController, DaemonSet, StatefulSet, Job,
//! CronJob, and ControllerRevision, which keeps old templates.

use serde_json::Value;
use strake_machinery::field::Path;

use crate::errs::{Errs, immutable, invalid, non_negative, required};
use crate::pod::spec as pod_spec;
use crate::selector;
use crate::walk::Walk;

mod cronjob;
mod daemonset;
mod deployment;
mod job;
mod job_status;
mod replicas;
mod schedule;
mod statefulset;

/// Fills one.
pub(crate) fn default(group: &str, kind: &str, obj: &mut Value) {
    match (group, kind) {
        ("", "ReplicationController") => replicas::default_controller(obj),
        (_, "Deployment") => deployment::default(obj),
        (_, "ReplicaSet") => replicas::default_set(obj),
        (_, "DaemonSet") => daemonset::default(obj),
        (_, "StatefulSet") => statefulset::default(obj),
        (_, "Job") => job::default(obj),
        (_, "CronJob") => cronjob::default(obj),
        _ => {}
    }
}

/// Prepares a new one.
pub(crate) fn prepare_create(kind: &str, obj: &mut Value) {
    match kind {
        "DaemonSet" => daemonset::set_template_generation(obj, 1),
        "Job" => job::prepare_create(obj),
        _ => {}
    }
}

/// Prepares an update of the object proper.
pub(crate) fn prepare_update(kind: &str, new: &mut Value, old: &Value) {
    if kind == "DaemonSet" {
        daemonset::prepare_update(new, old);
    }
}

/// Checks one, new or (with `old`) updated.
pub(crate) fn validate(group: &str, kind: &str, obj: &Value, old: Option<&Value>, e: &mut Errs) {
    match (group, kind) {
        ("", "ReplicationController") => replicas::validate_controller(obj, e),
        (_, "Deployment") => deployment::validate(obj, old, e),
        (_, "ReplicaSet") => replicas::validate_set(obj, old, e),
        (_, "DaemonSet") => daemonset::validate(obj, old, e),
        (_, "StatefulSet") => statefulset::validate(obj, old, e),
        (_, "Job") => job::validate(obj, old, e),
        (_, "CronJob") => cronjob::validate(obj, old, e),
        (_, "ControllerRevision") => {
            if !obj.has("data") {
                e.push(required(&Path::new("data"), "data is mandatory"));
            }
            non_negative(e, &Path::new("revision"), obj.num("revision"));
            if let Some(old) = old {
                immutable(e, &Path::new("data"), obj.at("data"), old.at("data"));
            }
        }
        _ => {}
    }
}

/// Checks an update of `status`.
pub(crate) fn validate_status(kind: &str, new: &Value, old: &Value, e: &mut Errs) {
    let (s, p) = (new.at("status"), Path::new("status"));
    let (counts, bounded): (&[&str], &[&str]) = match kind {
        "Deployment" => (
            &[
                "observedGeneration",
                "replicas",
                "updatedReplicas",
                "readyReplicas",
                "availableReplicas",
                "unavailableReplicas",
                "terminatingReplicas",
                "collisionCount",
            ],
            &["updatedReplicas", "readyReplicas", "availableReplicas"],
        ),
        "ReplicaSet" | "ReplicationController" => (
            &[
                "replicas",
                "fullyLabeledReplicas",
                "readyReplicas",
                "availableReplicas",
                "terminatingReplicas",
                "observedGeneration",
            ],
            &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"],
        ),
        "StatefulSet" => (
            &[
                "replicas",
                "readyReplicas",
                "currentReplicas",
                "updatedReplicas",
                "availableReplicas",
                "observedGeneration",
                "collisionCount",
            ],
            &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"],
        ),
        "DaemonSet" => (
            &[
                "currentNumberScheduled",
                "numberMisscheduled",
                "desiredNumberScheduled",
                "numberReady",
                "observedGeneration",
                "updatedNumberScheduled",
                "numberAvailable",
                "numberUnavailable",
                "collisionCount",
            ],
            &[],
        ),
        "Job" => {
            job_status::validate(new, old, e);
            return;
        }
        _ => return,
    };
    for field in counts {
        non_negative(e, &p.child(field), s.num(field));
    }
    for field in bounded {
        if s.num(field) > s.num("replicas") {
            e.push(invalid(&p.child(field), s.num(field), "cannot be greater than status.replicas"));
        }
    }
    if bounded.contains(&"availableReplicas") && s.num("availableReplicas") > s.num("readyReplicas") {
        let why = if kind == "StatefulSet" {
            "cannot be greater than status.readyReplicas"
        } else {
            "cannot be greater than readyReplicas"
        };
        e.push(invalid(&p.child("availableReplicas"), s.num("availableReplicas"), why));
    }
    if counts.contains(&"collisionCount")
        && let Some(was) = old.at("status").int("collisionCount")
        && s.int("collisionCount").is_none_or(|now| now < was)
    {
        e.push(invalid(&p.child("collisionCount"), s.num("collisionCount"), "cannot be decremented"));
    }
}

/// The selector must be given, well formed, not empty, and pick the template's own Pods.
fn selected_template(spec: &Value, empty: &str, p: &Path, e: &mut Errs) {
    let (s, at) = (spec.at("selector"), p.child("selector"));
    if s.is_null() {
        e.push(required(&at, ""));
    } else {
        selector::label_selector(s, &at, e);
        if selector::is_empty(s) {
            e.push(invalid(&at, s.clone(), empty));
        }
    }
}

/// The template's labels must be picked by the selector. False if the selector cannot be read.
fn labels_selected(spec: &Value, p: &Path, e: &mut Errs) -> bool {
    let s = spec.at("selector");
    let labels = spec.path(&["template", "metadata", "labels"]);
    // A selector that says nothing was told already.
    if !s.is_null() && selector::is_empty(s) {
        return true;
    }
    match selector::matches(s, labels) {
        None => false,
        Some(true) => true,
        Some(false) => {
            let at = p.child("template").child("metadata").child("labels");
            let labels = if labels.is_null() { serde_json::Value::Null } else { labels.clone() };
            e.push(invalid(&at, labels, "`selector` does not match template `labels`"));
            true
        }
    }
}

/// Checks a template whose Pods run forever and are picked by the selector.
fn running_template(spec: &Value, kind: &str, p: &Path, e: &mut Errs) {
    if !labels_selected(spec, p, e) {
        e.push(invalid(&p.child("selector"), spec.at("selector").clone(), "invalid label selector"));
        return;
    }
    let at = p.child("template");
    pod_spec::template(spec.at("template"), &at, e);
    pod_spec::always_restarting(spec.at("template"), kind, &at, e);
}
