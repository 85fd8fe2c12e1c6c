//! The plain types of a snapshot: what of a Kubernetes object the node's datapath, DNS and flows need, and no more.
//!
//! May not know: k8s-openapi (see `extract`), how snapshots come about (see `cache`).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{HashMap, OrdMap};
use ipnetwork::IpNetwork;
use serde::Serialize;

use crate::sandbox::{OptOut, Sandboxes};

/// Namespace and name of an object; shown as `namespace/name`. Cluster-scoped kinds are keyed by a plain name instead.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ObjectName {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// IANA protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The API's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceType {
    ClusterIP,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// Who looks after a Service's load balancer addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LbOwner {
    /// Our controller gave them.
    Ours,
    /// The Service is of our class or of none, and somebody else gave them.
    Unclaimed,
    /// A Service of another class.
    Other,
}

/// `internalTrafficPolicy` / `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrafficPolicy {
    Cluster,
    Local,
}

/// `sessionAffinity`; the timeout is in seconds, 1..=86400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionAffinity {
    None,
    ClientIp { timeout: u32 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty when the Service has one, unnamed port.
    pub name: Arc<str>,
    pub protocol: Protocol,
    /// 1..=65535, host byte order.
    pub port: u16,
    /// 0 when none is allocated.
    pub node_port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: ObjectName,
    pub service_type: ServiceType,
    /// Empty for headless and ExternalName Services.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    pub external_name: Option<Arc<str>>,
    pub external_ips: Vec<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` whose `ipMode` is VIP (KEP-1860); Proxy ones are not ours to answer.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Who gave them, as far as the Service tells.
    pub lb_owner: LbOwner,
    /// Networks: bits of a host are zero.
    pub load_balancer_source_ranges: Vec<IpNetwork>,
    /// Those that are no range, as they were written.
    pub invalid_source_ranges: Vec<Arc<str>>,
    pub ports: Vec<ServicePort>,
    pub affinity: SessionAffinity,
    pub internal_policy: TrafficPolicy,
    pub external_policy: TrafficPolicy,
    pub publish_not_ready: bool,
    /// 0 when none is allocated.
    pub health_check_node_port: u16,
    /// Annotation `strake.io/lb-algorithm`, as it was written.
    pub lb_algorithm: Option<Arc<str>>,
    /// Labelled `service.kubernetes.io/service-proxy-name`: another proxy answers it.
    pub other_proxy: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Matches [`ServicePort::name`].
    pub name: Arc<str>,
    pub protocol: Protocol,
    /// 1..=65535, host byte order.
    pub port: u16,
}

/// One endpoint with its conditions, absent ones resolved as the API says (ready and serving default to true).
///
/// A cluster has more of them than of anything else: what few of them have is apart, and what nobody asks for is not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The first of its addresses, which consumers take (the others are as good, by the EndpointSlice API).
    pub address: IpAddr,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub node: Option<Arc<str>>,
    pub rare: Option<Box<Rare>>,
}

/// What most endpoints do not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rare {
    /// Its addresses after the first.
    pub more_addresses: Vec<IpAddr>,
    pub hostname: Option<Arc<str>>,
    pub hints: Hints,
}

impl Endpoint {
    /// Every address of it.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let more = self.rare.iter().flat_map(|rare| rare.more_addresses.iter().copied());
        std::iter::once(self.address).chain(more)
    }

    /// Where it should be used from, if that is said.
    pub fn hints(&self) -> Option<&Hints> {
        self.rare.as_deref().map(|rare| &rare.hints)
    }

    /// Its own label below a headless Service.
    pub fn hostname(&self) -> Option<&str> {
        self.rare.as_deref().and_then(|rare| rare.hostname.as_deref())
    }
}

/// Where an endpoint should be used from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// `forZones`.
    pub zones: Vec<Arc<str>>,
    /// `forNodes`.
    pub nodes: Vec<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    pub name: ObjectName,
    /// The Service it belongs to (label `kubernetes.io/service-name`), in the same namespace.
    pub service: ObjectName,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Box<[Endpoint]>,
    /// When the last change of a Pod or Service led to this one (annotation
    /// `endpoints.kubernetes.io/last-change-trigger-time`), in milliseconds since the epoch.
    pub triggered_ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: Arc<str>,
    /// `InternalIP` addresses, in the order of the status.
    pub internal_ips: Vec<IpAddr>,
    pub external_ips: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNetwork>,
    pub zone: Option<Arc<str>>,
    pub ready: bool,
    /// Being deleted, or tainted by an autoscaler that is about to: load balancers should look elsewhere.
    pub leaving: bool,
    /// Labelled `node.kubernetes.io/exclude-from-external-load-balancers`.
    pub excluded_from_lb: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    pub host_ip: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: ObjectName,
    pub uid: Arc<str>,
    /// None until bound.
    pub node: Option<Arc<str>>,
    pub ips: Vec<IpAddr>,
    pub host_network: bool,
    /// Phase is Succeeded or Failed: its addresses may belong to another Pod already.
    pub finished: bool,
    /// `runtimeClassName`: which container runtime, if not the node's usual one.
    pub runtime_class: Option<Arc<str>>,
    /// The Pod's own `strake.io/socket-lb: disabled`; see [`World::socket_opt_out`] for all that counts.
    pub socket_lb_disabled: bool,
    pub host_ports: Vec<HostPort>,
    /// Name of the controlling owner (ReplicaSet, DaemonSet, ...), to group flows by workload.
    pub owner: Option<Arc<str>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub name: Arc<str>,
    pub socket_lb_disabled: bool,
}

/// A container runtime to choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeClass {
    pub name: Arc<str>,
    /// What the node's runtime knows it by.
    pub handler: Arc<str>,
}

/// The watched kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    Service,
    EndpointSlice,
    Node,
    Pod,
    Namespace,
    RuntimeClass,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Service, Self::EndpointSlice, Self::Node, Self::Pod, Self::Namespace, Self::RuntimeClass];

    /// Without it nothing may be programmed. The others only make flows readable and carry opt-outs.
    pub fn required(self) -> bool {
        matches!(self, Self::Service | Self::EndpointSlice | Self::Node)
    }

    /// What lacks where it may not be followed.
    pub(crate) fn without(self) -> &'static str {
        match self {
            Self::Service | Self::EndpointSlice | Self::Node => "nothing is programmed",
            Self::Pod | Self::Namespace => "flows lack names",
            Self::RuntimeClass => {
                "a sandboxed Pod is told by the name of its runtime class, not by the class's handler"
            }
        }
    }

    /// The resource's plural, as in RBAC rules.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::Namespace => "namespaces",
            Self::RuntimeClass => "runtimeclasses",
        }
    }
}

/// How the watch of one kind is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum SourceState {
    /// The first complete list has not arrived.
    Listing,
    /// Listed once; the watch follows.
    Synced,
    /// The API server refuses (403), or does not know the resource (404). Retried with backoff; optional kinds do not hold up `synced`.
    Denied { message: String },
    /// Cut off; what was known stays in the snapshot. Retried with backoff.
    Failing { message: String },
}

/// The state of one kind's watch and whether it was ever completely listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Source {
    pub kind: Kind,
    pub state: SourceState,
    pub listed: bool,
}

/// Services by name.
pub type Services = OrdMap<ObjectName, Arc<Service>>;

/// The EndpointSlices of each Service, ordered by name.
pub type SlicesByService = OrdMap<ObjectName, Arc<[Arc<EndpointSlice>]>>;

/// An immutable snapshot. It shares everything but what changed with the one before: to cut one costs nothing, and
/// `diff` of two maps visits only where they differ.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// True once every required kind was listed completely (and every optional one was, or is denied). Before that
    /// nothing may be pruned from the kernel.
    pub synced: bool,
    /// Counts snapshots, from 1; 0 is the empty world before the first.
    pub generation: u64,
    /// The node this agent runs on.
    pub node_name: Arc<str>,
    pub services: Services,
    pub slices: SlicesByService,
    pub nodes: OrdMap<Arc<str>, Arc<Node>>,
    pub pods: OrdMap<ObjectName, Arc<Pod>>,
    /// Running Pods with an address of their own (not host-network).
    pub pods_by_ip: HashMap<IpAddr, Arc<Pod>>,
    pub namespaces: OrdMap<Arc<str>, Arc<Namespace>>,
    pub runtime_classes: OrdMap<Arc<str>, Arc<RuntimeClass>>,
    pub sources: Vec<Source>,
}

impl World {
    /// The node this agent runs on, when it is known.
    pub fn this_node(&self) -> Option<&Arc<Node>> {
        self.nodes.get(&self.node_name)
    }

    /// The EndpointSlices of a Service, ordered by name.
    pub fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.get(service).into_iter().flat_map(|slices| slices.iter())
    }

    /// Whether the Pod or its namespace says `strake.io/socket-lb: disabled`.
    pub fn socket_lb_disabled(&self, name: &ObjectName) -> bool {
        self.pods.get(name).is_some_and(|pod| pod.socket_lb_disabled)
            || self.namespaces.get(&name.namespace).is_some_and(|namespace| namespace.socket_lb_disabled)
    }

    /// Why the socket hooks leave this Pod alone, if they do. An unknown Pod has its namespace's word only.
    pub fn socket_opt_out(&self, name: &ObjectName, sandboxes: &Sandboxes) -> Option<OptOut> {
        let pod = self.pods.get(name);
        if pod.is_some_and(|pod| pod.socket_lb_disabled) {
            return Some(OptOut::Pod);
        }
        if self.namespaces.get(&name.namespace).is_some_and(|namespace| namespace.socket_lb_disabled) {
            return Some(OptOut::Namespace);
        }
        let class = pod?.runtime_class.as_ref()?;
        // Of a class that may not be read the name is known; most have the handler's.
        let handler = self.runtime_classes.get(class).map_or(class, |known| &known.handler);
        sandboxes.holds(handler).then(|| OptOut::Runtime { class: class.clone(), handler: handler.clone() })
    }

    /// The node that has this address.
    pub fn node_by_ip(&self, ip: IpAddr) -> Option<&Arc<Node>> {
        self.nodes.values().find(|node| node.internal_ips.contains(&ip) || node.external_ips.contains(&ip))
    }
}
