//! Leases, PriorityClasses and RuntimeClasses.

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, forbidden, immutable, invalid, invalid_each, non_negative, one_of};
use crate::format;
use crate::pod::placement::tolerations;
use crate::resources;
use crate::selector::labels;
use crate::walk::Walk;

/// Checks a Lease.
pub(crate) fn lease(obj: &Value, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    if let Some(n) = s.int("leaseDurationSeconds")
        && n <= 0
    {
        e.push(invalid(&p.child("leaseDurationSeconds"), n, "must be greater than 0"));
    }
    if let Some(n) = s.int("leaseTransitions") {
        non_negative(e, &p.child("leaseTransitions"), n);
    }
    if s.has("strategy") {
        let strategy = s.text("strategy");
        invalid_each(e, &p.child("strategy"), strategy, format::qualified_name(strategy));
    }
    if !s.text("preferredHolder").is_empty() && s.text("strategy").is_empty() {
        let why = "can only be specified when strategy is defined";
        e.push(invalid(&p.child("preferredHolder"), s.text("preferredHolder"), why));
    }
}

/// The classes that only the system may name so.
const SYSTEM: &[(&str, i64)] = &[("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
const HIGHEST: i64 = 1_000_000_000;

/// Checks a PriorityClass.
pub(crate) fn priority(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let (name, value) = (obj.at("metadata").text("name"), obj.num("value"));
    if let Some(old) = old {
        if value != old.num("value") {
            e.push(forbidden(&Path::new("value"), "may not be changed in an update."));
        }
        let p = Path::new("preemptionPolicy");
        immutable(e, &p, obj.at("preemptionPolicy"), old.at("preemptionPolicy"));
        return;
    }
    match SYSTEM.iter().find(|(n, _)| *n == name) {
        Some((_, fixed)) => {
            let why = if value != *fixed {
                Some(format!("value of {name} PriorityClass must be {fixed}"))
            } else if obj.is_true("globalDefault") {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            } else {
                None
            };
            if let Some(why) = why {
                let told = format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {why}"
                );
                e.push(forbidden(&Path::new("metadata").child("name"), told));
            }
        }
        None if name.starts_with("system-") => {
            let told = format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known system priority class"
            );
            e.push(forbidden(&Path::new("metadata").child("name"), told));
        }
        None => {
            if value > HIGHEST {
                let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
                e.push(forbidden(&Path::new("value"), why));
            }
        }
    }
    let policies = ["PreemptLowerPriority", "Never"];
    one_of(e, &Path::new("preemptionPolicy"), obj.text("preemptionPolicy"), &policies);
}

/// Fills a RuntimeClass.
pub(crate) fn default_runtime(obj: &mut Value) {
    crate::walk::with(obj, "overhead", |o| crate::quantities::normalize_list(o, "podFixed"));
}

/// Checks a RuntimeClass.
pub(crate) fn runtime(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    if let Some(old) = old {
        immutable(e, &Path::new("handler"), obj.at("handler"), old.at("handler"));
        return;
    }
    let handler = obj.text("handler");
    invalid_each(e, &Path::new("handler"), handler, format::dns_label(handler));
    if obj.has("overhead") {
        let fixed = json!({ "limits": obj.at("overhead").at("podFixed") });
        let p = Path::new("overhead").child("podFixed");
        resources::requirements(&fixed, resources::Names::Container, None, &p, e);
    }
    let (s, p) = (obj.at("scheduling"), Path::new("scheduling"));
    labels(s.at("nodeSelector"), &p.child("nodeSelector"), e);
    let (list, at) = (s.list("tolerations"), p.child("tolerations"));
    tolerations(list, &at, e);
    for (i, t) in list.iter().enumerate() {
        if list[..i].contains(t) {
            e.push(crate::errs::duplicate(&at.index(i), t.clone()));
        }
    }
}
