//! HorizontalPodAutoscalers and PodDisruptionBudgets.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, forbidden, invalid, invalid_each, non_negative, not_supported, required};
use crate::format::{self, at_most_100_percent, positive_int_or_percent};
use crate::quantities;
use crate::selector::label_selector;
use crate::walk::{Walk, default_text, default_to, each, object_mut, put, with};

/// Fills a HorizontalPodAutoscaler.
pub(crate) fn default_autoscaler(obj: &mut Value, version: &str) {
    let Some(s) = object_mut(obj, "spec") else { return };
    default_to(s, "minReplicas", 1);
    if version == "v1" {
        return;
    }
    if s.list("metrics").is_empty() {
        let target = json!({ "type": "Utilization", "averageUtilization": 80 });
        put(s, "metrics", json!([{ "type": "Resource", "resource": { "name": "cpu", "target": target } }]));
    }
    each(s, "metrics", |m| {
        for source in ["object", "pods", "resource", "containerResource", "external"] {
            with(m, source, |x| {
                with(x, "target", |t| {
                    quantities::normalize(t, "value");
                    quantities::normalize(t, "averageValue");
                });
            });
        }
    });
    if s.has("behavior") {
        with(s, "behavior", |b| {
            if let Some(up) = object_mut(b, "scaleUp") {
                default_to(up, "stabilizationWindowSeconds", 0);
                default_text(up, "selectPolicy", "Max");
                let policies = json!([
                    { "type": "Pods", "value": 4, "periodSeconds": 15 },
                    { "type": "Percent", "value": 100, "periodSeconds": 15 },
                ]);
                default_to(up, "policies", policies);
            }
            if let Some(down) = object_mut(b, "scaleDown") {
                default_text(down, "selectPolicy", "Max");
                default_to(down, "policies", json!([{ "type": "Percent", "value": 100, "periodSeconds": 15 }]));
            }
        });
    }
}

/// Checks a HorizontalPodAutoscaler.
pub(crate) fn autoscaler(obj: &Value, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    let (min, max) = (s.int("minReplicas"), s.num("maxReplicas"));
    if let Some(n) = min
        && n < 1
    {
        e.push(invalid(&p.child("minReplicas"), n, "must be greater than or equal to 1"));
    }
    if max < 1 {
        e.push(invalid(&p.child("maxReplicas"), max, "must be greater than 0"));
    }
    if min.is_some_and(|m| max < m) {
        e.push(invalid(&p.child("maxReplicas"), max, "must be greater than or equal to `minReplicas`"));
    }
    reference(s.at("scaleTargetRef"), &p.child("scaleTargetRef"), e);
    for (i, m) in s.list("metrics").iter().enumerate() {
        metric(m, &p.child("metrics").index(i), e);
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = s.at("behavior").at(direction);
        if !rules.is_null() {
            scaling_rules(rules, &p.child("behavior").child(direction), e);
        }
    }
}

fn reference(r: &Value, p: &Path, e: &mut Errs) {
    for field in ["kind", "name"] {
        let value = r.text(field);
        if value.is_empty() {
            e.push(required(&p.child(field), ""));
        } else {
            invalid_each(e, &p.child(field), value, format::path_segment(value));
        }
    }
}

const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
    ("External", "external"),
];

fn metric(m: &Value, p: &Path, e: &mut Errs) {
    let kind = m.text("type");
    if kind.is_empty() {
        e.push(required(&p.child("type"), "must specify a metric source type"));
    }
    let names: Vec<&str> = SOURCES.iter().map(|(n, _)| *n).collect();
    if !names.contains(&kind) {
        e.push(not_supported(&p.child("type"), kind, &names));
    }
    let present: BTreeSet<&str> = SOURCES.iter().map(|(_, f)| *f).filter(|f| m.has(f)).collect();
    if let Some(first) = SOURCES.iter().map(|(_, f)| *f).find(|f| m.has(f)) {
        source(m.at(first), first, &p.child(first), e);
    }
    let expected = SOURCES.iter().find(|(n, _)| *n == kind).map(|(_, f)| *f);
    if let Some(field) = expected
        && !m.has(field)
    {
        e.push(required(&p.child(field), "must populate information for the given metric source"));
    }
    if present.len() != 1 {
        for field in present.iter().filter(|f| Some(**f) != expected) {
            e.push(forbidden(&p.child(field), "must populate the given metric source only"));
        }
    }
}

