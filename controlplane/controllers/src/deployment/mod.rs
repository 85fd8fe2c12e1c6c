//! Deployments roll ReplicaSets: wiring and writes. What to do is decided in [`plan`].

pub mod plan;
pub mod sets;
pub mod status;
#[cfg(test)]
mod tests;

use crate::Context;
use crate::runtime::{Change, Doing, EventType, Key, Outcome, Result, WorkQueue, labels, ownership, run_workers};
use crate::shared::{BY_CONTROLLER, Shared, orphans};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use plan::Action;
use status::Reason;
use std::sync::Arc;

const NAME: &str = "deployment-controller";
const WORKERS: usize = 5;

/// Runs the controller until cancelled.
pub(crate) async fn run(ctx: Context) {
    let queue = WorkQueue::new();
    let q = queue.clone();
    ctx.shared.deployments.on_change(move |c| q.add(Key::of(&c.object().metadata)));
    let (q, shared) = (queue.clone(), ctx.shared.clone());
    ctx.shared.replica_sets.on_change(move |c| {
        for key in concerned(&shared, c) {
            q.add(key);
        }
    });
    // Recreate waits for the last old Pod to go.
    let (q, shared) = (queue.clone(), ctx.shared.clone());
    ctx.shared.pods.on_change(move |c| {
        let Change::Deleted(pod) = c else { return };
        let ns = pod.metadata.namespace.clone().unwrap_or_default();
        let owner = ownership::controller_of(&pod.metadata).filter(|r| r.kind == "ReplicaSet");
        let set = owner.and_then(|r| shared.replica_sets.get(&Key::new(ns.clone(), r.name.clone())));
        if let Some(d) = set.and_then(|s| ownership::controller_of(&s.metadata).cloned()) {
            let key = Key::new(ns, d.name);
            if shared.deployments.get(&key).is_some_and(|d| !sets::is_rolling(&d)) {
                q.add(key);
            }
        }
    });
    ctx.shared.deployments.synced().await;
    ctx.shared.replica_sets.synced().await;
    ctx.shared.pods.synced().await;
    let cancel = ctx.cancel.clone();
    let ctx = Arc::new(ctx);
    run_workers(NAME, queue, WORKERS, cancel, move |key| {
        let ctx = ctx.clone();
        async move { Box::pin(sync(&ctx, key)).await }
    })
    .await;
}

/// The Deployments a ReplicaSet's change is about.
fn concerned(shared: &Shared, change: &Change<ReplicaSet>) -> Vec<Key> {
    let owner = |rs: &ReplicaSet| {
        ownership::controller_of(&rs.metadata)
            .filter(|r| r.kind == "Deployment")
            .map(|r| Key::new(rs.metadata.namespace.clone().unwrap_or_default(), r.name.clone()))
    };
    let rs = change.object();
    let mut keys: Vec<Key> = owner(rs).into_iter().chain(change.old().and_then(|o| owner(o))).collect();
    keys.dedup();
    if ownership::controller_of(&rs.metadata).is_none() && rs.metadata.labels.is_some() {
        for d in shared.deployments.in_namespace(rs.metadata.namespace.as_deref().unwrap_or_default()) {
            if let Some(spec) = &d.spec
                && !labels::is_empty(&spec.selector)
                && labels::matches(&spec.selector, rs.metadata.labels.as_ref())
            {
                keys.push(Key::of(&d.metadata));
            }
        }
    }
    keys
}

async fn sync(ctx: &Context, key: Key) -> Result<Outcome> {
    let Some(d) = ctx.shared.deployments.get(&key) else { return Ok(Outcome::Done) };
    let Some(spec) = &d.spec else { return Ok(Outcome::Done) };
    let deployments: Api<Deployment> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let sets: Api<ReplicaSet> = Api::namespaced(ctx.client.clone(), &key.namespace);

    let mut candidates = ctx.shared.replica_sets.by_index(BY_CONTROLLER, d.metadata.uid.as_deref().unwrap_or_default());
    if !labels::is_empty(&spec.selector) {
        candidates.extend(ctx.shared.replica_sets.by_index(BY_CONTROLLER, &orphans(&key.namespace)));
    }
    let owned =
        ownership::claim(&deployments, &*d, &spec.selector, &sets, &ctx.shared.replica_sets, candidates).await?;
    let pods: Vec<_> = owned
        .iter()
        .filter_map(|r| r.metadata.uid.as_deref())
        .flat_map(|uid| ctx.shared.pods.by_index(BY_CONTROLLER, uid))
        .collect();

    let plan = plan::plan(&d, &owned, &pods, Timestamp::now());
    for action in plan.actions {
        match action {
            Action::Create(rs) => Box::pin(create(ctx, &deployments, &sets, &d, *rs)).await?,
            Action::Update(rs) => update(ctx, &sets, &rs).await?,
            Action::Delete(rs) => delete(ctx, &sets, &rs).await?,
            Action::Status(revision, status) => write_status(ctx, &deployments, &d, &revision, *status).await?,
            Action::Event(kind, reason, message) => ctx.recorder.event(&*d, kind, reason, message),
        }
    }
    Ok(plan.look_after.into())
}

