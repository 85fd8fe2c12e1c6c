//! Any sequence of writes, deletions, transactions, compactions and restarts reads as it would from a map of all
//! states: at the present, at every revision not compacted, and as a watch's history.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use futures::StreamExt;
use proptest::prelude::*;
use std::collections::BTreeMap;
use strake_store::{
    Backend, Compare, Error, EventKind, Operation, RangeRequest, Txn, TxnOutcome, WatchItem, WatchRequest,
    embedded::{Embedded, Options},
};

/// Key to value, create revision, mod revision, version.
type State = BTreeMap<u8, (u8, u64, u64, u64)>;

#[derive(Clone, Debug)]
enum Step {
    /// Operations on distinct keys, and whether the first key is compared with what is (or is not) there.
    Txn {
        operations: BTreeMap<u8, Option<u8>>,
        right: bool,
    },
    Compact {
        back: u64,
    },
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    let operations = prop::collection::btree_map(0u8..6, prop::option::of(any::<u8>()), 1..4);
    prop_oneof![
        12 => (operations, prop::bool::weighted(0.8)).prop_map(|(operations, right)| Step::Txn { operations, right }),
        1 => (0u64..6).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Reopen),
    ]
}

fn name(key: u8) -> String {
    format!("{}/{key}", if key < 3 { "low" } else { "high" })
}

/// All states there were, by revision.
struct Model {
    states: Vec<State>,
    compacted: u64,
}

impl Model {
    fn current(&self) -> u64 {
        self.states.len() as u64
    }

    fn at(&self, revision: u64) -> &State {
        &self.states[revision as usize - 1]
    }

    fn txn(&mut self, operations: &BTreeMap<u8, Option<u8>>) {
        let mut state = self.at(self.current()).clone();
        let revision = self.current() + 1;
        let mut changed = false;
        for (key, value) in operations {
            match value {
                Some(value) => {
                    let (created, version) = state.get(key).map_or((revision, 1), |old| (old.1, old.3 + 1));
                    state.insert(*key, (*value, created, revision, version));
                    changed = true;
                }
                None => changed |= state.remove(key).is_some(),
            }
        }
        if changed {
            self.states.push(state);
        }
    }

    /// `+key=value` and `-key` of one revision under a prefix, with what was there before.
    fn changes(&self, revision: u64, prefix: &str) -> Vec<String> {
        let (before, after) = (self.at(revision - 1), self.at(revision));
        let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        keys.into_iter()
            .filter(|key| name(**key).starts_with(prefix) && before.get(key) != after.get(key))
            .map(|key| {
                let was = before.get(key).map_or(String::new(), |old| format!(" was {}", old.0));
                match after.get(key) {
                    Some(new) => format!("+{}={}{was}", name(*key), new.0),
                    None => format!("-{}{was}", name(*key)),
                }
            })
            .collect()
    }
}

async fn compare(store: &Embedded, model: &Model) {
    assert_eq!(store.revision().await.unwrap(), model.current());
    for revision in model.compacted.max(1)..=model.current() {
        let found = store.range(RangeRequest::prefix("").at(revision)).await.unwrap();
        let mut expected: Vec<_> = model
            .at(revision)
            .iter()
            .map(|(key, (value, created, modified, version))| (name(*key), *value, *created, *modified, *version))
            .collect();
        expected.sort();
        let found: Vec<_> = found
            .kvs
            .iter()
            .map(|kv| {
                let key = String::from_utf8(kv.key.to_vec()).unwrap();
                (key, kv.value[0], kv.create_revision, kv.mod_revision, kv.version)
            })
            .collect();
        assert_eq!(found, expected, "at revision {revision}");
    }
    if model.compacted > 1 {
        let gone = store.range(RangeRequest::prefix("").at(model.compacted - 1)).await;
        assert!(matches!(gone, Err(Error::Compacted { .. })), "{gone:?}");
    }
    for prefix in ["", "low/", "high/"] {
        let from = model.compacted + 1;
        let mut watch = store.watch(WatchRequest::prefix(prefix, from).with_progress()).await.unwrap();
        store.request_progress().await.unwrap();
        for revision in from.max(2)..=model.current() {
            let expected = model.changes(revision, prefix);
            if expected.is_empty() {
                continue;
            }
            let WatchItem::Events { revision: at, events } = watch.next().await.unwrap().unwrap() else {
                panic!("progress before revision {revision}")
            };
            let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
            let mut found: Vec<_> = events
                .iter()
                .map(|e| {
                    let was = e.previous.as_ref().map_or(String::new(), |kv| format!(" was {}", kv.value[0]));
                    match e.kind {
                        EventKind::Put => format!("+{}={}{was}", text(&e.kv.key), e.kv.value[0]),
                        EventKind::Delete => format!("-{}{was}", text(&e.kv.key)),
                    }
                })
                .collect();
            found.sort();
            let mut expected = expected;
            expected.sort();
            assert_eq!((at, found), (revision, expected), "watch of {prefix:?}");
        }
        let end = watch.next().await.unwrap().unwrap();
        assert_eq!(end, WatchItem::Progress { revision: model.current() });
    }
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Embedded::open(dir.path(), Options::default()).unwrap();
    let mut model = Model { states: vec![State::new()], compacted: 0 };
    for step in steps {
        match step {
            Step::Txn { operations, right } => {
                let key = *operations.keys().next().unwrap();
                let there = model.at(model.current()).get(&key).map_or(0, |found| found.2);
                let compare = Compare { key: name(key).into(), mod_revision: if right { there } else { there + 1 } };
                let operation = |(key, value): (&u8, &Option<u8>)| match value {
                    Some(value) => Operation::put(name(*key), vec![*value]),
                    None => Operation::delete(name(*key)),
                };
                let txn = Txn { compare: vec![compare], operations: operations.iter().map(operation).collect() };
                match store.txn(txn).await.unwrap() {
                    TxnOutcome::Committed { revision, .. } => {
                        assert!(right);
                        model.txn(&operations);
                        assert_eq!(revision, model.current());
                    }
                    TxnOutcome::Conflict { current, .. } => {
                        assert!(!right);
                        assert_eq!(current[0].as_ref().map_or(0, |kv| kv.mod_revision), there);
                    }
                }
            }
            Step::Compact { back } => {
                let at = model.current().saturating_sub(back);
                match store.compact(at).await {
                    Ok(()) => model.compacted = at,
                    Err(Error::Compacted { compacted, .. }) => {
                        assert!(at <= model.compacted && compacted == model.compacted);
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Reopen => {
                store.close().await.unwrap();
                store = Embedded::open(dir.path(), Options::default()).unwrap();
            }
        }
    }
    compare(&store, &model).await;
    store.close().await.unwrap();
    let store = Embedded::open(dir.path(), Options::default()).unwrap();
    compare(&store, &model).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn it_reads_as_a_map_of_all_states(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
