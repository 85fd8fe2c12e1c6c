//! Gives each Node a Pod CIDR (`spec.podCIDR`, `spec.podCIDRs`), under the identity node-controller as upstream.

pub mod plan;

use crate::Context;
use crate::runtime::{Change, Doing, Error, EventType, Key, Outcome, Result, WorkQueue, run_workers};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use plan::Pool;
use std::sync::Arc;

const NAME: &str = "node-ipam-controller";

/// Runs the controller until cancelled.
pub(crate) async fn run(ctx: Context) {
    let (network, prefix) = ctx.config.cluster_cidr;
    let pool = Arc::new(Mutex::new(Pool::new(network, prefix, ctx.config.node_cidr_mask)));
    let queue = WorkQueue::new();
    let (q, p) = (queue.clone(), pool.clone());
    ctx.shared.nodes.on_change(move |c| {
        let node = c.object();
        let name = node.metadata.name.clone().unwrap_or_default();
        match (c, node.spec.as_ref().and_then(|s| s.pod_cidr.as_deref()).filter(|c| !c.is_empty())) {
            (Change::Deleted(_), _) => p.lock().release(&name),
            (_, Some(cidr)) => p.lock().occupy(&name, cidr),
            (_, None) => q.add(name),
        }
    });
    // Every CIDR in use must be known before the first one is given.
    ctx.shared.nodes.synced().await;
    let cancel = ctx.cancel.clone();
    let ctx = Arc::new(ctx);
    run_workers(NAME, queue, 1, cancel, move |name| {
        let (ctx, pool) = (ctx.clone(), pool.clone());
        async move { sync(&ctx, &pool, name).await }
    })
    .await;
}

async fn sync(ctx: &Context, pool: &Mutex<Pool>, name: String) -> Result<Outcome> {
    let Some(node) = ctx.shared.nodes.get(&Key::new("", &name)) else { return Ok(Outcome::Done) };
    if node.spec.as_ref().and_then(|s| s.pod_cidr.as_deref()).is_some_and(|c| !c.is_empty()) {
        return Ok(Outcome::Done);
    }
    let Some(cidr) = pool.lock().assign(&name) else {
        let text = format!("Node {name} status is now: CIDRNotAvailable");
        ctx.recorder.event(&*node, EventType::Normal, "CIDRNotAvailable", text);
        return Err(Error::Object { object: format!("Node {name}"), problem: "no Pod CIDR is left for it".into() });
    };
    let body = serde_json::json!({
        "metadata": {"uid": node.metadata.uid},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
    });
    let api: Api<Node> = Api::all(ctx.client.clone());
    match api
        .patch(&name, &PatchParams::default(), &Patch::Strategic(body))
        .await
        .doing(|| format!("giving Node {name} the Pod CIDR {cidr}"))
    {
        Ok(new) => {
            ctx.shared.nodes.wrote(new);
            Ok(Outcome::Done)
        }
        Err(e) if e.is_not_found() => Ok(Outcome::Done),
        Err(e) => Err(e),
    }
}
