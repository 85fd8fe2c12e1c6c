//! The words of the store: keys, values, revisions, transactions, ranges, events. Plain data, no I/O.

use bytes::Bytes;
use std::time::Duration;

/// A point in the history of the whole key space. An empty store is at 1; each transaction that changes something
/// takes the next number, and all its changes carry that one number.
pub type Revision = u64;

/// One live key as of some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    /// The revision that created the key (again, if it had been deleted before).
    pub create_revision: Revision,
    /// The revision of the last change.
    pub mod_revision: Revision,
    /// Changes since creation, the creation included: 1 for a new key.
    pub version: u64,
    /// When the key deletes itself, in milliseconds since the Unix epoch; `None` for keys that stay.
    pub expires_at_ms: Option<u64>,
}

/// A condition on one key that must hold for a transaction to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub key: Bytes,
    /// The key's `mod_revision`; 0 means that the key must not exist.
    pub mod_revision: Revision,
}

impl Compare {
    /// The key must not exist.
    pub fn absent(key: impl Into<Bytes>) -> Self {
        Self { key: key.into(), mod_revision: 0 }
    }

    /// The key must exist and its last change must be `mod_revision`.
    pub fn unchanged(key: impl Into<Bytes>, mod_revision: Revision) -> Self {
        Self { key: key.into(), mod_revision }
    }
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Writes the value. With `ttl` the key deletes itself that long after the write (rounded up to a whole second,
    /// across restarts); without, an earlier expiry of the key is cancelled.
    Put { key: Bytes, value: Bytes, ttl: Option<Duration> },
    /// Deletes the key; no change, and no event, if it does not exist.
    Delete { key: Bytes },
}

impl Operation {
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::Put { key: key.into(), value: value.into(), ttl: None }
    }

    pub fn put_with_ttl(key: impl Into<Bytes>, value: impl Into<Bytes>, ttl: Duration) -> Self {
        Self::Put { key: key.into(), value: value.into(), ttl: Some(ttl) }
    }

    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::Delete { key: key.into() }
    }

    /// The key it changes.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// All operations are applied, at one revision, if every comparison holds; else none is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    pub compare: Vec<Compare>,
    /// At most one operation a key.
    pub operations: Vec<Operation>,
}

impl Txn {
    /// Create: the key must not exist.
    pub fn create(key: impl Into<Bytes>, value: impl Into<Bytes>, ttl: Option<Duration>) -> Self {
        let key = key.into();
        Self {
            compare: vec![Compare::absent(key.clone())],
            operations: vec![Operation::Put { key, value: value.into(), ttl }],
        }
    }

    /// Replace the value last changed at `mod_revision`.
    pub fn update(
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        mod_revision: Revision,
        ttl: Option<Duration>,
    ) -> Self {
        let key = key.into();
        Self {
            compare: vec![Compare::unchanged(key.clone(), mod_revision)],
            operations: vec![Operation::Put { key, value: value.into(), ttl }],
        }
    }

    /// Delete the value last changed at `mod_revision`.
    pub fn delete(key: impl Into<Bytes>, mod_revision: Revision) -> Self {
        let key = key.into();
        Self {
            compare: vec![Compare::unchanged(key.clone(), mod_revision)],
            operations: vec![Operation::Delete { key }],
        }
    }
}

/// What became of a transaction. Either answer is final and on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TxnOutcome {
    /// Applied. `revision` is its own, or the store's current one if nothing changed (deleting what is not there).
    Committed {
        revision: Revision,
        /// What each operation replaced or deleted, in the order of the operations.
        previous: Vec<Option<KeyValue>>,
    },
    /// A comparison did not hold; nothing was changed.
    Conflict {
        revision: Revision,
        /// The current state of each compared key, in the order of the comparisons.
        current: Vec<Option<KeyValue>>,
    },
}

/// Keys in `start..end`, at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeRequest {
    pub start: Bytes,
    /// Exclusive; empty means to the end of the key space.
    pub end: Bytes,
    /// At most so many keys; 0 for all.
    pub limit: usize,
    /// 0 for the newest.
    pub revision: Revision,
}

impl RangeRequest {
    /// Every key that begins with `prefix`, at the newest revision.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        let end = prefix_end(&start);
        Self { start, end, limit: 0, revision: 0 }
    }

    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    pub fn at(mut self, revision: Revision) -> Self {
        self.revision = revision;
        self
    }

    /// Continue a range after the last key that was seen.
    pub fn after(mut self, key: &[u8]) -> Self {
        let mut start = Vec::with_capacity(key.len() + 1);
        start.extend_from_slice(key);
        start.push(0);
        self.start = start.into();
        self
    }
}

/// The smallest key after every key that begins with `prefix`; empty (the end of the key space) if there is none.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::new()
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeResponse {
    /// In the order of keys.
    pub kvs: Vec<KeyValue>,
    /// There are further keys in the range, beyond the limit.
    pub more: bool,
    /// The revision that the answer shows: the requested one, or the newest.
    pub revision: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetResponse {
    pub kv: Option<KeyValue>,
    /// The revision that the answer shows.
    pub revision: Revision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CountResponse {
    pub count: u64,
    /// The revision that the answer shows.
    pub revision: Revision,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    /// Deleted by an operation or because its time was over.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    /// After the change. For a deletion: the key, the revision of the deletion as `mod_revision`, an empty value and
    /// zeros.
    pub kv: KeyValue,
    /// Before the change; `None` for a creation.
    pub previous: Option<KeyValue>,
}

/// Which changes to report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchRequest {
    pub prefix: Bytes,
    /// The first revision to report; 0 for "from now on". One after the revision of a range continues that range
    /// without a gap. It may lie in the future.
    pub from_revision: Revision,
    /// Deliver [`WatchItem::Progress`] when asked by `Backend::request_progress`.
    pub progress: bool,
}

impl WatchRequest {
    pub fn prefix(prefix: impl Into<Bytes>, from_revision: Revision) -> Self {
        Self { prefix: prefix.into(), from_revision, progress: false }
    }

    pub fn with_progress(mut self) -> Self {
        self.progress = true;
        self
    }
}

/// What a watch delivers, revisions strictly growing from one `Events` to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// All changes of one revision under the prefix; never empty, never split.
    Events { revision: Revision, events: std::sync::Arc<[Event]> },
    /// Every change up to and including `revision` has been delivered.
    Progress { revision: Revision },
}

/// Figures for status pages and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub revision: Revision,
    /// History before this revision is gone. 0 if nothing was compacted yet.
    pub compacted: Revision,
    /// Bytes on disk.
    pub disk_bytes: u64,
    pub watchers: usize,
    /// Commits (fsyncs) and transactions since the start: their ratio is the effect of group commit.
    pub commits: u64,
    pub transactions: u64,
}
