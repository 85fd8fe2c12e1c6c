//! The end of a Pod: it ended by itself, or it is being deleted. Nothing of it stays on the node.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use super::worker::{Desired, Worker};
use super::{Shared, kill};
use crate::error::{Error, Result};
use crate::runtime::{PodRuntime, State, pod_log_dir};
use crate::{pod, volume};

/// Dead containers kept of each name (stock).
const KEEP: usize = 1;

impl Worker {
    /// A Pod that had ended before the kubelet started: its status stays as it is, nothing of it may run.
    pub(super) async fn finished_before(&mut self) {
        let p = self.desired.borrow().pod.clone();
        if let Err(error) = self.refresh().await {
            tracing::warn!(%error, pod = pod::formatted(&p), "asking the runtime about a finished pod");
        }
        self.release(&p).await;
    }

    /// The Pod has ended by itself: what is left of it is stopped, the final status written, its volumes and
    /// resources given back. Dead containers stay for their logs.
    pub(super) async fn finish(&mut self, p: &Arc<Pod>) {
        self.release(p).await;
        if let Err(error) = self.refresh().await {
            tracing::warn!(%error, pod = pod::formatted(p), "asking the runtime about an ended pod");
        }
        self.waiting.clear();
        let status = self.compute_status(p, true);
        self.write_status(status);
        self.collect_garbage(p).await;
    }

    async fn release(&mut self, p: &Arc<Pod>) {
        let name = pod::formatted(p);
        self.probes.sync(p, &PodRuntime::default(), true);
        retry("stop containers", &name, || kill::all(&self.shared, p, &self.runtime, pod::grace_period(p))).await;
        retry("stop sandboxes", &name, || stop_sandboxes(&self.shared, &self.runtime)).await;
        let volumes = volume::pod_dir(&self.shared.config.pods_dir, &self.user.uid);
        let outcome = ["volumes", "volume-subpaths"].iter().try_for_each(|part| {
            let dir = volumes.join(part);
            if !dir.exists() {
                return Ok(());
            }
            volume::mounts::unmount_below(&dir)?;
            std::fs::remove_dir_all(&dir).map_err(Error::io("remove directory", &dir))
        });
        if let Err(error) = outcome {
            tracing::warn!(%error, pod = name, "volumes of an ended pod");
        }
        self.shared.admission.release(&self.user.uid);
        self.shared.config_maps.release(&self.user.uid);
        self.shared.secrets.release(&self.user.uid);
        self.shared.images.forget(&self.user.uid);
    }

