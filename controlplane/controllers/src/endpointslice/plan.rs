//! From a Service, its Pods and its slices to the slices to create, update and delete.
//!
//! Packing is stable: an endpoint stays in the slice it is in, a slice is written only if something of it
//! changed, new endpoints go into slices that are written anyway, then into the one they fit best.

use crate::backing::{self, HEADLESS_LABEL, LAST_CHANGE_TRIGGER_TIME};
use crate::runtime::{ownership, pods};
use crate::shared::SERVICE_NAME_LABEL;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

/// Most endpoints in a slice.
pub const MAX_ENDPOINTS: usize = 100;
/// Who writes a slice.
pub const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
/// Us.
pub const MANAGER: &str = "endpointslice-controller.k8s.io";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The writes.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// New slices, named by the server.
    pub create: Vec<EndpointSlice>,
    /// Slices with new content.
    pub update: Vec<EndpointSlice>,
    /// Slices nobody needs.
    pub delete: Vec<Arc<EndpointSlice>>,
}

impl Plan {
    /// Nothing to write.
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.update.is_empty() && self.delete.is_empty()
    }
}

/// Plans one Service. `existing` are the slices of the Service that this controller manages.
pub fn plan(
    service: &Service,
    selected: &[Arc<Pod>],
    existing: &[Arc<EndpointSlice>],
    node: impl Fn(&str) -> Option<Arc<Node>>,
    trigger: Option<Timestamp>,
) -> Plan {
    let mut plan = Plan::default();
    let families = address_types(service);
    plan.delete.extend(existing.iter().filter(|s| !families.contains(&s.address_type.as_str())).cloned());
    for family in families {
        let mut desired: Vec<(Vec<EndpointPort>, Vec<Endpoint>)> = Vec::new();
        for pod in selected.iter().filter(|p| backing::may_back(p, true)) {
            let Some(endpoint) = endpoint(service, pod, family, &node) else { continue };
            let ports = ports(service, pod);
            match desired.iter_mut().find(|(p, _)| *p == ports) {
                Some((_, endpoints)) => endpoints.push(endpoint),
                None => desired.push((ports, vec![endpoint])),
            }
        }
        let mine = existing.iter().filter(|s| s.address_type == family).cloned().collect();
        reconcile(&mut plan, service, family, desired, mine, trigger);
    }
    plan
}

fn address_types(service: &Service) -> Vec<&'static str> {
    let families = service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
    let mut types: Vec<&'static str> = families.iter().map(|f| if f == "IPv6" { "IPv6" } else { "IPv4" }).collect();
    if types.is_empty() {
        types.push("IPv4");
    }
    types
}

fn endpoint(service: &Service, pod: &Pod, family: &str, node: &impl Fn(&str) -> Option<Arc<Node>>) -> Option<Endpoint> {
    let addresses: Vec<String> = backing::addresses(pod)
        .into_iter()
        .filter(|a| match a.parse::<IpAddr>() {
            Ok(ip) => ip.is_ipv6() == (family == "IPv6"),
            Err(_) => false,
        })
        .map(String::from)
        .collect();
    if addresses.is_empty() {
        return None;
    }
    let (serving, terminating) = (pods::is_ready(pod), pods::is_terminating(pod));
    let node_name = Some(pods::node_name(pod)).filter(|n| !n.is_empty());
    let zone = node_name.and_then(node).and_then(|n| n.metadata.labels.as_ref()?.get(ZONE_LABEL).cloned());
    let ready = backing::publishes_not_ready(service) || (serving && !terminating);
    Some(Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: backing::hostname(pod, service).map(String::from),
        node_name: node_name.map(String::from),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
        hints: if ready { hints(service, zone.as_deref(), node_name) } else { None },
        zone,
        ..Default::default()
    })
}

/// What `trafficDistribution` asks of the proxies, for one ready endpoint (KEP-4444, KEP-3015).
fn hints(service: &Service, zone: Option<&str>, node: Option<&str>) -> Option<EndpointHints> {
    let wanted = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_zones = || zone.map(|name| vec![ForZone { name: name.into() }]);
    match wanted {
        "PreferClose" | "PreferSameZone" => Some(EndpointHints { for_zones: Some(for_zones()?), for_nodes: None }),
        "PreferSameNode" => {
            let for_nodes = node.map(|name| vec![ForNode { name: name.into() }])?;
            Some(EndpointHints { for_zones: for_zones(), for_nodes: Some(for_nodes) })
        }
        _ => None,
    }
}

fn ports(service: &Service, pod: &Pod) -> Vec<EndpointPort> {
    let ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
    ports
        .iter()
        .filter_map(|p| {
            Some(EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(backing::target_port(pod, p)?),
                protocol: Some(p.protocol.clone().unwrap_or("TCP".into())),
                app_protocol: p.app_protocol.clone(),
            })
        })
        .collect()
}

/// What makes two endpoints the same, whatever their conditions: addresses and the Pod's uid.
fn identity(e: &Endpoint) -> (Vec<String>, Option<String>) {
    (e.addresses.clone(), e.target_ref.as_ref().and_then(|r| r.uid.clone()))
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.retain(|k, _| k != SERVICE_NAME_LABEL && k != MANAGED_BY_LABEL && k != HEADLESS_LABEL);
    labels.insert(SERVICE_NAME_LABEL.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY_LABEL.into(), MANAGER.into());
    if backing::is_headless(service) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    labels
}

