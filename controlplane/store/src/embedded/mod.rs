//! The embedded backend: one redb file in the data directory, one writer thread, any number of readers.
//!
//! Why redb 4.6 and not fjall 3.1: `cargo bench -p strake-store`, both with the store's tables, 1 KiB values, an 8 MiB
//! cache and the same group commit; medians of three interleaved runs, 2026-11-22, 2 virtual CPUs, Linux 6.18, ext4:
//!
//! | | redb | fjall |
//! |---|---|---|
//! | durable writes, 1 writer | 356/s, p50 2.7 ms | 428/s, p50 3.0 ms |
//! | durable writes, 32 writers | 13,200/s | 32,900/s |
//! | list of 10,000 keys | 106,000 keys/s | 369,000 keys/s |
//! | get of the newest version | 183,000/s | 136,000/s |
//! | on disk after churn, per live byte | 4.2 | 28.8 |
//! | resident memory at rest, 10,000 keys | 12.6 MiB | 30.9 MiB |
//!
//! Lists come from the API server's watch cache and the writes of 5,000 nodes are a few thousand a second, so what fjall
//! is better at is not what a node runs short of; memory and disk are. redb also has no threads of its own: idle is
//! idle. The whole store over it, compare-and-swap, history and events included: 14,800 creates/s by 32 clients (18 a
//! commit), p50 2.1 ms; 1,620/s by one, p50 0.46 ms (the disk's fsync varies more between runs than the engines do).

mod hub;
mod reader;
mod schema;
mod watch;
mod writer;

use crate::{
    Backend, CountResponse, Error, GetResponse, RangeRequest, RangeResponse, Result, Revision, Status, Txn, TxnOutcome,
    WatchRequest, WatchStream,
};
use async_trait::async_trait;
use bytes::Bytes;
use hub::{Bounds, Hub};
use parking_lot::RwLock;
use reader::Snapshot;
use redb::{Database, ReadableTable};
use schema::{EXPIRY, FORMAT, LOG, MAX_KEY, META, META_FORMAT, VERSIONS, explain};
use std::{
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
};
use tokio::sync::{Semaphore, oneshot};
use writer::{Command, Writer};

/// The name of the file in the store's directory.
pub const FILE_NAME: &str = "store.redb";

/// Said when the engine trips over an assertion of its own: it checks much, but not every byte, before it believes it.
const SENSELESS: &str = "the engine cannot make sense of its content";

/// Limits of an embedded store.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Pages kept in memory, in bytes.
    pub cache_bytes: usize,
    /// Undelivered changes of one watcher before it is cut off.
    pub watch_buffer_changes: usize,
    /// The same in bytes.
    pub watch_buffer_bytes: usize,
    /// Keys and values of one transaction, in bytes.
    pub max_txn_bytes: usize,
    /// Transactions accepted and not yet answered; more callers wait.
    pub max_in_flight: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 8 << 20,
            watch_buffer_changes: 16_384,
            watch_buffer_bytes: 16 << 20,
            max_txn_bytes: 3 << 20,
            max_in_flight: 2048,
        }
    }
}

/// What the callers, the writer and the watches have in common.
struct Shared {
    path: PathBuf,
    options: Options,
    /// `None` after `close`, and for a moment while the writer opens the file again after a failed write.
    db: RwLock<Option<Database>>,
    hub: Arc<Hub>,
    commits: AtomicU64,
    transactions: AtomicU64,
}

impl Shared {
    /// Runs a read on a thread that may wait for the disk.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(Snapshot<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = self.clone();
        tokio::task::spawn_blocking(move || {
            let guard = shared.db.read();
            let db = guard.as_ref().ok_or(Error::Closed)?;
            read(Snapshot::new(db, &shared.path)?)
        })
        .await
        .map_err(|e| match e.is_panic() {
            true => reader::corrupt(&self.path, SENSELESS.into()),
            // The runtime is shutting down.
            false => Error::Closed,
        })?
    }
}

/// The embedded store. Clones are not needed: share it as `Arc<dyn Backend>`.
pub struct Embedded {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Command>,
    in_flight: Arc<Semaphore>,
}

