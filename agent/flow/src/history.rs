//! The last flows, and those to come.
//!
//! ```text
//!   reader task ── push ──► [ ring of the last N ] ──► a new reader's beginning
//!                     └───► broadcast channel ───────► every following reader, each told how many it missed
//! ```
//!
//! May not know: the ring buffer, gRPC.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::proto::{Filter, Flow, Lost};

/// One element of the stream.
#[derive(Clone, Debug)]
pub enum Item {
    Flow(Arc<Flow>),
    /// Events that the kernel could not store.
    Lost(Lost),
}

/// Bounded memory of flows plus a broadcast of new ones.
pub struct History {
    // Sending happens under this lock, so that a reader that copies the memory and subscribes under it misses nothing
    // and sees nothing twice.
    remembered: Mutex<VecDeque<Item>>,
    capacity: usize,
    sender: broadcast::Sender<Item>,
}

impl History {
    /// Remembers the last `capacity` items; a follower may lag `lag` items behind before it loses some.
    pub fn new(capacity: usize, lag: usize) -> Self {
        let (sender, _) = broadcast::channel(lag.max(1));
        Self { remembered: Mutex::new(VecDeque::new()), capacity: capacity.max(1), sender }
    }

    /// Adds items in order.
    pub fn push(&self, items: impl IntoIterator<Item = Item>) {
        let mut remembered = self.remembered.lock();
        for item in items {
            if remembered.len() == self.capacity {
                remembered.pop_front();
            }
            remembered.push_back(item.clone());
            // No follower is no error.
            let _ = self.sender.send(item);
        }
    }

    /// The remembered items that match (the newest `last` of them, or all when 0), and a receiver of what comes after.
    /// Loss is always shown when it lies between shown flows.
    pub fn read(&self, filter: &Filter, last: usize) -> (Vec<Item>, broadcast::Receiver<Item>) {
        let remembered = self.remembered.lock();
        let receiver = self.sender.subscribe();
        let wanted = if last == 0 { usize::MAX } else { last };
        let mut flows = 0;
        let mut items = Vec::new();
        for item in remembered.iter().rev() {
            match item {
                Item::Flow(flow) if crate::filter::matches(filter, flow) => {
                    if flows == wanted {
                        break;
                    }
                    flows += 1;
                }
                Item::Flow(_) => continue,
                Item::Lost(_) => {}
            }
            items.push(item.clone());
        }
        items.reverse();
        (items, receiver)
    }

    /// A receiver of what comes from now on.
    pub fn follow(&self) -> broadcast::Receiver<Item> {
        self.sender.subscribe()
    }

    /// How many items are remembered.
    pub fn len(&self) -> usize {
        self.remembered.lock().len()
    }

    /// Whether nothing is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(port: u32) -> Item {
        Item::Flow(Arc::new(Flow { frontend_port: port, ..Flow::default() }))
    }

    fn ports(items: &[Item]) -> Vec<u32> {
        items.iter().map(|item| if let Item::Flow(flow) = item { flow.frontend_port } else { 0 }).collect()
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_newest() {
        let history = History::new(3, 16);
        history.push((1..=5).map(flow));
        assert_eq!(ports(&history.read(&Filter::default(), 0).0), [3, 4, 5]);
        assert_eq!(ports(&history.read(&Filter::default(), 2).0), [4, 5]);
    }

    #[test]
    fn last_counts_after_the_filter_and_loss_stays_in_its_place() {
        let history = History::new(100, 16);
        history.push([flow(80), flow(81), Item::Lost(Lost { count: 7, ..Lost::default() }), flow(80), flow(82)]);
        let filter = Filter { port: 80, ..Filter::default() };
        assert_eq!(ports(&history.read(&filter, 0).0), [80, 0, 80]);
        assert_eq!(ports(&history.read(&filter, 1).0), [0, 80]);
    }

    #[tokio::test]
    async fn a_follower_misses_nothing_between_memory_and_stream() {
        let history = History::new(8, 16);
        history.push([flow(1)]);
        let (past, mut future) = history.read(&Filter::default(), 0);
        history.push([flow(2)]);
        assert_eq!(ports(&past), [1]);
        assert_eq!(ports(&[future.recv().await.unwrap()]), [2]);
    }
}
