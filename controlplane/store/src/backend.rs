//! The border between the API server and whatever keeps its bytes.

use crate::{
    CountResponse, GetResponse, RangeRequest, RangeResponse, Result, Revision, Status, Txn, TxnOutcome, WatchItem,
    WatchRequest,
};
use async_trait::async_trait;
use futures::stream::BoxStream;

/// A watch. It ends with one `Err` (`Compacted`, `SlowWatcher`, `Closed`, I/O) or when it is dropped, never silently.
pub type WatchStream = BoxStream<'static, Result<WatchItem>>;

/// A revisioned key space. All methods may be called from any task, at once.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Applies a transaction. An `Ok` answer is on disk. After an `Err` of [`crate::Error::Io`] it is not known whether
    /// it was applied; after any other `Err` it was not.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome>;

    /// One key, at `revision` (0: newest). Sees every transaction acknowledged before the call.
    async fn get(&self, key: &[u8], revision: Revision) -> Result<GetResponse>;

    /// Keys in a range. Sees every transaction acknowledged before the call. Fails with `Compacted` for a revision
    /// below the compacted one, with `FutureRevision` for one above the current.
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse>;

    /// How many keys a range has; `limit` is ignored. Costs a scan of the range's keys.
    async fn count(&self, request: RangeRequest) -> Result<CountResponse>;

    /// Changes under a prefix: first those of the past from `from_revision` on, then those to come, without a gap and
    /// without a repetition. Fails with `Compacted` if `from_revision` is at or below the compacted revision.
    async fn watch(&self, request: WatchRequest) -> Result<WatchStream>;

    /// Every watcher that asked for progress gets, after all it must see up to now, the current revision.
    async fn request_progress(&self) -> Result<()>;

    /// Forgets superseded values before `revision`; the state at `revision` itself stays readable.
    /// Answers when history is logically gone; space is given back in the background.
    async fn compact(&self, revision: Revision) -> Result<()>;

    /// The newest revision.
    async fn revision(&self) -> Result<Revision>;

    async fn status(&self) -> Result<Status>;

    /// Refuses further writes, finishes accepted ones, ends watches with `Closed`, and closes the file.
    async fn close(&self) -> Result<()>;
}
