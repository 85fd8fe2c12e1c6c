//! Writing: one thread takes whatever is queued, applies it in order, commits once, publishes, answers.
//!
//! While a commit waits for the disk, the next batch gathers behind it: that is the group commit, and it needs no
//! timer. The same thread compacts, in small steps between batches, and deletes keys whose time is over. It sleeps on
//! its queue until there is work or until the next key expires.

use super::{
    Shared,
    reader::{self, Snapshot, corrupt},
    schema::{EXPIRY, LOG, META, META_COMPACTED, Record, VERSIONS, decode_log, deleted, encode_log, explain},
};
use crate::{Compare, Error, Event, EventKind, KeyValue, Operation, Result, Revision, Txn, TxnOutcome};
use bytes::Bytes;
use redb::{ReadableTable, Table, WriteTransaction};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::Ordering::Relaxed,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

pub(super) enum Command {
    Txn { txn: Txn, reply: oneshot::Sender<Result<TxnOutcome>>, permit: OwnedSemaphorePermit },
    Compact { revision: Revision, reply: oneshot::Sender<Result<()>> },
    Close { reply: oneshot::Sender<()> },
}

/// Transactions in one commit: bounds the work lost by a failed one and the time a caller waits behind others.
const MAX_BATCH: usize = 512;
/// Log entries compacted, and keys expired, in one commit.
const STEP: usize = 512;
/// A sleep is never longer, so that a changed wall clock is noticed.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

type Reply = oneshot::Sender<Result<TxnOutcome>>;

pub(super) struct Writer {
    shared: Arc<Shared>,
    queue: Receiver<Command>,
    revision: Revision,
    next_expiry: Option<u64>,
    /// History before this revision is being removed.
    compacting: Option<Revision>,
}

