//! Gives each Node a Pod CIDR of each of the cluster's families (`spec.podCIDR`, `spec.podCIDRs`), under the identity
//! node-controller as upstream.

pub mod plan;

use crate::Context;
use crate::runtime::{Change, Doing, Error, EventType, Key, Outcome, Result, WorkQueue, run_workers};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use plan::Pools;
use std::sync::Arc;

const NAME: &str = "node-ipam-controller";

/// Runs the controller until cancelled.
pub(crate) async fn run(ctx: Context) {
    let networks = std::iter::once(ctx.config.cluster_cidr).chain(ctx.config.secondary_cluster_cidr);
    let pools = Arc::new(Mutex::new(Pools::new(networks)));
    let queue = WorkQueue::new();
    let (q, p) = (queue.clone(), pools.clone());
    ctx.shared.nodes.on_change(move |c| {
        let node = c.object();
        let name = node.metadata.name.clone().unwrap_or_default();
        match (c, pod_cidrs(node)) {
            (Change::Deleted(_), _) => p.lock().release(&name),
            (_, have) if have.is_empty() => q.add(name),
            (_, have) => have.into_iter().for_each(|cidr| p.lock().occupy(&name, cidr)),
        }
    });
    // Every CIDR in use must be known before the first one is given.
    ctx.shared.nodes.synced().await;
    let cancel = ctx.cancel.clone();
    let ctx = Arc::new(ctx);
    run_workers(NAME, queue, 1, cancel, move |name| {
        let (ctx, pools) = (ctx.clone(), pools.clone());
        async move { sync(&ctx, &pools, name).await }
    })
    .await;
}

/// What the Node has; it never changes, so a Node of before the cluster had two families keeps one.
fn pod_cidrs(node: &Node) -> Vec<&str> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    all.map(String::as_str).filter(|cidr| !cidr.is_empty()).collect()
}

async fn sync(ctx: &Context, pools: &Mutex<Pools>, name: String) -> Result<Outcome> {
    let Some(node) = ctx.shared.nodes.get(&Key::new("", &name)) else { return Ok(Outcome::Done) };
    if !pod_cidrs(&node).is_empty() {
        return Ok(Outcome::Done);
    }
    let Some(cidrs) = pools.lock().assign(&name) else {
        let text = format!("Node {name} status is now: CIDRNotAvailable");
        ctx.recorder.event(&*node, EventType::Normal, "CIDRNotAvailable", text);
        return Err(Error::Object { object: format!("Node {name}"), problem: "no Pod CIDR is left for it".into() });
    };
    let body = serde_json::json!({
        "metadata": {"uid": node.metadata.uid},
        "spec": {"podCIDR": cidrs.first(), "podCIDRs": cidrs},
    });
    let api: Api<Node> = Api::all(ctx.client.clone());
    match api
        .patch(&name, &PatchParams::default(), &Patch::Strategic(body))
        .await
        .doing(|| format!("giving Node {name} the Pod CIDR {}", cidrs.join(" and ")))
    {
        Ok(new) => {
            ctx.shared.nodes.wrote(new);
            Ok(Outcome::Done)
        }
        Err(e) if e.is_not_found() => Ok(Outcome::Done),
        Err(e) => Err(e),
    }
}
