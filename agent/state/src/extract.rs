//! Kubernetes objects -> our types. Values that do not parse (an address, a port out of range) are left out and logged:
//! the API server has validated them, and one odd object must not stop the others.
//!
//! May not know: the cache, the watch.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::node::v1 as node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tracing::warn;

use crate::intern::intern;
use crate::world::{
    Endpoint, EndpointPort, EndpointSlice, Hints, HostPort, LbOwner, Namespace, Node, ObjectName, Pod, Protocol, Rare,
    RuntimeClass, Service, ServicePort, ServiceType, SessionAffinity, TrafficPolicy,
};

/// On a Pod or a Namespace, `disabled` keeps the socket hooks away from it; the per-packet path serves it instead.
pub const SOCKET_LB_ANNOTATION: &str = "strake.io/socket-lb";

/// On a Service: how backends are chosen for what comes from outside, `random` or `maglev`.
pub const LB_ALGORITHM: &str = "strake.io/lb-algorithm";

/// On a Service: another proxy than the cluster's own answers it (any value).
pub const SERVICE_PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";

/// `spec.loadBalancerClass` of Services whose addresses are ours to give and to announce; those without a class are too.
const LB_CLASS: &str = "strake.io/lb";

/// The condition of a Service to which our controller gave addresses.
const LB_CONDITION: &str = "strake.io/LoadBalancerAddresses";

/// On a Node: load balancers should look elsewhere (any value).
const EXCLUDED_FROM_LB: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// On an EndpointSlice: its Service is headless, and nothing is to be programmed for it.
pub const HEADLESS: &str = "service.kubernetes.io/headless";

/// On a Node that the cluster autoscaler is about to remove.
const AUTOSCALER_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// On an EndpointSlice: when the change happened that it reflects.
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// The default of `sessionAffinityConfig.clientIP.timeoutSeconds`.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

/// A Kubernetes kind of which a part is kept.
pub trait Extract {
    type Kept;
    /// None when the object is of no use here (an EndpointSlice of no Service, say).
    fn extract(&self) -> Option<Self::Kept>;
}

fn object_name(meta: &ObjectMeta) -> Option<ObjectName> {
    Some(ObjectName::new(intern(meta.namespace.as_deref()?), intern(meta.name.as_deref()?)))
}

fn triggered(meta: &ObjectMeta) -> Option<u64> {
    let time: k8s_openapi::jiff::Timestamp = meta.annotations.as_ref()?.get(TRIGGER_TIME)?.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok()
}

fn opted_out(meta: &ObjectMeta) -> bool {
    meta.annotations
        .as_ref()
        .and_then(|annotations| annotations.get(SOCKET_LB_ANNOTATION))
        .is_some_and(|value| value == "disabled")
}

fn parse<T: std::str::FromStr>(what: &str, of: &ObjectMeta, value: &str) -> Option<T> {
    match value.parse() {
        Ok(parsed) => Some(parsed),
        Err(_) => {
            warn!(what, value, namespace = of.namespace, name = of.name, "value does not parse and is left out");
            None
        }
    }
}

fn parse_all<'a, T: std::str::FromStr>(
    what: &str,
    of: &ObjectMeta,
    values: impl IntoIterator<Item = &'a String>,
) -> Vec<T> {
    kept(values.into_iter().filter_map(|value| parse(what, of, value)))
}

/// A list without room to grow: there are many, and they never do.
fn kept<T>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.shrink_to_fit();
    values
}

/// A range as kube-proxy reads it: objects of older API servers have space around it, zeros before a number, or bits of a
/// host.
fn range(text: &str) -> Option<IpNetwork> {
    let (address, length) = text.split_once('/')?;
    let plain = |number: &str| match number.trim_start_matches('0') {
        "" if !number.is_empty() => "0".to_owned(),
        rest => rest.to_owned(),
    };
    let octets = || address.split('.').map(plain).collect::<Vec<_>>().join(".");
    let address: IpAddr = address.parse().or_else(|_| octets().parse()).ok()?;
    let length = length.bytes().all(|b| b.is_ascii_digit()).then(|| length.parse().ok())??;
    let given = IpNetwork::new(address, length).ok()?;
    IpNetwork::new(given.network(), length).ok()
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some("SCTP") => Some(Protocol::Sctp),
        Some(_) => None,
    }
}

fn port(value: Option<i32>) -> u16 {
    value.and_then(|value| u16::try_from(value).ok()).unwrap_or(0)
}

