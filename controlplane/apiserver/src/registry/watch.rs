//! Watches: the initial state if asked for, then changes as they come, bookmarks in between.
//!
//! ```text
//!   position ──► cache.changes_after(position) ──► selection ──► shape ──► one chunk ──► client
//!       ▲                                                                   │
//!       └──────────────── woken by the resource's counter ◄─────────────────┘
//! ```

use std::{sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::Stream;
use http::Response;
use strake_machinery::ApiError;
use strake_store::Revision;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    list::{check_match, not_fresh, revision_parameter},
    op::Op,
    render::Renderer,
    select::Selection,
};
use crate::{
    cache::{Cacher, Change, Object, ResourceCache},
    http::{
        body::{self, Body, BoxError},
        negotiate::Accepted,
    },
    query::Query,
};

/// Bookmarks are sent about this often.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Watches without a timeout of their own last between one and two times this (stock's min-request-timeout).
const DEFAULT_SECONDS: u64 = 1800;
/// How many changes go into one chunk.
const BATCH: usize = 500;

struct Watcher {
    cacher: Arc<Cacher>,
    cache: Arc<ResourceCache>,
    renderer: Renderer,
    selection: Selection,
    position: Revision,
    changed: watch::Receiver<Revision>,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    shutdown: CancellationToken,
    first: Option<Bytes>,
    ended: bool,
    _open: crate::metrics::OpenWatch,
}

/// Starts a watch.
///
/// # Errors
/// 400 and 422 for bad parameters, 504 for a resourceVersion of the future. A resourceVersion that is too old is told
/// in the stream, as upstream does.
pub async fn watch(op: &Op<'_>, query: &Query, accepted: Accepted) -> Result<Response<Body>, ApiError> {
    let api = op.api;
    let selection = Selection::parse(op, query)?;
    check_match(query, true)?;
    let initial = query.optional_flag("sendInitialEvents");
    let bookmarks = query.flag("allowWatchBookmarks");
    let revision = revision_parameter(query)?;
    match revision {
        None => api.cacher.wait_fresh().await.map_err(|error| not_fresh(&error))?,
        Some(revision) => api.cacher.wait_for(revision).await.map_err(|error| not_fresh(&error))?,
    }
    let cache = Arc::clone(op.cache()?);
    let changed = cache.subscribe();
    let mut renderer = Renderer::new(op, accepted, query);
    let mut first = BytesMut::new();
    let from_state = match (initial, revision) {
        (Some(initial), _) => initial,
        (None, None | Some(0)) => true,
        (None, Some(_)) => false,
    };
    let position = if from_state {
        let snapshot = cache.snapshot(op.namespace, api.cacher.applied());
        for object in snapshot.objects.iter().filter(|object| selection.matches(object)) {
            event(&mut first, "ADDED", &renderer.one(object)?);
        }
        if initial == Some(true) && bookmarks {
            event(&mut first, "BOOKMARK", &renderer.bookmark(snapshot.revision, true)?);
        }
        snapshot.revision
    } else if initial == Some(false) && revision.is_none_or(|revision| revision == 0) {
        cache.snapshot(op.namespace, api.cacher.applied()).revision
    } else {
        revision.unwrap_or_else(|| api.cacher.applied())
    };
    let seconds = query
        .integer("timeoutSeconds")
        .map_err(ApiError::bad_request)?
        .and_then(|seconds| u64::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0)
        .unwrap_or_else(|| DEFAULT_SECONDS + rand::random_range(0..DEFAULT_SECONDS));
    let now = Instant::now();
    let content_type = renderer.watch_content_type();
    let watcher = Watcher {
        cacher: Arc::clone(&api.cacher),
        cache,
        renderer,
        selection,
        position,
        changed,
        bookmarks,
        next_bookmark: now + jittered(BOOKMARK_EVERY),
        deadline: now + Duration::from_secs(seconds.min(86_400)),
        shutdown: api.shutdown.clone(),
        first: (!first.is_empty()).then(|| first.freeze()),
        ended: false,
        _open: api.metrics.open_watch(op.kind),
    };
    let mut response = Response::new(body::stream(chunks(watcher)));
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    Ok(response)
}

fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.9 + 0.2 * rand::random::<f64>())
}

fn event(into: &mut BytesMut, kind: &str, object: &[u8]) {
    into.reserve(object.len() + 40);
    into.put_slice(b"{\"type\":\"");
    into.put_slice(kind.as_bytes());
    into.put_slice(b"\",\"object\":");
    into.put_slice(object);
    into.put_slice(b"}\n");
}

fn chunks(watcher: Watcher) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    futures::stream::unfold(watcher, |mut watcher| async move {
        let chunk = watcher.next().await?;
        Some((Ok(chunk), watcher))
    })
}

impl Watcher {
    /// The next chunk; `None` at the end of the watch.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        while !self.ended {
            self.changed.borrow_and_update();
            let applied = self.cacher.applied();
            let mut chunk = BytesMut::new();
            match self.cache.changes_after(self.position, BATCH) {
                Err(expired) => {
                    self.fail(&mut chunk, &ApiError::expired(expired.to_string()));
                    return Some(chunk.freeze());
                }
                Ok(changes) => {
                    for change in &changes {
                        if let Err(error) = self.write(&mut chunk, change) {
                            self.fail(&mut chunk, &error);
                            return Some(chunk.freeze());
                        }
                    }
                    match changes.last() {
                        Some(last) => self.position = last.revision,
                        None => self.position = self.position.max(applied),
                    }
                    if !chunk.is_empty() {
                        return Some(chunk.freeze());
                    }
                    if !changes.is_empty() {
                        continue;
                    }
                }
            }
            tokio::select! {
                changed = self.changed.changed() => {
                    if changed.is_err() {
                        return None;
                    }
                }
                () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => {
                    self.next_bookmark = Instant::now() + jittered(BOOKMARK_EVERY);
                    let applied = self.cacher.applied();
                    // Only a position behind which nothing is pending may be bookmarked.
                    if self.cache.changes_after(self.position, 1).is_ok_and(|changes| changes.is_empty()) {
                        self.position = self.position.max(applied);
                        if let Ok(bookmark) = self.renderer.bookmark(self.position, false) {
                            let mut chunk = BytesMut::new();
                            event(&mut chunk, "BOOKMARK", &bookmark);
                            return Some(chunk.freeze());
                        }
                    }
                }
                () = tokio::time::sleep_until(self.deadline) => return None,
                () = self.shutdown.cancelled() => return None,
            }
        }
        None
    }

    fn fail(&mut self, chunk: &mut BytesMut, error: &ApiError) {
        self.ended = true;
        event(chunk, "ERROR", &error.to_json());
    }

    fn write(&mut self, chunk: &mut BytesMut, change: &Change) -> Result<(), ApiError> {
        let before = change.previous.as_ref().filter(|object| self.selection.matches(object));
        let after = (!change.deleted && self.selection.matches(&change.object)).then_some(&change.object);
        match (before, after) {
            (None, None) => {}
            (None, Some(object)) => event(chunk, "ADDED", &self.renderer.one(object)?),
            (Some(_), Some(object)) => event(chunk, "MODIFIED", &self.renderer.one(object)?),
            (Some(_), None) if change.deleted => event(chunk, "DELETED", &self.renderer.one(&change.object)?),
            (Some(before), None) => {
                // It left the selection: gone for this client, in the last state it may see.
                let last: Object = before.deleted_at(change.revision);
                event(chunk, "DELETED", &self.renderer.one(&last)?);
            }
        }
        Ok(())
    }
}
