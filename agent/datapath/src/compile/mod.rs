//! `World -> Desired`: what kube-proxy and CoreDNS would do, as map contents. Pure: the same world gives the same
//! result, and no Kubernetes type is known below this line.
//!
//! ```text
//!  Service port ──► endpoints (ready; terminating if none is; node-local ones) ──► sets "cluster" and "local"
//!       │                                                                              ▲
//!       └─► frontends:  ClusterIP (internal)  externalIP, LB IP, NodePort (both scopes)┘
//! ```
//!
//! | frontend | scope | backends | none |
//! |---|---|---|---|
//! | ClusterIP | internal | `internalTrafficPolicy` | reject; drop if Local and another node has some |
//! | externalIP, LB IP, NodePort | internal (Pods, the node) | cluster | reject |
//! | externalIP, LB IP, NodePort | external | `externalTrafficPolicy` | as above |
//!
//! May not know: what the kernel holds already.

mod dns;
mod endpoints;
mod topology;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use strake_abi::addr::{Addr4, Cidr4, Port};
use strake_abi::config::{self as abi_config};
use strake_abi::endpoint::{NODE_LOCAL, NODE_REMOTE};
use strake_abi::service::{SCOPE_EXTERNAL, SCOPE_INTERNAL, SERVICE_DROP_IF_EMPTY, SERVICE_NODE_PORT, ServiceKey};
use strake_state::{Protocol, Service, ServicePort, SessionAffinity, TrafficPolicy, World};

use crate::config::Config;
use crate::desired::{Desired, Frontend, Set, Warning, key_order};

pub(crate) use dns::service_name;

/// Idle seconds of flows in the packet path, as nf_conntrack has them by default.
const UDP_TIMEOUT_S: u32 = 120;
const TCP_TIMEOUT_S: u32 = 86_400;
const TCP_CLOSING_TIMEOUT_S: u32 = 120;

/// What is known of the running node beside its configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// 0 if there is no uplink.
    pub uplink_ifindex: u32,
    /// 0 if unknown.
    pub host_netns_cookie: u64,
}

/// Compiles a snapshot for the node of `config`.
pub fn compile(world: &World, config: &Config, runtime: Runtime) -> Desired {
    let node = NodeView::of(world, config);
    let mut desired = Desired {
        config: node_config(config, &node, runtime),
        nodes: nodes(world, &node),
        zone: dns::zone(config),
        ..Desired::default()
    };
    let mut compiler = Compiler { world, config, node, taken: HashMap::new(), desired: &mut desired };
    for service in world.services.values() {
        compiler.service(service);
    }
    desired.frontends.sort_by_key(|frontend| key_order(&frontend.key));
    desired.cluster_ips.sort();
    desired.cluster_ips.dedup();
    desired.warnings.sort();
    desired
}

/// This node's addresses, from the configuration or the Node object.
pub(crate) struct NodeView {
    name: Box<str>,
    ip: Option<Ipv4Addr>,
    addresses: Vec<Ipv4Addr>,
    pod_cidr: Option<ipnetwork::Ipv4Network>,
    zone: Option<Box<str>>,
}

impl NodeView {
    fn of(world: &World, config: &Config) -> Self {
        let object = world.nodes.get(config.node_name.as_str());
        let mut addresses: Vec<Ipv4Addr> = config.node_ip.into_iter().collect();
        for ip in object.iter().flat_map(|node| node.internal_ips.iter().chain(&node.external_ips)) {
            if let IpAddr::V4(ip) = ip
                && !addresses.contains(ip)
            {
                addresses.push(*ip);
            }
        }
        let assigned = object.iter().flat_map(|node| &node.pod_cidrs).find_map(|cidr| match cidr {
            IpNetwork::V4(cidr) => Some(*cidr),
            IpNetwork::V6(_) => None,
        });
        Self {
            name: config.node_name.as_str().into(),
            ip: addresses.first().copied(),
            addresses,
            pod_cidr: config.pod_cidr.or(assigned),
            zone: object.and_then(|node| node.zone.clone()),
        }
    }
}

fn cidr(network: ipnetwork::Ipv4Network) -> Cidr4 {
    Cidr4::new(network.ip(), network.prefix())
}