/// What one commit will publish.
type Published = Vec<(Revision, Arc<[Event]>)>;

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Writer {
    pub fn new(
        shared: Arc<Shared>,
        queue: Receiver<Command>,
        revision: Revision,
        compacting: Option<Revision>,
    ) -> Self {
        // 0: look at once; the first pass finds the real one.
        Self { shared, queue, revision, next_expiry: Some(0), compacting }
    }

    pub fn run(mut self) {
        let closed = self.serve();
        self.shared.hub.close();
        // Readers finish first; then the file is closed and unlocked.
        *self.shared.db.write() = None;
        if let Some(reply) = closed {
            let _ = reply.send(());
        }
    }

    fn serve(&mut self) -> Option<oneshot::Sender<()>> {
        let mut batch = Vec::new();
        loop {
            let mut close = None;
            let mut next = match self.wait() {
                Ok(command) => command,
                Err(()) => return None,
            };
            while let Some(command) = next.take() {
                match command {
                    Command::Txn { txn, reply, permit } => batch.push((txn, reply, permit)),
                    Command::Compact { revision, reply } => {
                        // Earlier writes first: it may name their revisions.
                        self.flush(&mut batch);
                        let _ = reply.send(self.start_compaction(revision));
                    }
                    Command::Close { reply } => {
                        close = Some(reply);
                        break;
                    }
                }
                if batch.len() >= MAX_BATCH {
                    break;
                }
                next = self.queue.try_recv().ok();
            }
            self.flush(&mut batch);
            if close.is_some() {
                return close;
            }
            if self.next_expiry.is_some_and(|at| at <= now_ms()) {
                self.expire();
            }
            if let Some(revision) = self.compacting {
                self.compact_step(revision);
            }
        }
    }

    /// The next command, or `None` when it is time for housekeeping. `Err`: nobody can send any more.
    fn wait(&self) -> Result<Option<Command>, ()> {
        let timeout = match (self.compacting, self.next_expiry) {
            (Some(_), _) => Some(Duration::ZERO),
            (None, Some(at)) => Some(Duration::from_millis(at.saturating_sub(now_ms())).min(MAX_SLEEP)),
            (None, None) => None,
        };
        match timeout {
            None => self.queue.recv().map(Some).map_err(|_| ()),
            Some(timeout) => match self.queue.recv_timeout(timeout) {
                Ok(command) => Ok(Some(command)),
                Err(RecvTimeoutError::Timeout) => Ok(None),
                Err(RecvTimeoutError::Disconnected) => Err(()),
            },
        }
    }

    fn flush(&mut self, batch: &mut Vec<(Txn, Reply, OwnedSemaphorePermit)>) {
        if batch.is_empty() {
            return;
        }
        self.shared.transactions.fetch_add(batch.len() as u64, Relaxed);
        let outcome = self.commit(|step| {
            let mut outcomes = Vec::with_capacity(batch.len());
            for (txn, ..) in batch.iter() {
                outcomes.push(step.txn(txn)?);
            }
            Ok(outcomes)
        });
        match outcome {
            Ok(outcomes) => {
                for ((_, reply, _), outcome) in batch.drain(..).zip(outcomes) {
                    let _ = reply.send(Ok(outcome));
                }
            }
            Err(error) => {
                for (_, reply, _) in batch.drain(..) {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
    }

    /// One commit: `work` changes the tables; if it changed anything, the changes are made durable and published.
    fn commit<T>(&mut self, work: impl FnOnce(&mut Step<'_, '_>) -> Result<T>) -> Result<T> {
        self.reopen_if_needed()?;
        let result = catch_unwind(AssertUnwindSafe(|| self.try_commit(work)))
            .unwrap_or_else(|_| Err(corrupt(&self.shared.path, super::SENSELESS.into())));
        match result {
            Ok((value, revision, next_expiry, published)) => {
                self.revision = revision;
                self.next_expiry = next_expiry;
                for (revision, events) in published {
                    self.shared.hub.publish(revision, &events);
                }
                Ok(value)
            }
            Err(error) => {
                tracing::error!(%error, "the store could not commit");
                // The engine refuses everything after a failed write: start it again from what is on disk.
                *self.shared.db.write() = None;
                if let Err(error) = self.reopen_if_needed() {
                    tracing::error!(%error, "the store could not be opened again; the next write tries again");
                }
                Err(error)
            }
        }
    }

    fn try_commit<T>(
        &self,
        work: impl FnOnce(&mut Step<'_, '_>) -> Result<T>,
    ) -> Result<(T, Revision, Option<u64>, Published)> {
        let shared = &*self.shared;
        let path = &*shared.path;
        let guard = shared.db.read();
        let db = guard.as_ref().ok_or(Error::Closed)?;
        let txn = db.begin_write().map_err(|e| explain("writing to", path, e))?;
        let (value, revision, next_expiry, published, changed) = {
            let mut step = Step::open(&txn, path, self.revision, self.next_expiry)?;
            let value = work(&mut step)?;
            (value, step.revision, step.next_expiry, step.published, step.changed)
        };
        if changed {
            // redb's default durability: checksummed pages, header, one fsync.
            txn.commit().map_err(|e| explain("writing to", path, e))?;
            shared.commits.fetch_add(1, Relaxed);
        } else {
            txn.abort().map_err(|e| explain("writing to", path, e))?;
        }
        Ok((value, revision, next_expiry, published))
    }

    /// After a failed write: opens the file again and publishes what did reach the disk after all.
    fn reopen_if_needed(&mut self) -> Result<()> {
        if self.shared.db.read().is_some() {
            return Ok(());
        }
        let db = super::open_database(&self.shared.path, self.shared.options.cache_bytes)?;
        let snapshot = Snapshot::new(&db, &self.shared.path)?;
        let missed = snapshot.since(self.revision.max(snapshot.compacted))?;
        self.revision = snapshot.current;
        self.next_expiry = Some(0);
        drop(snapshot);
        *self.shared.db.write() = Some(db);
        for (revision, events) in missed {
            self.shared.hub.publish(revision, &events);
        }
        Ok(())
    }

    /// Deletes keys whose time is over, each at a revision of its own, soonest first.
    fn expire(&mut self) {
        let now = now_ms();
        let done = self.commit(|step| step.expire(now));
        if done.is_err() {
            // The disk may be full: not again at once.
            self.next_expiry = Some(now + 5_000);
        }
    }

    fn start_compaction(&mut self, revision: Revision) -> Result<()> {
        let current = self.revision;
        if revision > current {
            return Err(Error::FutureRevision { requested: revision, current });
        }
        self.commit(|step| step.mark_compacted(revision))?;
        self.compacting = Some(revision);
        Ok(())
    }

    fn compact_step(&mut self, revision: Revision) {
        match self.commit(|step| step.compact(revision)) {
            Ok(true) => self.compacting = None,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, revision, "compaction stopped; the next one removes the rest");
                self.compacting = None;
            }
        }
    }
}

/// Whether every compared key is as it must be.
fn holds(compare: &[Compare], current: &[Option<KeyValue>]) -> bool {
    compare.iter().zip(current).all(|(c, kv)| c.mod_revision == kv.as_ref().map_or(0, |kv| kv.mod_revision))
}

fn writing(path: &Path) -> impl Fn(redb::StorageError) -> Error {
    move |e| explain("writing to", path, e)
}

/// The tables inside one write transaction, and what it has done so far.
struct Step<'txn, 'p> {
    path: &'p Path,
    versions: Table<'txn, (&'static [u8], u64), &'static [u8]>,
    log: Table<'txn, u64, &'static [u8]>,
    expiry: Table<'txn, (u64, &'static [u8]), ()>,
    meta: Table<'txn, &'static str, u64>,
    revision: Revision,
    next_expiry: Option<u64>,
    published: Published,
    changed: bool,
    scratch: Vec<u8>,
}

