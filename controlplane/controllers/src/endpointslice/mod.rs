//! EndpointSlices of Services with selectors: wiring and writes. What they hold is decided in [`plan`].

pub mod plan;
#[cfg(test)]
mod tests;

use crate::Context;
use crate::backing::{self, TriggerTimes};
use crate::runtime::{Change, Doing, Error, EventType, Key, Outcome, Result, WorkQueue, labels, run_workers};
use crate::shared::{BY_NODE, BY_SERVICE, SERVICE_NAME_LABEL};
use futures::future::join_all;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use parking_lot::Mutex;
use std::sync::Arc;

const NAME: &str = "endpointslice-controller";
const WORKERS: usize = 5;

/// Runs the controller until cancelled.
pub(crate) async fn run(ctx: Context) {
    let queue = WorkQueue::new();
    let q = queue.clone();
    ctx.shared.services.on_change(move |c| q.add(Key::of(&c.object().metadata)));
    let (q, services) = (queue.clone(), ctx.shared.services.clone());
    ctx.shared.pods.on_change(move |c| {
        for key in backing::concerned(&services, c) {
            q.add(key);
        }
    });
    // Somebody else's change to a slice of ours is put right.
    let q = queue.clone();
    ctx.shared.endpoint_slices.on_change(move |c| {
        let slice = c.object();
        if let (true, Some(service)) = (is_ours(slice), service_of(slice)) {
            q.add(Key::new(slice.metadata.namespace.clone().unwrap_or_default(), service));
        }
    });
    // A node's zone is part of its Pods' endpoints.
    let (q, shared) = (queue.clone(), ctx.shared.clone());
    ctx.shared.nodes.on_change(move |c| {
        let zone = |n: &Node| n.metadata.labels.as_ref().and_then(|l| l.get("topology.kubernetes.io/zone").cloned());
        if let Change::Updated(old, new) = c
            && zone(old) != zone(new)
        {
            for pod in shared.pods.by_index(BY_NODE, new.metadata.name.as_deref().unwrap_or_default()) {
                for key in backing::concerned(&shared.services, &Change::Added(pod)) {
                    q.add(key);
                }
            }
        }
    });
    ctx.shared.services.synced().await;
    ctx.shared.pods.synced().await;
    ctx.shared.endpoint_slices.synced().await;
    ctx.shared.nodes.synced().await;
    let cancel = ctx.cancel.clone();
    let (ctx, times) = (Arc::new(ctx), Arc::new(Mutex::new(TriggerTimes::default())));
    run_workers(NAME, queue, WORKERS, cancel, move |key| {
        let (ctx, times) = (ctx.clone(), times.clone());
        async move { sync(&ctx, &times, key).await }
    })
    .await;
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.as_ref().and_then(|l| l.get(plan::MANAGED_BY_LABEL)).is_some_and(|m| m == plan::MANAGER)
}

fn service_of(slice: &EndpointSlice) -> Option<String> {
    slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL).cloned()
}

async fn sync(ctx: &Context, times: &Mutex<TriggerTimes>, key: Key) -> Result<Outcome> {
    let Some(service) = ctx.shared.services.get(&key) else {
        // Its slices go with it through their owner references.
        times.lock().forget(&key);
        return Ok(Outcome::Done);
    };
    if !backing::selects(&service) || service.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::Done);
    }
    let selector = service.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
    let mut selected = ctx.shared.pods.in_namespace(&key.namespace);
    selected.retain(|p| labels::contains(p.metadata.labels.as_ref(), &selector));
    let mut existing = ctx.shared.endpoint_slices.by_index(BY_SERVICE, &format!("{}/{}", key.namespace, key.name));
    existing.retain(|s| is_ours(s) && s.metadata.deletion_timestamp.is_none());
    let trigger = times.lock().compute(&key, &service, selected.iter().map(|p| &**p));

    let node = |name: &str| ctx.shared.nodes.get(&Key::new("", name));
    let plan = plan::plan(&service, &selected, &existing, node, trigger);
    if plan.is_empty() {
        return Ok(Outcome::Done);
    }
    apply(ctx, &key, plan).await.inspect_err(|e| {
        if !e.is_namespace_terminating() && !e.is_conflict() {
            let text = format!("Error updating Endpoint Slices for Service {key}: {e}");
            ctx.recorder.event(&*service, EventType::Warning, "FailedToUpdateEndpointSlices", text);
        }
    })?;
    Ok(Outcome::Done)
}

/// Creations and updates before deletions, so that no endpoint is missing in between.
async fn apply(ctx: &Context, key: &Key, plan: plan::Plan) -> Result<()> {
    let api: Api<EndpointSlice> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let store = &ctx.shared.endpoint_slices;
    let (api, store) = (&api, &**store);
    let created = plan.create.into_iter().map(|slice| async move {
        match api
            .create(&PostParams::default(), &slice)
            .await
            .doing(|| format!("creating an EndpointSlice of Service {key}"))
        {
            Ok(made) => {
                store.wrote(made);
                Ok(())
            }
            Err(e) if e.is_namespace_terminating() => Ok(()),
            Err(e) => Err(e),
        }
    });
    Error::collect(join_all(created).await)?;
    let updated = plan.update.into_iter().map(|slice| async move {
        let name = slice.metadata.name.clone().unwrap_or_default();
        let new = api
            .replace(&name, &PostParams::default(), &slice)
            .await
            .doing(|| format!("updating EndpointSlice {}/{name}", key.namespace))?;
        store.wrote(new);
        Ok(())
    });
    Error::collect(join_all(updated).await)?;
    let deleted = plan.delete.into_iter().map(|slice| async move {
        let (of, uid) = (Key::of(&slice.metadata), slice.metadata.uid.clone().unwrap_or_default());
        let params =
            DeleteParams::default().preconditions(Preconditions { uid: Some(uid.clone()), resource_version: None });
        match api.delete(&of.name, &params).await.doing(|| format!("deleting EndpointSlice {of}")) {
            Err(e) if !e.is_not_found() => Err(e),
            _ => {
                store.removed(&of, &uid);
                Ok(())
            }
        }
    });
    Error::collect(join_all(deleted).await).map(|_| ())
}
