//! The NodeRestriction admission rules: a kubelet writes its own Node, Lease and CSINode, the status of its own Pods,
//! and tokens for them; and it does not give itself labels or taints that others rely on. A pure function.

use crate::{Denied, Lookup, UserInfo, node_name};
use serde_json::Value;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

/// One write, as admission sees it.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    pub operation: Operation,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// As it will be; null on delete.
    pub object: &'a Value,
    /// As it is; null on create.
    pub old: &'a Value,
}

const MIRROR: &str = "kubernetes.io/config.mirror";

/// Label keys of the kubernetes.io and k8s.io domains that a kubelet may set on its Node.
const NODE_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.kubernetes.io/region",
    "failure-domain.kubernetes.io/zone",
    "topology.kubernetes.io/",
];

/// Refuses what a kubelet must not write; writes of other users pass.
pub fn node_restriction(user: &UserInfo, write: &Write<'_>, lookup: &dyn Lookup) -> Result<(), Denied> {
    if !user.in_group(crate::groups::NODES) || !user.name.starts_with(crate::names::NODE_PREFIX) {
        return Ok(());
    }
    let refuse = |cause: String| Err(Denied::new(write.group, write.resource, write.name, cause));
    let Some(node) = node_name(user) else {
        return refuse(format!("could not determine node from user {:?}", user.name));
    };
    let verdict = match (write.group, write.resource, write.subresource) {
        ("", "pods", "") => pod(node, write),
        ("", "pods", "status") => pod_status(node, write),
        ("", "pods", "eviction") => eviction(node, write, lookup),
        ("", "nodes", "" | "status") => node_object(node, write),
        ("", "persistentvolumeclaims", "status") => claim_status(node, write),
        ("", "serviceaccounts", "token") => token(node, write, lookup),
        ("coordination.k8s.io", "leases", _) => lease(node, write),
        ("storage.k8s.io", "csinodes", _) => same_name(node, write, "CSINode"),
        ("resource.k8s.io", "resourceslices", _) => resource_slice(node, write),
        _ => Ok(()),
    };
    verdict.or_else(refuse)
}

type Verdict = Result<(), String>;

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn is_mirror(pod: &Value) -> bool {
    !pod["metadata"]["annotations"][MIRROR].is_null()
}

fn pod(node: &str, write: &Write<'_>) -> Verdict {
    match write.operation {
        Operation::Create => create_mirror(node, write.object),
        Operation::Delete => {
            let bound = text(&write.old["spec"], "nodeName");
            if bound == node || write.old.is_null() {
                Ok(())
            } else {
                Err(format!("node {node:?} can only delete pods with spec.nodeName set to itself"))
            }
        }
        Operation::Update => {
            Err(format!("unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"))
        }
    }
}

