//! Snapshot, queue and promises together: what each watched change does to them, and one scheduling step.

use crate::Config;
use crate::decide::{Decision, Nominated, decide};
use crate::podinfo::{PodInfo, SpreadConstraint};
use crate::preempt;
use crate::queue::{Event, Queue};
use crate::score::spread;
use crate::snapshot::Snapshot;
use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ReplicationController, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::sync::Arc;
use std::time::Instant;
use strake_controllers::runtime::{Change, Informer, Key, labels, ownership, pods};

/// The workloads whose selectors give a Pod its default spreading.
pub struct Workloads {
    /// Services.
    pub services: Arc<Informer<Service>>,
    /// ReplicaSets.
    pub replica_sets: Arc<Informer<ReplicaSet>>,
    /// StatefulSets.
    pub stateful_sets: Arc<Informer<StatefulSet>>,
    /// ReplicationControllers.
    pub replication_controllers: Arc<Informer<ReplicationController>>,
}

impl Workloads {
    /// Everything that selects the Pod, as one selector: its Services and its owner. None when nothing does.
    fn selector(&self, pod: &PodInfo) -> Option<LabelSelector> {
        let mut all = LabelSelector::default();
        let own = pod.labels();
        let mut merge = |more: Option<&labels::Labels>| {
            if let Some(more) = more.filter(|m| !m.is_empty()) {
                all.match_labels.get_or_insert_default().extend(more.clone());
            }
        };
        for service in self.services.in_namespace(&pod.namespace) {
            let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
            merge(selector.filter(|s| !s.is_empty() && labels::contains(own, s)));
        }
        let owner = ownership::controller_of(&pod.pod.metadata);
        let key = owner.map(|o| Key::new(&pod.namespace, &o.name));
        let selector = match (owner.map(|o| o.kind.as_str()), &key) {
            (Some("ReplicaSet"), Some(k)) => {
                self.replica_sets.get(k).and_then(|r| r.spec.as_ref().map(|s| s.selector.clone()))
            }
            (Some("StatefulSet"), Some(k)) => {
                self.stateful_sets.get(k).and_then(|r| r.spec.as_ref().map(|s| s.selector.clone()))
            }
            (Some("ReplicationController"), Some(k)) => self.replication_controllers.get(k).map(|r| LabelSelector {
                match_labels: r.spec.as_ref().and_then(|s| s.selector.clone()),
                match_expressions: None,
            }),
            _ => None,
        };
        if let Some(s) = selector {
            merge(s.match_labels.as_ref());
            if let Some(e) = s.match_expressions {
                all.match_expressions.get_or_insert_default().extend(e);
            }
        }
        (!labels::is_empty(&all)).then_some(all)
    }

    /// The soft constraints of a Pod that has none of its own.
    pub fn defaults(&self, pod: &PodInfo) -> Vec<SpreadConstraint> {
        if !pod.soft_spread.is_empty() || !pod.hard_spread.is_empty() {
            return Vec::new();
        }
        self.selector(pod).map(|s| spread::defaults(&s)).unwrap_or_default()
    }
}

/// What to do outside after a step.
pub enum Step {
    /// Bind this Pod to this node.
    Bind(Arc<PodInfo>, String),
    /// Say that there is no node; evict these from the node it is promised, if any.
    Nowhere {
        /// The Pod.
        pod: Arc<PodInfo>,
        /// For condition and event.
        message: String,
        /// The node it will get when the victims are gone.
        nominated: Option<String>,
        /// Who goes.
        victims: Vec<Arc<PodInfo>>,
    },
    /// Nothing to do until something happens, or this instant.
    Idle(Option<Instant>),
}

/// Everything the scheduler believes.
#[derive(Default)]
pub struct State {
    /// The cluster.
    pub snapshot: Snapshot,
    /// Who waits.
    pub queue: Queue,
    nominated: Nominated,
    start: usize,
}

impl State {
    /// A Pod changed.
    pub fn pod(&mut self, change: &Change<Pod>, scheduler: &str) {
        let now = Instant::now();
        let pod = change.object();
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let gone = matches!(change, Change::Deleted(_)) || pods::is_finished(pod);
        if gone {
            self.queue.remove(&uid);
            self.promise_kept(&uid);
            if self.snapshot.remove_pod(&uid).is_some() {
                self.queue.happened(Event::PodGone, now);
            }
            return;
        }
        if pods::node_name(pod).is_empty() {
            // Assumed: the binding is on its way.
            if self.snapshot.place(&uid).is_some() {
                return;
            }
            let ours = pod.spec.as_ref().and_then(|s| s.scheduler_name.as_deref()).unwrap_or("default-scheduler");
            if ours == scheduler && !pods::is_terminating(pod) {
                self.queue.set(Arc::new(PodInfo::new(pod.clone())), now);
            } else {
                self.queue.remove(&uid);
            }
            return;
        }
        self.queue.remove(&uid);
        self.promise_kept(&uid);
        let facts = |p: &Pod| (pods::node_name(p).to_string(), p.metadata.labels.clone(), pods::is_terminating(p));
        let known = self.snapshot.pod(&uid).map(|p| p.pod.clone());
        if let Some(known) = &known
            && known.spec.as_ref().map(|s| &s.containers) == pod.spec.as_ref().map(|s| &s.containers)
        {
            let mut was = facts(known);
            // An assumed Pod's object has no node yet; its place has.
            if let Some(id) = self.snapshot.place(&uid) {
                was.0.clone_from(&self.snapshot.node(id).name);
            }
            if was == facts(pod) {
                return;
            }
        }
        self.snapshot.place_pod(Arc::new(PodInfo::new(pod.clone())), pods::node_name(pod));
        self.queue.happened(Event::PodPlaced, now);
    }