fn policy(value: Option<&str>) -> TrafficPolicy {
    if value == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

fn lb_owner(service: &core::Service) -> LbOwner {
    let class = service.spec.as_ref().and_then(|spec| spec.load_balancer_class.as_deref());
    let conditions = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
    match class {
        Some(class) if class != LB_CLASS => LbOwner::Other,
        _ if conditions.into_iter().any(|condition| condition.type_ == LB_CONDITION) => LbOwner::Ours,
        _ => LbOwner::Unclaimed,
    }
}

impl Extract for core::Service {
    type Kept = Service;

    fn extract(&self) -> Option<Service> {
        let meta = &self.metadata;
        let spec = self.spec.as_ref()?;
        let service_type = match spec.type_.as_deref() {
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            _ => ServiceType::ClusterIP,
        };
        let headless = spec.cluster_ip.as_deref() == Some("None");
        let mut cluster_ips = Vec::new();
        if !headless && service_type != ServiceType::ExternalName {
            let single = spec.cluster_ip.iter().filter(|ip| !ip.is_empty());
            for ip in single.chain(spec.cluster_ips.iter().flatten()) {
                if let Some(ip) = parse::<IpAddr>("clusterIP", meta, ip)
                    && !cluster_ips.contains(&ip)
                {
                    cluster_ips.push(ip);
                }
            }
        }
        let ingress = self.status.iter().flat_map(|status| status.load_balancer.iter()).flat_map(|lb| &lb.ingress);
        let load_balancer_ips = kept(
            ingress
                .flatten()
                .filter(|ingress| ingress.ip_mode.as_deref().unwrap_or("VIP") == "VIP")
                .filter_map(|ingress| parse("status.loadBalancer.ingress.ip", meta, ingress.ip.as_ref()?)),
        );
        let affinity = if spec.session_affinity.as_deref() == Some("ClientIP") {
            let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
            let timeout = config.and_then(|client| client.timeout_seconds).and_then(|s| u32::try_from(s).ok());
            SessionAffinity::ClientIp { timeout: timeout.filter(|s| *s > 0).unwrap_or(DEFAULT_AFFINITY_SECONDS) }
        } else {
            SessionAffinity::None
        };
        let (mut load_balancer_source_ranges, mut invalid_source_ranges) = (Vec::new(), Vec::new());
        let ranges = spec.load_balancer_source_ranges.iter().flatten().map(|text| text.trim());
        for text in ranges.filter(|text| !text.is_empty()) {
            match range(text) {
                Some(range) => load_balancer_source_ranges.push(range),
                None => invalid_source_ranges.push(text.into()),
            }
        }
        let ports = spec.ports.iter().flatten().filter_map(|p| {
            Some(ServicePort {
                name: intern(p.name.as_deref().unwrap_or_default()),
                protocol: protocol(p.protocol.as_deref())?,
                port: Some(port(Some(p.port))).filter(|port| *port != 0)?,
                node_port: port(p.node_port),
            })
        });
        Some(Service {
            name: object_name(meta)?,
            service_type,
            cluster_ips: kept(cluster_ips.into_iter()),
            headless,
            external_name: spec.external_name.as_deref().map(Into::into),
            external_ips: parse_all("externalIPs", meta, spec.external_ips.iter().flatten()),
            load_balancer_ips,
            lb_owner: lb_owner(self),
            load_balancer_source_ranges,
            invalid_source_ranges,
            ports: kept(ports),
            affinity,
            internal_policy: policy(spec.internal_traffic_policy.as_deref()),
            external_policy: policy(spec.external_traffic_policy.as_deref()),
            publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
            health_check_node_port: port(spec.health_check_node_port),
            lb_algorithm: meta
                .annotations
                .iter()
                .flatten()
                .find(|(key, _)| *key == LB_ALGORITHM)
                .map(|(_, v)| v.as_str().into()),
            other_proxy: meta.labels.iter().flatten().any(|(key, _)| key == SERVICE_PROXY_NAME),
        })
    }
}

fn hints(hints: &discovery::EndpointHints) -> Hints {
    let zones = kept(hints.for_zones.iter().flatten().map(|zone| intern(&zone.name)));
    let nodes = kept(hints.for_nodes.iter().flatten().map(|node| intern(&node.name)));
    Hints { zones, nodes }
}

/// None without an address.
fn endpoint(endpoint: &discovery::Endpoint, slice: &ObjectMeta) -> Option<Endpoint> {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let mut addresses = endpoint.addresses.iter().filter_map(|ip| parse("endpoint address", slice, ip));
    let address = addresses.next()?;
    let rare = Rare {
        more_addresses: kept(addresses),
        hostname: endpoint.hostname.as_deref().map(intern),
        hints: endpoint.hints.as_ref().map(hints).unwrap_or_default(),
    };
    Some(Endpoint {
        address,
        ready,
        serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        node: endpoint.node_name.as_deref().map(intern),
        rare: (rare != Rare::default()).then(|| Box::new(rare)),
    })
}

impl Extract for discovery::EndpointSlice {
    type Kept = EndpointSlice;

    fn extract(&self) -> Option<EndpointSlice> {
        let meta = &self.metadata;
        let name = object_name(meta)?;
        let service = meta.labels.as_ref()?.get("kubernetes.io/service-name").filter(|name| !name.is_empty())?;
        if !matches!(self.address_type.as_str(), "IPv4" | "IPv6") {
            return None;
        }
        let ports = self.ports.iter().flatten().filter_map(|p| {
            Some(EndpointPort {
                name: intern(p.name.as_deref().unwrap_or_default()),
                protocol: protocol(p.protocol.as_deref())?,
                port: Some(port(p.port)).filter(|port| *port != 0)?,
            })
        });
        let endpoints = self.endpoints.iter().flatten().filter_map(|each| endpoint(each, meta));
        Some(EndpointSlice {
            service: ObjectName::new(name.namespace.clone(), intern(service)),
            ports: kept(ports),
            endpoints: endpoints.collect(),
            triggered_ms: triggered(meta),
            name,
        })
    }
}

impl Extract for core::Node {
    type Kept = Node;

    fn extract(&self) -> Option<Node> {
        let meta = &self.metadata;
        let status = self.status.as_ref();
        let addresses = |kind: &str| -> Vec<IpAddr> {
            let all = status.iter().flat_map(|status| status.addresses.iter().flatten());
            all.filter(|address| address.type_ == kind)
                .filter_map(|address| parse("status.addresses", meta, &address.address))
                .collect()
        };
        let spec = self.spec.as_ref();
        let mut pod_cidrs: Vec<IpNetwork> =
            parse_all("spec.podCIDRs", meta, spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten()));
        if pod_cidrs.is_empty() {
            pod_cidrs = parse_all("spec.podCIDR", meta, spec.iter().flat_map(|spec| spec.pod_cidr.iter()));
        }
        let conditions = status.iter().flat_map(|status| status.conditions.iter().flatten());
        Some(Node {
            name: meta.name.as_deref()?.into(),
            internal_ips: addresses("InternalIP"),
            external_ips: addresses("ExternalIP"),
            pod_cidrs,
            zone: meta.labels.as_ref().and_then(|l| l.get("topology.kubernetes.io/zone")).map(|z| z.as_str().into()),
            ready: conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True"),
            leaving: meta.deletion_timestamp.is_some()
                || spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == AUTOSCALER_TAINT),
            excluded_from_lb: meta.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED_FROM_LB)),
        })
    }
}

