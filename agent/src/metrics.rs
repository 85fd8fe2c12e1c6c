//! Figures in the Prometheus text format: those of kube-proxy that have a meaning here under kube-proxy's names, so
//! that its dashboards and alerts go on working, and the datapath's own as `strake_*`.
//!
//! Knows names and labels. The kernel's counters are read when somebody asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use strake_datapath::{Datapath, Status};

use crate::health::Endpoint;
use crate::http::{Answer, answer};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CodeLabels {
    code: u16,
}

type Seconds = Gauge<f64, AtomicU64>;

/// Every figure of the proxy.
pub struct Metrics {
    registry: Mutex<Registry>,
    sync: Histogram,
    last_sync: Seconds,
    last_queued: Seconds,
    programming: Histogram,
    healthz: Family<CodeLabels, Counter>,
    livez: Family<CodeLabels, Counter>,
}

/// Seconds since the epoch.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// kube-proxy's buckets: 0.25, 0.5, 1 to 59 by 1, 60 to 115 by 5, 120 to 300 by 30.
fn programming_buckets() -> impl Iterator<Item = f64> {
    let steps = |from: u32, step: u32, to: u32| (from..=to).step_by(step as usize).map(f64::from);
    [0.25, 0.5].into_iter().chain(steps(1, 1, 59)).chain(steps(60, 5, 115)).chain(steps(120, 30, 300))
}

impl Metrics {
    pub fn new(datapath: Datapath, flows: &strake_flow::Metrics) -> Self {
        let mut registry = Registry::default();
        let sync = Histogram::new(exponential_buckets(0.001, 2.0, 15));
        let programming = Histogram::new(programming_buckets());
        let (last_sync, last_queued) = (Seconds::default(), Seconds::default());
        let (healthz, livez) = (Family::default(), Family::default());
        registry.register(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "Time to bring the kernel to a snapshot of the cluster",
            sync.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "Unix time when the kernel last held what the cluster says",
            last_sync.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "Unix time when a snapshot was last taken up",
            last_queued.clone(),
        );
        registry.register(
            "kubeproxy_network_programming_duration_seconds",
            "Time from a change of a Service or Pod to its being in the kernel",
            programming.clone(),
        );
        registry.register("kubeproxy_proxy_healthz", "Answers of /healthz by code", healthz.clone());
        registry.register("kubeproxy_proxy_livez", "Answers of /livez by code", livez.clone());
        let started: Seconds = Gauge::default();
        started.set(now());
        registry.register("process_start_time_seconds", "Start of the agent, Unix time", started);
        flows.register(&mut registry);
        registry.register_collector(Box::new(Kernel(datapath)));
        Self { registry: Mutex::new(registry), sync, last_sync, last_queued, programming, healthz, livez }
    }

    /// A snapshot was taken up.
    pub fn queued(&self) {
        self.last_queued.set(now());
    }

    /// A snapshot is in the kernel.
    pub fn synced(&self, took: Duration) {
        self.sync.observe(took.as_secs_f64());
        self.last_sync.set(now());
    }

    /// A change that happened at `triggered_ms` (Unix time) is in the kernel.
    pub fn programmed(&self, triggered_ms: u64) {
        self.programming.observe((now() - triggered_ms as f64 / 1000.0).max(0.0));
    }

    /// A health endpoint was asked.
    pub fn health_answered(&self, endpoint: Endpoint, code: StatusCode) {
        let family = match endpoint {
            Endpoint::Healthz => &self.healthz,
            Endpoint::Livez => &self.livez,
        };
        family.get_or_create(&CodeLabels { code: code.as_u16() }).inc();
    }

    /// Answers a scrape. Counts rows of maps: not on a thread that others wait for.
    pub fn scrape(&self) -> Answer {
        let mut body = String::new();
        match text::encode(&mut body, &self.registry.lock()) {
            Ok(()) => answer(StatusCode::OK, CONTENT_TYPE, body),
            Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", error.to_string()),
        }
    }
}

