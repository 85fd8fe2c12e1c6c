//! What users of the store rely on, one behaviour a test.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use futures::StreamExt;
use std::{sync::Arc, time::Duration};
use strake_store::{
    Backend, Compare, Error, EventKind, Operation, RangeRequest, Txn, TxnOutcome, WatchItem, WatchRequest, WatchStream,
    embedded::{Embedded, Options},
};

fn open(dir: &std::path::Path) -> Embedded {
    Embedded::open(dir, Options::default()).unwrap()
}

async fn put(store: &Embedded, key: &str, value: &str) -> u64 {
    let txn = Txn { operations: vec![Operation::put(key.to_owned(), value.to_owned())], ..Txn::default() };
    committed(store.txn(txn).await.unwrap())
}

async fn delete(store: &Embedded, key: &str) -> u64 {
    let txn = Txn { operations: vec![Operation::delete(key.to_owned())], ..Txn::default() };
    committed(store.txn(txn).await.unwrap())
}

fn committed(outcome: TxnOutcome) -> u64 {
    match outcome {
        TxnOutcome::Committed { revision, .. } => revision,
        TxnOutcome::Conflict { .. } => panic!("conflict: {outcome:?}"),
    }
}

async fn next(watch: &mut WatchStream) -> WatchItem {
    tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("an item in time").unwrap().unwrap()
}

/// Short text of a watch item, such as `3 put a=1, delete b`.
fn show(item: &WatchItem) -> String {
    match item {
        WatchItem::Progress { revision } => format!("{revision} progress"),
        WatchItem::Events { revision, events } => {
            let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
            let events: Vec<_> = events
                .iter()
                .map(|e| {
                    assert_eq!(e.kv.mod_revision, *revision);
                    let was = e.previous.as_ref().map_or(String::new(), |p| format!(" (was {})", text(&p.value)));
                    match e.kind {
                        EventKind::Put => format!("put {}={}{was}", text(&e.kv.key), text(&e.kv.value)),
                        EventKind::Delete => format!("delete {}{was}", text(&e.kv.key)),
                    }
                })
                .collect();
            format!("{revision} {}", events.join(", "))
        }
    }
}

fn keys(response: &strake_store::RangeResponse) -> Vec<String> {
    response.kvs.iter().map(|kv| String::from_utf8(kv.key.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn revisions_grow_by_one_and_a_key_remembers_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.revision().await.unwrap(), 1);
    assert_eq!(put(&store, "a", "1").await, 2);
    assert_eq!(put(&store, "b", "1").await, 3);
    assert_eq!(put(&store, "a", "2").await, 4);
    let kv = store.get(b"a", 0).await.unwrap().kv.unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version, &kv.value[..]), (2, 4, 2, &b"2"[..]));
    assert_eq!(delete(&store, "a").await, 5);
    assert_eq!(delete(&store, "a").await, 5, "deleting what is not there changes nothing");
    assert_eq!(put(&store, "a", "3").await, 6);
    let kv = store.get(b"a", 0).await.unwrap().kv.unwrap();
    assert_eq!((kv.create_revision, kv.version), (6, 1), "a new life");
}

#[tokio::test]
async fn a_comparison_that_does_not_hold_changes_nothing_and_shows_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = committed(store.txn(Txn::create("a", "1", None)).await.unwrap());
    let TxnOutcome::Conflict { current, revision } = store.txn(Txn::create("a", "2", None)).await.unwrap() else {
        panic!("created twice")
    };
    assert_eq!((&current[0].as_ref().unwrap().value[..], revision), (&b"1"[..], first));
    let second = committed(store.txn(Txn::update("a", "2", first, None)).await.unwrap());
    assert!(matches!(store.txn(Txn::delete("a", first)).await.unwrap(), TxnOutcome::Conflict { .. }));
    let both = Txn {
        compare: vec![Compare::unchanged("a", second), Compare::absent("b")],
        operations: vec![Operation::delete("a"), Operation::put("b", "2")],
    };
    assert_eq!(committed(store.txn(both).await.unwrap()), second + 1);
    assert_eq!(keys(&store.range(RangeRequest::prefix("")).await.unwrap()), ["b"]);
}

#[tokio::test]
async fn one_transaction_may_not_change_a_key_twice_nor_exceed_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let twice = Txn { operations: vec![Operation::put("a", "1"), Operation::delete("a")], ..Txn::default() };
    assert!(matches!(store.txn(twice).await, Err(Error::DuplicateKey { key }) if key == "a"));
    let large = Txn::create("a", vec![0; 4 << 20], None);
    assert!(matches!(store.txn(large).await, Err(Error::TooLarge { .. })));
    let nameless = Txn::create("", "x", None);
    assert!(matches!(store.txn(nameless).await, Err(Error::InvalidKey { size: 0, .. })));
}