fn node_config(config: &Config, node: &NodeView, runtime: Runtime) -> abi_config::Config {
    let flag = |on: bool, bit: u32| if on { bit } else { 0 };
    abi_config::Config {
        abi_version: strake_abi::ABI_VERSION,
        flags: flag(config.masquerade && runtime.uplink_ifindex != 0 && node.ip.is_some(), abi_config::MASQUERADE)
            | flag(config.dns, abi_config::DNS)
            | flag(config.track_all, abi_config::TRACK_ALL)
            | flag(config.events, abi_config::EVENTS)
            // Another proxy's translation sits between the Pods, in the node's own stack.
            | flag(config.services, abi_config::DIRECT),
        node_ip: node.ip.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
        cluster_dns: if config.dns { config.cluster_dns } else { Ipv4Addr::UNSPECIFIED }.into(),
        pod_gateway: config.pod_gateway.into(),
        uplink_ifindex: runtime.uplink_ifindex,
        pod_cidr: node.pod_cidr.map(cidr).unwrap_or_default(),
        cluster_cidr: cidr(config.cluster_cidr),
        // Another proxy's Services are not ours to refuse.
        service_cidr: if config.services { cidr(config.service_cidr) } else { Cidr4::default() },
        snat_port_min: config.snat_ports.0,
        snat_port_max: config.snat_ports.1,
        node_port_min: config.node_ports.0,
        node_port_max: config.node_ports.1,
        host_netns_cookie: runtime.host_netns_cookie,
        event_quiet_us: strake_abi::flow::EVENT_QUIET_US,
        udp_timeout_s: UDP_TIMEOUT_S,
        tcp_timeout_s: TCP_TIMEOUT_S,
        tcp_closing_timeout_s: TCP_CLOSING_TIMEOUT_S,
        ..abi_config::Config::default()
    }
}

fn nodes(world: &World, this: &NodeView) -> Vec<(Addr4, u32)> {
    let mut rows: HashMap<Addr4, u32> = HashMap::new();
    for node in world.nodes.values().filter(|node| node.name != this.name) {
        for ip in node.internal_ips.iter().chain(&node.external_ips) {
            if let IpAddr::V4(ip) = ip {
                rows.insert((*ip).into(), NODE_REMOTE);
            }
        }
    }
    for ip in this.addresses.iter().chain([&Ipv4Addr::LOCALHOST]) {
        rows.insert((*ip).into(), NODE_LOCAL);
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort();
    rows
}

/// Which kind of frontend an address is. When two Services claim one address and port, the lower kind wins, then the
/// Service that comes first by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum FrontendKind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    External,
}

impl FrontendKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer IP",
            Self::External => "external IP",
        }
    }
}

struct Compiler<'a> {
    world: &'a World,
    config: &'a Config,
    node: NodeView,
    /// Who has a key: its kind, its Service and its index in `desired.frontends`.
    taken: HashMap<ServiceKey, (FrontendKind, Box<str>, usize)>,
    desired: &'a mut Desired,
}

/// The two sets of a Service port, made when the first frontend needs one.
struct Sets<'a> {
    selection: endpoints::Selection,
    service: &'a Service,
    port: &'a ServicePort,
    cluster: Option<usize>,
    local: Option<usize>,
}

