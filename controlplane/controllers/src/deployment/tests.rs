//! Which ReplicaSets a Deployment scales, makes and removes, decided from snapshots.

use super::plan::{Action, Plan, plan};
use super::sets::{DESIRED_REPLICAS, MAX_REPLICAS, REVISION, fenceposts, revision, size, template_hash};
use super::status::condition;
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, ReplicaSet, ReplicaSetStatus, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use std::sync::Arc;

/// A cluster of one Deployment: applies plans, and lets ReplicaSets make their Pods ready.
struct World {
    d: Deployment,
    sets: Vec<ReplicaSet>,
    pods: Vec<Arc<Pod>>,
    now: i64,
    events: Vec<String>,
}

fn labels() -> Option<std::collections::BTreeMap<String, String>> {
    Some([("app".to_string(), "web".to_string())].into())
}

fn template(image: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: labels(), ..Default::default() }),
        spec: Some(PodSpec {
            containers: vec![Container { name: "c".into(), image: Some(image.into()), ..Default::default() }],
            ..Default::default()
        }),
    }
}

impl World {
    fn new(replicas: i32, surge: &str, unavailable: &str) -> Self {
        let value = |s: &str| s.parse().map(IntOrString::Int).unwrap_or(IntOrString::String(s.into()));
        let d = Deployment {
            metadata: ObjectMeta {
                name: Some("web".into()),
                namespace: Some("default".into()),
                uid: Some("d".into()),
                generation: Some(1),
                ..Default::default()
            },
            spec: Some(DeploymentSpec {
                replicas: Some(replicas),
                selector: LabelSelector { match_labels: labels(), ..Default::default() },
                template: template("web:1"),
                progress_deadline_seconds: Some(600),
                revision_history_limit: Some(10),
                strategy: Some(DeploymentStrategy {
                    type_: Some("RollingUpdate".into()),
                    rolling_update: Some(RollingUpdateDeployment {
                        max_surge: Some(value(surge)),
                        max_unavailable: Some(value(unavailable)),
                    }),
                }),
                ..Default::default()
            }),
            status: None,
        };
        World { d, sets: vec![], pods: vec![], now: 1_000_000, events: vec![] }
    }

    fn spec(&mut self) -> &mut DeploymentSpec {
        *self.d.metadata.generation.as_mut().unwrap() += 1;
        self.d.spec.as_mut().unwrap()
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_second(self.now).unwrap()
    }

    fn pass(&mut self) -> Plan {
        let owned: Vec<_> = self.sets.iter().cloned().map(Arc::new).collect();
        let plan = plan(&self.d, &owned, &self.pods, self.at());
        for a in &plan.actions {
            match a.clone() {
                Action::Create(mut rs) => {
                    rs.metadata.uid = rs.metadata.name.clone();
                    rs.metadata.creation_timestamp = Some(Time(self.at()));
                    rs.metadata.generation = Some(1);
                    self.now += 1;
                    assert!(!self.sets.iter().any(|s| s.metadata.name == rs.metadata.name), "created twice");
                    self.sets.push(*rs);
                }
                Action::Update(rs) => {
                    let there = self.sets.iter_mut().find(|s| s.metadata.name == rs.metadata.name).unwrap();
                    *there = *rs;
                    *there.metadata.generation.as_mut().unwrap() += 1;
                }
                Action::Delete(rs) => self.sets.retain(|s| s.metadata.name != rs.metadata.name),
                Action::Status(revision, status) => {
                    self.d.metadata.annotations.get_or_insert_default().insert(REVISION.into(), revision);
                    self.d.status = Some(*status);
                }
                Action::Event(_, _, text) => self.events.push(text),
            }
        }
        plan
    }

    /// ReplicaSets follow their size; at most `ready` more Pods become available.
    fn kubelet(&mut self, mut ready: i32) {
        for rs in &mut self.sets {
            let want = size(rs);
            let s = rs.status.get_or_insert_with(ReplicaSetStatus::default);
            let have = s.available_replicas.unwrap_or(0).min(want);
            let more = (want - have).min(ready);
            ready -= more;
            s.replicas = want;
            s.ready_replicas = Some(have + more);
            s.available_replicas = Some(have + more);
            s.observed_generation = rs.metadata.generation;
        }
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            self.kubelet(i32::MAX);
            let plan = self.pass();
            if plan.actions.is_empty() {
                return;
            }
        }
        panic!("does not settle: {:?}", self.pass());
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(size).collect()
    }

    fn reason(&self, kind: &str) -> String {
        condition(self.d.status.as_ref().unwrap(), kind).map(|c| c.reason.clone().unwrap()).unwrap_or_default()
    }
}

#[test]
fn a_new_deployment_creates_its_set_and_becomes_available() {
    let mut w = World::new(3, "25%", "25%");
    w.pass();
    assert_eq!(w.sizes(), [3]);
    assert_eq!(w.reason("Progressing"), "NewReplicaSetCreated");
    assert_eq!(w.reason("Available"), "MinimumReplicasUnavailable");
    let name = w.sets[0].metadata.name.clone().unwrap();
    assert_eq!(w.events, [format!("Scaled up replica set {name} from 0 to 3")]);
    let annotations = w.sets[0].metadata.annotations.clone().unwrap();
    assert_eq!((annotations[REVISION].as_str(), annotations[DESIRED_REPLICAS].as_str()), ("1", "3"));
    assert_eq!(annotations[MAX_REPLICAS], "4");
    w.settle();
    assert_eq!(w.reason("Progressing"), "NewReplicaSetAvailable");
    assert_eq!(w.reason("Available"), "MinimumReplicasAvailable");
    let s = w.d.status.clone().unwrap();
    assert_eq!((s.updated_replicas, s.available_replicas, s.unavailable_replicas), (Some(3), Some(3), None));
    assert_eq!(revision(&w.d.metadata), 1);
}

