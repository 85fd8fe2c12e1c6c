//! A work queue of keys: each key is worked on by one worker at a time, added keys coalesce, failures
//! back off per key, and a key can be due at a later instant. Waiting costs nothing.

use super::Result;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// First delay after a failure; doubled by each further one.
const BASE_DELAY: Duration = Duration::from_millis(5);
/// Longest delay between attempts at a failing key.
const MAX_DELAY: Duration = Duration::from_secs(300);

/// What a successful attempt asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing until something changes.
    Done,
    /// Look again after this long, changed or not.
    After(Duration),
}

impl From<Option<Duration>> for Outcome {
    fn from(d: Option<Duration>) -> Self {
        d.map_or(Outcome::Done, Outcome::After)
    }
}

struct Inner<T> {
    ready: VecDeque<T>,
    /// In `ready`, or to be put there when its worker finishes.
    dirty: HashSet<T>,
    working: HashSet<T>,
    delayed: BinaryHeap<Reverse<(Instant, T)>>,
    /// The earliest instant each delayed key is due; later heap entries of that key are void.
    due: HashMap<T, Instant>,
    failures: HashMap<T, u32>,
}

/// The queue. Share it behind an `Arc`.
pub struct WorkQueue<T> {
    inner: Mutex<Inner<T>>,
    wake: Notify,
}

impl<T: Clone + Eq + Hash + Ord> WorkQueue<T> {
    /// An empty queue.
    pub fn new() -> Arc<Self> {
        Arc::new(WorkQueue {
            inner: Mutex::new(Inner {
                ready: VecDeque::new(),
                dirty: HashSet::new(),
                working: HashSet::new(),
                delayed: BinaryHeap::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
            }),
            wake: Notify::new(),
        })
    }

    /// Asks for `key` to be worked on as soon as possible.
    pub fn add(&self, key: T) {
        self.inner.lock().push(key);
        self.wake.notify_one();
    }

