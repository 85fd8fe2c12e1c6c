//! Who may do what, and what is done to requests: bindings, certificates, admission, priorities, extensions.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::text::{NONE, UNSET, age, condition, count, name, number, text, text_or};
use crate::{meta, time};

pub(super) fn binding(o: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!("{}/{}", meta::str_at(o, &["roleRef", "kind"]), meta::str_at(o, &["roleRef", "name"]));
    let subjects = |kind: &str| {
        let found: Vec<String> = meta::list_at(o, &["subjects"])
            .iter()
            .filter(|s| s["kind"] == kind)
            .map(|s| match (kind, meta::str_at(s, &["namespace"])) {
                ("ServiceAccount", namespace) => format!("{namespace}/{}", meta::str_at(s, &["name"])),
                _ => meta::str_at(s, &["name"]).to_owned(),
            })
            .collect();
        json!(found.join(", "))
    };
    vec![name(o), json!(role), age(o, now), subjects("User"), subjects("Group"), subjects("ServiceAccount")]
}

pub(super) fn signing_request(o: &Value, now: Timestamp) -> Vec<Value> {
    let has = |ty| condition(o, ty).is_some();
    let mut status = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        status.push_str(",Failed");
    }
    if !meta::str_at(o, &["status", "certificate"]).is_empty() {
        status.push_str(",Issued");
    }
    let duration = match meta::i64_at(o, &["spec", "expirationSeconds"]) {
        Some(seconds) => time::human_duration(seconds),
        None => NONE.into(),
    };
    vec![
        name(o),
        age(o, now),
        json!(text_or(o, &["spec", "signerName"], NONE)),
        text(o, &["spec", "username"]),
        json!(duration),
        json!(status),
    ]
}

pub(super) fn webhooks(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), json!(count(o, &["webhooks"])), age(o, now)]
}

fn param_kind(o: &Value) -> String {
    match meta::map_at(o, &["spec", "paramKind"]) {
        None => UNSET.into(),
        Some(_) => format!(
            "{}/{}",
            meta::str_at(o, &["spec", "paramKind", "apiVersion"]),
            meta::str_at(o, &["spec", "paramKind", "kind"])
        ),
    }
}

pub(super) fn validating_policy(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), json!(count(o, &["spec", "validations"])), json!(param_kind(o)), age(o, now)]
}

pub(super) fn mutating_policy(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), json!(count(o, &["spec", "mutations"])), json!(param_kind(o)), age(o, now)]
}

pub(super) fn policy_binding(o: &Value, now: Timestamp) -> Vec<Value> {
    let part = |field| meta::str_at(o, &["spec", "paramRef", field]);
    let reference = match (meta::map_at(o, &["spec", "paramRef"]), part("namespace"), part("name")) {
        (None, ..) => UNSET.to_owned(),
        (_, namespace, "") => format!("{}/*", if namespace.is_empty() { "*" } else { namespace }),
        (_, "", name) => name.to_owned(),
        (_, namespace, name) => format!("{namespace}/{name}"),
    };
    vec![name(o), text(o, &["spec", "policyName"]), json!(reference), age(o, now)]
}

pub(super) fn priority_class(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        json!(number(o, &["value"])),
        json!(meta::bool_at(o, &["globalDefault"])),
        age(o, now),
        text(o, &["preemptionPolicy"]),
    ]
}

pub(super) fn runtime_class(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), text(o, &["handler"]), age(o, now)]
}

pub(super) fn flow_schema(o: &Value, now: Timestamp) -> Vec<Value> {
    let dangling = condition(o, "Dangling").map_or("?", |c| meta::str_at(c, &["status"]));
    vec![
        name(o),
        json!(text_or(o, &["spec", "priorityLevelConfiguration", "name"], NONE)),
        json!(number(o, &["spec", "matchingPrecedence"])),
        json!(text_or(o, &["spec", "distinguisherMethod", "type"], NONE)),
        age(o, now),
        json!(dangling),
    ]
}

pub(super) fn priority_level(o: &Value, now: Timestamp) -> Vec<Value> {
    let number = |path: &[&str]| meta::i64_at(o, path).map_or(json!(NONE), |n| json!(n));
    let queuing = |field| number(&["spec", "limited", "limitResponse", "queuing", field]);
    let shares = match meta::str_at(o, &["spec", "type"]) {
        "Exempt" => number(&["spec", "exempt", "nominalConcurrencyShares"]),
        _ => number(&["spec", "limited", "nominalConcurrencyShares"]),
    };
    vec![
        name(o),
        text(o, &["spec", "type"]),
        shares,
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        age(o, now),
    ]
}

pub(super) fn api_service(o: &Value, now: Timestamp) -> Vec<Value> {
    let service = match meta::map_at(o, &["spec", "service"]) {
        None => "Local".to_owned(),
        Some(_) => format!(
            "{}/{}",
            meta::str_at(o, &["spec", "service", "namespace"]),
            meta::str_at(o, &["spec", "service", "name"])
        ),
    };
    let available = match condition(o, "Available") {
        None => "Unknown".to_owned(),
        Some(c) if c["status"] == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", meta::str_at(c, &["status"]), meta::str_at(c, &["reason"])),
    };
    vec![name(o), json!(service), json!(available), age(o, now)]
}
