//! Deleting objects: preconditions, grace periods, finalizers and what is left to the garbage collector.

use serde_json::{Value, json};
use strake_machinery::{ApiError, GroupResource, Kind, meta, time};

use super::{
    op::{Op, may_vanish, now},
    storage::Written,
};
use crate::{admission, allocate};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// metav1.DeletionPropagation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Dependents stay.
    Orphan,
    /// Dependents go afterwards.
    Background,
    /// Dependents go first.
    Foreground,
}

/// metav1.DeleteOptions.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds; `None` for the kind's default.
    pub grace: Option<i64>,
    /// What happens to dependents; `None` for the kind's default.
    pub propagation: Option<Propagation>,
    /// The uid that the object must have.
    pub uid: Option<String>,
    /// The resourceVersion that the object must have.
    pub resource_version: Option<String>,
    /// Do everything but delete.
    pub dry_run: bool,
}

/// What a deletion did.
#[derive(Debug)]
pub struct Deleted {
    /// The object as it was last, or as it is now while something holds it.
    pub object: Value,
    /// Whether it is gone.
    pub gone: bool,
}

/// Kinds whose dependents stay unless the client says otherwise (upstream keeps this for old clients).
fn orphans_by_default(kind: &Kind) -> bool {
    kind.is("batch", "Job") || kind.is("", "ReplicationController")
}

/// Deletes the operation's object.
///
/// # Errors
/// 404, 409 for preconditions, and what admission and the store say.
pub async fn delete(op: &Op<'_>, options: &DeleteOptions) -> Result<Deleted, ApiError> {
    let key = op.key();
    let mut current = op.api.storage.get(&key).await?;
    loop {
        let stored = current.take().ok_or_else(|| op.not_found())?;
        check(op, options, &stored.value)?;
        admission::validate(op, admission::Operation::Delete, None, Some(&stored.value)).await?;
        let next = plan(op, options, &stored.value)?;
        let gone = next.is_none();
        let mut object = next.unwrap_or_else(|| stored.value.clone());
        if options.dry_run || (!gone && object == stored.value) {
            return Ok(Deleted { object, gone });
        }
        let written = if gone {
            op.api.storage.delete(&key, stored.revision).await?
        } else {
            op.api.storage.update(&key, &object, stored.revision, op.ttl()).await?
        };
        match written {
            Written::At(revision) => {
                if gone {
                    allocate::release(op.api, op.stored, &stored.value);
                }
                meta::set_resource_version(&mut object, &revision.to_string());
                return Ok(Deleted { object, gone });
            }
            Written::Conflict(newer) => current = newer,
        }
    }
}

fn check(op: &Op<'_>, options: &DeleteOptions, object: &Value) -> Result<(), ApiError> {
    let refuse = |why: &str| {
        // Upstream names the kind here, not the resource.
        Err(ApiError::conflict(GroupResource::new(&op.kind.group, &op.kind.kind), op.name, why))
    };
    if let Some(uid) = &options.uid
        && uid != meta::uid(object)
    {
        return refuse(&format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been \
             deleted and then recreated",
            meta::uid(object)
        ));
    }
    if let Some(version) = &options.resource_version
        && version != meta::resource_version(object)
    {
        return refuse(&format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The \
             object might have been modified",
            meta::resource_version(object)
        ));
    }
    Ok(())
}

/// The finalizers after the propagation policy was applied.
fn finalizers(kind: &Kind, options: &DeleteOptions, object: &Value) -> Vec<String> {
    let has = |name: &str| meta::has_finalizer(object, name);
    let policy = options.propagation.unwrap_or_else(|| match () {
        () if has(ORPHAN) => Propagation::Orphan,
        () if has(FOREGROUND) => Propagation::Foreground,
        () if orphans_by_default(kind) => Propagation::Orphan,
        () => Propagation::Background,
    });
    let mut names: Vec<String> =
        meta::finalizers(object).filter(|name| !matches!(*name, ORPHAN | FOREGROUND)).map(str::to_owned).collect();
    match policy {
        Propagation::Orphan => names.push(ORPHAN.to_owned()),
        Propagation::Foreground => names.push(FOREGROUND.to_owned()),
        Propagation::Background => {}
    }
    names
}

/// How long a Pod may take to end, in seconds: upstream's CheckGracefulDelete.
fn pod_grace(options: &DeleteOptions, pod: &Value) -> i64 {
    let grace = options.grace.or_else(|| meta::i64_at(pod, &["spec", "terminationGracePeriodSeconds"])).unwrap_or(30);
    let unscheduled = meta::str_at(pod, &["spec", "nodeName"]).is_empty();
    let finished = matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed");
    match grace {
        _ if unscheduled || finished => 0,
        grace if grace < 0 => 1,
        grace => grace,
    }
}

/// The object's next state; `None` when it goes at once.
fn plan(op: &Op<'_>, options: &DeleteOptions, object: &Value) -> Result<Option<Value>, ApiError> {
    let kind = op.stored;
    let mut next = object.clone();
    meta::set_finalizers(&mut next, finalizers(kind, options, object));
    let deleting = meta::is_being_deleted(object);
    if kind.is("", "Namespace") {
        if deleting && !meta::list_at(object, &["spec", "finalizers"]).is_empty() {
            return Err(ApiError::conflict(
                op.kind,
                op.name,
                "The system is ensuring all content is removed from this namespace.  Upon completion, this namespace \
                 will automatically be purged by the system.",
            ));
        }
        meta::set_at(&mut next, &["status", "phase"], "Terminating");
    }
    let grace = if kind.is("", "Pod") { pod_grace(options, object) } else { 0 };
    if deleting {
        // A second request may shorten the time, never lengthen it.
        let before = meta::deletion_grace_period_seconds(object).unwrap_or(0);
        if grace < before {
            let metadata = meta::metadata_mut(&mut next);
            metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
            metadata.insert("deletionTimestamp".into(), deadline(grace).into());
        }
    } else {
        let metadata = meta::metadata_mut(&mut next);
        metadata.insert("deletionTimestamp".into(), deadline(grace).into());
        metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
        if let Some(generation) = metadata.get("generation").and_then(Value::as_i64).filter(|number| *number > 0) {
            metadata.insert("generation".into(), json!(generation + 1));
        }
    }
    Ok(if may_vanish(kind, &next) { None } else { Some(next) })
}

fn deadline(grace: i64) -> String {
    if grace == 0 {
        return now();
    }
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(grace.min(10 * 365 * 86_400));
    time::format_seconds(at)
}
