//! How full the map of connections is, whose they are, and how many rows gave way to newer ones.
//!
//! The map is never full for a new connection: the kernel takes the rows that were not used for longest. So rows of flows
//! that have ended stay until their room is needed, and what matters is how many are of flows that live. (Each CPU keeps up to
//! 128 empty rows at hand, so a full map is some rows short of its capacity.) What the kernel took
//! it does not tell; it is what was written, less what was given back and what is there.
//!
//! May not know: who asks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use strake_abi::config::Config as AbiConfig;
use strake_abi::conntrack::DIRECTION_REPLY;
use strake_abi::flow::Counter;
use strake_logic::flow::is_live;
use strake_state::World;

use super::now_ns;
use super::rows::{Family, Side, V4, V6};
use crate::maps::{MapsError, Rows};
use crate::sys::Cursor;

const STEP: usize = 4096;
/// Sources that are told of.
const TOP: usize = 5;
/// Sources that are told apart; the rows of others are those of nobody.
const SOURCES: usize = 65_536;
/// From here on it is said.
const NEARLY_FULL: u64 = 90;
/// Not more often than this.
const SAID_AGAIN: Duration = Duration::from_secs(600);

/// Who opened connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// `namespace/name` of a Pod, `node/NAME`, or the address.
    pub source: String,
    pub ip: IpAddr,
    /// Of flows that live.
    pub rows: u64,
    /// Of all rows there is room for.
    pub percent: u64,
}

/// The map of one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Room {
    pub map: &'static str,
    pub rows: u64,
    /// Of these, rows of flows that live.
    pub live: u64,
    pub capacity: u32,
    /// Live of capacity.
    pub percent: u64,
    /// Most rows first.
    pub top: Vec<Holder>,
}

impl Room {
    fn of<F: Family>(map: &Rows<F::Key, F::Row>, config: &AbiConfig, world: &World) -> Result<Self, MapsError> {
        let (mut rows, mut live) = (0, 0);
        let mut sources: HashMap<IpAddr, u64> = HashMap::new();
        let mut cursor = Cursor::new(STEP);
        while let Some(step) = map.step(&mut cursor)? {
            let now_s = (now_ns() / 1_000_000_000) as u32;
            rows += step.len() as u64;
            for (key, row) in step {
                let side = F::side(&key, &row);
                // A SYN is taken for the first of another flow where the one there is has ended.
                if !is_live(config, side.protocol, side.state, side.last_seen_s, now_s, SYN) {
                    continue;
                }
                live += 1;
                let source = opener(&side);
                if let Some(count) = sources.get_mut(&source) {
                    *count += 1;
                } else if sources.len() < SOURCES {
                    sources.insert(source, 1);
                }
            }
        }
        let capacity = map.capacity();
        let percent = |rows: u64| rows * 100 / u64::from(capacity.max(1));
        let mut top: Vec<(IpAddr, u64)> = sources.into_iter().collect();
        top.sort_by_key(|(ip, rows)| (std::cmp::Reverse(*rows), *ip));
        let holder = |(ip, rows): (IpAddr, u64)| Holder { source: name(ip, world), ip, rows, percent: percent(rows) };
        let top = top.into_iter().take(TOP).map(holder).collect();
        Ok(Self { map: F::MAP, rows, live, capacity, percent: percent(live), top })
    }

    /// The map of each family.
    pub(crate) fn both(
        v4: &Rows<<V4 as Family>::Key, <V4 as Family>::Row>,
        v6: &Rows<<V6 as Family>::Key, <V6 as Family>::Row>,
        config: &AbiConfig,
        world: &World,
    ) -> Result<[Self; 2], MapsError> {
        Ok([Self::of::<V4>(v4, config, world)?, Self::of::<V6>(v6, config, world)?])
    }

    /// What is to be said about it, if anything is.
    pub fn warning(&self) -> Option<String> {
        (self.percent >= NEARLY_FULL).then(|| {
            let top: Vec<String> =
                self.top.iter().map(|holder| format!("{} {} ({} %)", holder.source, holder.rows, holder.percent)).collect();
            format!(
                "{} % of its {} rows are of flows that live: those unused for longest give way to new ones; most are of {}. \
                 --conntrack-rows gives it more",
                self.percent,
                self.capacity,
                top.join(", "),
            )
        })
    }
}

