//! One Pod's worker: looks at spec, runtime and probes, does the next steps, writes the status, sleeps until something
//! of it changes. A deletion interrupts whatever it is doing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{Notify, watch};

use super::exits::Exits;
use super::start::{Failed, find};
use super::status_writer::StatusWriter;
use super::{SharedRef, kill};
use crate::backoff::Backoff;
use crate::cgroup::{self, Limits};
use crate::error::Result;
use crate::events::Level;
use crate::objects::User;
use crate::plan::{self, Plan};
use crate::probe::{Probes, Results, SharedResults};
use crate::runtime::{self, PodRuntime};
use crate::status::{self, Waiting};
use crate::volume::token::Tokens;
use crate::{pod, volume};

/// What the API server wants of the Pod.
#[derive(Clone)]
pub struct Desired {
    /// The object as last seen.
    pub pod: Arc<Pod>,
    /// It is gone from the API server.
    pub removed: bool,
}

impl Desired {
    pub(super) fn ending(&self) -> bool {
        self.removed || self.pod.metadata.deletion_timestamp.is_some()
    }
}

/// A reason of the kubelet's own to fail the Pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What comes after a sync.
enum Next {
    /// Wait for a change, at most so long.
    Wait(Option<Duration>),
    /// The Pod has ended for good.
    Ended,
}

/// The worker's state.
pub struct Worker {
    pub(super) shared: SharedRef,
    pub(super) user: User,
    pub(super) desired: watch::Receiver<Desired>,
    pub(super) failure: watch::Receiver<Option<Failure>>,
    own_failure: Option<Failure>,
    pub(super) runtime: PodRuntime,
    pub(super) publish: watch::Sender<PodRuntime>,
    pub(super) status: PodStatus,
    pub(super) publish_status: watch::Sender<PodStatus>,
    pub(super) writer: StatusWriter,
    pub(super) results: SharedResults,
    pub(super) probes: Probes,
    pub(super) exits: Exits,
    pub(super) waiting: HashMap<String, Waiting>,
    pub(super) backoff: Backoff,
    tokens: Tokens,
    admitted: bool,
    sandbox_failures: u32,
    volume_failures: u32,
}

/// How others reach a worker.
pub struct Handle {
    /// Sends the object's changes.
    pub desired: watch::Sender<Desired>,
    /// Fails the Pod for a reason of the node.
    pub fail: watch::Sender<Option<Failure>>,
    /// What the runtime has.
    pub runtime: watch::Receiver<PodRuntime>,
    /// The status as computed last.
    pub status: watch::Receiver<PodStatus>,
    /// Wakes it.
    pub wake: Arc<Notify>,
}

impl Worker {
    /// A worker and its handle; `run` is to be spawned.
    pub fn new(shared: SharedRef, p: Arc<Pod>) -> (Self, Handle) {
        let wake = Arc::new(Notify::new());
        let user = User { uid: pod::uid(&p).to_owned(), wake: wake.clone() };
        let (desired_tx, desired) = watch::channel(Desired { pod: p.clone(), removed: false });
        let (fail, failure) = watch::channel(None);
        let (publish, runtime_rx) = watch::channel(PodRuntime::default());
        let status = p.status.clone().unwrap_or_default();
        let (publish_status, status_rx) = watch::channel(status.clone());
        let results: SharedResults = Arc::new(Results::default());
        let worker = Self {
            writer: StatusWriter::start(shared.client.clone(), &p),
            probes: Probes::new(shared.cri.clone(), shared.recorder.clone(), results.clone()),
            exits: Exits::new(shared.cri.clone()),
            tokens: Tokens::new(shared.client.clone()),
            user,
            desired,
            failure,
            own_failure: None,
            runtime: PodRuntime::default(),
            publish,
            status,
            publish_status,
            results,
            waiting: HashMap::new(),
            backoff: Backoff::default(),
            admitted: false,
            sandbox_failures: 0,
            volume_failures: 0,
            shared,
        };
        let handle = Handle { desired: desired_tx, fail, runtime: runtime_rx, status: status_rx, wake };
        (worker, handle)
    }

