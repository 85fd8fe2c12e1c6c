//! ReplicaSets keep a number of Pods: wiring and writes. What to do is decided in [`plan`].

pub mod plan;
#[cfg(test)]
mod tests;

use crate::Context;
use crate::runtime::{
    Change, Doing, Error, EventType, Key, Outcome, Result, WorkQueue, labels, ownership, run_workers,
};
use crate::shared::{BY_CONTROLLER, Shared, orphans};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use plan::{Failure, MAX_BURST, Scale};
use std::sync::Arc;

const NAME: &str = "replicaset-controller";
const WORKERS: usize = 5;

/// Runs the controller until cancelled.
pub(crate) async fn run(ctx: Context) {
    let queue = WorkQueue::new();
    let q = queue.clone();
    ctx.shared.replica_sets.on_change(move |c| q.add(Key::of(&c.object().metadata)));
    let (q, shared) = (queue.clone(), ctx.shared.clone());
    ctx.shared.pods.on_change(move |c| {
        for key in concerned(&shared, c) {
            q.add(key);
        }
    });
    ctx.shared.replica_sets.synced().await;
    ctx.shared.pods.synced().await;
    let cancel = ctx.cancel.clone();
    let ctx = Arc::new(ctx);
    run_workers(NAME, queue, WORKERS, cancel, move |key| {
        let ctx = ctx.clone();
        async move { sync(&ctx, key).await }
    })
    .await;
}

/// The ReplicaSets a Pod's change is about: its controller now and before; for an orphan those that could adopt it.
fn concerned(shared: &Shared, change: &Change<Pod>) -> Vec<Key> {
    let owner = |pod: &Pod| {
        ownership::controller_of(&pod.metadata)
            .filter(|r| r.kind == "ReplicaSet")
            .map(|r| Key::new(pod.metadata.namespace.clone().unwrap_or_default(), r.name.clone()))
    };
    let pod = change.object();
    let mut keys: Vec<Key> = owner(pod).into_iter().chain(change.old().and_then(|o| owner(o))).collect();
    keys.dedup();
    if ownership::controller_of(&pod.metadata).is_none() && pod.metadata.labels.is_some() {
        for rs in shared.replica_sets.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default()) {
            if let Some(spec) = &rs.spec
                && !labels::is_empty(&spec.selector)
                && labels::matches(&spec.selector, pod.metadata.labels.as_ref())
            {
                keys.push(Key::of(&rs.metadata));
            }
        }
    }
    keys
}

async fn sync(ctx: &Context, key: Key) -> Result<Outcome> {
    let Some(rs) = ctx.shared.replica_sets.get(&key) else { return Ok(Outcome::Done) };
    let Some(spec) = &rs.spec else { return Ok(Outcome::Done) };
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let sets: Api<ReplicaSet> = Api::namespaced(ctx.client.clone(), &key.namespace);

    let uid = rs.metadata.uid.as_deref().unwrap_or_default();
    let mut candidates = ctx.shared.pods.by_index(BY_CONTROLLER, uid);
    if !labels::is_empty(&spec.selector) {
        candidates.extend(ctx.shared.pods.by_index(BY_CONTROLLER, &orphans(&key.namespace)));
    }
    let owned = ownership::claim(&sets, &*rs, &spec.selector, &pods, &ctx.shared.pods, candidates).await?;

    let now = Timestamp::now();
    let scale = plan::scale(&rs, &owned, || related(ctx, &rs), now);
    let failure = match scale {
        Scale::Keep => Ok(()),
        Scale::Create(n) => create(ctx, &pods, &rs, n).await.map_err(|e| Failure { reason: "FailedCreate", error: e }),
        Scale::Delete(doomed) => {
            delete(ctx, &pods, &rs, doomed).await.map_err(|e| Failure { reason: "FailedDelete", error: e })
        }
    };

    // The store already holds what was just written, so the status is the one after this pass.
    let owned = ctx.shared.pods.by_index(BY_CONTROLLER, uid);
    let now = Timestamp::now();
    let status = plan::status(&rs, &owned, failure.as_ref().err(), now);
    if rs.status.as_ref() != Some(&status) {
        write_status(ctx, &sets, &rs, status).await?;
    }
    failure.map_err(|f| f.error)?;
    Ok(plan::next_look(&rs, &owned, now).into())
}

