//! Pods through CRI, as the stock kubelet runs them: registration, sync loop, probes, volumes, status, logs, exec.
//!
//! ```text
//!  API server <─ node (register, lease, status)         server (10250: logs, exec, stats) <─ API server
//!      │                                                          │
//!      └─ pods watch ─> manager ─> worker (one a Pod) ─> plan (pure) ─> runtime steps ─> CRI
//!                                     │    ^ pidfd exits, probe results, object watches, deadlines
//!                                     └─> status (pure) ─> patch pods/status
//! ```
//! Knows nothing of Services beyond the env variables, nothing of the datapath and nothing of how the API server stores.

mod backoff;
pub mod cgroup;
mod config;
pub mod containerd;
pub mod cri;
mod downward;
mod env;
mod error;
mod events;
mod expand;
#[doc(hidden)]
pub mod fuzz;
mod generate;
mod hosts;
mod image_ref;
mod images;
pub mod labels;
mod lifecycle;
mod logs;
mod node;
mod objects;
mod plan;
mod pod;
mod pods;
mod probe;
mod quantity;
mod resolv;
mod runtime;
mod server;
mod services;
mod status;
mod sys;
mod teardown;
mod volume;

pub use config::Config;
pub use error::{Error, Result};
pub use teardown::teardown;

use std::sync::Arc;

use strake_state::World;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Runs the kubelet until `stop` is cancelled; `worlds` tells of the cluster's Services. Containers are left as they are; the next run adopts them.
///
/// Errors are those of the start (directories, cgroups, the serving certificate, the port): afterwards trouble with
/// the API server, the runtime or a Pod is retried and told in logs, conditions and events.
pub async fn run(
    config: Config,
    client: kube::Client,
    worlds: watch::Receiver<Arc<World>>,
    stop: CancellationToken,
) -> Result<()> {
    for dir in [&config.root_dir, &config.pods_dir, &config.pod_logs_dir] {
        std::fs::create_dir_all(dir).map_err(Error::io("create directory", dir))?;
    }
    let machine = Arc::new(node::Machine::read(&config.pods_dir, config.max_pods)?);
    let cgroups = cgroup::Hierarchies::discover()?;
    let allocatable = machine.allocatable();
    let limits = cgroup::Limits { cpu_shares: Some(cgroup::shares(allocatable.cpu_milli)), ..Default::default() };
    cgroups.create(&config.cgroup_parent, &limits)?;

    let cri = cri::Cri::connect(&config.cri_socket);
    let recorder = events::Recorder::start(client.clone(), &config.node_name);
    let (network_tx, network) = watch::channel(Err("the runtime has not been asked yet".to_owned()));
    let shared = Arc::new(pods::Shared {
        images: images::Images::new(cri.clone(), recorder.clone()),
        config_maps: objects::Objects::new(client.clone()),
        secrets: objects::Objects::new(client.clone()),
        services: services::Services::of(worlds),
        admission: pods::admission::Admission::default(),
        capacity: allocatable,
        network,
        cgroups,
        recorder,
        cri,
        client,
        config,
    });
    let pods = pods::manager::Pods::new(shared.clone());
    let listener = server::bind(&shared).await?;
    let serve = Box::pin(server::serve(listener, shared.clone(), pods.clone(), stop.clone()));
    let keep_node = Box::pin(node::run(shared.clone(), machine, pods.clone(), network_tx, stop.clone()));
    let follow = Box::pin(pods.run(stop.clone()));
    let events = Box::pin(pods.run_events(stop.clone()));
    let (served, kept, (), ()) = tokio::join!(serve, keep_node, follow, events);
    served.and(kept)
}