    /// The Pod is being deleted, or is gone already.
    pub(super) async fn terminate(mut self, first: Desired) {
        let mut desired = first;
        let name = pod::formatted(&desired.pod);
        tracing::debug!(pod = name, removed = desired.removed, "terminating");
        loop {
            match self.refresh().await {
                Ok(()) => break,
                Err(error) => {
                    tracing::warn!(%error, pod = name, "asking the runtime about a pod being deleted");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        if !desired.removed {
            self.probes.sync(&desired.pod, &self.runtime, true);
            let status = self.compute_status(&desired.pod, false);
            self.write_status(status);
        }
        // A shorter grace period, or the object's disappearance, starts the stop again with what is left.
        loop {
            let p = desired.pod.clone();
            let grace = if desired.removed { pod::grace_period(&p).min(2) } else { pod::grace_period(&p) };
            let mut changes = self.desired.clone();
            let shorter = async {
                let less = |d: &Desired| {
                    let new = if d.removed { pod::grace_period(&d.pod).min(2) } else { pod::grace_period(&d.pod) };
                    new < grace
                };
                changes.wait_for(less).await.map(|_| ())
            };
            tokio::select! {
                biased;
                outcome = kill::all(&self.shared, &p, &self.runtime, grace) => match outcome {
                    Ok(()) => break,
                    Err(error) => {
                        tracing::warn!(%error, pod = name, "containers not stopped, trying again");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                },
                Ok(()) = shorter => {}
            }
            let _ = self.refresh().await;
            desired = self.desired.borrow_and_update().clone();
        }
        let p = desired.pod.clone();
        retry("stop sandboxes", &name, || stop_sandboxes(&self.shared, &self.runtime)).await;
        let _ = self.refresh().await;
        self.waiting = HashMap::new();
        self.probes.sync(&p, &PodRuntime::default(), true);
        let was_finished = pod::finished(&p);
        if !desired.removed && !was_finished {
            let status = self.compute_status(&p, true);
            self.write_status(status);
            let mut changes = self.desired.clone();
            tokio::select! {
                () = self.writer.flush() => {}
                _ = changes.wait_for(|d| d.removed) => {}
            }
        }
        let pods_dir = self.shared.config.pods_dir.clone();
        let uid = self.user.uid.clone();
        retry("take volumes down", &name, || {
            let outcome = volume::teardown(&pods_dir, &uid);
            async move { outcome }
        })
        .await;
        self.shared.admission.release(&uid);
        self.shared.config_maps.release(&uid);
        self.shared.secrets.release(&uid);
        self.shared.images.forget(&uid);
        if !desired.removed {
            self.delete(&p).await;
        }
        remove(&self.shared, &p, &self.runtime).await;
        tracing::debug!(pod = name, "gone");
    }

    /// The final delete, with a grace period of 0, of this very Pod.
    async fn delete(&self, p: &Pod) {
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), pod::namespace(p));
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: p.metadata.uid.clone(), resource_version: None }),
            ..Default::default()
        };
        let mut pause = Duration::from_millis(100);
        let mut gone = self.desired.clone();
        loop {
            match api.delete(pod::name(p), &params).await {
                Ok(_) => return,
                Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => return,
                Err(error) => tracing::warn!(%error, pod = pod::formatted(p), "pod not deleted, trying again"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = gone.wait_for(|d| d.removed) => return,
            }
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    /// Removes dead containers beyond the newest of each name, and dead sandboxes nothing is left in.
    pub(super) async fn collect_garbage(&mut self, p: &Pod) {
        let (containers, sandboxes) = surplus(&self.runtime);
        for (id, log) in containers {
            if let Err(error) = self.shared.cri.remove_container(&id).await {
                tracing::warn!(%error, pod = pod::formatted(p), id, "dead container not removed");
                continue;
            }
            self.results.forget(&id);
            remove_log(&log);
        }
        for id in sandboxes {
            if let Err(error) = self.shared.cri.remove_sandbox(&id).await {
                tracing::warn!(%error, pod = pod::formatted(p), id, "dead sandbox not removed");
            }
        }
    }
}

/// Containers (with their logs) and sandboxes nobody needs.
fn surplus(rt: &PodRuntime) -> (Vec<(String, std::path::PathBuf)>, Vec<String>) {
    let mut kept: HashMap<&str, usize> = HashMap::new();
    let mut gone = Vec::new();
    for c in rt.containers.iter().filter(|c| c.state == State::Exited) {
        let n = kept.entry(&c.name).or_default();
        *n += 1;
        if *n > KEEP {
            gone.push((c.id.clone(), c.log_path.clone()));
        }
    }
    let sandboxes = rt.sandboxes.iter().skip(1).filter(|s| {
        !s.ready && !rt.containers.iter().any(|c| c.sandbox == s.id && !gone.iter().any(|(id, _)| *id == c.id))
    });
    let sandboxes = sandboxes.map(|s| s.id.clone()).collect();
    (gone, sandboxes)
}

fn remove_log(log: &std::path::Path) {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name()) else { return };
    let prefix = format!("{}.", name.to_string_lossy());
    let _ = std::fs::remove_file(log);
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

async fn stop_sandboxes(s: &Shared, rt: &PodRuntime) -> Result<()> {
    for sandbox in &rt.sandboxes {
        s.cri.stop_sandbox(&sandbox.id).await?;
    }
    Ok(())
}

/// Removes sandboxes, cgroup and logs of a Pod whose processes are gone.
pub(super) async fn remove(s: &Shared, p: &Pod, rt: &PodRuntime) {
    let name = pod::formatted(p);
    for sandbox in &rt.sandboxes {
        if let Err(error) = s.cri.remove_sandbox(&sandbox.id).await {
            tracing::warn!(%error, pod = name, "sandbox not removed");
        }
    }
    let c = &s.config;
    // In every class: what is left of a Pod whose object is gone does not tell its class.
    for qos in ["", "/burstable", "/besteffort"] {
        let cgroup = format!("{}{qos}/pod{}", c.cgroup_parent, pod::uid(p));
        if let Err(error) = s.cgroups.remove(&cgroup).await {
            tracing::warn!(%error, pod = name, "cgroup not removed");
        }
    }
    let logs = pod_log_dir(&c.pod_logs_dir, pod::namespace(p), pod::name(p), pod::uid(p));
    match std::fs::remove_dir_all(&logs) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(%error, dir = %logs.display(), "logs not removed");
        }
        _ => {}
    }
}

/// Tries something until it works: a Pod must not be called gone while something of it is left.
async fn retry<F: Future<Output = Result<()>>>(what: &str, pod: &str, mut step: impl FnMut() -> F) {
    let mut pause = Duration::from_millis(250);
    while let Err(error) = step().await {
        tracing::warn!(%error, pod, "{what}: trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{Record, Sandbox};

    #[test]
    fn the_newest_dead_container_of_a_name_is_kept() {
        let r = |id: &str, name: &str, state, sandbox: &str| Record {
            id: id.into(),
            name: name.into(),
            sandbox: sandbox.into(),
            state,
            ..Default::default()
        };
        let s = |id: &str, ready| Sandbox { id: id.into(), ready, ..Default::default() };
        let rt = PodRuntime {
            sandboxes: vec![s("new", true), s("old", false)],
            containers: vec![
                r("4", "a", State::Running, "new"),
                r("3", "a", State::Exited, "new"),
                r("2", "a", State::Exited, "old"),
                r("1", "b", State::Exited, "new"),
            ],
        };
        let (gone, sandboxes) = surplus(&rt);
        assert_eq!(gone.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["2"]);
        assert_eq!(sandboxes, ["old"]);
    }
}
