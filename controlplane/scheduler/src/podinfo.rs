//! A Pod as the scheduler sees it: everything filters and scores read, parsed once.

use crate::resources::{self, Resources};
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use std::collections::BTreeMap;
use std::sync::Arc;
use strake_controllers::runtime::labels::{self, Labels};

/// Labels of a namespace, for terms with a namespaceSelector.
pub type NamespaceLabels = std::collections::HashMap<String, Labels>;

/// A required or preferred (anti-)affinity to Pods.
#[derive(Clone, Debug)]
pub struct Term {
    /// Which Pods.
    pub selector: Option<LabelSelector>,
    /// In which namespaces, by name.
    pub namespaces: Vec<String>,
    /// And by label; `Some({})` is all of them.
    pub namespace_selector: Option<LabelSelector>,
    /// The node label that says what "together" is.
    pub topology_key: String,
    /// Positive: together; negative: apart. Required terms have 1.
    pub weight: i64,
}

impl Term {
    /// Whether the term is about this Pod.
    pub fn matches(&self, pod: &PodInfo, namespaces: &NamespaceLabels) -> bool {
        let here = self.namespaces.iter().any(|n| n == &pod.namespace)
            || self.namespace_selector.as_ref().is_some_and(|s| labels::matches(s, namespaces.get(&pod.namespace)));
        // No selector selects nothing here.
        here && self.selector.as_ref().is_some_and(|s| labels::matches(s, pod.pod.metadata.labels.as_ref()))
    }
}

/// How far apart counts of matching Pods may be.
#[derive(Clone, Debug)]
pub struct SpreadConstraint {
    /// `maxSkew`.
    pub max_skew: i32,
    /// The node label that names domains.
    pub topology_key: String,
    /// Which Pods are counted, in the Pod's namespace.
    pub selector: LabelSelector,
    /// Fewer domains than this count as one with none.
    pub min_domains: i32,
    /// Count only nodes the Pod's node affinity allows.
    pub honor_affinity: bool,
    /// Count only nodes whose taints the Pod tolerates.
    pub honor_taints: bool,
}

/// A Pod, parsed.
#[derive(Debug)]
pub struct PodInfo {
    /// The object.
    pub pod: Arc<Pod>,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `spec.priority`.
    pub priority: i32,
    /// What it asks for.
    pub requests: Resources,
    /// For comparing nodes: `(millicores, bytes)`.
    pub nonzero: (i64, i64),
    /// `(protocol, address, port)` it wants of the host.
    pub host_ports: Vec<(String, String, i32)>,
    /// Required Pod affinity.
    pub affinity: Vec<Term>,
    /// Required Pod anti-affinity.
    pub anti_affinity: Vec<Term>,
    /// Preferred affinity (weight > 0) and anti-affinity (weight < 0).
    pub preferred: Vec<Term>,
    /// `DoNotSchedule` constraints.
    pub hard_spread: Vec<SpreadConstraint>,
    /// `ScheduleAnyway` constraints.
    pub soft_spread: Vec<SpreadConstraint>,
    /// Deletion was asked for.
    pub terminating: bool,
}