    /// Runs until the Pod is gone from node and API server.
    pub async fn run(mut self) {
        let mut probe_changes = self.results.subscribe();
        let mut ended = pod::finished(&self.desired.borrow().pod);
        if ended {
            self.finished_before().await;
        }
        loop {
            let desired = self.desired.borrow_and_update().clone();
            if desired.ending() {
                return self.terminate(desired).await;
            }
            let mut wait = None;
            if !ended {
                let mut interrupt = self.desired.clone();
                let synced = tokio::select! {
                    biased;
                    _ = interrupt.wait_for(Desired::ending) => continue,
                    r = self.sync(&desired.pod) => r,
                };
                match synced {
                    Ok(Next::Wait(time)) => wait = time,
                    Ok(Next::Ended) => {
                        ended = true;
                        let mut interrupt = self.desired.clone();
                        tokio::select! {
                            biased;
                            _ = interrupt.wait_for(Desired::ending) => continue,
                            () = self.finish(&desired.pod) => {}
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, pod = pod::formatted(&desired.pod), "sync failed");
                        wait = Some(Duration::from_secs(1));
                    }
                }
            }
            tokio::select! {
                changed = self.desired.changed() => if changed.is_err() { return },
                Ok(()) = self.failure.changed() => {}
                () = self.user.wake.notified() => {}
                Ok(()) = probe_changes.changed() => {}
                () = self.exits.next() => {}
                () = sleep(wait) => {}
            }
        }
    }

    /// Asks the runtime anew and tells everybody.
    pub(super) async fn refresh(&mut self) -> Result<()> {
        self.runtime = runtime::read(&self.shared.cri, &self.user.uid, &self.runtime).await?;
        self.publish.send_if_modified(|p| {
            let changed = *p != self.runtime;
            if changed {
                p.clone_from(&self.runtime);
            }
            changed
        });
        Ok(())
    }

    /// Computes the status.
    pub(super) fn compute_status(&self, p: &Pod, terminal: bool) -> PodStatus {
        let failure = self.own_failure.clone().or_else(|| self.failure.borrow().clone());
        status::generate(&status::Input {
            pod: p,
            runtime: &self.runtime,
            verdicts: &*self.results,
            waiting: &self.waiting,
            node_ips: &self.shared.config.node_ips,
            terminal,
            failed: failure.as_ref().map(|f| (f.reason.as_str(), f.message.as_str())),
            previous: &self.status,
            now: Timestamp::now(),
        })
    }

    /// Has it written.
    pub(super) fn write_status(&mut self, status: PodStatus) {
        if self.status != status {
            self.status = status.clone();
            self.publish_status.send_replace(status.clone());
        }
        self.writer.set(status);
    }

