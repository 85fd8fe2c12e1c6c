//! Decisions of the scheduler over whole snapshots.

use crate::decide::{Decision, Diagnosis, Nominated, decide, enough};
use crate::podinfo::PodInfo;
use crate::preempt::preempt;
use crate::queue::{Event, Queue};
use crate::score::spread;
use crate::snapshot::Snapshot;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn node(name: &str, cpu: &str, extra: Value) -> Arc<Node> {
    let mut v = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}},
    });
    json_merge(&mut v, extra);
    Arc::new(serde_json::from_value(v).unwrap())
}

fn pod(name: &str, cpu: &str, extra: Value) -> Arc<PodInfo> {
    let mut v = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
    });
    json_merge(&mut v, extra);
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value::<Pod>(v).unwrap())))
}

fn json_merge(a: &mut Value, b: Value) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for (k, v) in b {
                json_merge(a.entry(k).or_insert(Value::Null), v);
            }
        }
        (a, b) => *a = b,
    }
}

fn cluster(nodes: Vec<Arc<Node>>) -> Snapshot {
    let mut s = Snapshot::default();
    nodes.into_iter().for_each(|n| s.set_node(n));
    s
}

fn ask(s: &mut Snapshot, p: &PodInfo) -> Result<String, Diagnosis> {
    match decide(s, p, &[], &Nominated::new(), 0, &mut 0) {
        Decision::Node(id) => Ok(s.node(id).name.clone()),
        Decision::Nowhere(d) => Err(d),
    }
}

fn refused(s: &mut Snapshot, p: &PodInfo) -> String {
    ask(s, p).unwrap_err().message(None)
}

#[test]
fn the_message_names_every_reason_with_its_count() {
    let tainted = json!({"spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoSchedule"}]}});
    let mut s = cluster(vec![
        node("a", "1", json!({})),
        node("b", "1", json!({"status": {"allocatable": {"memory": "1Mi"}}})),
        node("c", "4", tainted),
        node("d", "4", json!({"spec": {"unschedulable": true}})),
    ]);
    let p = pod(
        "p",
        "2",
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}}]}}),
    );
    assert_eq!(
        refused(&mut s, &p),
        "0/4 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint {gpu: yes}, \
         1 node(s) were unschedulable, 2 Insufficient cpu."
    );
    assert_eq!(refused(&mut Snapshot::default(), &p), "no nodes available to schedule pods");
}

#[test]
fn selectors_affinity_and_names_choose_nodes() {
    let mut s = cluster(vec![
        node("a", "4", json!({"metadata": {"labels": {"disk": "ssd", "n": "5"}}})),
        node("b", "4", json!({"metadata": {"labels": {"disk": "hdd"}}})),
    ]);
    assert_eq!(ask(&mut s, &pod("p", "1", json!({"spec": {"nodeSelector": {"disk": "hdd"}}}))).unwrap(), "b");
    let require = |expr: Value| {
        json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [expr]}}}}})
    };
    let gt = require(json!({"matchExpressions": [{"key": "n", "operator": "Gt", "values": ["4"]}]}));
    assert_eq!(ask(&mut s, &pod("p", "1", gt)).unwrap(), "a");
    let field = require(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}));
    assert_eq!(ask(&mut s, &pod("p", "1", field)).unwrap(), "b");
    let none = pod("p", "1", json!({"spec": {"nodeSelector": {"disk": "tape"}}}));
    assert_eq!(refused(&mut s, &none), "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.");
    let prefer = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
        [{"weight": 100, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["hdd"]}]}}]}}}});
    assert_eq!(ask(&mut s, &pod("p", "1", prefer)).unwrap(), "b");
}

#[test]
fn host_ports_collide_on_the_same_or_any_address() {
    let mut s = cluster(vec![node("a", "4", json!({}))]);
    let with =
        |name: &str, port: Value| pod(name, "1", json!({"spec": {"containers": [{"name": "c", "ports": [port]}]}}));
    s.place_pod(with("x", json!({"containerPort": 80, "hostPort": 80, "hostIP": "127.0.0.1"})), "a");
    let message = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    assert_eq!(refused(&mut s, &with("y", json!({"containerPort": 80, "hostPort": 80}))), message);
    assert!(ask(&mut s, &with("y", json!({"containerPort": 80, "hostPort": 80, "protocol": "UDP"}))).is_ok());
    assert!(ask(&mut s, &with("y", json!({"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"}))).is_ok());
}

