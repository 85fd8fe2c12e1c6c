//! The Node authorizer: a kubelet reads what the Pods bound to its node refer to, and nothing else of the kind.
//! The rules are those of Kubernetes' Node authorization mode, selectors included (KEP-4601). The graph is not kept: a
//! node has few Pods, and they are walked when it asks.

use crate::{Attributes, Lookup, PolicyRule, UserInfo, bootstrap, groups, names};
use serde_json::Value;
use std::sync::{Arc, LazyLock};

pub(crate) enum Verdict {
    Allowed,
    NoOpinion(String),
}

/// The node a user is the kubelet of.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(names::NODE_PREFIX).filter(|name| !name.is_empty())?;
    user.in_group(groups::NODES).then_some(name)
}

/// What every kubelet may do: the rules of the ClusterRole system:node for resources without a rule of their own below.
static COMMON: LazyLock<Vec<PolicyRule>> = LazyLock::new(|| {
    let roles = bootstrap::cluster_roles();
    roles.iter().find(|role| role["metadata"]["name"] == "system:node").map(PolicyRule::all).unwrap_or_default()
});

fn no(reason: impl Into<String>) -> Verdict {
    Verdict::NoOpinion(reason.into())
}

fn allowed_if(allowed: bool, reason: impl FnOnce() -> String) -> Verdict {
    if allowed { Verdict::Allowed } else { Verdict::NoOpinion(reason()) }
}

