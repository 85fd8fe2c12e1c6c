//! The small texts cells are made of.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::selector::LabelSelector;
use crate::{meta, time};

pub(super) const NONE: &str = "<none>";
pub(super) const UNSET: &str = "<unset>";
pub(super) const UNKNOWN: &str = "<unknown>";

/// Age of the object.
pub(super) fn age(object: &Value, now: Timestamp) -> Value {
    json!(time::age(meta::creation_timestamp(object), now))
}

pub(super) fn name(object: &Value) -> Value {
    json!(meta::name(object))
}

/// The text at a path, or what stands for an empty one.
pub(super) fn text_or<'a>(object: &'a Value, path: &[&str], empty: &'a str) -> &'a str {
    match meta::str_at(object, path) {
        "" => empty,
        s => s,
    }
}

pub(super) fn text(object: &Value, path: &[&str]) -> Value {
    json!(meta::str_at(object, path))
}

/// The number at a path, or 0.
pub(super) fn number(object: &Value, path: &[&str]) -> i64 {
    meta::i64_at(object, path).unwrap_or(0)
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn labels(map: Option<&Map<String, Value>>) -> String {
    match map {
        Some(m) if !m.is_empty() => {
            let pairs: Vec<String> = m.iter().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
            pairs.join(",")
        }
        _ => NONE.into(),
    }
}

/// A LabelSelector object as a selector string, or `<none>`.
pub(super) fn selector(object: &Value, path: &[&str]) -> String {
    match LabelSelector::from_object(meta::at(object, path).unwrap_or(&Value::Null)).map(|s| s.to_string()) {
        Ok(s) if !s.is_empty() => s,
        Ok(_) => NONE.into(),
        Err(_) => "<error>".into(),
    }
}

/// A boolean that may be unset.
pub(super) fn bool_or_unset(object: &Value, path: &[&str]) -> &'static str {
    match meta::at(object, path).and_then(Value::as_bool) {
        None => UNSET,
        Some(true) => "True",
        Some(false) => "False",
    }
}

/// One field of the items of a list, joined by commas.
pub(super) fn joined(object: &Value, list: &[&str], field: &str) -> String {
    let texts: Vec<&str> = meta::list_at(object, list).iter().map(|v| meta::str_at(v, &[field])).collect();
    texts.join(",")
}

/// A list of strings, joined by commas.
pub(super) fn strings(object: &Value, list: &[&str]) -> String {
    let texts: Vec<&str> = meta::list_at(object, list).iter().filter_map(Value::as_str).collect();
    texts.join(",")
}

/// Names and images of the containers of a Pod spec.
pub(super) fn containers(object: &Value, path: &[&str]) -> [Value; 2] {
    [json!(joined(object, path, "name")), json!(joined(object, path, "image"))]
}

/// At most `max` texts, and how many more there are: `a,b,c + 2 more...`.
pub(super) fn with_more(all: Vec<String>, max: usize) -> String {
    let shown = all[..all.len().min(max)].join(",");
    if all.len() > max { format!("{shown} + {} more...", all.len() - max) } else { shown }
}

/// The condition of a type in `status.conditions`.
pub(super) fn condition<'a>(object: &'a Value, ty: &str) -> Option<&'a Value> {
    meta::list_at(object, &["status", "conditions"]).iter().find(|c| c["type"] == ty)
}

pub(super) fn is_true(object: &Value, condition_type: &str) -> bool {
    condition(object, condition_type).is_some_and(|c| c["status"] == "True")
}

/// How many entries a list or map has.
pub(super) fn count(object: &Value, path: &[&str]) -> usize {
    match meta::at(object, path) {
        Some(Value::Array(a)) => a.len(),
        Some(Value::Object(o)) => o.len(),
        _ => 0,
    }
}
