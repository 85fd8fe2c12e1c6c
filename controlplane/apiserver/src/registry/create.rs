//! Creating objects.

use serde_json::Value;
use strake_machinery::{ApiError, apply, meta, names};

use super::{
    op::{Op, now},
    storage::Written,
};
use crate::{admission, allocate};

/// How many names are tried for `generateName` (upstream: 8).
const NAME_ATTEMPTS: usize = 8;

/// Creates an object given in the storage version, and answers it as stored.
///
/// # Errors
/// What admission, validation, allocation and the store say; 409 when the name is taken.
pub async fn create(op: &Op<'_>, mut object: Value) -> Result<Value, ApiError> {
    let kind = op.stored;
    if !meta::resource_version(&object).is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    place(op, &mut object)?;
    strake_strategy::default(kind, &mut object);
    admission::mutate(op, admission::Operation::Create, &mut object, None).await?;

    let generated = meta::name(&object).is_empty() && !meta::generate_name(&object).is_empty();
    for attempt in 1.. {
        let mut candidate = object.clone();
        if generated {
            let name = names::generate(meta::generate_name(&object), rand::random::<u32>);
            meta::set_name(&mut candidate, &name);
        }
        fill(op, &mut candidate);
        strake_strategy::prepare_create(kind, &mut candidate);
        strake_strategy::default(kind, &mut candidate);
        let name = meta::name(&candidate).to_owned();
        let named = op.on(op.namespace, &name);
        let reservation = allocate::for_create(&named, &mut candidate)?;
        if !op.options.applied {
            apply::track(kind, None, &mut candidate, &op.field_manager());
        }
        let errors = strake_strategy::validate_create(kind, &candidate);
        if !errors.is_empty() {
            return Err(ApiError::invalid(op.kind, &name, errors));
        }
        admission::validate(&named, admission::Operation::Create, Some(&candidate), None).await?;
        let key = named.key();
        if op.options.dry_run {
            if let Some(existing) = op.api.storage.get(&key).await? {
                return Err(taken(&named, Some(&existing.value)));
            }
            return Ok(candidate);
        }
        match op.api.storage.create(&key, &candidate, op.ttl()).await? {
            Written::At(revision) => {
                reservation.keep();
                meta::set_resource_version(&mut candidate, &revision.to_string());
                return Ok(candidate);
            }
            Written::Conflict(_) if generated && attempt < NAME_ATTEMPTS => {}
            Written::Conflict(_) if generated => return Err(ApiError::generate_name_conflict(op.kind, &name)),
            Written::Conflict(existing) => {
                return Err(taken(&named, existing.as_ref().map(|stored| &stored.value)));
            }
        }
    }
    unreachable!("the loop returns")
}

fn taken(op: &Op<'_>, existing: Option<&Value>) -> ApiError {
    let mut error = ApiError::already_exists(op.kind, op.name);
    if existing.is_some_and(meta::is_being_deleted) {
        error.message = format!("object is being deleted: {}", error.message);
    }
    error
}

/// Checks and fills in the namespace.
fn place(op: &Op<'_>, object: &mut Value) -> Result<(), ApiError> {
    if !op.kind.namespaced {
        meta::metadata_mut(object).remove("namespace");
        return Ok(());
    }
    match meta::namespace(object) {
        "" => meta::set_namespace(object, op.namespace),
        namespace if namespace == op.namespace => {}
        _ => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// What the server alone decides about a new object.
fn fill(op: &Op<'_>, object: &mut Value) {
    let metadata = meta::metadata_mut(object);
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion"] {
        metadata.remove(field);
    }
    if !op.options.applied {
        metadata.remove("managedFields");
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), now().into());
}