async fn create(
    ctx: &Context,
    deployments: &Api<Deployment>,
    sets: &Api<ReplicaSet>,
    d: &Deployment,
    rs: ReplicaSet,
) -> Result<()> {
    let key = Key::of(&rs.metadata);
    let answer = sets.create(&PostParams::default(), &rs).await.doing(|| format!("creating ReplicaSet {key}"));
    let error = match answer {
        Ok(made) => {
            ctx.shared.replica_sets.wrote(made);
            return Ok(());
        }
        Err(e) => e,
    };
    if error.is_namespace_terminating() {
        return Ok(());
    }
    let mut status = d.status.clone().unwrap_or_default();
    if error.is_already_exists() {
        let there = sets.get_opt(&key.name).await.doing(|| format!("reading ReplicaSet {key}"))?;
        if let Some(there) = there {
            let uid = d.metadata.uid.as_deref().unwrap_or_default();
            let template = there.spec.as_ref().and_then(|s| s.template.as_ref());
            if ownership::is_controlled_by(&there.metadata, uid)
                && sets::same_template(&sets::spec(d).template, template)
            {
                // Ours, only the cache did not know it yet.
                ctx.shared.replica_sets.wrote(there);
                return Err(error);
            }
            // Another template with the same hash: count the collision, the next attempt has another name.
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            put_status(ctx, deployments, d, None, status).await?;
        }
        return Err(error);
    }
    let name = key.name;
    let message = error.status().map_or_else(|| error.to_string(), |s| s.message.clone());
    let text = format!("Failed to create new replica set \"{name}\": {message}");
    status::progress(d, &mut status, Reason::ReplicaSetCreateError, text.clone(), Timestamp::now());
    if d.status.as_ref() != Some(&status) {
        put_status(ctx, deployments, d, None, status).await?;
    }
    ctx.recorder.event(d, EventType::Warning, "ReplicaSetCreateError", text);
    Err(error)
}

async fn update(ctx: &Context, sets: &Api<ReplicaSet>, rs: &ReplicaSet) -> Result<()> {
    let key = Key::of(&rs.metadata);
    let spec = rs.spec.clone().unwrap_or_default();
    // Only what the plan changes, and only on the version it was planned for.
    let mut body = serde_json::json!({
        "metadata": {"resourceVersion": rs.metadata.resource_version, "annotations": rs.metadata.annotations},
        "spec": {"replicas": spec.replicas},
    });
    if let Some(seconds) = spec.min_ready_seconds {
        body["spec"]["minReadySeconds"] = seconds.into();
    }
    let new = sets
        .patch(&key.name, &PatchParams::default(), &Patch::Merge(body))
        .await
        .doing(|| format!("scaling ReplicaSet {key}"))?;
    ctx.shared.replica_sets.wrote(new);
    Ok(())
}

async fn delete(ctx: &Context, sets: &Api<ReplicaSet>, rs: &ReplicaSet) -> Result<()> {
    let key = Key::of(&rs.metadata);
    let uid = rs.metadata.uid.clone().unwrap_or_default();
    let params =
        DeleteParams::background().preconditions(Preconditions { uid: Some(uid.clone()), resource_version: None });
    match sets.delete(&key.name, &params).await.doing(|| format!("deleting old ReplicaSet {key}")) {
        Ok(answer) => {
            match answer.left() {
                Some(rs) if rs.metadata.deletion_timestamp.is_some() => ctx.shared.replica_sets.wrote(rs),
                _ => ctx.shared.replica_sets.removed(&key, &uid),
            }
            Ok(())
        }
        Err(e) if e.is_not_found() => {
            ctx.shared.replica_sets.removed(&key, &uid);
            Ok(())
        }
        Err(e) => Err(e),
    }
}

async fn write_status(
    ctx: &Context,
    deployments: &Api<Deployment>,
    d: &Deployment,
    revision: &str,
    status: DeploymentStatus,
) -> Result<()> {
    match put_status(ctx, deployments, d, Some(revision), status).await {
        // Gone meanwhile: nobody misses its status.
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}

/// Status and revision annotation in one write, as the stock controller does it; a server that keeps metadata out
/// of status updates gets the annotation in a second one.
async fn put_status(
    ctx: &Context,
    deployments: &Api<Deployment>,
    d: &Deployment,
    revision: Option<&str>,
    status: DeploymentStatus,
) -> Result<()> {
    let key = Key::of(&d.metadata);
    let mut new = d.clone();
    new.status = Some(status);
    let revision = revision.filter(|r| !r.is_empty());
    let annotate = |o: &mut Deployment| {
        if let Some(r) = revision {
            o.metadata.annotations.get_or_insert_default().insert(sets::REVISION.into(), r.into());
        }
    };
    annotate(&mut new);
    let mut written = deployments
        .replace_status(&key.name, &PostParams::default(), &new)
        .await
        .doing(|| format!("updating the status of Deployment {key}"))?;
    let has = written.metadata.annotations.as_ref().and_then(|a| a.get(sets::REVISION));
    if revision.is_some() && has.map(String::as_str) != revision {
        annotate(&mut written);
        written = deployments
            .replace(&key.name, &PostParams::default(), &written)
            .await
            .doing(|| format!("updating the revision of Deployment {key}"))?;
    }
    ctx.shared.deployments.wrote(written);
    Ok(())
}
