//! Nodes, namespaces, events, and the plain objects of the core group.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::text::{NONE, UNKNOWN, age, condition, containers, count, labels, name, text, text_or};
use crate::{convert, meta, time};

pub(super) fn node(node: &Value, now: Timestamp) -> Vec<Value> {
    let mut status = vec![match condition(node, "Ready").map(|c| c["status"] == "True") {
        Some(true) => "Ready",
        Some(false) => "NotReady",
        None => "Unknown",
    }];
    if meta::bool_at(node, &["spec", "unschedulable"]) {
        status.push("SchedulingDisabled");
    }
    let mut roles: Vec<&str> = meta::labels(node)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None => value.as_str().filter(|_| key == "kubernetes.io/role"),
        })
        .filter(|r| !r.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    let address = |ty: &str| {
        let addresses = meta::list_at(node, &["status", "addresses"]);
        addresses.iter().find(|a| a["type"] == ty).map_or(NONE, |a| meta::str_at(a, &["address"])).to_owned()
    };
    let info = |field| json!(text_or(node, &["status", "nodeInfo", field], UNKNOWN));
    vec![
        name(node),
        json!(status.join(",")),
        json!(if roles.is_empty() { NONE.to_owned() } else { roles.join(",") }),
        age(node, now),
        text(node, &["status", "nodeInfo", "kubeletVersion"]),
        json!(address("InternalIP")),
        json!(address("ExternalIP")),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

pub(super) fn namespace(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), text(o, &["status", "phase"]), age(o, now)]
}

pub(super) fn config_map(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), json!(count(o, &["data"]) + count(o, &["binaryData"])), age(o, now)]
}

pub(super) fn secret(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), text(o, &["type"]), json!(count(o, &["data"])), age(o, now)]
}

pub(super) fn pod_template(o: &Value, _now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(o, &["template", "spec", "containers"]);
    vec![name(o), names, images, json!(labels(meta::map_at(o, &["template", "metadata", "labels"])))]
}

pub(super) fn component_status(o: &Value, _now: Timestamp) -> Vec<Value> {
    let healthy = meta::list_at(o, &["conditions"]).iter().find(|c| c["type"] == "Healthy");
    let (status, message, error) = match healthy {
        Some(c) => (
            if c["status"] == "True" { "Healthy" } else { "Unhealthy" },
            meta::str_at(c, &["message"]),
            meta::str_at(c, &["error"]),
        ),
        None => ("Unknown", "", ""),
    };
    vec![name(o), json!(status), json!(message), json!(error)]
}

pub(super) fn resource_quota(o: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in meta::map_at(o, &["status", "hard"]).into_iter().flatten() {
        let used = text_or(o, &["status", "used", resource], "0");
        let line = format!("{resource}: {used}/{}", hard.as_str().unwrap_or_default());
        if resource.starts_with("limits") { &mut limits } else { &mut requests }.push(line);
    }
    vec![name(o), json!(requests.join(", ")), json!(limits.join(", ")), age(o, now)]
}

pub(super) fn event(o: &Value, now: Timestamp) -> Vec<Value> {
    let mut converted = o.clone();
    if meta::api_version(o) == "events.k8s.io/v1"
        && let Some(core) = crate::Registry::builtin().by_type("v1", "Event")
        && convert::to_version(&mut converted, core).is_err()
    {
        converted = o.clone();
    }
    let o = &converted;
    let since = |path: &[&str]| Some(meta::str_at(o, path)).filter(|t| !t.is_empty()).map(|t| time::age(t, now));
    let first = since(&["firstTimestamp"]).or_else(|| since(&["eventTime"])).unwrap_or_else(|| UNKNOWN.into());
    let mut last = since(&["lastTimestamp"]).unwrap_or_else(|| first.clone());
    let mut times = meta::i64_at(o, &["count"]).unwrap_or(0).max(1);
    if let Some(series) = meta::map_at(o, &["series"]) {
        last = since(&["series", "lastObservedTime"]).unwrap_or_else(|| UNKNOWN.into());
        times = series.get("count").and_then(Value::as_i64).unwrap_or(0);
    }
    let target = match meta::str_at(o, &["involvedObject", "name"]) {
        "" => meta::str_at(o, &["involvedObject", "kind"]).to_lowercase(),
        target => format!("{}/{target}", meta::str_at(o, &["involvedObject", "kind"]).to_lowercase()),
    };
    let component = text_or(o, &["source", "component"], meta::str_at(o, &["reportingComponent"]));
    let instance = text_or(o, &["source", "host"], meta::str_at(o, &["reportingInstance"]));
    let source = if instance.is_empty() { component.to_owned() } else { format!("{component}, {instance}") };
    vec![
        json!(last),
        text(o, &["type"]),
        text(o, &["reason"]),
        json!(target),
        text(o, &["involvedObject", "fieldPath"]),
        json!(source),
        json!(meta::str_at(o, &["message"]).trim()),
        json!(first),
        json!(times),
        name(o),
    ]
}

/// Name and age.
pub(super) fn plain(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), age(o, now)]
}

/// Name and creation time, what kinds without columns of their own show.
pub(super) fn created(o: &Value, _now: Timestamp) -> Vec<Value> {
    vec![name(o), text(o, &["metadata", "creationTimestamp"])]
}
