//! A watch: history from the file in pages, at the pace of the reader, then the hub's live buffer.

use super::{Shared, hub::Watcher};
use crate::{Error, Result, Revision, WatchItem, WatchRequest, WatchStream};
use bytes::Bytes;
use futures::{StreamExt, stream};
use std::{collections::VecDeque, future::poll_fn, sync::Arc};

/// About how many bytes of history are in memory at a time for one watch.
const PAGE_BYTES: usize = 1 << 20;

struct Watch {
    shared: Arc<Shared>,
    live: Watcher,
    prefix: Bytes,
    /// History still to be read: `next..=until`.
    next: Revision,
    until: Revision,
    page: VecDeque<WatchItem>,
    failed: bool,
}

pub(super) async fn start(shared: Arc<Shared>, request: WatchRequest) -> Result<WatchStream> {
    let (live, published) = shared.hub.register(&request)?;
    let next = if request.from_revision == 0 { published + 1 } else { request.from_revision };
    let mut watch =
        Watch { shared, live, prefix: request.prefix, next, until: published, page: VecDeque::new(), failed: false };
    // The first page is read here so that a compacted start is the call's error.
    watch.fill().await?;
    Ok(stream::unfold(watch, |mut watch| async move { watch.next().await.map(|item| (item, watch)) }).boxed())
}

impl Watch {
    async fn fill(&mut self) -> Result<()> {
        while self.page.is_empty() && self.next <= self.until {
            let (prefix, next, until) = (self.prefix.clone(), self.next, self.until);
            let (items, next) =
                self.shared.read(move |snapshot| snapshot.replay(&prefix, next, until, PAGE_BYTES)).await?;
            self.page.extend(items);
            self.next = next;
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Result<WatchItem>> {
        if self.failed {
            return None;
        }
        if self.page.is_empty() && self.next <= self.until && !self.live.ended() {
            let filled = self.fill().await;
            if let Err(error) = filled {
                self.failed = true;
                return Some(Err(if matches!(error, Error::Closed) { Error::Closed } else { error }));
            }
        }
        if let Some(item) = self.page.pop_front() {
            return Some(Ok(item));
        }
        poll_fn(|cx| self.live.poll_next(cx)).await
    }
}
