//! The scale subresource: an autoscaling/v1 Scale over two numbers and a selector of the object.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use strake_machinery::{
    ApiError, GroupKind,
    field::{FieldError, Path},
    meta,
    registry::ScalePaths,
    selector::LabelSelector,
};

use super::{
    decode::{self, Expected},
    handlers::Call,
    op::{Op, WriteOptions},
    patch::Patch,
    update::{self, OnRace},
};
use crate::http::{body::Body, respond};

const SCHEMA: &str = "io.k8s.api.autoscaling.v1.Scale";
const SCALE: Expected<'static> = Expected::Message(SCHEMA);

fn steps(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

/// The Scale of an object.
fn of(object: &Value, paths: &ScalePaths) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata[field] = value.clone();
        }
    }
    let selector = meta::at(object, &steps(&paths.selector)).map(|selector| {
        // ReplicationControllers have a plain map, the others a LabelSelector.
        let plain = selector.as_object().filter(|map| map.values().all(Value::is_string));
        match plain {
            Some(map) => LabelSelector::from_map(map).to_string(),
            None => LabelSelector::from_object(selector).map(|parsed| parsed.to_string()).unwrap_or_default(),
        }
    });
    let mut status = json!({"replicas": meta::i64_at(object, &steps(&paths.status)).unwrap_or(0)});
    if let Some(selector) = selector.filter(|text| !text.is_empty()) {
        status["selector"] = selector.into();
    }
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": meta::i64_at(object, &steps(&paths.spec)).unwrap_or(0)},
        "status": status,
    })
}

/// An object with what a Scale says.
fn scaled(op: &Op<'_>, object: &Value, scale: &Value, paths: &ScalePaths) -> Result<Value, ApiError> {
    let replicas = meta::i64_at(scale, &["spec", "replicas"]).unwrap_or(0);
    if replicas < 0 {
        let path = Path::new("spec").child("replicas");
        let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
        return Err(ApiError::invalid(GroupKind::new("autoscaling", "Scale"), op.name, vec![error]));
    }
    let mut new = object.clone();
    meta::set_at(&mut new, &steps(&paths.spec), replicas);
    let version = meta::resource_version(scale);
    if !version.is_empty() && version != meta::resource_version(object) {
        return Err(ApiError::modified(op.kind, op.name));
    }
    if !meta::uid(scale).is_empty() && meta::uid(scale) != meta::uid(object) {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            meta::uid(scale),
            meta::uid(object)
        );
        return Err(ApiError::conflict(op.kind, op.name, &why));
    }
    Ok(new)
}

/// Answers get, update and patch of a scale subresource.
///
/// # Errors
/// As for the object itself.
pub async fn handle(call: &Call<'_>, op: &Op<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let paths = op
        .kind
        .subresource("scale")
        .and_then(|subresource| subresource.scale.as_ref())
        .ok_or_else(ApiError::no_such_resource)?;
    let object = match call.info.verb {
        "get" => {
            let stored = op.api.storage.get(&op.key()).await?.ok_or_else(|| op.not_found())?;
            stored.value
        }
        "update" => {
            let op = &Op { options: WriteOptions::parse(call.query, "UpdateOptions")?, ..*op };
            let scale = decode::object(SCALE, call.headers, body, op.options.field_validation, call.warnings)?;
            if !meta::name(&scale).is_empty() && meta::name(&scale) != op.name {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({}) does not match the name on the URL ({})",
                    meta::name(&scale),
                    op.name
                )));
            }
            let updated =
                update::update(op, OnRace::Retry, |old| scaled(op, old.ok_or_else(|| op.not_found())?, &scale, paths));
            updated.await?.object
        }
        _ => {
            let op = &Op { options: WriteOptions::parse(call.query, "PatchOptions")?, ..*op };
            let patch = Patch::read(call.headers, body)?;
            let updated = update::update(op, OnRace::Retry, |old| {
                let old = old.ok_or_else(|| op.not_found())?;
                let scale = patch.apply(SCHEMA, &of(old, paths))?;
                let validation = op.options.field_validation;
                let scale = decode::check(SCALE, scale, patch.duplicates(), validation, call.warnings)?;
                scaled(op, old, &scale, paths)
            });
            updated.await?.object
        }
    };
    Ok(respond::object(StatusCode::OK, &of(&object, paths), call.format))
}
