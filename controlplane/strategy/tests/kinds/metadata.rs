//! Rules of `metadata` that hold for every kind.

use serde_json::{Value, json};

use crate::{created, kind, refused, told, updated};

fn config(metadata: Value) -> Value {
    json!({ "metadata": metadata })
}

#[test]
fn what_the_system_owns_is_cleared_on_creation() {
    let c = created(
        &kind("v1", "ConfigMap"),
        config(
            json!({ "deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 1, "selfLink": "/x", "generation": 9 }),
        ),
    );
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        assert!(c["metadata"].get(field).is_none(), "{field}");
    }
}

#[test]
fn a_generate_name_may_end_in_a_dash() {
    let k = kind("v1", "ConfigMap");
    assert!(refused(&k, config(json!({ "name": "web-abcde", "generateName": "web-" }))).is_empty());
    let errors = refused(&k, config(json!({ "name": "x", "generateName": "Web-" })));
    assert!(
        errors[0].starts_with("metadata.generateName: Invalid value: \"Web-\": a lowercase RFC 1123 subdomain"),
        "{errors:?}"
    );
}

#[test]
fn a_cluster_wide_object_has_no_namespace() {
    let k = kind("v1", "Node");
    let n = json!({ "metadata": { "name": "n", "namespace": "ns" } });
    assert_eq!(
        told(strake_strategy::validate_create(&k, &n)),
        ["metadata.namespace: Forbidden: not allowed on this type"]
    );
    let c = created(&k, n);
    assert!(c["metadata"].get("namespace").is_none(), "it is dropped before it is checked");
    let (u, errors) = updated(&k, &c, "", |n| n["metadata"]["namespace"] = json!("ns"));
    assert!(u["metadata"].get("namespace").is_none());
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn annotations_have_a_size_and_keys_of_any_case() {
    let k = kind("v1", "ConfigMap");
    assert!(refused(&k, config(json!({ "annotations": { "Example.com/Key": "v" } }))).is_empty());
    assert_eq!(
        refused(&k, config(json!({ "annotations": { "a": "x".repeat(256 * 1024) } }))),
        ["metadata.annotations: Too long: may not be more than 262144 bytes"]
    );
}

#[test]
fn one_owner_controls() {
    let owner =
        |n: &str| json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": n, "uid": "u", "controller": true });
    let errors = refused(&kind("v1", "ConfigMap"), config(json!({ "ownerReferences": [owner("a"), owner("b")] })));
    assert_eq!(errors.len(), 1);
    assert!(errors[0].ends_with("Only one reference can have Controller set to true. Found \"true\" in references for ReplicaSet/a and ReplicaSet/b"));
    let errors = refused(
        &kind("v1", "ConfigMap"),
        config(json!({ "ownerReferences": [{ "apiVersion": "", "kind": "K", "name": "", "uid": "u" }] })),
    );
    assert_eq!(
        errors,
        [
            "metadata.ownerReferences.apiVersion: Invalid value: \"\": version must not be empty",
            "metadata.ownerReferences.name: Invalid value: \"\": must not be empty",
        ]
    );
}

#[test]
fn finalizers_are_qualified_or_standard() {
    let errors = refused(
        &kind("v1", "ConfigMap"),
        config(json!({ "finalizers": ["mine", "foregroundDeletion", "a.example/b"] })),
    );
    assert_eq!(
        errors,
        [
            "metadata.finalizers[0]: Invalid value: \"mine\": name is neither a standard finalizer name nor is it fully qualified"
        ]
    );
}

#[test]
fn identity_never_changes() {
    let k = kind("v1", "ConfigMap");
    let old = created(&k, config(json!({})));
    let (new, errors) = updated(&k, &old, "", |c| {
        c["metadata"]["uid"] = "other".into();
        c["metadata"]["creationTimestamp"] = "2030-01-01T00:00:00Z".into();
    });
    assert_eq!(errors, ["metadata.uid: Invalid value: \"other\": field is immutable"]);
    assert_eq!(new["metadata"]["creationTimestamp"], "2026-01-02T03:04:05Z");
    let (new, errors) = updated(&k, &old, "", |c| {
        c["metadata"].as_object_mut().unwrap().remove("uid");
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(new["metadata"]["uid"], "0a1b");
}

#[test]
fn an_unconditional_update_is_of_what_is_stored() {
    let k = kind("v1", "ConfigMap");
    let mut old = created(&k, config(json!({})));
    let (new, errors) = updated(&k, &old, "", |c| c["metadata"]["resourceVersion"] = "".into());
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(new["metadata"]["resourceVersion"], "1");
    old["metadata"]["resourceVersion"] = "1".into();
    let mut without = old.clone();
    without["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(
        told(strake_strategy::validate_update(&k, &without, &old, "")),
        ["metadata.resourceVersion: Invalid value: \"\": must be specified for an update"]
    );
}

#[test]
fn what_is_going_gains_no_finalizers_and_does_not_come_back() {
    let k = kind("v1", "ConfigMap");
    let mut old = created(&k, config(json!({ "finalizers": ["a.example/b"] })));
    old["metadata"]["deletionTimestamp"] = "2026-02-01T00:00:00Z".into();
    let (new, errors) = updated(&k, &old, "", |c| {
        c["metadata"]["finalizers"] = json!(["a.example/b", "a.example/c"]);
        c["metadata"].as_object_mut().unwrap().remove("deletionTimestamp");
    });
    assert_eq!(new["metadata"]["deletionTimestamp"], "2026-02-01T00:00:00Z");
    assert_eq!(
        errors,
        [
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"a.example/c\"}"
        ]
    );
}

#[test]
fn a_write_that_changes_nothing_is_recognised() {
    let k = kind("v1", "ConfigMap");
    let mut a = created(&k, json!({ "data": { "k": "v" } }));
    a["metadata"]["managedFields"] = json!([{ "manager": "m", "time": "2026-01-01T00:00:00Z" }]);
    let mut b = a.clone();
    b["metadata"]["resourceVersion"] = "7".into();
    b["metadata"]["managedFields"][0]["time"] = "2027-01-01T00:00:00Z".into();
    assert!(strake_strategy::is_no_op(&b, &a));
    b["data"]["k"] = "w".into();
    assert!(!strake_strategy::is_no_op(&b, &a));
}
