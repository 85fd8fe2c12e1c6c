//! Taking everything of a node's Pods down, for the end of a cluster: needs the runtime, not the API server.

use std::path::Path;

use crate::cgroup::Hierarchies;
use crate::cri::Cri;
use crate::error::{Error, Result};
use crate::volume;

/// Stops and removes every sandbox of the runtime (all are ours: the runtime is), then volumes, logs and cgroups.
/// Everything is tried; the first failure is returned. Run it when no kubelet runs.
pub async fn teardown(cri_socket: &Path, pods_dir: &Path, pod_logs_dir: &Path, cgroup_parent: &str) -> Result<()> {
    let mut failure = None;
    if cri_socket.exists() {
        let cri = Cri::connect(cri_socket);
        match cri.sandboxes(None).await {
            Ok(list) => {
                let steps = list.iter().map(|s| async {
                    cri.stop_sandbox(&s.id).await?;
                    cri.remove_sandbox(&s.id).await
                });
                for outcome in futures::future::join_all(steps).await {
                    failure = failure.or(outcome.err());
                }
            }
            Err(e) => failure = Some(e),
        }
    }
    for entry in std::fs::read_dir(pods_dir).into_iter().flatten().flatten() {
        failure = failure.or(volume::teardown(pods_dir, &entry.file_name().to_string_lossy()).err());
    }
    if pod_logs_dir.exists() {
        failure = failure
            .or(std::fs::remove_dir_all(pod_logs_dir).map_err(Error::io("remove directory", pod_logs_dir)).err());
    }
    failure = failure.or(Hierarchies::discover()?.remove(cgroup_parent).await.err());
    failure.map_or(Ok(()), Err)
}
