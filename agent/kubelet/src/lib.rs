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

pub mod cgroup;
mod config;
pub mod containerd;
pub mod cri;
mod error;
pub mod labels;
mod sys;

pub use config::Config;
pub use error::{Error, Result};

use tokio_util::sync::CancellationToken;

/// Runs the kubelet until `stop` is cancelled. Containers are left as they are; the next run adopts them.
pub async fn run(config: Config, client: kube::Client, stop: CancellationToken) -> Result<()> {
    let _ = (config, client);
    stop.cancelled().await;
    Ok(())
}
