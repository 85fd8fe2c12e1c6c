//! Small plugins: TaintNodesByCondition, StorageObjectInUseProtection, DefaultStorageClass, DefaultIngressClass,
//! RuntimeClass, and the requester of a certificate.

use serde_json::{Value, json};
use strake_machinery::{ApiError, GroupResource, Kind};

use crate::walk::{Walk, list_mut, object_mut, put, same, with};

/// A new Node takes no Pods until the node lifecycle controller has seen it Ready.
pub fn taint_new_node(node: &mut Value) {
    if let Some(taints) = object_mut(node, "spec").and_then(|s| list_mut(s, "taints"))
        && !taints.iter().any(|t| t.text("key") == "node.kubernetes.io/not-ready" && t.text("effect") == "NoSchedule")
    {
        taints.push(json!({ "key": "node.kubernetes.io/not-ready", "effect": "NoSchedule" }));
    }
}

/// A volume or claim does not go while it is used.
pub fn protect_storage(kind: &Kind, obj: &mut Value) {
    let finalizer = match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "PersistentVolume") => "kubernetes.io/pv-protection",
        ("", "PersistentVolumeClaim") => "kubernetes.io/pvc-protection",
        _ => return,
    };
    if let Some(all) = object_mut(obj, "metadata").and_then(|m| list_mut(m, "finalizers"))
        && !all.iter().any(|f| f.as_str() == Some(finalizer))
    {
        all.push(finalizer.into());
    }
}

/// A class that might be the cluster's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassChoice {
    /// Its name.
    pub name: String,
    /// When it was made, RFC 3339: of several defaults the newest wins, then the first by name.
    pub created: String,
}

fn newest(classes: &[ClassChoice]) -> Option<&str> {
    let best = classes.iter().min_by(|a, b| b.created.cmp(&a.created).then_with(|| a.name.cmp(&b.name)))?;
    Some(&best.name)
}

/// Gives a claim that names no class the default one. `defaults` are the StorageClasses marked as default.
pub fn default_storage_class(claim: &mut Value, defaults: &[ClassChoice]) {
    if claim.at("spec").has("storageClassName")
        || claim.path(&["metadata", "annotations"]).has("volume.beta.kubernetes.io/storage-class")
    {
        return;
    }
    if let Some(name) = newest(defaults) {
        with(claim, "spec", |s| put(s, "storageClassName", name.into()));
    }
}

/// Gives an Ingress that names no class the default one. `defaults` are the IngressClasses marked as default.
pub fn default_ingress_class(ingress: &mut Value, defaults: &[ClassChoice]) {
    if ingress.at("spec").has("ingressClassName")
        || ingress.path(&["metadata", "annotations"]).has("kubernetes.io/ingress.class")
    {
        return;
    }
    if let Some(name) = newest(defaults) {
        with(ingress, "spec", |s| put(s, "ingressClassName", name.into()));
    }
}

/// Takes overhead and placement from the Pod's RuntimeClass; `class` is absent if there is none of that name.
/// Errors (403): no such class, an overhead of the Pod's own, a conflicting node selector.
pub fn apply_runtime_class(pod: &mut Value, class: Option<&Value>) -> Result<(), ApiError> {
    let name = pod.at("metadata").text("name").to_owned();
    let wanted = pod.at("spec").text("runtimeClassName").to_owned();
    let refuse = |why: String| Err(ApiError::forbidden(GroupResource { group: "", resource: "pods" }, &name, &why));
    if wanted.is_empty() {
        return match pod.at("spec").has("overhead") {
            true => refuse("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead".into()),
            false => Ok(()),
        };
    }
    let Some(class) = class else {
        return refuse(format!("pod rejected: RuntimeClass {wanted:?} not found"));
    };
    let overhead = class.at("overhead").at("podFixed").clone();
    let given = pod.at("spec").at("overhead");
    if !given.is_null() && !same(given, &overhead) {
        return refuse("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".into());
    }
    let scheduling = class.at("scheduling").clone();
    for (k, v) in scheduling.entries("nodeSelector") {
        let own = pod.path(&["spec", "nodeSelector"]).at(k);
        if !own.is_null() && own != v {
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{k}] = {v}; pod.spec.nodeSelector[{k}] = {own}"
            );
            return refuse(why);
        }
    }
    with(pod, "spec", |s| {
        if !overhead.is_null() {
            put(s, "overhead", overhead);
        }
        for (k, v) in scheduling.entries("nodeSelector") {
            if let Some(map) = object_mut(s, "nodeSelector") {
                put(map, k, v.clone());
            }
        }
        for t in scheduling.list("tolerations") {
            if let Some(all) = list_mut(s, "tolerations")
                && !all.iter().any(|own| same(own, t))
            {
                all.push(t.clone());
            }
        }
    });
    Ok(())
}

/// Writes who asked for a certificate into the request's spec, over whatever the client wrote there.
pub fn set_requester(csr: &mut Value, user: &str, uid: &str, groups: &[String], extra: &Value) {
    with(csr, "spec", |s| {
        put(s, "username", user.into());
        put(s, "uid", if uid.is_empty() { Value::Null } else { uid.into() });
        put(s, "groups", if groups.is_empty() { Value::Null } else { json!(groups) });
        put(
            s,
            "extra",
            if extra.as_object().is_none_or(serde_json::Map::is_empty) { Value::Null } else { extra.clone() },
        );
    });
}
