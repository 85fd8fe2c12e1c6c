//! Reading: keys at any revision that was not compacted, and the history a watch replays. Blocking; each call is one
//! read transaction and so sees one state. It must not know the writer.

use super::schema::{
    FIRST_REVISION, LOG, META, META_COMPACTED, Record, VERSIONS, VersionKey, decode_log, deleted, explain,
};
use crate::{
    CountResponse, Error, Event, EventKind, GetResponse, KeyValue, RangeRequest, RangeResponse, Result, Revision,
    WatchItem,
};
use bytes::Bytes;
use redb::{Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable};
use std::{ops::Bound, path::Path, sync::Arc};

/// A state of the store that does not change while it is read.
pub(super) struct Snapshot<'a> {
    path: &'a Path,
    versions: ReadOnlyTable<VersionKey, &'static [u8]>,
    log: ReadOnlyTable<u64, &'static [u8]>,
    pub current: Revision,
    pub compacted: Revision,
}

/// The current revision, told by the last entry of the log, which is never compacted away.
pub(super) fn current(log: &impl ReadableTable<u64, &'static [u8]>) -> Result<Revision, redb::StorageError> {
    Ok(log.last()?.map_or(FIRST_REVISION, |(revision, _)| revision.value()))
}

/// The newest version of a key at or before a revision.
pub(super) fn newest(
    versions: &impl ReadableTable<VersionKey, &'static [u8]>,
    path: &Path,
    key: &Bytes,
    revision: Revision,
) -> Result<Option<KeyValue>> {
    let mut range = versions.range((&key[..], 0)..=(&key[..], revision)).map_err(|e| explain("reading", path, e))?;
    let Some(found) = range.next_back() else { return Ok(None) };
    let (version, record) = found.map_err(|e| explain("reading", path, e))?;
    let record = Record::decode(record.value()).map_err(|detail| corrupt(path, detail))?;
    Ok(record.to_kv(key.clone(), version.value().1))
}

pub(super) fn corrupt(path: &Path, detail: String) -> Error {
    Error::Corrupt { path: path.to_owned(), detail }
}

impl<'a> Snapshot<'a> {
    pub fn new(db: &Database, path: &'a Path) -> Result<Self> {
        let io = |e: redb::Error| explain("reading", path, e);
        let txn: ReadTransaction = db.begin_read().map_err(|e| io(e.into()))?;
        let versions = txn.open_table(VERSIONS).map_err(|e| io(e.into()))?;
        let log = txn.open_table(LOG).map_err(|e| io(e.into()))?;
        let meta = txn.open_table(META).map_err(|e| io(e.into()))?;
        let compacted = meta.get(META_COMPACTED).map_err(|e| io(e.into()))?.map_or(0, |v| v.value());
        let current = current(&log).map_err(|e| io(e.into()))?;
        Ok(Self { path, versions, log, current, compacted })
    }

    /// The revision to read at; 0 asks for the newest.
    fn at(&self, requested: Revision) -> Result<Revision> {
        match requested {
            0 => Ok(self.current),
            r if r > self.current => Err(Error::FutureRevision { requested, current: self.current }),
            r if r < self.compacted => Err(Error::Compacted { requested, compacted: self.compacted }),
            r => Ok(r),
        }
    }

