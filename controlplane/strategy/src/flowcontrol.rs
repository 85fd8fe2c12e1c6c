//! FlowSchemas and PriorityLevelConfigurations (KEP-1040).

use serde_json::Value;
use strake_machinery::field::Path;

use crate::errs::{Errs, forbidden, invalid, not_supported, required};
use crate::format;
use crate::walk::{Walk, default_num, default_to, object_mut, with};

/// Fills a FlowSchema.
pub(crate) fn default_schema(obj: &mut Value) {
    if let Some(s) = object_mut(obj, "spec") {
        default_num(s, "matchingPrecedence", 1000);
    }
}

/// Fills a PriorityLevelConfiguration.
pub(crate) fn default_level(obj: &mut Value) {
    with(obj, "spec", |s| {
        if s.text("type") == "Limited" {
            with(s, "limited", |l| {
                default_to(l, "nominalConcurrencyShares", 30);
                default_to(l, "lendablePercent", 0);
                with(l, "limitResponse", |r| {
                    with(r, "queuing", |q| {
                        default_num(q, "queues", 64);
                        default_num(q, "handSize", 8);
                        default_num(q, "queueLengthLimit", 50);
                    });
                });
            });
        }
        if s.text("type") == "Exempt"
            && let Some(x) = object_mut(s, "exempt")
        {
            default_to(x, "nominalConcurrencyShares", 0);
            default_to(x, "lendablePercent", 0);
        }
    });
}

/// Checks a FlowSchema.
pub(crate) fn schema(obj: &Value, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    let precedence = s.num("matchingPrecedence");
    if precedence <= 0 {
        e.push(invalid(&p.child("matchingPrecedence"), precedence, "must be a positive value"));
    }
    if precedence > 10000 {
        e.push(invalid(&p.child("matchingPrecedence"), precedence, "must not be greater than 10000"));
    }
    if precedence == 1 && obj.at("metadata").text("name") != "exempt" {
        let why = "only the schema named 'exempt' may have matchingPrecedence 1";
        e.push(invalid(&p.child("matchingPrecedence"), precedence, why));
    }
    if s.has("distinguisherMethod") {
        let kind = s.at("distinguisherMethod").text("type");
        if !["ByNamespace", "ByUser"].contains(&kind) {
            e.push(not_supported(&p.child("distinguisherMethod").child("type"), kind, &["ByNamespace", "ByUser"]));
        }
    }
    let level = s.at("priorityLevelConfiguration").text("name");
    let at = p.child("priorityLevelConfiguration").child("name");
    if level.is_empty() {
        e.push(required(&at, "must reference a priority level"));
    } else {
        crate::errs::invalid_each(e, &at, level, format::dns_subdomain(level));
    }
    for (i, r) in s.list("rules").iter().enumerate() {
        rule(r, &p.child("rules").index(i), e);
    }
}

fn rule(r: &Value, p: &Path, e: &mut Errs) {
    if r.list("subjects").is_empty() {
        e.push(required(&p.child("subjects"), "subjects must contain at least one value"));
    }
    for (i, s) in r.list("subjects").iter().enumerate() {
        let at = p.child("subjects").index(i);
        let (kind, field) = match s.text("kind") {
            "User" => ("User", "user"),
            "Group" => ("Group", "group"),
            "ServiceAccount" => ("ServiceAccount", "serviceAccount"),
            other => {
                e.push(not_supported(&at.child("kind"), other, &["Group", "ServiceAccount", "User"]));
                continue;
            }
        };
        if !s.has(field) {
            e.push(required(&at.child(field), format!("{field} is required when subject kind is '{kind}'")));
        }
        for other in ["user", "group", "serviceAccount"] {
            if other != field && s.has(other) {
                let why = format!("{other} is forbidden when subject kind is not '{other}'");
                e.push(forbidden(&at.child(other), why));
            }
        }
    }
    let (resources, urls) = (r.list("resourceRules"), r.list("nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        e.push(required(p, why));
    }
    for (i, x) in resources.iter().enumerate() {
        let at = p.child("resourceRules").index(i);
        for field in ["verbs", "apiGroups", "resources"] {
            if x.list(field).is_empty() {
                e.push(required(&at.child(field), format!("{field} must contain at least one value")));
            }
        }
        if x.list("namespaces").is_empty() && !x.is_true("clusterScope") {
            let why = "resource rules that are not cluster scoped must supply at least one namespace";
            e.push(required(&at.child("namespaces"), why));
        }
    }
    for (i, x) in urls.iter().enumerate() {
        let at = p.child("nonResourceRules").index(i);
        for field in ["verbs", "nonResourceURLs"] {
            if x.list(field).is_empty() {
                e.push(required(&at.child(field), format!("{field} must contain at least one value")));
            }
        }
    }
}

/// Checks a PriorityLevelConfiguration.
pub(crate) fn level(obj: &Value, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    let name = obj.at("metadata").text("name");
    match s.text("type") {
        "Exempt" => {
            if name != "exempt" {
                let why = "must not be 'Exempt' unless the name is 'exempt'";
                e.push(invalid(&p.child("type"), "Exempt", why));
            }
            if s.has("limited") {
                e.push(forbidden(&p.child("limited"), "must be nil if the type is not Limited"));
            }
        }
        "Limited" => {
            if s.has("exempt") {
                e.push(forbidden(&p.child("exempt"), "must be nil if the type is Limited"));
            }
            if s.has("limited") {
                limited(s.at("limited"), &p.child("limited"), e);
            } else {
                e.push(required(&p.child("limited"), "must not be empty when type is Limited"));
            }
        }
        other => e.push(not_supported(&p.child("type"), other, &["Exempt", "Limited"])),
    }
}

fn limited(l: &Value, p: &Path, e: &mut Errs) {
    let shares = l.num("nominalConcurrencyShares");
    if shares < 0 {
        let why = "must be a non-negative integer";
        e.push(invalid(&p.child("nominalConcurrencyShares"), shares, why));
    }
    let lendable = l.num("lendablePercent");
    if !(0..=100).contains(&lendable) {
        e.push(invalid(&p.child("lendablePercent"), lendable, "must be between 0 and 100, inclusive"));
    }
    if let Some(n) = l.int("borrowingLimitPercent")
        && n < 0
    {
        e.push(invalid(&p.child("borrowingLimitPercent"), n, "if specified, must be a non-negative integer"));
    }
    let (r, at) = (l.at("limitResponse"), p.child("limitResponse"));
    match r.text("type") {
        "Reject" => {
            if r.has("queuing") {
                e.push(forbidden(&at.child("queuing"), "must be nil if limited.limitResponse.type is not Limited"));
            }
        }
        "Queue" => {
            let (q, qp) = (r.at("queuing"), at.child("queuing"));
            if q.is_null() {
                e.push(required(&qp, "must not be empty if limited.limitResponse.type is Limited"));
                return;
            }
            for field in ["queueLengthLimit", "queues", "handSize"] {
                if q.num(field) <= 0 {
                    e.push(invalid(&qp.child(field), q.num(field), "must be positive"));
                }
            }
            if q.num("queues") > 10_000_000 {
                e.push(invalid(&qp.child("queues"), q.num("queues"), "must not be greater than 10000000"));
            }
            if q.num("handSize") > q.num("queues") {
                let why = format!("should not be greater than queues ({})", q.num("queues"));
                e.push(invalid(&qp.child("handSize"), q.num("handSize"), why));
            }
        }
        other => e.push(not_supported(&at.child("type"), other, &["Queue", "Reject"])),
    }
}
