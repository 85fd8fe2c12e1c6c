//! The cluster as the scheduler believes it to be: nodes with the Pods bound to them or assumed to be, and the
//! counts that spreading needs, all kept up to date change by change.
//!
//! ```text
//!   nodes[id] -- pods --> PodInfo          placed[uid] -> id
//!      ^                                   spaces[namespace] -> uids
//!      +-- names[name] -> id               counts[(namespace, selector)][id] -> matching Pods
//! ```
//! It knows nothing of queues, watches or the API.

use crate::podinfo::{NamespaceLabels, PodInfo};
use crate::resources::Resources;
use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use strake_controllers::runtime::labels::{self, Labels};

/// A node's place in [`Snapshot::nodes`]; stays the same while the node or a Pod on it is there.
pub type NodeId = usize;

/// A node and what runs on it.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// Its name.
    pub name: String,
    /// The object; None while only Pods speak of it.
    pub node: Option<Arc<Node>>,
    /// What Pods may use.
    pub allocatable: Resources,
    /// What its Pods asked for.
    pub requested: Resources,
    /// The same for comparing nodes: `(millicores, bytes)`.
    pub nonzero: (i64, i64),
    /// Its Pods by uid.
    pub pods: HashMap<String, Arc<PodInfo>>,
    /// `(protocol, address, port)` in use, with how many Pods use it.
    pub ports: HashMap<(String, String, i32), usize>,
    /// Image sizes in bytes, by each of their names.
    pub images: HashMap<String, i64>,
}

impl NodeInfo {
    /// Its labels.
    pub fn labels(&self) -> Option<&Labels> {
        self.node.as_ref()?.metadata.labels.as_ref()
    }

    /// One label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key).map(String::as_str)
    }

    /// Its taints.
    pub fn taints(&self) -> &[Taint] {
        let spec = self.node.as_ref().and_then(|n| n.spec.as_ref());
        spec.and_then(|s| s.taints.as_deref()).unwrap_or_default()
    }

    /// `spec.unschedulable`.
    pub fn is_cordoned(&self) -> bool {
        self.node.as_ref().and_then(|n| n.spec.as_ref()).and_then(|s| s.unschedulable) == Some(true)
    }

    fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.nonzero.0 += pod.nonzero.0;
        self.nonzero.1 += pod.nonzero.1;
        for p in &pod.host_ports {
            *self.ports.entry(p.clone()).or_insert(0) += 1;
        }
        self.pods.insert(pod.uid.clone(), pod);
    }

    fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.requested.subtract(&pod.requests);
        self.nonzero.0 -= pod.nonzero.0;
        self.nonzero.1 -= pod.nonzero.1;
        for p in &pod.host_ports {
            if let Some(n) = self.ports.get_mut(p) {
                *n -= 1;
                if *n == 0 {
                    self.ports.remove(p);
                }
            }
        }
        Some(pod)
    }
}

/// Matching Pods for one selector in one namespace.
#[derive(Debug)]
pub struct Counted {
    namespace: String,
    selector: LabelSelector,
    by_node: HashMap<NodeId, i32>,
    /// By node label (those that were asked for) and its value.
    by_domain: HashMap<String, HashMap<String, i32>>,
    used: u64,
}

impl Counted {
    /// How many are on a node.
    pub fn on(&self, id: NodeId) -> i32 {
        self.by_node.get(&id).copied().unwrap_or(0)
    }

    /// Nodes that have any, with how many.
    pub fn by_node(&self) -> impl Iterator<Item = (NodeId, i32)> {
        self.by_node.iter().map(|(id, n)| (*id, *n))
    }

    /// How many are in each domain of a node label, if [`Snapshot::count_domains`] was asked for it.
    pub fn by_domain(&self, label: &str) -> Option<&HashMap<String, i32>> {
        self.by_domain.get(label)
    }
}

/// Most selectors whose counts are kept.
const COUNTED: usize = 256;

/// The cluster.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    names: HashMap<String, NodeId>,
    free: Vec<NodeId>,
    /// Ids of nodes whose object is known, in a fixed order.
    ready: Vec<NodeId>,
    placed: HashMap<String, NodeId>,
    spaces: HashMap<String, HashSet<String>>,
    with_anti_affinity: HashSet<String>,
    with_affinity: HashSet<String>,
    counts: HashMap<String, Counted>,
    clock: u64,
    image_nodes: HashMap<String, usize>,
    /// Labels of namespaces.
    pub namespaces: NamespaceLabels,
}

