//! Who watches what: committed changes go out to one bounded buffer a watcher.
//!
//! The writer publishes after each commit, in the order of revisions, before it answers the callers. A watcher that is
//! registered learns, under the same lock, up to which revision history was published: what lies before comes from the
//! file, what comes after from the buffer, so nothing is lost and nothing comes twice. A full buffer is emptied and its
//! watcher cut off with an error. It must not know the file.

use crate::{Error, Event, Result, Revision, WatchItem, WatchRequest};
use bytes::Bytes;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::{Context, Poll},
};

/// What one watcher may leave unread before it is cut off.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub changes: usize,
    pub bytes: usize,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<WatchItem>,
    changes: usize,
    bytes: usize,
    /// Delivered after `items`, then the watch ends.
    end: Option<Error>,
    ended: bool,
}

struct Buffer {
    prefix: Bytes,
    from: Revision,
    progress: bool,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

impl Buffer {
    fn end(&self, error: Error, discard: bool) {
        let mut queue = self.queue.lock();
        if discard {
            *queue = Queue::default();
        }
        queue.end.get_or_insert(error);
        drop(queue);
        self.waker.wake();
    }
}

struct State {
    published: Revision,
    next_id: u64,
    buffers: HashMap<u64, Arc<Buffer>>,
    closed: bool,
}

pub(super) struct Hub {
    state: Mutex<State>,
    bounds: Bounds,
}

/// A registered watcher; dropping it unregisters.
pub(super) struct Watcher {
    hub: Arc<Hub>,
    id: u64,
    buffer: Arc<Buffer>,
}

fn bytes_of(events: &[Event]) -> usize {
    events
        .iter()
        .map(|e| e.kv.key.len() + e.kv.value.len() + e.previous.as_ref().map_or(0, |p| p.value.len()) + 128)
        .sum()
}

/// The events under a prefix: all of them shared, or a copy of the few.
pub(super) fn under(prefix: &[u8], events: &Arc<[Event]>) -> Option<Arc<[Event]>> {
    let matching = events.iter().filter(|e| e.kv.key.starts_with(prefix)).count();
    match matching {
        0 => None,
        n if n == events.len() => Some(events.clone()),
        _ => Some(events.iter().filter(|e| e.kv.key.starts_with(prefix)).cloned().collect()),
    }
}

impl Hub {
    pub fn new(published: Revision, bounds: Bounds) -> Self {
        Self { state: Mutex::new(State { published, next_id: 0, buffers: HashMap::new(), closed: false }), bounds }
    }

    /// The newest revision that watchers have been told of.
    pub fn published(&self) -> Revision {
        self.state.lock().published
    }

    pub fn watchers(&self) -> usize {
        self.state.lock().buffers.len()
    }

    /// Registers, and tells up to which revision the caller must read history itself.
    pub fn register(self: &Arc<Self>, request: &WatchRequest) -> Result<(Watcher, Revision)> {
        let mut state = self.state.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        let published = state.published;
        let buffer = Arc::new(Buffer {
            prefix: request.prefix.clone(),
            from: request.from_revision.max(published + 1),
            progress: request.progress,
            queue: Mutex::default(),
            waker: AtomicWaker::new(),
        });
        let id = state.next_id;
        state.next_id += 1;
        state.buffers.insert(id, buffer.clone());
        Ok((Watcher { hub: self.clone(), id, buffer }, published))
    }

    /// Hands out the changes of one revision. Called by the writer only, in the order of revisions.
    pub fn publish(&self, revision: Revision, events: &Arc<[Event]>) {
        let mut state = self.state.lock();
        state.published = revision;
        let bounds = self.bounds;
        state.buffers.retain(|_, buffer| {
            if revision < buffer.from {
                return true;
            }
            let Some(events) = under(&buffer.prefix, events) else { return true };
            let (changes, bytes) = (events.len(), bytes_of(&events));
            let mut queue = buffer.queue.lock();
            // One revision alone is always accepted, however large.
            if !queue.items.is_empty()
                && (queue.changes + changes > bounds.changes || queue.bytes + bytes > bounds.bytes)
            {
                let buffered = queue.changes;
                drop(queue);
                let prefix = String::from_utf8_lossy(&buffer.prefix).into_owned();
                tracing::warn!(prefix, revision, buffered, "watcher fell behind and is cut off");
                buffer.end(Error::SlowWatcher { prefix, revision, buffered }, true);
                return false;
            }
            queue.changes += changes;
            queue.bytes += bytes;
            queue.items.push_back(WatchItem::Events { revision, events });
            drop(queue);
            buffer.waker.wake();
            true
        });
    }

    pub fn progress(&self) {
        let state = self.state.lock();
        let revision = state.published;
        for buffer in state.buffers.values().filter(|b| b.progress) {
            let mut queue = buffer.queue.lock();
            match queue.items.back_mut() {
                Some(WatchItem::Progress { revision: last }) => *last = revision,
                _ => queue.items.push_back(WatchItem::Progress { revision }),
            }
            drop(queue);
            buffer.waker.wake();
        }
    }

    /// Ends every watch after what it has buffered, and refuses new ones.
    pub fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        for (_, buffer) in state.buffers.drain() {
            buffer.end(Error::Closed, false);
        }
    }
}

impl Watcher {
    /// The next item of the live part; `None` after the error that ended it.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Result<WatchItem>>> {
        self.buffer.waker.register(cx.waker());
        let mut queue = self.buffer.queue.lock();
        if let Some(item) = queue.items.pop_front() {
            if let WatchItem::Events { events, .. } = &item {
                queue.changes -= events.len();
                queue.bytes -= bytes_of(events);
            }
            return Poll::Ready(Some(Ok(item)));
        }
        if queue.ended {
            return Poll::Ready(None);
        }
        match queue.end.clone() {
            Some(error) => {
                queue.ended = true;
                Poll::Ready(Some(Err(error)))
            }
            None => Poll::Pending,
        }
    }

    /// It was cut off or the store was closed: reading more history is useless.
    pub fn ended(&self) -> bool {
        let queue = self.buffer.queue.lock();
        queue.end.is_some() && queue.items.is_empty()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.hub.state.lock().buffers.remove(&self.id);
    }
}