fn zones() -> Snapshot {
    let zone = |z: &str| json!({"metadata": {"labels": {"topology.kubernetes.io/zone": z}}});
    cluster(vec![node("a1", "9", zone("a")), node("a2", "9", zone("a")), node("b1", "9", zone("b"))])
}

#[test]
fn hard_spreading_keeps_the_skew() {
    let constraint = json!({"spec": {"topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    let mut s = zones();
    let mut per_zone = HashMap::new();
    for i in 0..8 {
        let p = pod(&format!("p{i}"), "100m", constraint.clone());
        let n = ask(&mut s, &p).unwrap();
        *per_zone.entry(n.as_bytes()[0]).or_insert(0) += 1;
        s.place_pod(p, &n);
    }
    assert_eq!(per_zone.values().collect::<Vec<_>>(), [&4, &4]);
}

#[test]
fn pods_of_a_service_spread_over_nodes_by_default() {
    let mut s = zones();
    let selector =
        LabelSelector { match_labels: Some([("app".to_string(), "web".to_string())].into()), ..Default::default() };
    let mut used = std::collections::BTreeSet::new();
    for i in 0..3 {
        let p = pod(&format!("p{i}"), "100m", json!({}));
        let Decision::Node(id) = decide(&mut s, &p, &spread::defaults(&selector), &Nominated::new(), 0, &mut 0) else {
            panic!()
        };
        let n = s.node(id).name.clone();
        s.place_pod(p, &n);
        used.insert(n);
    }
    assert_eq!(used.len(), 3);
}

#[test]
fn pods_keep_together_and_apart() {
    let term = |app: &str, key: &str| json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key});
    let apart = json!({"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
        [term("web", "kubernetes.io/hostname")]}}}});
    let mut s = zones();
    for i in 0..3 {
        let p = pod(&format!("p{i}"), "100m", apart.clone());
        let n = ask(&mut s, &p).unwrap();
        s.place_pod(p, &n);
    }
    let fourth = pod("p3", "100m", apart);
    assert_eq!(refused(&mut s, &fourth), "0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.");
    // The others' anti-affinity holds against a Pod without any.
    let plain = pod("plain", "100m", json!({}));
    assert_eq!(
        refused(&mut s, &plain),
        "0/3 nodes are available: 3 node(s) didn't satisfy existing pods anti-affinity rules."
    );
    let with = |app: &str, me: &str| {
        pod(
            "q",
            "100m",
            json!({"metadata": {"labels": {"app": me}}, "spec": {"affinity": {"podAffinity":
            {"requiredDuringSchedulingIgnoredDuringExecution": [term(app, "topology.kubernetes.io/zone")]}}}}),
        )
    };
    let mut s = zones();
    s.place_pod(pod("db", "100m", json!({"metadata": {"labels": {"app": "db"}}})), "b1");
    assert_eq!(ask(&mut s, &with("db", "x")).unwrap(), "b1");
    assert!(ask(&mut s, &with("nobody", "x")).is_err());
    assert!(ask(&mut s, &with("self", "self")).is_ok(), "the first of a group may go anywhere");
}

#[test]
fn the_least_important_victims_go_and_only_as_many_as_needed() {
    let mut s = cluster(vec![node("a", "2", json!({})), node("b", "2", json!({}))]);
    let prio = |name: &str, cpu: &str, p: i32| pod(name, cpu, json!({"spec": {"priority": p}}));
    s.place_pod(prio("a1", "1", 10), "a");
    s.place_pod(prio("a2", "1", 5), "a");
    s.place_pod(prio("b1", "2", 20), "b");
    let p = prio("p", "1", 100);
    let d = ask(&mut s, &p).unwrap_err();
    let v = preempt(&mut s, &p, &d).unwrap();
    assert_eq!((s.node(v.node).name.as_str(), v.pods.len(), v.pods[0].uid.as_str()), ("a", 1, "a2"));
    assert_eq!(s.pods().count(), 3, "the snapshot is as before");
    let low = prio("low", "1", 1);
    let d = ask(&mut s, &low).unwrap_err();
    assert_eq!(
        d.message(Some(&preempt(&mut s, &low, &d).unwrap_err())),
        "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: \
         2 No preemption victims found for incoming pod."
    );
}

