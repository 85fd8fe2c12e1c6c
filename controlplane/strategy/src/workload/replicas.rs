//! ReplicaSets and ReplicationControllers.

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, immutable, invalid, non_negative, required};
use crate::pod::spec as pod_spec;
use crate::walk::{Walk, default_to, is_empty, object_mut, put};

/// Fills a ReplicaSet.
pub(crate) fn default_set(obj: &mut Value) {
    let Some(s) = object_mut(obj, "spec") else { return };
    crate::pod::defaults::template(s, "template");
    default_to(s, "replicas", 1);
    default_status(obj);
}

/// Fills a ReplicationController; its selector too comes from the template.
pub(crate) fn default_controller(obj: &mut Value) {
    let Some(s) = object_mut(obj, "spec") else { return };
    if s.has("template") {
        crate::pod::defaults::template(s, "template");
    }
    let labels = s.path(&["template", "metadata", "labels"]).clone();
    if is_empty(s.at("selector")) && !is_empty(&labels) {
        put(s, "selector", labels);
    }
    default_to(s, "replicas", 1);
    let labels = obj.path(&["spec", "template", "metadata", "labels"]).clone();
    if is_empty(obj.at("metadata").at("labels"))
        && !is_empty(&labels)
        && let Some(m) = object_mut(obj, "metadata")
    {
        put(m, "labels", labels);
    }
    default_status(obj);
}

fn default_status(obj: &mut Value) {
    if let Some(status) = object_mut(obj, "status") {
        default_to(status, "replicas", json!(0));
    }
}

/// Checks a ReplicaSet.
pub(crate) fn validate_set(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    non_negative(e, &p.child("replicas"), s.num("replicas"));
    non_negative(e, &p.child("minReadySeconds"), s.num("minReadySeconds"));
    super::selected_template(s, "empty selector is invalid for deployment", &p, e);
    super::running_template(s, "ReplicaSet", &p, e);
    if let Some(old) = old {
        immutable(e, &p.child("selector"), s.at("selector"), old.at("spec").at("selector"));
    }
}

/// Checks a ReplicationController.
pub(crate) fn validate_controller(obj: &Value, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    non_negative(e, &p.child("minReadySeconds"), s.num("minReadySeconds"));
    if is_empty(s.at("selector")) {
        e.push(required(&p.child("selector"), ""));
    }
    non_negative(e, &p.child("replicas"), s.num("replicas"));
    let (template, at) = (s.at("template"), p.child("template"));
    if template.is_null() {
        e.push(required(&at, ""));
        return;
    }
    let labels = template.at("metadata").at("labels");
    if s.entries("selector").into_iter().any(|(k, v)| labels.at(k) != v) {
        let lp = at.child("metadata").child("labels");
        e.push(invalid(&lp, labels.clone(), "`selector` does not match template `labels`"));
    }
    pod_spec::template(template, &at, e);
    pod_spec::always_restarting(template, "ReplicationController", &at, e);
}
