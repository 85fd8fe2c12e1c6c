//! Which Pods back a Service, under which ports: shared by the endpointslice and the endpoint controller.

use crate::runtime::{Change, Informer, Key, labels, pods};
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use std::collections::HashMap;

/// When what changed in the backing set: the start of the latency that SLIs measure.
pub const LAST_CHANGE_TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";
/// On endpoints of headless Services.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// The Service selects Pods, so its endpoints are the controllers' business.
pub fn selects(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|s| {
        s.selector.as_ref().is_some_and(|l| !l.is_empty()) && s.type_.as_deref() != Some("ExternalName")
    })
}

/// `clusterIP: None`.
pub fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()) == Some("None")
}

/// `publishNotReadyAddresses`.
pub fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.publish_not_ready_addresses) == Some(true)
}

/// The Pod's addresses, of both families.
pub fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    match status.pod_ips.as_deref() {
        Some([]) | None => status.pod_ip.as_deref().into_iter().collect(),
        Some(ips) => ips.iter().map(|ip| ip.ip.as_str()).collect(),
    }
}

/// Has an address and may still serve; terminating Pods only if asked for.
pub fn may_back(pod: &Pod, terminating: bool) -> bool {
    !pods::is_finished(pod) && !addresses(pod).is_empty() && (terminating || !pods::is_terminating(pod))
}

/// The port of this Pod a Service port leads to; a named target port must be declared by a container
/// (or a sidecar) with the same protocol.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    match &port.target_port {
        None | Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(n)) => Some(*n),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecars =
                spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            spec.containers
                .iter()
                .chain(sidecars)
                .flat_map(|c| c.ports.iter().flatten())
                .find(|p| p.name.as_deref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol)
                .map(|p| p.container_port)
        }
    }
}

/// The DNS hostname the Pod has under this headless Service, if it asked for one.
pub fn hostname<'a>(pod: &'a Pod, service: &Service) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let hostname = spec.hostname.as_deref().filter(|h| !h.is_empty())?;
    (spec.subdomain == service.metadata.name && pod.metadata.namespace == service.metadata.namespace)
        .then_some(hostname)
}

/// The Services a Pod's change concerns; none when nothing an endpoint shows has changed.
pub fn concerned(services: &Informer<Service>, change: &Change<Pod>) -> Vec<Key> {
    let pod = change.object();
    if let Some(old) = change.old() {
        let facts = |p: &Pod| {
            (
                addresses(p).iter().map(|s| s.to_string()).collect::<Vec<_>>(),
                pods::is_ready(p),
                pods::is_terminating(p),
                pods::is_finished(p),
                pods::node_name(p).to_string(),
                p.metadata.labels.clone(),
            )
        };
        if facts(pod) == facts(old) {
            return Vec::new();
        }
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let old_labels = change.old().and_then(|o| o.metadata.labels.as_ref());
    services
        .in_namespace(namespace)
        .iter()
        .filter(|s| {
            let selector = s.spec.as_ref().and_then(|s| s.selector.as_ref());
            selector.is_some_and(|sel| {
                !sel.is_empty()
                    && (labels::contains(pod.metadata.labels.as_ref(), sel)
                        || (change.old().is_some() && labels::contains(old_labels, sel)))
            })
        })
        .map(|s| Key::of(&s.metadata))
        .collect()
}

/// Remembers what has been accounted for, to say when the oldest unaccounted change happened.
#[derive(Default)]
pub struct TriggerTimes {
    seen: HashMap<Key, (Option<Timestamp>, HashMap<String, Timestamp>)>,
}

impl TriggerTimes {
    /// The earliest change of the Service or its Pods since the last call for this key.
    pub fn compute<'a>(
        &mut self,
        key: &Key,
        service: &Service,
        backing: impl Iterator<Item = &'a Pod>,
    ) -> Option<Timestamp> {
        let created = service.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let now: HashMap<String, Timestamp> = backing
            .filter_map(|p| {
                let changed = pods::condition(p, "Ready").and_then(|c| c.last_transition_time.as_ref());
                Some((p.metadata.name.clone()?, changed?.0))
            })
            .collect();
        let known = self.seen.get(key);
        let fresh = now.iter().filter(|(name, t)| known.is_none_or(|(_, was)| was.get(*name).is_none_or(|w| w < t)));
        let mut times: Vec<Timestamp> = fresh.map(|(_, t)| *t).collect();
        if known.is_none_or(|(c, _)| *c < created) {
            times.extend(created);
        }
        self.seen.insert(key.clone(), (created, now));
        times.into_iter().min()
    }

    /// Forgets a Service that is gone.
    pub fn forget(&mut self, key: &Key) {
        self.seen.remove(key);
    }
}
