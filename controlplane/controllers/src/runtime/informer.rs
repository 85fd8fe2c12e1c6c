//! One watch, one indexed store, many readers.
//!
//! The store is *read-your-writes*: the answer to a write is put in with [`Informer::wrote`], so a controller
//! never acts on a cache that lacks what it did itself. That is what upstream's expectations are for; here the
//! store needs none, because an answer is only taken when the watch has not already moved past it:
//!
//! ```text
//!   watch has delivered everything up to revision S ("seen")
//!   answer at revision R:   R <= S  the watch knew it already: ignored
//!                           R >  S  not yet delivered: stored; the watch's own copy changes nothing later
//! ```
//!
//! Resource versions of one resource are compared as integers, which KEP-5504 makes part of the API.

use futures::{Stream, StreamExt};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::watcher::{self, Event};
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key from its parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    pub fn of(meta: &ObjectMeta) -> Self {
        Key::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// What became of one object.
#[derive(Debug)]
pub enum Change<K> {
    /// It appeared.
    Added(Arc<K>),
    /// It changed; the old and the new.
    Updated(Arc<K>, Arc<K>),
    /// It went; its last known state.
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest state.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Change::Added(o) | Change::Updated(_, o) | Change::Deleted(o) => o,
        }
    }

    /// The state before, where there was one.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Change::Updated(old, _) => Some(old),
            _ => None,
        }
    }
}

/// Values under which an object is found in an index.
pub type IndexFn<K> = fn(&K) -> Vec<String>;
type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

/// How many uids of just-deleted objects are remembered against late events.
const TOMBSTONES: usize = 4096;

struct Index<K> {
    name: &'static str,
    of: IndexFn<K>,
    keys: HashMap<String, HashSet<Key>>,
}

struct State<K> {
    objects: HashMap<Key, Arc<K>>,
    namespaces: HashMap<String, HashSet<Key>>,
    indexes: Vec<Index<K>>,
    seen: u64,
    tombstones: VecDeque<String>,
}

/// A watched kind. Cheap to share behind an `Arc`.
pub struct Informer<K> {
    state: RwLock<State<K>>,
    /// Held over a change and its notifications, so that handlers see changes in order.
    dispatch: Mutex<()>,
    handlers: RwLock<Vec<Handler<K>>>,
    transform: fn(&mut K),
    phase: tokio::sync::watch::Sender<Phase>,
}

/// How far a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Listing,
    Synced,
    /// Cancelled before the first complete list.
    Ended,
}

fn version(meta: &ObjectMeta) -> Option<u64> {
    meta.resource_version.as_deref().and_then(|v| v.parse().ok())
}

