//! NamespaceLifecycle: nothing is created in a namespace that is not there or is going; some namespaces stay.

use serde_json::Value;
use strake_machinery::{ApiError, meta};
use strake_strategy::admission::{NamespaceState, namespace_deletable, namespace_for_create};

use crate::registry::Op;

/// Before an object is created.
///
/// # Errors
/// 404 for a namespace that does not exist, 403 for one that is being deleted.
pub async fn check_create(op: &Op<'_>, object: &Value) -> Result<(), ApiError> {
    if !op.kind.namespaced {
        return Ok(());
    }
    let state = match op.api.lookup_fresh("", "namespaces", "", op.namespace).await {
        None => NamespaceState::Missing,
        Some(found) if meta::is_being_deleted(&found) => NamespaceState::Terminating,
        Some(_) => NamespaceState::Active,
    };
    namespace_for_create(op.kind, meta::name(object), op.namespace, state)
}

/// Before an object is deleted.
///
/// # Errors
/// 403 for a namespace that the cluster needs.
pub fn check_delete(op: &Op<'_>) -> Result<(), ApiError> {
    if op.stored.is("", "Namespace") { namespace_deletable(op.name) } else { Ok(()) }
}
