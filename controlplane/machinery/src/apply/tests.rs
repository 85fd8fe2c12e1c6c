//! Server-side apply: ownership, conflicts and merges.

use super::*;
use crate::Registry;

fn kind(api_version: &str, kind: &str) -> &'static Kind {
    Registry::builtin().by_type(api_version, kind).unwrap()
}

fn manager(name: &str) -> Manager<'_> {
    Manager { name, subresource: "", now: time::parse("2026-01-01T00:00:00Z").unwrap() }
}

fn fields(object: &Value, manager: &str) -> Value {
    let entry = meta::list_at(object, &["metadata", "managedFields"]).iter().find(|e| e["manager"] == manager);
    entry.map_or(Value::Null, |e| e["fieldsV1"].clone())
}

fn deployment(replicas: Option<i64>, images: &[(&str, &str)]) -> Value {
    let containers: Vec<Value> = images.iter().map(|(n, i)| json!({"name": n, "image": i})).collect();
    let mut spec = json!({"selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers}}});
    if let Some(n) = replicas {
        spec["replicas"] = json!(n);
    }
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": spec})
}

#[test]
fn a_create_records_what_was_set() {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": {"l": "m"}},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}], "restartPolicy": "Never",
            "securityContext": {}}, "status": {"phase": "Pending"}});
    track(kind("v1", "Pod"), None, &mut pod, &manager("curl"));
    assert_eq!(
        fields(&pod, "curl"),
        json!({"f:metadata": {"f:labels": {".": {}, "f:l": {}}}, "f:spec": {
            "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}, "f:resources": {}}},
            "f:restartPolicy": {}, "f:securityContext": {}}})
    );
    let mut map = json!({"metadata": {"name": "cm"}, "data": {"a": "b"}});
    track(kind("v1", "ConfigMap"), None, &mut map, &manager("curl"));
    assert_eq!(fields(&map, "curl"), json!({"f:data": {".": {}, "f:a": {}}}));
}

#[test]
fn an_update_takes_over_what_it_changes() {
    let cm = kind("v1", "ConfigMap");
    let mut old = json!({"metadata": {"name": "cm"}, "data": {"a": "1", "b": "2", "c": "3"}});
    track(cm, None, &mut old, &manager("one"));
    let mut new = json!({"metadata": {"name": "cm"}, "data": {"a": "1", "b": "20", "d": "4"}});
    track(cm, Some(&old), &mut new, &manager("two"));
    assert_eq!(fields(&new, "one"), json!({"f:data": {".": {}, "f:a": {}}}));
    assert_eq!(fields(&new, "two"), json!({"f:data": {"f:b": {}, "f:d": {}}}));
    let mut same = new.clone();
    track(cm, Some(&new), &mut same, &manager("three"));
    assert_eq!(same, new);
}

