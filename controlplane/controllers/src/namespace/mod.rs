//! Empties Namespaces that are being deleted, then lets them go: Pods first, then everything else, whatever kinds
//! the API serves, with the conditions upstream reports meanwhile.

pub mod plan;

use crate::Context;
use crate::discovered::{self, Kind};
use crate::runtime::{Change, Doing, Error, Key, Outcome, Result, WorkQueue, run_workers};
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, Preconditions};
use plan::{FINALIZER, Remaining};
use std::sync::Arc;
use std::time::Duration;

const NAME: &str = "namespace-controller";
const WORKERS: usize = 4;
/// Kinds emptied at the same time in one namespace.
const PARALLEL: usize = 8;
/// Longest time until another look at what waits for somebody else's finalizer.
const FINALIZER_WAIT: Duration = Duration::from_secs(8);

/// Runs the controller until cancelled.
pub(crate) async fn run(ctx: Context) {
    let queue = WorkQueue::new();
    let q = queue.clone();
    ctx.shared.namespaces.on_change(move |c| {
        let ns = c.object();
        if !matches!(c, Change::Deleted(_)) && ns.metadata.deletion_timestamp.is_some() {
            q.add(ns.metadata.name.clone().unwrap_or_default());
        }
    });
    // Each Pod that has gone may have been the last.
    let (q, namespaces) = (queue.clone(), ctx.shared.namespaces.clone());
    ctx.shared.pods.on_change(move |c| {
        if let Change::Deleted(pod) = c {
            let name = pod.metadata.namespace.clone().unwrap_or_default();
            if namespaces.get(&Key::new("", &name)).is_some_and(|n| n.metadata.deletion_timestamp.is_some()) {
                q.add(name);
            }
        }
    });
    ctx.shared.namespaces.synced().await;
    let cancel = ctx.cancel.clone();
    let ctx = Arc::new(ctx);
    run_workers(NAME, queue, WORKERS, cancel, move |name| {
        let ctx = ctx.clone();
        async move { sync(&ctx, name).await }
    })
    .await;
}

async fn sync(ctx: &Context, name: String) -> Result<Outcome> {
    let key = Key::new("", &name);
    let Some(ns) = ctx.shared.namespaces.get(&key) else { return Ok(Outcome::Done) };
    if ns.metadata.deletion_timestamp.is_none() {
        return Ok(Outcome::Done);
    }
    let api: Api<Namespace> = Api::all(ctx.client.clone());
    let finalizers = ns.spec.as_ref().and_then(|s| s.finalizers.clone()).unwrap_or_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        return if finalizers.is_empty() { let_go(ctx, &api, &ns).await } else { Ok(Outcome::Done) };
    }
    let kinds = discovered::kinds(&ctx.client).await;
    let (remaining, failure) = match &kinds {
        Ok(kinds) => empty(ctx, &name, kinds).await,
        Err(_) => (Vec::new(), None),
    };
    let discovery = kinds.as_ref().err().map(ToString::to_string);
    let new = plan::status(&ns, &remaining, failure.as_ref().map(ToString::to_string), discovery);
    if ns.status.as_ref() != Some(&new) {
        let mut changed = (*ns).clone();
        changed.status = Some(new);
        match api
            .replace_status(&name, &PostParams::default(), &changed)
            .await
            .doing(|| format!("updating the status of Namespace {name}"))
        {
            Ok(n) => ctx.shared.namespaces.wrote(n),
            Err(e) if e.is_not_found() => return Ok(Outcome::Done),
            // The status is news; emptying goes on.
            Err(e) => tracing::debug!(namespace = name, error = %e, "status not written"),
        }
    }
    kinds?;
    if let Some(e) = failure {
        return Err(e);
    }
    if let Some(wait) = plan::wait(&remaining, FINALIZER_WAIT) {
        return Ok(Outcome::After(wait));
    }
    let ns = ctx.shared.namespaces.get(&key).unwrap_or(ns);
    let mut done = (*ns).clone();
    if let Some(f) = done.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
        f.retain(|f| f != FINALIZER);
    }
    match api
        .replace_subresource("finalize", &name, &PostParams::default(), &done)
        .await
        .doing(|| format!("finalizing Namespace {name}"))
    {
        Ok(n) => {
            // Gone with its last finalizer, or the watch brings it back here to be let go.
            tracing::debug!(namespace = name, "finalized");
            ctx.shared.namespaces.wrote(n);
            Ok(Outcome::Done)
        }
        Err(e) if e.is_not_found() => Ok(Outcome::Done),
        Err(e) => Err(e),
    }
}