const SYN: u8 = 2;

/// Who opened the flow: rows of answers say it by what the answers are translated to.
fn opener(side: &Side) -> IpAddr {
    if side.direction == DIRECTION_REPLY { side.to.dst.ip() } else { side.key.src.ip() }
}

fn name(ip: IpAddr, world: &World) -> String {
    match (world.pods_by_ip.get(&ip), world.node_by_ip(ip)) {
        (Some(pod), _) => pod.name.to_string(),
        (None, Some(node)) => format!("node/{}", node.name),
        (None, None) => ip.to_string(),
    }
}

/// Counts rows that the kernel took for newer ones, since the start of this agent.
#[derive(Debug, Default)]
pub(crate) struct Evictions {
    /// Of what was written, what is accounted for otherwise at the start.
    before: Option<u64>,
    /// As it was told last: it never becomes less.
    told: u64,
    /// Rows that were removed because somebody asked for it.
    pub removed: Arc<AtomicU64>,
}

impl Evictions {
    /// `early` are the programs' counters from before the rows were counted, `late` those from after: so that what happens
    /// meanwhile makes it less, not more.
    pub fn count(&mut self, early: &[u64], rows: u64, late: &[u64]) -> u64 {
        let of = |counters: &[u64], counter: Counter| counters.get(counter as usize).copied().unwrap_or(0);
        let written = 2 * of(early, Counter::ConntrackCreated);
        let removed = self.removed.load(Ordering::Relaxed);
        let gone = of(late, Counter::ConntrackReplaced) + of(late, Counter::ConntrackFreed) + removed;
        let taken = written.saturating_sub(gone + rows);
        let before = *self.before.get_or_insert(taken);
        self.told = self.told.max(taken.saturating_sub(before));
        self.told
    }
}

/// When a nearly full map was told of last.
#[derive(Debug, Default)]
pub(crate) struct Said(Option<Instant>);

impl Said {
    /// Whether it is time to say it (again).
    pub fn is_due(&mut self, now: Instant) -> bool {
        let due = self.0.is_none_or(|said| now.saturating_duration_since(said) >= SAID_AGAIN);
        if due {
            self.0 = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counters(created: u64, replaced: u64, freed: u64) -> Vec<u64> {
        let mut counters = vec![0; Counter::SLOTS as usize];
        counters[Counter::ConntrackCreated as usize] = created;
        counters[Counter::ConntrackReplaced as usize] = replaced;
        counters[Counter::ConntrackFreed as usize] = freed;
        counters
    }

    #[test]
    fn what_was_written_and_is_neither_there_nor_given_back_was_taken() {
        let mut evictions = Evictions::default();
        // What happened before this agent is not its to tell.
        let start = counters(100, 0, 0);
        assert_eq!(evictions.count(&start, 150, &start), 0);
        let full = counters(200, 10, 40);
        assert_eq!(evictions.count(&full, 250, &full), 50);
        // A count in the middle of traffic is never more than it was, nor less than it was told.
        assert_eq!(evictions.count(&full, 260, &full), 50);
        evictions.removed.store(100, Ordering::Relaxed);
        let more = counters(300, 10, 40);
        assert_eq!(evictions.count(&more, 250, &more), 150);
    }

    #[test]
    fn a_nearly_full_map_is_told_of_once_in_a_while_and_names_who_filled_it() {
        let mut said = Said::default();
        let now = Instant::now();
        assert!(said.is_due(now));
        assert!(!said.is_due(now + SAID_AGAIN / 2));
        assert!(said.is_due(now + SAID_AGAIN));
        let ip = "10.244.0.5".parse().unwrap();
        let top = vec![Holder { source: "default/scanner".into(), ip, rows: 880, percent: 88 }];
        let room = Room { map: "CONNTRACK", rows: 1000, live: 905, capacity: 1000, percent: 90, top };
        assert!(room.warning().unwrap().contains("default/scanner 880 (88 %)"), "{:?}", room.warning());
        assert_eq!(Room { percent: 89, ..room }.warning(), None);
    }
}
