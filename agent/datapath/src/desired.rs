//! What the kernel should hold, in the border's types, but without the numbers (ids, slice positions) that depend on
//! what it holds already: those are given by `diff`.
//!
//! May not know: Kubernetes, BPF system calls.

use std::fmt;
use std::net::SocketAddr;

use ipnetwork::IpNetwork;
use strake_abi::addr::{Addr6, Port};
use strake_abi::config::Config;
use strake_abi::dns::{DnsKey, DnsName, DnsZone};
use strake_abi::service::{SERVICES, SERVICES_V6, ServiceKey6};

use crate::hash::HashSet;

/// An endpoint's address (IPv4 mapped) with its `BACKEND_*` flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub addr: Addr6,
    pub port: Port,
    pub flags: u8,
}

impl Target {
    /// Order of a slice: by address, then port, as people read them.
    pub fn order(&self) -> ([u8; 16], u16) {
        (self.addr.octets(), self.port.get())
    }

    /// As people write it.
    pub fn end(&self) -> SocketAddr {
        SocketAddr::new(self.addr.ip(), self.port.get())
    }
}

/// One port of one Service with one set of backends, all of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// For reports: `namespace/name:port`.
    pub owner: Box<str>,
    /// IANA number, TCP, UDP or SCTP.
    pub proto: u8,
    /// Seconds, 0 for none.
    pub affinity_timeout_s: u32,
    /// New connections go to these; ordered, unique.
    pub backends: Vec<Target>,
    /// Terminating endpoints that still serve the UDP flows they have (KEP-1669); ordered, unique, none of `backends`.
    pub lingering: Vec<Target>,
    /// Its frontends of the external scope choose by a Maglev table.
    pub maglev: bool,
}

impl Set {
    /// Whether choices are remembered outside of sockets and must be checked against `MEMBERS`.
    pub fn sticky(&self) -> bool {
        matches!(self.proto, strake_abi::proto::UDP | strake_abi::proto::SCTP) || self.affinity_timeout_s > 0
    }
}

/// An address and port that leads to a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// IPv4 mapped.
    pub key: ServiceKey6,
    /// Index into [`Desired::sets`].
    pub set: usize,
    /// Index into [`Desired::source_lists`]; None: all clients are admitted.
    pub sources: Option<usize>,
    /// `SERVICE_*`.
    pub flags: u32,
}

/// A name that the kernel answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    pub key: DnsKey,
    /// With `service_id` 0; it becomes that of `set`.
    pub value: DnsName,
    /// Index into [`Desired::sets`].
    pub set: Option<usize>,
}

/// Something that was asked for and is not programmed, said in status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// `namespace/name` of the Service, or of the Pod.
    pub object: Box<str>,
    pub message: Box<str>,
}

/// Everything the maps should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// With `next_id` 0.
    pub config: Config,
    pub sets: Vec<Set>,
    pub frontends: Vec<Frontend>,
    /// Ranges of clients, each list ordered and unique, none twice.
    pub source_lists: Vec<Vec<IpNetwork>>,
    /// ClusterIPs that exist ("this address is a Service's, whatever the port"); IPv4 mapped.
    pub cluster_ips: Vec<Addr6>,
    /// Addresses of nodes (IPv4 mapped) with `NODE_*` flags.
    pub nodes: Vec<(Addr6, u32)>,
    pub names: Vec<Name>,
    pub zone: DnsZone,
    pub warnings: Vec<Warning>,
    /// Keys that more than one object asks for; `frontends` has whose they are.
    pub contested: HashSet<ServiceKey6>,
}

impl Desired {
    /// What was collected, ordered and each once.
    pub(crate) fn in_order(mut self) -> Self {
        self.frontends.sort_by_key(|frontend| key_order(&frontend.key));
        self.cluster_ips.sort();
        let twice = self.cluster_ips.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| exists_key(pair[0]));
        self.contested.extend(twice);
        self.cluster_ips.dedup();
        self.warnings.sort();
        self.warnings.dedup();
        self.without_unused_sets()
    }

    /// Without the sets that lost every frontend to somebody else.
    fn without_unused_sets(mut self) -> Self {
        let mut used = vec![false; self.sets.len()];
        self.frontends.iter().for_each(|frontend| used[frontend.set] = true);
        if used.iter().all(|used| *used) {
            return self;
        }
        let mut next = 0;
        let place: Vec<Option<usize>> = used
            .iter()
            .map(|used| {
                next += usize::from(*used);
                used.then(|| next - 1)
            })
            .collect();
        let mut used = used.into_iter();
        self.sets.retain(|_| used.next().unwrap_or(true));
        self.frontends.iter_mut().for_each(|frontend| frontend.set = place[frontend.set].unwrap_or(frontend.set));
        self.names.iter_mut().for_each(|name| name.set = name.set.and_then(|set| place[set]));
        self
    }
}

/// The key of "this ClusterIP exists".
pub fn exists_key(addr: Addr6) -> ServiceKey6 {
    ServiceKey6 { addr, ..ServiceKey6::default() }
}

/// The map that a key's row is in.
pub fn table(key: &ServiceKey6) -> &'static str {
    if key.v4().is_some() { SERVICES } else { SERVICES_V6 }
}

/// A total order of service keys, for listings.
pub fn key_order(key: &ServiceKey6) -> ([u8; 16], u16, u8, u8) {
    (key.addr.octets(), key.port.get(), key.proto, key.scope)
}

/// `10.96.0.1:443/TCP internal` or `[fd00::1]:443/TCP internal`, as messages and traces name a frontend's row.
pub struct ShowKey<'a>(pub &'a ServiceKey6);

impl fmt::Display for ShowKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServiceKey6 { addr, port, proto, scope } = self.0;
        let end = SocketAddr::new(addr.ip(), port.get());
        let scope = if *scope == strake_abi::service::SCOPE_EXTERNAL { "external" } else { "internal" };
        match *proto {
            0 if port.get() == 0 => write!(f, "{addr} any port {scope}"),
            strake_abi::proto::TCP => write!(f, "{end}/TCP {scope}"),
            strake_abi::proto::UDP => write!(f, "{end}/UDP {scope}"),
            strake_abi::proto::SCTP => write!(f, "{end}/SCTP {scope}"),
            other => write!(f, "{end}/{other} {scope}"),
        }
    }
}
