//! A full disk: writes fail with an error that says so, what was acknowledged stays readable, and writes go on when
//! there is room again. The disk is a small tmpfs in a mount namespace of this process; no harness, because a process
//! that enters a namespace must have one thread.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod listing;

use futures::StreamExt;
use nix::{
    mount::{MsFlags, mount, umount},
    sched::{CloneFlags, unshare},
};
use std::{path::Path, time::Duration};
use strake_store::{
    Backend, Error, RangeRequest, Txn, TxnOutcome, WatchItem, WatchRequest,
    embedded::{Embedded, Options},
};

const NONE: Option<&str> = None;

fn main() {
    if listing::answered("disk_full") {
        return;
    }
    // Root needs no user namespace; others get one where the mount is allowed.
    unshare(CloneFlags::CLONE_NEWNS)
        .or_else(|_| unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS))
        .expect("a mount namespace, as root or in a user namespace");
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).unwrap();
    let dir = tempfile::tempdir().unwrap();
    mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some("size=6m")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(fill_and_go_on(dir.path()));
    drop(runtime);
    umount(dir.path()).unwrap();
    println!("test disk_full: ok");
}

async fn create(store: &Embedded, number: usize) -> Result<u64, Error> {
    match store.txn(Txn::create(format!("k{number:05}"), vec![b'v'; 40_000], None)).await? {
        TxnOutcome::Committed { revision, .. } => Ok(revision),
        TxnOutcome::Conflict { .. } => panic!("k{number} was there already, though its write had failed"),
    }
}

async fn fill_and_go_on(dir: &Path) {
    let store = Embedded::open(dir, Options::default()).unwrap();
    let mut watch = store.watch(WatchRequest::prefix("", 0)).await.unwrap();
    let (mut written, mut last) = (0, 1);
    let error = loop {
        match create(&store, written).await {
            Ok(revision) => (written, last) = (written + 1, revision),
            Err(error) => break error,
        }
        assert!(written < 1000, "6 MiB did not fill");
    };
    assert!(written > 20, "full after {written} writes of 40 kB");
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("no space left") && error.to_string().contains("store.redb"), "{error}");

    // Full means full, again and again, and reads do not care.
    assert!(matches!(create(&store, written).await, Err(Error::Full { .. })));
    let listed = store.range(RangeRequest::prefix("")).await.unwrap();
    assert_eq!((listed.kvs.len(), listed.revision), (written, last));

    // Room again.
    mount(NONE, dir, NONE, MsFlags::MS_REMOUNT, Some("size=24m")).unwrap();
    assert_eq!(create(&store, written).await.unwrap(), last + 1);
    store.compact(last).await.unwrap();

    // The watcher saw what was acknowledged and nothing else.
    for expected in 2..=last + 1 {
        let item = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap().unwrap();
        assert!(matches!(item, WatchItem::Events { revision, .. } if revision == expected), "{item:?}");
    }
    store.close().await.unwrap();
    let store = Embedded::open(dir, Options::default()).unwrap();
    assert_eq!(store.range(RangeRequest::prefix("")).await.unwrap().kvs.len(), written + 1);
    store.close().await.unwrap();

    // A disk that is full before there is a store.
    let full = dir.join("full");
    std::fs::create_dir(&full).unwrap();
    mount(Some("tmpfs"), &full, Some("tmpfs"), MsFlags::empty(), Some("size=4k")).unwrap();
    let error = Embedded::open(&full, Options::default()).err().expect("a store in 4 KiB");
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    umount(&full).unwrap();
}
