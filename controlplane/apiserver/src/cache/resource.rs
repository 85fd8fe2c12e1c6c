//! The objects of one resource and its recent changes.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::RwLock;
use strake_store::Revision;
use tokio::sync::watch;

use super::object::{Change, Object, Selectable};

/// Changes are kept at least this long, so that a client may resume a watch.
const KEEP: Duration = Duration::from_secs(300);
/// Changes kept whatever their age.
const KEEP_AT_LEAST: usize = 128;
/// Changes kept at most, however young.
const KEEP_AT_MOST: usize = 50_000;

/// The state of one resource.
pub struct ResourceCache {
    name: String,
    fields: Selectable,
    inner: RwLock<Inner>,
    latest: watch::Sender<Revision>,
}

#[derive(Default)]
struct Inner {
    objects: BTreeMap<Arc<str>, Arc<Object>>,
    changes: VecDeque<(Instant, Arc<Change>)>,
    /// Every change after this revision is in `changes`.
    floor: Revision,
    /// The revision of the newest change.
    latest: Revision,
}

/// What the objects were at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// All changes up to this revision are in, none after it.
    pub revision: Revision,
    /// In the order of their keys.
    pub objects: Vec<Arc<Object>>,
}

/// A position is older than the changes kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {wanted} ({floor})")]
pub struct Expired {
    /// The position asked for.
    pub wanted: Revision,
    /// The oldest position that can be served.
    pub floor: Revision,
}

impl ResourceCache {
    pub(super) fn new(name: String, fields: Selectable) -> Self {
        Self { name, fields, inner: RwLock::default(), latest: watch::Sender::new(0) }
    }

    /// What follows the root in the keys of its objects: `pods`, `services/specs`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the selectable fields are found.
    pub fn fields(&self) -> &Selectable {
        &self.fields
    }

    /// One object by `namespace/name` or `name`.
    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.inner.read().objects.get(key).cloned()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.inner.read().objects.len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects of a namespace ("" for all), with the revision they show. `applied` is the cacher's revision read
    /// before the call: everything up to it is here.
    pub fn snapshot(&self, namespace: &str, applied: Revision) -> Snapshot {
        let inner = self.inner.read();
        let objects = if namespace.is_empty() {
            inner.objects.values().cloned().collect()
        } else {
            let start = format!("{namespace}/");
            inner
                .objects
                .range::<str, _>((Bound::Included(start.as_str()), Bound::Unbounded))
                .take_while(|(key, _)| key.starts_with(&start))
                .map(|(_, object)| Arc::clone(object))
                .collect()
        };
        Snapshot { revision: applied.max(inner.latest), objects }
    }

    /// The changes after `position`, at most `limit` of them, in order, whole revisions only.
    ///
    /// # Errors
    /// [`Expired`] when changes after that position are no longer kept.
    pub fn changes_after(&self, position: Revision, limit: usize) -> Result<Vec<Arc<Change>>, Expired> {
        let inner = self.inner.read();
        if position < inner.floor {
            return Err(Expired { wanted: position, floor: inner.floor });
        }
        let start = inner.changes.partition_point(|(_, change)| change.revision <= position);
        let mut changes: Vec<Arc<Change>> = Vec::new();
        for (_, change) in inner.changes.range(start..) {
            if changes.len() >= limit && changes.last().is_some_and(|last| last.revision != change.revision) {
                break;
            }
            changes.push(Arc::clone(change));
        }
        Ok(changes)
    }

    /// The revision of the newest change of this resource.
    pub fn latest(&self) -> Revision {
        self.inner.read().latest
    }

    /// Fires when something changed.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.latest.subscribe()
    }

    pub(super) fn reset(&self, objects: BTreeMap<Arc<str>, Arc<Object>>, floor: Revision) {
        {
            let mut inner = self.inner.write();
            // Watchers see the difference between what they were shown and what there is as changes at the new floor.
            *inner = Inner { objects, changes: VecDeque::new(), floor, latest: floor };
        }
        self.latest.send_replace(floor);
    }

    /// Applies one change without waking anybody. `stored` is `None` for a deletion.
    pub(super) fn apply(&self, key: &str, stored: Option<&[u8]>, revision: Revision) -> bool {
        let mut inner = self.inner.write();
        let change = match stored {
            Some(stored) => {
                let key: Arc<str> =
                    inner.objects.get_key_value(key).map_or_else(|| Arc::from(key), |(key, _)| Arc::clone(key));
                let Some(object) = Object::from_stored(Arc::clone(&key), stored, revision, &self.fields) else {
                    return false;
                };
                let object = Arc::new(object);
                let previous = inner.objects.insert(key, Arc::clone(&object));
                Change { revision, previous, object, deleted: false }
            }
            None => {
                let Some(previous) = inner.objects.remove(key) else { return true };
                let object = Arc::new(previous.deleted_at(revision));
                Change { revision, previous: Some(previous), object, deleted: true }
            }
        };
        inner.latest = revision;
        let now = Instant::now();
        inner.changes.push_back((now, Arc::new(change)));
        while inner.changes.len() > KEEP_AT_LEAST
            && (inner.changes.len() > KEEP_AT_MOST
                || inner.changes.front().is_some_and(|(at, _)| now.duration_since(*at) > KEEP))
        {
            if let Some((_, oldest)) = inner.changes.pop_front() {
                inner.floor = oldest.revision;
            }
        }
        true
    }

    /// Wakes the watchers after a revision was applied.
    pub(super) fn publish(&self, revision: Revision) {
        self.latest.send_replace(revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> ResourceCache {
        ResourceCache::new("pods".into(), Selectable::default())
    }

    fn put(cache: &ResourceCache, key: &str, revision: Revision) {
        let stored = serde_json::json!({"metadata": {"name": key, "labels": {"r": revision.to_string()}}});
        assert!(cache.apply(key, Some(&serde_json::to_vec(&stored).unwrap()), revision));
    }

    #[test]
    fn a_snapshot_shows_one_namespace_only() {
        let cache = cache();
        for (revision, key) in [(1, "a/x"), (2, "ab/x"), (3, "b/x")] {
            put(&cache, key, revision);
        }
        let keys: Vec<String> = cache.snapshot("a", 3).objects.iter().map(|object| object.key.to_string()).collect();
        assert_eq!(keys, ["a/x"]);
        assert_eq!(cache.snapshot("", 0).revision, 3);
    }

    #[test]
    fn changes_are_read_from_a_position_and_expire() {
        let cache = cache();
        for revision in 1..=5 {
            put(&cache, "a/x", revision);
        }
        assert!(cache.apply("a/x", None, 6));
        let seen: Vec<Revision> = cache.changes_after(3, 100).unwrap().iter().map(|change| change.revision).collect();
        assert_eq!(seen, [4, 5, 6]);
        let last = cache.changes_after(5, 100).unwrap().remove(0);
        assert!(last.deleted);
        assert_eq!(last.object.value()["metadata"]["resourceVersion"], "6");
        assert_eq!(last.previous.as_ref().unwrap().labels["r"], "5");
        cache.reset(BTreeMap::new(), 10);
        assert_eq!(cache.changes_after(6, 100).unwrap_err(), Expired { wanted: 6, floor: 10 });
    }
}
