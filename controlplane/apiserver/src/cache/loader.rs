//! Fills the cache from the store and follows it: one range, then one watch for everything.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use strake_store::{EventKind, RangeRequest, Revision, WatchItem, WatchRequest};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{Cacher, Object, ROOT, ResourceCache};

/// After a start the changes of so many past revisions are replayed, so that clients may resume their watches.
const REPLAY: Revision = 10_000;

/// Splits a store key into the resource's name (one or two segments after the root) and the object's key.
fn split(key: &[u8], known: impl Fn(&str) -> bool) -> Option<(&str, &str)> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(ROOT)?;
    let one = rest.find('/')?;
    if known(&rest[..one]) {
        return Some((&rest[..one], &rest[one + 1..]));
    }
    let two = one + 1 + rest[one + 1..].find('/')?;
    known(&rest[..two]).then(|| (&rest[..two], &rest[two + 1..]))
}

impl Cacher {
    /// Keeps the cache in step with the store until `shutdown`. A lost watch is resumed where it ended; if the store no
    /// longer has that history, everything is loaded again and watchers are told to list.
    pub async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        let mut position = None;
        loop {
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return,
                outcome = self.follow_once(position) => outcome,
            };
            self.synced.send_replace(false);
            match outcome {
                Err(strake_store::Error::Closed) => return,
                Err(strake_store::Error::Compacted { .. }) => position = None,
                Err(failure) => {
                    warn!(error = %failure, "the store's watch ended; starting again");
                    position = Some(self.applied()).filter(|applied| *applied > 0);
                }
                Ok(()) => position = Some(self.applied()).filter(|applied| *applied > 0),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
    }

    async fn follow_once(&self, position: Option<Revision>) -> Result<(), strake_store::Error> {
        let current = self.backend.revision().await?;
        let start = match position {
            Some(position) => position,
            None => self.load(current).await?,
        };
        let request = WatchRequest::prefix(ROOT, start + 1).with_progress();
        let mut watch = self.backend.watch(request).await?;
        if self.applied() >= current {
            self.synced.send_replace(true);
        } else {
            self.backend.request_progress().await?;
        }
        while let Some(item) = watch.next().await {
            match item? {
                WatchItem::Events { revision, events } => self.apply(revision, &events),
                WatchItem::Progress { revision } => self.advance(revision),
            }
            if self.applied() >= current && !self.is_synced() {
                self.synced.send_replace(true);
            }
        }
        Ok(())
    }

    /// Loads every object as of a revision a little in the past, and answers that revision.
    async fn load(&self, current: Revision) -> Result<Revision, strake_store::Error> {
        let compacted = self.backend.status().await?.compacted;
        let mut at = current.saturating_sub(REPLAY).max(compacted + 1).min(current);
        if at == 0 {
            at = current;
        }
        let range = self.backend.range(RangeRequest::prefix(ROOT).at(at)).await?;
        let mut loaded: std::collections::HashMap<&str, BTreeMap<Arc<str>, Arc<Object>>> =
            self.resources.keys().map(|name| (name.as_str(), BTreeMap::new())).collect();
        for kv in &range.kvs {
            let Some((name, key)) = split(&kv.key, |name| self.resources.contains_key(name)) else {
                warn!(key = %String::from_utf8_lossy(&kv.key), "a key of the store belongs to no resource");
                continue;
            };
            let (Some(resource), Some(objects)) = (self.resources.get(name), loaded.get_mut(name)) else { continue };
            let key: Arc<str> = Arc::from(key);
            match Object::from_stored(Arc::clone(&key), &kv.value, kv.mod_revision, resource.fields()) {
                Some(object) => {
                    objects.insert(key, Arc::new(object));
                }
                None => error!(resource = name, %key, "the store holds something that is no JSON object"),
            }
        }
        for (name, objects) in loaded {
            if let Some(resource) = self.resources.get(name) {
                resource.reset(objects, at);
            }
        }
        self.applied.send_replace(at);
        Ok(at)
    }

    fn apply(&self, revision: Revision, events: &[strake_store::Event]) {
        let mut touched: Vec<&Arc<ResourceCache>> = Vec::with_capacity(1);
        for event in events {
            let Some((name, key)) = split(&event.kv.key, |name| self.resources.contains_key(name)) else { continue };
            let Some(resource) = self.resources.get(name) else { continue };
            let stored = (event.kind == EventKind::Put).then_some(&event.kv.value[..]);
            if !resource.apply(key, stored, revision) {
                error!(resource = name, key, revision, "the store published something that is no JSON object");
            }
            if !touched.iter().any(|seen| Arc::ptr_eq(seen, resource)) {
                touched.push(resource);
            }
        }
        self.advance(revision);
        for resource in touched {
            resource.publish(revision);
        }
    }

    fn advance(&self, revision: Revision) {
        self.applied.send_if_modified(|applied| {
            let newer = revision > *applied;
            *applied = revision.max(*applied);
            newer
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn store_keys_name_resource_and_object() {
        let known = |name: &str| matches!(name, "pods" | "services/specs" | "minions");
        assert_eq!(split(b"/registry/pods/default/web", known), Some(("pods", "default/web")));
        assert_eq!(split(b"/registry/services/specs/default/web", known), Some(("services/specs", "default/web")));
        assert_eq!(split(b"/registry/minions/n1", known), Some(("minions", "n1")));
        assert_eq!(split(b"/registry/other/n1", known), None);
        assert_eq!(split(b"/other/pods/a/b", known), None);
    }
}