/// The maps, read at each scrape.
struct Kernel(Datapath);

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kernel")
    }
}

impl Collector for Kernel {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        match self.0.status() {
            Ok(status) => encode(&status, &mut encoder),
            Err(error) => {
                tracing::warn!(%error, "reading the datapath's counters");
                Ok(())
            }
        }
    }
}

fn encode(status: &Status, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut counters = |name: &str, help: &str, label: &str, rows: &mut dyn Iterator<Item = (&str, u64)>| {
        let rows = rows.map(|(value, count)| (value, ConstCounter::new(count)));
        family(encoder, name, help, label, rows)
    };
    let totals = status.totals;
    let outcomes = [
        ("applied", totals.applied),
        ("unchanged", totals.unchanged),
        ("refused", totals.refused),
        ("failed", totals.failed),
    ];
    let each = |rows: &std::collections::BTreeMap<&'static str, u64>| -> Vec<(&'static str, u64)> {
        rows.iter().map(|(name, count)| (*name, *count)).collect()
    };
    counters(
        "strake_drops",
        "Packets and connections refused or dropped",
        "reason",
        &mut each(&status.drops).into_iter(),
    )?;
    counters("strake_datapath_events", "What the programs did", "event", &mut each(&status.counters).into_iter())?;
    counters(
        "strake_datapath_flow_events_lost",
        "Flow events that had no room in the ring buffer",
        "kind",
        &mut each(&status.events_lost).into_iter(),
    )?;
    counters("strake_datapath_snapshots", "Snapshots of the cluster by outcome", "outcome", &mut outcomes.into_iter())?;

    let evicted = ConstCounter::new(status.connections_evicted);
    let (name, help) = (
        "strake_datapath_conntrack_evicted",
        "Rows of connections, live or ended, that gave way to newer ones since the agent's start",
    );
    evicted.encode(encoder.encode_descriptor(name, help, None, evicted.metric_type())?)?;

    let gauge = |count: u64| ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
    let entries = status.maps.iter().map(|map| (map.map, gauge(map.entries)));
    family(encoder, "strake_datapath_map_entries", "Rows in use", "map", entries)?;
    let room = status.maps.iter().map(|map| (map.map, gauge(map.capacity.into())));
    family(encoder, "strake_datapath_map_capacity", "Rows there is room for", "map", room)?;
    let live = status.connections.iter().map(|room| (room.map, gauge(room.live)));
    family(encoder, "strake_datapath_conntrack_live", "Rows of connections that live", "map", live)?;
    for (name, help, count) in [
        ("strake_datapath_services", "Services in the last snapshot", status.services),
        ("strake_datapath_frontends", "Addresses and ports that Services are answered on", status.frontends),
        ("strake_datapath_endpoints", "Pods whose interfaces are served", status.endpoints.len()),
        ("strake_datapath_programs", "Programs attached", status.attached.len()),
    ] {
        let value = gauge(count as u64);
        value.encode(encoder.encode_descriptor(name, help, None, value.metric_type())?)?;
    }
    Ok(())
}

/// One metric with one label.
fn family<'a, M: EncodeMetric>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &str,
    rows: impl Iterator<Item = (&'a str, M)>,
) -> fmt::Result {
    let mut rows = rows.peekable();
    let Some((_, first)) = rows.peek() else { return Ok(()) };
    let mut metric = encoder.encode_descriptor(name, help, None, first.metric_type())?;
    for (value, row) in rows {
        row.encode(metric.encode_family(&[(label, value)])?)?;
    }
    Ok(())
}

/// Answers on `/metrics`.
pub async fn handle(metrics: Arc<Metrics>, path: String) -> Answer {
    if path != "/metrics" {
        return crate::http::not_found();
    }
    let scraped = tokio::task::spawn_blocking(move || metrics.scrape()).await;
    scraped.unwrap_or_else(|error| {
        answer(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", error.to_string())
    })
}
