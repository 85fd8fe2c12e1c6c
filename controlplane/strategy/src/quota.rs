//! ResourceQuotas and LimitRanges.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use strake_machinery::field::Path;
use strake_machinery::quantity::Quantity;

use crate::errs::{Errs, IMMUTABLE, duplicate, forbidden, invalid, invalid_each, required};
use crate::format;
use crate::quantities::{self, normalize_list};
use crate::resources::{self, Names, amount};
use crate::walk::{Walk, default_to, each, is_empty, object_mut, put, with};

/// Fills a ResourceQuota.
pub(crate) fn default_quota(obj: &mut Value) {
    with(obj, "spec", |s| normalize_list(s, "hard"));
    with(obj, "status", |s| {
        normalize_list(s, "hard");
        normalize_list(s, "used");
    });
}

/// Fills a LimitRange: for containers the defaults come from each other and from the bounds.
pub(crate) fn default_limits(obj: &mut Value) {
    with(obj, "spec", |s| {
        each(s, "limits", |item| {
            for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
                normalize_list(item, list);
            }
            if item.text("type") != "Container" {
                return;
            }
            for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
                let source = item.at(from).clone();
                for (k, q) in crate::walk::entries(&source) {
                    if let Some(list) = object_mut(item, to) {
                        default_to(list, k, q.clone());
                    }
                }
            }
            for list in ["default", "defaultRequest"] {
                if is_empty(item.at(list)) {
                    put(item, list, Value::Null);
                }
            }
        });
    });
}

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

/// Which of a quota's own resources a scope can count.
fn scope_fits(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => ["persistentvolumeclaims", "requests.storage"].contains(&resource),
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => [
            "pods",
            "cpu",
            "memory",
            "requests.cpu",
            "requests.memory",
            "limits.cpu",
            "limits.memory",
            "ephemeral-storage",
            "requests.ephemeral-storage",
            "limits.ephemeral-storage",
        ]
        .contains(&resource),
        _ => true,
    }
}

/// Checks a ResourceQuota.
pub(crate) fn quota(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    list(s, "hard", &p, e);
    let hard: Vec<&str> = s.entries("hard").into_iter().map(|(k, _)| k).collect();
    let scopes = s.texts("scopes");
    let (at, all) = (p.child("scopes"), || s.at("scopes").clone());
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            e.push(invalid(&at, all(), "unsupported scope"));
        }
        for k in &hard {
            if resources::is_standard_quota(k) && !scope_fits(scope, k) {
                e.push(invalid(&at, all(), "unsupported scope applied to resource"));
            }
        }
    }
    conflicting(&scopes, &at, s, e);
    if s.has("scopeSelector") {
        selector(s, &hard, &p.child("scopeSelector").child("matchExpressions"), &at, e);
    }
    if let Some(old) = old {
        let set =
            |v: &Value| -> BTreeSet<String> { v.at("spec").texts("scopes").into_iter().map(str::to_owned).collect() };
        if set(obj) != set(old) {
            e.push(invalid(&at, all(), IMMUTABLE));
        }
    }
}

fn list(v: &Value, field: &str, p: &Path, e: &mut Errs) {
    for (k, q) in v.entries(field) {
        let at = p.child(field).key(k);
        resources::name(k, Names::Quota, &at, e);
        amount(k, q, &at, e);
    }
}

fn conflicting(scopes: &[&str], p: &Path, s: &Value, e: &mut Errs) {
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if scopes.contains(&a) && scopes.contains(&b) {
            e.push(invalid(p, s.at("scopes").clone(), "conflicting scopes"));
        }
    }
}

fn selector(s: &Value, hard: &[&str], p: &Path, scopes_path: &Path, e: &mut Errs) {
    let mut seen = Vec::new();
    for x in s.at("scopeSelector").list("matchExpressions") {
        let (scope, operator, values) = (x.text("scopeName"), x.text("operator"), x.list("values"));
        if !SCOPES.contains(&scope) {
            e.push(invalid(&p.child("scopeName"), scope, "unsupported scope"));
        }
        for k in hard {
            if resources::is_standard_quota(k) && !scope_fits(scope, k) {
                e.push(invalid(p, s.at("scopeSelector").clone(), "unsupported scope applied to resource"));
            }
        }
        let plain = ["BestEffort", "NotBestEffort", "Terminating", "NotTerminating", "CrossNamespacePodAffinity"];
        if plain.contains(&scope) && operator != "Exists" {
            let why = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            e.push(invalid(&p.child("operator"), operator, why));
        }
        match operator {
            "In" | "NotIn" => {
                if values.is_empty() {
                    let why = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                    e.push(required(&p.child("values"), why));
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    let why = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                    e.push(invalid(&p.child("values"), values.to_vec(), why));
                }
            }
            other => e.push(invalid(&p.child("operator"), other, "not a valid selector operator")),
        }
        seen.push(scope);
    }
    conflicting(&seen, scopes_path, s, e);
}

