//! The rows and columns of server-side Tables.

use super::*;
use crate::{Registry, time};

fn now() -> Timestamp {
    time::parse("2026-01-01T01:00:00Z").unwrap()
}

fn cells(api_version: &str, kind: &str, object: Value) -> Vec<Value> {
    let kind = Registry::builtin().by_type(api_version, kind).unwrap();
    let table = table(kind, &[&object], None, IncludeObject::None, now());
    let cells = table["rows"][0]["cells"].as_array().unwrap().clone();
    assert_eq!(cells.len(), columns(kind).len(), "{}", kind.plural);
    cells
}

fn pod(status: Value) -> Value {
    json!({"metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:55:00Z"},
        "spec": {"nodeName": "n1", "containers": [{"name": "a"}, {"name": "b"}]}, "status": status})
}

#[test]
fn every_kind_has_as_many_cells_as_columns() {
    for kind in Registry::builtin().kinds() {
        let object = json!({"apiVersion": kind.api_version(), "kind": kind.kind, "metadata": {"name": "x"}});
        let table = table(kind, &[&object], None, IncludeObject::Metadata, now());
        let row = &table["rows"][0];
        assert_eq!(row["cells"].as_array().unwrap().len(), columns(kind).len(), "{}", kind.plural);
        let name = columns(kind).iter().position(|c| c.name == "Name").unwrap();
        assert_eq!(row["cells"][name], "x", "{}", kind.plural);
    }
}

#[test]
fn a_running_pod_shows_readiness_and_restarts() {
    let running = json!({"phase": "Running", "podIPs": [{"ip": "10.244.0.5"}], "containerStatuses": [
        {"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:58:00Z"}}},
        {"name": "b", "ready": false, "restartCount": 1, "state": {"running": {}}}]});
    assert_eq!(
        cells("v1", "Pod", pod(running)),
        ["p", "1/2", "Running", "3 (2m ago)", "5m", "10.244.0.5", "n1", "<none>", "<none>"]
    );
}

#[test]
fn the_status_of_a_pod_is_the_most_telling_reason() {
    let reason = |status: Value| cells("v1", "Pod", pod(status))[2].clone();
    assert_eq!(reason(json!({"phase": "Pending"})), "Pending");
    assert_eq!(reason(json!({"phase": "Failed", "reason": "Evicted"})), "Evicted");
    let waiting = json!({"phase": "Running", "containerStatuses": [
        {"name": "a", "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "restartCount": 4},
        {"name": "b", "state": {"running": {}}, "ready": true}]});
    assert_eq!(reason(waiting), "CrashLoopBackOff");
    let terminated =
        |t: Value| json!({"phase": "Failed", "containerStatuses": [{"name": "a", "state": {"terminated": t}}]});
    assert_eq!(reason(terminated(json!({"reason": "Error", "exitCode": 1}))), "Error");
    assert_eq!(reason(terminated(json!({"exitCode": 3}))), "ExitCode:3");
    assert_eq!(reason(terminated(json!({"signal": 9, "exitCode": 137}))), "Signal:9");
    let half = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [
        {"name": "a", "state": {"terminated": {"reason": "Completed"}}}, {"name": "b", "state": {"running": {}}, "ready": true}]});
    assert_eq!(reason(half), "NotReady");
    assert_eq!(
        reason(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]})),
        "SchedulingGated"
    );
}

#[test]
fn a_pod_that_goes_away_is_terminating() {
    let mut going = pod(json!({"phase": "Running"}));
    going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:59:00Z");
    assert_eq!(cells("v1", "Pod", going.clone())[2], "Terminating");
    going["status"]["reason"] = json!("NodeLost");
    assert_eq!(cells("v1", "Pod", going.clone())[2], "Unknown");
    going["status"] = json!({"phase": "Succeeded"});
    assert_eq!(cells("v1", "Pod", going)[2], "Succeeded");
}

#[test]
fn init_containers_and_sidecars_count() {
    let mut p = pod(json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "state": {"terminated": {"exitCode": 0}}},
        {"name": "s", "started": true, "ready": true, "state": {"running": {}}},
        {"name": "j", "state": {"waiting": {"reason": "PodInitializing"}}}]}));
    p["spec"]["initContainers"] = json!([{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "j"}]);
    assert_eq!(&cells("v1", "Pod", p.clone())[1..3], ["1/3", "Init:2/3"]);
    p["status"]["initContainerStatuses"][2]["state"] = json!({"waiting": {"reason": "ImagePullBackOff"}});
    assert_eq!(cells("v1", "Pod", p.clone())[2], "Init:ImagePullBackOff");
    p["status"]["initContainerStatuses"][2]["state"] = json!({"terminated": {"exitCode": 2}});
    assert_eq!(cells("v1", "Pod", p)[2], "Init:ExitCode:2");
}

#[test]
fn a_finished_pods_row_says_so() {
    let kind = Registry::builtin().by_type("v1", "Pod").unwrap();
    let table = table(kind, &[&pod(json!({"phase": "Succeeded"}))], None, IncludeObject::None, now());
    assert_eq!(table["rows"][0]["conditions"][0]["type"], "Completed");
    assert_eq!(table["rows"][0]["object"], Value::Null);
}