impl Extract for core::Pod {
    type Kept = Pod;

    fn extract(&self) -> Option<Pod> {
        let meta = &self.metadata;
        let spec = self.spec.as_ref()?;
        let status = self.status.as_ref();
        let mut ips: Vec<IpAddr> = Vec::new();
        let single = status.and_then(|status| status.pod_ip.as_ref());
        let several = status.iter().flat_map(|status| status.pod_ips.iter().flatten()).map(|ip| &ip.ip);
        for ip in single.into_iter().chain(several).filter(|ip| !ip.is_empty()) {
            if let Some(ip) = parse("status.podIPs", meta, ip)
                && !ips.contains(&ip)
            {
                ips.push(ip);
            }
        }
        let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let host_ports = containers.flat_map(|container| container.ports.iter().flatten()).filter_map(|p| {
            Some(HostPort {
                protocol: protocol(p.protocol.as_deref())?,
                container_port: port(Some(p.container_port)),
                host_port: Some(port(p.host_port)).filter(|port| *port != 0)?,
                host_ip: p.host_ip.as_deref().filter(|ip| !ip.is_empty()).and_then(|ip| ip.parse().ok()),
            })
        });
        let phase = status.and_then(|status| status.phase.as_deref());
        let owner = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        Some(Pod {
            name: object_name(meta)?,
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            node: spec.node_name.as_deref().filter(|node| !node.is_empty()).map(intern),
            ips: kept(ips.into_iter()),
            host_network: spec.host_network.unwrap_or(false),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            runtime_class: spec.runtime_class_name.as_deref().filter(|class| !class.is_empty()).map(Into::into),
            socket_lb_disabled: opted_out(meta),
            host_ports: kept(host_ports),
            owner: owner.map(|owner| owner.name.as_str().into()),
        })
    }
}

impl Extract for core::Namespace {
    type Kept = Namespace;

    fn extract(&self) -> Option<Namespace> {
        Some(Namespace { name: self.metadata.name.as_deref()?.into(), socket_lb_disabled: opted_out(&self.metadata) })
    }
}

impl Extract for node::RuntimeClass {
    type Kept = RuntimeClass;

    fn extract(&self) -> Option<RuntimeClass> {
        Some(RuntimeClass { name: self.metadata.name.as_deref()?.into(), handler: self.handler.as_str().into() })
    }
}
