//! Each Namespace that is not being deleted has a ServiceAccount `default`.

use crate::Context;
use crate::runtime::{Change, Doing, Key, Outcome, Result, WorkQueue, run_workers};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use std::sync::Arc;

const NAME: &str = "service-account-controller";
const ACCOUNT: &str = "default";

/// Whether objects may still be created in the namespace.
pub(crate) fn is_active(ns: &Namespace) -> bool {
    ns.metadata.deletion_timestamp.is_none()
        && ns.status.as_ref().and_then(|s| s.phase.as_deref()) != Some("Terminating")
}

/// Runs the controller until cancelled.
pub(crate) async fn run(ctx: Context) {
    let queue = WorkQueue::new();
    let q = queue.clone();
    ctx.shared.namespaces.on_change(move |c| q.add(c.object().metadata.name.clone().unwrap_or_default()));
    let q = queue.clone();
    ctx.shared.service_accounts.on_change(move |c| {
        if let Change::Deleted(sa) = c
            && sa.metadata.name.as_deref() == Some(ACCOUNT)
        {
            q.add(sa.metadata.namespace.clone().unwrap_or_default());
        }
    });
    ctx.shared.namespaces.synced().await;
    ctx.shared.service_accounts.synced().await;
    let cancel = ctx.cancel.clone();
    let ctx = Arc::new(ctx);
    run_workers(NAME, queue, 1, cancel, move |key| {
        let ctx = ctx.clone();
        async move { sync(&ctx, key).await }
    })
    .await;
}

async fn sync(ctx: &Context, namespace: String) -> Result<Outcome> {
    let active = ctx.shared.namespaces.get(&Key::new("", &namespace)).is_some_and(|n| is_active(&n));
    if !active || ctx.shared.service_accounts.get(&Key::new(&namespace, ACCOUNT)).is_some() {
        return Ok(Outcome::Done);
    }
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some(ACCOUNT.into()), namespace: Some(namespace.clone()), ..Default::default() },
        ..Default::default()
    };
    match Api::<ServiceAccount>::namespaced(ctx.client.clone(), &namespace)
        .create(&PostParams::default(), &account)
        .await
        .doing(|| format!("creating ServiceAccount {namespace}/{ACCOUNT}"))
    {
        Ok(made) => {
            ctx.shared.service_accounts.wrote(made);
            Ok(Outcome::Done)
        }
        // There already, or the namespace went meanwhile.
        Err(e) if e.is_already_exists() || e.is_namespace_terminating() || e.is_not_found() => Ok(Outcome::Done),
        Err(e) => Err(e),
    }
}
