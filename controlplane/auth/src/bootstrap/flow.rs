//! The objects of priority and fairness (flowcontrol.apiserver.k8s.io/v1) a stock cluster begins with.

use serde_json::{Value, json};

const API: &str = "flowcontrol.apiserver.k8s.io/v1";

fn metadata(name: &str) -> Value {
    json!({ "name": name, "annotations": { "apf.kubernetes.io/autoupdate-spec": "true" } })
}

pub(super) fn priority_levels() -> Vec<Value> {
    let level = |name: &str, spec: Value| json!({ "apiVersion": API, "kind": "PriorityLevelConfiguration", "metadata": metadata(name), "spec": spec, "status": {} });
    let limited = |shares: u32, lendable: u32, response: Value| json!({ "type": "Limited", "limited": { "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response } });
    let queue = |queues: u32, hand: u32| json!({ "type": "Queue", "queuing": { "queues": queues, "handSize": hand, "queueLengthLimit": 50 } });
    vec![
        level("catch-all", limited(5, 0, json!({ "type": "Reject" }))),
        level("exempt", json!({ "type": "Exempt", "exempt": { "nominalConcurrencyShares": 0, "lendablePercent": 0 } })),
        level("global-default", limited(20, 50, queue(128, 6))),
        level("leader-election", limited(10, 0, queue(16, 4))),
        level("node-high", limited(40, 25, queue(64, 6))),
        level("system", limited(30, 33, queue(64, 6))),
        level("workload-high", limited(40, 50, queue(128, 6))),
        level("workload-low", limited(100, 90, queue(128, 6))),
    ]
}

fn group(name: &str) -> Value {
    json!({ "kind": "Group", "group": { "name": name } })
}

fn user(name: &str) -> Value {
    json!({ "kind": "User", "user": { "name": name } })
}

fn system_service_accounts() -> Value {
    json!({ "kind": "ServiceAccount", "serviceAccount": { "namespace": "kube-system", "name": "*" } })
}

fn everyone() -> Vec<Value> {
    vec![group("system:unauthenticated"), group("system:authenticated")]
}

/// Any verb on anything.
fn all_of(subjects: Vec<Value>) -> Value {
    json!({
        "subjects": subjects,
        "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"] }],
        "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }],
    })
}

pub(super) fn flow_schemas() -> Vec<Value> {
    let schema = |name: &str, level: &str, precedence: u32, by: Option<&str>, rule: Value| {
        let mut spec = json!({
            "priorityLevelConfiguration": { "name": level }, "matchingPrecedence": precedence, "rules": [rule],
        });
        if let Some(by) = by {
            spec["distinguisherMethod"] = json!({ "type": by });
        }
        json!({ "apiVersion": API, "kind": "FlowSchema", "metadata": metadata(name), "spec": spec, "status": {} })
    };
    let (by_user, by_namespace) = (Some("ByUser"), Some("ByNamespace"));
    let (manager, scheduler) = ("system:kube-controller-manager", "system:kube-scheduler");
    let probes = json!({
        "subjects": everyone(),
        "nonResourceRules": [{ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"] }],
    });
    let leases = |verbs: &[&str]| json!({ "verbs": verbs, "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"] });
    let election = json!({
        "subjects": [user(manager), user(scheduler), system_service_accounts()],
        "resourceRules": [leases(&["get", "create", "update"])],
    });
    let nodes = json!({
        "subjects": [group("system:nodes")],
        "resourceRules": [
            { "verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "clusterScope": true, "namespaces": ["*"] },
            leases(&["*"]),
        ],
    });
    vec![
        schema("catch-all", "catch-all", 10_000, by_user, all_of(everyone())),
        schema("exempt", "exempt", 1, None, all_of(vec![group("system:masters")])),
        schema("global-default", "global-default", 9_900, by_user, all_of(everyone())),
        schema(&manager["system:".len()..], "workload-high", 800, by_namespace, all_of(vec![user(manager)])),
        schema(&scheduler["system:".len()..], "workload-high", 800, by_namespace, all_of(vec![user(scheduler)])),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            by_namespace,
            all_of(vec![system_service_accounts()]),
        ),
        schema("probes", "exempt", 2, None, probes),
        schema("service-accounts", "workload-low", 9_000, by_user, all_of(vec![group("system:serviceaccounts")])),
        schema("system-leader-election", "leader-election", 100, by_user, election),
        schema("system-node-high", "node-high", 400, by_user, nodes),
        schema("system-nodes", "system", 500, by_user, all_of(vec![group("system:nodes")])),
    ]
}
