//! `World -> Desired`: what kube-proxy and CoreDNS would do, as map contents. Pure: the same world gives the same
//! result, and no Kubernetes type is known below this line.
//!
//! ```text
//!  Service port ──► endpoints (ready; terminating if none is; node-local ones) ──► sets "cluster" and "local"
//!       │                                                                              ▲
//!       └─► frontends:  ClusterIP (internal)  externalIP, LB IP, NodePort (both scopes)┘
//! ```
//!
//! Each family of a Service is compiled by itself: its IPv6 addresses lead to its IPv6 endpoints.
//!
//! | frontend | scope | backends | none |
//! |---|---|---|---|
//! | ClusterIP | internal | `internalTrafficPolicy` | reject; drop if Local and another node has some |
//! | externalIP, LB IP, NodePort | internal (Pods, the node) | cluster | reject |
//! | externalIP, LB IP, NodePort | external | `externalTrafficPolicy` | as above |
//!
//! A LoadBalancer IP may be restricted to source ranges: see `sources`. The others never are.
//!
//! May not know: what the kernel holds already.

mod dns;
mod endpoints;
mod hostports;
mod node;
mod sources;
mod topology;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use strake_abi::addr::{Addr6, Port};
use strake_abi::service::{
    SCOPE_EXTERNAL, SCOPE_INTERNAL, SERVICE_DROP_IF_EMPTY, SERVICE_DSR, SERVICE_NODE_PORT, ServiceKey6,
};
use strake_state::{LB_ALGORITHM, ObjectName, Protocol, Service, ServicePort, SessionAffinity, TrafficPolicy, World};

use crate::check::AFFINITY_MAX_S;
use crate::config::{Config, LbAlgorithm, LbMode};
use crate::desired::{Desired, Frontend, Set, Warning};
use crate::hash::HashMap;

pub(crate) use dns::service_name;
pub use node::Runtime;
use node::{NodeView, node_config, nodes};
use sources::Sources;

/// Compiles a snapshot for the node of `config`.
pub fn compile(world: &World, config: &Config, runtime: Runtime) -> Desired {
    let node = NodeView::of(world, config);
    let nodes = nodes(world, &node);
    let mut desired = start(config, &node, runtime);
    (desired.nodes, desired.zone) = (nodes, dns::zone(config));
    let mut compiler = Compiler::new(world, config, node, &mut desired);
    world.services.values().for_each(|service| compiler.service(service));
    compiler.host_ports();
    desired.in_order()
}

/// Compiles some Services as if there were nothing else: no other Service, no hostPort, no other node.
pub(crate) fn compile_services(
    world: &World,
    config: &Config,
    runtime: Runtime,
    names: &BTreeSet<ObjectName>,
) -> Desired {
    let node = NodeView::of(world, config);
    let mut desired = start(config, &node, runtime);
    let mut compiler = Compiler::new(world, config, node, &mut desired);
    names.iter().filter_map(|name| world.services.get(name)).for_each(|service| compiler.service(service));
    desired.in_order()
}

fn start(config: &Config, node: &NodeView, runtime: Runtime) -> Desired {
    Desired { config: node_config(config, node, runtime), ..Desired::default() }
}

/// Whether Pods of other nodes can be sent what comes from outside as it came; else why not.
pub(crate) fn returns_directly(world: &World, config: &Config) -> Result<(), &'static str> {
    if config.lb_mode == LbMode::Snat || !config.services {
        return Err("");
    }
    // Where Pods' interfaces are another plugin's, this is what a Pod's node knows it by.
    if !config.host_ports && world.nodes.values().any(|node| node.pod_cidrs.is_empty()) {
        return Err("a Node has no podCIDR, by which it would know what is for its Pods: sources are translated");
    }
    Ok(())
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn of(ip: &IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The address of NodePorts.
    fn any(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    /// Whether a Service is served in this family: it has a ClusterIP of it (or, with none at all, an external IP).
    fn serves(self, service: &Service) -> bool {
        let ips = if service.cluster_ips.is_empty() { &service.external_ips } else { &service.cluster_ips };
        ips.iter().any(|ip| Self::of(ip) == self)
    }
}

/// Which kind of frontend an address is. When two Services claim one address and port, the lower kind wins, then the
/// Service that comes first by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum FrontendKind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    External,
    HostPort,
}

impl FrontendKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer IP",
            Self::External => "external IP",
            Self::HostPort => "hostPort",
        }
    }
}

struct Compiler<'a> {
    world: &'a World,
    config: &'a Config,
    node: NodeView,
    /// Who has a key: its kind, its Service and its index in `desired.frontends`.
    taken: HashMap<ServiceKey6, (FrontendKind, Box<str>, usize)>,
    /// Why what comes from outside is translated, where it is not to be.
    direct: Result<(), &'static str>,
    /// The index of each list in `desired.source_lists`.
    source_lists: HashMap<Vec<IpNetwork>, usize>,
    desired: &'a mut Desired,
}