/// A kubelet creates Pods only to show what it already runs, and these may not refer to anything.
fn create_mirror(node: &str, pod: &Value) -> Verdict {
    if !is_mirror(pod) {
        return Err(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
    }
    if text(&pod["spec"], "nodeName") != node {
        return Err(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
    }
    let owners = pod["metadata"]["ownerReferences"].as_array();
    for owner in owners.into_iter().flatten() {
        let own = text(owner, "apiVersion") == "v1" && text(owner, "kind") == "Node" && text(owner, "name") == node;
        if !own || owner["blockOwnerDeletion"] == true {
            return Err(format!("node {node:?} can only create pods owned by itself"));
        }
    }
    if !text(&pod["spec"], "serviceAccountName").is_empty() {
        return Err(format!("node {node:?} can not create pods that reference a service account"));
    }
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    for volume in volumes {
        for kind in ["secret", "configMap", "persistentVolumeClaim", "projected", "ephemeral"] {
            if volume[kind].is_object() {
                return Err(format!("node {node:?} can not create pods that reference a {kind} volume"));
            }
        }
    }
    let refers =
        ["containers", "initContainers"].iter().flat_map(|c| pod["spec"][*c].as_array()).flatten().any(|c| {
            c["envFrom"].as_array().is_some_and(|e| !e.is_empty())
                || c["env"].as_array().into_iter().flatten().any(|e| {
                    e["valueFrom"]["secretKeyRef"].is_object() || e["valueFrom"]["configMapKeyRef"].is_object()
                })
        });
    if refers {
        return Err(format!("node {node:?} can not create pods that reference secrets or configmaps"));
    }
    Ok(())
}

fn pod_status(node: &str, write: &Write<'_>) -> Verdict {
    if write.operation != Operation::Update {
        return Err("unexpected operation on pods/status".into());
    }
    if text(&write.old["spec"], "nodeName") != node {
        return Err(format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself"));
    }
    if write.object["metadata"]["labels"] != write.old["metadata"]["labels"]
        && !(is_empty(&write.object["metadata"]["labels"]) && is_empty(&write.old["metadata"]["labels"]))
    {
        return Err(format!("node {node:?} cannot update labels through pod status"));
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_none_or(serde_json::Map::is_empty)
}

fn eviction(node: &str, write: &Write<'_>, lookup: &dyn Lookup) -> Verdict {
    let name = if write.name.is_empty() { text(&write.object["metadata"], "name") } else { write.name };
    match lookup.get("", "pods", write.namespace, name) {
        Some(pod) if text(&pod["spec"], "nodeName") == node => Ok(()),
        Some(_) => Err(format!("node {node:?} can only evict pods with spec.nodeName set to itself")),
        None => Err(format!("pods {name:?} not found")),
    }
}

fn claim_status(node: &str, write: &Write<'_>) -> Verdict {
    let fixed = |object: &Value| {
        let mut object = object.clone();
        for key in [
            "capacity",
            "conditions",
            "allocatedResources",
            "allocatedResourceStatuses",
            "currentVolumeAttributesClassName",
            "modifyVolumeStatus",
        ] {
            if let Some(status) = object["status"].as_object_mut() {
                status.remove(key);
            }
        }
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.remove("managedFields");
            meta.remove("resourceVersion");
        }
        object
    };
    if write.operation != Operation::Update || fixed(write.object) != fixed(write.old) {
        return Err(format!(
            "node {node:?} is not allowed to update fields other than status.capacity and status.conditions"
        ));
    }
    Ok(())
}

fn same_name(node: &str, write: &Write<'_>, kind: &str) -> Verdict {
    let name = match write.operation {
        Operation::Create => text(&write.object["metadata"], "name"),
        _ => write.name,
    };
    if name == node { Ok(()) } else { Err(format!("can only access {kind} with the same name as the requesting node")) }
}

fn lease(node: &str, write: &Write<'_>) -> Verdict {
    if write.namespace != "kube-node-lease" {
        return Err("can only access leases in the \"kube-node-lease\" system namespace".into());
    }
    same_name(node, write, "node lease")
}

fn resource_slice(node: &str, write: &Write<'_>) -> Verdict {
    let object = if write.operation == Operation::Create { write.object } else { write.old };
    if object.is_null() || text(&object["spec"], "nodeName") == node {
        return Ok(());
    }
    Err("can only create, update or delete ResourceSlices with spec.nodeName set to the requesting node".into())
}

fn token(node: &str, write: &Write<'_>, lookup: &dyn Lookup) -> Verdict {
    let bound = &write.object["spec"]["boundObjectRef"];
    if text(bound, "kind") != "Pod" || text(bound, "apiVersion") != "v1" {
        return Err(format!("node {node:?} may only request tokens bound to a pod"));
    }
    let (name, uid) = (text(bound, "name"), text(bound, "uid"));
    if uid.is_empty() {
        return Err(format!("node {node:?} may only request tokens with a UID of the pod"));
    }
    let Some(pod) = lookup.get("", "pods", write.namespace, name) else {
        return Err(format!("pods {name:?} not found"));
    };
    if text(&pod["metadata"], "uid") != uid {
        return Err(format!("the UID in the bound object reference ({uid}) does not match the UID in record"));
    }
    if text(&pod["spec"], "nodeName") != node {
        return Err(format!("node requested token bound to a pod scheduled on a different node: {name:?}"));
    }
    if text(&pod["spec"], "serviceAccountName") != write.name {
        return Err(format!("node {node:?} may only request tokens for the service account of the pod"));
    }
    Ok(())
}

/// Keys that a kubelet may not set, change or remove on its Node.
fn reserved(key: &str) -> bool {
    let Some((domain, _)) = key.split_once('/') else { return false };
    let under = |of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    if under("node-restriction.kubernetes.io") {
        return true;
    }
    if !under("kubernetes.io") && !under("k8s.io") {
        return false;
    }
    let known = NODE_LABELS.iter().any(|label| match label.strip_suffix('/') {
        Some(prefix) => domain == prefix,
        None => key == *label,
    });
    !(known || under("kubelet.kubernetes.io") || under("node.kubernetes.io"))
}

fn node_object(node: &str, write: &Write<'_>) -> Verdict {
    let name = if write.name.is_empty() { text(&write.object["metadata"], "name") } else { write.name };
    if name != node {
        return Err(format!("node {node:?} is not allowed to modify node {name:?}"));
    }
    if write.operation == Operation::Delete {
        return Err(format!("node {node:?} is not allowed to delete its Node"));
    }
    let (new, old) = (&write.object["metadata"]["labels"], &write.old["metadata"]["labels"]);
    let keys = |labels: &Value| labels.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect::<Vec<_>>();
    let mut touched: Vec<String> =
        keys(new).into_iter().chain(keys(old)).filter(|k| new[k.as_str()] != old[k.as_str()] && reserved(k)).collect();
    touched.sort();
    touched.dedup();
    if !touched.is_empty() {
        return Err(format!("is not allowed to modify labels: {}", touched.join(", ")));
    }
    if write.operation == Operation::Create {
        if !write.object["spec"]["configSource"].is_null() {
            return Err(format!("node {node:?} is not allowed to create pods with a non-nil configSource"));
        }
        return Ok(());
    }
    let taints = |object: &Value| object["spec"]["taints"].as_array().cloned().unwrap_or_default();
    if taints(write.object) != taints(write.old) {
        return Err(format!("node {node:?} is not allowed to modify taints"));
    }
    if write.object["metadata"]["ownerReferences"] != write.old["metadata"]["ownerReferences"] {
        return Err(format!("node {node:?} is not allowed to modify ownerReferences"));
    }
    Ok(())
}
