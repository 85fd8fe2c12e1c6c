//! Resources that are computed a request and never stored: reviews, bindings, componentstatuses.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use strake_machinery::{
    ApiError,
    field::{FieldError, Path},
    meta, status,
};

use crate::{
    http::{body::Body, respond},
    registry::{
        Op, WriteOptions,
        decode::{self, Expected},
        handlers::Call,
        op::now,
    },
    subresources,
};

/// Answers a request about such a resource.
///
/// # Errors
/// 400 and 422 for what was sent, 405 for verbs that the resource has not.
pub async fn handle(call: &Call<'_>, op: &Op<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    if op.kind.plural == "componentstatuses" {
        return component_statuses(call, op);
    }
    let op = &Op { options: WriteOptions::parse(call.query, "CreateOptions")?, ..*op };
    let validation = op.options.field_validation;
    let mut object = decode::object(Expected::Kind(op.kind), call.headers, body, validation, call.warnings)?;
    if op.kind.plural == "bindings" {
        return bindings(call, op, &object).await;
    }
    if op.kind.namespaced {
        match meta::namespace(&object) {
            "" => meta::set_namespace(&mut object, op.namespace),
            namespace if namespace == op.namespace => {}
            _ => {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
    }
    let errors = check(op, &object);
    if !errors.is_empty() {
        return Err(ApiError::invalid(op.kind, "", errors));
    }
    let authorizer = &op.api.auth.authorizer;
    let spec = &object["spec"];
    let status = match op.kind.plural.as_str() {
        "tokenreviews" => op.api.auth.authenticator.token_review(spec),
        "subjectaccessreviews" | "localsubjectaccessreviews" => authorizer.subject_access_review(spec),
        "selfsubjectaccessreviews" => authorizer.self_subject_access_review(op.user, spec),
        "selfsubjectrulesreviews" => authorizer.self_subject_rules_review(op.user, meta::str_at(spec, &["namespace"])),
        "selfsubjectreviews" => {
            meta::metadata_mut(&mut object).insert("creationTimestamp".into(), now().into());
            json!({"userInfo": op.user.to_json()})
        }
        _ => return Err(ApiError::method_not_allowed()),
    };
    object["status"] = status;
    Ok(respond::object(StatusCode::CREATED, &object, call.format))
}

/// Upstream's validation of access reviews.
fn check(op: &Op<'_>, object: &Value) -> Vec<FieldError> {
    let spec = &object["spec"];
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let plural = op.kind.plural.as_str();
    let about_others = matches!(plural, "subjectaccessreviews" | "localsubjectaccessreviews");
    if about_others || plural == "selfsubjectaccessreviews" {
        let non_resource = spec["nonResourceAttributes"].clone();
        match (spec["resourceAttributes"].is_object(), non_resource.is_object()) {
            (true, true) => {
                let why = "cannot be specified in combination with resourceAttributes";
                errors.push(FieldError::invalid(&path.child("nonResourceAttributes"), non_resource, why));
            }
            (false, false) => {
                let why = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
                errors.push(FieldError::invalid(&path.child("resourceAttributes"), non_resource, why));
            }
            _ => {}
        }
    }
    if about_others && meta::str_at(spec, &["user"]).is_empty() && meta::list_at(spec, &["groups"]).is_empty() {
        errors.push(FieldError::invalid(&path.child("user"), "", "at least one of user or group must be specified"));
    }
    let namespace = meta::str_at(spec, &["resourceAttributes", "namespace"]);
    if plural == "localsubjectaccessreviews" && namespace != op.namespace {
        let path = path.child("resourceAttributes").child("namespace");
        errors.push(FieldError::invalid(&path, namespace, "must match metadata.namespace"));
    }
    errors
}

async fn bindings(call: &Call<'_>, op: &Op<'_>, binding: &Value) -> Result<Response<Body>, ApiError> {
    let pods = op.api.kinds.resource("", "v1", "pods").ok_or_else(ApiError::no_such_resource)?;
    let name = meta::name(binding).to_owned();
    let on_pod = Op { kind: pods, stored: pods, name: &name, subresource: "binding", ..*op };
    subresources::bind(&on_pod, binding).await?;
    Ok(respond::object(StatusCode::CREATED, &status::success(None), call.format))
}

fn component_statuses(call: &Call<'_>, op: &Op<'_>) -> Result<Response<Body>, ApiError> {
    let healthy = op.api.cacher.is_synced();
    let component = json!({
        "kind": "ComponentStatus",
        "apiVersion": "v1",
        "metadata": {"name": "etcd-0"},
        "conditions": [{"type": "Healthy", "status": if healthy { "True" } else { "False" }, "message": "ok"}],
    });
    call.warnings.add("v1 ComponentStatus is deprecated in v1.19+");
    if call.info.verb == "get" {
        if op.name != "etcd-0" {
            return Err(op.not_found());
        }
        return Ok(respond::object(StatusCode::OK, &component, call.format));
    }
    let list = json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": [component]});
    Ok(respond::object(StatusCode::OK, &list, call.format))
}
