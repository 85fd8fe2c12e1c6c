//! Who owns whom, as the watches tell it: a pure structure that answers each change with the work it causes.
//!
//! ```text
//!   owner  <-- owners[] --  dependent          an owner that is only heard of is "virtual"
//!     |---- dependents{} ------>               until the API confirms that it exists
//! ```
//! It decides nothing about deletion: that needs the API's own word (see the worker in `mod.rs`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use std::collections::{HashMap, HashSet, VecDeque};

/// Finalizer of foreground deletion: dependents first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of orphaning deletion: dependents are let go.
pub const ORPHAN: &str = "orphan";
/// How many uids known to be absent are remembered.
const ABSENT: usize = 2000;

/// What identifies an object, apart from its uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `apps/v1`.
    pub api_version: String,
    /// `ReplicaSet`.
    pub kind: String,
    /// Empty for cluster-scoped ones.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// An object.
#[derive(Clone, Debug)]
pub struct Node {
    /// Kind, namespace, name. Of a virtual node: as a dependent says.
    pub identity: Identity,
    /// Its owner references.
    pub owners: Vec<OwnerReference>,
    /// Uids of the objects that name it as an owner.
    pub dependents: HashSet<String>,
    /// Only heard of.
    pub is_virtual: bool,
    /// Deletion was asked for.
    pub deleting: bool,
    /// In the foreground: it waits for its blocking dependents.
    pub waiting_for_dependents: bool,
}

/// Work to do outside.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Work {
    /// Look whether this object is garbage (or, if it waits for dependents, whether they are gone).
    Delete(String),
    /// Let the dependents of this object go.
    Orphan(String),
}

/// The graph.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    absent: HashSet<String>,
    absent_order: VecDeque<String>,
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.iter().flatten().any(|f| f == finalizer)
}

impl Graph {
    /// An object by uid.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// How many objects are known.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Known not to exist.
    pub fn is_absent(&self, uid: &str) -> bool {
        self.absent.contains(uid)
    }

    /// Remembers that no object has this uid (any more; uids never come back).
    pub fn note_absent(&mut self, uid: &str) {
        if self.absent.insert(uid.to_string()) {
            self.absent_order.push_back(uid.to_string());
            if self.absent_order.len() > ABSENT
                && let Some(oldest) = self.absent_order.pop_front()
            {
                self.absent.remove(&oldest);
            }
        }
    }

    /// A watch shows an object, new or changed.
    pub fn seen(&mut self, identity: Identity, meta: &ObjectMeta) -> Vec<Work> {
        let Some(uid) = meta.uid.clone() else { return Vec::new() };
        let owners = meta.owner_references.clone().unwrap_or_default();
        let deleting = meta.deletion_timestamp.is_some();
        let waiting = deleting && has(meta, FOREGROUND);
        let mut work = Vec::new();
        let before = self.nodes.get(&uid).cloned();
        let mut node = before.clone().unwrap_or_else(|| Node {
            identity: identity.clone(),
            owners: Vec::new(),
            dependents: HashSet::new(),
            is_virtual: false,
            deleting: false,
            waiting_for_dependents: false,
        });
        if let Some(b) = before.as_ref().filter(|b| b.is_virtual && b.identity != identity) {
            // Some dependent described its owner wrongly (another kind or namespace): that reference leads nowhere.
            work.extend(b.dependents.iter().cloned().map(Work::Delete));
        }
        node.identity = identity;
        node.is_virtual = false;
        node.deleting = deleting;
        node.owners.clone_from(&owners);
        let newly_waiting = waiting && !node.waiting_for_dependents;
        node.waiting_for_dependents = waiting;
        if newly_waiting {
            work.extend(node.dependents.iter().cloned().map(Work::Delete));
            work.push(Work::Delete(uid.clone()));
        }
        let newly_deleting = deleting && !before.as_ref().is_some_and(|b| b.deleting && !b.is_virtual);
        if deleting && has(meta, ORPHAN) && newly_deleting {
            work.push(Work::Orphan(uid.clone()));
        }
        let namespace = node.identity.namespace.clone();
        self.nodes.insert(uid.clone(), node);

        let old = before.map(|b| b.owners).unwrap_or_default();
        for reference in &owners {
            self.link(&uid, &namespace, reference, &mut work);
        }
        for reference in &old {
            let now = owners.iter().find(|o| o.uid == reference.uid);
            if now.is_none() {
                self.unlink(&uid, &reference.uid);
            }
            // It no longer blocks its owner.
            let blocked = reference.block_owner_deletion == Some(true);
            if blocked && now.is_none_or(|n| n.block_owner_deletion != Some(true)) {
                self.wake_waiting(&reference.uid, &mut work);
            }
        }
        if newly_deleting {
            // A dependent that is on its way may be the last thing its owner waits for when it is gone; and an
            // owner's foreground deletion must not wait for what waits for itself.
            for reference in &owners {
                self.wake_waiting(&reference.uid, &mut work);
            }
        }
        work
    }

