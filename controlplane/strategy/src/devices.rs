//! Dynamic resource allocation (KEP-4381): DeviceClasses, ResourceClaims and their templates, ResourceSlices.
//! Selector expressions (CEL) are compiled by the part that evaluates them.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, duplicate, immutable, invalid, invalid_each, need_text, not_supported, required, too_many};
use crate::format;
use crate::walk::{Walk, default_num, default_text, default_to, each, with};

/// Fills one.
pub(crate) fn default(kind: &str, obj: &mut Value) {
    match kind {
        "ResourceClaim" => with(obj, "spec", claim),
        "ResourceClaimTemplate" => with(obj, "spec", |t| {
            default_to(t, "metadata", json!({}));
            with(t, "spec", claim);
        }),
        _ => {}
    }
}

fn claim(spec: &mut Value) {
    with(spec, "devices", |d| {
        each(d, "requests", |r| {
            with(r, "exactly", request);
            each(r, "firstAvailable", request);
        });
    });
}

/// One device, unless told otherwise.
fn request(r: &mut Value) {
    default_text(r, "allocationMode", "ExactCount");
    if r.text("allocationMode") == "ExactCount" {
        default_num(r, "count", 1);
    }
}

/// Checks one.
pub(crate) fn validate(kind: &str, obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    match kind {
        "ResourceClaim" => match old {
            Some(old) => immutable(e, &p, s, old.at("spec")),
            None => claim_spec(s, &p, e),
        },
        "ResourceClaimTemplate" => match old {
            Some(old) => immutable(e, &p, s, old.at("spec")),
            None => {
                crate::meta::template_meta(s.at("metadata"), &p.child("metadata"), e);
                claim_spec(s.at("spec"), &p.child("spec"), e);
            }
        },
        "DeviceClass" => {
            selectors(s.list("selectors"), &p.child("selectors"), e);
            configs(s.list("config"), &p.child("config"), e);
        }
        "ResourceSlice" => slice(s, old.map(|o| o.at("spec")), &p, e),
        _ => {}
    }
}

fn claim_spec(s: &Value, p: &Path, e: &mut Errs) {
    let (d, at) = (s.at("devices"), p.child("devices"));
    let requests = d.list("requests");
    if requests.len() > 32 {
        e.push(too_many(&at.child("requests"), requests.len(), 32));
    }
    let mut names = BTreeSet::new();
    for (i, r) in requests.iter().enumerate() {
        let (rp, name) = (at.child("requests").index(i), r.text("name"));
        request_name(name, &mut names, &rp, e);
        match (r.has("exactly"), r.list("firstAvailable").is_empty()) {
            (true, true) => device(r.at("exactly"), &rp.child("exactly"), e),
            (false, false) => {
                let mut inner = BTreeSet::new();
                for (n, sub) in r.list("firstAvailable").iter().enumerate() {
                    let sp = rp.child("firstAvailable").index(n);
                    request_name(sub.text("name"), &mut inner, &sp, e);
                    device(sub, &sp, e);
                }
            }
            (true, false) => {
                let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
                e.push(invalid(&rp, Value::Null, why));
            }
            (false, true) => e.push(required(&rp, "exactly one of `exactly` or `firstAvailable` is required")),
        }
    }
    for (i, c) in d.list("constraints").iter().enumerate() {
        let cp = at.child("constraints").index(i);
        for (n, r) in c.texts("requests").into_iter().enumerate() {
            let base = r.split('/').next().unwrap_or(r);
            if !names.contains(base) {
                let why = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
                e.push(invalid(&cp.child("requests").index(n), r, why));
            }
        }
        let attribute = c.text("matchAttribute");
        if attribute.is_empty() && c.text("distinctAttribute").is_empty() {
            e.push(required(&cp.child("matchAttribute"), ""));
        } else if !attribute.is_empty() && !attribute.contains('/') {
            e.push(required(&cp.child("matchAttribute"), "must include a domain"));
        }
    }
    configs(d.list("config"), &at.child("config"), e);
}

