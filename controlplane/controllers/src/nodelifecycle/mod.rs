//! Node health by Leases, the taints that follow from it, and the evictions that follow from those.
//! Wiring and writes; decisions are in [`plan`]. All under the identity node-controller, as upstream.

pub mod plan;

use crate::Context;
use crate::runtime::{Doing, EventType, Key, Outcome, Result, WorkQueue, now, pods, run_workers};
use crate::shared::{BY_NODE, NODE_LEASE_NAMESPACE};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use plan::Health;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "node-lifecycle-controller";
const EVICTION: &str = "taint-eviction-controller";
const WORKERS: usize = 4;

type Healths = Mutex<HashMap<String, Health>>;

/// Runs both loops until cancelled.
pub(crate) async fn run(ctx: Context) {
    tokio::join!(watch_health(ctx.clone()), evict_tainted(ctx));
}

async fn watch_health(ctx: Context) {
    let queue = WorkQueue::new();
    let healths: Arc<Healths> = Arc::default();
    let (q, nodes) = (queue.clone(), ctx.shared.nodes.clone());
    ctx.shared.nodes.on_change(move |c| {
        let node = c.object();
        q.add(node.metadata.name.clone().unwrap_or_default());
        // Whether anybody is ready decides about evictions everywhere.
        if c.old().is_none_or(|o| plan::ready(o) != plan::ready(node)) {
            for other in nodes.list() {
                q.add(other.metadata.name.clone().unwrap_or_default());
            }
        }
    });
    // A renewal is only noted: the node's own deadline looks at it.
    let (shared, h) = (ctx.shared.clone(), healths.clone());
    ctx.shared.node_leases.on_change(move |c| {
        let name = c.object().metadata.name.clone().unwrap_or_default();
        if let Some(node) = shared.nodes.get(&Key::new("", &name)) {
            note(&h, &name, &node, Some(c.object()));
        }
    });
    ctx.shared.nodes.synced().await;
    ctx.shared.node_leases.synced().await;
    ctx.shared.pods.synced().await;
    let cancel = ctx.cancel.clone();
    let ctx = Arc::new(ctx);
    run_workers(NAME, queue, WORKERS, cancel, move |name| {
        let (ctx, healths) = (ctx.clone(), healths.clone());
        async move { sync(&ctx, &healths, name).await }
    })
    .await;
}

fn note(
    healths: &Healths,
    name: &str,
    node: &Node,
    lease: Option<&k8s_openapi::api::coordination::v1::Lease>,
) -> Health {
    let mut healths = healths.lock();
    let health = plan::observe(healths.get(name), node, lease, Timestamp::now());
    healths.insert(name.to_string(), health.clone());
    health
}

async fn sync(ctx: &Context, healths: &Healths, name: String) -> Result<Outcome> {
    let key = Key::new("", &name);
    let Some(mut node) = ctx.shared.nodes.get(&key) else {
        healths.lock().remove(&name);
        return Ok(Outcome::Done);
    };
    let api: Api<Node> = Api::all(ctx.client.clone());
    let lease = ctx.shared.node_leases.get(&Key::new(NODE_LEASE_NAMESPACE, &name));
    let health = note(healths, &name, &node, lease.as_deref());
    let now = Timestamp::now();
    let started = plan::condition(&node, "Ready").is_some();
    let grace = if started { ctx.config.node_monitor_grace } else { ctx.config.node_startup_grace };
    let left = plan::patience(&health, grace, now);

    if left.is_zero() {
        let conditions = plan::silent(&node, now);
        if !conditions.is_empty() {
            let body = serde_json::json!({"status": {"conditions": conditions}});
            let new = api
                .patch_status(&name, &PatchParams::default(), &Patch::Strategic(body))
                .await
                .doing(|| format!("noting that Node {name} is silent"))?;
            ctx.shared.nodes.wrote(new.clone());
            node = Arc::new(new);
            let text = format!("Node {name} status is now: NodeNotReady");
            ctx.recorder.event(&*node, EventType::Normal, "NodeNotReady", text);
        }
    }
    let mark = healths.lock().get_mut(&name).is_some_and(|h| plan::mark_now(h, &node));
    if mark && let Err(e) = mark_pods(ctx, &name).await {
        if let Some(h) = healths.lock().get_mut(&name) {
            h.marked = false;
        }
        return Err(e);
    }
    let isolated = ctx.shared.nodes.list().iter().all(|n| plan::ready(n) != "True");
    if let Some(taints) = plan::taints(&node, isolated, now) {
        let body = serde_json::json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        match api
            .patch(&name, &PatchParams::default(), &Patch::Merge(body))
            .await
            .doing(|| format!("tainting Node {name}"))
        {
            Ok(new) => ctx.shared.nodes.wrote(new),
            Err(e) if e.is_not_found() => return Ok(Outcome::Done),
            Err(e) => return Err(e),
        }
    }
    // A silent node wakes us itself when it reports again.
    Ok(if left.is_zero() { Outcome::Done } else { Outcome::After(left + Duration::from_millis(50)) })
}

