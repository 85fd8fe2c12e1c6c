//! Takes events from the ring buffer when the kernel says there are some, and counts honestly what was lost.
//!
//! What the kernel has no room for it counts in `EVENTS_LOST`; the sum is compared after each batch, so a loss is in
//! the stream just behind the events that were read. Losses from before the start of this process, when nobody read,
//! are reported once at its start. May not know: gRPC.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use strake_abi::endpoint::{PODS_BY_NETNS, PodNetns};
use strake_abi::flow::{DropReason, EVENT_QUIET_US, EVENTS, EVENTS_LOST, FlowEvent, Hook, Verdict};
use strake_state::World;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::enrich::Enricher;
use crate::history::{History, Item};
use crate::metrics::{FlowLabels, Metrics};
use crate::proto::Lost;
use crate::proto::lost::Where;
use crate::time::{monotonic_offset, now};

/// Events handed to the history at a time.
const BATCH: usize = 256;

/// From one look to the next while there are events; longer than the programs' quiet time, also for one that was
/// interrupted between looking at the clock and handing its event over.
const LOOK_AGAIN: Duration = Duration::from_micros(2 * EVENT_QUIET_US as u64);

/// How flows are read and kept.
#[derive(Clone)]
pub struct Config {
    /// Folder of the datapath's pinned maps.
    pub maps: PathBuf,
    /// Flows remembered.
    pub history: usize,
    /// Flows a follower may lag behind before it is told that it lost some.
    pub lag: usize,
    /// Called after each batch of flows that was read: for what is worth doing only when there are some.
    pub on_flows: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Config {
    /// With the usual bounds: 8192 flows remembered (some 4 MB), followers may lag by 4096.
    pub fn new(maps: impl Into<PathBuf>) -> Self {
        Self { maps: maps.into(), history: 8192, lag: 4096, on_flows: None }
    }
}

/// Why flows cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    #[error("opening map {map} pinned at {path}")]
    Open { map: &'static str, path: PathBuf, source: MapError },
    #[error("waiting for map {EVENTS}")]
    Wait(#[source] io::Error),
}

/// The flow log of a node.
pub struct FlowLog {
    history: Arc<History>,
    metrics: Metrics,
}

struct Reader {
    events: AsyncFd<RingBuf<MapData>>,
    lost: PerCpuArray<MapData, u64>,
    pods: HashMap<MapData, u64, PodNetns>,
    lost_seen: u64,
    history: Arc<History>,
    metrics: Metrics,
    worlds: watch::Receiver<Arc<World>>,
    enricher: Enricher,
    on_flows: Option<Arc<dyn Fn() + Send + Sync>>,
}

fn open<T>(folder: &Path, map: &'static str) -> Result<T, ReaderError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let path = folder.join(map);
    let fail = |source| ReaderError::Open { map, path: path.clone(), source };
    T::try_from(Map::from_map_data(MapData::from_pin(&path).map_err(fail)?).map_err(fail)?).map_err(fail)
}

impl FlowLog {
    /// Starts reading, on the current tokio runtime, until `token` is cancelled. One process at a time may read a ring
    /// buffer.
    pub fn start(
        config: &Config,
        worlds: watch::Receiver<Arc<World>>,
        token: CancellationToken,
    ) -> Result<Self, ReaderError> {
        let history = Arc::new(History::new(config.history, config.lag));
        let metrics = Metrics::default();
        #[expect(deprecated, reason = "its replacement is unsafe; RingBuf owns its descriptor and never swaps it")]
        let events = AsyncFd::new(open(&config.maps, EVENTS)?).map_err(ReaderError::Wait)?;
        let mut reader = Reader {
            events,
            lost: open(&config.maps, EVENTS_LOST)?,
            pods: open(&config.maps, PODS_BY_NETNS)?,
            lost_seen: 0,
            history: history.clone(),
            metrics: metrics.clone(),
            worlds,
            enricher: Enricher::default(),
            on_flows: config.on_flows.clone(),
        };
        tokio::spawn(async move {
            tokio::select! {
                result = reader.run() => if let Err(error) = result {
                    error!(%error, "no longer reading flows");
                },
                () = token.cancelled() => {}
            }
        });
        Ok(Self { history, metrics })
    }

    /// The remembered and coming flows, to serve or to look at.
    pub fn history(&self) -> Arc<History> {
        self.history.clone()
    }

    /// The counters, to register.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }
}

impl Reader {
    async fn run(&mut self) -> io::Result<()> {
        // What waited for us, and what was lost meanwhile.
        self.read_all().await;
        loop {
            let mut guard = self.events.readable().await?;
            // Cleared before reading: an event that comes while we read wakes us again.
            guard.clear_ready();
            drop(guard);
            // Events that follow closely wake nobody: look until a look found none.
            while self.read_all().await > 0 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }

    /// Reads what there is; returns how many records there were.
    async fn read_all(&mut self) -> usize {
        let mut records = 0;
        loop {
            let batch = self.drain();
            records += batch;
            if batch < BATCH {
                return records;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Reads at most one batch; returns how many records there were.
    fn drain(&mut self) -> usize {
        self.enricher.refresh(&self.worlds.borrow_and_update());
        let offset = monotonic_offset();
        let mut items = Vec::new();
        let mut records = 0;
        while records < BATCH {
            let Some(record) = self.events.get_mut().next() else { break };
            records += 1;
            let event = FlowEvent::from_bytes(&record);
            drop(record);
            let Some(event) = event else {
                self.metrics.malformed();
                continue;
            };
            self.metrics.flow(&FlowLabels {
                verdict: Verdict::from_u8(event.verdict).map_or("unknown", Verdict::as_str),
                reason: DropReason::from_u8(event.reason).map_or("unknown", DropReason::as_str),
                hook: Hook::from_u8(event.hook).map_or("unknown", Hook::as_str),
            });
            let pod_ip = self.pod_ip(event.netns_cookie);
            items.push(Item::Flow(Arc::new(self.enricher.flow(&event, offset, pod_ip))));
        }
        items.extend(self.new_loss().map(Item::Lost));
        if !items.is_empty() {
            self.history.push(items);
            if let Some(call) = &self.on_flows {
                call();
            }
        }
        records
    }

    fn pod_ip(&self, netns_cookie: u64) -> Option<IpAddr> {
        if netns_cookie == 0 {
            return None;
        }
        let pod = self.pods.get(&netns_cookie, 0).ok()?;
        Some(Ipv4Addr::from(pod.ip).into())
    }

    fn new_loss(&mut self) -> Option<Lost> {
        let mut total = 0;
        for index in 0..self.lost.len() {
            match self.lost.get(&index, 0) {
                Ok(per_cpu) => total += per_cpu.iter().sum::<u64>(),
                Err(error) => {
                    warn!(%error, map = EVENTS_LOST, "cannot tell how many events were lost");
                    return None;
                }
            }
        }
        let count = total.saturating_sub(self.lost_seen);
        self.lost_seen = total;
        if count == 0 {
            return None;
        }
        self.metrics.lost(count);
        Some(Lost { r#where: Where::RingBuffer.into(), count, time_ns: now() })
    }
}
