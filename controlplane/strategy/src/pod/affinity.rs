//! Node affinity, Pod affinity and anti-affinity.

use std::collections::BTreeMap;

use serde_json::Value;
use strake_machinery::field::Path;

use crate::errs::{Errs, forbidden, invalid, invalid_each, required};
use crate::format;
use crate::selector::{label_name, label_selector};
use crate::walk::Walk;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Checks `spec.affinity`.
pub(crate) fn affinity(v: &Value, p: &Path, e: &mut Errs) {
    if v.has("nodeAffinity") {
        let (node, at) = (v.at("nodeAffinity"), p.child("nodeAffinity"));
        if node.has(REQUIRED) {
            node_selector(node.at(REQUIRED), &at.child(REQUIRED), e);
        }
        for (i, term) in node.list(PREFERRED).iter().enumerate() {
            let tp = at.child(PREFERRED).index(i);
            weight(term, &tp, e);
            // Values that match no label are tolerated where they are only a preference.
            node_selector_term(term.at("preference"), false, &tp.child("preference"), e);
        }
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let (pods, at) = (v.at(field), p.child(field));
        for (i, term) in pods.list(REQUIRED).iter().enumerate() {
            pod_term(term, &at.child(REQUIRED).index(i), e);
        }
        for (i, term) in pods.list(PREFERRED).iter().enumerate() {
            let tp = at.child(PREFERRED).index(i);
            weight(term, &tp, e);
            pod_term(term.at("podAffinityTerm"), &tp.child("podAffinityTerm"), e);
        }
    }
}

fn weight(term: &Value, p: &Path, e: &mut Errs) {
    let w = term.num("weight");
    if !(1..=100).contains(&w) {
        e.push(invalid(&p.child("weight"), w, "must be in the range 1-100"));
    }
}

/// Checks a NodeSelector: at least one term, each well formed.
pub(crate) fn node_selector(v: &Value, p: &Path, e: &mut Errs) {
    let at = p.child("nodeSelectorTerms");
    if v.list("nodeSelectorTerms").is_empty() {
        e.push(required(&at, "must have at least one node selector term"));
    }
    for (i, term) in v.list("nodeSelectorTerms").iter().enumerate() {
        node_selector_term(term, true, &at.index(i), e);
    }
}

fn node_selector_term(v: &Value, strict: bool, p: &Path, e: &mut Errs) {
    for (i, r) in v.list("matchExpressions").iter().enumerate() {
        let at = p.child("matchExpressions").index(i);
        let values = r.list("values");
        match r.text("operator") {
            "In" | "NotIn" => {
                if values.is_empty() {
                    let why = "must be specified when `operator` is 'In' or 'NotIn'";
                    e.push(required(&at.child("values"), why));
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                    e.push(forbidden(&at.child("values"), why));
                }
            }
            "Gt" | "Lt" => {
                if values.len() != 1 {
                    let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                    e.push(required(&at.child("values"), why));
                }
            }
            other => e.push(invalid(&at.child("operator"), other, "not a valid selector operator")),
        }
        label_name(r.text("key"), &at.child("key"), e);
        if strict {
            for (n, value) in r.texts("values").into_iter().enumerate() {
                invalid_each(e, &at.child("values").index(n), value, format::label_value(value));
            }
        }
    }
    for (i, r) in v.list("matchFields").iter().enumerate() {
        let at = p.child("matchFields").index(i);
        match r.text("operator") {
            "In" | "NotIn" => {
                if r.list("values").len() != 1 {
                    let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                    e.push(required(&at.child("values"), why));
                }
            }
            other => e.push(invalid(&at.child("operator"), other, "not a valid selector operator")),
        }
        if r.text("key") == "metadata.name" {
            for (n, value) in r.texts("values").into_iter().enumerate() {
                invalid_each(e, &at.child("values").index(n), value, format::dns_subdomain(value));
            }
        } else {
            e.push(invalid(&at.child("key"), r.text("key"), "not a valid field selector key"));
        }
    }
}

fn pod_term(v: &Value, p: &Path, e: &mut Errs) {
    label_selector(v.at("labelSelector"), &p.child("labelSelector"), e);
    label_selector(v.at("namespaceSelector"), &p.child("namespaceSelector"), e);
    for name in v.texts("namespaces") {
        invalid_each(e, &p.child("namespace"), name, format::dns_label(name));
    }
    label_keys(v, p, e);
    let key = v.text("topologyKey");
    if key.is_empty() {
        e.push(required(&p.child("topologyKey"), "can not be empty"));
    }
    label_name(key, &p.child("topologyKey"), e);
}

fn label_keys(v: &Value, p: &Path, e: &mut Errs) {
    let selector = v.at("labelSelector");
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let (keys, at) = (v.texts(field), p.child(field));
        if keys.is_empty() {
            continue;
        }
        if selector.is_null() {
            e.push(forbidden(&at, "must not be specified when labelSelector is not set"));
            continue;
        }
        for (i, key) in keys.into_iter().enumerate() {
            label_name(key, &at.index(i), e);
        }
    }
    let wanted: BTreeMap<&str, usize> =
        v.texts("matchLabelKeys").into_iter().enumerate().map(|(i, k)| (k, i)).collect();
    let mut selected: Vec<&str> = selector.entries("matchLabels").into_iter().map(|(k, _)| k).collect();
    for expression in selector.list("matchExpressions") {
        let key = expression.text("key");
        if let Some(i) = wanted.get(key)
            && selected.contains(&key)
        {
            e.push(invalid(&p.index(*i), key, "exists in both matchLabelKeys and labelSelector"));
        }
        selected.push(key);
    }
    let unwanted = v.texts("mismatchLabelKeys");
    for (i, key) in v.texts("matchLabelKeys").into_iter().enumerate() {
        if unwanted.contains(&key) {
            let why = "exists in both matchLabelKeys and mismatchLabelKeys";
            e.push(invalid(&p.child("matchLabelKeys").index(i), key, why));
        }
    }
}
