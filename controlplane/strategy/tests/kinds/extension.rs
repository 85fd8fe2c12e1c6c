//! CustomResourceDefinitions, custom resources, webhooks and policies, flow control.

use std::sync::Arc;

use serde_json::{Value, json};
use strake_machinery::Kind;

use crate::{created, kind, refused, updated};

fn definition() -> Value {
    json!({ "metadata": { "name": "widgets.example.com" }, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": { "plural": "widgets", "kind": "Widget" },
        "versions": [{ "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": { "type": "object", "properties": { "a": { "default": null } } } } }],
    } })
}

#[test]
fn a_definition_has_one_storage_version_and_matching_names() {
    let k = kind("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    assert!(refused(&k, definition()).is_empty());
    let mut bad = definition();
    bad["metadata"]["name"] = "gadgets.example.com".into();
    bad["spec"]["versions"][0]["storage"] = false.into();
    let errors = refused(&k, bad);
    assert_eq!(
        errors[0],
        "metadata.name: Invalid value: \"gadgets.example.com\": must be spec.names.plural+\".\"+spec.group"
    );
    assert!(errors[1].ends_with("must have exactly one version marked as storage version"), "{errors:?}");
}

#[test]
fn stored_versions_are_remembered() {
    let k = kind("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    let d = created(&k, definition());
    assert_eq!(d["status"]["storedVersions"], json!(["v1"]));
    let (d, errors) = updated(&k, &d, "", |d| {
        d["spec"]["versions"][0]["storage"] = false.into();
        let mut v2 = d["spec"]["versions"][0].clone();
        v2["name"] = "v2".into();
        v2["storage"] = true.into();
        d["spec"]["versions"].as_array_mut().unwrap().push(v2);
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(d["status"]["storedVersions"], json!(["v1", "v2"]));
    let (_, errors) = updated(&k, &d, "", |d| {
        d["spec"]["versions"].as_array_mut().unwrap().remove(0);
    });
    assert_eq!(errors, ["status.storedVersions[0]: Invalid value: \"v1\": must appear in spec.versions"]);
}

fn widget() -> Arc<Kind> {
    let mut k = (*kind("apps/v1", "Deployment")).clone();
    k.group = "example.com".into();
    k.kind = "Widget".into();
    k.plural = "widgets".into();
    k.schema = String::new();
    Arc::new(k)
}

#[test]
fn a_custom_resources_nulls_and_unknown_fields_are_its_own() {
    let w = created(&widget(), json!({ "spec": { "a": null }, "status": { "b": 1 }, "extra": [] }));
    assert_eq!(w["spec"], json!({ "a": null }));
    assert_eq!(w["extra"], json!([]));
    assert!(w.get("status").is_none());
    assert_eq!(w["metadata"]["generation"], 1);
}

#[test]
fn a_custom_resources_status_is_apart_from_the_rest() {
    let k = widget();
    let w = created(&k, json!({ "spec": { "a": 1 } }));
    let (s, errors) = updated(&k, &w, "status", |w| {
        w["status"] = json!({ "ok": true });
        w["spec"]["a"] = 2.into();
        w["metadata"]["labels"] = json!({ "x": "y" });
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!((&s["spec"]["a"], &s["status"]["ok"], s["metadata"].get("labels")), (&json!(1), &json!(true), None));
    let (m, _) = updated(&k, &s, "", |w| {
        w["status"] = json!({});
        w["other"] = 1.into();
    });
    assert_eq!((&m["status"]["ok"], &m["metadata"]["generation"]), (&json!(true), &json!(2)));
}

#[test]
fn webhooks_are_reachable_and_say_what_they_do() {
    let k = kind("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration");
    let hook = json!({
        "name": "short", "clientConfig": { "url": "http://user@host/?q" }, "admissionReviewVersions": ["v9"],
        "rules": [{ "operations": ["*", "CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"] }],
        "timeoutSeconds": 31,
    });
    assert_eq!(
        refused(&k, json!({ "webhooks": [hook] })),
        [
            "webhooks[0].name: Invalid value: \"short\": should be a domain with at least three segments separated by dots",
            "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            "webhooks[0].clientConfig.url: Invalid value: \"user\": user information is not permitted in the URL",
            "webhooks[0].clientConfig.url: Invalid value: \"q\": query parameters are not permitted in the URL",
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v9\"]: must include at least one of v1, v1beta1",
        ]
    );
}

#[test]
fn a_policy_matches_something_and_its_binding_does_something() {
    let k = kind("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy");
    assert_eq!(
        refused(&k, json!({ "spec": { "validations": [{ "expression": " " }] } })),
        [
            "spec.matchConstraints: Required value",
            "spec.validations[0].expression: Required value: expression is not specified",
        ]
    );
    let b = kind("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding");
    assert_eq!(
        refused(&b, json!({ "spec": { "policyName": "p" } })),
        ["spec.validationActions: Required value: at least one validation action is required"]
    );
}

#[test]
fn flow_control_levels_are_complete() {
    let k = kind("flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration");
    let level =
        json!({ "spec": { "type": "Limited", "limited": { "limitResponse": { "type": "Queue", "queuing": {} } } } });
    let l = created(&k, level.clone());
    assert_eq!(l["spec"]["limited"]["nominalConcurrencyShares"], 30);
    assert_eq!(
        l["spec"]["limited"]["limitResponse"]["queuing"],
        json!({ "queues": 64, "handSize": 8, "queueLengthLimit": 50 })
    );
    assert!(refused(&k, level).is_empty());
    assert_eq!(
        refused(&k, json!({ "spec": { "type": "Limited" } })),
        ["spec.limited: Required value: must not be empty when type is Limited"]
    );
}

#[test]
fn an_api_service_is_named_after_its_version() {
    let k = kind("apiregistration.k8s.io/v1", "APIService");
    let s = json!({ "metadata": { "name": "v1.example.com" }, "spec": { "group": "example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 100 } });
    assert!(refused(&k, s.clone()).is_empty());
    let mut bad = s;
    bad["metadata"]["name"] = "other".into();
    assert_eq!(refused(&k, bad).len(), 1);
}

#[test]
fn a_device_claim_asks_for_one_device_unless_told_otherwise() {
    let k = kind("resource.k8s.io/v1", "ResourceClaim");
    let claim = json!({ "spec": { "devices": { "requests": [{ "name": "gpu", "exactly": { "deviceClassName": "gpu.example.com" } }] } } });
    let c = created(&k, claim.clone());
    assert_eq!(c["spec"]["devices"]["requests"][0]["exactly"]["count"], 1);
    assert!(refused(&k, claim).is_empty());
    let (_, errors) = updated(&k, &c, "", |c| c["spec"]["devices"]["requests"] = json!([]));
    assert!(errors[0].starts_with("spec: Invalid value: ") && errors[0].ends_with("field is immutable"), "{errors:?}");
}
