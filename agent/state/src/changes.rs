//! What differs between two snapshots. Parts that both share are not visited, so that one changed object costs the same
//! in a cluster of ten Services and of ten thousand.
//!
//! May not know: what a change means for whoever asks.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::world::{EndpointSlice, ObjectName, World};

/// One entry that differs: its value before, if it had one, and after.
pub type Changed<'a, K, V> = (&'a K, Option<&'a V>, Option<&'a V>);

/// The entries that differ, in the order of their keys.
pub fn changed<'a, K: Ord, V: PartialEq>(
    before: &'a OrdMap<K, V>,
    after: &'a OrdMap<K, V>,
) -> impl Iterator<Item = Changed<'a, K, V>> {
    before.diff(after).map(|item| match item {
        DiffItem::Add(key, new) => (key, None, Some(new)),
        DiffItem::Update { old: (_, old), new: (key, new) } => (key, Some(old), Some(new)),
        DiffItem::Remove(key, old) => (key, Some(old), None),
    })
}

impl World {
    /// The Services that are not as they were in `before`, or whose EndpointSlices are not.
    pub fn changed_services(&self, before: &Self) -> BTreeSet<ObjectName> {
        let services = changed(&before.services, &self.services).map(|(name, ..)| name);
        let slices = changed(&before.slices, &self.slices).map(|(name, ..)| name);
        services.chain(slices).cloned().collect()
    }

    /// The EndpointSlices that `before` did not have, or had otherwise: what it had, and what there is now.
    pub fn changed_slices<'a>(
        &'a self,
        before: &'a Self,
    ) -> impl Iterator<Item = (Option<&'a Arc<EndpointSlice>>, &'a Arc<EndpointSlice>)> {
        changed(&before.slices, &self.slices).flat_map(|(_, old, new)| {
            let was = move |slice: &Arc<EndpointSlice>| {
                let old = old?;
                old.binary_search_by(|old| old.name.cmp(&slice.name)).ok().and_then(|at| old.get(at))
            };
            let now = new.into_iter().flat_map(|slices| slices.iter());
            now.map(move |slice| (was(slice), slice)).filter(|(old, new)| *old != Some(new))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{Cache, Change};
    use crate::world::{Kind, Namespace};

    fn slice(service: &str, name: &str, triggered_ms: u64) -> Change {
        let slice = EndpointSlice {
            name: ObjectName::new("ns", name),
            service: ObjectName::new("ns", service),
            ports: Vec::new(),
            endpoints: Box::default(),
            triggered_ms: Some(triggered_ms),
        };
        Change::Slice(slice.name.clone(), Some(Arc::new(slice)))
    }

    #[test]
    fn a_slice_that_changes_its_service_changes_both() {
        let mut cache = Cache::new("n1");
        for change in [slice("a", "x", 1), slice("a", "y", 1), slice("b", "z", 1)] {
            cache.apply(change);
        }
        let before = cache.snapshot();
        assert!(!cache.apply(slice("a", "x", 1)));
        assert!(cache.apply(slice("c", "y", 2)));
        let after = cache.snapshot();
        let names: Vec<_> = after.changed_services(&before).into_iter().map(|name| name.name.to_string()).collect();
        assert_eq!(names, ["a", "c"]);
        let slices: Vec<_> = after.changed_slices(&before).map(|(old, new)| (old.is_some(), &*new.name.name)).collect();
        assert_eq!(slices, [(false, "y")]);
        assert_eq!(before.slices_of(&ObjectName::new("ns", "a")).count(), 2);
        assert_eq!(after.changed_services(&after).len(), 0);
    }

    #[test]
    fn entries_come_with_what_they_were_and_are() {
        let namespace = |name: &str, socket_lb_disabled| {
            let namespace = Namespace { name: name.into(), socket_lb_disabled };
            Change::Namespace(name.into(), Some(Arc::new(namespace)))
        };
        let mut cache = Cache::new("n1");
        for change in [Change::Init(Kind::Namespace), namespace("a", false), namespace("b", false)] {
            cache.apply(change);
        }
        cache.apply(Change::InitDone(Kind::Namespace));
        let before = cache.snapshot();
        for change in [namespace("b", true), namespace("c", false), Change::Namespace("a".into(), None)] {
            cache.apply(change);
        }
        let after = cache.snapshot();
        let flag = |value: Option<&Arc<Namespace>>| value.map(|namespace| namespace.socket_lb_disabled);
        let rows: Vec<_> = changed(&before.namespaces, &after.namespaces)
            .map(|(name, old, new)| (&**name, flag(old), flag(new)))
            .collect();
        assert_eq!(rows, [("a", Some(false), None), ("b", Some(false), Some(true)), ("c", None, Some(false))]);
    }
}