/// Pods of a node that is not ready serve nobody.
async fn mark_pods(ctx: &Context, node: &str) -> Result<()> {
    for pod in ctx.shared.pods.by_index(BY_NODE, node) {
        if !pods::is_ready(&pod) {
            continue;
        }
        let key = Key::of(&pod.metadata);
        let body = serde_json::json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
            "type": "Ready", "status": "False", "reason": "NodeNotReady", "lastTransitionTime": now(),
            "observedGeneration": pod.metadata.generation}]}});
        let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &key.namespace);
        match api
            .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(body))
            .await
            .doing(|| format!("marking Pod {key} not ready"))
        {
            Ok(new) => {
                ctx.shared.pods.wrote(new);
                ctx.recorder.event(&*pod, EventType::Warning, "NodeNotReady", "Node is not ready");
            }
            Err(e) if e.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

async fn evict_tainted(ctx: Context) {
    let queue = WorkQueue::new();
    let (q, shared) = (queue.clone(), ctx.shared.clone());
    ctx.shared.nodes.on_change(move |c| {
        let taints = |n: &Node| n.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let new = taints(c.object());
        if new.iter().any(|t| t.effect == "NoExecute") && c.old().is_none_or(|o| taints(o) != new) {
            for pod in shared.pods.by_index(BY_NODE, c.object().metadata.name.as_deref().unwrap_or_default()) {
                q.add(Key::of(&pod.metadata));
            }
        }
    });
    let (q, nodes) = (queue.clone(), ctx.shared.nodes.clone());
    ctx.shared.pods.on_change(move |c| {
        let pod = c.object();
        let node = nodes.get(&Key::new("", pods::node_name(pod)));
        let taints = node.as_ref().and_then(|n| n.spec.as_ref()).and_then(|s| s.taints.as_ref());
        if taints.is_some_and(|t| t.iter().any(|t| t.effect == "NoExecute")) {
            q.add(Key::of(&pod.metadata));
        }
    });
    ctx.shared.nodes.synced().await;
    ctx.shared.pods.synced().await;
    let cancel = ctx.cancel.clone();
    let ctx = Arc::new(ctx);
    run_workers(EVICTION, queue, WORKERS, cancel, move |key| {
        let ctx = ctx.clone();
        async move { evict(&ctx, key).await }
    })
    .await;
}

async fn evict(ctx: &Context, key: Key) -> Result<Outcome> {
    let Some(pod) = ctx.shared.pods.get(&key).filter(|p| pods::is_active(p)) else { return Ok(Outcome::Done) };
    let Some(node) = ctx.shared.nodes.get(&Key::new("", pods::node_name(&pod))) else { return Ok(Outcome::Done) };
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    match plan::may_stay(&pod, taints, Timestamp::now()) {
        None => return Ok(Outcome::Done),
        Some(left) if !left.is_zero() => return Ok(Outcome::After(left + Duration::from_millis(50))),
        Some(_) => {}
    }
    ctx.recorder.event(&*pod, EventType::Normal, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
    disrupt(ctx, &pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", None).await?;
    let uid = pod.metadata.uid.clone();
    let params = DeleteParams::default().preconditions(Preconditions { uid, resource_version: None });
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &key.namespace);
    match api.delete(&key.name, &params).await.doing(|| format!("evicting Pod {key}")) {
        Err(e) if !e.is_not_found() && !e.is_conflict() => Err(e),
        _ => Ok(Outcome::Done),
    }
}

/// Says on the Pod why it is going to be deleted (KEP-3329), and ends it if `phase` is given.
pub(crate) async fn disrupt(ctx: &Context, pod: &Pod, reason: &str, message: &str, phase: Option<&str>) -> Result<()> {
    let key = Key::of(&pod.metadata);
    let mut body = serde_json::json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
        "type": "DisruptionTarget", "status": "True", "reason": reason, "message": message,
        "lastTransitionTime": now(), "observedGeneration": pod.metadata.generation}]}});
    if let Some(phase) = phase {
        body["status"]["phase"] = phase.into();
    }
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &key.namespace);
    match api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(body))
        .await
        .doing(|| format!("noting on Pod {key} why it is deleted"))
    {
        Err(e) if !e.is_not_found() => Err(e),
        _ => Ok(()),
    }
}