fn source(v: &Value, field: &str, p: &Path, e: &mut Errs) {
    let (t, tp) = (v.at("target"), p.child("target"));
    match field {
        "resource" | "containerResource" => {
            if v.text("name").is_empty() {
                e.push(required(&p.child("name"), "must specify a resource name"));
            }
            if field == "containerResource" && v.text("container").is_empty() {
                e.push(required(&p.child("container"), "must specify a container"));
            }
            target(t, &tp, e);
            match (t.has("averageUtilization"), t.has("averageValue")) {
                (false, false) => {
                    let why = "must set either a target raw value or a target utilization";
                    e.push(required(&tp.child("averageUtilization"), why));
                }
                (true, true) => {
                    let why = "may not set both a target raw value and a target utilization";
                    e.push(forbidden(&tp.child("averageValue"), why));
                }
                _ => {}
            }
        }
        _ => {
            if field == "object" {
                reference(v.at("describedObject"), &p.child("describedObject"), e);
            }
            let (m, mp) = (v.at("metric"), p.child("metric"));
            if m.text("name").is_empty() {
                e.push(required(&mp.child("name"), "must specify a metric name"));
            } else {
                invalid_each(e, &mp.child("name"), m.text("name"), format::path_segment(m.text("name")));
            }
            label_selector(m.at("selector"), &mp.child("selector"), e);
            target(t, &tp, e);
            let (value, average) = (t.has("value"), t.has("averageValue"));
            if field == "pods" {
                if quantities::parse(t.at("averageValue")).is_none_or(|q| q.is_zero() || q.is_negative()) {
                    e.push(required(&tp.child("averageValue"), "must specify a positive target averageValue"));
                }
            } else if !value && !average {
                e.push(required(
                    &tp.child("averageValue"),
                    "must set either a target value for metric or a per-pod target",
                ));
            } else if field == "external" && value && average {
                let why = "may not set both a target value for metric and a per-pod target";
                e.push(forbidden(&tp.child("value"), why));
            }
        }
    }
}

fn target(t: &Value, p: &Path, e: &mut Errs) {
    let kind = t.text("type");
    if kind.is_empty() {
        e.push(required(&p.child("type"), "must specify a metric target type"));
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        e.push(invalid(&p.child("type"), kind, "must be either Utilization, Value, or AverageValue"));
    }
    for field in ["value", "averageValue"] {
        if let Some(q) = quantities::parse(t.at(field))
            && (q.is_zero() || q.is_negative())
        {
            e.push(invalid(&p.child(field), q.to_string(), "must be positive"));
        }
    }
    if let Some(n) = t.int("averageUtilization")
        && n < 1
    {
        e.push(invalid(&p.child("averageUtilization"), n, "must be greater than 0"));
    }
}

fn scaling_rules(r: &Value, p: &Path, e: &mut Errs) {
    if let Some(n) = r.int("stabilizationWindowSeconds") {
        let at = p.child("stabilizationWindowSeconds");
        if n < 0 {
            e.push(invalid(&at, n, "must be greater than or equal to zero"));
        } else if n > 3600 {
            e.push(invalid(&at, n, "must be less than or equal to 3600"));
        }
    }
    const CHOICES: &[&str] = &["Max", "Min", "Disabled"];
    if r.has("selectPolicy") && !CHOICES.contains(&r.text("selectPolicy")) {
        e.push(not_supported(&p.child("selectPolicy"), r.text("selectPolicy"), CHOICES));
    }
    let policies = r.list("policies");
    if policies.is_empty() {
        e.push(required(&p.child("policies"), "must specify at least one Policy"));
    }
    for (i, x) in policies.iter().enumerate() {
        let at = p.child("policies").index(i);
        if !["Pods", "Percent"].contains(&x.text("type")) {
            e.push(not_supported(&at.child("type"), x.text("type"), &["Pods", "Percent"]));
        }
        if x.num("value") <= 0 {
            e.push(invalid(&at.child("value"), x.num("value"), "must be greater than zero"));
        }
        let seconds = x.num("periodSeconds");
        if seconds <= 0 {
            e.push(invalid(&at.child("periodSeconds"), seconds, "must be greater than zero"));
        } else if seconds > 1800 {
            e.push(invalid(&at.child("periodSeconds"), seconds, "must be less than or equal to 1800"));
        }
    }
}

/// Checks a PodDisruptionBudget.
pub(crate) fn budget(obj: &Value, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    if s.has("minAvailable") && s.has("maxUnavailable") {
        e.push(invalid(&p, s.clone(), "minAvailable and maxUnavailable cannot be both set"));
    }
    for field in ["minAvailable", "maxUnavailable"] {
        if s.has(field) {
            positive_int_or_percent(s.at(field), &p.child(field), e);
            at_most_100_percent(s.at(field), &p.child(field), e);
        }
    }
    label_selector(s.at("selector"), &p.child("selector"), e);
    const POLICIES: &[&str] = &["AlwaysAllow", "IfHealthyBudget"];
    if s.has("unhealthyPodEvictionPolicy") && !POLICIES.contains(&s.text("unhealthyPodEvictionPolicy")) {
        let at = p.child("unhealthyPodEvictionPolicy");
        e.push(not_supported(&at, s.text("unhealthyPodEvictionPolicy"), POLICIES));
    }
}

/// Checks a PodDisruptionBudget's status.
pub(crate) fn budget_status(obj: &Value, e: &mut Errs) {
    let p = Path::new("status");
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        non_negative(e, &p.child(field), obj.at("status").num(field));
    }
}