#[test]
fn an_apply_creates_and_owns_exactly_its_configuration() {
    let result = apply(kind("apps/v1", "Deployment"), None, &deployment(Some(2), &[("c", "i")]), &manager("m"), false);
    assert_eq!(
        fields(&result.unwrap(), "m"),
        json!({"f:spec": {"f:replicas": {}, "f:selector": {}, "f:template": {
            "f:metadata": {"f:labels": {"f:a": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}})
    );
}

#[test]
fn what_leaves_the_configuration_leaves_the_object() {
    let k = kind("apps/v1", "Deployment");
    let first = apply(k, None, &deployment(Some(2), &[("a", "1"), ("b", "1")]), &manager("m"), false).unwrap();
    // Defaulting adds fields nobody owns.
    let mut live = first;
    live["spec"]["template"]["spec"]["containers"][1]["imagePullPolicy"] = json!("Always");
    let second = apply(k, Some(&live), &deployment(None, &[("a", "2")]), &manager("m"), false).unwrap();
    assert_eq!(second["spec"].get("replicas"), None);
    assert_eq!(second["spec"]["template"]["spec"]["containers"], json!([{"name": "a", "image": "2"}]));
}

#[test]
fn what_others_own_stays() {
    let k = kind("apps/v1", "Deployment");
    let live = apply(k, None, &deployment(Some(2), &[("a", "1")]), &manager("m"), false).unwrap();
    let sidecar = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"template": {"spec": {"containers": [{"name": "side", "image": "s"}]}}}});
    let live = apply(k, Some(&live), &sidecar, &manager("injector"), false).unwrap();
    let again = apply(k, Some(&live), &deployment(Some(2), &[("a", "2")]), &manager("m"), false).unwrap();
    let names: Vec<&Value> =
        again["spec"]["template"]["spec"]["containers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    // And when its owner lets go, it goes.
    let nothing = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
    let gone = apply(k, Some(&again), &nothing, &manager("injector"), false).unwrap();
    assert_eq!(gone["spec"]["template"]["spec"]["containers"], json!([{"name": "a", "image": "2"}]));
    assert_eq!(fields(&gone, "injector"), Value::Null);
}

#[test]
fn a_field_of_somebody_else_is_a_conflict_unless_forced() {
    let cm = kind("v1", "ConfigMap");
    let mut live = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "b"}});
    track(cm, None, &mut live, &manager("Python-urllib"));
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "c"}});
    let e = apply(cm, Some(&live), &config, &manager("two"), false).unwrap_err();
    assert_eq!(
        e.to_value(),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 409,
            "message": "Apply failed with 1 conflict: conflict with \"Python-urllib\" using v1: .data.a",
            "reason": "Conflict", "details": {"causes": [{"reason": "FieldManagerConflict",
                "message": "conflict with \"Python-urllib\" using v1", "field": ".data.a"}]}})
    );
    let forced = apply(cm, Some(&live), &config, &manager("two"), true).unwrap();
    assert_eq!(forced["data"], json!({"a": "c"}));
    assert_eq!(fields(&forced, "two"), json!({"f:data": {"f:a": {}}}));
    assert_eq!(fields(&forced, "Python-urllib"), json!({"f:data": {}}));
    // The same value is shared, not fought over.
    let agree = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "b"}});
    assert!(apply(cm, Some(&live), &agree, &manager("two"), false).is_ok());
}

#[test]
fn ports_without_a_protocol_are_the_tcp_ones() {
    let k = kind("v1", "Service");
    let service = |ports: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": ports}});
    let live = service(json!([{"port": 53, "protocol": "TCP", "nodePort": 1}, {"port": 53, "protocol": "UDP"}]));
    let result = apply(k, Some(&live), &service(json!([{"port": 53, "name": "dns"}])), &manager("m"), true).unwrap();
    assert_eq!(
        result["spec"]["ports"],
        json!([{"port": 53, "protocol": "TCP", "nodePort": 1, "name": "dns"}, {"port": 53, "protocol": "UDP"}])
    );
    assert!(fields(&result, "m")["f:spec"]["f:ports"]["k:{\"port\":53,\"protocol\":\"TCP\"}"].is_object());
}

#[test]
fn an_object_from_before_is_owned_by_nobody_in_particular() {
    let cm = kind("v1", "ConfigMap");
    let live = json!({"metadata": {"name": "cm"}, "data": {"a": "b"}});
    let config = json!({"metadata": {"name": "cm"}, "data": {"a": "c"}});
    let e = apply(cm, Some(&live), &config, &manager("m"), false).unwrap_err();
    assert!(e.message.contains("before-first-apply"), "{e}");
}

#[test]
fn applying_the_same_again_changes_nothing() {
    let k = kind("apps/v1", "Deployment");
    let once = apply(k, None, &deployment(Some(2), &[("a", "1"), ("b", "2")]), &manager("m"), false).unwrap();
    let later = Manager { now: time::parse("2026-02-02T00:00:00Z").unwrap(), ..manager("m") };
    assert_eq!(apply(k, Some(&once), &deployment(Some(2), &[("a", "1"), ("b", "2")]), &later, false).unwrap(), once);
}