pub(crate) fn authorize(a: &Attributes<'_>, lookup: &dyn Lookup) -> Verdict {
    if !a.user.in_group(groups::NODES) || !a.user.name.starts_with(names::NODE_PREFIX) {
        return no("");
    }
    let Some(node) = node_name(a.user) else { return no("the user name has no node") };
    if a.is_resource {
        match (a.group, a.resource) {
            ("", "secrets") => return read_of_pods(a, lookup, node, &["get", "list", "watch"], refers_to_secret),
            ("", "configmaps") => {
                return read_of_pods(a, lookup, node, &["get", "list", "watch"], |pod, name, _| {
                    references(pod, "configMap", "configMapRef", "configMapKeyRef", "name").any(|n| n == name)
                });
            }
            ("", "persistentvolumeclaims") if a.subresource == "status" => {
                return match a.verb {
                    "update" | "patch" => of_pods(a, lookup, node, claims_volume),
                    _ => no("can only update the status of a persistent volume claim"),
                };
            }
            ("", "persistentvolumeclaims") => return read_of_pods(a, lookup, node, &["get"], claims_volume),
            ("", "persistentvolumes") => return persistent_volume(a, lookup, node),
            ("resource.k8s.io", "resourceclaims") => {
                return read_of_pods(a, lookup, node, &["get"], |pod, name, _| {
                    let statuses = pod["status"]["resourceClaimStatuses"].as_array();
                    statuses.into_iter().flatten().any(|s| s["resourceClaimName"] == name)
                        || pod["spec"]["resourceClaims"]
                            .as_array()
                            .into_iter()
                            .flatten()
                            .any(|c| c["resourceClaimName"] == name)
                });
            }
            ("storage.k8s.io", "volumeattachments") => {
                let attachment = lookup.get("storage.k8s.io", "volumeattachments", "", a.name);
                let own = a.verb == "get" && attachment.is_some_and(|v| v["spec"]["nodeName"] == node);
                return allowed_if(own, || unrelated(node));
            }
            ("", "serviceaccounts") if a.subresource == "token" => {
                if a.verb != "create" {
                    return no("can only create tokens for service accounts");
                }
                return of_pods(a, lookup, node, |pod, name, _| {
                    pod["spec"]["serviceAccountName"].as_str().unwrap_or("default") == name
                });
            }
            ("coordination.k8s.io", "leases") => return lease(a, node),
            ("storage.k8s.io", "csinodes") => {
                return own_object(a, node, &["get", "create", "update", "patch", "delete"], "CSINode");
            }
            ("resource.k8s.io", "resourceslices") => {
                let own = a.fields.contains(&("spec.nodeName", node));
                let named = lookup.get("resource.k8s.io", "resourceslices", "", a.name);
                let named = named.is_some_and(|s| s["spec"]["nodeName"] == node);
                let may = match a.verb {
                    "create" => true,
                    "get" | "update" | "patch" | "delete" => named,
                    "list" | "watch" | "deletecollection" => own,
                    _ => false,
                };
                return allowed_if(may, || "can only access its own resource slices".into());
            }
            ("", "nodes") => return node_object(a, node),
            ("", "pods") => return pod(a, lookup, node),
            _ => {}
        }
    }
    allowed_if(COMMON.iter().any(|rule| rule.allows(a)), String::new)
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn own_object(a: &Attributes<'_>, node: &str, verbs: &[&str], kind: &str) -> Verdict {
    if !a.subresource.is_empty() || !verbs.contains(&a.verb) {
        return no(format!("can only {} its own {kind}", verbs.join(", ")));
    }
    // The name of an object to be created is checked by NodeRestriction.
    allowed_if(a.name == node || (a.verb == "create" && a.name.is_empty()), || {
        format!("can only access {kind} with the same name as the requesting node")
    })
}

fn lease(a: &Attributes<'_>, node: &str) -> Verdict {
    if a.namespace != "kube-node-lease" {
        return no("can only access leases in the \"kube-node-lease\" system namespace");
    }
    own_object(a, node, &["get", "create", "update", "patch", "delete"], "node lease")
}

fn node_object(a: &Attributes<'_>, node: &str) -> Verdict {
    match (a.subresource, a.verb) {
        // Which node is written, and how, is NodeRestriction's question.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Verdict::Allowed,
        ("", "get" | "list" | "watch") => {
            allowed_if(a.name == node, || format!("node {node:?} cannot read {:?}, only its own Node object", a.name))
        }
        ("configz" | "healthz" | "log" | "metrics" | "pods" | "proxy" | "stats", "get") => {
            allowed_if(a.name == node, || format!("node {node:?} cannot read another node"))
        }
        _ => no(format!("node {node:?} cannot do that to Node objects")),
    }
}

fn pod(a: &Attributes<'_>, lookup: &dyn Lookup, node: &str) -> Verdict {
    match (a.subresource, a.verb) {
        // Mirror Pods and the status of its own: NodeRestriction looks at the object.
        ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Verdict::Allowed,
        ("", "list" | "watch") => allowed_if(a.fields.contains(&("spec.nodeName", node)), || {
            "can only list/watch pods with spec.nodeName field selector".to_owned()
        }),
        ("", "get") => {
            let pod = lookup.get("", "pods", a.namespace, a.name);
            allowed_if(pod.is_some_and(|pod| pod["spec"]["nodeName"] == node), || unrelated(node))
        }
        ("", verb) => no(format!("cannot {verb} pods")),
        (subresource, _) => no(format!("cannot access the subresource {subresource:?} of pods")),
    }
}

type Refers = fn(&Value, &str, &dyn Lookup) -> bool;

fn read_of_pods(a: &Attributes<'_>, lookup: &dyn Lookup, node: &str, verbs: &[&str], refers: Refers) -> Verdict {
    if !a.subresource.is_empty() {
        return no("cannot read subresources");
    }
    if !verbs.contains(&a.verb) {
        return no(match verbs {
            ["get"] => "can only get individual resources of this type",
            _ => "can only read resources of this type",
        });
    }
    of_pods(a, lookup, node, refers)
}

/// Whether a Pod of the node, in the object's namespace, refers to the object.
fn of_pods(a: &Attributes<'_>, lookup: &dyn Lookup, node: &str, refers: Refers) -> Verdict {
    if a.name.is_empty() || a.namespace.is_empty() {
        return no("can only read namespaced object of this type");
    }
    let related = own_pods(lookup, node)
        .iter()
        .any(|pod| pod["metadata"]["namespace"] == a.namespace && refers(pod, a.name, lookup));
    allowed_if(related, || unrelated(node))
}

/// The Pods of the node that the API knows as such: mirror Pods were made up by the kubelet itself and grant nothing.
fn own_pods(lookup: &dyn Lookup, node: &str) -> Vec<Arc<Value>> {
    let mut pods = lookup.pods_on_node(node);
    pods.retain(|pod| pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null());
    pods
}

fn persistent_volume(a: &Attributes<'_>, lookup: &dyn Lookup, node: &str) -> Verdict {
    if a.verb != "get" || !a.subresource.is_empty() {
        return no("can only get individual resources of this type");
    }
    let related = own_pods(lookup, node).iter().any(|pod| volumes_of(pod, lookup).iter().any(|v| v == a.name));
    allowed_if(related, || unrelated(node))
}

/// The names of the PersistentVolumes that a Pod's claims are bound to.
fn volumes_of(pod: &Value, lookup: &dyn Lookup) -> Vec<String> {
    let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
    claims(pod)
        .filter_map(|claim| lookup.get("", "persistentvolumeclaims", namespace, &claim))
        .filter_map(|claim| claim["spec"]["volumeName"].as_str().map(str::to_owned))
        .collect()
}

fn claims(pod: &Value) -> impl Iterator<Item = String> + '_ {
    let pod_name = pod["metadata"]["name"].as_str().unwrap_or_default();
    pod["spec"]["volumes"].as_array().into_iter().flatten().filter_map(move |volume| {
        if volume["ephemeral"].is_object() {
            return Some(format!("{pod_name}-{}", volume["name"].as_str()?));
        }
        volume["persistentVolumeClaim"]["claimName"].as_str().map(str::to_owned)
    })
}

