//! Figures under stock's names, in the Prometheus text format.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use strake_machinery::Kind;

use crate::request::RequestInfo;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
    component: String,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
    component: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InflightLabels {
    request_kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    group: String,
    version: String,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ObjectLabels {
    group: String,
    resource: String,
}

type Durations = Family<DurationLabels, Histogram, fn() -> Histogram>;

/// Every figure of the server.
pub struct Metrics {
    registry: Mutex<Registry>,
    requests: Family<RequestLabels, Counter>,
    durations: Durations,
    inflight: Family<InflightLabels, Gauge>,
    watches: Family<WatchLabels, Gauge>,
    objects: Family<ObjectLabels, Gauge>,
    resident: Gauge,
    start: Gauge,
    reads: Arc<AtomicI64>,
    writes: Arc<AtomicI64>,
    panics: AtomicU64,
}

/// Counts a watch while it is open.
pub struct OpenWatch(Gauge);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Counts a request while it is served.
pub struct Inflight(Arc<AtomicI64>);

impl Drop for Inflight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn buckets() -> Histogram {
    Histogram::new([
        0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0,
        30.0, 45.0, 60.0,
    ])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations: Durations = Family::new_with_constructor(buckets as fn() -> Histogram);
        let (inflight, watches, objects) = (Family::default(), Family::default(), Family::default());
        let (resident, start) = (Gauge::default(), Gauge::default());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        start.set(now.as_secs() as i64);
        registry.register("apiserver_request", "Requests by verb, resource, scope and code", requests.clone());
        registry.register("apiserver_request_duration_seconds", "Time to answer, watches excluded", durations.clone());
        registry.register("apiserver_current_inflight_requests", "Requests being served", inflight.clone());
        registry.register("apiserver_longrunning_requests", "Open watches", watches.clone());
        registry.register("apiserver_storage_objects", "Stored objects by resource", objects.clone());
        registry.register("process_resident_memory_bytes", "Resident memory of the process", resident.clone());
        registry.register("process_start_time_seconds", "Start of the server, Unix time", start.clone());
        Self {
            registry: Mutex::new(registry),
            requests,
            durations,
            inflight,
            watches,
            objects,
            resident,
            start,
            reads: Arc::default(),
            writes: Arc::default(),
            panics: AtomicU64::new(0),
        }
    }
}

fn scope(info: &RequestInfo) -> &'static str {
    match () {
        () if !info.is_resource => "",
        () if !info.name.is_empty() => "resource",
        () if !info.namespace.is_empty() => "namespace",
        () => "cluster",
    }
}

impl Metrics {
    /// Takes a place among the requests being served; `None` when there are `limit` already.
    pub fn enter(&self, read_only: bool, limit: usize) -> Option<Inflight> {
        let counter = if read_only { &self.reads } else { &self.writes };
        let entered = Inflight(Arc::clone(counter));
        let before = counter.fetch_add(1, Ordering::Relaxed);
        (before < limit as i64).then_some(entered)
    }

    /// Notes an answered request.
    pub fn answered(&self, info: &RequestInfo, known: bool, code: u16, took: Duration) {
        // Paths that strangers make up must not become label values.
        let text = |value: &str| if known { value.to_owned() } else { String::new() };
        let labels = RequestLabels {
            verb: info.verb.to_uppercase(),
            group: text(&info.group),
            version: text(&info.version),
            resource: text(&info.resource),
            subresource: text(&info.subresource),
            scope: scope(info).to_owned(),
            component: "apiserver".to_owned(),
            code: code.to_string(),
        };
        if !info.is_long_running() {
            let durations = DurationLabels {
                verb: labels.verb.clone(),
                group: labels.group.clone(),
                version: labels.version.clone(),
                resource: labels.resource.clone(),
                subresource: labels.subresource.clone(),
                scope: labels.scope.clone(),
                component: labels.component.clone(),
            };
            self.durations.get_or_create(&durations).observe(took.as_secs_f64());
        }
        self.requests.get_or_create(&labels).inc();
    }

    /// Notes a panic that was caught.
    pub fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a watch until the answer is dropped.
    pub fn open_watch(&self, kind: &Kind) -> OpenWatch {
        let labels =
            WatchLabels { group: kind.group.clone(), version: kind.version.clone(), resource: kind.plural.clone() };
        let gauge = self.watches.get_or_create(&labels).clone();
        gauge.inc();
        OpenWatch(gauge)
    }

    /// The text of /metrics. `objects` are the counts of stored objects by group and resource.
    ///
    /// # Errors
    /// When a value cannot be formatted, which does not happen.
    pub fn render(&self, objects: impl Iterator<Item = (String, String, usize)>) -> Result<String, std::fmt::Error> {
        for (group, resource, count) in objects {
            self.objects.get_or_create(&ObjectLabels { group, resource }).set(count as i64);
        }
        for (name, counter) in [("readOnly", &self.reads), ("mutating", &self.writes)] {
            let labels = InflightLabels { request_kind: name.to_owned() };
            self.inflight.get_or_create(&labels).set(counter.load(Ordering::Relaxed));
        }
        self.resident.set(resident_bytes().unwrap_or(0));
        let _ = &self.start;
        let mut text = String::new();
        encode(&mut text, &self.registry.lock())?;
        Ok(text)
    }
}

fn resident_bytes() -> Option<i64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: i64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    Some(pages * page)
}
