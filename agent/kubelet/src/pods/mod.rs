//! The Pods of this node: where they come from, one worker each, and what the workers share.

pub mod admission;
mod exits;
mod finish;
mod kill;
pub mod manager;
mod start;
mod status_writer;
mod worker;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use tokio::sync::watch;

use crate::cgroup::Hierarchies;
use crate::config::Config;
use crate::cri::Cri;
use crate::events::Recorder;
use crate::images::Images;
use crate::node::Capacity;
use crate::objects::Objects;
use crate::services::Services;

/// What all workers use.
pub struct Shared {
    /// Configuration.
    pub config: Config,
    /// API server.
    pub client: kube::Client,
    /// Runtime.
    pub cri: Cri,
    /// Events.
    pub recorder: Recorder,
    /// ConfigMaps in use.
    pub config_maps: Objects<ConfigMap>,
    /// Secrets in use.
    pub secrets: Objects<Secret>,
    /// Services, for env variables.
    pub services: Services,
    /// Images.
    pub images: Images,
    /// cgroup hierarchies.
    pub cgroups: Hierarchies,
    /// What the node has.
    pub capacity: Capacity,
    /// Resources given out.
    pub admission: admission::Admission,
    /// Whether Pod networks can be made; the message when not.
    pub network: watch::Receiver<Result<(), String>>,
}

/// Shared by reference count.
pub type SharedRef = Arc<Shared>;
