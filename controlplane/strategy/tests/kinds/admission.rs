//! The decisions of the built-in admission plugins.

use serde_json::json;
use strake_strategy::admission::{
    ClassChoice, NamespaceState, PriorityClassInfo, ServiceAccountInfo, apply_limit_ranges, apply_priority,
    apply_runtime_class, apply_service_account, check_limit_ranges, default_storage_class, default_tolerations,
    namespace_deletable, namespace_for_create, protect_storage, service_account_name, taint_new_node,
};

use crate::{created, kind, pod};

#[test]
fn containers_find_their_credentials() {
    let mut p = created(&kind("v1", "Pod"), pod(json!({})));
    assert_eq!(service_account_name(&p), Some("default"));
    let account = ServiceAccountInfo::of(&json!({ "imagePullSecrets": [{ "name": "pull" }] }));
    apply_service_account(&mut p, &account, "abcde");
    assert_eq!(p["spec"]["serviceAccountName"], "default");
    assert_eq!(p["spec"]["imagePullSecrets"], json!([{ "name": "pull" }]));
    assert_eq!(p["spec"]["volumes"][0]["name"], "kube-api-access-abcde");
    assert_eq!(
        p["spec"]["containers"][0]["volumeMounts"][0]["mountPath"],
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    let once = p.clone();
    apply_service_account(&mut p, &account, "fghij");
    assert_eq!(p, once, "reinvoked, it adds nothing");
    assert!(strake_strategy::validate_create(&kind("v1", "Pod"), &p).is_empty());
}

#[test]
fn a_pod_or_its_account_may_decline_the_token() {
    let declines = ServiceAccountInfo { automount: Some(false), ..Default::default() };
    let mut p = pod(json!({}));
    apply_service_account(&mut p, &declines, "abcde");
    assert!(p["spec"].get("volumes").is_none());
    let mut p = pod(json!({ "automountServiceAccountToken": true }));
    apply_service_account(&mut p, &declines, "abcde");
    assert!(p["spec"]["volumes"].is_array(), "the Pod's own word counts");
}

#[test]
fn a_mirror_pod_has_no_account() {
    let mut p = pod(json!({}));
    p["metadata"] = json!({ "annotations": { "kubernetes.io/config.mirror": "x" } });
    let before = p.clone();
    assert_eq!(service_account_name(&p), None);
    apply_service_account(&mut p, &ServiceAccountInfo::default(), "abcde");
    assert_eq!(p, before);
}

#[test]
fn a_pod_tolerates_a_silent_node_for_a_while_unless_it_says_otherwise() {
    let mut p = pod(
        json!({ "tolerations": [{ "key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute" }] }),
    );
    default_tolerations(&mut p, 300);
    let t = p["spec"]["tolerations"].as_array().unwrap();
    assert_eq!(t.len(), 2);
    assert_eq!(t[1]["key"], "node.kubernetes.io/unreachable");
    let mut all = pod(json!({ "tolerations": [{ "operator": "Exists" }] }));
    default_tolerations(&mut all, 300);
    assert_eq!(all["spec"]["tolerations"].as_array().unwrap().len(), 1);
}

#[test]
fn priorities_come_from_classes_only() {
    let high = PriorityClassInfo { name: "high".into(), value: 100, preemption_policy: "Never".into() };
    let mut p = pod(json!({ "priorityClassName": "high" }));
    apply_priority(&mut p, Some(&high), None).unwrap();
    assert_eq!((&p["spec"]["priority"], &p["spec"]["preemptionPolicy"]), (&json!(100), &json!("Never")));
    let mut p = pod(json!({}));
    apply_priority(&mut p, None, Some(&high)).unwrap();
    assert_eq!(p["spec"]["priorityClassName"], "high");
    let mut p = pod(json!({ "priorityClassName": "none" }));
    let e = apply_priority(&mut p, None, None).unwrap_err();
    assert_eq!(e.code, 403);
    assert!(e.message.ends_with("no PriorityClass with name none was found"), "{}", e.message);
    let mut p = pod(json!({ "priority": 7 }));
    assert_eq!(apply_priority(&mut p, None, None).unwrap_err().code, 403);
}

#[test]
fn nothing_is_made_where_there_is_no_namespace_or_where_it_is_going() {
    let k = kind("v1", "ConfigMap");
    assert!(namespace_for_create(&k, "c", "ns", NamespaceState::Active).is_ok());
    let e = namespace_for_create(&k, "c", "ns", NamespaceState::Missing).unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (404, "namespaces \"ns\" not found"));
    let e = namespace_for_create(&k, "c", "ns", NamespaceState::Terminating).unwrap_err();
    assert_eq!(e.code, 403);
    assert_eq!(e.details.unwrap().causes[0].reason, "NamespaceTerminating");
    assert!(namespace_for_create(&kind("v1", "Node"), "n", "", NamespaceState::Missing).is_ok());
    assert_eq!(
        namespace_deletable("kube-system").unwrap_err().message,
        "namespaces \"kube-system\" is forbidden: this namespace may not be deleted"
    );
    assert!(namespace_deletable("team").is_ok());
}

