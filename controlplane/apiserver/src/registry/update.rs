//! Changing objects: read, transform, check, compare and swap; again when somebody else was faster.

use serde_json::Value;
use strake_machinery::{
    ApiError, Kind, apply,
    field::{FieldError, Path},
    meta,
};

use super::{
    create,
    op::{Op, may_vanish},
    storage::{Stored, Written},
};
use crate::{admission, allocate};

/// How often a write without a resourceVersion of the client's is tried again.
const ATTEMPTS: usize = 100;

/// What an update did.
#[derive(Debug)]
pub struct Updated {
    /// The object as it is stored now (or was last, if it is gone).
    pub object: Value,
    /// Whether it was created by the update.
    pub created: bool,
}

/// What to do when somebody else's write came between reading and writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRace {
    /// Transform the newer object: for transformations that start from what they are given.
    Retry,
    /// 409, if the outcome named the version it was made from: for whole objects sent by clients.
    Report,
}

/// Kinds that PUT may create (upstream's AllowCreateOnUpdate).
fn may_create(kind: &Kind) -> bool {
    matches!(
        (kind.group.as_str(), kind.plural.as_str()),
        ("", "endpoints" | "events" | "limitranges" | "podtemplates" | "services")
            | ("coordination.k8s.io", "leases")
            | ("rbac.authorization.k8s.io", _)
    )
}

/// Kinds whose PUT must carry a resourceVersion (upstream's AllowUnconditionalUpdate is false).
fn needs_revision(kind: &Kind) -> bool {
    matches!(
        (kind.group.as_str(), kind.plural.as_str()),
        ("coordination.k8s.io" | "apiextensions.k8s.io" | "apiregistration.k8s.io", _)
            | ("admissionregistration.k8s.io" | "discovery.k8s.io", _)
            | ("policy", "poddisruptionbudgets")
            | ("flowcontrol.apiserver.k8s.io", _)
    )
}

/// Applies `transform` to the current object and stores the outcome. Everything is in the storage version.
///
/// An outcome with a resourceVersion is written only if that is the current one; without one, or with
/// [`OnRace::Retry`], the newest object is transformed again until it works.
///
/// # Errors
/// 404, 409, and what `transform`, admission, validation, allocation and the store say.
pub async fn update<F>(op: &Op<'_>, race: OnRace, mut transform: F) -> Result<Updated, ApiError>
where
    F: FnMut(Option<&Value>) -> Result<Value, ApiError>,
{
    let key = op.key();
    let mut current = op.api.storage.get(&key).await?;
    for _ in 0..ATTEMPTS {
        let Some(stored) = current.take() else {
            if !(may_create(op.stored) || op.options.applied) || !op.subresource.is_empty() {
                return Err(op.not_found());
            }
            let mut object = transform(None)?;
            if !meta::uid(&object).is_empty() {
                let why =
                    format!("Precondition failed: UID in precondition: {}, UID in object meta: ", meta::uid(&object));
                return Err(ApiError::conflict(op.kind, op.name, &why));
            }
            meta::clear_resource_version(&mut object);
            let object = create::create(op, object).await?;
            return Ok(Updated { object, created: true });
        };
        match attempt(op, &key, &stored, race, &mut transform).await? {
            Ok(updated) => return Ok(updated),
            Err(newer) => current = newer,
        }
    }
    Err(ApiError::modified(op.kind, op.name))
}

/// One round. `Err` holds the object that was there instead.
async fn attempt<F>(
    op: &Op<'_>,
    key: &str,
    stored: &Stored,
    race: OnRace,
    transform: &mut F,
) -> Result<Result<Updated, Option<Stored>>, ApiError>
where
    F: FnMut(Option<&Value>) -> Result<Value, ApiError>,
{
    let kind = op.stored;
    let old = &stored.value;
    let mut new = transform(Some(old))?;
    let wanted = meta::resource_version(&new).to_owned();
    let conditional = !wanted.is_empty() && wanted != "0";
    if !meta::uid(&new).is_empty() && meta::uid(&new) != meta::uid(old) {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {}",
            meta::uid(&new),
            meta::uid(old)
        );
        return Err(ApiError::conflict(op.kind, op.name, &why));
    }
    if conditional {
        if wanted.parse::<u64>().is_err() {
            let error = FieldError::invalid(
                &Path::new("metadata").child("resourceVersion"),
                wanted.clone(),
                "must be a non-negative integer",
            );
            return Err(ApiError::invalid(op.kind, op.name, vec![error]));
        }
        if wanted != stored.revision.to_string() {
            return Err(ApiError::modified(op.kind, op.name));
        }
    } else if needs_revision(kind) {
        let path = Path::new("metadata").child("resourceVersion");
        let error = FieldError::invalid(&path, 0, "must be specified for an update");
        return Err(ApiError::invalid(op.kind, op.name, vec![error]));
    }
    keep_system_fields(op, &mut new, old)?;
    strake_strategy::default(kind, &mut new);
    admission::mutate(op, admission::Operation::Update, &mut new, Some(old)).await?;
    let mut errors = Vec::new();
    let mut reservation = allocate::Reservation::none();
    // A binding is what lets a Pod's node be set at all; it has been checked as such.
    if op.subresource != "binding" {
        strake_strategy::prepare_update(kind, &mut new, old, op.subresource);
        strake_strategy::default(kind, &mut new);
        reservation = allocate::for_update(op, &mut new, old)?;
        errors = metadata_errors(&new, old);
        errors.extend(strake_strategy::validate_update(kind, &new, old, op.subresource));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(op.kind, op.name, errors));
    }
    admission::validate(op, admission::Operation::Update, Some(&new), Some(old)).await?;
    meta::set_resource_version(&mut new, meta::resource_version(old));
    if strake_strategy::is_no_op(&new, old) && !may_vanish(kind, &new) {
        reservation.keep();
        return Ok(Ok(Updated { object: old.clone(), created: false }));
    }
    if !op.options.applied {
        apply::track(kind, Some(old), &mut new, &op.field_manager());
    }
    if op.options.dry_run {
        return Ok(Ok(Updated { object: new, created: false }));
    }
    let written = if may_vanish(kind, &new) {
        op.api.storage.delete(key, stored.revision).await?
    } else {
        op.api.storage.update(key, &new, stored.revision, op.ttl()).await?
    };
    match written {
        Written::At(revision) => {
            reservation.keep();
            if may_vanish(kind, &new) {
                allocate::release(op.api, kind, &new);
            }
            meta::set_resource_version(&mut new, &revision.to_string());
            Ok(Ok(Updated { object: new, created: false }))
        }
        Written::Conflict(_) if conditional && race == OnRace::Report => Err(ApiError::modified(op.kind, op.name)),
        Written::Conflict(newer) => Ok(Err(newer)),
    }
}

