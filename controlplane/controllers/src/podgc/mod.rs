//! Pods nobody else will ever remove: of nodes that are gone, deleted before they had a node, on nodes declared
//! out of service, and finished ones beyond the threshold.

use crate::Context;
use crate::nodelifecycle::{disrupt, plan};
use crate::runtime::{Change, Doing, Key, Outcome, Result, WorkQueue, pods, run_workers};
use crate::shared::BY_NODE;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "pod-garbage-collector";
/// A node must have been gone this long: it may only be registering again.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Work {
    Pod(Key),
    /// Count the finished Pods.
    Finished,
}

/// Runs the controller until cancelled.
pub(crate) async fn run(ctx: Context) {
    let queue = WorkQueue::new();
    let (q, nodes) = (queue.clone(), ctx.shared.nodes.clone());
    ctx.shared.pods.on_change(move |c| {
        let pod = c.object();
        if let Change::Deleted(_) = c {
            return;
        }
        let key = Key::of(&pod.metadata);
        let node = pods::node_name(pod);
        if node.is_empty() {
            if pods::is_terminating(pod) {
                q.add(Work::Pod(key));
            }
        } else if nodes.is_synced() && nodes.get(&Key::new("", node)).is_none() {
            q.add_after(Work::Pod(key), QUARANTINE);
        } else if pods::is_terminating(pod) {
            q.add(Work::Pod(key));
        }
        if pods::is_finished(pod) && c.old().is_none_or(|o| !pods::is_finished(o)) {
            q.add(Work::Finished);
        }
    });
    let (q, all) = (queue.clone(), ctx.shared.pods.clone());
    ctx.shared.nodes.on_change(move |c| {
        let node = c.object();
        let delay = match c {
            Change::Deleted(_) => QUARANTINE,
            _ if is_out_of_service(node) => Duration::ZERO,
            _ => return,
        };
        for pod in all.by_index(BY_NODE, node.metadata.name.as_deref().unwrap_or_default()) {
            q.add_after(Work::Pod(Key::of(&pod.metadata)), delay);
        }
    });
    ctx.shared.nodes.synced().await;
    ctx.shared.pods.synced().await;
    // Pods whose node was gone before we came.
    for pod in ctx.shared.pods.list() {
        let node = pods::node_name(&pod);
        if !node.is_empty() && ctx.shared.nodes.get(&Key::new("", node)).is_none() {
            queue.add_after(Work::Pod(Key::of(&pod.metadata)), QUARANTINE);
        }
    }
    let cancel = ctx.cancel.clone();
    let ctx = Arc::new(ctx);
    run_workers(NAME, queue, 2, cancel, move |work| {
        let ctx = ctx.clone();
        async move {
            match work {
                Work::Pod(key) => pod(&ctx, key).await,
                Work::Finished => finished(&ctx).await,
            }
        }
    })
    .await;
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or_default();
    plan::ready(node) != "True" && taints.iter().any(|t| t.key == OUT_OF_SERVICE)
}

async fn pod(ctx: &Context, key: Key) -> Result<Outcome> {
    let Some(pod) = ctx.shared.pods.get(&key) else { return Ok(Outcome::Done) };
    let node = pods::node_name(&pod);
    let why = if node.is_empty() {
        if !pods::is_terminating(&pod) {
            return Ok(Outcome::Done);
        }
        "PodGC: unscheduled terminating pod"
    } else {
        match ctx.shared.nodes.get(&Key::new("", node)) {
            Some(n) if pods::is_terminating(&pod) && is_out_of_service(&n) => "PodGC: node is out of service",
            Some(_) => return Ok(Outcome::Done),
            None => {
                let api: Api<Node> = Api::all(ctx.client.clone());
                let there = api.get_opt(node).await.doing(|| format!("asking whether Node {node} is gone"))?;
                if there.is_some() {
                    return Ok(Outcome::Done);
                }
                "PodGC: node no longer exists"
            }
        }
    };
    let ended = pods::is_finished(&pod);
    if !ended {
        disrupt(ctx, &pod, "DeletionByPodGC", why, Some("Failed")).await?;
    }
    tracing::info!(pod = %key, why, "removing");
    remove(ctx, &pod).await
}

async fn remove(ctx: &Context, pod: &Pod) -> Result<Outcome> {
    let key = Key::of(&pod.metadata);
    let uid = pod.metadata.uid.clone();
    let params = DeleteParams::default().grace_period(0).preconditions(Preconditions { uid, resource_version: None });
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &key.namespace);
    match api.delete(&key.name, &params).await.doing(|| format!("removing Pod {key}")) {
        Err(e) if !e.is_not_found() && !e.is_conflict() => Err(e),
        _ => Ok(Outcome::Done),
    }
}

async fn finished(ctx: &Context) -> Result<Outcome> {
    let keep = ctx.config.terminated_pod_threshold;
    if keep == 0 {
        return Ok(Outcome::Done);
    }
    let mut done = ctx.shared.pods.list();
    done.retain(|p| pods::is_finished(p));
    if done.len() > keep {
        done.sort_by_key(|p| p.metadata.creation_timestamp.as_ref().map(|t| t.0));
        for pod in &done[..done.len() - keep] {
            remove(ctx, pod).await?;
        }
    }
    Ok(Outcome::Done)
}
