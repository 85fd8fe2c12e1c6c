//! Conversion between the versions of a kind that share their storage: HorizontalPodAutoscaler v1 and v2, Event of the
//! core group and of events.k8s.io. All other kinds have one version, and only the type is set.

use serde_json::{Map, Value, json};

use crate::registry::Kind;
use crate::{ApiError, meta};

/// Where v1 keeps the metrics that it has no field for.
const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Fields of an Event, in the core group and in events.k8s.io.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// Make `object` one of `to`, from whatever version of the kind it is. Fails if the kinds are not related.
pub fn to_version(object: &mut Value, to: &Kind) -> Result<(), ApiError> {
    let from = meta::api_version(object).to_owned();
    let wanted = to.api_version();
    if from == wanted {
        return Ok(());
    }
    match (from.as_str(), wanted.as_str(), to.kind.as_str()) {
        ("v1", "events.k8s.io/v1", "Event") => rename(object, EVENT_FIELDS),
        ("events.k8s.io/v1", "v1", "Event") => rename(object, EVENT_FIELDS.map(|(core, new)| (new, core))),
        ("autoscaling/v1", "autoscaling/v2", "HorizontalPodAutoscaler") => autoscaler_to_v2(object),
        ("autoscaling/v2", "autoscaling/v1", "HorizontalPodAutoscaler") => autoscaler_to_v1(object),
        _ if from.is_empty() => {}
        _ => {
            return Err(ApiError::bad_request(format!(
                "{} of {from} cannot be converted to {} of {wanted}",
                meta::kind(object),
                to.kind
            )));
        }
    }
    meta::set_type(object, &wanted, &to.kind);
    Ok(())
}

fn rename(object: &mut Value, fields: [(&str, &str); 7]) {
    if let Value::Object(map) = object {
        for (from, to) in fields {
            if let Some(v) = map.remove(from) {
                map.insert(to.into(), v);
            }
        }
    }
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["target"]["type"] == "Utilization"
}

fn take(object: &mut Value, section: &str, field: &str) -> Option<Value> {
    meta::remove_at(object, &[section, field])
}

fn autoscaler_to_v1(object: &mut Value) {
    if let Some(Value::Array(mut metrics)) = take(object, "spec", "metrics") {
        if let Some(at) = metrics.iter().position(is_cpu_utilization) {
            let cpu = metrics.remove(at);
            let target = cpu["resource"]["target"]["averageUtilization"].clone();
            meta::set_at(object, &["spec", "targetCPUUtilizationPercentage"], target);
        }
        if !metrics.is_empty() {
            meta::set_annotation(object, METRICS_ANNOTATION, &Value::Array(metrics).to_string());
        }
    }
    if let Some(behavior) = take(object, "spec", "behavior") {
        meta::set_annotation(object, BEHAVIOR_ANNOTATION, &behavior.to_string());
    }
    if let Some(Value::Array(mut current)) = take(object, "status", "currentMetrics") {
        let cpu = |m: &Value| {
            m["type"] == "Resource"
                && m["resource"]["name"] == "cpu"
                && m["resource"]["current"]["averageUtilization"].is_number()
        };
        if let Some(at) = current.iter().position(cpu) {
            let cpu = current.remove(at);
            let percent = cpu["resource"]["current"]["averageUtilization"].clone();
            meta::set_at(object, &["status", "currentCPUUtilizationPercentage"], percent);
        }
        if !current.is_empty() {
            meta::set_annotation(object, CURRENT_METRICS_ANNOTATION, &Value::Array(current).to_string());
        }
    }
    if let Some(conditions) = take(object, "status", "conditions").filter(|c| !meta::is_empty(c)) {
        meta::set_annotation(object, CONDITIONS_ANNOTATION, &conditions.to_string());
    }
    // v1 always writes these two numbers.
    let status = meta::map_at_mut(object, &["status"]);
    for field in ["currentReplicas", "desiredReplicas"] {
        status.entry(field).or_insert_with(|| json!(0));
    }
}

fn autoscaler_to_v2(object: &mut Value) {
    let mut parsed = |name: &str| {
        let annotations = object.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()?;
        let text = annotations.remove(name)?;
        serde_json::from_str::<Value>(text.as_str().unwrap_or_default()).ok()
    };
    let metrics = parsed(METRICS_ANNOTATION);
    let behavior = parsed(BEHAVIOR_ANNOTATION);
    let current = parsed(CURRENT_METRICS_ANNOTATION);
    let conditions = parsed(CONDITIONS_ANNOTATION);
    let empty = meta::annotations(object).is_some_and(Map::is_empty);
    if empty {
        meta::remove_at(object, &["metadata", "annotations"]);
    }
    let list = |v: Option<Value>| match v {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let mut metrics = list(metrics);
    if let Some(percent) = take(object, "spec", "targetCPUUtilizationPercentage") {
        let target = json!({"type": "Utilization", "averageUtilization": percent});
        metrics.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
    }
    if !metrics.is_empty() {
        meta::set_at(object, &["spec", "metrics"], metrics);
    }
    if let Some(behavior) = behavior {
        meta::set_at(object, &["spec", "behavior"], behavior);
    }
    let mut current = list(current);
    if let Some(percent) = take(object, "status", "currentCPUUtilizationPercentage") {
        let value = json!({"averageUtilization": percent});
        current.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "current": value}}));
    }
    if !current.is_empty() {
        meta::set_at(object, &["status", "currentMetrics"], current);
    }
    if let Some(conditions) = conditions {
        meta::set_at(object, &["status", "conditions"], conditions);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    fn there_and_back(object: Value, kind: &str, other: &str) -> Value {
        let registry = Registry::builtin();
        let mut converted = object.clone();
        to_version(&mut converted, registry.by_type(other, kind).unwrap()).unwrap();
        let there = converted.clone();
        to_version(&mut converted, registry.by_type(meta::api_version(&object), kind).unwrap()).unwrap();
        assert_eq!(converted, object);
        there
    }

    #[test]
    fn events_keep_everything_under_other_names() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "R",
            "involvedObject": {"kind": "Pod"}, "message": "m", "source": {"component": "c"}, "count": 2,
            "firstTimestamp": "2026-01-01T00:00:00Z", "lastTimestamp": "2026-01-01T00:00:01Z",
            "reportingComponent": "r", "reportingInstance": "i", "type": "Normal"});
        let new = there_and_back(core, "Event", "events.k8s.io/v1");
        assert_eq!((&new["note"], &new["regarding"]["kind"]), (&json!("m"), &json!("Pod")));
        assert_eq!(new["reportingController"], "r");
    }

    #[test]
    fn autoscalers_keep_their_metrics() {
        let memory = json!({"type": "Resource", "resource": {"name": "memory",
            "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": 50}}});
        let v2 = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "metrics": [cpu, memory]},
            "status": {"currentReplicas": 1, "desiredReplicas": 1}});
        let v1 = there_and_back(v2, "HorizontalPodAutoscaler", "autoscaling/v1");
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 50);
        assert!(meta::annotation(&v1, METRICS_ANNOTATION).unwrap().contains("memory"));
    }

    #[test]
    fn unrelated_versions_are_refused() {
        let pod = Registry::builtin().by_type("v1", "Pod").unwrap();
        assert!(to_version(&mut json!({"apiVersion": "apps/v1", "kind": "Deployment"}), pod).is_err());
        let mut untyped = json!({});
        to_version(&mut untyped, pod).unwrap();
        assert_eq!(untyped["kind"], "Pod");
    }
}
