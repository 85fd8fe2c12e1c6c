//! The tasks of a Pod's probes: timers, thresholds, verdicts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::jiff::Timestamp;
use tokio_util::task::AbortOnDropHandle;

use super::{Kind, Results, SharedResults, attempt};
use crate::cri::Cri;
use crate::events::{Level, Recorder};
use crate::pod;
use crate::runtime::{PodRuntime, Record, State};

/// The running probes of one Pod; dropping it ends them.
pub struct Probes {
    cri: Cri,
    recorder: Recorder,
    results: SharedResults,
    tasks: HashMap<(String, Kind), AbortOnDropHandle<()>>,
}

struct Task {
    cri: Cri,
    recorder: Recorder,
    results: Arc<Results>,
    pod: Arc<Pod>,
    container: Container,
    probe: Probe,
    kind: Kind,
    id: String,
    ip: String,
    started_at: i64,
}

fn positive(v: Option<i32>, default: u32) -> u32 {
    v.and_then(|v| u32::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default)
}

impl Probes {
    /// No probe yet; verdicts go to `results`.
    pub fn new(cri: Cri, recorder: Recorder, results: SharedResults) -> Self {
        Self { cri, recorder, results, tasks: HashMap::new() }
    }

    /// Starts what running containers lack and ends what is not running. While the Pod terminates only readiness goes on.
    pub fn sync(&mut self, p: &Arc<Pod>, rt: &PodRuntime, terminating: bool) {
        let alive = |id: &str| rt.containers.iter().any(|r| r.id == id && r.state == State::Running);
        self.tasks.retain(|(id, kind), _| alive(id) && (!terminating || *kind == Kind::Readiness));
        let ip = match (pod::host_network(p), rt.ips().first()) {
            (_, Some(ip)) => ip.clone(),
            (true, None) => {
                let host = p.status.as_ref().and_then(|s| s.host_ip.clone());
                host.unwrap_or_else(|| "127.0.0.1".into())
            }
            (false, None) => return,
        };
        let sidecars = pod::init_containers(p).iter().filter(|c| pod::is_sidecar(c));
        for c in sidecars.chain(pod::containers(p)) {
            let Some(r) = rt.latest(&c.name).filter(|r| r.state == State::Running) else { continue };
            for (kind, probe) in [
                (Kind::Startup, &c.startup_probe),
                (Kind::Liveness, &c.liveness_probe),
                (Kind::Readiness, &c.readiness_probe),
            ] {
                let Some(probe) = probe else { continue };
                if terminating && kind != Kind::Readiness {
                    continue;
                }
                let key = (r.id.clone(), kind);
                let decided = kind != Kind::Readiness
                    && self.results.get(&r.id, kind).is_some_and(|ok| {
                        // A startup probe is done either way, a liveness probe once it failed.
                        kind == Kind::Startup || !ok
                    });
                if self.tasks.contains_key(&key) || decided {
                    continue;
                }
                self.start(p, c, r, kind, probe, &ip);
            }
        }
    }

    fn start(&mut self, p: &Arc<Pod>, c: &Container, r: &Record, kind: Kind, probe: &Probe, ip: &str) {
        // After a restart of the kubelet a container that was ready, and one that had started, still is.
        let id = format!("containerd://{}", r.id);
        let lists = p.status.iter().flat_map(|s| [&s.container_statuses, &s.init_container_statuses]);
        let known = lists.flat_map(|l| l.iter().flatten()).find(|s| s.container_id.as_deref() == Some(&id)).cloned();
        if kind == Kind::Startup && known.as_ref().and_then(|k| k.started) == Some(true) {
            self.results.set(&r.id, kind, true);
            return;
        }
        // Before any task runs: the status computed next must not show a container that was ready as not ready.
        if kind == Kind::Readiness && self.results.get(&r.id, kind).is_none() {
            self.results.set(&r.id, kind, known.is_some_and(|k| k.ready));
        }
        let task = Task {
            cri: self.cri.clone(),
            recorder: self.recorder.clone(),
            results: self.results.clone(),
            pod: p.clone(),
            container: c.clone(),
            probe: probe.clone(),
            kind,
            id: r.id.clone(),
            ip: ip.to_owned(),
            started_at: r.started_at,
        };
        self.tasks.insert((r.id.clone(), kind), AbortOnDropHandle::new(tokio::spawn(task.run())));
    }
}

impl Task {
    async fn run(self) {
        let period = Duration::from_secs(positive(self.probe.period_seconds, 10).into());
        let passes_needed = positive(self.probe.success_threshold, 1);
        let failures_needed = positive(self.probe.failure_threshold, 3);
        if self.kind != Kind::Startup && self.container.startup_probe.is_some() {
            let mut changes = self.results.subscribe();
            while self.results.get(&self.id, Kind::Startup) != Some(true) {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        }
        let delay = Duration::from_secs(u64::try_from(self.probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
        let since_start = Timestamp::now().as_nanosecond() - i128::from(self.started_at);
        let since_start = Duration::from_nanos(u64::try_from(since_start).unwrap_or(0));
        tokio::time::sleep(delay.saturating_sub(since_start)).await;

        let (mut passes, mut failures) = (0, 0);
        let mut timer = tokio::time::interval(period);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            match attempt::run(&self.cri, &self.probe, &self.container, &self.id, &self.ip).await {
                Ok(()) => (passes, failures) = (passes + 1, 0),
                Err(text) => {
                    (passes, failures) = (0, failures + 1);
                    let message = format!("{} probe failed: {text}", self.kind.title());
                    self.recorder.container(&self.pod, &self.container.name, Level::Warning, "Unhealthy", message);
                }
            }
            if passes >= passes_needed {
                self.results.set(&self.id, self.kind, true);
                if self.kind == Kind::Startup {
                    return;
                }
            } else if failures >= failures_needed {
                self.results.set(&self.id, self.kind, false);
                if self.kind != Kind::Readiness {
                    return; // the container is replaced
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One thread, and nothing awaited between `sync` and the question: no task has run yet.
    #[tokio::test]
    async fn a_container_that_was_ready_is_ready_before_its_probe_has_run() {
        let object = |ready: bool| {
            let status = serde_json::json!({"name": "a", "containerID": "containerd://1", "ready": ready,
                "restartCount": 0, "image": "", "imageID": ""});
            let probe = serde_json::json!({"tcpSocket": {"port": 1}, "periodSeconds": 3600});
            let pod = serde_json::json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
                "spec": {"containers": [{"name": "a", "readinessProbe": probe}]},
                "status": {"containerStatuses": [status]}});
            Arc::new(serde_json::from_value::<Pod>(pod).unwrap())
        };
        let runtime = PodRuntime {
            sandboxes: vec![crate::runtime::Sandbox {
                ready: true,
                ips: vec!["127.0.0.1".into()],
                ..Default::default()
            }],
            containers: vec![Record { id: "1".into(), name: "a".into(), state: State::Running, ..Default::default() }],
        };
        let config = kube::Config::new("http://127.0.0.1:1".parse().unwrap());
        let recorder = Recorder::start(kube::Client::try_from(config).unwrap(), "node");
        for ready in [true, false] {
            let results: SharedResults = Arc::default();
            let cri = Cri::connect(std::path::Path::new("/nonexistent/cri.sock"));
            let mut probes = Probes::new(cri, recorder.clone(), results.clone());
            probes.sync(&object(ready), &runtime, false);
            assert_eq!(results.get("1", Kind::Readiness), Some(ready));
        }
    }
}