impl<'txn, 'p> Step<'txn, 'p> {
    fn open(txn: &'txn WriteTransaction, path: &'p Path, revision: Revision, next_expiry: Option<u64>) -> Result<Self> {
        let io = |e: redb::TableError| explain("writing to", path, e);
        Ok(Self {
            path,
            versions: txn.open_table(VERSIONS).map_err(io)?,
            log: txn.open_table(LOG).map_err(io)?,
            expiry: txn.open_table(EXPIRY).map_err(io)?,
            meta: txn.open_table(META).map_err(io)?,
            revision,
            next_expiry,
            published: Vec::new(),
            changed: false,
            scratch: Vec::new(),
        })
    }

    fn current(&self, key: &Bytes) -> Result<Option<KeyValue>> {
        reader::newest(&self.versions, self.path, key, Revision::MAX)
    }

    fn txn(&mut self, txn: &Txn) -> Result<TxnOutcome> {
        let compared = txn.compare.iter().map(|c| self.current(&c.key)).collect::<Result<Vec<_>>>()?;
        if !holds(&txn.compare, &compared) {
            return Ok(TxnOutcome::Conflict { revision: self.revision, current: compared });
        }
        let revision = self.revision + 1;
        let (mut events, mut previous) = (Vec::new(), Vec::with_capacity(txn.operations.len()));
        for operation in &txn.operations {
            // Most operations are on the key that was compared: it is not read twice.
            let before = match txn.compare.iter().position(|c| c.key == *operation.key()) {
                Some(at) => compared[at].clone(),
                None => self.current(operation.key())?,
            };
            match operation {
                Operation::Put { key, value, ttl } => {
                    let expires = ttl.map(|ttl| {
                        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4);
                        (now_ms() + ttl).div_ceil(1000) * 1000
                    });
                    events.push(self.put(key, value, expires, before.clone(), revision)?);
                }
                Operation::Delete { key } => {
                    if let Some(before) = before.clone() {
                        events.push(self.delete(key, before, revision)?);
                    }
                }
            }
            previous.push(before);
        }
        self.finish(revision, events)?;
        Ok(TxnOutcome::Committed { revision: self.revision, previous })
    }

    fn finish(&mut self, revision: Revision, events: Vec<Event>) -> Result<()> {
        if events.is_empty() {
            return Ok(());
        }
        let entry = encode_log(events.iter().map(|e| &e.kv.key[..]));
        self.log.insert(revision, &entry[..]).map_err(writing(self.path))?;
        self.revision = revision;
        self.changed = true;
        self.published.push((revision, events.into()));
        Ok(())
    }

    fn put(
        &mut self,
        key: &Bytes,
        value: &Bytes,
        expires: Option<u64>,
        before: Option<KeyValue>,
        revision: Revision,
    ) -> Result<Event> {
        self.forget_expiry(before.as_ref())?;
        if let Some(at) = expires {
            self.expiry.insert((at, &key[..]), ()).map_err(writing(self.path))?;
            self.next_expiry = Some(self.next_expiry.map_or(at, |next| next.min(at)));
        }
        let kv = KeyValue {
            key: key.clone(),
            value: value.clone(),
            create_revision: before.as_ref().map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            version: before.as_ref().map_or(1, |kv| kv.version + 1),
            expires_at_ms: expires,
        };
        self.write(key, revision, kv.create_revision, kv.version, expires, Some(value))?;
        Ok(Event { kind: EventKind::Put, kv, previous: before })
    }

    fn delete(&mut self, key: &Bytes, before: KeyValue, revision: Revision) -> Result<Event> {
        self.forget_expiry(Some(&before))?;
        self.write(key, revision, 0, 0, None, None)?;
        Ok(Event { kind: EventKind::Delete, kv: deleted(key.clone(), revision), previous: Some(before) })
    }

    fn write(
        &mut self,
        key: &[u8],
        revision: Revision,
        create_revision: Revision,
        version: u64,
        expires_at_ms: Option<u64>,
        value: Option<&[u8]>,
    ) -> Result<()> {
        Record { create_revision, version, expires_at_ms, value }.encode(&mut self.scratch);
        self.versions.insert((key, revision), &self.scratch[..]).map_err(writing(self.path))?;
        Ok(())
    }

    fn forget_expiry(&mut self, before: Option<&KeyValue>) -> Result<()> {
        if let Some(KeyValue { key, expires_at_ms: Some(at), .. }) = before {
            self.expiry.remove((*at, &key[..])).map_err(writing(self.path))?;
        }
        Ok(())
    }

    fn expire(&mut self, now: u64) -> Result<()> {
        let due = {
            let range =
                self.expiry.range(..=(now, &[0xff; super::schema::MAX_KEY + 1][..])).map_err(writing(self.path))?;
            range
                .take(STEP)
                .map(|entry| entry.map(|(k, _)| (k.value().0, Bytes::copy_from_slice(k.value().1))))
                .collect::<Result<Vec<_>, _>>()
                .map_err(writing(self.path))?
        };
        for (at, key) in due {
            self.expiry.remove((at, &key[..])).map_err(writing(self.path))?;
            self.changed = true;
            // A key that was written again since has an entry of its own.
            if let Some(before) = self.current(&key)?.filter(|kv| kv.expires_at_ms == Some(at)) {
                let revision = self.revision + 1;
                let event = self.delete(&key, before, revision)?;
                self.finish(revision, vec![event])?;
            }
        }
        self.next_expiry = self.expiry.first().map_err(writing(self.path))?.map(|(k, _)| k.value().0);
        Ok(())
    }

    fn mark_compacted(&mut self, revision: Revision) -> Result<()> {
        let compacted = self.meta.get(META_COMPACTED).map_err(writing(self.path))?.map_or(0, |v| v.value());
        if revision <= compacted {
            return Err(Error::Compacted { requested: revision, compacted });
        }
        self.meta.insert(META_COMPACTED, revision).map_err(writing(self.path))?;
        self.changed = true;
        Ok(())
    }

    /// Removes, for the next few revisions of the log up to and including `revision`, what they superseded, and their
    /// log entries but the last. True when all is done.
    fn compact(&mut self, revision: Revision) -> Result<bool> {
        let io = writing(self.path);
        let mut entries = Vec::new();
        for entry in self.log.range(..=revision).map_err(&io)?.take(STEP) {
            let (at, keys) = entry.map_err(&io)?;
            let keys = decode_log(keys.value()).map_err(|detail| corrupt(self.path, detail))?;
            entries.push((at.value(), keys.into_iter().map(Bytes::copy_from_slice).collect::<Vec<_>>()));
        }
        let done = entries.len() < STEP;
        let mut doomed = Vec::new();
        for (at, keys) in &entries {
            for key in keys {
                self.superseded(key, revision, &mut doomed)?;
                for version in doomed.drain(..) {
                    self.versions.remove((&key[..], version)).map_err(&io)?;
                    self.changed = true;
                }
            }
            if *at < revision {
                self.log.remove(at).map_err(&io)?;
                self.changed = true;
            }
        }
        Ok(done || entries.last().is_some_and(|(at, _)| *at >= revision))
    }

    /// The versions of a key that nobody can ask for once history before `revision` is gone.
    fn superseded(&self, key: &[u8], revision: Revision, doomed: &mut Vec<Revision>) -> Result<()> {
        let io = writing(self.path);
        let mut newest_is_deletion = false;
        for entry in self.versions.range((key, 0)..=(key, revision)).map_err(&io)? {
            let (version, record) = entry.map_err(&io)?;
            let record = Record::decode(record.value()).map_err(|detail| corrupt(self.path, detail))?;
            newest_is_deletion = record.value.is_none();
            doomed.push(version.value().1);
        }
        if !newest_is_deletion {
            doomed.pop();
        }
        Ok(())
    }
}
