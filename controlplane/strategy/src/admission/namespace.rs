//! NamespaceLifecycle: nothing is made in a namespace that is not there or is going; three namespaces never go.

use strake_machinery::{ApiError, Kind};

/// What the API server knows of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceState {
    /// There is none of that name.
    Missing,
    /// It is there.
    Active,
    /// It is being deleted.
    Terminating,
}

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Whether an object of `kind` named `name` may be created in the namespace. Errors: 404 if there is none, 403 if it is
/// going. Reviews of access are always let through, as upstream does.
pub fn namespace_for_create(kind: &Kind, name: &str, namespace: &str, state: NamespaceState) -> Result<(), ApiError> {
    if !kind.namespaced || kind.is("authorization.k8s.io", "LocalSubjectAccessReview") {
        return Ok(());
    }
    match state {
        NamespaceState::Active => Ok(()),
        NamespaceState::Missing => {
            Err(ApiError::not_found(strake_machinery::GroupResource { group: "", resource: "namespaces" }, namespace))
        }
        NamespaceState::Terminating => {
            let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
            let mut error = ApiError::forbidden(kind.group_resource(), name, &why);
            if let Some(details) = error.details.as_mut() {
                details.causes.push(strake_machinery::status::Cause {
                    reason: "NamespaceTerminating".into(),
                    message: format!("namespace {namespace} is being terminated"),
                    field: "metadata.namespace".into(),
                });
            }
            Err(error)
        }
    }
}

/// Whether a namespace may be deleted at all. Error: 403.
pub fn namespace_deletable(name: &str) -> Result<(), ApiError> {
    if IMMORTAL.contains(&name) {
        let resource = strake_machinery::GroupResource { group: "", resource: "namespaces" };
        return Err(ApiError::forbidden(resource, name, "this namespace may not be deleted"));
    }
    Ok(())
}
