//! The objects that the server itself keeps: what strake-auth says a cluster begins with, the `kubernetes` Service
//! and its endpoints, the DNS Service, and what others need to find and trust the API.

mod services;

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use strake_auth::bootstrap::{Object, Reconcile, Settings, objects};
use strake_machinery::{ApiError, meta};

use crate::{
    api::Api,
    registry::{
        Op, Warnings, create,
        update::{self, OnRace},
    },
    system,
};

/// How many objects are written at once; the store commits them together.
const PARALLEL: usize = 64;

/// Why the cluster's own objects could not be made.
#[derive(Debug, thiserror::Error)]
#[error("bootstrapping {what}: {source}")]
pub struct BootstrapError {
    /// Resource, namespace and name.
    pub what: String,
    /// The refusal.
    pub source: ApiError,
}

/// Brings the server's own objects into being, or up to date. Harmless to repeat.
///
/// # Errors
/// Names the object that could not be written.
pub async fn run(api: &Arc<Api>) -> Result<(), BootstrapError> {
    let cidrs: Vec<String> = api.config.service_cidrs().map(|cidr| cidr.to_string()).collect();
    let cidrs: Vec<&str> = cidrs.iter().map(String::as_str).collect();
    let mut all = objects(&Settings { service_cidrs: &cidrs });
    let rest = all.split_off(all.iter().take_while(|object| object.resource == "namespaces").count());
    // Namespaces first: the others are in them.
    for batch in [all, rest] {
        futures::stream::iter(batch)
            .map(|object| async move { ensure(api, object).await })
            .buffer_unordered(PARALLEL)
            .try_collect::<()>()
            .await?;
    }
    services::run(api).await?;
    for (namespace, name, data) in config_maps(api) {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data});
        set(api, "", "configmaps", namespace, name, object, &["data"]).await?;
    }
    Ok(())
}

fn config_maps(api: &Api) -> Vec<(&'static str, &'static str, Value)> {
    let ca = api.pki.ca_pem();
    let cluster = format!(
        "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: https://{}\n  name: \"\"\n\
         contexts: null\ncurrent-context: \"\"\nkind: Config\npreferences: {{}}\nusers: null\n",
        STANDARD.encode(ca),
        system::authority(api)
    );
    vec![
        ("kube-system", "extension-apiserver-authentication", json!({"client-ca-file": ca})),
        ("kube-public", "cluster-info", json!({"kubeconfig": cluster})),
    ]
}

fn failed<'a>(
    resource: &'a str,
    namespace: &'a str,
    name: &'a str,
) -> impl FnOnce(ApiError) -> BootstrapError + use<'a> {
    move |source| BootstrapError { what: format!("{resource} {namespace}/{name}"), source }
}

/// Creates an object if it is not there; a race with another server is no failure.
async fn add(
    api: &Arc<Api>,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
    object: Value,
) -> Result<(), BootstrapError> {
    let warnings = Warnings::default();
    let made = async {
        let op = Op::internal(api, group, resource, namespace, name, &warnings)?;
        create::create(&op, object).await.map(|_| ())
    };
    match made.await {
        Err(error) if !error.is_already_exists() => Err(failed(resource, namespace, name)(error)),
        _ => Ok(()),
    }
}

/// Creates an object, or sets the given top-level fields of the one that is there.
async fn set(
    api: &Arc<Api>,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
    object: Value,
    fields: &[&str],
) -> Result<(), BootstrapError> {
    let Some(there) = api.lookup(group, resource, namespace, name) else {
        return add(api, group, resource, namespace, name, object).await;
    };
    if fields.iter().all(|field| there.get(*field) == object.get(*field)) {
        return Ok(());
    }
    change(api, group, resource, namespace, name, |new| {
        for field in fields {
            new[*field] = object[*field].clone();
        }
    })
    .await
}

async fn change(
    api: &Arc<Api>,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
    edit: impl Fn(&mut Value),
) -> Result<(), BootstrapError> {
    let warnings = Warnings::default();
    let changed = async {
        let op = Op::internal(api, group, resource, namespace, name, &warnings)?;
        update::update(&op, OnRace::Retry, |old| {
            let mut new = old.cloned().ok_or_else(|| op.not_found())?;
            edit(&mut new);
            Ok(new)
        })
        .await
    };
    changed.await.map(|_| ()).map_err(failed(resource, namespace, name))
}

async fn ensure(api: &Arc<Api>, object: Object) -> Result<(), BootstrapError> {
    let Object { group, resource, namespace, name, reconcile, value } = object;
    let Some(there) = api.lookup(group, resource, &namespace, &name) else {
        return add(api, group, resource, &namespace, &name, value).await;
    };
    let kept = |annotation: &str| meta::annotation(&there, annotation) == Some("false");
    match reconcile {
        Reconcile::FlowControl if !kept("apf.kubernetes.io/autoupdate-spec") => {
            set(api, group, resource, &namespace, &name, value, &["spec"]).await
        }
        Reconcile::ServiceCidr => {
            let (have, want) = (meta::list_at(&there, &["spec", "cidrs"]), meta::list_at(&value, &["spec", "cidrs"]));
            if have == want {
                return Ok(());
            }
            if !want.starts_with(have) {
                // Its addresses are in use: upstream leaves it too, and so does validation.
                tracing::warn!(
                    ?have,
                    ?want,
                    "ServiceCIDR {name} is not what --service-cidr says, and cannot become it"
                );
                return Ok(());
            }
            set(api, group, resource, &namespace, &name, value, &["spec"]).await
        }
        Reconcile::Rbac if !kept("rbac.authorization.kubernetes.io/autoupdate") => {
            if there.get("roleRef") != value.get("roleRef") {
                // A binding's role cannot be changed: upstream replaces the binding.
                return replace(api, group, resource, &namespace, &name, value).await;
            }
            let lists = ["rules", "subjects"];
            let missing = |list: &str, new: &Value| -> Vec<Value> {
                let have = meta::list_at(new, &[list]);
                meta::list_at(&value, &[list]).iter().filter(|one| !have.contains(one)).cloned().collect()
            };
            // Aggregated roles are filled in by their controller.
            if value.get("aggregationRule").is_some() || lists.iter().all(|list| missing(list, &there).is_empty()) {
                return Ok(());
            }
            change(api, group, resource, &namespace, &name, |new| {
                for list in lists {
                    let more = missing(list, new);
                    if more.is_empty() {
                        continue;
                    }
                    match new.get_mut(list).and_then(Value::as_array_mut) {
                        Some(have) => have.extend(more),
                        None => new[list] = Value::Array(more),
                    }
                }
            })
            .await
        }
        _ => Ok(()),
    }
}

async fn replace(
    api: &Arc<Api>,
    group: &str,
    resource: &str,
    namespace: &str,
    name: &str,
    value: Value,
) -> Result<(), BootstrapError> {
    let warnings = Warnings::default();
    let removed = async {
        let op = Op::internal(api, group, resource, namespace, name, &warnings)?;
        crate::registry::delete::delete(&op, &Default::default()).await
    };
    match removed.await {
        Err(error) if !error.is_not_found() => return Err(failed(resource, namespace, name)(error)),
        _ => {}
    }
    add(api, group, resource, namespace, name, value).await
}
