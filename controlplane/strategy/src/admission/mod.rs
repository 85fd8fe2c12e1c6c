//! The decisions of built-in admission plugins, as pure functions: what they need to know is passed in.
//!
//! Upstream's order for a Pod: NamespaceLifecycle, LimitRanger, ServiceAccount, (TaintNodesByCondition for Nodes),
//! Priority, DefaultTolerationSeconds, (StorageObjectInUseProtection for volumes), RuntimeClass.

mod limits;
mod namespace;
mod objects;
mod priority;
mod service_account;
mod tolerations;

pub use limits::{apply_limit_ranges, check_limit_ranges};
pub use namespace::{NamespaceState, namespace_deletable, namespace_for_create};
pub use objects::{
    ClassChoice, apply_runtime_class, default_ingress_class, default_storage_class, protect_storage, set_requester,
    taint_new_node,
};
pub use priority::{PriorityClassInfo, apply_priority, check_system_class};
pub use service_account::{ServiceAccountInfo, apply_service_account, service_account_name};
pub use tolerations::default_tolerations;