/// Checks a ResourceQuota's status.
pub(crate) fn quota_status(obj: &Value, e: &mut Errs) {
    for field in ["hard", "used"] {
        list(obj.at("status"), field, &Path::new("status"), e);
    }
}

/// Checks a LimitRange.
pub(crate) fn limits(obj: &Value, e: &mut Errs) {
    let mut types = BTreeSet::new();
    for (i, item) in obj.at("spec").list("limits").iter().enumerate() {
        let p = Path::new("spec").child("limits").index(i);
        let kind = item.text("type");
        let errors = format::qualified_name(kind);
        if !errors.is_empty() {
            invalid_each(e, &p.child("type"), kind, errors);
        } else if !kind.contains('/') && !["Pod", "Container", "PersistentVolumeClaim"].contains(&kind) {
            e.push(invalid(&p.child("type"), kind, "must be a standard limit type or fully qualified"));
        }
        if !types.insert(kind) {
            e.push(duplicate(&p.child("type"), kind));
        }
        item_lists(item, kind, &p, e);
    }
}

fn item_lists(item: &Value, kind: &str, p: &Path, e: &mut Errs) {
    let names = if ["Pod", "Container"].contains(&kind) { Names::Container } else { Names::Any };
    let check = |field: &str, e: &mut Errs| -> BTreeMap<String, Quantity> {
        for (k, _) in item.entries(field) {
            resources::name(k, names, &p.child(field).key(k), e);
        }
        quantities::list(item.at(field))
    };
    let max = check("max", e);
    let min = check("min", e);
    let (mut default, mut request) = (BTreeMap::new(), BTreeMap::new());
    if kind == "Pod" {
        for field in ["default", "defaultRequest"] {
            if !is_empty(item.at(field)) {
                e.push(forbidden(&p.child(field), "may not be specified when `type` is 'Pod'"));
            }
        }
    } else {
        default = check("default", e);
        request = check("defaultRequest", e);
    }
    if kind == "PersistentVolumeClaim" && !min.contains_key("storage") && !max.contains_key("storage") {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        e.push(required(&p.child("limits"), why));
    }
    let ratio = check("maxLimitRequestRatio", e);
    let keys: BTreeSet<&String> =
        [&max, &min, &default, &request, &ratio].into_iter().flat_map(BTreeMap::keys).collect();
    for k in keys {
        let (lo, hi) = (min.get(k), max.get(k));
        let (d, r) = (default.get(k), request.get(k));
        let mut told = |field: &str, q: &Quantity, why: String| {
            e.push(invalid(&p.child(field).key(k), q.to_string(), why));
        };
        if let (Some(a), Some(b)) = (lo, hi)
            && a > b
        {
            told("min", a, format!("min value {a} is greater than max value {b}"));
        }
        if let (Some(a), Some(b)) = (lo, r)
            && a > b
        {
            told("defaultRequest", b, format!("min value {a} is greater than default request value {b}"));
        }
        if let (Some(a), Some(b)) = (r, hi)
            && a > b
        {
            told("defaultRequest", a, format!("default request value {a} is greater than max value {b}"));
        }
        if let (Some(a), Some(b)) = (r, d)
            && a > b
        {
            told("defaultRequest", a, format!("default request value {a} is greater than default limit value {b}"));
        }
        if let (Some(a), Some(b)) = (lo, d)
            && a > b
        {
            told("default", a, format!("min value {a} is greater than default value {b}"));
        }
        if let (Some(a), Some(b)) = (d, hi)
            && a > b
        {
            told("default", b, format!("default value {a} is greater than max value {b}"));
        }
        if let Some(x) = ratio.get(k) {
            if x.as_f64() < 1.0 {
                told("maxLimitRequestRatio", x, format!("ratio {x} is less than 1"));
            }
            if let (Some(a), Some(b)) = (lo, hi) {
                let most = b.as_f64() / a.as_f64();
                if x.as_f64() > most {
                    told("maxLimitRequestRatio", x, format!("ratio {x} is greater than max/min = {most:.6}"));
                }
            }
        }
        if let (Some(a), Some(b)) = (d, r)
            && a != b
            && !resources::may_overcommit(k)
        {
            told("defaultRequest", b, format!("default value {a} must equal to defaultRequest value {b} in {k}"));
        }
    }
}
