//! Deployments, ReplicaSets, DaemonSets, StatefulSets, ReplicationControllers, ControllerRevisions.

use serde_json::{Value, json};

use crate::{created, kind, refused, updated};

fn template() -> Value {
    json!({ "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "c", "image": "i:1" }] } })
}

fn workload(more: Value) -> Value {
    let mut spec = json!({ "selector": { "matchLabels": { "app": "web" } }, "template": template() });
    for (k, v) in more.as_object().unwrap() {
        spec[k] = v.clone();
    }
    json!({ "spec": spec })
}

#[test]
fn every_kind_accepts_an_ordinary_workload() {
    for name in ["Deployment", "ReplicaSet", "DaemonSet", "StatefulSet"] {
        assert!(refused(&kind("apps/v1", name), workload(json!({}))).is_empty(), "{name}");
    }
    let rc = json!({ "spec": { "template": template() } });
    assert!(refused(&kind("v1", "ReplicationController"), rc).is_empty());
}

#[test]
fn a_recreate_strategy_takes_no_rolling_parameters() {
    let d = kind("apps/v1", "Deployment");
    let recreate = json!({ "strategy": { "type": "Recreate", "rollingUpdate": { "maxSurge": 1 } } });
    assert_eq!(
        refused(&d, workload(recreate)),
        ["spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'"]
    );
    assert!(refused(&d, workload(json!({ "strategy": { "type": "Recreate" } }))).is_empty());
}

#[test]
fn rolling_parameters_are_bounded() {
    let d = kind("apps/v1", "Deployment");
    assert_eq!(
        refused(&d, workload(json!({ "strategy": { "rollingUpdate": { "maxUnavailable": "101%" } } }))),
        ["spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%"]
    );
    assert_eq!(
        refused(&d, workload(json!({ "minReadySeconds": 600 }))),
        ["spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"]
    );
    let both = json!({ "updateStrategy": { "rollingUpdate": { "maxSurge": 1 } } });
    assert_eq!(
        refused(&kind("apps/v1", "DaemonSet"), workload(both)),
        [
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero"
        ]
    );
}

#[test]
fn templates_are_checked_as_pods_that_restart_forever() {
    let mut t = template();
    t["spec"]["restartPolicy"] = "Never".into();
    t["spec"]["activeDeadlineSeconds"] = 5.into();
    assert_eq!(
        refused(&kind("apps/v1", "Deployment"), workload(json!({ "template": t }))),
        [
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
        ]
    );
    let mut t = template();
    t["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
    assert_eq!(
        refused(&kind("apps/v1", "ReplicaSet"), workload(json!({ "template": t.clone() }))),
        ["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"v\""]
    );
    // A StatefulSet's volumes may come from its claim templates.
    assert!(refused(&kind("apps/v1", "StatefulSet"), workload(json!({ "template": t }))).is_empty());
}

#[test]
fn selectors_never_change() {
    for name in ["Deployment", "ReplicaSet", "DaemonSet"] {
        let k = kind("apps/v1", name);
        let (_, errors) = updated(&k, &created(&k, workload(json!({}))), "", |d| {
            d["spec"]["selector"] = json!({ "matchLabels": { "app": "web", "more": "x" } });
            d["spec"]["template"]["metadata"]["labels"]["more"] = "x".into();
        });
        assert_eq!(
            errors.last().map(String::as_str),
            Some(
                "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"web\",\"more\":\"x\"}}: field is immutable"
            ),
            "{name}"
        );
    }
}

#[test]
fn generations_move_with_the_spec_and_a_deployments_annotations() {
    let k = kind("apps/v1", "Deployment");
    let d = created(&k, workload(json!({})));
    let generation = |part: &str, change: &dyn Fn(&mut Value)| {
        updated(&k, &d, part, |x| change(x)).0["metadata"]["generation"].as_i64()
    };
    assert_eq!(generation("", &|x| x["spec"]["replicas"] = 2.into()), Some(2));
    assert_eq!(generation("", &|x| x["metadata"]["annotations"] = json!({ "a": "b" })), Some(2));
    assert_eq!(generation("", &|x| x["metadata"]["labels"] = json!({ "a": "b" })), Some(1));
    assert_eq!(generation("", &|x| x["metadata"]["generation"] = 77.into()), Some(1));
    assert_eq!(generation("status", &|x| x["spec"]["replicas"] = 2.into()), Some(1));
    let rs = kind("apps/v1", "ReplicaSet");
    let (new, _) =
        updated(&rs, &created(&rs, workload(json!({}))), "", |x| x["metadata"]["annotations"] = json!({ "a": "b" }));
    assert_eq!(new["metadata"]["generation"], 1);
}

#[test]
fn a_daemon_sets_template_generation_counts_templates() {
    let k = kind("apps/v1", "DaemonSet");
    const KEY: &str = "deprecated.daemonset.template.generation";
    let d = created(&k, workload(json!({})));
    assert_eq!(d["metadata"]["annotations"][KEY], "1");
    let (same, _) = updated(&k, &d, "", |x| {
        x["spec"]["minReadySeconds"] = 5.into();
        x["metadata"]["annotations"] = json!({});
    });
    assert_eq!(same["metadata"]["annotations"][KEY], "1");
    assert_eq!(same["metadata"]["generation"], 2);
    let (moved, errors) =
        updated(&k, &d, "", |x| x["spec"]["template"]["spec"]["containers"][0]["image"] = "i:2".into());
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(moved["metadata"]["annotations"][KEY], "2");
}

#[test]
fn a_stateful_set_keeps_its_claims_and_service() {
    let k = kind("apps/v1", "StatefulSet");
    let s = created(&k, workload(json!({ "serviceName": "web" })));
    let (_, errors) = updated(&k, &s, "", |x| x["spec"]["serviceName"] = "other".into());
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].starts_with(
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template'"
        ),
        "{errors:?}"
    );
    let (_, errors) = updated(&k, &s, "", |x| {
        x["spec"]["replicas"] = 3.into();
        x["spec"]["template"]["spec"]["containers"][0]["image"] = "i:2".into();
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(
        refused(&k, json!({ "metadata": { "name": "a.b" }, "spec": workload(json!({}))["spec"].clone() })),
        ["metadata.name: Invalid value: \"a.b\": must not contain dots"]
    );
}

#[test]
fn status_counts_agree_with_each_other() {
    let k = kind("apps/v1", "ReplicaSet");
    let rs = created(&k, workload(json!({})));
    let (_, errors) = updated(&k, &rs, "status", |x| {
        x["status"] = json!({ "replicas": 1, "readyReplicas": 2, "availableReplicas": -1 })
    });
    assert_eq!(
        errors,
        [
            "status.availableReplicas: Invalid value: -1: must be greater than or equal to 0",
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
        ]
    );
}

#[test]
fn a_revision_is_what_it_was() {
    let k = kind("apps/v1", "ControllerRevision");
    assert_eq!(refused(&k, json!({ "revision": 1 })), ["data: Required value: data is mandatory"]);
    let r = created(&k, json!({ "revision": 1, "data": { "spec": { "replicas": null } } }));
    assert_eq!(r["data"]["spec"], json!({ "replicas": null }), "nulls inside are somebody's patch");
    let (_, errors) = updated(&k, &r, "", |x| x["data"] = json!({ "spec": {} }));
    assert_eq!(errors.len(), 0, "a null equals nothing");
    let (_, errors) = updated(&k, &r, "", |x| x["data"] = json!({ "spec": 1 }));
    assert_eq!(errors, ["data: Invalid value: {\"spec\":1}: field is immutable"]);
}

#[test]
fn a_replication_controller_takes_selector_and_labels_from_its_template() {
    let k = kind("v1", "ReplicationController");
    let rc = created(&k, json!({ "spec": { "template": template() } }));
    assert_eq!(rc["spec"]["selector"], json!({ "app": "web" }));
    assert_eq!(rc["metadata"]["labels"], json!({ "app": "web" }));
    let errors = refused(&k, json!({ "spec": { "selector": { "app": "db" }, "template": template() } }));
    assert_eq!(
        errors,
        [
            "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`"
        ]
    );
}
