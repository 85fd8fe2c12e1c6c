//! ConfigMaps, Secrets, ServiceAccounts and Events.

use serde_json::json;
use strake_strategy::decode;

use crate::{created, kind, refused, updated};

#[test]
fn texts_of_a_secret_become_bytes() {
    let s = created(&kind("v1", "Secret"), json!({ "data": { "a": "Yg==" }, "stringData": { "a": "new", "c": "d" } }));
    assert_eq!(s["data"], json!({ "a": "bmV3", "c": "ZA==" }));
    assert!(s.get("stringData").is_none());
    assert_eq!(s["type"], "Opaque");
}

#[test]
fn each_type_of_secret_has_its_keys() {
    let k = kind("v1", "Secret");
    for (name, expected) in [
        ("kubernetes.io/basic-auth", vec!["data[username]: Required value", "data[password]: Required value"]),
        ("kubernetes.io/ssh-auth", vec!["data[ssh-privatekey]: Required value"]),
        ("kubernetes.io/dockerconfigjson", vec!["data[.dockerconfigjson]: Required value"]),
        (
            "kubernetes.io/service-account-token",
            vec!["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
        ),
        ("example.com/mine", vec![]),
    ] {
        assert_eq!(refused(&k, json!({ "type": name })), expected, "{name}");
    }
    let broken = json!({ "type": "kubernetes.io/dockercfg", "stringData": { ".dockercfg": "{" } });
    assert!(refused(&k, broken)[0].starts_with("data[.dockercfg]: Invalid value: \"<secret contents redacted>\": "));
}

#[test]
fn the_type_of_a_secret_stays() {
    let k = kind("v1", "Secret");
    let (_, errors) = updated(&k, &created(&k, json!({})), "", |s| s["type"] = "other/type".into());
    assert_eq!(errors, ["type: Invalid value: \"other/type\": field is immutable"]);
}

#[test]
fn immutable_means_immutable() {
    for name in ["ConfigMap", "Secret"] {
        let k = kind("v1", name);
        let old = created(&k, json!({ "data": { "a": "Yg==" }, "immutable": true }));
        let (_, errors) = updated(&k, &old, "", |c| {
            c["data"]["a"] = "YQ==".into();
            c["immutable"] = false.into();
        });
        assert_eq!(
            errors,
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ],
            "{name}"
        );
        let (_, errors) = updated(&k, &old, "", |c| c["metadata"]["labels"] = json!({ "a": "b" }));
        assert!(errors.is_empty(), "{errors:?}");
    }
}

#[test]
fn a_key_is_in_one_bag_only_and_all_together_fit() {
    let k = kind("v1", "ConfigMap");
    assert_eq!(
        refused(&k, json!({ "data": { "a": "x" }, "binaryData": { "a": "eA==" } })),
        ["data[a]: Invalid value: \"a\": duplicate of key present in binaryData"]
    );
    assert_eq!(
        refused(&k, json!({ "data": { "a": "x".repeat(1024 * 1024 + 1) } })),
        [": Too long: may not be more than 1048576 bytes"]
    );
    assert_eq!(refused(&k, json!({ "data": { "..": "x" } })), ["data[..]: Invalid value: \"..\": must not be '..'"]);
}

#[test]
fn what_cannot_be_decoded_is_told_before_anything_else() {
    let (s, p) = (kind("v1", "Secret"), kind("v1", "Pod"));
    let e = decode::check(&s, &json!({ "data": { "a": "ab*d" } })).unwrap_err();
    assert_eq!(
        e.message(&s),
        "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 2"
    );
    let bad = json!({ "spec": { "containers": [{ "resources": { "limits": { "cpu": "one" } } }] } });
    assert!(
        decode::check(&p, &bad).unwrap_err().message(&p).starts_with(
            "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression"
        )
    );
    assert!(
        decode::check(&p, &json!({ "spec": { "containers": [{ "resources": { "limits": { "cpu": 1 } } }] } })).is_ok()
    );
}

#[test]
fn an_event_lives_beside_what_it_is_about() {
    let k = kind("v1", "Event");
    let event = |ns: &str| json!({ "involvedObject": { "kind": "Pod", "name": "p", "namespace": ns }, "reason": "R", "type": "Normal" });
    assert!(refused(&k, event("ns")).is_empty());
    assert_eq!(
        refused(&k, event("other")),
        ["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"]
    );
}

#[test]
fn an_event_with_a_time_says_who_reports() {
    let k = kind("v1", "Event");
    let timed = |mut event: serde_json::Value| {
        event["eventTime"] = json!("2024-01-01T00:00:00.000000Z");
        event["involvedObject"] = json!({ "kind": "Pod", "name": "p", "namespace": "ns" });
        event
    };
    assert_eq!(
        refused(&k, timed(json!({ "reportingComponent": "a/b", "message": "m".repeat(1025) }))),
        [
            "reportingInstance: Required value",
            "action: Required value",
            "reason: Required value",
            "message: Invalid value: \"\": can have at most 1024 characters",
        ]
    );
    let whole = json!({ "reportingComponent": "a/b", "reportingInstance": "i", "action": "a", "reason": "r" });
    assert!(refused(&k, timed(whole)).is_empty(), "core does not ask for a type");
}

#[test]
fn events_k8s_io_is_stricter_in_either_form() {
    let k = kind("events.k8s.io/v1", "Event");
    let event = json!({
        "eventTime": "2024-01-01T00:00:00.000000Z", "reportingInstance": "i", "action": "a", "reason": "r",
        "series": { "count": 1 },
    });
    let with = |controller: &str, about: &str, count: &str| {
        let mut event = event.clone();
        event[controller] = json!("a/b");
        event[about] = json!({ "namespace": "ns" });
        event[count] = json!(3);
        refused(&k, event)
    };
    let core = with("reportingComponent", "involvedObject", "count");
    assert_eq!(
        core,
        [
            "series.count: Invalid value: \"\": should be at least 2",
            "series.lastObservedTime: Required value",
            "type: Invalid value: \"\": has invalid value: ",
            "count: Invalid value: \"\": needs to be unset",
        ]
    );
    assert_eq!(core, with("reportingController", "regarding", "deprecatedCount"));
}

#[test]
fn endpoints_have_addresses_that_can_be_reached() {
    let k = kind("v1", "Endpoints");
    let subset = json!([{ "addresses": [{ "ip": "169.254.0.1" }], "ports": [{ "port": 80 }] }, {}]);
    assert_eq!(
        refused(&k, json!({ "subsets": subset })),
        [
            "subsets[0].addresses[0].ip: Invalid value: \"169.254.0.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
            "subsets[1]: Required value: must specify `addresses` or `notReadyAddresses`",
        ]
    );
}