    fn link(&mut self, uid: &str, namespace: &str, reference: &OwnerReference, work: &mut Vec<Work>) {
        if let Some(owner) = self.nodes.get_mut(&reference.uid) {
            let fresh = owner.dependents.insert(uid.to_string());
            let elsewhere = !owner.is_virtual
                && (owner.identity.kind != reference.kind
                    || (!owner.identity.namespace.is_empty() && owner.identity.namespace != namespace));
            if fresh && (owner.waiting_for_dependents || elsewhere) {
                work.push(Work::Delete(uid.to_string()));
            }
            return;
        }
        self.nodes.insert(
            reference.uid.clone(),
            Node {
                identity: Identity {
                    api_version: reference.api_version.clone(),
                    kind: reference.kind.clone(),
                    namespace: namespace.to_string(),
                    name: reference.name.clone(),
                },
                owners: Vec::new(),
                dependents: [uid.to_string()].into(),
                is_virtual: true,
                deleting: false,
                waiting_for_dependents: false,
            },
        );
        work.push(Work::Delete(reference.uid.clone()));
    }

    fn unlink(&mut self, uid: &str, owner: &str) {
        if let Some(node) = self.nodes.get_mut(owner) {
            node.dependents.remove(uid);
            if node.is_virtual && node.dependents.is_empty() {
                self.nodes.remove(owner);
            }
        }
    }

    fn wake_waiting(&self, owner: &str, work: &mut Vec<Work>) {
        if self.nodes.get(owner).is_some_and(|o| o.waiting_for_dependents) {
            work.push(Work::Delete(owner.to_string()));
        }
    }

    /// The object is gone (or, of a virtual one: never was).
    pub fn gone(&mut self, uid: &str) -> Vec<Work> {
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        self.note_absent(uid);
        let mut work: Vec<Work> = node.dependents.into_iter().map(Work::Delete).collect();
        for reference in &node.owners {
            self.unlink(uid, &reference.uid);
            self.wake_waiting(&reference.uid, &mut work);
        }
        work
    }

    /// The API confirmed a virtual object under this identity.
    pub fn confirm(&mut self, uid: &str) {
        if let Some(n) = self.nodes.get_mut(uid) {
            n.is_virtual = false;
        }
    }

    /// Dependents that keep a foreground deletion waiting: their reference blocks, and they are there.
    pub fn blocking(&self, uid: &str) -> Vec<(String, bool)> {
        let Some(node) = self.nodes.get(uid) else { return Vec::new() };
        node.dependents
            .iter()
            .filter_map(|d| Some((d, self.nodes.get(d)?)))
            .filter(|(_, n)| n.owners.iter().any(|o| o.uid == uid && o.block_owner_deletion == Some(true)))
            .map(|(d, n)| (d.clone(), n.deleting))
            .collect()
    }

