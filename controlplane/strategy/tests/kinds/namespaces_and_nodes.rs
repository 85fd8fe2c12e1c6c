//! Namespaces and Nodes.

use serde_json::json;

use crate::{created, kind, refused, updated};

#[test]
fn a_namespace_carries_its_name_and_its_finalizer() {
    let n = created(
        &kind("v1", "Namespace"),
        json!({ "metadata": { "name": "team", "labels": { "kubernetes.io/metadata.name": "lie" } } }),
    );
    assert_eq!(n["metadata"]["labels"]["kubernetes.io/metadata.name"], "team");
    assert_eq!(n["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(n["status"]["phase"], "Active");
}

#[test]
fn only_finalize_changes_a_namespaces_finalizers() {
    let k = kind("v1", "Namespace");
    let n = created(&k, json!({ "metadata": { "name": "team" } }));
    let (new, errors) = updated(&k, &n, "", |n| n["spec"]["finalizers"] = json!([]));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(new["spec"]["finalizers"], json!(["kubernetes"]));
    let (new, errors) = updated(&k, &n, "finalize", |n| n["spec"]["finalizers"] = json!([]));
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(new["spec"]["finalizers"], json!([]));
    let (_, errors) = updated(&k, &n, "finalize", |n| n["spec"]["finalizers"] = json!(["mine"]));
    assert_eq!(
        errors,
        [
            "spec.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified"
        ]
    );
}

#[test]
fn a_namespaces_phase_says_whether_it_is_going() {
    let k = kind("v1", "Namespace");
    let n = created(&k, json!({ "metadata": { "name": "team" } }));
    let (_, errors) = updated(&k, &n, "status", |n| n["status"]["phase"] = "Terminating".into());
    assert_eq!(
        errors,
        ["status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty"]
    );
}

#[test]
fn a_node_gets_one_pod_network_for_good() {
    let k = kind("v1", "Node");
    let n = created(&k, json!({ "metadata": { "name": "n" } }));
    let (n, errors) = updated(&k, &n, "", |n| n["spec"]["podCIDR"] = "10.244.1.0/24".into());
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(n["spec"]["podCIDRs"], json!(["10.244.1.0/24"]));
    let (_, errors) = updated(&k, &n, "", |n| {
        n["spec"]["podCIDR"] = "10.244.2.0/24".into();
        n["spec"]["podCIDRs"] = json!(["10.244.2.0/24"]);
    });
    assert_eq!(errors, ["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"]);
}

#[test]
fn taints_are_well_formed_and_unique() {
    let t = json!({ "key": "a", "effect": "NoSchedule" });
    let taints = json!([t, t, { "key": "b", "effect": "Maybe" }, { "key": "c" }]);
    let errors = refused(&kind("v1", "Node"), json!({ "metadata": { "name": "n" }, "spec": { "taints": taints } }));
    assert_eq!(
        errors,
        [
            "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: taints must be unique by key and effect pair",
            "metadata.taints[2].effect: Unsupported value: \"Maybe\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
            "metadata.taints[3].effect: Required value",
        ]
    );
}

#[test]
fn a_nodes_status_and_spec_are_written_separately() {
    let k = kind("v1", "Node");
    let n = created(&k, json!({ "metadata": { "name": "n" } }));
    let (new, errors) = updated(&k, &n, "status", |n| {
        n["spec"]["unschedulable"] = true.into();
        n["status"]["capacity"] = json!({ "cpu": 4, "pods": "110" });
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert!(new["spec"].get("unschedulable").is_none());
    assert_eq!(new["status"]["allocatable"], json!({ "cpu": "4", "pods": "110" }));
    let (_, errors) = updated(&k, &n, "status", |n| n["status"]["capacity"] = json!({ "pods": "1500m" }));
    assert_eq!(errors.len(), 2, "capacity and the allocatable that follows it: {errors:?}");
}
