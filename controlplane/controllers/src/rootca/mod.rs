//! Each Namespace that is not being deleted has a ConfigMap `kube-root-ca.crt` with the API server's CA.

use crate::Context;
use crate::runtime::{Doing, Key, Outcome, Result, WorkQueue, run_workers};
use crate::serviceaccount::is_active;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::PostParams;
use std::collections::BTreeMap;
use std::sync::Arc;

const NAME: &str = "root-ca-cert-publisher";
/// The ConfigMap's name.
pub const CONFIG_MAP: &str = "kube-root-ca.crt";
const ENTRY: &str = "ca.crt";
const DESCRIPTION: &str = "The CA that signs the API server's serving certificate, for clients inside the cluster.";

/// Runs the controller until cancelled.
pub(crate) async fn run(ctx: Context) {
    let queue = WorkQueue::new();
    let q = queue.clone();
    ctx.shared.namespaces.on_change(move |c| q.add(c.object().metadata.name.clone().unwrap_or_default()));
    let q = queue.clone();
    ctx.shared.root_ca_config_maps.on_change(move |c| {
        q.add(c.object().metadata.namespace.clone().unwrap_or_default());
    });
    ctx.shared.namespaces.synced().await;
    ctx.shared.root_ca_config_maps.synced().await;
    let cancel = ctx.cancel.clone();
    let ctx = Arc::new(ctx);
    run_workers(NAME, queue, 1, cancel, move |key| {
        let ctx = ctx.clone();
        async move { sync(&ctx, key).await }
    })
    .await;
}

async fn sync(ctx: &Context, namespace: String) -> Result<Outcome> {
    if !ctx.shared.namespaces.get(&Key::new("", &namespace)).is_some_and(|n| is_active(&n)) {
        return Ok(Outcome::Done);
    }
    let data: BTreeMap<String, String> = [(ENTRY.to_string(), ctx.config.pki.ca_pem().to_string())].into();
    let api: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), &namespace);
    let answer = match ctx.shared.root_ca_config_maps.get(&Key::new(&namespace, CONFIG_MAP)) {
        Some(cm) if cm.data.as_ref() == Some(&data) => return Ok(Outcome::Done),
        Some(cm) => {
            let mut new = (*cm).clone();
            new.data = Some(data);
            api.replace(CONFIG_MAP, &PostParams::default(), &new)
                .await
                .doing(|| format!("putting ConfigMap {namespace}/{CONFIG_MAP} right"))
        }
        None => {
            let new = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(CONFIG_MAP.into()),
                    namespace: Some(namespace.clone()),
                    annotations: Some([("kubernetes.io/description".to_string(), DESCRIPTION.to_string())].into()),
                    ..Default::default()
                },
                data: Some(data),
                ..Default::default()
            };
            api.create(&PostParams::default(), &new)
                .await
                .doing(|| format!("creating ConfigMap {namespace}/{CONFIG_MAP}"))
        }
    };
    match answer {
        Ok(written) => {
            ctx.shared.root_ca_config_maps.wrote(written);
            Ok(Outcome::Done)
        }
        Err(e) if e.is_namespace_terminating() || e.is_not_found() => Ok(Outcome::Done),
        Err(e) => Err(e),
    }
}
