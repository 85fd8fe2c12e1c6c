//! Periodic compaction, in the manner of the Kubernetes API server: history is kept for one to two intervals.

use crate::{Backend, Error, Revision};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// The stock interval.
pub const INTERVAL: Duration = Duration::from_secs(300);

/// Every `interval` compacts to the revision that was current one interval ago. Returns when cancelled or when the
/// store is closed; a failed compaction is logged and tried again an interval later.
pub async fn run(backend: Arc<dyn Backend>, interval: Duration, cancel: CancellationToken) {
    let mut before: Option<Revision> = None;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(interval) => {}
        }
        let current = match backend.revision().await {
            Ok(current) => current,
            Err(Error::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot read the revision to compact to");
                continue;
            }
        };
        if let Some(revision) = before.replace(current) {
            match backend.compact(revision).await {
                Ok(()) => tracing::debug!(revision, "compacted"),
                // Nothing was written in the meantime, or another server did it.
                Err(Error::Compacted { .. }) => {}
                Err(Error::Closed) => return,
                Err(error) => tracing::warn!(%error, revision, "cannot compact"),
            }
        }
    }
}