fn claims_volume(pod: &Value, name: &str, _: &dyn Lookup) -> bool {
    claims(pod).any(|claim| claim == name)
}

fn refers_to_secret(pod: &Value, name: &str, lookup: &dyn Lookup) -> bool {
    let pulls = pod["spec"]["imagePullSecrets"].as_array().into_iter().flatten();
    let namespace = &pod["metadata"]["namespace"];
    references(pod, "secret", "secretRef", "secretKeyRef", "name").any(|n| n == name)
        || references(pod, "secret", "", "", "secretName").any(|n| n == name)
        || pulls.filter_map(|p| p["name"].as_str()).any(|n| n == name)
        || pod["spec"]["volumes"].as_array().into_iter().flatten().any(|v| volume_secret(v, name))
        || volumes_of(pod, lookup).iter().any(|volume| {
            lookup.get("", "persistentvolumes", "", volume).is_some_and(|v| {
                v["spec"].as_object().into_iter().flatten().any(|(_, source)| {
                    ["secretRef", "nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"].iter().any(
                        |key| {
                            source[key]["name"] == name
                                && (source[key]["namespace"] == *namespace || source[key]["namespace"].is_null())
                        },
                    )
                })
            })
        })
}

/// A secret that a volume's driver needs: `csi.nodePublishSecretRef`, `rbd.secretRef`, `azureFile.secretName` ...
fn volume_secret(volume: &Value, name: &str) -> bool {
    volume.as_object().into_iter().flatten().any(|(_, source)| {
        source["secretName"] == name
            || source["secretRef"]["name"] == name
            || source["nodePublishSecretRef"]["name"] == name
    })
}

/// The names that volumes (`volume`, projected ones too), envFrom (`from`) and env (`key`) of a Pod mention.
fn references<'a>(
    pod: &'a Value,
    volume: &'a str,
    from: &'a str,
    key: &'a str,
    volume_field: &'a str,
) -> impl Iterator<Item = &'a str> {
    let spec = &pod["spec"];
    let array = |value: &'a Value| value.as_array().into_iter().flatten();
    let volumes = array(&spec["volumes"]).flat_map(move |v| {
        std::iter::once(&v[volume][volume_field])
            .chain(array(&v["projected"]["sources"]).map(move |source| &source[volume]["name"]))
    });
    let containers =
        ["containers", "initContainers", "ephemeralContainers"].into_iter().flat_map(move |c| array(&spec[c]));
    let env = containers.flat_map(move |c| {
        array(&c["envFrom"])
            .map(move |e| &e[from]["name"])
            .chain(array(&c["env"]).map(move |e| &e["valueFrom"][key]["name"]))
    });
    volumes.chain(env).filter_map(Value::as_str)
}
