//! What steers a Pod to a node besides affinity: tolerations, taints' effects, topology spread, scheduling gates.

use std::collections::BTreeSet;

use serde_json::Value;
use strake_machinery::field::Path;

use crate::errs::{Errs, duplicate, forbidden, invalid, invalid_each, not_supported, required};
use crate::format;
use crate::selector::{label_name, label_selector};
use crate::walk::Walk;

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const POSITIVE: &str = "must be greater than zero";

/// An effect of a taint; a toleration may leave it out, a taint may not.
pub(crate) fn taint_effect(effect: &str, may_be_empty: bool, p: &Path, e: &mut Errs) {
    if effect.is_empty() && !may_be_empty {
        e.push(required(p, ""));
    } else if !EFFECTS.contains(&effect) {
        e.push(not_supported(p, effect, EFFECTS));
    }
}

/// Checks `spec.tolerations`.
pub(crate) fn tolerations(list: &[Value], p: &Path, e: &mut Errs) {
    for (i, t) in list.iter().enumerate() {
        let at = p.index(i);
        let (key, op, value, effect) = (t.text("key"), t.text("operator"), t.text("value"), t.text("effect"));
        if !key.is_empty() {
            label_name(key, &at.child("key"), e);
        }
        if key.is_empty() && op != "Exists" {
            let why = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            e.push(invalid(&at.child("operator"), op, why));
        }
        if t.has("tolerationSeconds") && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            e.push(invalid(&at.child("effect"), effect, why));
        }
        match op {
            "Equal" | "" => {
                let messages = format::label_value(value);
                if !messages.is_empty() {
                    e.push(invalid(&at.child("operator"), value, messages.join(";")));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    let why = "value must be empty when `operator` is 'Exists'";
                    e.push(invalid(&at.child("operator"), value, why));
                }
            }
            other => e.push(not_supported(&at.child("operator"), other, &["Equal", "Exists"])),
        }
        if !effect.is_empty() {
            taint_effect(effect, true, &at.child("effect"), e);
        }
    }
}

/// Tolerations may be added, and only their seconds changed.
pub(crate) fn tolerations_only_added(new: &[Value], old: &[Value], p: &Path, e: &mut Errs) {
    let without_seconds = |t: &Value| {
        let mut t = t.clone();
        crate::walk::drop_key(&mut t, "tolerationSeconds");
        t
    };
    let kept: Vec<Value> = new.iter().map(without_seconds).collect();
    if !old.iter().all(|o| kept.iter().any(|k| crate::walk::same(&without_seconds(o), k))) {
        e.push(forbidden(p, "existing toleration can not be modified except its tolerationSeconds"));
        return;
    }
    tolerations(new, p, e);
}

/// Checks `spec.schedulingGates`.
pub(crate) fn scheduling_gates(list: &[Value], p: &Path, e: &mut Errs) {
    let mut seen = BTreeSet::new();
    for (i, gate) in list.iter().enumerate() {
        let name = gate.text("name");
        invalid_each(e, &p.index(i), name, format::qualified_name(name));
        if !seen.insert(name) {
            e.push(duplicate(&p.index(i), name));
        }
    }
}

/// Scheduling gates may only go.
pub(crate) fn gates_only_removed(new: &[Value], old: &[Value], p: &Path, e: &mut Errs) {
    for (i, gate) in new.iter().enumerate() {
        let name = gate.text("name");
        if !old.iter().any(|o| o.text("name") == name) {
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            e.push(forbidden(&p.index(i).child("name"), why));
        }
    }
}

/// Checks `spec.readinessGates`.
pub(crate) fn readiness_gates(list: &[Value], p: &Path, e: &mut Errs) {
    for (i, gate) in list.iter().enumerate() {
        let kind = gate.text("conditionType");
        invalid_each(e, &p.index(i).child("conditionType"), kind, format::qualified_name(kind));
    }
}

/// Checks `spec.topologySpreadConstraints`.
pub(crate) fn topology_spread(list: &[Value], p: &Path, e: &mut Errs) {
    const ACTIONS: &[&str] = &["DoNotSchedule", "ScheduleAnyway"];
    const POLICIES: &[&str] = &["Honor", "Ignore"];
    for (i, c) in list.iter().enumerate() {
        let at = p.index(i);
        let (key, action) = (c.text("topologyKey"), c.text("whenUnsatisfiable"));
        if c.num("maxSkew") <= 0 {
            e.push(invalid(&at.child("maxSkew"), c.num("maxSkew"), POSITIVE));
        }
        if key.is_empty() {
            e.push(required(&at.child("topologyKey"), "can not be empty"));
        }
        if !ACTIONS.contains(&action) {
            e.push(not_supported(&at.child("whenUnsatisfiable"), action, ACTIONS));
        }
        if list[i + 1..].iter().any(|o| o.text("topologyKey") == key && o.text("whenUnsatisfiable") == action) {
            let pair = format!("{{{key}, {action}}}");
            e.push(duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), pair));
        }
        if let Some(min) = c.int("minDomains") {
            let mp = at.child("minDomains");
            if min <= 0 {
                e.push(invalid(&mp, min, POSITIVE));
            }
            if action != "DoNotSchedule" {
                let why = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                e.push(invalid(&mp, min, why));
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            if c.has(field) && !POLICIES.contains(&c.text(field)) {
                e.push(not_supported(&at.child(field), c.text(field), POLICIES));
            }
        }
        match_label_keys(c, &at.child("matchLabelKeys"), e);
        label_selector(c.at("labelSelector"), &at.child("labelSelector"), e);
    }
}

fn match_label_keys(c: &Value, p: &Path, e: &mut Errs) {
    let (keys, selector) = (c.texts("matchLabelKeys"), c.at("labelSelector"));
    if keys.is_empty() {
        return;
    }
    if selector.is_null() {
        e.push(forbidden(p, "must not be specified when labelSelector is not set"));
    }
    for (i, key) in keys.into_iter().enumerate() {
        label_name(key, &p.index(i), e);
        // The value that the key stands for was merged into the expressions on creation; only a second mention counts.
        let mentions = selector.list("matchExpressions").iter().filter(|x| x.text("key") == key);
        let others = mentions.filter(|x| x.text("operator") != "In" || x.list("values").len() != 1).count();
        if selector.at("matchLabels").has(key) || others > 0 {
            e.push(invalid(&p.index(i), key, "exists in both matchLabelKeys and labelSelector"));
        }
    }
}
