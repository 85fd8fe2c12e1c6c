//! Who is next: Pods waiting for a node, by priority and age; those that failed wait for their backoff and for
//! something to change that could help them.
//!
//! ```text
//!            add                    pop
//!   gated --> active (priority, age) --> in a cycle --> bound
//!               ^         ^                  | nowhere
//!   backoff ----+         +-- event -- unschedulable (which plugins refused)
//! ```
//! Values in, values out: the clock is an argument.

use crate::filter::Plugin;
use crate::podinfo::PodInfo;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

const INITIAL_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// However little changes, an unschedulable Pod is looked at again after this long.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What happened that may help a waiting Pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A node appeared, or changed in something filters read.
    Node,
    /// A Pod left a node.
    PodGone,
    /// A Pod got a node, or a placed Pod's labels changed.
    PodPlaced,
    /// A namespace's labels changed.
    Namespace,
}

impl Event {
    fn helps(self, plugin: Plugin) -> bool {
        use Plugin::{InterPodAffinity, NodePorts, NodeResourcesFit, PodTopologySpread};
        match self {
            Event::Node => true,
            Event::PodGone => {
                matches!(plugin, NodeResourcesFit | NodePorts | InterPodAffinity | PodTopologySpread)
            }
            Event::PodPlaced => matches!(plugin, InterPodAffinity | PodTopologySpread),
            Event::Namespace => plugin == InterPodAffinity,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Where {
    Gated,
    Active,
    Backoff(Instant),
    /// Waiting since, for these.
    Waiting(Instant, BTreeSet<Plugin>),
    Cycle,
}

struct Entry {
    pod: Arc<PodInfo>,
    at: Where,
    attempts: u32,
    /// When its last attempt ended: its backoff counts from there.
    tried: Option<Instant>,
    arrived: u64,
    /// Void entries of the heaps carry an older one.
    ticket: u64,
}

/// The queue.
#[derive(Default)]
pub struct Queue {
    pods: HashMap<String, Entry>,
    active: BinaryHeap<(i32, Reverse<u64>, u64, String)>,
    backoff: BinaryHeap<Reverse<(Instant, u64, String)>>,
    clock: u64,
}

fn is_gated(pod: &PodInfo) -> bool {
    pod.pod.spec.as_ref().and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty())
}

impl Queue {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A Pod without a node appeared or changed. A change puts a waiting Pod back to work.
    pub fn set(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let uid = pod.uid.clone();
        let gated = is_gated(&pod);
        match self.pods.get_mut(&uid) {
            None => {
                let arrived = self.tick();
                let entry = Entry { pod, at: Where::Gated, attempts: 0, tried: None, arrived, ticket: 0 };
                self.pods.insert(uid.clone(), entry);
                if !gated {
                    self.activate(&uid);
                }
            }
            Some(e) => {
                // Status writes (our own among them) change nothing that matters here.
                let same = e.pod.pod.spec == pod.pod.spec && e.pod.pod.metadata.labels == pod.pod.metadata.labels;
                e.pod = pod;
                match e.at {
                    _ if gated => e.at = Where::Gated,
                    Where::Gated => self.activate(&uid),
                    Where::Waiting(..) if !same => self.wake(&uid, now),
                    _ => {}
                }
            }
        }
    }

    /// A Pod got a node or went.
    pub fn remove(&mut self, uid: &str) {
        self.pods.remove(uid);
    }

    /// The Pod, if it waits for a node.
    pub fn get(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid).map(|e| &e.pod)
    }

    fn activate(&mut self, uid: &str) {
        let ticket = self.tick();
        if let Some(e) = self.pods.get_mut(uid) {
            e.at = Where::Active;
            e.ticket = ticket;
            self.active.push((e.pod.priority, Reverse(e.arrived), ticket, uid.to_string()));
        }
    }

    /// To work now, or when its backoff is over.
    fn wake(&mut self, uid: &str, now: Instant) {
        let ticket = self.tick();
        let Some(e) = self.pods.get_mut(uid) else { return };
        let shift = e.attempts.saturating_sub(1).min(16);
        let pause = INITIAL_BACKOFF.saturating_mul(1 << shift).min(MAX_BACKOFF);
        match e.tried.map(|t| t + pause) {
            Some(ready) if ready > now => {
                e.at = Where::Backoff(ready);
                e.ticket = ticket;
                self.backoff.push(Reverse((ready, ticket, uid.to_string())));
            }
            _ => self.activate(uid),
        }
    }

    /// The most important Pod that is ready. It is in a cycle until [`Queue::failed`], [`Queue::remove`] or
    /// [`Queue::retry`].
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        while let Some(Reverse((ready, _, _))) = self.backoff.peek() {
            if *ready > now {
                break;
            }
            if let Some(Reverse((_, ticket, uid))) = self.backoff.pop()
                && self.pods.get(&uid).is_some_and(|e| e.ticket == ticket && matches!(e.at, Where::Backoff(_)))
            {
                self.activate(&uid);
            }
        }
        while let Some((_, _, ticket, uid)) = self.active.pop() {
            if let Some(e) = self.pods.get_mut(&uid)
                && e.ticket == ticket
                && e.at == Where::Active
            {
                e.at = Where::Cycle;
                e.attempts += 1;
                return Some(e.pod.clone());
            }
        }
        None
    }

    /// No node was found: wait until something happens that these plugins care about.
    pub fn failed(&mut self, uid: &str, plugins: BTreeSet<Plugin>, now: Instant) {
        if let Some(e) = self.pods.get_mut(uid) {
            e.at = Where::Waiting(now, plugins);
            e.tried = Some(now);
        }
    }

    /// Something outside the decision failed: again after the backoff.
    pub fn retry(&mut self, uid: &str, now: Instant) {
        if let Some(e) = self.pods.get_mut(uid) {
            e.tried = Some(now);
            self.wake(uid, now);
        }
    }

    /// Something happened: wakes the Pods it may help. Returns whether there are any.
    pub fn happened(&mut self, event: Event, now: Instant) -> bool {
        let woken: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, e)| match &e.at {
                // No plugin refused: there were no nodes at all.
                Where::Waiting(_, plugins) => {
                    plugins.iter().any(|p| event.helps(*p)) || (plugins.is_empty() && event == Event::Node)
                }
                _ => false,
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in &woken {
            self.wake(uid, now);
        }
        !woken.is_empty()
    }

    /// Wakes Pods that have waited for the longest time allowed.
    pub fn overdue(&mut self, now: Instant) {
        let late: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, e)| matches!(&e.at, Where::Waiting(since, _) if now >= *since + LONGEST_WAIT))
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in late {
            self.wake(&uid, now);
        }
    }

    /// When to look again if nothing happens; None when nobody waits.
    pub fn next_deadline(&self) -> Option<Instant> {
        let backoff = self.backoff.peek().map(|Reverse((t, _, _))| *t);
        let waiting = self.pods.values().filter_map(|e| match &e.at {
            Where::Waiting(since, _) => Some(*since + LONGEST_WAIT),
            _ => None,
        });
        backoff.into_iter().chain(waiting).min()
    }

    /// How many Pods have no node.
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether every Pod has one.
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }
}
