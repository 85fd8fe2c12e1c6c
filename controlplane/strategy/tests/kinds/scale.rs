//! The scale subresource.

use serde_json::json;
use strake_strategy::scale;

use crate::{created, kind, told};

#[test]
fn a_deployments_scale_is_read_and_written() {
    let k = kind("apps/v1", "Deployment");
    let labels = json!({ "app": "web" });
    let mut d = created(
        &k,
        json!({ "spec": {
        "replicas": 3, "selector": { "matchLabels": labels, "matchExpressions": [{ "key": "tier", "operator": "Exists" }] },
        "template": { "metadata": { "labels": labels }, "spec": { "containers": [{ "name": "c", "image": "i:1" }] } },
    } }),
    );
    d["metadata"]["resourceVersion"] = "5".into();
    d["status"]["replicas"] = 2.into();
    let mut s = scale::read(&k, &d).unwrap();
    assert_eq!((&s["kind"], &s["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!(s["spec"], json!({ "replicas": 3 }));
    assert_eq!(s["status"], json!({ "replicas": 2, "selector": "app=web,tier" }));
    assert_eq!(s["metadata"]["resourceVersion"], "5");
    assert!(s["metadata"].get("labels").is_none());
    s["spec"]["replicas"] = 0.into();
    assert!(scale::validate(&s).is_empty());
    assert!(scale::write(&k, &mut d, &s));
    assert_eq!(d["spec"]["replicas"], 0);
    assert_eq!(scale::read(&k, &d).unwrap()["spec"], json!({}));
}

#[test]
fn a_replication_controllers_selector_is_a_plain_map() {
    let k = kind("v1", "ReplicationController");
    let s = scale::read(&k, &json!({ "spec": { "selector": { "b": "2", "a": "1" } } })).unwrap();
    assert_eq!(s["status"]["selector"], "a=1,b=2");
}

#[test]
fn a_negative_scale_is_refused_and_pods_have_none() {
    let errors = scale::validate(&json!({ "metadata": { "name": "x" }, "spec": { "replicas": -1 } }));
    assert_eq!(told(errors), ["spec.replicas: Invalid value: -1: must be greater than or equal to 0"]);
    assert!(scale::read(&kind("v1", "Pod"), &json!({})).is_none());
}
