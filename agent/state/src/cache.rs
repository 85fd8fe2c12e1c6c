//! The mutable side: takes changes, keeps the newest of each object, and cuts snapshots.
//!
//! A relist (`Init` .. `InitDone`) is collected aside and replaces the kind's objects in one step, so that no snapshot
//! ever shows half of a list. May not know: the API server, time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{HashMap, OrdMap};

use crate::world::{
    EndpointSlice, Kind, Namespace, Node, ObjectName, Pod, RuntimeClass, Service, SlicesByService, Source, SourceState,
    World,
};

/// One object, or one step of a kind's watch.
#[derive(Clone, Debug)]
pub enum Change {
    /// A complete list begins.
    Init(Kind),
    /// The list that began with `Init` is complete.
    InitDone(Kind),
    Service(ObjectName, Option<Arc<Service>>),
    /// Keyed by the slice's own name; None when it is gone or belongs to no Service.
    Slice(ObjectName, Option<Arc<EndpointSlice>>),
    Node(Arc<str>, Option<Arc<Node>>),
    Pod(ObjectName, Option<Arc<Pod>>),
    Namespace(Arc<str>, Option<Arc<Namespace>>),
    RuntimeClass(Arc<str>, Option<Arc<RuntimeClass>>),
    /// The watch of a kind is denied or cut off.
    Trouble(Kind, SourceState),
}

/// Objects of one kind: the live ones, and those of a list under way.
struct Table<K, V> {
    live: OrdMap<K, Arc<V>>,
    pending: Option<OrdMap<K, Arc<V>>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { live: OrdMap::new(), pending: None }
    }
}

impl<K: Ord + Clone, V: PartialEq> Table<K, V> {
    /// Returns whether the live set changed.
    fn put(&mut self, key: K, value: Option<Arc<V>>) -> bool {
        if let Some(pending) = &mut self.pending {
            match value {
                Some(value) => pending.insert(key, value),
                None => pending.remove(&key),
            };
            return false;
        }
        match value {
            Some(value) if self.live.get(&key).is_some_and(|old| **old == *value) => false,
            Some(value) => {
                self.live.insert(key, value);
                true
            }
            None => self.live.remove(&key).is_some(),
        }
    }

    fn init(&mut self) {
        self.pending = Some(OrdMap::new());
    }

    fn done(&mut self) {
        if let Some(pending) = self.pending.take() {
            self.live = pending;
        }
    }
}

/// Collects [`Change`]s into [`World`]s.
#[derive(Default)]
pub struct Cache {
    node_name: Arc<str>,
    services: Table<ObjectName, Service>,
    /// By the slice's own name.
    slices: Table<ObjectName, EndpointSlice>,
    nodes: Table<Arc<str>, Node>,
    pods: Table<ObjectName, Pod>,
    namespaces: Table<Arc<str>, Namespace>,
    runtime_classes: Table<Arc<str>, RuntimeClass>,
    sources: Vec<Source>,
    generation: u64,
    // Derived, kept until their source changes.
    slices_by_service: SlicesByService,
    pods_by_ip: HashMap<IpAddr, Arc<Pod>>,
}

impl Cache {
    pub fn new(node_name: &str) -> Self {
        let sources = Kind::ALL.map(|kind| Source { kind, state: SourceState::Listing, listed: false });
        Self { node_name: node_name.into(), sources: sources.into(), ..Self::default() }
    }

