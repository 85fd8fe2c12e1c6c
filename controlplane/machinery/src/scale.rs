//! The scale subresource: a `autoscaling/v1 Scale` made from an object, and put back into it.

use serde_json::{Map, Value, json};

use crate::registry::{Kind, ScalePaths};
use crate::selector::LabelSelector;
use crate::{ApiError, meta};

/// The schema name of Scale.
pub const SCHEMA: &str = "io.k8s.api.autoscaling.v1.Scale";

fn paths(kind: &Kind) -> Option<&ScalePaths> {
    kind.subresource("scale")?.scale.as_ref()
}

fn steps(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

/// The Scale of an object; none if its kind has no such subresource.
pub fn from_object(kind: &Kind, object: &Value) -> Option<Value> {
    let paths = paths(kind)?;
    let mut metadata = Map::new();
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(v) = meta::at(object, &["metadata", key]) {
            metadata.insert(key.into(), v.clone());
        }
    }
    let mut spec = Map::new();
    let mut status = Map::new();
    // Go leaves zero out of the spec, and always writes the status.
    if let Some(n) = meta::i64_at(object, &steps(&paths.spec)).filter(|n| *n != 0) {
        spec.insert("replicas".into(), json!(n));
    }
    status.insert("replicas".into(), json!(meta::i64_at(object, &steps(&paths.status)).unwrap_or(0)));
    let selector = match meta::at(object, &steps(&paths.selector)) {
        // A plain map (ReplicationController) or a string (custom resources).
        Some(Value::Object(map)) if !map.contains_key("matchLabels") && !map.contains_key("matchExpressions") => {
            LabelSelector::from_map(map).to_string()
        }
        Some(Value::String(s)) => s.clone(),
        Some(other) => LabelSelector::from_object(other).map(|s| s.to_string()).unwrap_or_default(),
        None => String::new(),
    };
    if !selector.is_empty() {
        status.insert("selector".into(), json!(selector));
    }
    Some(json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status,
    }))
}

/// Put the replicas of a Scale into its object. The Scale's resourceVersion, if any, goes along for the comparison.
pub fn apply(kind: &Kind, object: &mut Value, scale: &Value) -> Result<(), ApiError> {
    let paths = paths(kind).ok_or_else(|| ApiError::not_found(kind, meta::name(object)))?;
    let replicas = meta::i64_at(scale, &["spec", "replicas"]).unwrap_or(0);
    meta::set_at(object, &steps(&paths.spec), replicas);
    let version = meta::resource_version(scale);
    if !version.is_empty() {
        meta::set_resource_version(object, version);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    #[test]
    fn replicas_and_selector_are_read_and_written() {
        let kind = Registry::builtin().by_type("apps/v1", "Deployment").unwrap();
        let mut object = json!({"metadata": {"name": "d", "namespace": "n", "resourceVersion": "7", "labels": {"a": "b"}},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "d"}}}, "status": {"replicas": 2}});
        let scale = from_object(kind, &object).unwrap();
        assert_eq!(
            scale,
            json!({"kind": "Scale", "apiVersion": "autoscaling/v1",
                "metadata": {"name": "d", "namespace": "n", "resourceVersion": "7"},
                "spec": {"replicas": 3}, "status": {"replicas": 2, "selector": "app=d"}})
        );
        apply(kind, &mut object, &json!({"spec": {"replicas": 5}})).unwrap();
        assert_eq!(object["spec"]["replicas"], 5);
        let rc = Registry::builtin().by_type("v1", "ReplicationController").unwrap();
        assert_eq!(from_object(rc, &json!({"spec": {"selector": {"a": "b"}}})).unwrap()["status"]["selector"], "a=b");
        assert_eq!(from_object(Registry::builtin().by_type("v1", "Pod").unwrap(), &object), None);
    }
}
