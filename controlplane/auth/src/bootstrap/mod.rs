//! What a new cluster contains: namespaces, roles and bindings, priority classes, flow control, the Service CIDR.
//! Facts of a stock Kubernetes 1.36, and what Strake's own parts need besides.

mod flow;
mod rbac;

pub use rbac::{cluster_role_bindings, cluster_roles, role_bindings, roles};

use serde_json::{Value, json};

/// What differs from cluster to cluster.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Such as `10.96.0.0/16`; two for dual stack.
    pub service_cidrs: &'a [&'a str],
}

/// How an existing object is treated when the API server starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconcile {
    /// Left alone.
    CreateOnly,
    /// Unless its annotation `rbac.authorization.kubernetes.io/autoupdate` is `false`: missing rules and subjects are
    /// added, extra ones stay; a binding with another roleRef is replaced.
    Rbac,
    /// Unless its annotation `apf.kubernetes.io/autoupdate-spec` is `false`: its spec is set again.
    FlowControl,
    /// A ServiceCIDR of one family is given the other when the cluster gets it; what it has stays.
    ServiceCidr,
}

/// One object, without uid, times and resource version.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub group: &'static str,
    /// Plural.
    pub resource: &'static str,
    /// Empty for cluster-scoped ones.
    pub namespace: String,
    pub name: String,
    pub reconcile: Reconcile,
    pub value: Value,
}

fn object(group: &'static str, resource: &'static str, reconcile: Reconcile, value: Value) -> Object {
    let text = |key: &str| value["metadata"][key].as_str().unwrap_or_default().to_owned();
    Object { group, resource, namespace: text("namespace"), name: text("name"), reconcile, value }
}

/// Everything, in an order in which it can be created.
pub fn objects(settings: &Settings<'_>) -> Vec<Object> {
    use Reconcile::{CreateOnly, FlowControl, Rbac, ServiceCidr};
    const RBAC: &str = "rbac.authorization.k8s.io";
    const FLOW: &str = "flowcontrol.apiserver.k8s.io";
    let mut all = Vec::new();
    for name in ["kube-system", "default", "kube-public", "kube-node-lease"] {
        all.push(object("", "namespaces", CreateOnly, namespace(name)));
    }
    for (values, resource) in [
        (cluster_roles(), "clusterroles"),
        (cluster_role_bindings(), "clusterrolebindings"),
        (roles(), "roles"),
        (role_bindings(), "rolebindings"),
    ] {
        all.extend(values.into_iter().map(|value| object(RBAC, resource, Rbac, value)));
    }
    for value in priority_classes() {
        all.push(object("scheduling.k8s.io", "priorityclasses", CreateOnly, value));
    }
    for value in flow::priority_levels() {
        all.push(object(FLOW, "prioritylevelconfigurations", FlowControl, value));
    }
    for value in flow::flow_schemas() {
        all.push(object(FLOW, "flowschemas", FlowControl, value));
    }
    all.push(object("networking.k8s.io", "servicecidrs", ServiceCidr, service_cidr(settings.service_cidrs)));
    all
}

fn namespace(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": { "name": name, "labels": { "kubernetes.io/metadata.name": name } },
        "spec": { "finalizers": ["kubernetes"] },
        "status": { "phase": "Active" },
    })
}

fn priority_classes() -> [Value; 2] {
    let class = |name: &str, value: i64, description: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": { "name": name }, "value": value, "description": description,
            "preemptionPolicy": "PreemptLowerPriority",
        })
    };
    [
        class(
            "system-cluster-critical",
            2_000_000_000,
            "For Pods the cluster cannot do without; they may move to another node.",
        ),
        class(
            "system-node-critical",
            2_000_001_000,
            "For Pods their node cannot do without; they stay where they are.",
        ),
    ]
}

fn service_cidr(cidrs: &[&str]) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": { "name": "kubernetes" },
        "spec": { "cidrs": cidrs },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_object_is_named_once_and_says_what_it_is() {
        let all = objects(&Settings { service_cidrs: &["10.96.0.0/16"] });
        let mut seen = HashSet::new();
        for o in &all {
            assert!(!o.name.is_empty() && o.value["kind"].is_string() && o.value["apiVersion"].is_string(), "{o:?}");
            assert!(seen.insert((o.resource, &o.namespace, &o.name)), "twice: {} {}", o.resource, o.name);
        }
        let count = |resource: &str| all.iter().filter(|o| o.resource == resource).count();
        assert_eq!((count("namespaces"), count("priorityclasses"), count("servicecidrs")), (4, 2, 1));
        assert_eq!((count("flowschemas"), count("prioritylevelconfigurations")), (11, 8));
    }

    #[test]
    fn every_binding_has_its_role() {
        let all = objects(&Settings { service_cidrs: &[] });
        for binding in all.iter().filter(|o| o.resource.ends_with("bindings")) {
            let role = &binding.value["roleRef"];
            let found = all.iter().any(|o| {
                o.value["kind"] == role["kind"]
                    && o.name == role["name"]
                    && (o.namespace.is_empty() || o.namespace == binding.namespace)
            });
            assert!(found, "{} refers to {role}", binding.name);
        }
    }

    #[test]
    fn aggregated_roles_begin_with_their_rules() {
        let roles = cluster_roles();
        let rules = |name: &str| {
            let role = roles.iter().find(|r| r["metadata"]["name"] == name).unwrap();
            crate::PolicyRule::all(role)
        };
        let (view, edit, admin) = (rules("view"), rules("edit"), rules("admin"));
        assert_eq!(view, rules("system:aggregate-to-view"));
        assert!(view.iter().all(|r| edit.contains(r)) && edit.iter().all(|r| admin.contains(r)));
        assert!(edit.len() > view.len() && admin.len() > edit.len());
    }
}
