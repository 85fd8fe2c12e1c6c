//! The two engines, as thin as they can be, with the store's tables: versions of keys and a log of revisions.

use redb::{ReadableDatabase, TableDefinition};
use std::path::Path;

/// Memory for pages, the same for both.
const CACHE: usize = 8 << 20;

pub trait Engine: Send + Sync {
    /// Writes one version of each key and a log entry each, durably, all or nothing.
    fn commit(&self, keys: &[Vec<u8>], first_revision: u64, value: &[u8]);
    /// Removes old versions, durably.
    fn remove(&self, versions: &[(Vec<u8>, u64)]);
    /// Reads the newest version of each key from `from` on; how many, and the last key.
    fn range(&self, from: &[u8], limit: usize) -> (usize, Vec<u8>);
    /// Reads the newest version of a key.
    fn get(&self, key: &[u8]) -> bool;
}

type Versions = TableDefinition<'static, (&'static [u8], u64), &'static [u8]>;
const VERSIONS: Versions = TableDefinition::new("versions");
const LOG: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("log");

pub struct Redb(redb::Database);

impl Redb {
    pub fn open(dir: &Path) -> Self {
        let db = redb::Database::builder().set_cache_size(CACHE).create(dir.join("db")).expect("opening redb");
        let txn = db.begin_write().expect("redb");
        txn.open_table(VERSIONS).expect("redb");
        txn.open_table(LOG).expect("redb");
        txn.commit().expect("redb");
        Self(db)
    }
}

impl Engine for Redb {
    fn commit(&self, keys: &[Vec<u8>], first_revision: u64, value: &[u8]) {
        let txn = self.0.begin_write().expect("redb");
        {
            let mut versions = txn.open_table(VERSIONS).expect("redb");
            let mut log = txn.open_table(LOG).expect("redb");
            for (revision, key) in (first_revision..).zip(keys) {
                versions.insert((&key[..], revision), value).expect("redb");
                log.insert(revision, &key[..]).expect("redb");
            }
        }
        txn.commit().expect("redb");
    }

    fn remove(&self, doomed: &[(Vec<u8>, u64)]) {
        let txn = self.0.begin_write().expect("redb");
        {
            let mut versions = txn.open_table(VERSIONS).expect("redb");
            let mut log = txn.open_table(LOG).expect("redb");
            for (key, revision) in doomed {
                versions.remove((&key[..], *revision)).expect("redb");
                log.remove(revision).expect("redb");
            }
        }
        txn.commit().expect("redb");
    }

    fn range(&self, from: &[u8], limit: usize) -> (usize, Vec<u8>) {
        let txn = self.0.begin_read().expect("redb");
        let versions = txn.open_table(VERSIONS).expect("redb");
        let (mut count, mut last, mut value) = (0, Vec::new(), Vec::new());
        for entry in versions.range((from, 0)..).expect("redb") {
            let (key, record) = entry.expect("redb");
            let key = key.value().0;
            if last != key {
                if count == limit {
                    return (count, last);
                }
                count += 1;
                last = key.to_vec();
            }
            value = record.value().to_vec();
        }
        std::hint::black_box(value);
        (count, last)
    }

    fn get(&self, key: &[u8]) -> bool {
        let txn = self.0.begin_read().expect("redb");
        let versions = txn.open_table(VERSIONS).expect("redb");
        let newest = versions.range((key, 0)..=(key, u64::MAX)).expect("redb").next_back();
        newest.is_some_and(|found| !found.expect("redb").1.value().to_vec().is_empty())
    }
}

pub struct Fjall {
    db: fjall::Database,
    versions: fjall::Keyspace,
    log: fjall::Keyspace,
}

impl Fjall {
    pub fn open(dir: &Path) -> Self {
        let db = fjall::Database::builder(dir.join("db")).cache_size(CACHE as u64).open().expect("opening fjall");
        let options = fjall::KeyspaceCreateOptions::default;
        let versions = db.keyspace("versions", options).expect("fjall");
        let log = db.keyspace("log", options).expect("fjall");
        Self { db, versions, log }
    }

    /// Key, a zero byte (keys have none), revision: sorts as (key, revision).
    fn version(key: &[u8], revision: u64) -> Vec<u8> {
        [key, &[0], &revision.to_be_bytes()].concat()
    }
}

impl Engine for Fjall {
    fn commit(&self, keys: &[Vec<u8>], first_revision: u64, value: &[u8]) {
        let mut batch = self.db.batch().durability(Some(fjall::PersistMode::SyncData));
        for (revision, key) in (first_revision..).zip(keys) {
            batch.insert(&self.versions, Self::version(key, revision), value);
            batch.insert(&self.log, revision.to_be_bytes(), &key[..]);
        }
        batch.commit().expect("fjall");
    }

    fn remove(&self, doomed: &[(Vec<u8>, u64)]) {
        let mut batch = self.db.batch().durability(Some(fjall::PersistMode::SyncData));
        for (key, revision) in doomed {
            batch.remove(&self.versions, Self::version(key, *revision));
            batch.remove(&self.log, revision.to_be_bytes());
        }
        batch.commit().expect("fjall");
    }

    fn range(&self, from: &[u8], limit: usize) -> (usize, Vec<u8>) {
        let (mut count, mut last, mut value) = (0, Vec::new(), None);
        for entry in self.versions.range(from..) {
            let (version, record) = entry.into_inner().expect("fjall");
            let key = &version[..version.len() - 9];
            if last != key {
                if count == limit {
                    return (count, last);
                }
                count += 1;
                last = key.to_vec();
            }
            value = Some(record.to_vec());
        }
        std::hint::black_box(value);
        (count, last)
    }

    fn get(&self, key: &[u8]) -> bool {
        let newest = self.versions.range(Self::version(key, 0)..=Self::version(key, u64::MAX)).next_back();
        newest.is_some_and(|found| !found.value().expect("fjall").to_vec().is_empty())
    }
}
