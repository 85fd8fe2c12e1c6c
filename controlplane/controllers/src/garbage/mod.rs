//! The garbage collector: deletes objects whose owners are gone, in the background or the foreground, and lets the
//! dependents of orphaning deletions go. Woken by watches only; new kinds are noticed by the watches on
//! CustomResourceDefinitions and APIServices.
//!
//! ```text
//!   metadata watches --> Graph (who owns whom) --> Work --> look at the API's own word --> DELETE / PATCH
//! ```

pub mod graph;
mod monitors;

use crate::Context;
use crate::discovered::{self, AnyMeta, Kind};
use crate::runtime::{Doing, Error, Outcome, Result, WorkQueue, run_workers};
use graph::{FOREGROUND, Graph, Node, ORPHAN, Work};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

const NAME: &str = "garbage-collector-controller";
const WORKERS: usize = 5;
/// A kind that cannot be listed (a broken conversion webhook) must not stop all others.
const SYNC_PATIENCE: Duration = Duration::from_secs(30);
/// Changes of kinds come in bursts.
const SETTLE: Duration = Duration::from_millis(500);

/// The collector's state.
pub(crate) struct Collector {
    ctx: Context,
    graph: Mutex<Graph>,
    queue: Arc<WorkQueue<Work>>,
    kinds: RwLock<Vec<Kind>>,
    kinds_changed: Notify,
}

/// Runs the controller until cancelled.
pub(crate) async fn run(ctx: Context) {
    let cancel = ctx.cancel.clone();
    let collector = Arc::new(Collector {
        ctx,
        graph: Mutex::default(),
        queue: WorkQueue::new(),
        kinds: RwLock::default(),
        kinds_changed: Notify::new(),
    });
    let shared = collector.share_all();
    let mut monitors: HashMap<String, CancellationToken> = HashMap::new();
    let mut first = collector.discover(&shared, &mut monitors).await;
    let c = collector.clone();
    let workers = async move {
        c.shared_synced().await;
        let all = async {
            for s in &mut first {
                let _ = s.wait_for(|s| *s).await;
            }
        };
        if tokio::time::timeout(SYNC_PATIENCE, all).await.is_err() {
            tracing::warn!("some kinds could not be listed yet; collecting the others");
        }
        let (queue, cancel) = (c.queue.clone(), c.ctx.cancel.clone());
        run_workers(NAME, queue, WORKERS, cancel, move |work| {
            let c = c.clone();
            async move { c.work(work).await }
        })
        .await;
    };
    let discovery = async {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = collector.kinds_changed.notified() => {}
            }
            tokio::time::sleep(SETTLE).await;
            collector.discover(&shared, &mut monitors).await;
        }
    };
    tokio::join!(workers, discovery);
}

impl Collector {
    fn submit(&self, work: Vec<Work>) {
        for w in work {
            self.queue.add(w);
        }
    }

