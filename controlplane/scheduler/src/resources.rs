//! Amounts of resources: what a Pod asks for (with init containers, sidecars and overhead) and what a Node has.

use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;
use strake_machinery::quantity;

/// What a container without a CPU request counts as when nodes are compared (millicores).
const DEFAULT_MILLI_CPU: i64 = 100;
/// What a container without a memory request counts as when nodes are compared (bytes).
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts. CPU in millicores, memory and ephemeral storage in bytes, everything else in units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Millicores.
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// How many Pods (of a Node: may run on it).
    pub pods: i64,
    /// Extended resources and huge pages, by name.
    pub scalar: BTreeMap<String, i64>,
}

type List = BTreeMap<String, Quantity>;

/// A quantity that cannot be read counts as nothing: the API refuses such objects.
fn amount(q: &Quantity, milli: bool) -> i64 {
    let Ok(q) = q.0.parse::<quantity::Quantity>() else { return 0 };
    if milli { q.milli_value() } else { q.value() }
}

impl Resources {
    /// From a ResourceList.
    pub fn of(list: Option<&List>) -> Self {
        let mut r = Resources::default();
        for (name, q) in list.into_iter().flatten() {
            match name.as_str() {
                "cpu" => r.milli_cpu = amount(q, true),
                "memory" => r.memory = amount(q, false),
                "ephemeral-storage" => r.ephemeral_storage = amount(q, false),
                "pods" => r.pods = amount(q, false),
                other => {
                    r.scalar.insert(other.to_string(), amount(q, false));
                }
            }
        }
        r
    }

    /// Adds `other`, saturating.
    pub fn add(&mut self, other: &Resources) {
        self.each(other, i64::saturating_add);
    }

    /// Takes `other` away.
    pub fn subtract(&mut self, other: &Resources) {
        self.each(other, i64::saturating_sub);
        self.scalar.retain(|_, v| *v != 0);
    }

    /// The larger of both, each by each.
    pub fn raise_to(&mut self, other: &Resources) {
        self.each(other, i64::max);
    }

    fn each(&mut self, other: &Resources, f: fn(i64, i64) -> i64) {
        self.milli_cpu = f(self.milli_cpu, other.milli_cpu);
        self.memory = f(self.memory, other.memory);
        self.ephemeral_storage = f(self.ephemeral_storage, other.ephemeral_storage);
        self.pods = f(self.pods, other.pods);
        for (name, v) in &other.scalar {
            let mine = self.scalar.entry(name.clone()).or_insert(0);
            *mine = f(*mine, *v);
        }
    }
}

fn is_sidecar(c: &Container) -> bool {
    c.restart_policy.as_deref() == Some("Always")
}

/// What the Pod needs at its worst moment: all its containers and sidecars, or one init container with the
/// sidecars started before it (KEP-753); Pod-level requests take precedence (KEP-2837); plus its overhead.
pub fn requests(pod: &Pod) -> Resources {
    demand(pod, |c| Resources::of(c.resources.as_ref().and_then(|r| r.requests.as_ref())))
}

/// The same for comparing nodes, `(millicores, bytes)`: containers that ask for nothing count for something.
pub fn nonzero_requests(pod: &Pod) -> (i64, i64) {
    let r = demand(pod, |c| {
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        let mut r = Resources::of(requests);
        let asks = |name: &str| requests.is_some_and(|l| l.contains_key(name));
        if !asks("cpu") {
            r.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asks("memory") {
            r.memory = DEFAULT_MEMORY;
        }
        r
    });
    (r.milli_cpu, r.memory)
}

fn demand(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources { pods: 1, ..Default::default() } };
    let mut total = Resources::default();
    for c in &spec.containers {
        total.add(&of(c));
    }
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for c in spec.init_containers.iter().flatten() {
        let mut need = of(c);
        if is_sidecar(c) {
            total.add(&need);
            sidecars.add(&need);
            starting.raise_to(&sidecars);
        } else {
            need.add(&sidecars);
            starting.raise_to(&need);
        }
    }
    total.raise_to(&starting);
    if let Some(list) = spec.resources.as_ref().and_then(|r| r.requests.as_ref()) {
        let pod_level = Resources::of(Some(list));
        for name in list.keys() {
            match name.as_str() {
                "cpu" => total.milli_cpu = pod_level.milli_cpu,
                "memory" => total.memory = pod_level.memory,
                other => {
                    total.scalar.insert(other.to_string(), pod_level.scalar.get(other).copied().unwrap_or(0));
                }
            }
        }
    }
    total.add(&Resources::of(spec.overhead.as_ref()));
    total.pods = 1;
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};

    pub(super) fn container(cpu: &str, sidecar: bool) -> Container {
        Container {
            resources: Some(ResourceRequirements {
                requests: Some([("cpu".to_string(), Quantity(cpu.into()))].into()),
                ..Default::default()
            }),
            restart_policy: sidecar.then(|| "Always".to_string()),
            ..Default::default()
        }
    }

    fn cpu(init: Vec<Container>, containers: Vec<Container>) -> i64 {
        let spec = PodSpec { init_containers: Some(init), containers, ..Default::default() };
        requests(&Pod { spec: Some(spec), ..Default::default() }).milli_cpu
    }

    #[test]
    fn init_containers_count_at_their_worst_moment_and_sidecars_always() {
        let c = |q| container(q, false);
        assert_eq!(cpu(vec![], vec![c("100m"), c("200m")]), 300);
        assert_eq!(cpu(vec![c("1")], vec![c("100m"), c("200m")]), 1000);
        assert_eq!(cpu(vec![container("100m", true)], vec![c("200m")]), 300);
        assert_eq!(cpu(vec![container("100m", true), c("500m")], vec![c("200m")]), 600);
        assert_eq!(cpu(vec![c("500m"), container("100m", true)], vec![c("200m")]), 500);
    }

    #[test]
    fn containers_that_ask_for_nothing_count_when_nodes_are_compared() {
        let spec = PodSpec { containers: vec![container("50m", false), Container::default()], ..Default::default() };
        let pod = Pod { spec: Some(spec), ..Default::default() };
        assert_eq!(nonzero_requests(&pod), (150, 2 * DEFAULT_MEMORY));
        assert_eq!((requests(&pod).milli_cpu, requests(&pod).memory), (50, 0));
    }
}