    /// A node changed. Heartbeats change nothing that matters here.
    pub fn node(&mut self, change: &Change<Node>) {
        let node = change.object();
        if let Change::Deleted(_) = change {
            self.snapshot.remove_node(node.metadata.name.as_deref().unwrap_or_default());
            return;
        }
        let status = |n: &Node| n.status.as_ref().map(|s| (s.allocatable.clone(), s.images.clone()));
        let facts = |n: &Node| (n.metadata.labels.clone(), n.spec.clone(), status(n));
        if change.old().is_some_and(|old| facts(old) == facts(node)) {
            return;
        }
        self.snapshot.set_node(node.clone());
        self.queue.happened(Event::Node, Instant::now());
    }

    /// A namespace changed.
    pub fn namespace(&mut self, change: &Change<Namespace>) {
        let name = change.object().metadata.name.clone().unwrap_or_default();
        if let Change::Deleted(_) = change {
            self.snapshot.namespaces.remove(&name);
            return;
        }
        let new = change.object().metadata.labels.clone().unwrap_or_default();
        if self.snapshot.namespaces.get(&name) != Some(&new) {
            self.snapshot.namespaces.insert(name, new);
            self.queue.happened(Event::Namespace, Instant::now());
        }
    }

    fn promise_kept(&mut self, uid: &str) {
        self.nominated.retain(|_, pods| {
            pods.retain(|p| p.uid != uid);
            !pods.is_empty()
        });
    }

    /// The binding failed: the Pod is not there after all.
    pub fn forget(&mut self, uid: &str, retry: bool) {
        let now = Instant::now();
        // Unless a watch has already said that it is.
        if self.queue.get(uid).is_none() {
            return;
        }
        self.snapshot.remove_pod(uid);
        self.queue.happened(Event::PodGone, now);
        if retry {
            self.queue.retry(uid, now);
        } else {
            self.queue.remove(uid);
        }
    }

    /// Takes the next Pod and decides.
    pub fn step(&mut self, config: &Config, workloads: &Workloads) -> Step {
        let now = Instant::now();
        self.queue.overdue(now);
        let Some(pod) = self.queue.pop(now) else { return Step::Idle(self.queue.next_deadline()) };
        let defaults = workloads.defaults(&pod);
        let decision = decide(
            &mut self.snapshot,
            &pod,
            &defaults,
            &self.nominated,
            config.percentage_of_nodes_to_score,
            &mut self.start,
        );
        match decision {
            Decision::Node(id) => {
                let node = self.snapshot.node(id).name.clone();
                self.snapshot.place_pod(pod.clone(), &node);
                Step::Bind(pod, node)
            }
            Decision::Nowhere(diagnosis) => {
                let (mut nominated, mut victims) = (None, Vec::new());
                let promised = self.nominated.iter().find(|(_, p)| p.iter().any(|x| x.uid == pod.uid));
                let waiting = promised.map(|(n, _)| n.clone()).filter(|n| {
                    self.snapshot.find(n).is_some_and(|id| {
                        let mut on = self.snapshot.node(id).pods.values();
                        on.any(|p| p.terminating && p.priority < pod.priority)
                    })
                });
                let found = if diagnosis.nodes == 0 {
                    None
                } else if waiting.is_some() {
                    nominated = waiting;
                    Some("not eligible due to terminating pod on the nominated node.".to_string())
                } else {
                    self.promise_kept(&pod.uid);
                    match preempt::preempt(&mut self.snapshot, &pod, &diagnosis) {
                        Ok(v) => {
                            let name = self.snapshot.node(v.node).name.clone();
                            self.nominated.entry(name.clone()).or_default().push(pod.clone());
                            nominated = Some(name);
                            victims = v.pods;
                            None
                        }
                        Err(why) => Some(why),
                    }
                };
                let message = diagnosis.message(found.as_deref());
                self.queue.failed(&pod.uid, diagnosis.plugins, now);
                Step::Nowhere { pod, message, nominated, victims }
            }
        }
    }
}