impl<K: Resource<DynamicType = D> + Clone + Send + Sync + 'static, D: 'static> Informer<K> {
    /// An empty store. `transform` drops what no reader needs (managedFields are dropped always).
    pub fn new(transform: fn(&mut K), indexes: &[(&'static str, IndexFn<K>)]) -> Arc<Self> {
        Arc::new(Informer {
            state: RwLock::new(State {
                objects: HashMap::new(),
                namespaces: HashMap::new(),
                indexes: indexes.iter().map(|&(name, of)| Index { name, of, keys: HashMap::new() }).collect(),
                seen: 0,
                tombstones: VecDeque::new(),
            }),
            dispatch: Mutex::new(()),
            handlers: RwLock::new(Vec::new()),
            transform,
            phase: tokio::sync::watch::Sender::new(Phase::Listing),
        })
    }

    /// Calls `handler` for every change from now on, and first with an `Added` for what is there already.
    /// It runs on the watch task: it may read this informer and add keys to queues, and nothing slow.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let _order = self.dispatch.lock();
        for object in self.list() {
            handler(&Change::Added(object));
        }
        self.handlers.write().push(Box::new(handler));
    }

    /// Feeds the store from a watch until cancelled. The stream restarts itself with backoff on errors.
    pub async fn run(
        self: Arc<Self>,
        stream: impl Stream<Item = watcher::Result<Event<K>>> + Send,
        cancel: CancellationToken,
    ) {
        let kind = std::any::type_name::<K>().rsplit("::").next().unwrap_or("object").trim_end_matches('>');
        let mut listed: HashSet<Key> = HashSet::new();
        let mut failing = false;
        let mut stream = std::pin::pin!(stream);
        loop {
            let event = tokio::select! {
                () = cancel.cancelled() => None,
                e = stream.next() => e,
            };
            match event {
                None => {
                    // Nobody waits for a list that will not come.
                    self.phase.send_if_modified(|phase| {
                        let ended = *phase == Phase::Listing && cancel.is_cancelled();
                        if ended {
                            *phase = Phase::Ended;
                        }
                        ended
                    });
                    return;
                }
                Some(Err(e)) => {
                    // The first failure of a row is worth a line, the rest are the same outage.
                    if failing {
                        tracing::debug!(kind, error = %e, "watch still failing");
                    } else {
                        tracing::warn!(kind, error = %e, "watch failed; retrying with backoff");
                    }
                    failing = true;
                }
                Some(Ok(event)) => {
                    failing = false;
                    match event {
                        Event::Init => listed.clear(),
                        Event::InitApply(o) => {
                            listed.insert(Key::of(o.meta()));
                            self.apply(o, true);
                        }
                        Event::InitDone => {
                            self.retain(&listed);
                            listed = HashSet::new();
                            self.phase.send_replace(Phase::Synced);
                        }
                        Event::Apply(o) => self.apply(o, true),
                        Event::Delete(o) => self.delete(&Key::of(o.meta()), Some(o.meta()), true),
                    }
                }
            }
        }
    }

    /// Takes the answer to a create, update or patch of this process.
    pub fn wrote(&self, object: K) {
        self.apply(object, false);
    }

    /// Notes that this process saw the object with this uid gone (deleted at once, or 404).
    pub fn removed(&self, key: &Key, uid: &str) {
        let _order = self.dispatch.lock();
        let gone = {
            let mut state = self.state.write();
            let there = state.objects.get(key).is_some_and(|o| o.meta().uid.as_deref() == Some(uid));
            if !there {
                return;
            }
            if state.tombstones.len() == TOMBSTONES {
                state.tombstones.pop_front();
            }
            state.tombstones.push_back(uid.to_string());
            state.remove(key)
        };
        if let Some(o) = gone {
            self.notify(&Change::Deleted(o));
        }
    }

    fn apply(&self, mut object: K, from_watch: bool) {
        object.meta_mut().managed_fields = None;
        (self.transform)(&mut object);
        let _order = self.dispatch.lock();
        let change = {
            let mut state = self.state.write();
            let revision = version(object.meta());
            if from_watch {
                state.seen = state.seen.max(revision.unwrap_or(0));
            } else if revision.is_none_or(|r| r <= state.seen) {
                return;
            }
            if object.meta().uid.as_ref().is_some_and(|u| state.tombstones.contains(u)) {
                return;
            }
            let key = Key::of(object.meta());
            if let Some(current) = state.objects.get(&key) {
                // An older or equal state tells nothing new.
                if let (Some(have), Some(got)) = (version(current.meta()), revision)
                    && got <= have
                {
                    return;
                }
            }
            let object = Arc::new(object);
            match state.insert(key, object.clone()) {
                // Deleted and created again between two looks: two different objects.
                Some(old) if old.meta().uid != object.meta().uid => {
                    vec![Change::Deleted(old), Change::Added(object)]
                }
                Some(old) => vec![Change::Updated(old, object)],
                None => vec![Change::Added(object)],
            }
        };
        for c in &change {
            self.notify(c);
        }
    }

    fn delete(&self, key: &Key, last: Option<&ObjectMeta>, from_watch: bool) {
        let _order = self.dispatch.lock();
        let gone = {
            let mut state = self.state.write();
            if let (true, Some(meta)) = (from_watch, last) {
                state.seen = state.seen.max(version(meta).unwrap_or(0));
                if let Some(uid) = &meta.uid {
                    state.tombstones.retain(|t| t != uid);
                }
                // A newer object of the same name (already known from our own write) stays.
                let newer = state.objects.get(key).is_some_and(|o| o.meta().uid != meta.uid);
                if newer { None } else { state.remove(key) }
            } else {
                state.remove(key)
            }
        };
        if let Some(o) = gone {
            self.notify(&Change::Deleted(o));
        }
    }

    fn retain(&self, listed: &HashSet<Key>) {
        let (gone, seen): (Vec<Key>, u64) = {
            let state = self.state.read();
            (state.objects.keys().filter(|k| !listed.contains(*k)).cloned().collect(), state.seen)
        };
        for key in gone {
            // What this process wrote after the list was taken is not in it, and not gone.
            let ours = self.get(&key).and_then(|o| version(o.meta())).is_some_and(|r| r > seen);
            if !ours {
                self.delete(&key, None, true);
            }
        }
    }

    fn notify(&self, change: &Change<K>) {
        for handler in self.handlers.read().iter() {
            handler(change);
        }
    }

    /// Returns once the first complete list is in, or when the watch was cancelled before: whoever goes on looks at
    /// the same token first.
    pub async fn synced(&self) {
        // The sender lives in self, so waiting cannot fail.
        let _ = self.phase.subscribe().wait_for(|phase| *phase != Phase::Listing).await;
    }

    /// Whether the first complete list is in.
    pub fn is_synced(&self) -> bool {
        *self.phase.borrow() == Phase::Synced
    }

    /// The object of that key.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.state.read().objects.get(key).cloned()
    }

