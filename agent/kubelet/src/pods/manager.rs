//! The Pods of the node: a watch of those bound to it, a worker each, and what no Pod owns any more removed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::ObjectMeta;
use kube::runtime::watcher;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::SharedRef;
use super::worker::{Desired, Failure, Handle, Worker};
use crate::labels;
use crate::pod;
use crate::runtime::PodRuntime;

struct Entry {
    handle: Handle,
    task: AbortOnDropHandle<()>,
}

/// The running workers, by UID.
#[derive(Clone)]
pub struct Pods {
    shared: SharedRef,
    entries: Arc<Mutex<HashMap<String, Entry>>>,
}

/// What the server and the node loop see of a Pod.
pub struct View {
    /// The object.
    pub pod: Arc<Pod>,
    /// What runs.
    pub runtime: PodRuntime,
    /// Follows what runs.
    pub changes: watch::Receiver<PodRuntime>,
    /// The status as computed last.
    pub status: PodStatus,
}

impl Pods {
    /// No Pod yet.
    pub fn new(shared: SharedRef) -> Self {
        Self { shared, entries: Arc::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(e: &Entry) -> View {
        View {
            pod: e.handle.desired.borrow().pod.clone(),
            runtime: e.handle.runtime.borrow().clone(),
            changes: e.handle.runtime.clone(),
            status: e.handle.status.borrow().clone(),
        }
    }

    /// All Pods.
    pub fn all(&self) -> Vec<View> {
        self.lock().values().map(Self::view).collect()
    }

    /// The Pod of that name (and UID, if given); of two with one name, the one not being deleted.
    pub fn find(&self, namespace: &str, name: &str, uid: Option<&str>) -> Option<View> {
        let entries = self.lock();
        let mut found: Vec<View> = entries
            .values()
            .map(Self::view)
            .filter(|v| pod::namespace(&v.pod) == namespace && pod::name(&v.pod) == name)
            .filter(|v| uid.is_none_or(|u| u == pod::uid(&v.pod)))
            .collect();
        found.sort_by_key(|v| v.pod.metadata.deletion_timestamp.is_some());
        found.into_iter().next()
    }

    /// Fails a Pod for a reason of the node.
    pub fn fail(&self, uid: &str, reason: &str, message: String) {
        if let Some(e) = self.lock().get(uid) {
            e.handle.fail.send_replace(Some(Failure { reason: reason.into(), message }));
        }
    }

    /// Wakes a Pod's worker.
    pub fn wake(&self, uid: &str) {
        if let Some(e) = self.lock().get(uid) {
            e.handle.wake.notify_one();
        }
    }

    fn apply(&self, p: Pod) {
        let p = Arc::new(p);
        let uid = pod::uid(&p).to_owned();
        let mut entries = self.lock();
        if let Some(e) = entries.get(&uid).filter(|e| !e.task.is_finished()) {
            e.handle.desired.send_if_modified(|d| {
                let changed = d.pod.metadata.resource_version != p.metadata.resource_version;
                // A status we wrote ourselves comes back: nothing to do, but the object is the newest.
                let matters = changed
                    && (d.pod.spec != p.spec
                        || d.pod.metadata.deletion_timestamp != p.metadata.deletion_timestamp
                        || d.pod.metadata.deletion_grace_period_seconds != p.metadata.deletion_grace_period_seconds
                        || d.pod.metadata.labels != p.metadata.labels
                        || d.pod.metadata.annotations != p.metadata.annotations
                        || foreign_conditions(&d.pod) != foreign_conditions(&p));
                d.pod = p;
                matters
            });
            return;
        }
        let (worker, handle) = Worker::new(self.shared.clone(), p);
        entries.insert(uid.clone(), self.spawn(worker, handle, uid));
    }

    fn spawn(&self, worker: Worker, handle: Handle, uid: String) -> Entry {
        let entries = Arc::downgrade(&self.entries);
        let task = tokio::spawn(async move {
            Box::pin(worker.run()).await;
            if let Some(entries) = entries.upgrade() {
                entries.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
            }
        });
        Entry { handle, task: AbortOnDropHandle::new(task) }
    }

    fn removed(&self, uid: &str) {
        if let Some(e) = self.lock().get(uid) {
            e.handle.desired.send_if_modified(|d| {
                let news = !d.removed;
                d.removed = true;
                news
            });
        }
    }

    /// Follows the API server until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let api: Api<Pod> = Api::all(self.shared.client.clone());
        let field = format!("spec.nodeName={}", self.shared.config.node_name);
        let mut events = watcher(api, watcher::Config::default().fields(&field)).boxed();
        let mut listed: HashSet<String> = HashSet::new();
        let mut synced = false;
        let mut pause = Duration::from_millis(100);
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                e = events.try_next() => e,
            };
            match event {
                Ok(None) => return,
                Ok(Some(event)) => {
                    pause = Duration::from_millis(100);
                    match event {
                        watcher::Event::Init => listed.clear(),
                        watcher::Event::InitApply(p) => {
                            listed.insert(pod::uid(&p).to_owned());
                            self.apply(p);
                        }
                        watcher::Event::InitDone => {
                            let gone: Vec<String> =
                                self.lock().keys().filter(|uid| !listed.contains(*uid)).cloned().collect();
                            gone.iter().for_each(|uid| self.removed(uid));
                            if !std::mem::replace(&mut synced, true) {
                                self.adopt_orphans().await;
                            }
                        }
                        watcher::Event::Apply(p) => self.apply(p),
                        watcher::Event::Delete(p) => self.removed(pod::uid(&p)),
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "watching pods");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        }
    }

    /// Wakes workers by the runtime's own events, where it has them (containerd 1.7 on); pidfds do it in any case.
    pub async fn run_events(&self, stop: CancellationToken) {
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                r = self.shared.cri.events() => r,
            };
            match outcome {
                Ok(mut stream) => loop {
                    let next = tokio::select! {
                        () = stop.cancelled() => return,
                        r = stream.message() => r,
                    };
                    let Ok(Some(event)) = next else { break };
                    if let Some(m) = event.pod_sandbox_status.and_then(|s| s.metadata) {
                        self.wake(&m.uid);
                    }
                },
                Err(crate::Error::Cri { code: "Unimplemented", .. }) => return,
                Err(error) => tracing::debug!(%error, "container events"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// What an earlier kubelet left of Pods that are no more: sandboxes, directories, cgroups, logs.
    async fn adopt_orphans(&self) {
        let known: HashSet<String> = self.lock().keys().cloned().collect();
        let s = &self.shared;
        let sandboxes = match s.cri.sandboxes(None).await {
            Ok(list) => list,
            Err(error) => {
                tracing::warn!(%error, "sandboxes of pods that are gone are not looked for");
                return;
            }
        };
        let mut orphans: BTreeMap<String, Pod> = BTreeMap::new();
        for sandbox in sandboxes {
            let label = |k: &str| sandbox.labels.get(k).cloned();
            let Some(uid) = label(labels::POD_UID).filter(|u| !known.contains(u)) else { continue };
            let metadata = ObjectMeta {
                name: label(labels::POD_NAME),
                namespace: label(labels::POD_NAMESPACE),
                uid: Some(uid.clone()),
                ..Default::default()
            };
            let p = Pod { metadata, spec: Some(Default::default()), status: None };
            orphans.insert(uid, p);
        }
        for (uid, p) in orphans {
            tracing::info!(pod = pod::formatted(&p), "removing what is left of a pod that is gone");
            let (worker, handle) = Worker::new(s.clone(), Arc::new(p));
            handle.desired.send_modify(|d: &mut Desired| d.removed = true);
            let entry = self.spawn(worker, handle, uid.clone());
            self.lock().insert(uid, entry);
        }
        let busy: HashSet<String> = self.lock().keys().cloned().collect();
        for entry in std::fs::read_dir(&s.config.pods_dir).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if !busy.contains(&uid)
                && let Err(error) = crate::volume::teardown(&s.config.pods_dir, &uid)
            {
                tracing::warn!(%error, uid, "directory of a pod that is gone");
            }
        }
        for qos in ["", "/burstable", "/besteffort"] {
            let parent = format!("{}{qos}", s.config.cgroup_parent);
            for child in s.cgroups.children(&parent) {
                let Some(uid) = child.strip_prefix("pod").filter(|u| !busy.contains(*u)) else { continue };
                if let Err(error) = s.cgroups.remove(&format!("{parent}/{child}")).await {
                    tracing::warn!(%error, uid, "cgroup of a pod that is gone");
                }
            }
        }
        for entry in std::fs::read_dir(&s.config.pod_logs_dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let uid = name.rsplit('_').next().unwrap_or_default();
            if name.matches('_').count() == 2 && !busy.contains(uid) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Conditions that decide readiness but are not ours (readiness gates).
fn foreign_conditions(p: &Pod) -> Vec<(String, String)> {
    let gates = p.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    let conditions = || p.status.iter().flat_map(|s| s.conditions.iter().flatten());
    gates
        .filter_map(|g| conditions().find(|c| c.type_ == g.condition_type))
        .map(|c| (c.type_.clone(), c.status.clone()))
        .collect()
}
