//! Strategic merge patches, in the shapes that kubectl sends.

use serde_json::json;

use super::*;

const POD: &str = "io.k8s.api.core.v1.Pod";
const DEPLOYMENT: &str = "io.k8s.api.apps.v1.Deployment";
const SERVICE: &str = "io.k8s.api.core.v1.Service";

fn apply(schema: &str, object: Value, patch: Value) -> Value {
    strategic(schema, &object, &patch).unwrap()
}

fn refused(schema: &str, object: Value, patch: Value) -> ApiError {
    strategic(schema, &object, &patch).unwrap_err()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect()
}

#[test]
fn maps_merge_and_null_removes() {
    assert_eq!(
        apply(
            POD,
            json!({"metadata": {"name": "x", "labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null, "c": "3"}, "annotations": {"gone": null}}}),
        ),
        json!({"metadata": {"name": "x", "labels": {"b": "2", "c": "3"}, "annotations": {}}})
    );
}

#[test]
fn list_items_merge_by_key() {
    // kubectl set image deployment/web c=new
    let object = json!({"spec": {"template": {"spec": {"containers": [
        {"name": "side", "image": "s"}, {"name": "c", "image": "old", "tty": true}]}}}});
    let patch = json!({"spec": {"template": {"spec": {
        "$setElementOrder/containers": [{"name": "side"}, {"name": "c"}],
        "containers": [{"name": "c", "image": "new"}]}}}});
    let result = apply(DEPLOYMENT, object.clone(), patch);
    assert_eq!(
        result["spec"]["template"]["spec"]["containers"],
        json!([{"name": "side", "image": "s"}, {"name": "c", "image": "new", "tty": true}])
    );
    // Without an order directive, an item the patch names keeps its place too.
    let result = apply(
        DEPLOYMENT,
        object,
        json!({"spec": {"template": {"spec": {"containers": [{"name": "new"}, {"name": "c", "image": "n"}]}}}}),
    );
    assert_eq!(names(&result["spec"]["template"]["spec"]["containers"]), ["new", "side", "c"]);
}

#[test]
fn an_item_can_be_deleted_or_the_list_replaced() {
    let object = json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
    let result = apply(POD, object.clone(), json!({"spec": {"containers": [{"$patch": "delete", "name": "a"}]}}));
    assert_eq!(result["spec"]["containers"], json!([{"name": "b"}]));
    let result = apply(POD, object, json!({"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}}));
    assert_eq!(result["spec"]["containers"], json!([{"name": "z"}]));
}

#[test]
fn a_map_can_be_replaced_or_deleted() {
    let object = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"strategy": {"rollingUpdate": {"maxSurge": 1}}}});
    let result = apply(DEPLOYMENT, object.clone(), json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}}));
    assert_eq!(result["metadata"]["labels"], json!({"b": "2"}));
    let result = apply(DEPLOYMENT, object, json!({"spec": {"strategy": {"$patch": "delete"}}}));
    assert_eq!(result["spec"]["strategy"], json!({}));
}

#[test]
fn retain_keys_drops_the_others() {
    // kubectl apply, from RollingUpdate to Recreate.
    let object = json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}}}});
    let patch = json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}});
    assert_eq!(apply(DEPLOYMENT, object.clone(), patch)["spec"]["strategy"], json!({"type": "Recreate"}));
    let bad = json!({"spec": {"strategy": {"$retainKeys": ["rollingUpdate"], "type": "Recreate"}}});
    assert_eq!(refused(DEPLOYMENT, object, bad).message, "invalid patch format of retainKeys");
}

#[test]
fn a_volume_changes_its_source() {
    let object =
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "hostPath": {"path": "/"}}]}});
    let patch = json!({"spec": {"$setElementOrder/volumes": [{"name": "v"}, {"name": "w"}],
        "volumes": [{"$retainKeys": ["name", "configMap"], "name": "v", "configMap": {"name": "c"}, "emptyDir": null}]}});
    assert_eq!(
        apply(POD, object, patch)["spec"]["volumes"],
        json!([{"name": "v", "configMap": {"name": "c"}}, {"name": "w", "hostPath": {"path": "/"}}])
    );
}

#[test]
fn strings_leave_and_join_primitive_lists() {
    let object = json!({"metadata": {"finalizers": ["a", "b", "c"]}});
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"],
        "$setElementOrder/finalizers": ["c", "a", "d"], "finalizers": ["d"]}});
    assert_eq!(apply(POD, object.clone(), patch)["metadata"]["finalizers"], json!(["c", "a", "d"]));
    let result = apply(POD, object.clone(), json!({"metadata": {"finalizers": ["b", "z"]}}));
    assert_eq!(result["metadata"]["finalizers"], json!(["a", "b", "z", "c"]));
    let result = apply(POD, object, json!({"metadata": {"finalizers": null}}));
    assert_eq!(result["metadata"], json!({}));
}

