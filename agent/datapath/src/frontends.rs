//! Every frontend that the maps hold or should hold, with its Service and what stands behind it.
//!
//! May not know: who asks.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;
use strake_abi::service::{SCOPE_EXTERNAL, SERVICE_NODE_PORT, Service as Row, ServiceKey6};
use strake_state::{Service, ServicePort, TrafficPolicy, World};

use crate::desired::{ShowKey, key_order};
use crate::maps::MapsError;
use crate::names::Owner;
use crate::trace::outcome;
use crate::view::View;

/// Where a Service can be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Addresses {
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<IpAddr>,
    pub node_ports: Vec<u16>,
    #[serde(rename = "loadBalancerIPs")]
    pub load_balancer_ips: Vec<IpAddr>,
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<IpAddr>,
}

/// A frontend. What the API says of its Service is empty for a Pod's hostPort, and while the cluster is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendRow {
    pub namespace: String,
    /// `pod/NAME` for a hostPort.
    pub name: String,
    /// `10.96.0.1:443/TCP internal`.
    pub frontend: String,
    /// Alone; `::` or `0.0.0.0` for a NodePort.
    #[serde(skip)]
    pub address: IpAddr,
    /// A sentence.
    pub outcome: String,
    pub backends: Vec<SocketAddr>,
    /// [`strake_abi::service::Service::id`]; 0 when the row is missing.
    pub id: u32,
    /// Which of its addresses this is: ClusterIP, NodePort, LoadBalancer, ExternalIP, HostPort.
    pub kind: &'static str,
    #[serde(rename = "type")]
    pub service_type: Option<String>,
    pub addresses: Addresses,
    pub affinity_seconds: u32,
    /// Of this frontend: what outsiders ask for heeds the external policy, a ClusterIP the internal one.
    pub policy: &'static str,
    pub internal_traffic_policy: Option<&'static str>,
    pub external_traffic_policy: Option<&'static str>,
    /// Backends that new connections go to.
    pub ready: usize,
    /// Endpoints that its Service has for this port and family, in whatever condition.
    pub total: usize,
}

impl View {
    /// Hands each frontend to `each`, ordered by Service, until that has enough.
    pub fn frontends(&self, mut each: impl FnMut(FrontendRow) -> ControlFlow<()>) -> Result<(), MapsError> {
        let mut rows = self.services()?;
        let wanted = self.names.wanted().iter().map(|(key, owner)| (*key, Some(owner.clone())));
        let mut all: Vec<(ServiceKey6, Option<Arc<Owner>>, Option<Row>)> =
            wanted.map(|(key, owner)| (key, owner, rows.remove(&key))).collect();
        // Held, and not asked for: of a snapshot before the agent's start, until the first of its own.
        all.extend(rows.into_iter().map(|(key, row)| (key, None, Some(row))));
        let order = |owner: &Option<Arc<Owner>>| owner.as_ref().map(|owner| (owner.host_port, owner.name.clone()));
        all.sort_by_cached_key(|(key, owner, _)| (order(owner), key_order(key)));
        for (key, owner, row) in all {
            let frontend = self.frontend(&key, owner.as_deref(), row.as_ref())?;
            if each(frontend).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn frontend(&self, key: &ServiceKey6, owner: Option<&Owner>, row: Option<&Row>) -> Result<FrontendRow, MapsError> {
        let service = owner.and_then(Owner::service).and_then(|name| self.names.service(name));
        let slice = row.map(|row| self.slice(row)).transpose()?.unwrap_or_default();
        let backends: Vec<_> = slice.iter().map(|b| SocketAddr::new(b.addr.ip(), b.port.get())).collect();
        let node_port = row.is_some_and(|row| row.flags & SERVICE_NODE_PORT != 0);
        let kind = kind(key.addr.ip(), node_port, owner, service.map(|service| &**service));
        let port = service.and_then(|service| {
            let ours = |p: &&ServicePort| owner.is_some_and(|o| o.port == p.port) && p.protocol.number() == key.proto;
            service.ports.iter().find(ours)
        });
        let total = match (service, port) {
            (Some(service), Some(port)) => endpoints(&self.names.world, service, port, key.addr.ip()),
            _ => backends.len(),
        };
        let policy = |of: fn(&Service) -> TrafficPolicy| service.map(|service| policy_name(of(service)));
        let (internal, external) = (policy(|s| s.internal_policy), policy(|s| s.external_policy));
        Ok(FrontendRow {
            namespace: owner.map_or_else(|| "-".into(), |owner| owner.name.namespace.to_string()),
            name: match owner {
                None => "-".into(),
                Some(owner) if owner.host_port => format!("pod/{}", owner.name.name),
                Some(owner) => owner.name.name.to_string(),
            },
            frontend: ShowKey(key).to_string(),
            address: key.addr.ip(),
            outcome: row.map_or_else(|| "not programmed: the row is missing".into(), outcome),
            id: row.map_or(0, |row| row.id),
            kind,
            service_type: service.map(|service| format!("{:?}", service.service_type)),
            addresses: service.map(|service| addresses(service)).unwrap_or_default(),
            affinity_seconds: row.map_or(0, |row| row.affinity_timeout_s),
            policy: match (key.scope, kind) {
                (SCOPE_EXTERNAL, _) => external.unwrap_or("Cluster"),
                (_, "ClusterIP") => internal.unwrap_or("Cluster"),
                // The node and its Pods reach every endpoint there, as kube-proxy has it.
                _ => "Cluster",
            },
            internal_traffic_policy: internal,
            external_traffic_policy: external,
            ready: backends.len(),
            total,
            backends,
        })
    }
}

fn policy_name(policy: TrafficPolicy) -> &'static str {
    match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    }
}

fn kind(ip: IpAddr, node_port: bool, owner: Option<&Owner>, service: Option<&Service>) -> &'static str {
    match (owner, service) {
        _ if node_port => "NodePort",
        (Some(owner), _) if owner.host_port => "HostPort",
        (_, Some(service)) if service.cluster_ips.contains(&ip) => "ClusterIP",
        (_, Some(service)) if service.load_balancer_ips.contains(&ip) => "LoadBalancer",
        (_, Some(_)) => "ExternalIP",
        _ => "unknown",
    }
}

fn addresses(service: &Service) -> Addresses {
    let node_ports: Vec<u16> = service.ports.iter().map(|port| port.node_port).filter(|port| *port != 0).collect();
    Addresses {
        cluster_ips: service.cluster_ips.clone(),
        node_ports,
        load_balancer_ips: service.load_balancer_ips.clone(),
        external_ips: service.external_ips.clone(),
    }
}

/// How many endpoints a Service port has in the family of `ip`.
fn endpoints(world: &World, service: &Service, port: &ServicePort, ip: IpAddr) -> usize {
    let mut found = HashSet::new();
    for slice in world.slices_of(&service.name) {
        for number in slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol) {
            let first = slice.endpoints.iter().map(|endpoint| endpoint.address);
            found.extend(first.filter(|a| a.is_ipv4() == ip.is_ipv4()).map(|address| (address, number.port)));
        }
    }
    found.len()
}
