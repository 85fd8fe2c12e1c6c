//! Invariants a `Desired` must keep. One that breaks any is refused as a whole and the kernel keeps the last good one:
//! a wrong map is worse than an old one.
//!
//! May not know: how a `Desired` is made or applied.

use std::net::{IpAddr, SocketAddr};

use ipnetwork::IpNetwork;
use strake_abi::addr::{Addr4, Addr6};
use strake_abi::dns::{DNS_HAS_A, NAME_MAX};
use strake_abi::proto;
use strake_abi::service::{SCOPE_EXTERNAL, SERVICE_NODE_PORT, ServiceKey6};
use strake_logic::dns::table::WireName;

use crate::desired::{Desired, Set, ShowKey, Target};
use crate::hash::{HashMap, HashSet};
use crate::sizes::MapSizes;

/// Longest ClientIP affinity the API allows, in seconds.
pub(crate) const AFFINITY_MAX_S: u32 = 86_400;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("frontend {key} points at set {set} of {sets}")]
    NoSuchSet { key: String, set: usize, sets: usize },
    #[error("frontend {key} stands twice")]
    DuplicateFrontend { key: String },
    #[error("frontend {key} has port 0 or a scope that does not exist")]
    MalformedKey { key: String },
    #[error("frontend {key} is of another protocol than its set {owner}")]
    ProtocolMismatch { key: String, owner: String },
    #[error("frontend {key} is of another family than a backend of its set {owner}")]
    FamilyMismatch { key: String, owner: String },
    #[error(
        "frontend {key}: only a NodePort, within {first}-{last}, has the address 0.0.0.0 or ::, and it has no other"
    )]
    NodePortAddress { key: String, first: u16, last: u16 },
    #[error("frontend {key} is the cluster DNS address, which is not load-balanced")]
    ClusterDns { key: String },
    #[error("set {owner}: protocol {proto} is none of TCP, UDP and SCTP")]
    Protocol { owner: String, proto: u8 },
    #[error("set {owner}: backend {backend} is not an address a packet can be sent to")]
    BackendAddress { owner: String, backend: SocketAddr },
    #[error("set {owner}: backends are not in order or not unique at {backend}")]
    BackendOrder { owner: String, backend: SocketAddr },
    #[error("set {owner}: affinity of {seconds} s is longer than {AFFINITY_MAX_S} s")]
    Affinity { owner: String, seconds: u32 },
    #[error("source list {list}: {range} is no network, not in order, not unique, or holds everybody")]
    SourceRange { list: usize, range: String },
    #[error("frontend {key} admits source list {list} of {lists}, which is missing, empty or of another family")]
    SourceList { key: String, list: usize, lists: usize },
    #[error("name row {row}: length {length} is not within 1..={NAME_MAX} or its hash is not its key")]
    Name { row: usize, length: u16 },
    #[error("name row {row} has the key of row {other}")]
    DuplicateName { row: usize, other: usize },
    #[error("name row {row} points at set {set} of {sets}")]
    NameSet { row: usize, set: usize, sets: usize },
    #[error("{map} needs {needed} entries and has room for {room}")]
    TooMany { map: &'static str, needed: usize, room: u32 },
    #[error("CONFIG says ABI version {found}, this agent speaks {}", strake_abi::ABI_VERSION)]
    AbiVersion { found: u32 },
    #[error("source ports {snat_min}-{snat_max} are empty or overlap NodePorts {node_min}-{node_max}")]
    PortRanges { snat_min: u16, snat_max: u16, node_min: u16, node_max: u16 },
}

/// Every broken invariant, or nothing.
pub fn check(desired: &Desired, sizes: &MapSizes) -> Result<(), Vec<Violation>> {
    let mut violations = sound(desired);
    let rows = Needs::of(desired).rows(sizes).into_iter();
    violations.extend(
        rows.filter(|(_, needed, room)| *needed > *room as usize).map(|(map, needed, room)| Violation::TooMany {
            map,
            needed,
            room,
        }),
    );
    if violations.is_empty() { Ok(()) } else { Err(violations) }
}

/// The broken invariants, but for the room that there is.
pub(crate) fn sound(desired: &Desired) -> Vec<Violation> {
    let mut violations = Vec::new();
    config(desired, &mut violations);
    sets(desired, &mut violations);
    sources(desired, &mut violations);
    frontends(desired, &mut violations);
    names(desired, &mut violations);
    violations
}

