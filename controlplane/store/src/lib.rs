//! The store: a revisioned key space with compare-and-swap transactions, watches and compaction.
//!
//! What it is for: every object of the cluster lives here as an opaque value under a key. One counter, the revision,
//! orders all changes; a change is acknowledged after it is on disk and published to watchers in the order of
//! revisions. What it must not know: Kubernetes. It sees bytes, never objects, kinds or namespaces.
//!
//! ```text
//!   txn ──► queue ──► writer thread: compare, assign revisions, one commit for the whole batch
//!                          │ on disk
//!                          ├──► answers to the callers
//!                          └──► hub ──► one bounded buffer a watcher (a slow one is told so and cut off)
//!   range / count / watch's replay ──► read transaction of the engine, any revision not yet compacted
//! ```
//!
//! [`Backend`] is the border: [`embedded::Embedded`] implements it over a file in the data directory; a real etcd v3
//! can stand behind the same trait, and its words and rules (revision, create and mod revision, version,
//! compaction) are used here for that reason.

#![forbid(unsafe_code)]

mod backend;
pub mod compactor;
pub mod embedded;
mod error;
mod types;

pub use backend::{Backend, WatchStream};
pub use error::{Error, Result};
pub use types::{
    Compare, CountResponse, Event, EventKind, GetResponse, KeyValue, Operation, RangeRequest, RangeResponse, Revision,
    Status, Txn, TxnOutcome, WatchItem, WatchRequest, prefix_end,
};
