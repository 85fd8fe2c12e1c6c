//! Admission: what is added to objects, and what is refused although it is valid and permitted.
//!
//! The order is upstream's. Not yet: PodSecurity, StorageObjectInUseProtection (its controller is not there),
//! admission policies and webhooks, ResourceQuota.

mod certificates;
mod namespace;
mod pods;

use serde_json::Value;
use strake_auth::{Write, node_restriction};
use strake_machinery::{ApiError, meta};
use strake_strategy::admission as strategy;

use crate::{auth::denied, registry::Op};

/// What is about to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object.
    Create,
    /// A change.
    Update,
    /// A deletion.
    Delete,
}

/// The mutating plugins, and those that must speak before anything else.
///
/// # Errors
/// 403 and 404 with the plugin's reason.
pub async fn mutate(
    op: &Op<'_>,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if operation == Operation::Create {
        namespace::check_create(op, object).await?;
    }
    if op.stored.is("", "Pod") && op.subresource.is_empty() {
        pods::mutate(op, operation, object).await?;
    }
    if operation == Operation::Create && op.subresource.is_empty() {
        create_defaults(op, object);
    }
    if op.stored.is("certificates.k8s.io", "CertificateSigningRequest") {
        certificates::mutate(op, operation, object, old);
    }
    Ok(())
}

/// What a new object gets from the cluster's defaults.
fn create_defaults(op: &Op<'_>, object: &mut Value) {
    match (op.stored.group.as_str(), op.stored.kind.as_str()) {
        ("", "Node") => strategy::taint_new_node(object),
        ("", "PersistentVolumeClaim") => {
            let marks =
                ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
            strategy::default_storage_class(object, &defaults(op, "storage.k8s.io", "storageclasses", &marks));
        }
        ("networking.k8s.io", "Ingress") => {
            let marks = ["ingressclass.kubernetes.io/is-default-class"];
            strategy::default_ingress_class(object, &defaults(op, "networking.k8s.io", "ingressclasses", &marks));
        }
        _ => {}
    }
}

/// The classes that an annotation marks as default.
fn defaults(op: &Op<'_>, group: &str, resource: &str, marks: &[&str]) -> Vec<strategy::ClassChoice> {
    let Some(cache) = op.api.cache(group, resource) else { return Vec::new() };
    cache
        .snapshot("", 0)
        .objects
        .iter()
        .map(|object| object.value())
        .filter(|class| marks.iter().any(|mark| meta::annotation(class, mark) == Some("true")))
        .map(|class| strategy::ClassChoice {
            name: meta::name(&class).to_owned(),
            created: meta::creation_timestamp(&class).to_owned(),
        })
        .collect()
}

/// The validating plugins.
///
/// # Errors
/// 403 with the plugin's reason.
pub async fn validate(
    op: &Op<'_>,
    operation: Operation,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    if operation == Operation::Delete {
        namespace::check_delete(op)?;
    }
    restrict_nodes(op, operation, object, old)?;
    if let Some(object) = object {
        if operation == Operation::Create {
            match op.stored.kind.as_str() {
                "Pod" => pods::validate_limits(op, object, false)?,
                "PersistentVolumeClaim" => pods::validate_limits(op, object, true)?,
                "PriorityClass" => strategy::check_system_class(object, other_default(op, object).as_deref())?,
                _ => {}
            }
        }
        escalation(op, object, old)?;
        if op.stored.is("certificates.k8s.io", "CertificateSigningRequest") {
            certificates::validate(op, operation, object, old)?;
        }
    }
    Ok(())
}

fn restrict_nodes(
    op: &Op<'_>,
    operation: Operation,
    object: Option<&Value>,
    old: Option<&Value>,
) -> Result<(), ApiError> {
    let write = Write {
        operation: match operation {
            Operation::Create => strake_auth::Operation::Create,
            Operation::Update => strake_auth::Operation::Update,
            Operation::Delete => strake_auth::Operation::Delete,
        },
        group: &op.kind.group,
        resource: &op.kind.plural,
        subresource: op.subresource,
        namespace: op.namespace,
        name: op.name,
        object: object.unwrap_or(&Value::Null),
        old: old.unwrap_or(&Value::Null),
    };
    node_restriction(op.user, &write, &*op.api.auth.lookup).map_err(denied)
}

/// Nobody hands out more than they have.
fn escalation(op: &Op<'_>, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    if op.kind.group != "rbac.authorization.k8s.io" || std::ptr::eq(op.user, &op.api.system_user) {
        return Ok(());
    }
    let authorizer = &op.api.auth.authorizer;
    match op.kind.plural.as_str() {
        resource @ ("roles" | "clusterroles") => authorizer.check_role_write(op.user, resource, object, old),
        resource => authorizer.check_binding_write(op.user, resource, object, old),
    }
    .map_err(denied)
}

/// The name of another PriorityClass that is the cluster's default.
fn other_default(op: &Op<'_>, class: &Value) -> Option<String> {
    let cache = op.api.cache("scheduling.k8s.io", "priorityclasses")?;
    let others = cache.snapshot("", 0).objects;
    others
        .iter()
        .filter(|other| other.name() != meta::name(class))
        .find(|other| meta::bool_at(&other.value(), &["globalDefault"]))
        .map(|other| other.name().to_owned())
}