/// A server that does not remove a finalized namespace by itself is asked to.
async fn let_go(ctx: &Context, api: &Api<Namespace>, ns: &Namespace) -> Result<Outcome> {
    let key = Key::of(&ns.metadata);
    let uid = ns.metadata.uid.clone();
    let params = DeleteParams::default().preconditions(Preconditions { uid: uid.clone(), resource_version: None });
    match api.delete(&key.name, &params).await.doing(|| format!("removing Namespace {key}")) {
        Err(e) if e.is_not_found() => {
            ctx.shared.namespaces.removed(&key, uid.as_deref().unwrap_or_default());
            Ok(Outcome::Done)
        }
        Err(e) if e.is_conflict() => Ok(Outcome::Done),
        Err(e) => Err(e),
        Ok(_) => Ok(Outcome::Done),
    }
}

/// Deletes what is in the namespace; what is left, and the first error.
async fn empty(ctx: &Context, namespace: &str, kinds: &[Kind]) -> (Vec<Remaining>, Option<Error>) {
    let mine = |k: &&Kind| k.namespaced && k.can("list") && (k.can("deletecollection") || k.can("delete"));
    let is_pods = |k: &&Kind| k.resource.group.is_empty() && k.resource.plural == "pods";
    let pods: Vec<&Kind> = kinds.iter().filter(mine).filter(is_pods).collect();
    let (left, failure) = empty_kinds(ctx, namespace, pods).await;
    // What Pods use (ConfigMaps, claims, policies) stays until they are gone (KEP-5080).
    if !left.is_empty() || failure.is_some() {
        return (left, failure);
    }
    let rest: Vec<&Kind> = kinds.iter().filter(mine).filter(|k| !is_pods(k) && !plan::is_event(k)).collect();
    let (left, failure) = empty_kinds(ctx, namespace, rest).await;
    if !left.is_empty() || failure.is_some() {
        return (left, failure);
    }
    let events: Vec<&Kind> = kinds.iter().filter(mine).filter(|k| plan::is_event(k)).collect();
    empty_kinds(ctx, namespace, events).await
}

async fn empty_kinds(ctx: &Context, namespace: &str, kinds: Vec<&Kind>) -> (Vec<Remaining>, Option<Error>) {
    let answers: Vec<Result<Option<Remaining>>> = stream::iter(kinds.into_iter().cloned())
        .map(|kind| async move { empty_kind(ctx, namespace, &kind).await })
        .buffer_unordered(PARALLEL)
        .collect()
        .await;
    let (mut left, mut failure) = (Vec::new(), None);
    for answer in answers {
        match answer {
            Ok(r) => left.extend(r),
            Err(e) => {
                failure.get_or_insert(e);
            }
        }
    }
    left.sort_by(|a, b| a.kind.cmp(&b.kind));
    (left, failure)
}

async fn empty_kind(ctx: &Context, namespace: &str, kind: &Kind) -> Result<Option<Remaining>> {
    let api = kind.api(&ctx.client, namespace);
    let list = || async {
        match api.list(&ListParams::default()).await.doing(|| format!("listing {} of {namespace}", kind.name())) {
            Ok(l) => Ok(l.items),
            // The kind went meanwhile, or cannot be listed after all.
            Err(e) if matches!(e.code(), 404 | 405) => Ok(Vec::new()),
            Err(e) => Err(e),
        }
    };
    let items = list().await?;
    if items.iter().any(|o| o.metadata.deletion_timestamp.is_none()) {
        if kind.can("deletecollection") {
            let params = DeleteParams::background();
            match api
                .delete_collection(&params, &ListParams::default())
                .await
                .doing(|| format!("deleting all {} of {namespace}", kind.name()))
            {
                Err(e) if !matches!(e.code(), 404 | 405) => return Err(e),
                _ => {}
            }
        } else {
            for o in &items {
                let name = o.metadata.name.clone().unwrap_or_default();
                match api
                    .delete(&name, &DeleteParams::background())
                    .await
                    .doing(|| format!("deleting {} {namespace}/{name}", kind.name()))
                {
                    Err(e) if !e.is_not_found() => return Err(e),
                    _ => {}
                }
            }
        }
    } else if items.is_empty() {
        return Ok(None);
    }
    let left = list().await?;
    Ok(Remaining::of(kind.name(), left.iter().map(|o| &o.metadata)))
}
