//! Acknowledged means on disk: a writer is killed with SIGKILL at a hundred random points, and after each the store is
//! opened again and has every acknowledged write, no half transaction, and revisions that only grow.
//!
//! This program runs itself as the writer; it has no test harness because the writer must be a process of its own.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod listing;

use futures::StreamExt;
use rand::Rng;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};
use strake_store::{
    Backend, Operation, RangeRequest, Txn, TxnOutcome, WatchItem, WatchRequest,
    embedded::{Embedded, Options},
};

const DIR: &str = "STRAKE_STORE_CRASH_DIR";
const KILLS: usize = 100;
const WRITERS: usize = 4;

fn main() {
    if listing::answered("crash") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(dir) = std::env::var_os(DIR) {
        runtime.block_on(write_until_killed(Path::new(&dir)));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acked = BTreeMap::new();
    let (mut writes, mut before_open) = (0, 0);
    for kill in 0..KILLS {
        let seen = run_and_kill(dir.path());
        before_open += usize::from(seen.is_empty());
        writes += seen.len();
        for (writer, number, revision) in seen {
            acked.insert(writer, (number, revision));
        }
        runtime.block_on(check(dir.path(), &acked, kill));
    }
    assert!(writes > KILLS, "the writers did hardly anything: {writes} writes in {KILLS} lives");
    println!("test crash: ok, {writes} acknowledged writes, {KILLS} kills ({before_open} before the first write)");
}

/// Each writer counts up, writing its number under two keys in one transaction and saying so after the answer.
async fn write_until_killed(dir: &Path) {
    let store = Arc::new(Embedded::open(dir, Options::default()).unwrap());
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let key = |part: &str| format!("w{writer}/{part}");
            let last = store.get(key("a").as_bytes(), 0).await.unwrap().kv;
            let mut number = last.map_or(0, |kv| String::from_utf8(kv.value.to_vec()).unwrap().parse::<u64>().unwrap());
            loop {
                number += 1;
                let text = number.to_string();
                // The third key comes and goes: deletions must be as whole as writes.
                let third = match number % 2 {
                    0 => Operation::delete(key("odd")),
                    _ => Operation::put(key("odd"), vec![b'x'; 3000]),
                };
                let operations =
                    vec![Operation::put(key("a"), text.clone()), Operation::put(key("b"), text.clone()), third];
                let outcome = store.txn(Txn { compare: vec![], operations }).await.unwrap();
                let TxnOutcome::Committed { revision, .. } = outcome else { panic!("{outcome:?}") };
                // One write call a line: a line is whole or absent.
                std::io::stdout().write_all(format!("{writer} {number} {revision}\n").as_bytes()).unwrap();
                if number % 50 == 0 {
                    // May lose against another writer's.
                    let _ = store.compact(revision - 20).await;
                }
            }
        }));
    }
    futures::future::join_all(tasks).await;
}

/// The writers' acknowledgements until they were killed.
fn run_and_kill(dir: &Path) -> Vec<(usize, u64, u64)> {
    let mut child =
        Command::new(std::env::current_exe().unwrap()).env(DIR, dir).stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let lines = BufReader::new(stdout).lines().map(|line| line.unwrap());
        lines
            .map(|line| {
                let words: Vec<u64> = line.split(' ').map(|word| word.parse().unwrap()).collect();
                (words[0] as usize, words[1], words[2])
            })
            .collect()
    });
    std::thread::sleep(Duration::from_micros(rand::rng().random_range(2_000..120_000)));
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

async fn check(dir: &Path, acked: &BTreeMap<usize, (u64, u64)>, kill: usize) {
    let store = Embedded::open(dir, Options::default()).unwrap();
    let current = store.revision().await.unwrap();
    for (writer, (number, revision)) in acked {
        let value = async |part: &str| {
            let kv = store.get(format!("w{writer}/{part}").as_bytes(), 0).await.unwrap().kv;
            kv.map(|kv| (String::from_utf8(kv.value.to_vec()).unwrap(), kv.mod_revision))
        };
        let (a, b, odd) = (value("a").await.unwrap(), value("b").await.unwrap(), value("odd").await);
        assert_eq!(a, b, "kill {kill}: writer {writer} shows half a transaction");
        let found: u64 = a.0.parse().unwrap();
        assert!(found >= *number, "kill {kill}: writer {writer} was told {number} is on disk and finds {found}");
        assert!(a.1 >= *revision && current >= *revision, "kill {kill}: revisions went back");
        assert_eq!(odd.is_some(), found % 2 == 1, "kill {kill}: writer {writer} shows half a transaction");
    }
    // What is left of history is whole, too, and ends with the present.
    let compacted = store.status().await.unwrap().compacted;
    let mut watch = store.watch(WatchRequest::prefix("", compacted + 1)).await.unwrap();
    let mut at = compacted;
    while at.max(1) < current {
        let WatchItem::Events { revision, events } = watch.next().await.unwrap().unwrap() else { panic!("progress") };
        assert!(revision > at && revision <= current, "kill {kill}: {revision} after {at}");
        assert!(events.len() >= 2, "kill {kill}: half a transaction in history: {events:?}");
        at = revision;
    }
    let all = store.range(RangeRequest::prefix("")).await.unwrap();
    assert!(all.kvs.iter().all(|kv| kv.mod_revision <= current));
    store.close().await.unwrap();
}