    /// Every object, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.state.read().objects.values().cloned().collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The objects of a namespace, in no order.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        state.namespaces.get(namespace).into_iter().flatten().filter_map(|k| state.objects.get(k).cloned()).collect()
    }

    /// The objects an index holds under `value`, in no order; none for an index that was not declared.
    pub fn by_index(&self, index: &str, value: &str) -> Vec<Arc<K>> {
        let state = self.state.read();
        let Some(index) = state.indexes.iter().find(|i| i.name == index) else { return Vec::new() };
        index.keys.get(value).into_iter().flatten().filter_map(|k| state.objects.get(k).cloned()).collect()
    }
}

impl<K: Resource> State<K> {
    fn insert(&mut self, key: Key, object: Arc<K>) -> Option<Arc<K>> {
        let old = self.objects.insert(key.clone(), object.clone());
        for index in &mut self.indexes {
            if let Some(old) = &old {
                unindex(&mut index.keys, (index.of)(old), &key);
            }
            for value in (index.of)(&object) {
                index.keys.entry(value).or_default().insert(key.clone());
            }
        }
        self.namespaces.entry(key.namespace.clone()).or_default().insert(key);
        old
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in &mut self.indexes {
            unindex(&mut index.keys, (index.of)(&old), key);
        }
        unindex(&mut self.namespaces, vec![key.namespace.clone()], key);
        Some(old)
    }
}

fn unindex(keys: &mut HashMap<String, HashSet<Key>>, values: Vec<String>, key: &Key) {
    for value in values {
        if let Some(set) = keys.get_mut(&value) {
            set.remove(key);
            if set.is_empty() {
                keys.remove(&value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn cm(name: &str, uid: &str, rv: u64) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("default".into()),
                uid: Some(uid.into()),
                resource_version: Some(rv.to_string()),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    fn informer() -> Arc<Informer<ConfigMap>> {
        Informer::new(|_| {}, &[("uid", |c: &ConfigMap| c.metadata.uid.clone().into_iter().collect())])
    }

    #[tokio::test]
    async fn nobody_waits_for_the_list_of_a_watch_that_was_cancelled() {
        let (i, cancel) = (informer(), CancellationToken::new());
        let running = tokio::spawn(i.clone().run(futures::stream::pending(), cancel.clone()));
        cancel.cancel();
        tokio::time::timeout(std::time::Duration::from_secs(10), i.synced()).await.unwrap();
        running.await.unwrap();
        assert!(!i.is_synced(), "what it holds is not complete");
    }

    #[test]
    fn a_write_is_seen_before_the_watch_delivers_it_and_notified_once() {
        let i = informer();
        let count = Arc::new(AtomicUsize::new(0));
        let c = count.clone();
        i.on_change(move |_| {
            c.fetch_add(1, Ordering::Relaxed);
        });
        i.wrote(cm("a", "u1", 5));
        assert_eq!(i.len(), 1);
        i.apply(cm("a", "u1", 5), true);
        assert_eq!(count.load(Ordering::Relaxed), 1);
        assert_eq!(i.by_index("uid", "u1").len(), 1);
    }

    #[test]
    fn a_late_answer_does_not_bring_back_what_the_watch_deleted() {
        let i = informer();
        i.apply(cm("a", "u1", 5), true);
        i.delete(&Key::new("default", "a"), Some(&cm("a", "u1", 7).metadata), true);
        i.wrote(cm("a", "u1", 6));
        assert!(i.is_empty());
        assert!(i.by_index("uid", "u1").is_empty() && i.in_namespace("default").is_empty());
    }

    #[test]
    fn a_late_event_does_not_bring_back_what_this_process_deleted() {
        let i = informer();
        i.apply(cm("a", "u1", 5), true);
        i.removed(&Key::new("default", "a"), "u1");
        i.apply(cm("a", "u1", 6), true);
        assert!(i.is_empty());
        // The watch's own Deleted clears the tombstone, and a new object of that name lives.
        i.delete(&Key::new("default", "a"), Some(&cm("a", "u1", 7).metadata), true);
        i.apply(cm("a", "u2", 8), true);
        assert_eq!(i.len(), 1);
    }

    #[test]
    fn a_relist_drops_what_it_does_not_name_but_not_newer_writes() {
        let i = informer();
        i.apply(cm("old", "u1", 5), true);
        i.wrote(cm("new", "u2", 9));
        i.retain(&HashSet::new());
        assert!(i.get(&Key::new("default", "old")).is_none());
        assert!(i.get(&Key::new("default", "new")).is_some());
    }
}
