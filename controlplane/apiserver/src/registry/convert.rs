//! Versions of one kind: events of core and events.k8s.io, autoscaling v1 and v2. Pure.

use serde_json::{Value, json};
use strake_machinery::{Kind, meta};

/// Field names of core/v1 Events and their names in events.k8s.io/v1.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The annotation in which autoscaling/v1 keeps metrics that it has no field for.
const METRICS_ANNOTATION: &str = "autoscaling.alpha.kubernetes.io/metrics";

/// An object of `from`, as `to` writes it. The same kinds: the object as it is.
pub fn convert(from: &Kind, to: &Kind, mut object: Value) -> Value {
    if from.group == to.group && from.version == to.version {
        return object;
    }
    match (from.kind.as_str(), from.group.as_str(), to.group.as_str()) {
        ("Event", "", _) => rename(&mut object, EVENT_FIELDS),
        ("Event", _, "") => rename(&mut object, EVENT_FIELDS.map(|(core, new)| (new, core))),
        ("HorizontalPodAutoscaler", ..) if from.version == "v1" => autoscaler_v1_to_v2(&mut object),
        ("HorizontalPodAutoscaler", ..) => autoscaler_v2_to_v1(&mut object),
        _ => {}
    }
    meta::set_type(&mut object, &to.api_version(), &to.kind);
    object
}

fn rename<'a>(object: &mut Value, names: impl IntoIterator<Item = (&'a str, &'a str)>) {
    if let Some(map) = object.as_object_mut() {
        for (old, new) in names {
            if let Some(value) = map.remove(old) {
                map.insert(new.to_owned(), value);
            }
        }
    }
}

/// The field selectors of events.k8s.io in core's terms.
pub fn event_field(field: &str) -> String {
    match field.strip_prefix("regarding.") {
        Some(rest) => format!("involvedObject.{rest}"),
        None if field == "reportingController" => "reportingComponent".to_owned(),
        None => field.to_owned(),
    }
}

fn is_cpu_utilisation(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["target"]["type"] == "Utilization"
}

fn autoscaler_v1_to_v2(object: &mut Value) {
    let mut metrics = Vec::new();
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut)
        && let Some(percent) = spec.remove("targetCPUUtilizationPercentage")
    {
        metrics.push(json!({
            "type": "Resource",
            "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}},
        }));
    }
    if let Some(annotations) = object["metadata"].get_mut("annotations").and_then(Value::as_object_mut)
        && let Some(kept) = annotations.remove(METRICS_ANNOTATION)
        && let Some(Value::Array(kept)) = kept.as_str().and_then(|text| serde_json::from_str(text).ok())
    {
        metrics.extend(kept);
    }
    if !metrics.is_empty() {
        meta::map_at_mut(object, &["spec"]).insert("metrics".into(), Value::Array(metrics));
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut)
        && let Some(percent) = status.remove("currentCPUUtilizationPercentage")
    {
        let current =
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}]);
        status.insert("currentMetrics".into(), current);
    }
}

fn autoscaler_v2_to_v1(object: &mut Value) {
    let metrics = object.get_mut("spec").and_then(Value::as_object_mut).and_then(|spec| spec.remove("metrics"));
    if let Some(Value::Array(mut metrics)) = metrics {
        if let Some(at) = metrics.iter().position(is_cpu_utilisation) {
            let percent = metrics.remove(at)["resource"]["target"]["averageUtilization"].take();
            meta::map_at_mut(object, &["spec"]).insert("targetCPUUtilizationPercentage".into(), percent);
        }
        if !metrics.is_empty() {
            meta::set_annotation(object, METRICS_ANNOTATION, &Value::Array(metrics).to_string());
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        let current = status.remove("currentMetrics");
        let percent = current.as_ref().and_then(Value::as_array).and_then(|list| {
            let cpu = list.iter().find(|metric| metric["resource"]["name"] == "cpu")?;
            Some(cpu["resource"]["current"]["averageUtilization"].clone())
        });
        if let Some(percent) = percent {
            status.insert("currentCPUUtilizationPercentage".into(), percent);
        }
        status.remove("conditions");
    }
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove("behavior");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strake_machinery::Registry;

    #[test]
    fn events_keep_their_content_under_both_names() {
        let registry = Registry::builtin();
        let core = registry.kind("", "v1", "Event").unwrap();
        let new = registry.kind("events.k8s.io", "v1", "Event").unwrap();
        let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
            "involvedObject": {"name": "p"}, "message": "m", "count": 2, "reportingComponent": "c"});
        let converted = convert(core, new, event.clone());
        assert_eq!(converted["regarding"]["name"], "p");
        assert_eq!(converted["note"], "m");
        assert_eq!(converted["apiVersion"], "events.k8s.io/v1");
        assert_eq!(convert(new, core, converted), event);
    }

    #[test]
    fn autoscalers_keep_their_cpu_target() {
        let registry = Registry::builtin();
        let v1 = registry.kind("autoscaling", "v1", "HorizontalPodAutoscaler").unwrap();
        let v2 = registry.kind("autoscaling", "v2", "HorizontalPodAutoscaler").unwrap();
        let old = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {},
            "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 80}});
        let new = convert(v1, v2, old.clone());
        assert_eq!(new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 80);
        assert_eq!(convert(v2, v1, new), old);
    }
}
