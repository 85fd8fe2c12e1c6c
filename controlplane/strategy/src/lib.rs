//! What the kinds of the Kubernetes API do when they are written: defaulting, which fields a request may set, and
//! validation, each a pure function over `serde_json::Value`.
//!
//! The API server calls, for a write:
//!
//! ```text
//! decode -> decode::check -> default -> (uid, creationTimestamp, generated name) -> prepare_create / prepare_update
//!        -> admission::* and webhooks (then default again) -> service_alloc::* -> validate_create / validate_update
//! ```
//!
//! Nothing here knows HTTP, users, the store or what else exists in the cluster; a check that needs such a fact (a
//! namespace's phase, a priority class, a free port) takes it as an argument. Wrong JSON types never reach this crate
//! (the decoder refuses them); if they do, they read as the zero value.
#![forbid(unsafe_code)]

use serde_json::Value;
use strake_machinery::Kind;
pub use strake_machinery::field::{FieldError, FieldErrorKind, Path};

pub mod admission;
mod certificates;
mod classes;
mod core_kinds;
mod crd;
pub mod decode;
mod defaulting;
mod devices;
mod discovery;
mod errs;
mod flowcontrol;
mod format;
mod ip;
mod kinds;
mod meta;
mod networking;
mod node;
pub mod pod;
mod prepare;
mod quantities;
mod quota;
mod rbac;
mod resources;
pub mod scale;
mod scaling;
mod selector;
mod service;
pub mod service_alloc;
mod service_validate;
mod validation;
mod volumes;
mod walk;
mod webhooks;
mod workload;

pub use defaulting::default;
pub use prepare::{prepare_create, prepare_update};
pub use validation::{validate_create, validate_update};

/// Whether a kind's main resource and its `status` are written separately: the kind has a status subresource.
pub fn has_status(kind: &Kind) -> bool {
    kind.has_subresource("status")
}

/// True if two objects of a kind differ in nothing but `resourceVersion` and `managedFields` times: such a write need
/// not be stored.
pub fn is_no_op(new: &Value, old: &Value) -> bool {
    let strip = |v: &Value| {
        let mut v = v.clone();
        if let Some(m) = v.get_mut("metadata") {
            walk::drop_key(m, "resourceVersion");
            if let Some(Value::Array(fields)) = m.get_mut("managedFields") {
                for f in fields {
                    walk::drop_key(f, "time");
                }
            }
        }
        v
    };
    strip(new) == strip(old)
}