fn same_ports(slice: &EndpointSlice, ports: &[EndpointPort]) -> bool {
    let mut have: Vec<&EndpointPort> = slice.ports.iter().flatten().collect();
    let mut want: Vec<&EndpointPort> = ports.iter().collect();
    let order =
        |a: &&EndpointPort, b: &&EndpointPort| (&a.name, a.port, &a.protocol).cmp(&(&b.name, b.port, &b.protocol));
    have.sort_by(order);
    want.sort_by(order);
    have == want
}

/// A slice while it is being packed.
struct Draft {
    slice: Arc<EndpointSlice>,
    endpoints: Vec<Endpoint>,
    changed: bool,
}

fn reconcile(
    plan: &mut Plan,
    service: &Service,
    family: &str,
    mut desired: Vec<(Vec<EndpointPort>, Vec<Endpoint>)>,
    mut existing: Vec<Arc<EndpointSlice>>,
    trigger: Option<Timestamp>,
) {
    existing.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let labels = labels(service);
    if desired.is_empty() {
        // A Service always has a slice, so that readers know it was looked at.
        desired.push((Vec::new(), Vec::new()));
    }
    let placeholder_only = desired.len() == 1 && desired[0].1.is_empty();
    let mut create: Vec<(Vec<EndpointPort>, Vec<Endpoint>)> = Vec::new();
    let mut spare: Vec<Arc<EndpointSlice>> = Vec::new();

    for (ports, wanted) in desired {
        let mut wanted: HashMap<_, _> = wanted.into_iter().map(|e| (identity(&e), e)).collect();
        let (mine, rest): (Vec<_>, Vec<_>) = existing.into_iter().partition(|s| same_ports(s, &ports));
        existing = rest;
        let mut drafts: Vec<Draft> = mine
            .into_iter()
            .map(|slice| {
                let mut kept = Vec::new();
                let mut changed = slice.metadata.labels.as_ref() != Some(&labels)
                    || !ownership::is_controlled_by(
                        &slice.metadata,
                        service.metadata.uid.as_deref().unwrap_or_default(),
                    );
                for e in slice.endpoints.iter().flatten() {
                    match wanted.remove(&identity(e)) {
                        Some(w) => {
                            changed |= w != *e;
                            kept.push(w);
                        }
                        None => changed = true,
                    }
                }
                Draft { slice, endpoints: kept, changed }
            })
            .collect();
        let mut wanted: Vec<Endpoint> = wanted.into_values().collect();
        wanted.sort_by(|a, b| a.addresses.cmp(&b.addresses));

        // Slices that are written anyway are filled first, the fullest before the others.
        drafts.sort_by_key(|d| std::cmp::Reverse(d.endpoints.len()));
        for d in drafts.iter_mut().filter(|d| d.changed) {
            let n = wanted.len().min(MAX_ENDPOINTS - d.endpoints.len().min(MAX_ENDPOINTS));
            d.endpoints.extend(wanted.drain(..n));
        }
        // Then whole slices; the rest into the unchanged one with the least room that is enough.
        while !wanted.is_empty() {
            let room = drafts
                .iter_mut()
                .filter(|d| !d.changed && d.endpoints.len() + wanted.len() <= MAX_ENDPOINTS)
                .max_by_key(|d| d.endpoints.len());
            match room {
                Some(d) => {
                    d.endpoints.append(&mut wanted);
                    d.changed = true;
                }
                None => {
                    let n = wanted.len().min(MAX_ENDPOINTS);
                    create.push((ports.clone(), wanted.drain(..n).collect()));
                }
            }
        }
        let mut kept_placeholder = false;
        for d in drafts {
            let placeholder = placeholder_only && !kept_placeholder;
            if d.endpoints.is_empty() && !placeholder {
                spare.push(d.slice);
                continue;
            }
            kept_placeholder = true;
            if d.changed {
                let ports = d.slice.ports.clone();
                plan.update.push(shaped(&d.slice, &labels, service, ports, d.endpoints, trigger));
            }
        }
        if placeholder_only && !kept_placeholder {
            create.push((Vec::new(), Vec::new()));
        }
    }
    spare.append(&mut existing);

    // A slice to create and one to delete are one to rewrite.
    for (ports, endpoints) in create {
        let ports = (!ports.is_empty()).then_some(ports);
        match spare.pop() {
            Some(slice) => plan.update.push(shaped(&slice, &labels, service, ports, endpoints, trigger)),
            None => {
                let blank = EndpointSlice {
                    address_type: family.into(),
                    metadata: ObjectMeta {
                        generate_name: Some(format!("{}-", service.metadata.name.as_deref().unwrap_or_default())),
                        namespace: service.metadata.namespace.clone(),
                        ..Default::default()
                    },
                    ..Default::default()
                };
                plan.create.push(shaped(&blank, &labels, service, ports, endpoints, trigger));
            }
        }
    }
    plan.delete.append(&mut spare);
}

fn shaped(
    slice: &EndpointSlice,
    labels: &BTreeMap<String, String>,
    service: &Service,
    ports: Option<Vec<EndpointPort>>,
    endpoints: Vec<Endpoint>,
    trigger: Option<Timestamp>,
) -> EndpointSlice {
    let mut new = slice.clone();
    new.metadata.labels = Some(labels.clone());
    new.metadata.owner_references = Some(vec![ownership::controller_reference(service)]);
    match trigger {
        Some(t) => {
            let annotations = new.metadata.annotations.get_or_insert_default();
            annotations.insert(LAST_CHANGE_TRIGGER_TIME.into(), t.to_string());
        }
        None => {
            if let Some(a) = &mut new.metadata.annotations {
                a.remove(LAST_CHANGE_TRIGGER_TIME);
            }
        }
    }
    new.ports = ports;
    new.endpoints = Some(endpoints);
    new
}