#[test]
fn a_rollout_keeps_between_minimum_and_maximum_whatever_becomes_ready_when() {
    for (surge, unavailable) in [("25%", "25%"), ("1", "0"), ("0", "1"), ("100%", "0"), ("0", "0"), ("3", "2")] {
        for replicas in [1, 3, 4, 10] {
            let mut w = World::new(replicas, surge, unavailable);
            w.settle();
            w.spec().template = template("web:2");
            let (s, u) = fenceposts(&w.d);
            let mut seed = 7u32;
            for step in 0..400 {
                let plan = w.pass();
                let total: i32 = w.sizes().iter().sum();
                assert!(total <= replicas + s, "{total} > {replicas}+{s}");
                let good: i32 = w.sets.iter().map(|r| super::sets::available(r).min(size(r))).sum();
                assert!(good >= replicas - u, "{surge}/{unavailable} of {replicas}: {good} < {replicas}-{u}");
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                w.kubelet((seed >> 30) as i32);
                if plan.actions.is_empty() && w.sizes() == [0, replicas] {
                    break;
                }
                assert!(step < 399, "{surge}/{unavailable} of {replicas} hangs at {:?}", w.sizes());
            }
            w.settle();
            assert_eq!(w.reason("Progressing"), "NewReplicaSetAvailable");
            assert_eq!(revision(&w.d.metadata), 2);
        }
    }
}

#[test]
fn going_back_reuses_the_old_set_under_a_new_revision() {
    let mut w = World::new(2, "25%", "25%");
    w.settle();
    w.spec().template = template("web:2");
    w.settle();
    w.spec().template = template("web:1");
    w.settle();
    assert_eq!(w.sizes(), [2, 0]);
    assert_eq!(revision(&w.d.metadata), 3);
    let annotations = w.sets[0].metadata.annotations.clone().unwrap();
    assert_eq!(annotations[REVISION], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn paused_scales_but_does_not_roll_and_resumed_does() {
    let mut w = World::new(2, "25%", "25%");
    w.settle();
    w.spec().paused = Some(true);
    w.spec().template = template("web:2");
    w.spec().replicas = Some(5);
    w.settle();
    assert_eq!(w.sizes(), [5]);
    assert_eq!(w.reason("Progressing"), "DeploymentPaused");
    w.spec().paused = Some(false);
    w.settle();
    assert_eq!(w.sizes(), [0, 5]);
    assert_eq!(w.reason("Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut w = World::new(2, "25%", "25%");
    w.spec().strategy = Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None });
    w.settle();
    w.spec().template = template("web:2");
    let mut pod = Pod::default();
    pod.metadata.owner_references = Some(vec![super::ownership::controller_reference(&w.sets[0])]);
    w.pods = vec![Arc::new(pod)];
    w.settle();
    assert_eq!(w.sizes(), [0]);
    w.pods.clear();
    w.settle();
    assert_eq!(w.sizes(), [0, 2]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_shared_in_proportion() {
    let mut w = World::new(10, "3", "2");
    w.settle();
    w.spec().template = template("web:2");
    w.pass();
    assert_eq!(w.sizes(), [8, 3], "surge of three, and two old ones may be missing");
    w.pass();
    w.spec().replicas = Some(15);
    w.pass();
    let sizes = w.sizes();
    assert_eq!(sizes, [11, 7], "8 and 5 of at most 13 share 18");
}

#[test]
fn nothing_moving_for_the_deadline_is_said_and_recovers() {
    let mut w = World::new(2, "25%", "25%");
    w.settle();
    w.spec().template = template("broken");
    let plan = w.pass();
    assert_eq!(plan.look_after.unwrap().as_secs(), 601);
    w.pass();
    w.now += 602;
    w.pass();
    assert_eq!(w.reason("Progressing"), "ProgressDeadlineExceeded");
    assert!(w.pass().look_after.is_none());
    w.kubelet(10);
    w.settle();
    assert_eq!(w.reason("Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn history_is_cut_to_its_limit_oldest_first() {
    let mut w = World::new(1, "1", "0");
    w.spec().revision_history_limit = Some(2);
    for v in 1..6 {
        w.spec().template = template(&format!("web:{v}"));
        w.settle();
    }
    let mut revisions: Vec<_> = w.sets.iter().map(|s| revision(&s.metadata)).collect();
    revisions.sort();
    assert_eq!(revisions, [3, 4, 5]);
}

#[test]
fn hashes_are_safe_names_and_collisions_give_another() {
    let h = template_hash(&template("web:1"), None);
    assert!(h.len() <= 10 && h.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)), "{h}");
    assert_ne!(h, template_hash(&template("web:2"), None));
    assert_ne!(h, template_hash(&template("web:1"), Some(1)));
}
