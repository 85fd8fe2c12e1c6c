//! From a Service and its Pods to the Endpoints object: addresses grouped by the ports they serve.

use crate::backing::{self, HEADLESS_LABEL, LAST_CHANGE_TRIGGER_TIME};
use crate::runtime::pods;
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Most addresses an Endpoints object holds; slices have no such limit.
const CAPACITY: usize = 1000;

/// Whether this controller wrote the object.
pub fn is_ours(e: &Endpoints) -> bool {
    e.metadata.labels.as_ref().and_then(|l| l.get(MANAGED_BY)).is_some_and(|m| m == MANAGER)
}

type PortKey = Vec<(Option<String>, i32, Option<String>, Option<String>)>;

/// The object as it should be, or None when `current` is.
pub fn plan(
    service: &Service,
    selected: &[Arc<Pod>],
    current: Option<&Endpoints>,
    trigger: Option<Timestamp>,
) -> Option<Endpoints> {
    let mut by_ports: BTreeMap<PortKey, (Vec<EndpointAddress>, Vec<EndpointAddress>)> = BTreeMap::new();
    let not_ready_too = backing::publishes_not_ready(service);
    let ipv6 = service.spec.as_ref().and_then(|s| s.ip_families.as_ref()?.first().cloned()).as_deref() == Some("IPv6");
    let mut total = 0;
    for pod in selected.iter().filter(|p| backing::may_back(p, not_ready_too)) {
        let of_family = |a: &&str| a.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6() == ipv6);
        let Some(ip) = backing::addresses(pod).into_iter().find(of_family) else { continue };
        let service_ports = service.spec.as_ref().and_then(|s| s.ports.as_deref()).unwrap_or_default();
        let ports: PortKey = service_ports
            .iter()
            .filter_map(|p| {
                let number = backing::target_port(pod, p)?;
                Some((p.name.clone(), number, p.protocol.clone().or(Some("TCP".into())), p.app_protocol.clone()))
            })
            .collect();
        if ports.is_empty() && !service_ports.is_empty() {
            continue;
        }
        total += 1;
        let address = EndpointAddress {
            ip: ip.to_string(),
            hostname: backing::hostname(pod, service).map(String::from),
            node_name: Some(pods::node_name(pod)).filter(|n| !n.is_empty()).map(String::from),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".into()),
                namespace: pod.metadata.namespace.clone(),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
                ..Default::default()
            }),
        };
        let (ready, not_ready) = by_ports.entry(ports).or_default();
        if not_ready_too || pods::is_ready(pod) { ready.push(address) } else { not_ready.push(address) }
    }

    let mut room = CAPACITY;
    let subsets: Vec<EndpointSubset> = by_ports
        .into_iter()
        .map(|(ports, (mut ready, mut not_ready))| {
            ready.sort_by(|a, b| a.ip.cmp(&b.ip));
            not_ready.sort_by(|a, b| a.ip.cmp(&b.ip));
            for list in [&mut ready, &mut not_ready] {
                list.truncate(room);
                room -= list.len();
            }
            let some = |l: Vec<EndpointAddress>| (!l.is_empty()).then_some(l);
            let ports: Vec<EndpointPort> = ports
                .into_iter()
                .map(|(name, port, protocol, app_protocol)| EndpointPort { name, port, protocol, app_protocol })
                .collect();
            EndpointSubset {
                addresses: some(ready),
                not_ready_addresses: some(not_ready),
                ports: (!ports.is_empty()).then_some(ports),
            }
        })
        .collect();

    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.remove(HEADLESS_LABEL);
    if backing::is_headless(service) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    let mut new = current.cloned().unwrap_or_default();
    new.metadata.name.clone_from(&service.metadata.name);
    new.metadata.namespace.clone_from(&service.metadata.namespace);
    let over = total > CAPACITY;
    let annotation = |e: &Endpoints| e.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(OVER_CAPACITY));
    if let Some(current) = current
        && current.subsets.clone().unwrap_or_default() == subsets
        && current.metadata.labels.as_ref() == Some(&labels)
        && annotation(current) == over
    {
        return None;
    }
    new.subsets = (!subsets.is_empty()).then_some(subsets);
    new.metadata.labels = Some(labels);
    let annotations = new.metadata.annotations.get_or_insert_default();
    match trigger {
        Some(t) => annotations.insert(LAST_CHANGE_TRIGGER_TIME.into(), t.to_string()),
        None => annotations.remove(LAST_CHANGE_TRIGGER_TIME),
    };
    if over {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    Some(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodIP, PodStatus, ServicePort, ServiceSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    fn pod(i: usize, ready: bool) -> Arc<Pod> {
        Arc::new(Pod {
            metadata: ObjectMeta { name: Some(format!("p{i}")), ..Default::default() },
            status: Some(PodStatus {
                pod_ip: Some(format!("10.0.{}.{}", i / 250, i % 250)),
                conditions: Some(vec![PodCondition {
                    type_: "Ready".into(),
                    status: if ready { "True" } else { "False" }.into(),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    #[test]
    fn addresses_are_split_by_readiness_and_written_once() {
        let service = Service {
            metadata: ObjectMeta { name: Some("web".into()), ..Default::default() },
            spec: Some(ServiceSpec {
                ports: Some(vec![ServicePort { port: 80, ..Default::default() }]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let pods = [pod(1, true), pod(2, false)];
        let e = plan(&service, &pods, None, None).unwrap();
        let subset = &e.subsets.as_ref().unwrap()[0];
        assert_eq!(subset.addresses.as_ref().unwrap()[0].ip, "10.0.0.1");
        assert_eq!(subset.not_ready_addresses.as_ref().unwrap()[0].ip, "10.0.0.2");
        assert!(is_ours(&e));
        assert_eq!(plan(&service, &pods, Some(&e), None), None);
        let many: Vec<_> = (0..1200).map(|i| pod(i, true)).collect();
        let e = plan(&service, &many, Some(&e), None).unwrap();
        assert_eq!(e.subsets.unwrap()[0].addresses.as_ref().unwrap().len(), 1000);
        assert_eq!(e.metadata.annotations.unwrap()[OVER_CAPACITY], "truncated");
    }

    #[test]
    fn only_the_primary_family_is_listed() {
        let mut pod = (*pod(1, true)).clone();
        let ips = ["10.0.0.1", "fd00::1"].map(|ip| PodIP { ip: ip.into() });
        pod.status.as_mut().unwrap().pod_ips = Some(ips.into());
        let listed = |families: &[&str]| {
            let service = Service {
                metadata: ObjectMeta { name: Some("web".into()), ..Default::default() },
                spec: Some(ServiceSpec {
                    ip_families: Some(families.iter().map(|f| (*f).to_owned()).collect()),
                    ports: Some(vec![ServicePort { port: 80, ..Default::default() }]),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let endpoints = plan(&service, &[Arc::new(pod.clone())], None, None).unwrap();
            let addresses = endpoints.subsets.unwrap()[0].addresses.clone().unwrap();
            addresses.into_iter().map(|address| address.ip).collect::<Vec<_>>()
        };
        assert_eq!(listed(&["IPv4", "IPv6"]), ["10.0.0.1"]);
        assert_eq!(listed(&["IPv6", "IPv4"]), ["fd00::1"]);
    }
}
