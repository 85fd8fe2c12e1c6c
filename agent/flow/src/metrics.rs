//! Prometheus counters of flows and of what was lost.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct FlowLabels {
    pub verdict: &'static str,
    pub reason: &'static str,
    pub hook: &'static str,
}

/// Shared counters; cloning shares them.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    flows: Family<FlowLabels, Counter>,
    lost: Counter,
    malformed: Counter,
}

impl Metrics {
    /// Registers the counters as `strake_flow_*`.
    pub fn register(&self, registry: &mut Registry) {
        let registry = registry.sub_registry_with_prefix("strake_flow");
        registry.register("events", "Flow events read from the kernel", self.flows.clone());
        registry.register("lost", "Flow events the kernel had no room for", self.lost.clone());
        registry.register("malformed", "Ring buffer records of an unknown size or kind", self.malformed.clone());
    }

    pub(crate) fn flow(&self, labels: &FlowLabels) {
        self.flows.get_or_create(labels).inc();
    }

    pub(crate) fn lost(&self, count: u64) {
        self.lost.inc_by(count);
    }

    pub(crate) fn malformed(&self) {
        self.malformed.inc();
    }

    /// Events the kernel had no room for since the start of the agent.
    pub fn lost_total(&self) -> u64 {
        self.lost.get()
    }
}