#[test]
fn services_show_where_they_are_reached() {
    let service = |spec: Value| {
        cells(
            "v1",
            "Service",
            json!({"metadata": {"name": "s", "creationTimestamp": "2026-01-01T00:00:00Z"}, "spec": spec}),
        )
    };
    assert_eq!(
        service(
            json!({"type": "NodePort", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"], "selector": {"a": "b"},
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]})
        ),
        ["s", "NodePort", "10.96.0.5", "<none>", "80:30080/TCP,53/UDP", "60m", "a=b"]
    );
    assert_eq!(service(json!({"type": "LoadBalancer", "clusterIP": "10.96.0.6"}))[3], "<pending>");
    assert_eq!(
        service(json!({"type": "ExternalName", "externalName": "e.example"}))[2..5],
        ["<none>", "e.example", "<none>"]
    );
}

#[test]
fn workloads_show_their_progress() {
    let template = json!({"spec": {"containers": [{"name": "c", "image": "i:1"}, {"name": "d", "image": "j"}]}});
    assert_eq!(
        cells(
            "apps/v1",
            "Deployment",
            json!({"metadata": {"name": "d"},
            "spec": {"replicas": 3, "selector": {"matchLabels": {"a": "b"}}, "template": template},
            "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}})
        ),
        [json!("d"), json!("2/3"), json!(3), json!(1), json!("<unknown>"), json!("c,d"), json!("i:1,j"), json!("a=b")]
    );
    let job = json!({"metadata": {"name": "j"}, "spec": {"completions": 2, "template": template},
        "status": {"succeeded": 1, "startTime": "2026-01-01T00:59:00Z"}});
    assert_eq!(&cells("batch/v1", "Job", job)[1..4], ["Running", "1/2", "60s"]);
    let hpa = json!({"metadata": {"name": "h"}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d"},
        "maxReplicas": 5, "metrics": [{"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    assert_eq!(
        &cells("autoscaling/v2", "HorizontalPodAutoscaler", hpa)[1..4],
        ["Deployment/d", "cpu: <unknown>/50%", "<unset>"]
    );
}

#[test]
fn nodes_show_their_condition_and_roles() {
    let node = json!({"metadata": {"name": "n", "labels": {"node-role.kubernetes.io/control-plane": "", "x": "y"}},
        "spec": {"unschedulable": true},
        "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"},
            "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
    assert_eq!(
        cells("v1", "Node", node),
        [
            "n",
            "Ready,SchedulingDisabled",
            "control-plane",
            "<unknown>",
            "v1",
            "10.0.0.1",
            "<none>",
            "<unknown>",
            "<unknown>",
            "<unknown>"
        ]
    );
    assert_eq!(&cells("v1", "Node", json!({"metadata": {"name": "n"}}))[1..3], ["Unknown", "<none>"]);
}

#[test]
fn endpoints_are_shortened() {
    let subsets =
        json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"port": 80}, {"port": 443}]}]);
    assert_eq!(
        cells("v1", "Endpoints", json!({"metadata": {"name": "e"}, "subsets": subsets}))[1],
        "10.0.0.1:80,10.0.0.2:80,10.0.0.1:443 + 1 more..."
    );
    assert_eq!(
        &cells(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            json!({"addressType": "IPv4", "metadata": {"name": "e"},
            "endpoints": [{"addresses": ["10.0.0.1"]}]})
        )[1..4],
        ["IPv4", "<unset>", "10.0.0.1"]
    );
}

#[test]
fn both_kinds_of_events_look_the_same() {
    let core = json!({"apiVersion": "v1", "metadata": {"name": "e"}, "type": "Normal", "reason": "Pulled", "message": " m ",
        "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "kubelet", "host": "n"},
        "firstTimestamp": "2026-01-01T00:50:00Z", "lastTimestamp": "2026-01-01T00:59:30Z", "count": 3});
    let expected = [
        json!("30s"),
        json!("Normal"),
        json!("Pulled"),
        json!("pod/p"),
        json!(""),
        json!("kubelet, n"),
        json!("m"),
        json!("10m"),
        json!(3),
        json!("e"),
    ];
    assert_eq!(cells("v1", "Event", core.clone()), expected);
    let mut new = core;
    crate::convert::to_version(&mut new, Registry::builtin().by_type("events.k8s.io/v1", "Event").unwrap()).unwrap();
    assert_eq!(cells("events.k8s.io/v1", "Event", new), expected);
}

#[test]
fn rows_carry_metadata_unless_told_otherwise() {
    let kind = Registry::builtin().by_type("v1", "ConfigMap").unwrap();
    let object = json!({"metadata": {"name": "c", "resourceVersion": "5"}, "data": {"a": "b"}});
    let t = table(kind, &[&object], None, IncludeObject::parse("").unwrap(), now());
    assert_eq!(t["metadata"], json!({"resourceVersion": "5"}));
    assert_eq!(
        t["rows"][0]["object"],
        json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
    );
    assert_eq!(t["rows"][0]["cells"][1], 1);
    let t = table(kind, &[&object], Some(&json!({"continue": "x"})), IncludeObject::Object, now());
    assert_eq!((&t["rows"][0]["object"], &t["metadata"]["continue"]), (&object, &json!("x")));
    assert_eq!(event_table(kind, &object, false, IncludeObject::None, now())["columnDefinitions"], Value::Null);
    assert_eq!(IncludeObject::parse("All"), None);
    let list = partial_metadata_list(&[&object], &json!({"resourceVersion": "9"}));
    assert_eq!(list["items"][0]["metadata"]["name"], "c");
}