#[test]
fn lists_without_a_merge_strategy_are_replaced() {
    let object = json!({"spec": {"containers": [{"name": "c", "command": ["a", "b"], "args": ["x"]}],
        "tolerations": [{"key": "a"}]}});
    let result = apply(
        POD,
        object,
        json!({"spec": {"containers": [{"name": "c", "command": ["z"]}], "tolerations": [{"key": "b", "value": null}]}}),
    );
    assert_eq!(result["spec"]["containers"], json!([{"name": "c", "command": ["z"], "args": ["x"]}]));
    assert_eq!(result["spec"]["tolerations"], json!([{"key": "b"}]));
}

#[test]
fn service_ports_merge_by_port() {
    let object = json!({"spec": {"ports": [{"port": 80, "name": "http", "nodePort": 30000}, {"port": 443}]}});
    let result = apply(
        SERVICE,
        object,
        json!({"spec": {"$setElementOrder/ports": [{"port": 443}, {"port": 80}],
            "ports": [{"port": 80, "targetPort": 8080}]}}),
    );
    assert_eq!(
        result["spec"]["ports"],
        json!([{"port": 443}, {"port": 80, "name": "http", "nodePort": 30000, "targetPort": 8080}])
    );
}

#[test]
fn what_is_new_carries_no_directives_and_no_nulls() {
    let result = apply(
        POD,
        json!({}),
        json!({"spec": {"$setElementOrder/containers": [{"name": "c"}],
            "containers": [{"name": "c", "image": "i", "command": null}, {"$patch": "delete", "name": "d"}],
            "securityContext": {"$patch": "replace", "runAsUser": 1, "runAsGroup": null},
            "affinity": {"$patch": "delete"}}}),
    );
    assert_eq!(
        result,
        json!({"spec": {"containers": [{"name": "c", "image": "i"}], "securityContext": {"runAsUser": 1}}})
    );
}

#[test]
fn inlined_and_nested_lists_are_found() {
    // kubectl set env, and a rollout restart.
    let object = json!({"spec": {"template": {"metadata": {}, "spec": {"containers": [
        {"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}]}}}});
    let patch = json!({"spec": {"template": {
        "metadata": {"annotations": {"kubectl.kubernetes.io/restartedAt": "now"}},
        "spec": {"$setElementOrder/containers": [{"name": "c"}], "containers": [{"name": "c",
            "$setElementOrder/env": [{"name": "B"}, {"name": "C"}],
            "env": [{"name": "C", "value": "3"}, {"$patch": "delete", "name": "A"}]}]}}}});
    let result = apply(DEPLOYMENT, object, patch);
    let template = &result["spec"]["template"];
    assert_eq!(
        template["spec"]["containers"][0]["env"],
        json!([{"name": "B", "value": "2"}, {"name": "C", "value": "3"}])
    );
    assert_eq!(template["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"], "now");
}

#[test]
fn server_only_items_keep_their_place() {
    let object = json!({"spec": {"containers": [{"name": "injected"}, {"name": "a"}, {"name": "late"}]}});
    let patch = json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
        "containers": [{"name": "b"}]}});
    assert_eq!(names(&apply(POD, object, patch)["spec"]["containers"]), ["injected", "a", "b", "late"]);
}

#[test]
fn patches_that_make_no_sense_are_refused() {
    let object = json!({"spec": {"containers": [{"name": "a"}]}});
    let e = refused(POD, object.clone(), json!({"spec": {"containers": [{"image": "i"}]}}));
    assert_eq!(e.code, 422);
    let e = refused(POD, object.clone(), json!({"metadata": {"$patch": "nope"}}));
    assert_eq!(e.code, 422);
    let e = refused(POD, object.clone(), json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}));
    assert_eq!((e.code, e.message.as_str()), (400, "invalid patch format of primitive list"));
    let order = json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}});
    assert_eq!(refused(POD, object.clone(), order).message, "invalid patch format of setElementOrder list");
    assert_eq!(refused(POD, object, json!([])).message, "invalid JSON document");
}

#[test]
fn conditions_merge_by_type() {
    let object =
        json!({"status": {"conditions": [{"type": "Ready", "status": "False"}, {"type": "Disk", "status": "True"}]}});
    let result = apply(
        "io.k8s.api.core.v1.Node",
        object,
        json!({"status": {"$setElementOrder/conditions": [{"type": "Ready"}],
            "conditions": [{"type": "Ready", "status": "True"}]}}),
    );
    assert_eq!(
        result["status"]["conditions"],
        json!([{"type": "Ready", "status": "True"}, {"type": "Disk", "status": "True"}])
    );
}