    async fn sync(&mut self, p: &Arc<Pod>) -> Result<Next> {
        self.refresh().await?;
        self.exits.follow(&self.runtime).await;
        self.probes.sync(p, &self.runtime, false);
        if !self.admitted {
            if self.runtime.sandboxes.is_empty() {
                if let Err(refusal) = self.shared.admission.admit(p, &self.shared.capacity) {
                    let text = refusal.message.clone();
                    self.shared.recorder.pod(p, Level::Warning, event_reason(&refusal.reason), text);
                    self.fail(Failure { reason: refusal.reason, message: refusal.message });
                    return Ok(Next::Ended);
                }
            } else {
                self.shared.admission.adopt(p);
            }
            self.admitted = true;
        }
        // Waiting reasons of containers that run by now are history.
        let rt = &self.runtime;
        self.waiting.retain(|name, _| rt.latest(name).is_none_or(|r| r.state != runtime::State::Running));
        let mut wait = Wait::default();
        if let Some(limit) = p.spec.as_ref().and_then(|s| s.active_deadline_seconds) {
            let start = self.status.start_time.as_ref().map_or_else(Timestamp::now, |t| t.0);
            let left = limit - (Timestamp::now().as_second() - start.as_second());
            if left <= 0 {
                let message = "Pod was active on the node longer than the specified deadline".to_owned();
                self.shared.recorder.pod(p, Level::Normal, "DeadlineExceeded", message.clone());
                self.fail(Failure { reason: "DeadlineExceeded".into(), message });
            } else {
                wait.at_most(Duration::from_secs(left as u64));
            }
        }
        let status = self.compute_status(p, false);
        let phase = status.phase.clone();
        if matches!(phase.as_deref(), Some("Succeeded" | "Failed")) {
            return Ok(Next::Ended);
        }
        self.write_status(status);

        let plan = plan::compute(p, &self.runtime, &*self.results);
        if self.runtime.active_sandbox().is_none()
            && !pod::host_network(p)
            && let Err(why) = self.shared.network.borrow().clone()
        {
            self.shared.recorder.pod(p, Level::Warning, "NetworkNotReady", format!("network is not ready: {why}"));
            let mut network = self.shared.network.clone();
            let wake = self.user.wake.clone();
            tokio::spawn(async move {
                if network.wait_for(Result::is_ok).await.is_ok() {
                    wake.notify_one();
                }
            });
            return Ok(Next::Wait(None));
        }
        let dir = volume::pod_dir(&self.shared.config.pods_dir, &self.user.uid);
        std::fs::create_dir_all(&dir).map_err(crate::Error::io("create directory", &dir))?;
        self.create_cgroup(p)?;
        let volumes = match self.volumes(p).await {
            Ok(ready) => {
                self.volume_failures = 0;
                ready
            }
            Err(error) => {
                self.shared.recorder.pod(p, Level::Warning, "FailedMount", error.to_string());
                let pause = Duration::from_millis(500) * (1 << self.volume_failures.min(8));
                self.volume_failures += 1;
                // Containers that run are looked after all the same.
                self.stop_marked(p, &plan).await?;
                return Ok(Next::Wait(Some(pause.min(Duration::from_secs(122)))));
            }
        };
        if let Some(t) = volumes.refresh {
            wait.at_most(t);
        }
        let acted = Box::pin(self.execute(p, plan, &volumes, &mut wait)).await?;
        if acted {
            self.refresh().await?;
            self.exits.follow(&self.runtime).await;
            self.probes.sync(p, &self.runtime, false);
            let status = self.compute_status(p, false);
            if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
                return Ok(Next::Ended);
            }
            self.write_status(status);
            // More may follow at once: the next init container, the regular ones after a sidecar.
            // What just failed to start waits for its own time.
            let mut next = plan::compute(p, &self.runtime, &*self.results);
            next.start.retain(|w| find(p, *w).is_some_and(|c| !self.waiting.contains_key(&c.name)));
            if next != Plan::default() {
                wait.at_most(Duration::ZERO);
            }
        }
        self.collect_garbage(p).await;
        Ok(Next::Wait(wait.0))
    }

    /// Sets the Pod to be failed by the next status.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.own_failure = Some(failure);
    }

    async fn volumes(&mut self, p: &Arc<Pod>) -> Result<volume::Ready> {
        let facts = self.facts(&self.runtime);
        let shared = self.shared.clone();
        let mut ctx = volume::Context {
            pods_dir: &shared.config.pods_dir,
            config_maps: &shared.config_maps,
            secrets: &shared.secrets,
            user: &self.user,
            facts: &facts,
            tokens: &mut self.tokens,
        };
        volume::setup(&mut ctx, p).await
    }

    fn create_cgroup(&self, p: &Pod) -> Result<()> {
        let parent = &self.shared.config.cgroup_parent;
        let cpu = pod::pod_request(p, "cpu");
        let quota = cgroup::quota(pod::pod_limit(p, "cpu"));
        let memory = pod::pod_limit(p, "memory");
        let limits = Limits {
            cpu_shares: Some(cgroup::shares(cpu)),
            cpu_quota: (quota > 0).then_some(quota),
            memory: (memory > 0).then_some(memory),
            pids: None,
        };
        self.shared.cgroups.create(&pod::cgroup(parent, p), &limits)?;
        let burstable =
            Limits { cpu_shares: Some(cgroup::shares(self.shared.admission.burstable_cpu())), ..Default::default() };
        self.shared.cgroups.create(&format!("{parent}/burstable"), &burstable)?;
        let best_effort = Limits { cpu_shares: Some(cgroup::MIN_SHARES), ..Default::default() };
        self.shared.cgroups.create(&format!("{parent}/besteffort"), &best_effort)
    }

    async fn stop_marked(&mut self, p: &Pod, plan: &Plan) -> Result<bool> {
        let ip = self.runtime.ips().first().cloned();
        for k in &plan.kill {
            let Some(record) = self.runtime.containers.iter().find(|r| r.id == k.id).cloned() else { continue };
            let grace = k.grace.unwrap_or_else(|| pod::grace_period(p));
            let message = if k.message.contains("probe") {
                format!("{}, will be restarted", k.message)
            } else {
                k.message.clone()
            };
            kill::container(&self.shared, p, &record, ip.as_deref(), grace, message).await?;
            self.results.forget(&k.id);
        }
        Ok(!plan.kill.is_empty())
    }

    /// Carries a plan out. Returns whether anything was done to the runtime.
    async fn execute(&mut self, p: &Arc<Pod>, plan: Plan, volumes: &volume::Ready, wait: &mut Wait) -> Result<bool> {
        let mut acted = false;
        if plan.kill_pod {
            if plan.create_sandbox.is_some() {
                self.shared.recorder.pod(
                    p,
                    Level::Normal,
                    "SandboxChanged",
                    "Pod sandbox changed, it will be killed and re-created.",
                );
            }
            kill::all(&self.shared, p, &self.runtime, pod::grace_period(p)).await?;
            for s in self.runtime.sandboxes.iter().filter(|s| s.ready || plan.create_sandbox.is_some()) {
                self.shared.cri.stop_sandbox(&s.id).await?;
            }
            acted = true;
            if plan.create_sandbox.is_none() {
                return Ok(true);
            }
        }
        acted |= self.stop_marked(p, &plan).await?;
        if let Some(attempt) = plan.create_sandbox {
            if let Err(error) = self.create_sandbox(p, attempt).await {
                let text = format!("Failed to create pod sandbox: {error}");
                tracing::warn!(pod = pod::formatted(p), "{text}");
                self.shared.recorder.pod(p, Level::Warning, "FailedCreatePodSandBox", text);
                wait.at_most(
                    (Duration::from_secs(1) * (1 << self.sandbox_failures.min(4))).min(Duration::from_secs(10)),
                );
                self.sandbox_failures += 1;
                return Ok(acted);
            }
            self.sandbox_failures = 0;
        }
        if plan.create_sandbox.is_some() || !plan.kill.is_empty() {
            self.refresh().await?;
            self.exits.follow(&self.runtime).await;
            acted = true;
        }
        for which in plan.start {
            let Some(c) = find(p, which) else { continue };
            let rt = self.runtime.clone();
            match Box::pin(self.start_container(p, &c, which, &rt, volumes)).await {
                Ok(()) => {
                    self.waiting.remove(&c.name);
                    acted = true;
                }
                Err(Failed { waiting, retry }) => {
                    if let Some(retry) = retry {
                        wait.at_most(retry);
                    }
                    if waiting.reason != "CrashLoopBackOff" && waiting.reason != "ImagePullBackOff" {
                        tracing::info!(
                            pod = pod::formatted(p),
                            container = c.name,
                            reason = waiting.reason,
                            message = waiting.message,
                            "container not started"
                        );
                    }
                    if self.waiting.insert(c.name.clone(), waiting.clone()) != Some(waiting) {
                        let status = self.compute_status(p, false);
                        self.write_status(status);
                    }
                }
            }
        }
        Ok(acted)
    }
}

/// The shortest of the waits asked for.
#[derive(Default)]
struct Wait(Option<Duration>);

impl Wait {
    fn at_most(&mut self, d: Duration) {
        self.0 = Some(self.0.map_or(d, |w| w.min(d)));
    }
}

async fn sleep(d: Option<Duration>) {
    match d {
        Some(d) => tokio::time::sleep(d).await,
        None => std::future::pending().await,
    }
}

/// Event reasons are static but for the resource in `OutOfNAME`.
fn event_reason(reason: &str) -> &'static str {
    match reason {
        "OutOfcpu" => "OutOfcpu",
        "OutOfmemory" => "OutOfmemory",
        "OutOfpods" => "OutOfpods",
        "OutOfephemeral-storage" => "OutOfephemeral-storage",
        _ => "FailedAdmission",
    }
}
