//! What creating a Pod and each kind of update write themselves, and what they ignore of the request.

use serde_json::{Value, json};

use super::{binding, qos};
use crate::meta::bump_generation;
use crate::walk::{Walk, drop_key, each, list_mut, object_mut, put, same, with};

/// A new Pod: pending, classed, its label keys turned into selector terms.
pub(crate) fn prepare_create(pod: &mut Value) {
    merge_label_keys(pod);
    let mut status = json!({ "phase": "Pending", "qosClass": qos::class_of(pod).as_str() });
    if !pod.at("spec").list("schedulingGates").is_empty() {
        let why = ("SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates");
        let now = pod.at("metadata").text("creationTimestamp").to_owned();
        binding::set_condition(&mut status, "PodScheduled", "False", Some(why), &now);
    }
    put(pod, "status", status);
}

/// Which part of a Pod an update may write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
    EphemeralContainers,
    Resize,
}

/// Everything outside the part is taken from the stored Pod.
pub(crate) fn prepare_update(new: &mut Value, old: &Value, part: Part) {
    match part {
        Part::Main => put(new, "status", old.at("status").clone()),
        Part::Status => {
            put(new, "spec", old.at("spec").clone());
            // Not a kubelet's business.
            if let Some(meta) = object_mut(new, "metadata") {
                put(meta, "ownerReferences", old.at("metadata").at("ownerReferences").clone());
            }
            with(new, "status", |s| {
                sync_addresses(s, "podIP", "podIPs");
                if s.text("qosClass").is_empty() {
                    put(s, "qosClass", old.at("status").at("qosClass").clone());
                }
            });
        }
        Part::EphemeralContainers => {
            let wanted = new.at("spec").at("ephemeralContainers").clone();
            let version = new.at("metadata").at("resourceVersion").clone();
            let managed = new.at("metadata").at("managedFields").clone();
            *new = old.clone();
            with(new, "spec", |s| put(s, "ephemeralContainers", wanted));
            with(new, "metadata", |m| {
                put(m, "resourceVersion", version);
                put(m, "managedFields", managed);
            });
        }
        Part::Resize => {
            let wanted = new.at("spec").clone();
            let version = new.at("metadata").at("resourceVersion").clone();
            let managed = new.at("metadata").at("managedFields").clone();
            *new = old.clone();
            with(new, "spec", |s| take_resources(s, &wanted));
            with(new, "metadata", |m| {
                put(m, "resourceVersion", version);
                put(m, "managedFields", managed);
            });
        }
    }
    if part != Part::Status && !same(new.at("spec"), old.at("spec")) {
        bump_generation(new, old);
    }
}

fn take_resources(spec: &mut Value, wanted: &Value) {
    if wanted.has("resources") {
        put(spec, "resources", wanted.at("resources").clone());
    }
    for list in ["containers", "initContainers"] {
        let from = wanted.list(list).to_vec();
        each(spec, list, |c| {
            if let Some(w) = from.iter().find(|w| w.text("name") == c.text("name")) {
                for field in ["resources", "resizePolicy"] {
                    put(c, field, w.at(field).clone());
                }
            }
        });
    }
}

/// The first of the list is the single field; the single field wins where they differ.
pub(crate) fn sync_addresses(v: &mut Value, one: &str, many: &str) {
    let (single, first) = (v.text(one).to_owned(), v.list(many).first().map_or("", |f| f.text("ip")).to_owned());
    if single.is_empty() && !first.is_empty() {
        put(v, one, first.into());
    } else if !single.is_empty() && single != first {
        put(v, many, json!([{ "ip": single }]));
    }
}

/// Turns matchLabelKeys and mismatchLabelKeys into expressions with this Pod's own label values (KEP-3633, KEP-3243).
fn merge_label_keys(pod: &mut Value) {
    let labels = pod.at("metadata").at("labels").clone();
    with(pod, "spec", |spec| {
        each(spec, "topologySpreadConstraints", |c| merge(c, &labels, &[("matchLabelKeys", "In")]));
        with(spec, "affinity", |a| {
            for kind in ["podAffinity", "podAntiAffinity"] {
                with(a, kind, |k| {
                    let both = [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")];
                    each(k, "requiredDuringSchedulingIgnoredDuringExecution", |t| merge(t, &labels, &both));
                    each(k, "preferredDuringSchedulingIgnoredDuringExecution", |t| {
                        with(t, "podAffinityTerm", |t| merge(t, &labels, &both));
                    });
                });
            }
        });
    });
}

fn merge(term: &mut Value, labels: &Value, fields: &[(&str, &str)]) {
    for (field, operator) in fields {
        let keys: Vec<String> = term.texts(field).into_iter().map(str::to_owned).collect();
        with(term, "labelSelector", |selector| {
            for key in keys {
                if !labels.has(&key) {
                    continue;
                }
                let expression = json!({ "key": key, "operator": operator, "values": [labels.text(&key)] });
                if let Some(all) = list_mut(selector, "matchExpressions") {
                    all.push(expression);
                }
            }
            if selector.list("matchExpressions").is_empty() {
                drop_key(selector, "matchExpressions");
            }
        });
    }
}