#[tokio::test]
async fn a_list_continues_at_the_revision_it_began_with() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for i in 0..10 {
        put(&store, &format!("k{i}"), "old").await;
    }
    let first = store.range(RangeRequest::prefix("k").limit(4)).await.unwrap();
    assert!(first.more);
    put(&store, "k5", "new").await;
    delete(&store, "k6").await;
    put(&store, "k99", "new").await;
    let request = RangeRequest::prefix("k").after(&first.kvs[3].key).at(first.revision);
    let rest = store.range(request.clone()).await.unwrap();
    assert_eq!(keys(&rest), ["k4", "k5", "k6", "k7", "k8", "k9"]);
    assert!(rest.kvs.iter().all(|kv| &kv.value[..] == b"old"));
    assert_eq!(store.count(request).await.unwrap().count, 6);
    assert_eq!(store.count(RangeRequest::prefix("k")).await.unwrap().count, 10);
    let future = RangeRequest::prefix("k").at(999);
    assert!(matches!(store.range(future).await, Err(Error::FutureRevision { requested: 999, .. })));
}

#[tokio::test]
async fn a_watch_replays_history_then_goes_on_live() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    put(&store, "p/a", "1").await;
    put(&store, "q/a", "1").await;
    put(&store, "p/a", "2").await;
    let mut watch = store.watch(WatchRequest::prefix("p/", 2)).await.unwrap();
    let mut from_now = store.watch(WatchRequest::prefix("p/", 0)).await.unwrap();
    delete(&store, "p/a").await;
    let txn = Txn { operations: vec![Operation::put("p/b", "1"), Operation::put("q/b", "1")], ..Txn::default() };
    store.txn(txn).await.unwrap();
    for expected in ["2 put p/a=1", "4 put p/a=2 (was 1)", "5 delete p/a (was 2)", "6 put p/b=1"] {
        assert_eq!(show(&next(&mut watch).await), expected);
    }
    assert_eq!(show(&next(&mut from_now).await), "5 delete p/a (was 2)");
}

#[tokio::test]
async fn progress_comes_after_everything_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watch = store.watch(WatchRequest::prefix("p/", 0).with_progress()).await.unwrap();
    put(&store, "p/a", "1").await;
    put(&store, "q/a", "1").await;
    store.request_progress().await.unwrap();
    store.request_progress().await.unwrap();
    assert_eq!(show(&next(&mut watch).await), "2 put p/a=1");
    assert_eq!(show(&next(&mut watch).await), "3 progress");
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_told_so_and_costs_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { watch_buffer_changes: 8, ..Options::default() };
    let store = Embedded::open(dir.path(), options).unwrap();
    let mut slow = store.watch(WatchRequest::prefix("", 0)).await.unwrap();
    for i in 0..9 {
        put(&store, &format!("k{i}"), "x").await;
    }
    let end = slow.next().await.unwrap();
    assert!(matches!(end, Err(Error::SlowWatcher { buffered: 8, .. })), "{end:?}");
    assert!(slow.next().await.is_none());
    assert_eq!(store.status().await.unwrap().watchers, 0);
    // Resuming from what was seen loses nothing.
    let mut again = store.watch(WatchRequest::prefix("", 2)).await.unwrap();
    assert_eq!(show(&next(&mut again).await), "2 put k0=x");
}

#[tokio::test]
async fn compaction_forgets_the_past_and_keeps_the_present() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for i in 0..1500 {
        put(&store, "a", &i.to_string()).await;
    }
    put(&store, "gone", "x").await;
    delete(&store, "gone").await;
    let at = store.revision().await.unwrap();
    let state = store.range(RangeRequest::prefix("")).await.unwrap();
    put(&store, "a", "last").await;
    store.compact(at).await.unwrap();
    assert!(matches!(store.compact(at).await, Err(Error::Compacted { .. })));
    assert!(matches!(store.compact(at + 9).await, Err(Error::FutureRevision { .. })));
    assert_eq!(store.range(RangeRequest::prefix("").at(at)).await.unwrap(), state);
    assert!(matches!(store.range(RangeRequest::prefix("").at(at - 1)).await, Err(Error::Compacted { .. })));
    assert!(matches!(store.watch(WatchRequest::prefix("", at)).await, Err(Error::Compacted { .. })));
    let mut watch = store.watch(WatchRequest::prefix("", at + 1)).await.unwrap();
    assert_eq!(show(&next(&mut watch).await), format!("{} put a=last (was 1499)", at + 1));
    // Across a restart.
    store.close().await.unwrap();
    let store = open(dir.path());
    assert_eq!(store.status().await.unwrap().compacted, at);
    assert_eq!(store.revision().await.unwrap(), at + 1);
    assert_eq!(store.range(RangeRequest::prefix("").at(at)).await.unwrap(), state);
}