/// How many entries of each map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    pub services: usize,
    pub services_v6: usize,
    pub backends: usize,
    pub members: usize,
    pub source_ranges: usize,
    pub dns_names: usize,
    pub nodes: usize,
    /// Rows of `services` and `services_v6` that are a frontend's.
    pub frontends: usize,
}

impl Needs {
    /// Of all that is desired.
    pub fn of(desired: &Desired) -> Self {
        let members = |set: &Set| if set.sticky() { set.backends.len() + set.lingering.len() } else { 0 };
        let rows = desired.frontends.len() + desired.cluster_ips.len();
        let keys = desired.frontends.iter().map(|frontend| frontend.key.v4().is_none());
        let services_v6 = keys.chain(desired.cluster_ips.iter().map(|ip| ip.v4().is_none())).filter(|v6| *v6).count();
        Self {
            services: rows - services_v6,
            services_v6,
            backends: desired.sets.iter().map(|set| set.backends.len()).sum(),
            members: desired.sets.iter().map(members).sum(),
            source_ranges: desired.source_lists.iter().map(Vec::len).sum(),
            dns_names: desired.names.len(),
            nodes: desired.nodes.len(),
            frontends: desired.frontends.len(),
        }
    }

    /// Without `old`, which is a part of it, and with `new`.
    pub(crate) fn exchanged(&self, old: &Self, new: &Self) -> Self {
        let exchange = |all: usize, old: usize, new: usize| (all + new).saturating_sub(old);
        Self {
            services: exchange(self.services, old.services, new.services),
            services_v6: exchange(self.services_v6, old.services_v6, new.services_v6),
            backends: exchange(self.backends, old.backends, new.backends),
            members: exchange(self.members, old.members, new.members),
            source_ranges: exchange(self.source_ranges, old.source_ranges, new.source_ranges),
            dns_names: exchange(self.dns_names, old.dns_names, new.dns_names),
            nodes: exchange(self.nodes, old.nodes, new.nodes),
            frontends: exchange(self.frontends, old.frontends, new.frontends),
        }
    }

    /// Whether the maps have that room.
    pub(crate) fn fits(&self, sizes: &MapSizes) -> bool {
        self.rows(sizes).iter().all(|(_, needed, room)| *needed <= *room as usize)
    }

    /// Map, entries, room.
    fn rows(&self, sizes: &MapSizes) -> [(&'static str, usize, u32); 7] {
        [
            (strake_abi::service::SERVICES, self.services, sizes.services),
            (strake_abi::service::SERVICES_V6, self.services_v6, sizes.services_v6),
            (strake_abi::service::BACKENDS, self.backends, sizes.backends),
            (strake_abi::service::MEMBERS, self.members, sizes.members),
            (strake_abi::service::SOURCE_RANGES, self.source_ranges, sizes.source_ranges),
            (strake_abi::dns::DNS_NAMES, self.dns_names, sizes.dns_names),
            (strake_abi::endpoint::NODES, self.nodes, sizes.nodes),
        ]
    }
}

fn config(desired: &Desired, violations: &mut Vec<Violation>) {
    let config = &desired.config;
    if config.abi_version != strake_abi::ABI_VERSION {
        violations.push(Violation::AbiVersion { found: config.abi_version });
    }
    let (snat_min, snat_max) = (config.snat_port_min, config.snat_port_max);
    let (node_min, node_max) = (config.node_port_min, config.node_port_max);
    if snat_min == 0 || snat_min > snat_max || (snat_min <= node_max && node_min <= snat_max) {
        violations.push(Violation::PortRanges { snat_min, snat_max, node_min, node_max });
    }
}

fn sets(desired: &Desired, violations: &mut Vec<Violation>) {
    for set in &desired.sets {
        let owner = || set.owner.to_string();
        if !matches!(set.proto, proto::TCP | proto::UDP | proto::SCTP) {
            violations.push(Violation::Protocol { owner: owner(), proto: set.proto });
        }
        if set.affinity_timeout_s > AFFINITY_MAX_S {
            violations.push(Violation::Affinity { owner: owner(), seconds: set.affinity_timeout_s });
        }
        let mut seen = HashSet::default();
        for list in [&set.backends, &set.lingering] {
            let mut last: Option<&Target> = None;
            for target in list {
                let backend = target.end();
                if !is_reachable(backend.ip()) || backend.port() == 0 {
                    violations.push(Violation::BackendAddress { owner: owner(), backend });
                }
                let ordered = last.is_none_or(|last| last.order() < target.order());
                if !ordered || !seen.insert(target.order()) {
                    violations.push(Violation::BackendOrder { owner: owner(), backend });
                }
                last = Some(target);
            }
        }
    }
}

fn sources(desired: &Desired, violations: &mut Vec<Violation>) {
    for (list, ranges) in desired.source_lists.iter().enumerate() {
        let mut before = None;
        for range in ranges {
            let is_network = range.ip() == range.network() && range.prefix() > 0;
            if !is_network || before.is_some_and(|before| before >= range) {
                violations.push(Violation::SourceRange { list, range: range.to_string() });
            }
            before = Some(range);
        }
    }
}

/// Whether a packet to the address can leave this machine by routes alone. (240.0.0.0/4 is some clusters' Pod range.)
pub(crate) fn is_reachable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[0] != 0 && !ip.is_loopback() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local()),
    }
}

