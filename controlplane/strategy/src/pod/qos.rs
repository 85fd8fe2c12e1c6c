//! The quality-of-service class of a Pod.

use std::collections::BTreeMap;

use serde_json::Value;
use strake_machinery::quantity::Quantity;

use crate::quantities;
use crate::walk::{Walk, is_empty};

/// How a Pod is treated when its node runs short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    /// Every container (or the Pod) has cpu and memory limits, and requests equal to them.
    Guaranteed,
    /// Some container asks for something.
    Burstable,
    /// Nothing asked for.
    BestEffort,
}

impl QosClass {
    /// The name in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            QosClass::Guaranteed => "Guaranteed",
            QosClass::Burstable => "Burstable",
            QosClass::BestEffort => "BestEffort",
        }
    }
}

/// The class of a Pod, from the resources in its spec.
pub fn class_of(pod: &Value) -> QosClass {
    let spec = pod.at("spec");
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut guaranteed = true;
    let own = spec.at("resources");
    if !is_empty(own.at("requests")) || !is_empty(own.at("limits")) {
        guaranteed &= count(own, &mut requests, &mut limits);
    } else {
        for c in spec.list("containers").iter().chain(spec.list("initContainers")) {
            guaranteed &= count(c.at("resources"), &mut requests, &mut limits);
        }
    }
    if requests.is_empty() && limits.is_empty() {
        return QosClass::BestEffort;
    }
    if guaranteed && requests == limits { QosClass::Guaranteed } else { QosClass::Burstable }
}

/// Adds one `resources`; true if it limits both cpu and memory.
fn count(
    resources: &Value,
    requests: &mut BTreeMap<&'static str, Quantity>,
    limits: &mut BTreeMap<&'static str, Quantity>,
) -> bool {
    let mut limited = 0;
    for name in ["cpu", "memory"] {
        for (field, sums) in [("requests", &mut *requests), ("limits", &mut *limits)] {
            let Some(q) = quantities::parse(resources.at(field).at(name)) else { continue };
            if q.is_zero() || q.is_negative() {
                continue;
            }
            let sum = sums.get(name).map_or(q, |have| *have + q);
            sums.insert(name, sum);
            limited += usize::from(field == "limits");
        }
    }
    limited == 2
}
