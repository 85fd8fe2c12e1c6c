//! Fields a Pod is given when it is created.

use serde_json::json;

use crate::{created, kind, pod, pod_with};

#[test]
fn the_tag_decides_whether_an_image_is_always_pulled() {
    let k = kind("v1", "Pod");
    for (image, policy) in [
        ("app", "Always"),
        ("app:latest", "Always"),
        ("host:5000/app", "Always"),
        ("host:5000/app:v2", "IfNotPresent"),
        ("app@sha256:0000000000000000000000000000000000000000000000000000000000000000", "IfNotPresent"),
    ] {
        let p = created(&k, pod_with(json!({ "image": image })));
        assert_eq!(p["spec"]["containers"][0]["imagePullPolicy"], policy, "{image}");
    }
}

#[test]
fn a_limit_alone_is_also_the_request_and_quantities_are_canonical() {
    let resources = json!({ "limits": { "cpu": 2, "memory": "1024Mi" }, "requests": { "cpu": "0.5" } });
    let p = created(&kind("v1", "Pod"), pod_with(json!({ "resources": resources })));
    let r = &p["spec"]["containers"][0]["resources"];
    assert_eq!(
        *r,
        json!({ "limits": { "cpu": "2", "memory": "1Gi" }, "requests": { "cpu": "500m", "memory": "1Gi" } })
    );
    assert_eq!(p["status"]["qosClass"], "Burstable");
}

#[test]
fn templates_keep_limits_and_requests_apart() {
    let template = json!({
        "metadata": { "labels": { "a": "b" } },
        "spec": { "containers": [{ "name": "c", "image": "i:1", "resources": { "limits": { "cpu": "1" } } }] },
    });
    let d = json!({ "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": template } });
    let d = created(&kind("apps/v1", "Deployment"), d);
    let c = &d["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(c["resources"], json!({ "limits": { "cpu": "1" } }));
    assert!(d["spec"]["template"]["spec"].get("enableServiceLinks").is_none());
}

#[test]
fn classes_of_service_follow_the_resources_of_all_containers() {
    let k = kind("v1", "Pod");
    let equal = json!({ "limits": { "cpu": "1", "memory": "1Gi" } });
    let class = |spec| created(&k, pod(spec))["status"]["qosClass"].as_str().unwrap().to_owned();
    assert_eq!(class(json!({})), "BestEffort");
    let with = |r: &serde_json::Value| json!({ "name": "app", "image": "app:1", "resources": r });
    assert_eq!(class(json!({ "containers": [with(&equal)] })), "Guaranteed");
    let init = json!([{ "name": "init", "image": "app:1" }]);
    assert_eq!(class(json!({ "containers": [with(&equal)], "initContainers": init })), "Burstable");
    let zero = json!({ "requests": { "cpu": "0" } });
    assert_eq!(class(json!({ "containers": [with(&zero)] })), "BestEffort");
}

#[test]
fn host_network_opens_the_container_ports_on_the_host() {
    let spec = json!({
        "hostNetwork": true,
        "containers": [{ "name": "app", "image": "app:1", "ports": [{ "containerPort": 80 }] }],
    });
    let p = created(&kind("v1", "Pod"), pod(spec));
    assert_eq!(p["spec"]["containers"][0]["ports"][0]["hostPort"], 80);
}

#[test]
fn a_volume_without_a_source_is_an_empty_directory() {
    let p = created(&kind("v1", "Pod"), pod(json!({ "volumes": [{ "name": "v" }] })));
    assert_eq!(p["spec"]["volumes"][0], json!({ "name": "v", "emptyDir": {} }));
}

#[test]
fn nulls_of_hand_written_manifests_disappear() {
    let p = json!({
        "metadata": { "creationTimestamp": null, "labels": {} },
        "spec": { "containers": [{ "name": "app", "image": "app:1", "args": null }], "nodeName": null },
    });
    let p = created(&kind("v1", "Pod"), p);
    assert!(p["metadata"].get("labels").is_none());
    assert!(p["spec"].get("nodeName").is_none());
    assert!(p["spec"]["containers"][0].get("args").is_none());
}

#[test]
fn the_old_name_of_the_service_account_is_still_understood() {
    let p = created(&kind("v1", "Pod"), pod(json!({ "serviceAccount": "robot" })));
    assert_eq!(p["spec"]["serviceAccountName"], "robot");
}

#[test]
fn label_keys_become_expressions_with_the_pods_own_values() {
    let mut p = pod(json!({
        "topologySpreadConstraints": [{
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": { "matchLabels": { "app": "web" } }, "matchLabelKeys": ["hash", "absent"],
        }],
    }));
    p["metadata"] = json!({ "labels": { "app": "web", "hash": "abc" } });
    let p = created(&kind("v1", "Pod"), p);
    let selector = &p["spec"]["topologySpreadConstraints"][0]["labelSelector"];
    assert_eq!(selector["matchExpressions"], json!([{ "key": "hash", "operator": "In", "values": ["abc"] }]));
}

#[test]
fn a_gated_pod_says_why_it_is_not_scheduled() {
    let p = created(&kind("v1", "Pod"), pod(json!({ "schedulingGates": [{ "name": "example.com/wait" }] })));
    let c = &p["status"]["conditions"][0];
    assert_eq!((c["type"].as_str(), c["status"].as_str()), (Some("PodScheduled"), Some("False")));
    assert_eq!(c["reason"], "SchedulingGated");
}