fn request_name<'v>(name: &'v str, names: &mut BTreeSet<&'v str>, p: &Path, e: &mut Errs) {
    let at = p.child("name");
    if name.is_empty() {
        e.push(required(&at, ""));
        return;
    }
    invalid_each(e, &at, name, format::dns_label(name));
    if !names.insert(name) {
        e.push(duplicate(&at, name));
    }
}

fn device(r: &Value, p: &Path, e: &mut Errs) {
    let class = r.text("deviceClassName");
    if class.is_empty() {
        e.push(required(&p.child("deviceClassName"), ""));
    } else {
        invalid_each(e, &p.child("deviceClassName"), class, format::dns_subdomain(class));
    }
    selectors(r.list("selectors"), &p.child("selectors"), e);
    match r.text("allocationMode") {
        "All" => {
            if r.num("count") != 0 {
                let why = "must not be specified when allocationMode is 'All'";
                e.push(invalid(&p.child("count"), r.num("count"), why));
            }
        }
        "ExactCount" => {
            if r.num("count") <= 0 {
                e.push(invalid(&p.child("count"), r.num("count"), "must be greater than zero"));
            }
        }
        other => e.push(not_supported(&p.child("allocationMode"), other, &["All", "ExactCount"])),
    }
}

fn selectors(list: &[Value], p: &Path, e: &mut Errs) {
    if list.len() > 32 {
        e.push(too_many(p, list.len(), 32));
    }
    for (i, s) in list.iter().enumerate() {
        if s.has("cel") {
            need_text(e, &p.index(i).child("cel"), s.at("cel"), "expression");
        } else {
            e.push(required(&p.index(i).child("cel"), ""));
        }
    }
}

fn configs(list: &[Value], p: &Path, e: &mut Errs) {
    if list.len() > 32 {
        e.push(too_many(p, list.len(), 32));
    }
    for (i, c) in list.iter().enumerate() {
        let at = p.index(i).child("opaque");
        if !c.has("opaque") {
            e.push(required(&at, ""));
            continue;
        }
        crate::pod::volume_legacy::csi_driver_name(c.at("opaque").text("driver"), &at.child("driver"), e);
        if !c.at("opaque").has("parameters") {
            e.push(required(&at.child("parameters"), ""));
        }
    }
}

fn slice(s: &Value, old: Option<&Value>, p: &Path, e: &mut Errs) {
    crate::pod::volume_legacy::csi_driver_name(s.text("driver"), &p.child("driver"), e);
    let pool = s.at("pool").text("name");
    if pool.is_empty() {
        e.push(required(&p.child("pool").child("name"), ""));
    }
    if s.at("pool").num("resourceSliceCount") <= 0 {
        let n = s.at("pool").num("resourceSliceCount");
        e.push(invalid(&p.child("pool").child("resourceSliceCount"), n, "must be greater than zero"));
    }
    let places = ["nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection"];
    let set = places.iter().filter(|f| !crate::walk::is_empty(s.at(f)) && s.flag(f) != Some(false)).count();
    if set == 0 {
        let why = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
        e.push(required(p, why));
    } else if set > 1 {
        let why = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set";
        e.push(invalid(p, Value::Null, why));
    }
    let devices = s.list("devices");
    if devices.len() > 128 {
        e.push(too_many(&p.child("devices"), devices.len(), 128));
    }
    let mut names = BTreeSet::new();
    for (i, d) in devices.iter().enumerate() {
        request_name(d.text("name"), &mut names, &p.child("devices").index(i), e);
    }
    if let Some(old) = old {
        immutable(e, &p.child("nodeName"), s.at("nodeName"), old.at("nodeName"));
        immutable(e, &p.child("driver"), s.at("driver"), old.at("driver"));
        immutable(e, &p.child("pool").child("name"), s.at("pool").at("name"), old.at("pool").at("name"));
    }
}
