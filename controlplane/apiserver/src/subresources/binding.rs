//! pods/binding (and the older bindings resource): a scheduler says on which Node a Pod runs.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use strake_machinery::{
    ApiError, GroupKind, GroupResource,
    field::{FieldError, Path},
    meta, status,
};

use crate::{
    http::{body::Body, respond},
    registry::{
        Op,
        decode::{self, Expected},
        handlers::Call,
        op::now,
        update::{self, OnRace},
    },
};

const SCHEMA: &str = "io.k8s.api.core.v1.Binding";
const BINDINGS: GroupResource<'static> = GroupResource::new("", "pods/binding");

/// Answers POST pods/NAME/binding.
///
/// # Errors
/// 409 for a Pod that is bound already or going, 422 for a binding that names no Node.
pub async fn create(call: &Call<'_>, op: &Op<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let validation = op.options.field_validation;
    let binding = decode::object(Expected::Message(SCHEMA), call.headers, body, validation, call.warnings)?;
    if !meta::name(&binding).is_empty() && meta::name(&binding) != op.name {
        return Err(ApiError::bad_request("name in URL does not match name in Binding object"));
    }
    bind(op, &binding).await?;
    Ok(respond::object(StatusCode::CREATED, &status::success(None), call.format))
}

/// Binds the Pod of an operation on pods.
///
/// # Errors
/// As [`create`].
pub async fn bind(op: &Op<'_>, binding: &Value) -> Result<(), ApiError> {
    let (kind, node) = (meta::str_at(binding, &["target", "kind"]), meta::str_at(binding, &["target", "name"]));
    let mut errors = Vec::new();
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported(&Path::new("target").child("kind"), kind, &["Node", "<empty>"]));
    }
    if node.is_empty() {
        errors.push(FieldError::required(&Path::new("target").child("name"), ""));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(GroupKind::new("", "Binding"), op.name, errors));
    }
    update::update(&op.subresource("binding"), OnRace::Retry, |old| {
        let old = old.ok_or_else(|| op.not_found())?;
        let uid = meta::uid(binding);
        if !uid.is_empty() && uid != meta::uid(old) {
            let why =
                format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {}", meta::uid(old));
            return Err(ApiError::conflict(op.kind, op.name, &why));
        }
        let bound = meta::str_at(old, &["spec", "nodeName"]);
        let refusal = if meta::is_being_deleted(old) {
            format!("pod {} is being deleted, cannot be assigned to a host", op.name)
        } else if !bound.is_empty() {
            format!("pod {} is already assigned to node {bound:?}", op.name)
        } else if !meta::list_at(old, &["spec", "schedulingGates"]).is_empty() {
            format!("pod {} has non-empty .spec.schedulingGates", op.name)
        } else {
            let mut pod = old.clone();
            assign(&mut pod, binding, node);
            return Ok(pod);
        };
        Err(ApiError::conflict(BINDINGS, op.name, &refusal))
    })
    .await?;
    Ok(())
}

fn assign(pod: &mut Value, binding: &Value, node: &str) {
    meta::set_at(pod, &["spec", "nodeName"], node);
    for field in ["labels", "annotations"] {
        if let Some(more) = meta::map_at(binding, &["metadata", field]) {
            let own = meta::map_at_mut(pod, &["metadata", field]);
            for (key, value) in more {
                own.insert(key.clone(), value.clone());
            }
        }
    }
    let scheduled =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now()});
    let conditions = meta::map_at_mut(pod, &["status"]).entry("conditions").or_insert_with(|| json!([]));
    if let Some(list) = conditions.as_array_mut() {
        match list.iter_mut().find(|one| one["type"] == "PodScheduled") {
            Some(known) => *known = scheduled,
            None => list.push(scheduled),
        }
    }
}
