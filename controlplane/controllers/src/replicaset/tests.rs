//! Which Pods a ReplicaSet makes, adopts and deletes, decided from snapshots.

use super::plan::{Scale, next_look, pod_from_template, scale, status};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodSpec, PodStatus, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use std::sync::Arc;

const NOW: i64 = 1_000_000;

fn at(s: i64) -> Timestamp {
    Timestamp::from_second(s).unwrap()
}

fn set(replicas: i32) -> ReplicaSet {
    let labels = Some([("app".to_string(), "web".to_string())].into());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("default".into()),
            uid: Some("rs".into()),
            generation: Some(3),
            ..Default::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(replicas),
            template: Some(PodTemplateSpec {
                metadata: Some(ObjectMeta { labels, ..Default::default() }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn pod(name: &str, node: &str, phase: &str, ready_at: Option<i64>) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(name.into()),
            uid: Some(name.into()),
            labels: Some([("app".to_string(), "web".to_string())].into()),
            creation_timestamp: Some(Time(at(NOW - 1000))),
            ..Default::default()
        },
        spec: Some(PodSpec { node_name: (!node.is_empty()).then(|| node.into()), ..Default::default() }),
        status: Some(PodStatus {
            phase: Some(phase.into()),
            conditions: ready_at.map(|t| {
                vec![PodCondition {
                    type_: "Ready".into(),
                    status: "True".into(),
                    last_transition_time: Some(Time(at(t))),
                    ..Default::default()
                }]
            }),
            ..Default::default()
        }),
    }
}

fn deleted(rs: &ReplicaSet, pods: Vec<Pod>) -> Vec<String> {
    let pods: Vec<Arc<Pod>> = pods.into_iter().map(Arc::new).collect();
    let related = pods.clone();
    match scale(rs, &pods, || related, at(NOW)) {
        Scale::Delete(d) => d.iter().map(|p| p.metadata.name.clone().unwrap()).collect(),
        other => panic!("expected a deletion, got {other:?}"),
    }
}

#[test]
fn the_pods_missed_least_go_first() {
    let mut cheap = pod("cheap", "n1", "Running", Some(NOW - 900));
    cheap.metadata.annotations = Some([("controller.kubernetes.io/pod-deletion-cost".into(), "-5".into())].into());
    let pods = vec![
        pod("ready-old", "n1", "Running", Some(NOW - 900)),
        cheap,
        pod("not-ready", "n2", "Running", None),
        pod("pending", "n2", "Pending", None),
        pod("unbound", "", "Pending", None),
        pod("ready-new", "n3", "Running", Some(NOW - 5)),
    ];
    assert_eq!(
        deleted(&set(1), pods),
        ["unbound", "pending", "not-ready", "cheap", "ready-old"],
        "of ready ones the node with more of them first, whatever their age"
    );
}

#[test]
fn doubled_up_nodes_give_before_single_ones_and_young_before_old() {
    let pods = vec![
        pod("single", "n1", "Running", Some(NOW - 1)),
        pod("double-old", "n2", "Running", Some(NOW - 4000)),
        pod("double-new", "n2", "Running", Some(NOW - 10)),
    ];
    assert_eq!(deleted(&set(2), pods), ["double-new"]);
}

#[test]
fn finished_and_terminating_pods_do_not_count() {
    let mut going = pod("going", "n1", "Running", Some(NOW));
    going.metadata.deletion_timestamp = Some(Time(at(NOW)));
    let pods: Vec<Arc<Pod>> =
        [going, pod("failed", "n1", "Failed", None), pod("ok", "n1", "Running", None)].map(Arc::new).into();
    assert_eq!(scale(&set(3), &pods, Vec::new, at(NOW)), Scale::Create(2));
    let s = status(&set(3), &pods, None, at(NOW));
    assert_eq!((s.replicas, s.terminating_replicas, s.observed_generation), (1, Some(1), Some(3)));
    let mut doomed = set(3);
    doomed.metadata.deletion_timestamp = Some(Time(at(NOW)));
    assert_eq!(scale(&doomed, &pods, Vec::new, at(NOW)), Scale::Keep);
}

#[test]
fn min_ready_seconds_delays_available_and_asks_for_a_look() {
    let mut rs = set(2);
    rs.spec.as_mut().unwrap().min_ready_seconds = Some(10);
    let pods: Vec<Arc<Pod>> =
        [pod("a", "n", "Running", Some(NOW - 20)), pod("b", "n", "Running", Some(NOW - 4))].map(Arc::new).into();
    let s = status(&rs, &pods, None, at(NOW));
    assert_eq!((s.ready_replicas, s.available_replicas, s.fully_labeled_replicas), (Some(2), Some(1), Some(2)));
    assert_eq!(next_look(&rs, &pods, at(NOW)).unwrap().as_secs(), 6);
    assert_eq!(next_look(&rs, &pods, at(NOW + 6)), None);
}

#[test]
fn a_pod_is_named_by_the_server_and_controlled_by_the_set() {
    let p = pod_from_template(&set(1));
    assert_eq!(p.metadata.generate_name.as_deref(), Some("web-"));
    let owner = &p.metadata.owner_references.unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.uid.as_str(), owner.controller), ("ReplicaSet", "rs", Some(true)));
}
