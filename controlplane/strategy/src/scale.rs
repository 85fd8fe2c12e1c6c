//! The `scale` subresource: reading it from an object and writing it back.

use serde_json::{Value, json};
use strake_machinery::field::Path;
use strake_machinery::registry::ScalePaths;
use strake_machinery::{Kind, meta as access};

use crate::FieldError;
use crate::errs::{Errs, invalid, non_negative, required};
use crate::format;
use crate::selector;
use crate::walk::{Walk, as_int};

fn paths(kind: &Kind) -> Option<&ScalePaths> {
    kind.subresource("scale").and_then(|s| s.scale.as_ref())
}

fn at<'v>(obj: &'v Value, path: &[String]) -> &'v Value {
    path.iter().fold(obj, |v, k| v.at(k))
}

/// The `autoscaling/v1` Scale of an object; `None` if its kind has none.
pub fn read(kind: &Kind, obj: &Value) -> Option<Value> {
    let p = paths(kind)?;
    let m = obj.at("metadata");
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        crate::walk::put(&mut metadata, field, m.at(field).clone());
    }
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {},
        "status": { "replicas": as_int(at(obj, &p.status)).unwrap_or(0) },
    });
    let replicas = as_int(at(obj, &p.spec)).unwrap_or(0);
    if replicas != 0 {
        scale["spec"]["replicas"] = replicas.into();
    }
    let text = match at(obj, &p.selector) {
        Value::String(s) => s.clone(),
        Value::Object(map) if kind.is("", "ReplicationController") => selector::query(&json!({ "matchLabels": map })),
        s @ Value::Object(_) => selector::query(s),
        _ => String::new(),
    };
    if !text.is_empty() {
        scale["status"]["selector"] = text.into();
    }
    Some(scale)
}

/// Checks a Scale that a client sent.
pub fn validate(scale: &Value) -> Vec<FieldError> {
    let mut e = Errs::new();
    let name = scale.at("metadata").text("name");
    let p = Path::new("metadata").child("name");
    if name.is_empty() {
        e.push(required(&p, "name or generateName is required"));
    } else {
        e.extend(format::dns_subdomain(name).into_iter().map(|m| invalid(&p, name, m)));
    }
    non_negative(&mut e, &Path::new("spec").child("replicas"), scale.at("spec").num("replicas"));
    e
}

/// Writes the Scale's replicas (and resourceVersion, if it has one) into an object. The caller then updates the object
/// proper. False if the kind has no scale.
pub fn write(kind: &Kind, obj: &mut Value, scale: &Value) -> bool {
    let Some(p) = paths(kind) else { return false };
    let path: Vec<&str> = p.spec.iter().map(String::as_str).collect();
    access::set_at(obj, &path, scale.at("spec").num("replicas"));
    let version = scale.at("metadata").text("resourceVersion");
    if !version.is_empty() {
        access::set_resource_version(obj, version);
    }
    true
}