    /// Takes one change; returns whether a new snapshot would differ from the last.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::Init(kind) => {
                match kind {
                    Kind::Service => self.services.init(),
                    Kind::EndpointSlice => self.slices.init(),
                    Kind::Node => self.nodes.init(),
                    Kind::Pod => self.pods.init(),
                    Kind::Namespace => self.namespaces.init(),
                    Kind::RuntimeClass => self.runtime_classes.init(),
                }
                false
            }
            Change::InitDone(kind) => {
                match kind {
                    Kind::Service => self.services.done(),
                    Kind::EndpointSlice => {
                        self.slices.done();
                        self.regroup_slices();
                    }
                    Kind::Node => self.nodes.done(),
                    Kind::Pod => {
                        self.pods.done();
                        self.index_pods();
                    }
                    Kind::Namespace => self.namespaces.done(),
                    Kind::RuntimeClass => self.runtime_classes.done(),
                }
                let source = self.source(kind);
                source.listed = true;
                source.state = SourceState::Synced;
                true
            }
            Change::Service(key, value) => {
                self.recovered(Kind::Service);
                self.services.put(key, value)
            }
            Change::Slice(key, value) => {
                self.recovered(Kind::EndpointSlice);
                let old = self.slices.live.get(&key).cloned();
                let changed = self.slices.put(key.clone(), value.clone());
                if changed {
                    self.regroup_slice(&key, old.as_deref(), value);
                }
                changed
            }
            Change::Node(key, value) => {
                self.recovered(Kind::Node);
                self.nodes.put(key, value)
            }
            Change::Pod(key, value) => {
                self.recovered(Kind::Pod);
                let old = self.pods.live.get(&key).cloned();
                let changed = self.pods.put(key, value.clone());
                if changed {
                    self.index_pod(old.as_deref(), value);
                }
                changed
            }
            Change::Namespace(key, value) => {
                self.recovered(Kind::Namespace);
                self.namespaces.put(key, value)
            }
            Change::RuntimeClass(key, value) => {
                self.recovered(Kind::RuntimeClass);
                self.runtime_classes.put(key, value)
            }
            Change::Trouble(kind, state) => {
                let source = self.source(kind);
                let changed = source.state != state;
                source.state = state;
                changed
            }
        }
    }

    /// Cuts a snapshot.
    pub fn snapshot(&mut self) -> World {
        self.generation += 1;
        World {
            synced: self.synced(),
            generation: self.generation,
            node_name: self.node_name.clone(),
            services: self.services.live.clone(),
            slices: self.slices_by_service.clone(),
            nodes: self.nodes.live.clone(),
            pods: self.pods.live.clone(),
            pods_by_ip: self.pods_by_ip.clone(),
            namespaces: self.namespaces.live.clone(),
            runtime_classes: self.runtime_classes.live.clone(),
            sources: self.sources.clone(),
        }
    }

    /// See [`World::synced`].
    pub fn synced(&self) -> bool {
        self.sources.iter().all(|source| {
            source.listed || (!source.kind.required() && matches!(source.state, SourceState::Denied { .. }))
        })
    }

    fn source(&mut self, kind: Kind) -> &mut Source {
        let at = Kind::ALL.iter().position(|known| *known == kind).unwrap_or_default();
        &mut self.sources[at]
    }

    /// An event after trouble means that the watch follows again without a relist.
    fn recovered(&mut self, kind: Kind) {
        let source = self.source(kind);
        if source.listed {
            source.state = SourceState::Synced;
        }
    }

    fn regroup_slices(&mut self) {
        let mut grouped: BTreeMap<&ObjectName, Vec<Arc<EndpointSlice>>> = BTreeMap::new();
        for slice in self.slices.live.values() {
            grouped.entry(&slice.service).or_default().push(slice.clone());
        }
        self.slices_by_service =
            grouped.into_iter().map(|(service, slices)| (service.clone(), Arc::from(slices))).collect();
    }

    fn regroup_slice(&mut self, key: &ObjectName, old: Option<&EndpointSlice>, new: Option<Arc<EndpointSlice>>) {
        if let Some(old) = old {
            self.regroup(&old.service, |slices| slices.retain(|slice| slice.name != *key));
        }
        if let Some(new) = new {
            let service = new.service.clone();
            self.regroup(&service, |slices| {
                let at = slices.partition_point(|slice| slice.name < *key);
                slices.insert(at, new);
            });
        }
    }

    fn regroup(&mut self, service: &ObjectName, change: impl FnOnce(&mut Vec<Arc<EndpointSlice>>)) {
        let mut slices = self.slices_by_service.get(service).map_or_else(Vec::new, |slices| slices.to_vec());
        change(&mut slices);
        if slices.is_empty() {
            self.slices_by_service.remove(service);
        } else {
            self.slices_by_service.insert(service.clone(), slices.into());
        }
    }

    fn index_pods(&mut self) {
        self.pods_by_ip = self.pods.live.values().flat_map(addresses).collect();
    }

    fn index_pod(&mut self, old: Option<&Pod>, new: Option<Arc<Pod>>) {
        let Some(name) = old.map(|pod| &pod.name).or(new.as_ref().map(|pod| &pod.name)) else { return };
        for ip in old.iter().flat_map(|pod| &pod.ips) {
            // It may be another Pod's by now.
            if self.pods_by_ip.get(ip).is_some_and(|pod| pod.name == *name) {
                self.pods_by_ip.remove(ip);
            }
        }
        self.pods_by_ip.extend(new.iter().flat_map(addresses));
    }
}

/// The addresses that are this Pod's alone, while it runs.
fn addresses(pod: &Arc<Pod>) -> impl Iterator<Item = (IpAddr, Arc<Pod>)> {
    let own = !pod.host_network && !pod.finished;
    pod.ips.iter().filter(move |_| own).map(|ip| (*ip, pod.clone()))
}