impl Snapshot {
    /// Ids of the nodes that exist.
    pub fn node_ids(&self) -> &[NodeId] {
        &self.ready
    }

    /// A node by id.
    pub fn node(&self, id: NodeId) -> &NodeInfo {
        &self.nodes[id]
    }

    /// A node's id by name, if its object is known.
    pub fn find(&self, name: &str) -> Option<NodeId> {
        self.names.get(name).copied().filter(|id| self.nodes[*id].node.is_some())
    }

    /// Where a Pod is, bound or assumed.
    pub fn place(&self, uid: &str) -> Option<NodeId> {
        self.placed.get(uid).copied()
    }

    /// A placed Pod.
    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.nodes[self.place(uid)?].pods.get(uid)
    }

    /// How many nodes have an image of this name.
    pub fn nodes_with_image(&self, name: &str) -> usize {
        self.image_nodes.get(name).copied().unwrap_or(0)
    }

    fn slot(&mut self, name: &str) -> NodeId {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        let blank = NodeInfo { name: name.to_string(), ..Default::default() };
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id] = blank;
                id
            }
            None => {
                self.nodes.push(blank);
                self.nodes.len() - 1
            }
        };
        self.names.insert(name.to_string(), id);
        id
    }

    fn drop_if_empty(&mut self, id: NodeId) {
        let node = &self.nodes[id];
        if node.node.is_none() && node.pods.is_empty() {
            self.names.remove(&self.nodes[id].name);
            self.free.push(id);
        }
    }

    /// A node appeared or changed.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let id = self.slot(&name);
        if self.nodes[id].node.is_none() {
            self.ready.push(id);
        }
        self.forget_images(id);
        if self.nodes[id].labels() != node.metadata.labels.as_ref() {
            self.forget_domains();
        }
        let status = node.status.as_ref();
        let allocatable = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        let info = &mut self.nodes[id];
        info.allocatable = Resources::of(allocatable);
        for image in status.and_then(|s| s.images.as_deref()).unwrap_or_default() {
            for name in image.names.iter().flatten() {
                info.images.insert(name.clone(), image.size_bytes.unwrap_or(0));
                *self.image_nodes.entry(name.clone()).or_insert(0) += 1;
            }
        }
        info.node = Some(node);
    }

    fn forget_images(&mut self, id: NodeId) {
        for (name, _) in std::mem::take(&mut self.nodes[id].images) {
            if let Some(n) = self.image_nodes.get_mut(&name) {
                *n -= 1;
                if *n == 0 {
                    self.image_nodes.remove(&name);
                }
            }
        }
    }

    /// A node went. Its Pods stay until they go themselves.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(id) = self.find(name) {
            self.forget_images(id);
            self.forget_domains();
            self.nodes[id].node = None;
            self.ready.retain(|r| *r != id);
            self.drop_if_empty(id);
        }
    }

    /// A Pod is (assumed to be) on a node. A Pod that was elsewhere, or older, is replaced.
    pub fn place_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.uid);
        let id = self.slot(node);
        self.placed.insert(pod.uid.clone(), id);
        self.spaces.entry(pod.namespace.clone()).or_default().insert(pod.uid.clone());
        if !pod.anti_affinity.is_empty() {
            self.with_anti_affinity.insert(pod.uid.clone());
        }
        if pod.has_pod_affinity() {
            self.with_affinity.insert(pod.uid.clone());
        }
        self.recount(&pod, id, 1);
        self.nodes[id].add(pod);
    }

    /// A Pod went, or is not where it was assumed to be.
    pub fn remove_pod(&mut self, uid: &str) -> Option<(Arc<PodInfo>, NodeId)> {
        let id = self.placed.remove(uid)?;
        let pod = self.nodes[id].remove(uid)?;
        if let Some(space) = self.spaces.get_mut(&pod.namespace) {
            space.remove(uid);
            if space.is_empty() {
                self.spaces.remove(&pod.namespace);
            }
        }
        self.with_anti_affinity.remove(uid);
        self.with_affinity.remove(uid);
        self.recount(&pod, id, -1);
        self.drop_if_empty(id);
        Some((pod, id))
    }

    fn recount(&mut self, pod: &PodInfo, id: NodeId, by: i32) {
        if pod.terminating {
            return;
        }
        for counted in self.counts.values_mut() {
            if counted.namespace == pod.namespace && labels::matches(&counted.selector, pod.labels()) {
                let n = counted.by_node.entry(id).or_insert(0);
                *n += by;
                if *n == 0 {
                    counted.by_node.remove(&id);
                }
                for (label, domains) in &mut counted.by_domain {
                    if let Some(v) = self.nodes[id].label(label) {
                        match domains.get_mut(v) {
                            Some(n) => *n += by,
                            None => {
                                domains.insert(v.to_string(), by);
                            }
                        }
                    }
                }
            }
        }
    }

    /// Sees to it that Pods of `namespace` that are not terminating and match `selector` are counted; the answer is
    /// the key for [`Snapshot::counted`].
    pub fn count(&mut self, namespace: &str, selector: &LabelSelector) -> String {
        self.clock += 1;
        let clock = self.clock;
        let key = format!("{namespace}/{}", serde_json::to_string(selector).unwrap_or_default());
        if let Some(counted) = self.counts.get_mut(&key) {
            counted.used = clock;
            return key;
        }
        if self.counts.len() >= COUNTED
            && let Some(oldest) = self.counts.iter().min_by_key(|(_, c)| c.used).map(|(k, _)| k.clone())
        {
            self.counts.remove(&oldest);
        }
        let mut by_node = HashMap::new();
        for (pod, id) in self.in_namespace(namespace) {
            if !pod.terminating && labels::matches(selector, pod.labels()) {
                *by_node.entry(id).or_insert(0) += 1;
            }
        }
        let fresh = Counted {
            namespace: namespace.to_string(),
            selector: selector.clone(),
            by_node,
            by_domain: HashMap::new(),
            used: clock,
        };
        self.counts.insert(key.clone(), fresh);
        key
    }

    /// What was counted under a key of [`Snapshot::count`].
    pub fn counted(&self, key: &str) -> Option<&Counted> {
        self.counts.get(key)
    }

    /// Sees to it that what is counted under `key` is also counted by the values of a node label.
    pub fn count_domains(&mut self, key: &str, label: &str) {
        let Some(counted) = self.counts.get_mut(key) else { return };
        if counted.by_domain.contains_key(label) {
            return;
        }
        let mut domains: HashMap<String, i32> = HashMap::new();
        for (id, n) in &counted.by_node {
            if let Some(v) = self.nodes[*id].label(label) {
                *domains.entry(v.to_string()).or_insert(0) += n;
            }
        }
        counted.by_domain.insert(label.to_string(), domains);
    }

    /// Node labels changed: domains are to be counted again when they are asked for.
    fn forget_domains(&mut self) {
        self.counts.values_mut().for_each(|c| c.by_domain.clear());
    }

    /// The placed Pods of a namespace.
    pub fn in_namespace(&self, namespace: &str) -> impl Iterator<Item = (&Arc<PodInfo>, NodeId)> {
        self.spaces.get(namespace).into_iter().flatten().filter_map(|uid| self.located(uid))
    }

    /// Every placed Pod.
    pub fn pods(&self) -> impl Iterator<Item = (&Arc<PodInfo>, NodeId)> {
        self.placed.keys().filter_map(|uid| self.located(uid))
    }

    /// Placed Pods with required anti-affinity.
    pub fn pods_with_anti_affinity(&self) -> impl Iterator<Item = (&Arc<PodInfo>, NodeId)> {
        self.with_anti_affinity.iter().filter_map(|uid| self.located(uid))
    }

    /// Placed Pods with any affinity, or preferred anti-affinity.
    pub fn pods_with_affinity(&self) -> impl Iterator<Item = (&Arc<PodInfo>, NodeId)> {
        self.with_affinity.iter().filter_map(|uid| self.located(uid))
    }

    fn located(&self, uid: &str) -> Option<(&Arc<PodInfo>, NodeId)> {
        let id = *self.placed.get(uid)?;
        Some((self.nodes[id].pods.get(uid)?, id))
    }
}
