//! ServiceAccount: every Pod runs as one, and its containers find a bound token, the cluster's CA and their namespace
//! under one path (KEP-1205).

use serde_json::{Value, json};

use crate::walk::{Walk, each, list_mut, put, with};

/// Where containers look for their credentials.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What the plugin needs of the ServiceAccount.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServiceAccountInfo {
    /// `automountServiceAccountToken`, if set.
    pub automount: Option<bool>,
    /// `imagePullSecrets`.
    pub image_pull_secrets: Vec<Value>,
}

impl ServiceAccountInfo {
    /// Reads it from the object.
    pub fn of(account: &Value) -> Self {
        ServiceAccountInfo {
            automount: account.flag("automountServiceAccountToken"),
            image_pull_secrets: account.list("imagePullSecrets").to_vec(),
        }
    }
}

/// The ServiceAccount a Pod asks for, `default` if none. The API server must find it before [`apply_service_account`];
/// if it is missing the Pod is refused with 403. `None` for mirror Pods, which have none.
pub fn service_account_name(pod: &Value) -> Option<&str> {
    if pod.at("metadata").at("annotations").has(MIRROR) {
        return None;
    }
    let name = pod.at("spec").text("serviceAccountName");
    Some(if name.is_empty() { "default" } else { name })
}

/// Sets the account's name, mounts its token unless the Pod or the account declines, adds its pull secrets if the Pod
/// has none. `suffix` makes the volume's name unique: five letters or digits.
pub fn apply_service_account(pod: &mut Value, account: &ServiceAccountInfo, suffix: &str) {
    let Some(name) = service_account_name(pod).map(str::to_owned) else { return };
    with(pod, "spec", |s| {
        put(s, "serviceAccountName", name.as_str().into());
        put(s, "serviceAccount", name.as_str().into());
        let automount = s.flag("automountServiceAccountToken").or(account.automount).unwrap_or(true);
        if automount {
            mount_token(s, suffix);
        }
        if s.list("imagePullSecrets").is_empty() && !account.image_pull_secrets.is_empty() {
            put(s, "imagePullSecrets", json!(account.image_pull_secrets));
        }
    });
}

fn mount_token(s: &mut Value, suffix: &str) {
    let existing = s.list("volumes").iter().find(|v| v.text("name").starts_with("kube-api-access-"));
    let (volume, there) = match existing {
        Some(v) => (v.text("name").to_owned(), true),
        None => (format!("kube-api-access-{suffix}"), false),
    };
    let mut used = false;
    for list in ["initContainers", "containers"] {
        each(s, list, |c| {
            if c.list("volumeMounts").iter().any(|m| m.text("mountPath") == MOUNT_PATH) {
                return;
            }
            if let Some(mounts) = list_mut(c, "volumeMounts") {
                mounts.push(json!({ "name": volume, "readOnly": true, "mountPath": MOUNT_PATH }));
                used = true;
            }
        });
    }
    if used
        && !there
        && let Some(volumes) = list_mut(s, "volumes")
    {
        volumes.push(token_volume(&volume));
    }
}

/// One hour and seven seconds: what marks a token mounted by the system, for extended validity.
fn token_volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": 3607, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [
                    { "path": "namespace", "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" } },
                ] } },
            ],
        },
    })
}
