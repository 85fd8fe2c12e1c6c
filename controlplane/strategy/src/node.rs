//! Nodes.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, duplicate, forbidden, invalid};
use crate::format;
use crate::ip;
use crate::pod::placement::taint_effect;
use crate::quantities::normalize_list;
use crate::resources;
use crate::selector::label_name;
use crate::walk::{Walk, default_to, drop_key, object_mut, put, with};

/// Fills a Node.
pub(crate) fn default(obj: &mut Value) {
    object_mut(obj, "spec");
    with(obj, "spec", sync_cidrs);
    if let Some(status) = object_mut(obj, "status") {
        normalize_list(status, "capacity");
        normalize_list(status, "allocatable");
        if !status.has("allocatable") && status.has("capacity") {
            put(status, "allocatable", status.at("capacity").clone());
        }
        if let Some(endpoints) = object_mut(status, "daemonEndpoints") {
            default_to(endpoints, "kubeletEndpoint", json!({ "Port": 0 }));
        }
        if let Some(info) = object_mut(status, "nodeInfo") {
            for field in [
                "machineID",
                "systemUUID",
                "bootID",
                "kernelVersion",
                "osImage",
                "containerRuntimeVersion",
                "kubeletVersion",
                "kubeProxyVersion",
                "operatingSystem",
                "architecture",
            ] {
                default_to(info, field, "");
            }
        }
    }
}

/// `podCIDR` is the first of `podCIDRs`; where they differ the single field wins.
fn sync_cidrs(spec: &mut Value) {
    let (one, first) = (spec.text("podCIDR").to_owned(), spec.texts("podCIDRs").first().map_or("", |s| s).to_owned());
    if one.is_empty() && !first.is_empty() {
        put(spec, "podCIDR", first.into());
    } else if !one.is_empty() && one != first {
        put(spec, "podCIDRs", json!([one]));
    }
    if spec.list("taints").is_empty() {
        drop_key(spec, "taints");
    }
}

fn taints(list: &[Value], p: &Path, e: &mut Errs) {
    let mut seen = BTreeSet::new();
    for (i, t) in list.iter().enumerate() {
        let (at, key, value, effect) = (p.index(i), t.text("key"), t.text("value"), t.text("effect"));
        label_name(key, &at.child("key"), e);
        let messages = format::label_value(value);
        if !messages.is_empty() {
            e.push(invalid(&at.child("value"), value, messages.join(";")));
        }
        taint_effect(effect, false, &at.child("effect"), e);
        if !seen.insert((effect, key)) {
            let mut error = duplicate(&at, t.clone());
            error.detail = "taints must be unique by key and effect pair".into();
            e.push(error);
        }
    }
}

fn amounts(status: &Value, e: &mut Errs) {
    for field in ["capacity", "allocatable"] {
        for (k, q) in status.entries(field) {
            resources::amount(k, q, &Path::new("status").child(field).child(k), e);
        }
    }
}

/// Checks a new Node.
pub(crate) fn validate_create(obj: &Value, e: &mut Errs) {
    let s = obj.at("spec");
    taints(s.list("taints"), &Path::new("metadata").child("taints"), e);
    amounts(obj.at("status"), e);
    let (cidrs, p) = (s.texts("podCIDRs"), Path::new("spec").child("podCIDRs"));
    for (i, c) in cidrs.iter().enumerate() {
        ip::cidr(c, &p.index(i), e);
    }
    if cidrs.len() > 1 {
        let v6: Vec<bool> = cidrs.iter().map(|c| c.contains(':')).collect();
        if cidrs.len() > 2 || v6[0] == v6[1] {
            let why = "may specify no more than one CIDR for each IP family";
            e.push(invalid(&p, s.at("podCIDRs").clone(), why));
        }
        for (i, c) in cidrs.iter().enumerate() {
            if cidrs[..i].contains(c) {
                e.push(duplicate(&p.index(i), *c));
            }
        }
    }
}

/// Checks an update of a Node or of its status.
pub(crate) fn validate_update(new: &Value, old: &Value, e: &mut Errs) {
    amounts(new.at("status"), e);
    let addresses = new.at("status").list("addresses");
    for (i, a) in addresses.iter().enumerate() {
        if addresses[..i].contains(a) {
            e.push(duplicate(&Path::new("status").child("addresses").index(i), a.clone()));
        }
    }
    let (n, o, p) = (new.at("spec"), old.at("spec"), Path::new("spec"));
    let (now, was) = (n.texts("podCIDRs"), o.texts("podCIDRs"));
    if !was.is_empty() && now != was {
        e.push(forbidden(&p.child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"));
    }
    if !o.text("providerID").is_empty() && o.text("providerID") != n.text("providerID") {
        let why = "node updates may not change providerID except from \"\" to valid";
        e.push(forbidden(&p.child("providerID"), why));
    }
    taints(n.list("taints"), &Path::new("metadata").child("taints"), e);
    if n.text("externalID") != o.text("externalID") {
        e.push(forbidden(&p.child("externalID"), "may not be updated"));
    }
}