/// The two sets of a Service port in one family, made when the first frontend needs one.
struct Sets<'a> {
    family: Family,
    selection: endpoints::Selection,
    service: &'a Service,
    port: &'a ServicePort,
    /// Of its LoadBalancer IPs.
    sources: Sources,
    algorithm: LbAlgorithm,
    cluster: Option<usize>,
    local: Option<usize>,
}

impl<'a> Compiler<'a> {
    fn new(world: &'a World, config: &'a Config, node: NodeView, desired: &'a mut Desired) -> Self {
        let (taken, source_lists, direct) = (HashMap::default(), HashMap::default(), returns_directly(world, config));
        Self { world, config, node, taken, direct, source_lists, desired }
    }
}

impl Compiler<'_> {
    fn service(&mut self, service: &Service) {
        if service.headless {
            return;
        }
        let object: Box<str> = service.name.to_string().into();
        let first_ip = service.cluster_ips.iter().filter(|ip| endpoints::is_endpoint(**ip)).find_map(v4);
        let mut first_set = None;
        // The DNS server's own address is answered at from_pod or by the agent, never load-balanced.
        let is_dns = service.cluster_ips.iter().filter_map(v4).any(|ip| self.config.is_dns(ip));
        if is_dns && Family::V6.serves(service) {
            self.warn(&object, "is the cluster DNS, which answers at its IPv4 address only".into());
        }
        if !is_dns && !service.other_proxy && self.config.services {
            let ips = service.cluster_ips.iter().copied().filter(|ip| endpoints::is_endpoint(*ip));
            self.desired.cluster_ips.extend(ips.map(Addr6::from));
            self.warn_of_addresses(&object, service);
            let algorithm = self.algorithm(&object, service);
            let sources = Family::ALL.map(|family| self.sources(&object, service, family));
            for port in &service.ports {
                // No socket hook sees SCTP, and where the Pods' interfaces are another plugin's, no packet of theirs either.
                if port.protocol == Protocol::Sctp && !self.config.host_ports {
                    let only = "is served to clients outside of the cluster only: Pods' packets pass another plugin";
                    self.warn(&object, format!("port {}/SCTP {only}", port.port));
                }
                for (family, sources) in Family::ALL.into_iter().zip(sources).filter(|(f, _)| f.serves(service)) {
                    let selection = endpoints::select(self.world, &self.node, service, port, family);
                    let mut sets =
                        Sets { family, selection, service, port, sources, algorithm, cluster: None, local: None };
                    self.port(&object, &mut sets);
                    first_set = first_set.or(sets.cluster).or(sets.local);
                }
            }
        }
        if let Some(ip) = first_ip.filter(|_| self.config.dns) {
            match dns::name(service, ip, first_set, self.config) {
                Some(name) => self.desired.names.push(name),
                None => self.warn(&object, "has a name too long for the kernel; the agent answers it".into()),
            }
        }
    }

    /// Addresses of a family that the Service does not have, or that no packet has.
    fn warn_of_addresses(&mut self, object: &str, service: &Service) {
        let outside = || service.external_ips.iter().chain(&service.load_balancer_ips);
        for ip in service.cluster_ips.iter().chain(outside()).filter(|ip| !endpoints::is_endpoint(**ip)) {
            self.warn(object, format!("{ip} is no address that a packet can be sent to, and is not served"));
        }
        for ip in outside().filter(|ip| !Family::of(ip).serves(service)) {
            self.warn(object, format!("{ip} is of another family than its ClusterIPs, and is not served"));
        }
    }

    fn port(&mut self, object: &str, sets: &mut Sets<'_>) {
        let Sets { family, service, port, .. } = *sets;
        let ours = |ip: &&IpAddr| Family::of(ip) == family && endpoints::is_endpoint(**ip);
        for ip in service.cluster_ips.iter().filter(ours) {
            let key = key(*ip, port.port, port, SCOPE_INTERNAL);
            self.frontend(object, FrontendKind::ClusterIp, key, service.internal_policy, 0, sets);
        }
        let outside = service.external_policy;
        let mut both = |compiler: &mut Self, kind, ip: IpAddr, number: u16, flags: u32| {
            let internal = key(ip, number, port, SCOPE_INTERNAL);
            // Pods and the node itself are short-circuited to the cluster's endpoints, as kube-proxy does it.
            compiler.frontend(object, kind, internal, TrafficPolicy::Cluster, flags, sets);
            let external = key(ip, number, port, SCOPE_EXTERNAL);
            compiler.frontend(object, kind, external, outside, flags, sets);
        };
        let (first, last) = self.config.node_ports;
        if port.node_port != 0 && !(first..=last).contains(&port.node_port) {
            let message = format!("nodePort {} is not within {first}-{last}, and is not served", port.node_port);
            self.warn(object, message);
        } else if port.node_port != 0 {
            both(self, FrontendKind::NodePort, family.any(), port.node_port, SERVICE_NODE_PORT);
        }
        for ip in service.load_balancer_ips.iter().filter(ours) {
            both(self, FrontendKind::LoadBalancer, *ip, port.port, 0);
        }
        for ip in service.external_ips.iter().filter(ours) {
            both(self, FrontendKind::External, *ip, port.port, 0);
        }
    }

    fn frontend(
        &mut self,
        object: &str,
        kind: FrontendKind,
        key: ServiceKey6,
        policy: TrafficPolicy,
        flags: u32,
        sets: &mut Sets<'_>,
    ) {
        if key.port.get() == 0 || key.addr.v4().is_some_and(|ip| self.config.is_dns(ip.into())) {
            return;
        }
        let index = match self.taken.get(&key) {
            Some((other_kind, other, _)) if *other_kind <= kind => {
                // One Service may list an address twice.
                if **other != *object {
                    self.desired.contested.insert(key);
                    let shown = crate::desired::ShowKey(&key).to_string();
                    let message = format!("{} {shown} belongs to {} of {other}", kind.as_str(), other_kind.as_str());
                    self.warn(object, message);
                }
                return;
            }
            Some((other_kind, other, index)) => {
                let (other, index) = (other.clone(), *index);
                self.desired.contested.insert(key);
                let shown = crate::desired::ShowKey(&key).to_string();
                let message = format!("{} {shown} belongs to {} of {object}", other_kind.as_str(), kind.as_str());
                self.warn(&other, message);
                Some(index)
            }
            None => None,
        };
        let set = self.set(policy, sets);
        if key.scope == SCOPE_EXTERNAL && sets.algorithm == LbAlgorithm::Maglev {
            self.desired.sets[set].maglev = true;
        }
        let drop_if_empty = policy == TrafficPolicy::Local && sets.selection.anywhere;
        let sources = if kind == FrontendKind::LoadBalancer { sets.sources } else { Sources::default() };
        let direct = key.scope == SCOPE_EXTERNAL && self.direct.is_ok() && policy == TrafficPolicy::Cluster;
        let flags = flags
            | sources.flags
            | if drop_if_empty { SERVICE_DROP_IF_EMPTY } else { 0 }
            | if direct { SERVICE_DSR } else { 0 };
        let frontend = Frontend { key, set, sources: sources.list, flags };
        let index = match index {
            Some(index) => {
                self.desired.frontends[index] = frontend;
                index
            }
            None => {
                self.desired.frontends.push(frontend);
                self.desired.frontends.len() - 1
            }
        };
        self.taken.insert(key, (kind, object.into(), index));
    }

    fn set(&mut self, policy: TrafficPolicy, sets: &mut Sets<'_>) -> usize {
        let Sets { family, selection, service, port, cluster, local, .. } = sets;
        let (slot, chosen) = match policy {
            TrafficPolicy::Cluster => (cluster, &selection.cluster),
            TrafficPolicy::Local => (local, &selection.local),
        };
        *slot.get_or_insert_with(|| {
            let suffix = if policy == TrafficPolicy::Local { " (node-local)" } else { "" };
            let six = if *family == Family::V6 { " IPv6" } else { "" };
            let affinity_timeout_s = match service.affinity {
                SessionAffinity::None => 0,
                SessionAffinity::ClientIp { timeout } => timeout.min(AFFINITY_MAX_S),
            };
            // A remembered choice is valid while it is a member. With ClientIP affinity that would send *new*
            // connections to a terminating endpoint, so there the members are the slice alone.
            let lingers = port.protocol == Protocol::Udp && affinity_timeout_s == 0;
            self.desired.sets.push(Set {
                owner: format!("{}:{}/{}{six}{suffix}", service.name, port.port, port.protocol).into(),
                proto: port.protocol.number(),
                affinity_timeout_s,
                backends: chosen.backends.clone(),
                lingering: if lingers { chosen.lingering.clone() } else { Vec::new() },
                maglev: false,
            });
            self.desired.sets.len() - 1
        })
    }

    fn algorithm(&mut self, object: &str, service: &Service) -> LbAlgorithm {
        let Some(asked) = &service.lb_algorithm else { return self.config.lb_algorithm };
        asked.parse().unwrap_or_else(|error| {
            let default = self.config.lb_algorithm;
            self.warn(object, format!("annotation {LB_ALGORITHM}: {error}; it is served as {}", default.as_str()));
            default
        })
    }

    fn warn(&mut self, object: &str, message: String) {
        self.desired.warnings.push(Warning { object: object.into(), message: message.into() });
    }
}

fn key(ip: IpAddr, number: u16, port: &ServicePort, scope: u8) -> ServiceKey6 {
    ServiceKey6 { addr: ip.into(), port: Port::new(number), proto: port.protocol.number(), scope }
}

fn v4(ip: &IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    }
}
