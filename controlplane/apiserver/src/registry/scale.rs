//! The scale subresource: an autoscaling/v1 Scale over two numbers and a selector of the object.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;
use strake_machinery::{ApiError, GroupKind, meta, scale};

use super::{
    decode::{self, Expected},
    handlers::Call,
    op::{Op, WriteOptions},
    patch::Patch,
    update::{self, OnRace},
};
use crate::http::{body::Body, respond};

const SCALE: Expected<'static> = Expected::Message(scale::SCHEMA);

fn of(op: &Op<'_>, object: &Value) -> Result<Value, ApiError> {
    scale::from_object(op.kind, object).ok_or_else(ApiError::no_such_resource)
}

/// An object with what a Scale says.
fn scaled(op: &Op<'_>, object: &Value, wanted: &Value) -> Result<Value, ApiError> {
    let errors = strake_strategy::scale::validate(wanted);
    if !errors.is_empty() {
        return Err(ApiError::invalid(GroupKind::new("autoscaling", "Scale"), op.name, errors));
    }
    if !meta::uid(wanted).is_empty() && meta::uid(wanted) != meta::uid(object) {
        let (asked, there) = (meta::uid(wanted), meta::uid(object));
        let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {there}");
        return Err(ApiError::conflict(op.kind, op.name, &why));
    }
    let mut new = object.clone();
    scale::apply(op.kind, &mut new, wanted)?;
    Ok(new)
}

/// Answers get, update and patch of a scale subresource.
///
/// # Errors
/// As for the object itself.
pub async fn handle(call: &Call<'_>, op: &Op<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    // Scaling writes the object proper.
    let whole = op.subresource("");
    let object = match call.info.verb {
        "get" => op.api.storage.get(&op.key()).await?.ok_or_else(|| op.not_found())?.value,
        "update" => {
            let op = &Op { options: WriteOptions::parse(call.query, "UpdateOptions")?, ..whole };
            let scale = decode::object(SCALE, call.headers, body, op.options.field_validation, call.warnings)?;
            if !meta::name(&scale).is_empty() && meta::name(&scale) != op.name {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({}) does not match the name on the URL ({})",
                    meta::name(&scale),
                    op.name
                )));
            }
            let updated = update::update(op, OnRace::Report, |old| {
                let mut new = scaled(op, old.ok_or_else(|| op.not_found())?, &scale)?;
                if meta::resource_version(&scale).is_empty() {
                    meta::clear_resource_version(&mut new);
                }
                Ok(new)
            });
            updated.await?.object
        }
        _ => {
            let op = &Op { options: WriteOptions::parse(call.query, "PatchOptions")?, ..whole };
            let patch = Patch::read(call.headers, body)?;
            let updated = update::update(op, OnRace::Retry, |old| {
                let old = old.ok_or_else(|| op.not_found())?;
                let patched = patch.apply(scale::SCHEMA, &of(op, old)?)?;
                let validation = op.options.field_validation;
                let scale = decode::check(SCALE, patched, patch.duplicates(), validation, call.warnings)?;
                scaled(op, old, &scale)
            });
            updated.await?.object
        }
    };
    Ok(respond::object(StatusCode::OK, &of(op, &object)?, call.format))
}