impl Compiler<'_> {
    fn service(&mut self, service: &Service) {
        let object: Box<str> = service.name.to_string().into();
        let mut cluster_ips: Vec<Ipv4Addr> = service.cluster_ips.iter().filter_map(v4).collect();
        // The DNS server's own address is answered at from_pod or by the agent, never load-balanced.
        let is_dns = cluster_ips.iter().any(|ip| self.config.is_dns(*ip));
        let ours = !is_dns && !service.other_proxy && self.config.services;
        if service.headless || (cluster_ips.is_empty() && service.external_ips.is_empty()) {
            if !service.headless && !service.cluster_ips.is_empty() {
                self.warn(&object, "has IPv6 addresses only, which are not served yet".into());
            }
            return;
        }
        let first_ip = cluster_ips.first().copied();
        cluster_ips.retain(|ip| !self.config.is_dns(*ip));
        if ours {
            self.desired.cluster_ips.extend(cluster_ips.iter().map(|ip| Addr4::from(*ip)));
        }

        let mut first_set = None;
        if ours {
            for port in &service.ports {
                if port.protocol == Protocol::Sctp {
                    self.warn(&object, format!("port {}/SCTP is not served yet", port.port));
                    continue;
                }
                let selection = endpoints::select(self.world, &self.node, service, port);
                let mut sets = Sets { selection, service, port, cluster: None, local: None };
                self.port(&object, &cluster_ips, &mut sets);
                first_set = first_set.or(sets.cluster).or(sets.local);
            }
        }
        if let Some(ip) = first_ip.filter(|_| self.config.dns) {
            match dns::name(service, ip, first_set, self.config) {
                Some(name) => self.desired.names.push(name),
                None => self.warn(&object, "has a name too long for the kernel; the agent answers it".into()),
            }
        }
    }

    fn port(&mut self, object: &str, cluster_ips: &[Ipv4Addr], sets: &mut Sets<'_>) {
        let Sets { service, port, .. } = *sets;
        for ip in cluster_ips {
            let key = key(*ip, port.port, port, SCOPE_INTERNAL);
            self.frontend(object, FrontendKind::ClusterIp, key, service.internal_policy, 0, sets);
        }
        let outside = service.external_policy;
        let mut both = |compiler: &mut Self, kind, ip: Ipv4Addr, number: u16, flags: u32| {
            let internal = key(ip, number, port, SCOPE_INTERNAL);
            // Pods and the node itself are short-circuited to the cluster's endpoints, as kube-proxy does it.
            compiler.frontend(object, kind, internal, TrafficPolicy::Cluster, flags, sets);
            let external = key(ip, number, port, SCOPE_EXTERNAL);
            compiler.frontend(object, kind, external, outside, flags, sets);
        };
        if port.node_port != 0 {
            both(self, FrontendKind::NodePort, Ipv4Addr::UNSPECIFIED, port.node_port, SERVICE_NODE_PORT);
        }
        if service.load_balancer_source_ranges.is_empty() {
            for ip in service.load_balancer_ips.iter().filter_map(v4) {
                both(self, FrontendKind::LoadBalancer, ip, port.port, 0);
            }
        } else if !service.load_balancer_ips.is_empty() {
            let message = "loadBalancerSourceRanges is not enforced yet, so its LoadBalancer IPs are not served";
            self.warn(object, message.into());
        }
        for ip in service.external_ips.iter().filter_map(v4) {
            both(self, FrontendKind::External, ip, port.port, 0);
        }
    }

    fn frontend(
        &mut self,
        object: &str,
        kind: FrontendKind,
        key: ServiceKey,
        policy: TrafficPolicy,
        flags: u32,
        sets: &mut Sets<'_>,
    ) {
        if key.port.get() == 0 || self.config.is_dns(key.addr.into()) {
            return;
        }
        let index = match self.taken.get(&key) {
            Some((other_kind, other, _)) if *other_kind <= kind => {
                // One Service may list an address twice.
                if **other != *object {
                    let shown = crate::desired::ShowKey(&key).to_string();
                    let message = format!("{} {shown} belongs to {} of {other}", kind.as_str(), other_kind.as_str());
                    self.warn(object, message);
                }
                return;
            }
            Some((other_kind, other, index)) => {
                let (other, index) = (other.clone(), *index);
                let shown = crate::desired::ShowKey(&key).to_string();
                let message = format!("{} {shown} belongs to {} of {object}", other_kind.as_str(), kind.as_str());
                self.warn(&other, message);
                Some(index)
            }
            None => None,
        };
        let set = self.set(policy, sets);
        let drop_if_empty = policy == TrafficPolicy::Local && sets.selection.anywhere;
        let frontend = Frontend { key, set, flags: flags | if drop_if_empty { SERVICE_DROP_IF_EMPTY } else { 0 } };
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
        let Sets { selection, service, port, cluster, local } = sets;
        let (slot, chosen) = match policy {
            TrafficPolicy::Cluster => (cluster, &selection.cluster),
            TrafficPolicy::Local => (local, &selection.local),
        };
        *slot.get_or_insert_with(|| {
            let suffix = if policy == TrafficPolicy::Local { " (node-local)" } else { "" };
            let affinity_timeout_s = match service.affinity {
                SessionAffinity::None => 0,
                SessionAffinity::ClientIp { timeout } => timeout,
            };
            // A remembered choice is valid while it is a member. With ClientIP affinity that would send *new*
            // connections to a terminating endpoint, so there the members are the slice alone.
            let lingers = port.protocol == Protocol::Udp && affinity_timeout_s == 0;
            self.desired.sets.push(Set {
                owner: format!("{}:{}/{}{suffix}", service.name, port.port, port.protocol).into(),
                proto: port.protocol.number(),
                affinity_timeout_s,
                backends: chosen.backends.clone(),
                lingering: if lingers { chosen.lingering.clone() } else { Vec::new() },
            });
            self.desired.sets.len() - 1
        })
    }

    fn warn(&mut self, object: &str, message: String) {
        self.desired.warnings.push(Warning { object: object.into(), message: message.into() });
    }
}

fn key(ip: Ipv4Addr, number: u16, port: &ServicePort, scope: u8) -> ServiceKey {
    ServiceKey { addr: ip.into(), port: Port::new(number), proto: port.protocol.number(), scope }
}

fn v4(ip: &IpAddr) -> Option<Ipv4Addr> {
    match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    }
}
