//! ResourceQuotas, LimitRanges, PriorityClasses, RuntimeClasses, Leases.

use serde_json::json;

use crate::{created, kind, refused, updated};

#[test]
fn a_quota_counts_what_its_scopes_can_count() {
    let k = kind("v1", "ResourceQuota");
    assert!(
        refused(&k, json!({ "spec": { "hard": { "requests.cpu": "1", "count/widgets.example.com": "5" } } }))
            .is_empty()
    );
    assert_eq!(
        refused(&k, json!({ "spec": { "hard": { "services": "1" }, "scopes": ["BestEffort", "NotBestEffort"] } })),
        [
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied to resource",
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: unsupported scope applied to resource",
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
        ]
    );
    let old = created(&k, json!({ "spec": { "hard": { "pods": "1" } } }));
    let (_, errors) = updated(&k, &old, "", |q| q["spec"]["scopes"] = json!(["BestEffort"]));
    assert_eq!(errors, ["spec.scopes: Invalid value: [\"BestEffort\"]: field is immutable"]);
}

#[test]
fn limits_lie_within_their_bounds() {
    let k = kind("v1", "LimitRange");
    let limit = json!([{ "type": "Container", "min": { "cpu": "2" }, "max": { "cpu": "1" } }]);
    let errors = refused(&k, json!({ "spec": { "limits": limit } }));
    assert_eq!(errors[0], "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1");
    let pod = json!([{ "type": "Pod", "default": { "cpu": "1" } }, { "type": "PersistentVolumeClaim" }]);
    assert_eq!(
        refused(&k, json!({ "spec": { "limits": pod } })),
        [
            "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
            "spec.limits[1].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
        ]
    );
}

#[test]
fn user_priorities_have_a_ceiling_and_stay() {
    let k = kind("scheduling.k8s.io/v1", "PriorityClass");
    assert_eq!(
        refused(&k, json!({ "value": 1_000_000_001 })),
        ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
    );
    assert!(refused(&k, json!({ "metadata": { "name": "system-node-critical" }, "value": 2_000_001_000 })).is_empty());
    assert_eq!(refused(&k, json!({ "metadata": { "name": "system-mine" }, "value": 1 })).len(), 1);
    let (_, errors) = updated(&k, &created(&k, json!({ "value": 1 })), "", |c| c["value"] = 2.into());
    assert_eq!(errors, ["value: Forbidden: may not be changed in an update."]);
}

#[test]
fn a_runtime_class_names_a_handler() {
    let k = kind("node.k8s.io/v1", "RuntimeClass");
    assert!(refused(&k, json!({ "handler": "kata" })).is_empty());
    assert!(refused(&k, json!({ "handler": "Kata" }))[0].starts_with("handler: Invalid value: \"Kata\""));
}

#[test]
fn a_lease_lasts() {
    let k = kind("coordination.k8s.io/v1", "Lease");
    assert_eq!(
        refused(&k, json!({ "spec": { "leaseDurationSeconds": 0, "leaseTransitions": -1 } })),
        [
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
        ]
    );
}
