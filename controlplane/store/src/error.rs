//! Errors of the store. They are cheap to clone because one failed commit answers a whole batch of callers.

use crate::Revision;
use std::{path::PathBuf, sync::Arc};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The history asked for is gone; list again. Kubernetes answers 410 Expired.
    #[error("revision {requested} has been compacted; history starts at {compacted}")]
    Compacted { requested: Revision, compacted: Revision },

    #[error("revision {requested} is in the future; the store is at {current}")]
    FutureRevision { requested: Revision, current: Revision },

    /// Nothing was written. Reads go on; writes succeed again once there is room.
    #[error("no space left for the store {}: {source}", path.display())]
    Full { path: PathBuf, source: Arc<std::io::Error> },

    #[error("{doing} the store {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: Arc<std::io::Error> },

    /// The file is not what was written. Restore it from a copy; it is never repaired by guessing.
    #[error("the store {} is corrupt: {detail}", path.display())]
    Corrupt { path: PathBuf, detail: String },

    #[error("the store {} is in use by another process", path.display())]
    InUse { path: PathBuf },

    #[error("the store {} has format {found}; this version reads format {supported}", path.display())]
    Format { path: PathBuf, found: u64, supported: u64 },

    /// The watcher did not read fast enough and was cut off; start again from the last revision seen.
    #[error("watch of {prefix:?} fell behind at revision {revision}: {buffered} undelivered changes")]
    SlowWatcher { prefix: String, revision: Revision, buffered: usize },

    #[error("the transaction has {size} bytes; the limit is {limit}")]
    TooLarge { size: usize, limit: usize },

    #[error("the key {key:?} is changed twice in one transaction")]
    DuplicateKey { key: String },

    #[error("a key has {size} bytes; it must have 1 to {limit}")]
    InvalidKey { size: usize, limit: usize },

    #[error("the store is closed")]
    Closed,
}