    /// Whether any dependent of this object waits for dependents itself (a circle must be broken somewhere).
    pub fn has_waiting_dependent(&self, uid: &str) -> bool {
        let dependents = self.nodes.get(uid).into_iter().flat_map(|n| &n.dependents);
        dependents.filter_map(|d| self.nodes.get(d)).any(|n| n.waiting_for_dependents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(kind: &str, name: &str) -> Identity {
        Identity { api_version: "v1".into(), kind: kind.into(), namespace: "default".into(), name: name.into() }
    }

    fn meta(uid: &str, owners: &[(&str, bool)]) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.into()),
            owner_references: Some(
                owners
                    .iter()
                    .map(|(o, block)| OwnerReference {
                        uid: (*o).into(),
                        kind: "RS".into(),
                        name: (*o).into(),
                        api_version: "v1".into(),
                        block_owner_deletion: Some(*block),
                        ..Default::default()
                    })
                    .collect(),
            ),
            ..Default::default()
        }
    }

    fn deleting(mut m: ObjectMeta, finalizer: &str) -> ObjectMeta {
        m.deletion_timestamp = Some(crate::runtime::now());
        m.finalizers = Some(vec![finalizer.into()]);
        m
    }

    fn delete(uid: &str) -> Work {
        Work::Delete(uid.into())
    }

    #[test]
    fn dependents_of_what_is_gone_are_looked_at() {
        let mut g = Graph::default();
        assert!(g.seen(identity("RS", "rs"), &meta("rs", &[])).is_empty());
        assert!(g.seen(identity("Pod", "p"), &meta("p", &[("rs", true)])).is_empty());
        assert_eq!(g.gone("rs"), [delete("p")]);
        assert!(g.is_absent("rs"));
    }

    #[test]
    fn an_owner_only_heard_of_is_asked_for_once() {
        let mut g = Graph::default();
        assert_eq!(g.seen(identity("Pod", "p"), &meta("p", &[("ghost", true)])), [delete("ghost")]);
        assert!(g.seen(identity("Pod", "q"), &meta("q", &[("ghost", true)])).is_empty());
        assert!(g.get("ghost").unwrap().is_virtual);
        let mut work = g.gone("ghost");
        work.sort();
        assert_eq!(work, [delete("p"), delete("q")]);
    }

    #[test]
    fn a_virtual_owner_goes_with_its_last_dependent() {
        let mut g = Graph::default();
        g.seen(identity("Pod", "p"), &meta("p", &[("ghost", true)]));
        g.gone("p");
        assert!(g.is_empty());
    }

    #[test]
    fn foreground_deletion_looks_at_dependents_and_ends_with_the_last() {
        let mut g = Graph::default();
        g.seen(identity("RS", "rs"), &meta("rs", &[]));
        g.seen(identity("Pod", "p"), &meta("p", &[("rs", true)]));
        g.seen(identity("Pod", "q"), &meta("q", &[("rs", false)]));
        let mut work = g.seen(identity("RS", "rs"), &deleting(meta("rs", &[]), FOREGROUND));
        work.sort();
        assert_eq!(work, [delete("p"), delete("q"), delete("rs")]);
        assert_eq!(g.blocking("rs"), [("p".to_string(), false)], "q does not block");
        assert_eq!(g.seen(identity("Pod", "late"), &meta("late", &[("rs", true)])), [delete("late")]);
        assert_eq!(g.gone("p"), [delete("rs")]);
    }

    #[test]
    fn orphaning_is_asked_for_once_and_lost_references_unblock() {
        let mut g = Graph::default();
        g.seen(identity("RS", "rs"), &meta("rs", &[]));
        let doomed = deleting(meta("rs", &[]), ORPHAN);
        assert_eq!(g.seen(identity("RS", "rs"), &doomed), [Work::Orphan("rs".into())]);
        assert!(g.seen(identity("RS", "rs"), &doomed).is_empty());
        let mut g = Graph::default();
        g.seen(identity("RS", "rs"), &deleting(meta("rs", &[]), FOREGROUND));
        g.seen(identity("Pod", "p"), &meta("p", &[("rs", true)]));
        assert_eq!(g.seen(identity("Pod", "p"), &meta("p", &[])), [delete("rs")]);
        assert!(g.get("rs").unwrap().dependents.is_empty());
    }
}