/// Fields that an update may leave out but not change, and those it has no say in.
fn keep_system_fields(op: &Op<'_>, new: &mut Value, old: &Value) -> Result<(), ApiError> {
    if meta::name(new).is_empty() {
        meta::set_name(new, op.name);
    }
    if meta::name(new) != op.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({}) does not match the name on the URL ({})",
            meta::name(new),
            op.name
        )));
    }
    if op.kind.namespaced {
        match meta::namespace(new) {
            "" => meta::set_namespace(new, op.namespace),
            namespace if namespace == op.namespace => {}
            _ => {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
        }
    }
    let metadata = meta::metadata_mut(new);
    metadata.remove("selfLink");
    if !op.options.applied {
        // Kept by the server, whatever the client sent back.
        match old["metadata"].get("managedFields") {
            Some(fields) => metadata.insert("managedFields".into(), fields.clone()),
            None => metadata.remove("managedFields"),
        };
    }
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let absent = metadata.get(field).is_none_or(meta::is_empty);
        match old["metadata"].get(field) {
            Some(value) if absent => {
                metadata.insert(field.to_owned(), value.clone());
            }
            None if absent => {
                metadata.remove(field);
            }
            _ => {}
        }
    }
    match old["metadata"].get("generation") {
        Some(generation) => metadata.insert("generation".into(), generation.clone()),
        None => metadata.remove("generation"),
    };
    Ok(())
}

/// Upstream's ValidateObjectMetaUpdate, as far as it is not about names and labels.
fn metadata_errors(new: &Value, old: &Value) -> Vec<FieldError> {
    let path = Path::new("metadata");
    let mut errors = Vec::new();
    if meta::is_being_deleted(old) {
        let added: Vec<&str> = meta::finalizers(new).filter(|name| !meta::has_finalizer(old, name)).collect();
        if !added.is_empty() {
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                added.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
            );
            errors.push(FieldError::forbidden(&path.child("finalizers"), why));
        }
    }
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        let (now, before) = (new["metadata"].get(field), old["metadata"].get(field));
        if now != before {
            let shown = now.cloned().unwrap_or(Value::Null);
            errors.push(FieldError::invalid(&path.child(field), shown, "field is immutable"));
        }
    }
    errors
}