#[test]
fn a_new_node_is_tainted_and_storage_is_protected() {
    let mut n = json!({});
    taint_new_node(&mut n);
    taint_new_node(&mut n);
    assert_eq!(n["spec"]["taints"].as_array().unwrap().len(), 1);
    let mut c = json!({ "metadata": {} });
    protect_storage(&kind("v1", "PersistentVolumeClaim"), &mut c);
    protect_storage(&kind("v1", "PersistentVolumeClaim"), &mut c);
    assert_eq!(c["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
}

#[test]
fn the_newest_default_class_is_taken() {
    let class = |name: &str, created: &str| ClassChoice { name: name.into(), created: created.into() };
    let all =
        [class("old", "2025-01-01T00:00:00Z"), class("b", "2026-01-01T00:00:00Z"), class("a", "2026-01-01T00:00:00Z")];
    let mut c = json!({ "spec": {} });
    default_storage_class(&mut c, &all);
    assert_eq!(c["spec"]["storageClassName"], "a");
    let mut none = json!({ "spec": { "storageClassName": "" } });
    default_storage_class(&mut none, &all);
    assert_eq!(none["spec"]["storageClassName"], "", "an empty name asks for no class");
}

#[test]
fn limit_ranges_fill_and_bound() {
    let range = json!({ "spec": { "limits": [{
        "type": "Container", "default": { "cpu": "1" }, "defaultRequest": { "cpu": "500m" }, "max": { "cpu": "2" },
    }] } });
    let mut p = created(&kind("v1", "Pod"), pod(json!({})));
    apply_limit_ranges(&mut p, std::slice::from_ref(&range));
    assert_eq!(
        p["spec"]["containers"][0]["resources"],
        json!({ "limits": { "cpu": "1" }, "requests": { "cpu": "500m" } })
    );
    assert_eq!(
        p["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu limit for container app; cpu request for container app"
    );
    assert!(check_limit_ranges(&p, false, std::slice::from_ref(&range)).is_empty());
    p["spec"]["containers"][0]["resources"]["limits"]["cpu"] = "3".into();
    assert_eq!(
        check_limit_ranges(&p, false, std::slice::from_ref(&range)),
        ["maximum cpu usage per Container is 2, but limit is 3"]
    );
}

#[test]
fn a_runtime_class_brings_its_overhead() {
    let class = json!({ "handler": "kata", "overhead": { "podFixed": { "memory": "64Mi" } }, "scheduling": { "nodeSelector": { "kata": "yes" } } });
    let mut p = pod(json!({ "runtimeClassName": "kata" }));
    apply_runtime_class(&mut p, Some(&class)).unwrap();
    assert_eq!(p["spec"]["overhead"], json!({ "memory": "64Mi" }));
    assert_eq!(p["spec"]["nodeSelector"], json!({ "kata": "yes" }));
    assert_eq!(apply_runtime_class(&mut pod(json!({ "runtimeClassName": "none" })), None).unwrap_err().code, 403);
}
