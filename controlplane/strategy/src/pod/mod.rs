//! Pods and Pod templates.
//!
//! | file | what |
//! |---|---|
//! | defaults | fields filled in when a Pod or template is decoded |
//! | spec | the order in which a spec is checked |
//! | container, env, probe, mount, volume, security, affinity, placement, dns, os | one part of a spec each |
//! | lifecycle | what creation and each kind of update may do |
//! | update | which fields of a running Pod may change: main, status, ephemeralcontainers, resize |
//! | qos | quality-of-service class |
//! | binding | putting a Pod on a node |
//!
//! Nothing here knows Deployments or admission plugins.

use serde_json::Value;
use strake_machinery::field::Path;

use crate::walk::Walk;

pub(crate) mod affinity;
pub mod binding;
pub(crate) mod container;
pub(crate) mod defaults;
pub(crate) mod dns;
pub(crate) mod env;
pub(crate) mod lifecycle;
pub(crate) mod mount;
pub(crate) mod os;
pub(crate) mod placement;
pub(crate) mod probe;
pub mod qos;
pub(crate) mod security;
pub(crate) mod spec;
pub(crate) mod update;
pub(crate) mod volume;
pub(crate) mod volume_legacy;

/// The three lists of containers, in the order they are visited.
pub(crate) const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Every container of a spec.
pub(crate) fn every_container(spec: &Value) -> impl Iterator<Item = &Value> {
    CONTAINER_LISTS.into_iter().flat_map(|l| spec.list(l))
}

/// Every container of a spec and its path below `p`.
pub(crate) fn every_container_with_path<'v>(spec: &'v Value, p: &Path) -> Vec<(&'v Value, Path)> {
    CONTAINER_LISTS
        .into_iter()
        .flat_map(|l| spec.list(l).iter().enumerate().map(move |(i, c)| (c, p.child(l).index(i))))
        .collect()
}