/// Pods of every ReplicaSet with the same controller: deletion prefers nodes where several of them sit.
fn related(ctx: &Context, rs: &ReplicaSet) -> Vec<Arc<Pod>> {
    match ownership::controller_of(&rs.metadata) {
        Some(owner) => ctx
            .shared
            .replica_sets
            .by_index(BY_CONTROLLER, &owner.uid)
            .iter()
            .filter_map(|r| r.metadata.uid.as_deref())
            .flat_map(|uid| ctx.shared.pods.by_index(BY_CONTROLLER, uid))
            .collect(),
        None => ctx.shared.pods.by_index(BY_CONTROLLER, rs.metadata.uid.as_deref().unwrap_or_default()),
    }
}

/// Creates in batches of 1, 2, 4 ... so that a template nobody accepts costs one request, not hundreds.
async fn create(ctx: &Context, pods: &Api<Pod>, rs: &ReplicaSet, n: usize) -> Result<()> {
    let pod = plan::pod_from_template(rs);
    let (mut left, mut batch) = (n.min(MAX_BURST), 1);
    while left > 0 {
        let now = batch.min(left);
        let answers = join_all((0..now).map(|_| async {
            let made = pods
                .create(&PostParams::default(), &pod)
                .await
                .doing(|| format!("creating a Pod of ReplicaSet {}", Key::of(&rs.metadata)))?;
            let name = made.metadata.name.clone().unwrap_or_default();
            ctx.shared.pods.wrote(made);
            ctx.recorder.event(rs, EventType::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
            Ok(())
        }))
        .await;
        match Error::collect(answers) {
            Ok(_) => {}
            // The whole set is about to go as well.
            Err(e) if e.is_namespace_terminating() => return Ok(()),
            Err(e) => {
                let message = e.status().map_or_else(|| e.to_string(), |s| s.message.clone());
                ctx.recorder.event(rs, EventType::Warning, "FailedCreate", format!("Error creating: {message}"));
                return Err(e);
            }
        }
        left -= now;
        batch *= 2;
    }
    Ok(())
}

async fn delete(ctx: &Context, pods: &Api<Pod>, rs: &ReplicaSet, doomed: Vec<Arc<Pod>>) -> Result<()> {
    let answers = join_all(doomed.iter().take(MAX_BURST).map(|pod| async move {
        let key = Key::of(&pod.metadata);
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let params =
            DeleteParams::default().preconditions(Preconditions { uid: Some(uid.clone()), resource_version: None });
        let answer = pods.delete(&key.name, &params).await.doing(|| format!("deleting Pod {key}"));
        match answer {
            Ok(either) => {
                match either.left() {
                    Some(p) if p.metadata.deletion_timestamp.is_some() => ctx.shared.pods.wrote(p),
                    _ => ctx.shared.pods.removed(&key, &uid),
                }
                ctx.recorder.event(rs, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {}", key.name));
                Ok(())
            }
            Err(e) if e.is_not_found() || e.is_conflict() => {
                ctx.shared.pods.removed(&key, &uid);
                Ok(())
            }
            Err(e) => {
                ctx.recorder.event(rs, EventType::Warning, "FailedDelete", format!("Error deleting: {e}"));
                Err(e)
            }
        }
    }))
    .await;
    Error::collect(answers).map(|_| ())
}

async fn write_status(ctx: &Context, sets: &Api<ReplicaSet>, rs: &ReplicaSet, status: ReplicaSetStatus) -> Result<()> {
    let key = Key::of(&rs.metadata);
    let mut new = rs.clone();
    new.status = Some(status);
    match sets
        .replace_status(&key.name, &PostParams::default(), &new)
        .await
        .doing(|| format!("updating the status of ReplicaSet {key}"))
    {
        Ok(new) => {
            ctx.shared.replica_sets.wrote(new);
            Ok(())
        }
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => Err(e),
    }
}