#[tokio::test]
async fn keys_expire_with_an_event_of_their_own_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let second = Some(Duration::from_millis(300));
    store.txn(Txn::create("short", "1", second)).await.unwrap();
    store.txn(Txn::create("renewed", "1", second)).await.unwrap();
    store.txn(Txn::create("kept", "1", second)).await.unwrap();
    put(&store, "kept", "2").await;
    let ttl = Some(Duration::from_secs(3600));
    let renewed = store.get(b"renewed", 0).await.unwrap().kv.unwrap();
    store.txn(Txn::update("renewed", "2", renewed.mod_revision, ttl)).await.unwrap();
    let revision = store.revision().await.unwrap();
    store.close().await.unwrap();
    let store = open(dir.path());
    let mut watch = store.watch(WatchRequest::prefix("", revision + 1)).await.unwrap();
    assert_eq!(show(&next(&mut watch).await), format!("{} delete short (was 1)", revision + 1));
    assert_eq!(keys(&store.range(RangeRequest::prefix("")).await.unwrap()), ["kept", "renewed"]);
    let (a, b) = (Txn::create("e1", "", second), Txn::create("e2", "", second));
    store.txn(a).await.unwrap();
    store.txn(b).await.unwrap();
    for expected in ["4 put e1=", "5 put e2=", "6 delete e1 (was )", "7 delete e2 (was )"] {
        let (offset, text) = expected.split_once(' ').unwrap();
        let at = revision - 2 + offset.parse::<u64>().unwrap();
        assert_eq!(show(&next(&mut watch).await), format!("{at} {text}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_share_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()));
    let writers: Vec<_> = (0..32)
        .map(|w| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..10 {
                    put(&store, &format!("w{w}/{i}"), "x").await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let status = store.status().await.unwrap();
    assert_eq!((status.revision, status.transactions), (321, 320));
    assert!(status.commits < 200, "{} commits for 320 transactions", status.commits);
}

#[tokio::test]
async fn closing_ends_watches_and_refuses_work() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut watch = store.watch(WatchRequest::prefix("", 0)).await.unwrap();
    put(&store, "a", "1").await;
    assert!(matches!(Embedded::open(dir.path(), Options::default()), Err(Error::InUse { .. })));
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert_eq!(show(&next(&mut watch).await), "2 put a=1");
    assert!(matches!(watch.next().await, Some(Err(Error::Closed))));
    assert!(matches!(store.txn(Txn::create("b", "", None)).await, Err(Error::Closed)));
    assert!(matches!(store.get(b"a", 0).await, Err(Error::Closed)));
    let again = open(dir.path());
    assert_eq!(again.revision().await.unwrap(), 2);
}

#[tokio::test]
async fn a_file_that_is_not_a_store_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(strake_store::embedded::FILE_NAME);
    std::fs::write(&path, vec![0x5a; 65_536]).unwrap();
    let error = Embedded::open(dir.path(), Options::default()).err().expect("garbage was opened");
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    assert!(error.to_string().contains("store.redb"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_changed_bytes_gives_errors_that_name_it_and_no_crash() {
    use rand::{Rng, SeedableRng};
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    for i in 0..100 {
        put(&store, &format!("k{i:03}"), &"x".repeat(500)).await;
    }
    store.close().await.unwrap();
    let path = dir.path().join(strake_store::embedded::FILE_NAME);
    let good = std::fs::read(&path).unwrap();
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let mut refused = 0;
    for _ in 0..40 {
        let mut bad = good.clone();
        // Whole sectors, as disks lose them.
        for _ in 0..random.random_range(1..20) {
            let at = random.random_range(0..bad.len() / 512) * 512;
            random.fill(&mut bad[at..at + 512]);
        }
        std::fs::write(&path, &bad).unwrap();
        let outcome = async {
            let store = Embedded::open(dir.path(), Options::default())?;
            let read = store.range(RangeRequest::prefix("")).await.map(|_| ());
            let written = store.txn(Txn::create("new", "x", None)).await.map(|_| ());
            store.close().await?;
            read.and(written)
        };
        if let Err(error) = outcome.await {
            refused += 1;
            assert!(error.to_string().contains("store.redb"), "{error:?}");
        }
    }
    assert!(refused > 0, "nothing was noticed");
}
