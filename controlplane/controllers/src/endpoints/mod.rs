//! Legacy Endpoints objects, which `kubectl describe service` and old clients still read.

pub mod plan;

use crate::Context;
use crate::backing::{self, TriggerTimes};
use crate::runtime::{Doing, EventType, Key, Outcome, Result, WorkQueue, labels, run_workers};
use k8s_openapi::api::core::v1::Endpoints;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use parking_lot::Mutex;
use std::sync::Arc;

const NAME: &str = "endpoint-controller";
const WORKERS: usize = 3;

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
    let q = queue.clone();
    ctx.shared.endpoints.on_change(move |c| q.add(Key::of(&c.object().metadata)));
    ctx.shared.services.synced().await;
    ctx.shared.pods.synced().await;
    ctx.shared.endpoints.synced().await;
    let cancel = ctx.cancel.clone();
    let (ctx, times) = (Arc::new(ctx), Arc::new(Mutex::new(TriggerTimes::default())));
    run_workers(NAME, queue, WORKERS, cancel, move |key| {
        let (ctx, times) = (ctx.clone(), times.clone());
        async move { sync(&ctx, &times, key).await }
    })
    .await;
}

async fn sync(ctx: &Context, times: &Mutex<TriggerTimes>, key: Key) -> Result<Outcome> {
    let api: Api<Endpoints> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let current = ctx.shared.endpoints.get(&key);
    let Some(service) = ctx.shared.services.get(&key) else {
        times.lock().forget(&key);
        if let Some(orphan) = current.filter(|e| plan::is_ours(e)) {
            match api
                .delete(&key.name, &DeleteParams::default())
                .await
                .doing(|| format!("deleting Endpoints {key} of a Service that is gone"))
            {
                Err(e) if !e.is_not_found() => return Err(e),
                _ => ctx.shared.endpoints.removed(&key, orphan.metadata.uid.as_deref().unwrap_or_default()),
            }
        }
        return Ok(Outcome::Done);
    };
    if !backing::selects(&service) || service.metadata.deletion_timestamp.is_some() {
        return Ok(Outcome::Done);
    }
    let selector = service.spec.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
    let mut selected = ctx.shared.pods.in_namespace(&key.namespace);
    selected.retain(|p| labels::contains(p.metadata.labels.as_ref(), &selector));
    let trigger = times.lock().compute(&key, &service, selected.iter().map(|p| &**p));
    let Some(new) = plan::plan(&service, &selected, current.as_deref(), trigger) else { return Ok(Outcome::Done) };
    let answer = match current {
        None => api.create(&PostParams::default(), &new).await.doing(|| format!("creating Endpoints {key}")),
        Some(_) => {
            api.replace(&key.name, &PostParams::default(), &new).await.doing(|| format!("updating Endpoints {key}"))
        }
    };
    match answer {
        Ok(written) => {
            ctx.shared.endpoints.wrote(written);
            Ok(Outcome::Done)
        }
        Err(e) if e.is_namespace_terminating() => Ok(Outcome::Done),
        Err(e) => {
            if !e.is_conflict() && !e.is_already_exists() {
                ctx.recorder.event(&*service, EventType::Warning, "FailedToUpdateEndpoint", e.to_string());
            }
            Err(e)
        }
    }
}
