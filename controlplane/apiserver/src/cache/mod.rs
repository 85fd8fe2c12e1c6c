//! The watch cache: every object once, already serialised, and the recent changes of every resource.
//!
//! ```text
//!   store ──one watch of /registry/──► apply ──► per resource: objects (BTreeMap) + ring of recent events
//!                                        │                        ▲                      ▲
//!                                        └► applied revision      │ LIST, GET            │ WATCH (pulls from its
//!                                           (consistent reads     │                      │ own position, woken by a
//!                                            wait for it)                                │ counter)
//! ```
//!
//! A watcher has no buffer of its own: it remembers a revision and reads the ring. One that is slower than the ring
//! is told 410 and lists again. It knows store keys and JSON metadata; it knows nothing of HTTP.

mod loader;
mod object;
mod resource;

use std::{collections::HashMap, sync::Arc, time::Duration};

use strake_store::{Backend, Revision};
use tokio::sync::watch;

pub use object::{Change, Object, Selectable};
pub use resource::{ResourceCache, Snapshot};

/// Every key of the API server begins with this.
pub const ROOT: &str = "/registry/";

/// How long a consistent read waits for the cache to catch up before it fails.
const FRESH_TIMEOUT: Duration = Duration::from_secs(3);

/// The cache of all resources.
pub struct Cacher {
    resources: HashMap<String, Arc<ResourceCache>>,
    applied: watch::Sender<Revision>,
    /// False until the first load is complete, and while a lost watch is being re-established.
    synced: watch::Sender<bool>,
    backend: Arc<dyn Backend>,
}

/// The cache did not reach a revision in time.
#[derive(Debug, Clone, thiserror::Error)]
pub enum NotFresh {
    /// The revision is in the future of the store, or the store's watch is behind.
    #[error("Too large resource version: {wanted}, current: {current}")]
    Behind {
        /// The revision asked for.
        wanted: Revision,
        /// The revision that the cache shows.
        current: Revision,
    },
    /// The store cannot be asked.
    #[error(transparent)]
    Store(#[from] strake_store::Error),
}

impl Cacher {
    /// A cache for the given resources (what follows the root in their keys, without slashes at the ends) and their
    /// selectable fields.
    pub fn new(backend: Arc<dyn Backend>, resources: impl IntoIterator<Item = (String, Selectable)>) -> Arc<Self> {
        let resources = resources
            .into_iter()
            .map(|(name, fields)| (name.clone(), Arc::new(ResourceCache::new(name, fields))))
            .collect();
        Arc::new(Self { resources, applied: watch::Sender::new(0), synced: watch::Sender::new(false), backend })
    }

    /// The cache of one resource by what follows the root in its keys (`pods`, `services/specs`).
    pub fn resource(&self, name: &str) -> Option<&Arc<ResourceCache>> {
        self.resources.get(name)
    }

    /// Every resource.
    pub fn resources(&self) -> impl Iterator<Item = &Arc<ResourceCache>> {
        self.resources.values()
    }

    /// The revision up to which every change is visible here.
    pub fn applied(&self) -> Revision {
        *self.applied.borrow()
    }

    /// Whether the cache shows the store and follows it.
    pub fn is_synced(&self) -> bool {
        *self.synced.borrow()
    }

    /// Waits until the first load is complete.
    pub async fn wait_synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as self does.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Waits until the cache shows at least `revision`.
    ///
    /// # Errors
    /// [`NotFresh::Behind`] when that does not happen within three seconds.
    pub async fn wait_for(&self, revision: Revision) -> Result<(), NotFresh> {
        if self.applied() >= revision {
            return Ok(());
        }
        let mut applied = self.applied.subscribe();
        let reached = tokio::time::timeout(FRESH_TIMEOUT, applied.wait_for(|applied| *applied >= revision)).await;
        match reached {
            Ok(_) => Ok(()),
            Err(_) => Err(NotFresh::Behind { wanted: revision, current: self.applied() }),
        }
    }

    /// Waits until the cache shows everything that was acknowledged before this call.
    ///
    /// # Errors
    /// [`NotFresh`] when the store does not answer or its watch is more than three seconds behind.
    pub async fn wait_fresh(&self) -> Result<(), NotFresh> {
        let revision = self.backend.revision().await?;
        if self.applied() >= revision {
            return Ok(());
        }
        let mut applied = self.applied.subscribe();
        if tokio::time::timeout(Duration::from_millis(50), applied.wait_for(|applied| *applied >= revision))
            .await
            .is_ok()
        {
            return Ok(());
        }
        // Nothing under our prefix may have changed: ask the store to say so.
        self.backend.request_progress().await?;
        self.wait_for(revision).await
    }
}