    /// Asks for `key` to be worked on after `delay`; the earliest of several such asks counts.
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + delay;
        self.inner.lock().delay(key, at);
        self.wake.notify_one();
    }

    /// Asks for `key` again after its own backoff, which doubles each time.
    pub fn retry(&self, key: T) {
        let delay = self.inner.lock().failed(&key);
        self.add_after(key, delay);
    }

    /// Forgets past failures of `key`.
    pub fn forget(&self, key: &T) {
        self.inner.lock().failures.remove(key);
    }

    /// The next key. The caller owns it until [`WorkQueue::done`].
    pub async fn next(&self) -> T {
        loop {
            let deadline = {
                let mut inner = self.inner.lock();
                inner.promote(Instant::now());
                if let Some(key) = inner.ready.pop_front() {
                    inner.dirty.remove(&key);
                    inner.working.insert(key.clone());
                    if !inner.ready.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                inner.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match deadline {
                Some(at) => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    /// Gives `key` back; if it was added meanwhile it is ready again.
    pub fn done(&self, key: &T) {
        let again = {
            let mut inner = self.inner.lock();
            inner.working.remove(key);
            let again = inner.dirty.contains(key);
            if again {
                inner.ready.push_back(key.clone());
            }
            again
        };
        if again {
            self.wake.notify_one();
        }
    }

    /// How many keys are ready now.
    pub fn len(&self) -> usize {
        self.inner.lock().ready.len()
    }

    /// Whether no key is ready now.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Clone + Eq + Hash + Ord> Inner<T> {
    fn push(&mut self, key: T) {
        if self.dirty.insert(key.clone()) && !self.working.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn delay(&mut self, key: T, at: Instant) {
        if self.due.get(&key).is_some_and(|d| *d <= at) {
            return;
        }
        self.due.insert(key.clone(), at);
        self.delayed.push(Reverse((at, key)));
    }

    /// Counts a failure and says how long to wait.
    fn failed(&mut self, key: &T) -> Duration {
        let n = self.failures.entry(key.clone()).or_insert(0);
        let delay = BASE_DELAY.saturating_mul(1u32.checked_shl(*n).unwrap_or(u32::MAX)).min(MAX_DELAY);
        *n += 1;
        delay
    }

    fn promote(&mut self, now: Instant) {
        while let Some(Reverse((at, _))) = self.delayed.peek() {
            if *at > now {
                return;
            }
            if let Some(Reverse((at, key))) = self.delayed.pop()
                && self.due.get(&key) == Some(&at)
            {
                self.due.remove(&key);
                self.push(key);
            }
        }
    }
}

/// Runs `workers` tasks over `queue` until cancelled. A failed attempt is logged and retried with backoff.
pub async fn run_workers<T, F, Fut>(
    controller: &'static str,
    queue: Arc<WorkQueue<T>>,
    workers: usize,
    cancel: CancellationToken,
    sync: F,
) where
    T: Clone + Eq + Hash + Ord + Debug + Send + Sync + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Outcome>> + Send + 'static,
{
    let sync = Arc::new(sync);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..workers {
        let (queue, cancel, sync) = (queue.clone(), cancel.clone(), sync.clone());
        tasks.spawn(async move {
            loop {
                // Cancelled may mean that the caches never were complete: then nothing is to be taken for missing.
                let key = tokio::select! {
                    biased;
                    () = cancel.cancelled() => return,
                    key = queue.next() => key,
                };
                match sync(key.clone()).await {
                    Ok(outcome) => {
                        queue.forget(&key);
                        if let Outcome::After(delay) = outcome {
                            queue.add_after(key.clone(), delay);
                        }
                    }
                    Err(e) => {
                        // Somebody else wrote first: part of life.
                        if e.is_conflict() {
                            tracing::debug!(controller, key = ?key, error = %e, "conflict; retrying");
                        } else {
                            tracing::info!(controller, key = ?key, error = %e, "attempt failed; retrying with backoff");
                        }
                        queue.retry(key.clone());
                    }
                }
                queue.done(&key);
            }
        });
    }
    while let Some(finished) = tasks.join_next().await {
        if let Err(e) = finished {
            tracing::error!(controller, error = %e, "a worker panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_never_worked_on_twice_at_once_and_is_not_lost() {
        let q = WorkQueue::new();
        q.add("a");
        q.add("a");
        assert_eq!(q.next().await, "a");
        q.add("a");
        assert!(q.is_empty(), "a is being worked on");
        q.done(&"a");
        assert_eq!(q.next().await, "a");
        q.done(&"a");
        assert!(q.is_empty());
    }

    #[test]
    fn delayed_keys_come_in_the_order_they_are_due_and_once() {
        let q = WorkQueue::new();
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut inner = q.inner.lock();
        inner.delay("late", at(20));
        inner.delay("soon", at(5));
        inner.delay("late", at(10));
        inner.promote(at(4));
        assert!(inner.ready.is_empty());
        inner.promote(at(10));
        assert_eq!(inner.ready, ["soon", "late"]);
        inner.ready.clear();
        inner.dirty.clear();
        inner.promote(at(60));
        assert!(inner.ready.is_empty(), "the later ask for `late` was void");
    }

    #[test]
    fn failures_back_off_per_key_up_to_a_limit() {
        let q = WorkQueue::new();
        let mut inner = q.inner.lock();
        let delays: Vec<_> = (0..3).map(|_| inner.failed(&"a").as_millis()).collect();
        assert_eq!(delays, [5, 10, 20]);
        assert_eq!(inner.failed(&"b").as_millis(), 5);
        for _ in 0..40 {
            inner.failed(&"a");
        }
        assert_eq!(inner.failed(&"a"), MAX_DELAY);
        drop(inner);
        q.forget(&"a");
        assert_eq!(q.inner.lock().failed(&"a"), BASE_DELAY);
    }
}