fn frontends(desired: &Desired, violations: &mut Vec<Violation>) {
    let mut seen: HashSet<ServiceKey6> = HashSet::default();
    for frontend in &desired.frontends {
        let key = || ShowKey(&frontend.key).to_string();
        let ServiceKey6 { addr, port, proto, scope } = frontend.key;
        if !seen.insert(frontend.key) {
            violations.push(Violation::DuplicateFrontend { key: key() });
        }
        if port.get() == 0 || scope > SCOPE_EXTERNAL {
            violations.push(Violation::MalformedKey { key: key() });
        }
        let (first, last) = (desired.config.node_port_min, desired.config.node_port_max);
        let is_node_port = frontend.flags & SERVICE_NODE_PORT != 0;
        let is_any = addr == Addr6::ANY || addr.v4() == Some(Addr4::ANY);
        if is_node_port != is_any || (is_node_port && !(first..=last).contains(&port.get())) {
            violations.push(Violation::NodePortAddress { key: key(), first, last });
        }
        if addr.v4() == Some(desired.config.cluster_dns) && !is_any {
            violations.push(Violation::ClusterDns { key: key() });
        }
        let lists = desired.source_lists.len();
        let is_sound =
            |list: &Vec<IpNetwork>| !list.is_empty() && list.iter().all(|r| r.is_ipv4() == addr.v4().is_some());
        if let Some(list) = frontend.sources.filter(|list| !desired.source_lists.get(*list).is_some_and(is_sound)) {
            violations.push(Violation::SourceList { key: key(), list, lists });
        }
        match desired.sets.get(frontend.set) {
            None => {
                violations.push(Violation::NoSuchSet { key: key(), set: frontend.set, sets: desired.sets.len() });
            }
            Some(set) if set.proto != proto => {
                violations.push(Violation::ProtocolMismatch { key: key(), owner: set.owner.to_string() });
            }
            Some(set) => {
                let mut backends = set.backends.iter().chain(&set.lingering);
                if backends.any(|target| target.addr.v4().is_some() != addr.v4().is_some()) {
                    violations.push(Violation::FamilyMismatch { key: key(), owner: set.owner.to_string() });
                }
            }
        }
    }
}

fn names(desired: &Desired, violations: &mut Vec<Violation>) {
    let mut rows = HashMap::default();
    for (row, name) in desired.names.iter().enumerate() {
        let length = name.value.name_len;
        let bytes: Vec<u8> = name.value.name.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let wire = bytes.get(..usize::from(length)).and_then(dotted);
        let key = wire.and_then(|name| WireName::from_dotted(&name)).map(|name| name.key());
        if name.value.flags & DNS_HAS_A == 0 || key != Some(name.key) {
            violations.push(Violation::Name { row, length });
        }
        if let Some(other) = rows.insert(name.key, row) {
            violations.push(Violation::DuplicateName { row, other });
        }
        if let Some(set) = name.set.filter(|set| *set >= desired.sets.len()) {
            violations.push(Violation::NameSet { row, set, sets: desired.sets.len() });
        }
    }
}

/// The dotted form of a whole wire name.
fn dotted(mut wire: &[u8]) -> Option<String> {
    let mut labels = Vec::new();
    while let Some((&length, rest)) = wire.split_first() {
        if length == 0 {
            return rest.is_empty().then(|| labels.join("."));
        }
        let (label, rest) = rest.split_at_checked(usize::from(length))?;
        labels.push(std::str::from_utf8(label).ok()?);
        wire = rest;
    }
    None
}