    /// Starts monitors for kinds that are new and stops those of kinds that are gone; their sync signals.
    async fn discover(
        self: &Arc<Self>,
        shared: &std::collections::HashSet<(String, String)>,
        monitors: &mut HashMap<String, CancellationToken>,
    ) -> Vec<watch::Receiver<bool>> {
        let mut pause = Duration::from_millis(100);
        let kinds = loop {
            match discovered::kinds(&self.ctx.client).await {
                Ok(k) if !k.is_empty() => break k,
                Ok(_) => {}
                Err(e) => tracing::debug!(error = %e, "discovery failed; retrying"),
            }
            tokio::select! {
                () = self.ctx.cancel.cancelled() => return Vec::new(),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(Duration::from_secs(10));
        };
        let wanted: HashMap<String, Kind> = kinds
            .iter()
            .filter(|k| monitors::is_collected(k))
            .filter(|k| !shared.contains(&(k.resource.group.clone(), k.resource.plural.clone())))
            .map(|k| (format!("{}/{}", k.name(), k.resource.version), k.clone()))
            .collect();
        *self.kinds.write() = kinds;
        monitors.retain(|name, cancel| {
            let keep = wanted.contains_key(name);
            if !keep {
                cancel.cancel();
            }
            keep
        });
        let mut signals = Vec::new();
        for (name, kind) in wanted {
            if let Entry::Vacant(slot) = monitors.entry(name) {
                let (tx, rx) = watch::channel(false);
                let cancel = self.ctx.cancel.child_token();
                slot.insert(cancel.clone());
                tokio::spawn(self.clone().monitor(kind, tx, cancel));
                signals.push(rx);
            }
        }
        signals
    }

    fn kind(&self, api_version: &str, kind: &str) -> Option<Kind> {
        let group = api_version.split_once('/').map_or("", |(g, _)| g);
        let kinds = self.kinds.read();
        let mut of_kind = kinds.iter().filter(|k| k.resource.group == group && k.resource.kind == kind);
        of_kind.next().cloned()
    }

    fn api(&self, node: &Node) -> Result<Api<AnyMeta>> {
        let i = &node.identity;
        let kind = self.kind(&i.api_version, &i.kind).ok_or_else(|| Error::Object {
            object: format!("{} {}/{}", i.kind, i.namespace, i.name),
            problem: format!("the API serves no kind {} of {}", i.kind, i.api_version),
        })?;
        Ok(kind.api(&self.ctx.client, &i.namespace))
    }

    async fn work(&self, work: Work) -> Result<Outcome> {
        match &work {
            Work::Delete(uid) => self.attempt_delete(uid).await,
            Work::Orphan(uid) => self.orphan(uid).await,
        }
    }

    /// The object as the API has it now; None if it is gone or another took its name.
    async fn live(&self, api: &Api<AnyMeta>, node: &Node, uid: &str) -> Result<Option<ObjectMeta>> {
        let i = &node.identity;
        let found = api.get_opt(&i.name).await.doing(|| format!("reading {} {}/{}", i.kind, i.namespace, i.name))?;
        Ok(found.map(|o| o.metadata).filter(|m| m.uid.as_deref() == Some(uid)))
    }

    async fn attempt_delete(&self, uid: &str) -> Result<Outcome> {
        let Some(node) = self.graph.lock().get(uid).cloned() else { return Ok(Outcome::Done) };
        if node.deleting && !node.waiting_for_dependents {
            return Ok(Outcome::Done);
        }
        let api = self.api(&node)?;
        let Some(live) = self.live(&api, &node, uid).await? else {
            let work = self.graph.lock().gone(uid);
            self.submit(work);
            return Ok(Outcome::Done);
        };
        if node.is_virtual {
            self.graph.lock().confirm(uid);
        }
        if node.waiting_for_dependents {
            return self.foreground(&api, &node, uid).await;
        }
        let owners = live.owner_references.clone().unwrap_or_default();
        if owners.is_empty() || live.deletion_timestamp.is_some() {
            return Ok(Outcome::Done);
        }
        let (mut solid, mut waiting, mut useless) = (0, Vec::new(), Vec::new());
        for reference in &owners {
            match self.owner(&node, reference).await? {
                Owner::Absent => useless.push(reference.uid.clone()),
                Owner::Waiting => waiting.push(reference.uid.clone()),
                Owner::Solid => solid += 1,
            }
        }
        let described = || format!("{} {}/{}", node.identity.kind, node.identity.namespace, node.identity.name);
        if solid > 0 {
            useless.extend(waiting);
            if !useless.is_empty() {
                let left: Vec<&OwnerReference> = owners.iter().filter(|o| !useless.contains(&o.uid)).collect();
                let body = serde_json::json!({"metadata": {
                    "uid": uid, "resourceVersion": live.resource_version, "ownerReferences": left}});
                return self.patch(&api, &node.identity.name, body, || format!("unlinking {}", described())).await;
            }
            return Ok(Outcome::Done);
        }
        let in_circle = self.graph.lock().has_waiting_dependent(uid);
        let finalizer = |f: &str| live.finalizers.iter().flatten().any(|x| x == f);
        let params = if !waiting.is_empty() && !node.dependents.is_empty() {
            if in_circle {
                // Nobody in a circle of owners may wait for the others.
                let freed: Vec<OwnerReference> =
                    owners.iter().cloned().map(|o| OwnerReference { block_owner_deletion: Some(false), ..o }).collect();
                let body = serde_json::json!({"metadata": {
                    "uid": uid, "resourceVersion": live.resource_version, "ownerReferences": freed}});
                self.patch(&api, &node.identity.name, body, || format!("unblocking {}", described())).await?;
                return Err(Error::Object { object: described(), problem: "unblocked; to be deleted next".into() });
            }
            DeleteParams::foreground()
        } else if finalizer(ORPHAN) {
            DeleteParams::orphan()
        } else if finalizer(FOREGROUND) {
            DeleteParams::foreground()
        } else {
            DeleteParams::background()
        };
        let params = params.preconditions(Preconditions {
            uid: Some(uid.to_string()),
            // What was decided holds for these owner references only.
            resource_version: live.resource_version.clone(),
        });
        tracing::debug!(object = described(), "deleting: its owners are gone");
        match api.delete(&node.identity.name, &params).await.doing(|| format!("collecting {}", described())) {
            Ok(_) => Ok(Outcome::Done),
            Err(e) if e.is_not_found() => Ok(Outcome::Done),
            Err(e) => Err(e),
        }
    }

    async fn owner(&self, node: &Node, reference: &OwnerReference) -> Result<Owner> {
        {
            let graph = self.graph.lock();
            if graph.is_absent(&reference.uid) {
                return Ok(Owner::Absent);
            }
            if let Some(o) = graph.get(&reference.uid).filter(|o| !o.is_virtual) {
                let i = &o.identity;
                let here = i.namespace.is_empty() || i.namespace == node.identity.namespace;
                let same = i.kind == reference.kind && i.name == reference.name && here;
                return Ok(match (same, o.waiting_for_dependents && reference.block_owner_deletion == Some(true)) {
                    // A cluster-scoped object cannot be owned by a namespaced one, nor across namespaces.
                    (false, _) => Owner::Absent,
                    (true, true) => Owner::Waiting,
                    (true, false) => Owner::Solid,
                });
            }
        }
        let owner = Node {
            identity: graph::Identity {
                api_version: reference.api_version.clone(),
                kind: reference.kind.clone(),
                namespace: node.identity.namespace.clone(),
                name: reference.name.clone(),
            },
            owners: Vec::new(),
            dependents: Default::default(),
            is_virtual: true,
            deleting: false,
            waiting_for_dependents: false,
        };
        let api = self.api(&owner)?;
        Ok(match self.live(&api, &owner, &reference.uid).await? {
            Some(m) => {
                let waits = m.deletion_timestamp.is_some() && m.finalizers.iter().flatten().any(|f| f == FOREGROUND);
                if waits && reference.block_owner_deletion == Some(true) { Owner::Waiting } else { Owner::Solid }
            }
            None => {
                self.graph.lock().note_absent(&reference.uid);
                Owner::Absent
            }
        })
    }

    /// An object that waits for its dependents: lets it go when none blocks, else sees that they are deleted.
    async fn foreground(&self, api: &Api<AnyMeta>, node: &Node, uid: &str) -> Result<Outcome> {
        let blocking = self.graph.lock().blocking(uid);
        if blocking.is_empty() {
            return self.drop_finalizer(api, node, uid, FOREGROUND).await;
        }
        for (dependent, deleting) in blocking {
            if !deleting {
                self.queue.add(Work::Delete(dependent));
            }
        }
        Ok(Outcome::Done)
    }

    async fn drop_finalizer(&self, api: &Api<AnyMeta>, node: &Node, uid: &str, finalizer: &str) -> Result<Outcome> {
        let Some(live) = self.live(api, node, uid).await? else { return Ok(Outcome::Done) };
        let all = live.finalizers.unwrap_or_default();
        let left: Vec<&String> = all.iter().filter(|f| *f != finalizer).collect();
        if left.len() == all.len() {
            return Ok(Outcome::Done);
        }
        let body = serde_json::json!({"metadata": {
            "uid": uid, "resourceVersion": live.resource_version, "finalizers": left}});
        let i = &node.identity;
        let doing = || format!("removing the finalizer {finalizer} of {} {}/{}", i.kind, i.namespace, i.name);
        self.patch(api, &i.name, body, doing).await
    }

    async fn orphan(&self, uid: &str) -> Result<Outcome> {
        let Some(node) = self.graph.lock().get(uid).cloned() else { return Ok(Outcome::Done) };
        for dependent in &node.dependents {
            let Some(d) = self.graph.lock().get(dependent).cloned() else { continue };
            let api = self.api(&d)?;
            let Some(live) = self.live(&api, &d, dependent).await? else { continue };
            let all = live.owner_references.unwrap_or_default();
            let left: Vec<&OwnerReference> = all.iter().filter(|o| o.uid != uid).collect();
            if left.len() != all.len() {
                let body = serde_json::json!({"metadata": {
                    "uid": dependent, "resourceVersion": live.resource_version, "ownerReferences": left}});
                let i = &d.identity;
                let doing = || format!("orphaning {} {}/{}", i.kind, i.namespace, i.name);
                self.patch(&api, &i.name, body, doing).await?;
            }
        }
        let api = self.api(&node)?;
        self.drop_finalizer(&api, &node, uid, ORPHAN).await
    }

    async fn patch(
        &self,
        api: &Api<AnyMeta>,
        name: &str,
        body: serde_json::Value,
        doing: impl FnOnce() -> String,
    ) -> Result<Outcome> {
        match api.patch(name, &PatchParams::default(), &Patch::Merge(body)).await.doing(doing) {
            Ok(_) => Ok(Outcome::Done),
            Err(e) if e.is_not_found() => Ok(Outcome::Done),
            Err(e) => Err(e),
        }
    }
}

enum Owner {
    Absent,
    Waiting,
    Solid,
}
