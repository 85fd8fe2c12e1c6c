//! Reading and writing the parts every object has (`apiVersion`, `kind`, `metadata`) on plain JSON values.
//!
//! Absent and empty are the same to a reader, as in Go; a value of the wrong JSON type reads as absent.

use serde_json::{Map, Value};

/// The value at a path of field names, if every step is there.
pub fn at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(object, |v, key| v.get(key))
}

/// The string at a path, or empty.
pub fn str_at<'a>(object: &'a Value, path: &[&str]) -> &'a str {
    at(object, path).and_then(Value::as_str).unwrap_or_default()
}

/// The integer at a path.
pub fn i64_at(object: &Value, path: &[&str]) -> Option<i64> {
    at(object, path).and_then(Value::as_i64)
}

/// The boolean at a path, or false.
pub fn bool_at(object: &Value, path: &[&str]) -> bool {
    at(object, path).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at a path, or an empty one.
pub fn list_at<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    at(object, path).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// The object at a path.
pub fn map_at<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Map<String, Value>> {
    at(object, path).and_then(Value::as_object)
}

/// `value` as a JSON object, made into an empty one if it is anything else.
pub fn ensure_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

/// The object at a path, made (with every step to it) if absent.
pub fn map_at_mut<'a>(object: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut here = object;
    for key in path {
        here = ensure_map(here).entry(*key).or_insert_with(|| Value::Object(Map::new()));
    }
    ensure_map(here)
}

/// Put a value at a path, making the steps to it.
pub fn set_at(object: &mut Value, path: &[&str], value: impl Into<Value>) {
    if let Some((last, parents)) = path.split_last() {
        map_at_mut(object, parents).insert((*last).into(), value.into());
    }
}

/// Take the value at a path away; its parents stay.
pub fn remove_at(object: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let mut here = object;
    for key in parents {
        here = here.get_mut(*key)?;
    }
    here.as_object_mut()?.remove(*last)
}

pub fn api_version(object: &Value) -> &str {
    str_at(object, &["apiVersion"])
}

pub fn kind(object: &Value) -> &str {
    str_at(object, &["kind"])
}

/// `metadata`, if it is there.
pub fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    map_at(object, &["metadata"])
}

/// `metadata`, made if absent.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    map_at_mut(object, &["metadata"])
}

pub fn name(object: &Value) -> &str {
    str_at(object, &["metadata", "name"])
}

pub fn namespace(object: &Value) -> &str {
    str_at(object, &["metadata", "namespace"])
}

pub fn generate_name(object: &Value) -> &str {
    str_at(object, &["metadata", "generateName"])
}

pub fn uid(object: &Value) -> &str {
    str_at(object, &["metadata", "uid"])
}

/// The opaque version string; empty if unset.
pub fn resource_version(object: &Value) -> &str {
    str_at(object, &["metadata", "resourceVersion"])
}

pub fn generation(object: &Value) -> i64 {
    i64_at(object, &["metadata", "generation"]).unwrap_or(0)
}

/// RFC 3339, or empty.
pub fn creation_timestamp(object: &Value) -> &str {
    str_at(object, &["metadata", "creationTimestamp"])
}

/// RFC 3339 if the object is being deleted.
pub fn deletion_timestamp(object: &Value) -> Option<&str> {
    Some(str_at(object, &["metadata", "deletionTimestamp"])).filter(|s| !s.is_empty())
}

pub fn is_being_deleted(object: &Value) -> bool {
    deletion_timestamp(object).is_some()
}

pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    i64_at(object, &["metadata", "deletionGracePeriodSeconds"])
}

pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    map_at(object, &["metadata", "labels"])
}

pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    map_at(object, &["metadata", "annotations"])
}

/// The value of one label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

/// The value of one annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

/// The names in `metadata.finalizers`.
pub fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    list_at(object, &["metadata", "finalizers"]).iter().filter_map(Value::as_str)
}

pub fn has_finalizer(object: &Value, name: &str) -> bool {
    finalizers(object).any(|f| f == name)
}

/// Put the finalizers; none removes the field.
pub fn set_finalizers(object: &mut Value, names: Vec<String>) {
    let meta = metadata_mut(object);
    if names.is_empty() {
        meta.remove("finalizers");
    } else {
        meta.insert("finalizers".into(), names.into_iter().map(Value::String).collect());
    }
}

pub fn owner_references(object: &Value) -> &[Value] {
    list_at(object, &["metadata", "ownerReferences"])
}

/// The owner reference with `controller: true`.
pub fn controller_of(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|r| bool_at(r, &["controller"]))
}

pub fn set_name(object: &mut Value, name: &str) {
    metadata_mut(object).insert("name".into(), name.into());
}

pub fn set_namespace(object: &mut Value, namespace: &str) {
    metadata_mut(object).insert("namespace".into(), namespace.into());
}

pub fn set_uid(object: &mut Value, uid: &str) {
    metadata_mut(object).insert("uid".into(), uid.into());
}

pub fn set_resource_version(object: &mut Value, version: &str) {
    metadata_mut(object).insert("resourceVersion".into(), version.into());
}

pub fn clear_resource_version(object: &mut Value) {
    remove_at(object, &["metadata", "resourceVersion"]);
}

pub fn set_generation(object: &mut Value, generation: i64) {
    metadata_mut(object).insert("generation".into(), generation.into());
}

pub fn set_label(object: &mut Value, key: &str, value: &str) {
    map_at_mut(object, &["metadata", "labels"]).insert(key.into(), value.into());
}

pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    map_at_mut(object, &["metadata", "annotations"]).insert(key.into(), value.into());
}

/// Put `apiVersion` and `kind`.
pub fn set_type(object: &mut Value, api_version: &str, kind: &str) {
    let map = ensure_map(object);
    map.insert("apiVersion".into(), api_version.into());
    map.insert("kind".into(), kind.into());
}

/// Whether a value is what Go's `omitempty` would leave out: null, false, 0, "", [] or {}.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_absent_reads_as_empty() {
        let o = json!({"metadata": {"name": 3}});
        assert_eq!(name(&o), "");
        assert_eq!(namespace(&json!(null)), "");
        assert!(!is_being_deleted(&json!({"metadata": {"deletionTimestamp": null}})));
        assert_eq!(owner_references(&o), &[] as &[Value]);
    }

    #[test]
    fn writing_makes_the_way_to_a_field() {
        let mut o = json!({});
        set_label(&mut o, "a", "b");
        set_at(&mut o, &["spec", "replicas"], 3);
        assert_eq!(o, json!({"metadata": {"labels": {"a": "b"}}, "spec": {"replicas": 3}}));
        assert_eq!(remove_at(&mut o, &["spec", "replicas"]), Some(json!(3)));
        assert_eq!(remove_at(&mut o, &["spec", "nope", "nope"]), None);
        set_finalizers(&mut o, vec!["f".into()]);
        assert!(has_finalizer(&o, "f"));
        set_finalizers(&mut o, Vec::new());
        assert_eq!(o["metadata"].get("finalizers"), None);
    }
}
