//! LimitRanger: a namespace's LimitRanges fill in container resources and bound them.

use serde_json::Value;
use strake_machinery::quantity::Quantity;

use crate::pod::spec::aggregate;
use crate::quantities;
use crate::walk::{Walk, default_to, each, object_mut, put, with};

/// Fills limits and requests that a container leaves out with the defaults of the namespace's LimitRanges, and records
/// what was set in an annotation.
pub fn apply_limit_ranges(pod: &mut Value, ranges: &[Value]) {
    let mut limits = serde_json::json!({});
    let mut requests = serde_json::json!({});
    for item in ranges.iter().flat_map(|r| r.at("spec").list("limits")).filter(|i| i.text("type") == "Container") {
        for (k, q) in item.entries("default") {
            default_to(&mut limits, k, q.clone());
        }
        for (k, q) in item.entries("defaultRequest") {
            default_to(&mut requests, k, q.clone());
        }
    }
    let mut told = Vec::new();
    with(pod, "spec", |s| {
        for (list, what) in [("containers", "container"), ("initContainers", "init container")] {
            each(s, list, |c| {
                let name = c.text("name").to_owned();
                for (field, defaults) in [("limits", &limits), ("requests", &requests)] {
                    let mut set = Vec::new();
                    with(c, "resources", |r| {
                        for (k, q) in crate::walk::entries(defaults) {
                            if r.at(field).has(k) {
                                continue;
                            }
                            if let Some(map) = object_mut(r, field) {
                                put(map, k, q.clone());
                                set.push(k.to_owned());
                            }
                        }
                    });
                    if !set.is_empty() {
                        let verb = field.trim_end_matches('s');
                        told.push(format!("{} {verb} for {what} {name}", set.join(", ")));
                    }
                }
            });
        }
    });
    if !told.is_empty()
        && let Some(all) = object_mut(pod, "metadata").and_then(|m| object_mut(m, "annotations"))
    {
        put(all, "kubernetes.io/limit-ranger", format!("LimitRanger plugin set: {}", told.join("; ")).into());
    }
}

fn check(item: &Value, requests: &Value, limits: &Value, kind: &str, out: &mut Vec<String>) {
    let get = |v: &Value, k: &str| quantities::parse(v.at(k));
    for (k, min) in item.entries("min") {
        let Some(min) = quantities::parse(min) else { continue };
        match get(requests, k).or_else(|| get(limits, k)) {
            None => out.push(format!("minimum {k} usage per {kind} is {min}.  No request is specified")),
            Some(r) if r < min => {
                out.push(format!("minimum {k} usage per {kind} is {min}, but request is {r}"));
            }
            Some(_) => {}
        }
    }
    for (k, max) in item.entries("max") {
        let Some(max) = quantities::parse(max) else { continue };
        match (get(limits, k), get(requests, k)) {
            (None, _) => out.push(format!("maximum {k} usage per {kind} is {max}.  No limit is specified")),
            (Some(l), _) if l > max => out.push(format!("maximum {k} usage per {kind} is {max}, but limit is {l}")),
            (_, Some(r)) if r > max => out.push(format!("maximum {k} usage per {kind} is {max}, but request is {r}")),
            _ => {}
        }
    }
    for (k, ratio) in item.entries("maxLimitRequestRatio") {
        let Some(ratio) = quantities::parse(ratio) else { continue };
        match (get(limits, k), get(requests, k)) {
            (Some(l), Some(r)) if !r.is_zero() => {
                let is = l.as_f64() / r.as_f64();
                if is > ratio.as_f64() {
                    out.push(format!(
                        "{k} max limit to request ratio per {kind} is {ratio}, but provided ratio is {is:.6}"
                    ));
                }
            }
            _ => out.push(format!(
                "{k} max limit to request ratio per {kind} is {ratio}, but no request is specified or request is 0"
            )),
        }
    }
}

/// What the namespace's LimitRanges have against a Pod or a PersistentVolumeClaim; the API server answers 403 with the
/// messages joined by `, ` in brackets, or the one message.
pub fn check_limit_ranges(obj: &Value, is_claim: bool, ranges: &[Value]) -> Vec<String> {
    let mut out = Vec::new();
    let spec = obj.at("spec");
    for item in ranges.iter().flat_map(|r| r.at("spec").list("limits")) {
        match (item.text("type"), is_claim) {
            ("PersistentVolumeClaim", true) => {
                let requests = spec.path(&["resources", "requests"]);
                for (k, q) in item.entries("min") {
                    if let (Some(min), Some(r)) = (quantities::parse(q), quantities::parse(requests.at(k)))
                        && r < min
                    {
                        out.push(format!("minimum {k} usage per PersistentVolumeClaim is {min}, but request is {r}"));
                    }
                }
                for (k, q) in item.entries("max") {
                    if let (Some(max), Some(r)) = (quantities::parse(q), quantities::parse(requests.at(k)))
                        && r > max
                    {
                        out.push(format!("maximum {k} usage per PersistentVolumeClaim is {max}, but request is {r}"));
                    }
                }
            }
            ("Container", false) => {
                for c in spec.list("containers").iter().chain(spec.list("initContainers")) {
                    let r = c.at("resources");
                    check(item, r.at("requests"), r.at("limits"), "Container", &mut out);
                }
            }
            ("Pod", false) => {
                let sum = |which: &str| -> Value {
                    let all: Vec<(String, Quantity)> = aggregate(spec, which).into_iter().collect();
                    Value::Object(all.into_iter().map(|(k, q)| (k, q.to_string().into())).collect())
                };
                check(item, &sum("requests"), &sum("limits"), "Pod", &mut out);
            }
            _ => {}
        }
    }
    out
}