impl PodInfo {
    /// Parses a Pod.
    pub fn new(pod: Arc<Pod>) -> Self {
        let meta = &pod.metadata;
        let namespace = meta.namespace.clone().unwrap_or_default();
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let own = meta.labels.clone().unwrap_or_default();
        let affinity = spec.affinity.as_ref();
        let term = |t: &PodAffinityTerm, weight: i64| parse_term(t, weight, &namespace, &own);
        let together = affinity.and_then(|a| a.pod_affinity.as_ref());
        let apart = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let mut preferred = Vec::new();
        for w in together.iter().flat_map(|a| a.preferred_during_scheduling_ignored_during_execution.iter().flatten()) {
            preferred.push(term(&w.pod_affinity_term, i64::from(w.weight)));
        }
        for w in apart.iter().flat_map(|a| a.preferred_during_scheduling_ignored_during_execution.iter().flatten()) {
            preferred.push(term(&w.pod_affinity_term, -i64::from(w.weight)));
        }
        let (mut hard_spread, mut soft_spread) = (Vec::new(), Vec::new());
        for c in spec.topology_spread_constraints.iter().flatten() {
            let parsed = SpreadConstraint {
                max_skew: c.max_skew,
                topology_key: c.topology_key.clone(),
                selector: with_keys(
                    c.label_selector.clone().unwrap_or_default(),
                    c.match_label_keys.as_deref(),
                    None,
                    &own,
                ),
                min_domains: c.min_domains.unwrap_or(1),
                honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
                honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
            };
            if c.when_unsatisfiable == "ScheduleAnyway" { soft_spread.push(parsed) } else { hard_spread.push(parsed) }
        }
        let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let host_ports = spec
            .containers
            .iter()
            .chain(sidecars)
            .flat_map(|c| c.ports.iter().flatten())
            .filter(|p| p.host_port.unwrap_or(0) > 0)
            .map(|p| {
                let ip = p.host_ip.clone().filter(|i| !i.is_empty()).unwrap_or("0.0.0.0".into());
                (p.protocol.clone().unwrap_or("TCP".into()), ip, p.host_port.unwrap_or(0))
            })
            .collect();
        PodInfo {
            uid: meta.uid.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or(0),
            requests: resources::requests(&pod),
            nonzero: resources::nonzero_requests(&pod),
            host_ports,
            affinity: together
                .iter()
                .flat_map(|a| a.required_during_scheduling_ignored_during_execution.iter().flatten())
                .map(|t| term(t, 1))
                .collect(),
            anti_affinity: apart
                .iter()
                .flat_map(|a| a.required_during_scheduling_ignored_during_execution.iter().flatten())
                .map(|t| term(t, 1))
                .collect(),
            preferred,
            hard_spread,
            soft_spread,
            terminating: meta.deletion_timestamp.is_some(),
            namespace,
            pod,
        }
    }

    /// The labels.
    pub fn labels(&self) -> Option<&Labels> {
        self.pod.metadata.labels.as_ref()
    }

    /// The tolerations.
    pub fn tolerations(&self) -> &[Toleration] {
        self.pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default()
    }

    /// The node it is bound to, empty when not.
    pub fn node_name(&self) -> &str {
        self.pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
    }

    /// Whether existing Pods' placement depends on Pods like this one, or it on theirs.
    pub fn has_pod_affinity(&self) -> bool {
        !self.affinity.is_empty() || !self.preferred.is_empty()
    }

    /// `namespace/name`.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

fn parse_term(t: &PodAffinityTerm, weight: i64, namespace: &str, own: &BTreeMap<String, String>) -> Term {
    let mut namespaces = t.namespaces.clone().unwrap_or_default();
    if namespaces.is_empty() && t.namespace_selector.is_none() {
        namespaces.push(namespace.to_string());
    }
    Term {
        selector: t
            .label_selector
            .clone()
            .map(|s| with_keys(s, t.match_label_keys.as_deref(), t.mismatch_label_keys.as_deref(), own)),
        namespaces,
        namespace_selector: t.namespace_selector.clone(),
        topology_key: t.topology_key.clone(),
        weight,
    }
}

/// `matchLabelKeys` / `mismatchLabelKeys` (KEP-3243, KEP-3633): requirements with the Pod's own values. A server that
/// has already merged them into the selector has only said it twice.
fn with_keys(
    mut selector: LabelSelector,
    same: Option<&[String]>,
    other: Option<&[String]>,
    own: &BTreeMap<String, String>,
) -> LabelSelector {
    for (keys, operator) in [(same, "In"), (other, "NotIn")] {
        for key in keys.unwrap_or_default() {
            if let Some(value) = own.get(key) {
                selector.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
                    key: key.clone(),
                    operator: operator.into(),
                    values: Some(vec![value.clone()]),
                });
            }
        }
    }
    selector
}