impl Embedded {
    /// Opens, or creates, the store in `dir` (mode 0700). Recovers by itself from a crash at any point.
    ///
    /// # Errors
    /// `InUse` if another process has it, `Corrupt` naming the file if its content is not a store, `Format` if it is a
    /// store of another version, `Full` or `Io` otherwise.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        let path = dir.join(FILE_NAME);
        let io = |doing, source: io::Error| explain(doing, &path, redb::Error::Io(source));
        create_private_dir(dir).map_err(|e| io("creating the directory of", e))?;
        let new = !path.exists();
        let db = open_database(&path, options.cache_bytes)?;
        if new {
            // The file's name must survive a power cut as its content does.
            fs::File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io("syncing the directory of", e))?;
        }
        let (current, compacted) = {
            let snapshot = Snapshot::new(&db, &path)?;
            (snapshot.current, snapshot.compacted)
        };
        let bounds = Bounds { changes: options.watch_buffer_changes, bytes: options.watch_buffer_bytes };
        let shared = Arc::new(Shared {
            path: path.clone(),
            options,
            db: RwLock::new(Some(db)),
            hub: Arc::new(Hub::new(current, bounds)),
            commits: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
        });
        let (queue, commands) = mpsc::channel();
        // A compaction that a crash interrupted is finished first.
        let writer = Writer::new(shared.clone(), commands, current, (compacted > 0).then_some(compacted));
        std::thread::Builder::new()
            .name("store-writer".into())
            .stack_size(512 << 10)
            .spawn(move || writer.run())
            .map_err(|e| io("starting the writer of", e))?;
        Ok(Self { shared, queue, in_flight: Arc::new(Semaphore::new(options.max_in_flight)) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    fn check(&self, txn: &Txn) -> Result<()> {
        let limit = self.shared.options.max_txn_bytes;
        let mut size = 0;
        for (at, operation) in txn.operations.iter().enumerate() {
            let key = operation.key();
            if key.is_empty() || key.len() > MAX_KEY {
                return Err(Error::InvalidKey { size: key.len(), limit: MAX_KEY });
            }
            if txn.operations[..at].iter().any(|o| o.key() == key) {
                return Err(Error::DuplicateKey { key: String::from_utf8_lossy(key).into_owned() });
            }
            size += key.len();
            if let crate::Operation::Put { value, .. } = operation {
                size += value.len();
            }
        }
        if size > limit { Err(Error::TooLarge { size, limit }) } else { Ok(()) }
    }
}

fn create_private_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Opens the file, checks that it is ours, creates what is missing in a new one.
fn open_database(path: &Path, cache_bytes: usize) -> Result<Database> {
    let io = |e: redb::Error| explain("opening", path, e);
    // The engine checks what it reads, but a damaged file can still trip one of its assertions: that too is corruption.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes);
        builder.set_repair_callback(|_| tracing::info!("the store was not closed orderly; checking it"));
        builder.create(path)
    }));
    let db = opened.map_err(|_| reader::corrupt(path, SENSELESS.into()))?.map_err(|e| io(e.into()))?;
    let setup = db.begin_write().map_err(|e| io(e.into()))?;
    let format = {
        let mut meta = setup.open_table(META).map_err(|e| io(e.into()))?;
        let format = meta.get(META_FORMAT).map_err(|e| io(e.into()))?.map(|v| v.value());
        if format.is_none() {
            meta.insert(META_FORMAT, FORMAT).map_err(|e| io(e.into()))?;
        }
        format
    };
    match format {
        Some(FORMAT) => setup.abort().map_err(|e| io(e.into()))?,
        Some(found) => return Err(Error::Format { path: path.to_owned(), found, supported: FORMAT }),
        None => {
            setup.open_table(VERSIONS).map_err(|e| io(e.into()))?;
            setup.open_table(LOG).map_err(|e| io(e.into()))?;
            setup.open_table(EXPIRY).map_err(|e| io(e.into()))?;
            setup.commit().map_err(|e| io(e.into()))?;
        }
    }
    Ok(db)
}

#[async_trait]
impl Backend for Embedded {
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome> {
        self.check(&txn)?;
        let permit = self.in_flight.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let (reply, answer) = oneshot::channel();
        self.queue.send(Command::Txn { txn, reply, permit }).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    async fn get(&self, key: &[u8], revision: Revision) -> Result<GetResponse> {
        let key = Bytes::copy_from_slice(key);
        self.shared.read(move |snapshot| snapshot.get(&key, revision)).await
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        self.shared.read(move |snapshot| snapshot.range(&request)).await
    }

    async fn count(&self, request: RangeRequest) -> Result<CountResponse> {
        self.shared.read(move |snapshot| snapshot.count(&request)).await
    }

    async fn watch(&self, request: WatchRequest) -> Result<WatchStream> {
        watch::start(self.shared.clone(), request).await
    }

    async fn request_progress(&self) -> Result<()> {
        self.shared.hub.progress();
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.queue.send(Command::Compact { revision, reply }).map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.shared.hub.published())
    }

    async fn status(&self) -> Result<Status> {
        let (revision, compacted) = self.shared.read(|snapshot| Ok((snapshot.current, snapshot.compacted))).await?;
        let disk_bytes = {
            use std::os::unix::fs::MetadataExt;
            fs::metadata(&self.shared.path).map_or(0, |m| m.blocks() * 512)
        };
        Ok(Status {
            revision,
            compacted,
            disk_bytes,
            watchers: self.shared.hub.watchers(),
            commits: self.shared.commits.load(Relaxed),
            transactions: self.shared.transactions.load(Relaxed),
        })
    }

    async fn close(&self) -> Result<()> {
        self.in_flight.close();
        let (reply, answer) = oneshot::channel();
        if self.queue.send(Command::Close { reply }).is_ok() {
            // An error means that somebody else's close came first and is done.
            let _ = answer.await;
        }
        Ok(())
    }
}