#[test]
fn the_queue_goes_by_priority_then_age_and_backs_off() {
    let mut q = Queue::default();
    let t = Instant::now();
    for (name, priority) in [("old", 0), ("young", 0), ("important", 9)] {
        q.set(pod(name, "1", json!({"spec": {"priority": priority}})), t);
    }
    q.set(pod("gated", "1", json!({"spec": {"schedulingGates": [{"name": "g"}]}})), t);
    let order: Vec<_> = std::iter::from_fn(|| q.pop(t)).map(|p| p.uid.clone()).collect();
    assert_eq!(order, ["important", "old", "young"]);
    q.failed("old", [crate::filter::Plugin::NodeResourcesFit].into(), t);
    assert!(!q.happened(Event::Namespace, t), "a namespace's labels free no CPU");
    assert!(q.happened(Event::PodGone, t));
    assert!(q.pop(t).is_none(), "backing off");
    assert_eq!(q.next_deadline(), Some(t + Duration::from_secs(1)));
    assert_eq!(q.pop(t + Duration::from_secs(1)).unwrap().uid, "old");
    q.set(pod("gated", "1", json!({})), t);
    assert_eq!(q.pop(t).unwrap().uid, "gated");
}

#[test]
fn large_clusters_are_sampled() {
    assert_eq!((enough(50, 0), enough(200, 0), enough(5000, 0), enough(20_000, 0)), (50, 100, 500, 1000));
    assert_eq!(enough(5000, 100), 5000);
}

proptest! {
    /// Whatever comes and goes, no node is given more than it has, and counts stay what a recount says.
    #[test]
    fn never_overcommitted(ops in prop::collection::vec((0u8..4, 0usize..40, 1i64..2500), 1..200)) {
        let mut s = cluster((0..5).map(|i| node(&format!("n{i}"), "4", json!({}))).collect());
        let selector = LabelSelector { match_labels: Some([("app".to_string(), "web".to_string())].into()), ..Default::default() };
        s.count("default", &selector);
        for (op, i, cpu) in ops {
            let name = format!("p{i}");
            if op == 0 {
                s.remove_pod(&name);
            } else if s.place(&name).is_none() {
                let p = pod(&name, &format!("{cpu}m"), json!({}));
                if let Ok(n) = ask(&mut s, &p) {
                    s.place_pod(p, &n);
                }
            }
            for id in s.node_ids() {
                let n = s.node(*id);
                let sum: i64 = n.pods.values().map(|p| p.requests.milli_cpu).sum();
                prop_assert_eq!(sum, n.requested.milli_cpu);
                prop_assert!(sum <= n.allocatable.milli_cpu);
            }
            let placed = s.pods().count() as i32;
            let key = s.count("default", &selector);
            s.count_domains(&key, "kubernetes.io/hostname");
            let counted = s.counted(&key).unwrap();
            prop_assert_eq!(counted.by_node().map(|(_, n)| n).sum::<i32>(), placed);
            prop_assert_eq!(counted.by_domain("kubernetes.io/hostname").unwrap().values().sum::<i32>(), placed);
        }
    }
}

/// Not a gate: prints how fast decisions are. `cargo test -p strake-scheduler --release -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn speed_at_5000_nodes() {
    let zone = |i: usize| json!({"metadata": {"labels": {"topology.kubernetes.io/zone": format!("z{}", i % 3)}}});
    let mut s = cluster((0..5000).map(|i| node(&format!("n{i}"), "32", zone(i))).collect());
    let selector =
        LabelSelector { match_labels: Some([("app".to_string(), "web".to_string())].into()), ..Default::default() };
    let defaults = spread::defaults(&selector);
    let (begin, n, mut start) = (Instant::now(), 10_000, 0);
    for i in 0..n {
        let p = pod(&format!("p{i}"), "100m", json!({}));
        let Decision::Node(id) = decide(&mut s, &p, &defaults, &Nominated::new(), 0, &mut start) else { panic!() };
        let name = s.node(id).name.clone();
        s.place_pod(p, &name);
    }
    eprintln!("{:.0} Pods/s", f64::from(n) / begin.elapsed().as_secs_f64());
}
