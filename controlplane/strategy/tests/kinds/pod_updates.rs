//! What may change of a Pod that exists.

use serde_json::{Value, json};
use strake_strategy::pod::binding;

use crate::{created, kind, pod, pod_with, updated};

fn stored(spec: Value) -> Value {
    created(&kind("v1", "Pod"), pod(spec))
}

#[test]
fn images_may_change_and_move_the_generation() {
    let (p, errors) = updated(&kind("v1", "Pod"), &stored(json!({})), "", |p| {
        p["spec"]["containers"][0]["image"] = "app:2".into();
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(p["metadata"]["generation"], 2);
}

#[test]
fn nothing_changed_moves_nothing() {
    let (p, errors) = updated(&kind("v1", "Pod"), &stored(json!({})), "", |p| {
        p["metadata"]["labels"] = json!({ "a": "b" });
        p["spec"]["nodeSelector"] = json!({});
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(p["metadata"]["generation"], 1);
}

#[test]
fn other_fields_may_not_change_and_the_change_is_shown() {
    let (_, errors) = updated(&kind("v1", "Pod"), &stored(json!({})), "", |p| {
        p["spec"]["containers"][0]["command"] = json!(["x"]);
    });
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0]
            .starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,"),
        "{errors:?}"
    );
    assert!(errors[0].ends_with("containers[0].command: null -> [\"x\"]"), "{errors:?}");
}

#[test]
fn containers_may_not_come_or_go() {
    let (_, errors) = updated(&kind("v1", "Pod"), &stored(json!({})), "", |p| {
        p["spec"]["containers"].as_array_mut().unwrap().push(json!({ "name": "b", "image": "b:1" }));
    });
    assert_eq!(errors, ["spec.containers: Forbidden: pod updates may not add or remove containers"]);
}

#[test]
fn tolerations_may_be_added_but_not_taken_away() {
    let k = kind("v1", "Pod");
    let old = stored(
        json!({ "tolerations": [{ "key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5 }] }),
    );
    let (_, errors) = updated(&k, &old, "", |p| {
        let all = p["spec"]["tolerations"].as_array_mut().unwrap();
        all[0]["tolerationSeconds"] = 9.into();
        all.push(json!({ "key": "b", "operator": "Exists" }));
    });
    assert!(errors.is_empty(), "{errors:?}");
    let (_, errors) = updated(&k, &old, "", |p| p["spec"]["tolerations"] = json!([]));
    assert_eq!(
        errors,
        ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]
    );
}

#[test]
fn a_deadline_may_be_set_and_shortened_only() {
    let k = kind("v1", "Pod");
    let (p, errors) = updated(&k, &stored(json!({})), "", |p| p["spec"]["activeDeadlineSeconds"] = 10.into());
    assert!(errors.is_empty(), "{errors:?}");
    let (_, errors) = updated(&k, &p, "", |p| p["spec"]["activeDeadlineSeconds"] = 11.into());
    assert_eq!(errors, ["spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value"]);
}

#[test]
fn a_pod_at_a_gate_may_be_narrowed() {
    let k = kind("v1", "Pod");
    let old = stored(json!({ "schedulingGates": [{ "name": "g" }], "nodeSelector": { "a": "b" } }));
    let (_, errors) = updated(&k, &old, "", |p| p["spec"]["nodeSelector"]["c"] = "d".into());
    assert!(errors.is_empty(), "{errors:?}");
    let (_, errors) = updated(&k, &old, "", |p| p["spec"]["nodeSelector"]["a"] = "z".into());
    assert_eq!(errors.len(), 1);
    let (_, errors) = updated(&k, &old, "", |p| p["spec"]["schedulingGates"] = json!([]));
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_status_update_writes_status_and_nothing_else() {
    let (p, errors) = updated(&kind("v1", "Pod"), &stored(json!({})), "status", |p| {
        p["spec"]["containers"][0]["image"] = "evil:1".into();
        p["status"] = json!({ "phase": "Running", "qosClass": "BestEffort", "podIP": "10.0.0.1" });
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(p["spec"]["containers"][0]["image"], "app:1");
    assert_eq!(p["status"]["podIPs"], json!([{ "ip": "10.0.0.1" }]));
    assert_eq!(p["metadata"]["generation"], 1);
}

#[test]
fn a_main_update_keeps_the_status() {
    let (p, _) = updated(&kind("v1", "Pod"), &stored(json!({})), "", |p| p["status"] = json!({ "phase": "Failed" }));
    assert_eq!(p["status"]["phase"], "Pending");
}

#[test]
fn a_container_that_ended_for_good_stays_ended() {
    let k = kind("v1", "Pod");
    let mut old = stored(json!({ "restartPolicy": "Never" }));
    old["status"]["containerStatuses"] = json!([{ "name": "app", "state": { "terminated": { "exitCode": 0 } } }]);
    let (_, errors) = updated(&k, &old, "status", |p| {
        p["status"]["containerStatuses"][0]["state"] = json!({ "running": {} });
    });
    assert_eq!(
        errors,
        ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
    );
}

#[test]
fn debug_containers_are_added_by_their_own_door_and_stay() {
    let k = kind("v1", "Pod");
    let (p, errors) = updated(&k, &stored(json!({})), "ephemeralcontainers", |p| {
        p["spec"]["containers"][0]["image"] = "ignored:1".into();
        p["spec"]["ephemeralContainers"] =
            json!([{ "name": "debug", "image": "busybox:1", "targetContainerName": "app" }]);
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(p["spec"]["containers"][0]["image"], "app:1");
    assert_eq!(p["spec"]["ephemeralContainers"][0]["terminationMessagePolicy"], "File");
    assert_eq!(p["metadata"]["generation"], 2);
    let (_, errors) = updated(&k, &p, "ephemeralcontainers", |p| p["spec"]["ephemeralContainers"] = json!([]));
    assert_eq!(
        errors,
        ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debug\" may not be removed\n"]
    );
    let (_, errors) = updated(&k, &p, "ephemeralcontainers", |p| {
        let all = p["spec"]["ephemeralContainers"].as_array_mut().unwrap();
        all.push(json!({ "name": "two", "image": "b:1", "ports": [{ "containerPort": 1 }] }));
    });
    assert_eq!(errors, ["spec.ephemeralContainers[1].ports: Forbidden: cannot be set for an Ephemeral Container"]);
}

#[test]
fn resizing_changes_cpu_and_memory_but_not_the_class() {
    let k = kind("v1", "Pod");
    let old = created(&k, pod_with(json!({ "resources": { "requests": { "cpu": "1" } } })));
    let (p, errors) = updated(&k, &old, "resize", |p| {
        p["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "2".into();
        p["spec"]["containers"][0]["image"] = "ignored:1".into();
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(p["spec"]["containers"][0]["resources"]["requests"]["cpu"], "2");
    assert_eq!(p["spec"]["containers"][0]["image"], "app:1");
    let (_, errors) = updated(&k, &old, "resize", |p| {
        p["spec"]["containers"][0]["resources"] = json!({ "limits": { "cpu": "1", "memory": "1Gi" } });
    });
    assert!(
        errors.contains(
            &"spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing".to_owned()
        ),
        "{errors:?}"
    );
}

#[test]
fn binding_puts_a_pod_on_a_node_once() {
    let b = json!({ "metadata": { "annotations": { "why": "fits" } }, "target": { "kind": "Node", "name": "n1" } });
    assert!(binding::validate(&b).is_empty());
    let mut p = stored(json!({}));
    binding::apply(&mut p, &b, "2026-01-02T03:04:06Z").unwrap();
    assert_eq!(p["spec"]["nodeName"], "n1");
    assert_eq!(p["metadata"]["annotations"]["why"], "fits");
    assert_eq!(p["status"]["conditions"][0]["status"], "True");
    let again = binding::apply(&mut p, &b, "2026-01-02T03:04:07Z").unwrap_err();
    assert_eq!(again.to_string(), "pod x is already assigned to node \"n1\"");
    let told: Vec<String> =
        binding::validate(&json!({ "target": { "kind": "Pod" } })).iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\"",
            "target.name: Required value"
        ]
    );
}

#[test]
fn a_typed_clients_rewrite_of_a_hand_written_pod_changes_nothing() {
    let k = kind("v1", "Pod");
    let old = stored(json!({
        "hostNetwork": false,
        "containers": [{
            "name": "app", "image": "app:1", "tty": false, "args": [], "env": [{ "name": "A", "value": "" }],
            "readinessProbe": { "tcpSocket": { "port": 1 }, "initialDelaySeconds": 0 },
        }],
    }));
    let (new, errors) = updated(&k, &old, "", |p| {
        let c = p["spec"]["containers"][0].as_object_mut().unwrap();
        c.remove("args");
        c.remove("tty");
        c["env"] = json!([{ "name": "A" }]);
        p["spec"].as_object_mut().unwrap().remove("hostNetwork");
        p["metadata"]["finalizers"] = json!(["a.example/b"]);
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(new["metadata"]["generation"], 1);
}