    pub fn get(&self, key: &Bytes, revision: Revision) -> Result<GetResponse> {
        let revision = self.at(revision)?;
        Ok(GetResponse { kv: newest(&self.versions, self.path, key, revision)?, revision })
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse> {
        let revision = self.at(request.revision)?;
        let limit = if request.limit == 0 { usize::MAX } else { request.limit };
        let (mut kvs, mut more) = (Vec::new(), false);
        self.scan(request, revision, |key, mod_revision, record| {
            if record.value.is_none() {
                return true;
            }
            if kvs.len() == limit {
                more = true;
                return false;
            }
            kvs.extend(record.to_kv(Bytes::copy_from_slice(key), mod_revision));
            true
        })?;
        Ok(RangeResponse { kvs, more, revision })
    }

    pub fn count(&self, request: &RangeRequest) -> Result<CountResponse> {
        let revision = self.at(request.revision)?;
        let mut count = 0;
        self.scan(request, revision, |_, _, record| {
            count += u64::from(record.value.is_some());
            true
        })?;
        Ok(CountResponse { count, revision })
    }

    /// Visits the newest version at or before `revision` of each key in the range, in order, until told to stop.
    fn scan(
        &self,
        request: &RangeRequest,
        revision: Revision,
        mut visit: impl FnMut(&[u8], Revision, Record<'_>) -> bool,
    ) -> Result<()> {
        if !request.end.is_empty() && request.end <= request.start {
            return Ok(());
        }
        let io = |e: redb::StorageError| explain("reading", self.path, e);
        let end = if request.end.is_empty() { Bound::Unbounded } else { Bound::Excluded((&request.end[..], 0)) };
        let range = (Bound::Included((&request.start[..], 0)), end);
        let mut emit = |key: &[u8], mod_revision, bytes: &[u8]| {
            Record::decode(bytes)
                .map(|record| visit(key, mod_revision, record))
                .map_err(|detail| corrupt(self.path, detail))
        };
        // Versions of a key come in the order of revisions: the last one seen before the key changes is the newest.
        let mut candidate: Option<(redb::AccessGuard<'_, VersionKey>, redb::AccessGuard<'_, &[u8]>)> = None;
        for entry in self.versions.range::<(&[u8], u64)>(range).map_err(io)? {
            let (version, record) = entry.map_err(io)?;
            if version.value().1 > revision {
                continue;
            }
            if let Some((last, bytes)) = &candidate
                && last.value().0 != version.value().0
                && !emit(last.value().0, last.value().1, bytes.value())?
            {
                return Ok(());
            }
            candidate = Some((version, record));
        }
        if let Some((last, bytes)) = &candidate {
            emit(last.value().0, last.value().1, bytes.value())?;
        }
        Ok(())
    }

    /// The changes under a prefix of revisions `from..=until`, at most about `budget` bytes of them, and the revision
    /// to go on from.
    pub fn replay(
        &self,
        prefix: &[u8],
        from: Revision,
        until: Revision,
        budget: usize,
    ) -> Result<(Vec<WatchItem>, Revision)> {
        if from <= self.compacted {
            return Err(Error::Compacted { requested: from, compacted: self.compacted });
        }
        let io = |e: redb::StorageError| explain("reading", self.path, e);
        let (mut items, mut used, mut visited) = (Vec::new(), 0, 0usize);
        for entry in self.log.range(from..=until).map_err(io)? {
            let (revision, keys) = entry.map_err(io)?;
            let revision = revision.value();
            if used >= budget || visited >= 65_536 {
                return Ok((items, revision));
            }
            visited += 1;
            let mut events = Vec::new();
            for key in decode_log(keys.value()).map_err(|detail| corrupt(self.path, detail))? {
                if key.starts_with(prefix) {
                    let event = self.event(Bytes::copy_from_slice(key), revision)?;
                    used += event.kv.value.len() + event.previous.as_ref().map_or(0, |p| p.value.len()) + 256;
                    events.push(event);
                }
            }
            if !events.is_empty() {
                items.push(WatchItem::Events { revision, events: events.into() });
            }
        }
        Ok((items, until + 1))
    }

    /// What happened to a key at a revision.
    fn event(&self, key: Bytes, revision: Revision) -> Result<Event> {
        let now = newest(&self.versions, self.path, &key, revision)?;
        let previous = newest(&self.versions, self.path, &key, revision - 1)?;
        Ok(match now {
            Some(kv) => Event { kind: EventKind::Put, kv, previous },
            None => Event { kind: EventKind::Delete, kv: deleted(key, revision), previous },
        })
    }

    /// The changes of revisions after `since`, for publishing what a failed commit turned out to have written.
    pub fn since(&self, since: Revision) -> Result<Vec<(Revision, Arc<[Event]>)>> {
        let (items, _) = self.replay(b"", since + 1, self.current, usize::MAX)?;
        Ok(items
            .into_iter()
            .filter_map(|item| match item {
                WatchItem::Events { revision, events } => Some((revision, events)),
                WatchItem::Progress { .. } => None,
            })
            .collect())
    }
}
