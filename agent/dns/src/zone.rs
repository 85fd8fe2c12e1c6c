//! The cluster's zone as a pure function from a [`World`] and a question to records, by the Kubernetes DNS
//! specification 1.1.0.
//!
//! ```text
//!   SVC.NS.svc.ZONE                    A/AAAA cluster IPs, or the ready endpoints of a headless Service; SRV all ports
//!   _PORT._PROTO.SVC.NS.svc.ZONE       SRV
//!   HOST.SVC.NS.svc.ZONE               A/AAAA of one endpoint; HOST is its hostname or its address with dashes
//!   A-B-C-D.NS.pod.ZONE                A/AAAA of that address
//!   dns-version.ZONE                   TXT
//!   D.C.B.A.in-addr.arpa               PTR, see reverse.rs
//! ```
//!
//! A name that exists without the asked type, and a name above others, is NODATA; any other is NXDOMAIN.

use crate::{Error, reverse::Reverse};
use hickory_proto::rr::{
    Name, RData, Record, RecordType,
    rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT},
};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use strake_state::{Endpoint, EndpointPort, ObjectName, Service, ServiceType, World};

/// The version of the specification.
const VERSION: &str = "1.1.0";

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Found {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// An ExternalName: the CNAME, and what to ask for next.
    Alias {
        cname: Box<Record>,
        target: Name,
    },
    /// The name exists, the type does not.
    NoData,
    NxDomain,
    /// The cluster is not known yet: an absence would be a guess.
    Unavailable,
    /// Not a name of the cluster.
    NotOurs,
}

/// The cluster's zone.
#[derive(Clone, Debug)]
pub struct Zone {
    origin: Name,
    ttl: u32,
    dns_service: ObjectName,
}

/// Labels in lower case.
fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect()
}

/// Whether an address is of the asked family; ANY takes both.
fn fits(ip: &IpAddr, kind: RecordType) -> bool {
    match kind {
        RecordType::A => ip.is_ipv4(),
        RecordType::AAAA => ip.is_ipv6(),
        RecordType::ANY => true,
        _ => false,
    }
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

/// `10-0-0-1`, `fd00--1`.
pub(crate) fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

/// The address a label of [`dashed`]'s form says.
fn undashed(label: &str) -> Option<IpAddr> {
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::from);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::from)).ok()
}

/// An endpoint's label below its Service.
pub(crate) fn endpoint_label(endpoint: &Endpoint, ip: IpAddr) -> String {
    endpoint.hostname().map_or_else(|| dashed(ip), str::to_owned)
}

/// The endpoints of a Service that DNS shows, with the ports of their slice.
pub(crate) fn shown<'a>(
    world: &'a World,
    service: &'a Service,
) -> impl Iterator<Item = (&'a Endpoint, &'a [EndpointPort])> {
    world.slices_of(&service.name).flat_map(move |slice| {
        let visible = move |endpoint: &&Endpoint| endpoint.ready || service.publish_not_ready;
        slice.endpoints.iter().filter(visible).map(|endpoint| (endpoint, &slice.ports[..]))
    })
}

impl Zone {
    pub fn new(domain: &str, ttl: u32, dns_service: ObjectName) -> Result<Self, Error> {
        let mut origin = Name::from_ascii(domain.trim_end_matches('.').to_ascii_lowercase())
            .map_err(|e| Error::Domain { domain: domain.to_owned(), detail: e.to_string() })?;
        origin.set_fqdn(true);
        Ok(Self { origin, ttl, dns_service })
    }

    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// A name below the zone's origin.
    pub(crate) fn name(&self, relative: &str) -> Option<Name> {
        let mut name = Name::from_labels(relative.split('.').map(str::as_bytes)).ok()?;
        name.set_fqdn(false);
        name.append_domain(&self.origin).ok()
    }

    fn record(&self, owner: &Name, data: RData) -> Record {
        Record::from_rdata(owner.clone(), self.ttl, data)
    }

    /// The record that goes with every absence (RFC 2308).
    pub fn soa(&self, world: &World) -> Record {
        let name = |relative: &str| self.name(relative).unwrap_or_else(|| self.origin.clone());
        let serial = u32::try_from(world.generation & u64::from(u32::MAX)).unwrap_or(0).max(1);
        let soa = SOA::new(name("ns.dns"), name("hostmaster"), serial, 7200, 1800, 86_400, self.ttl);
        self.record(&self.origin, RData::SOA(soa))
    }

    /// The answer to a question of class IN. Owner names are spelled as the question spells them.
    pub fn answer(&self, world: &World, reverse: &Reverse, name: &Name, kind: RecordType) -> Answer {
        if !self.origin.zone_of(name) {
            return self.pointer(world, reverse, name, kind);
        }
        if !world.synced {
            return Answer::Unavailable;
        }
        let relative = labels(name);
        let below = relative.len() - usize::from(self.origin.num_labels());
        let relative: Vec<&str> = relative[..below].iter().map(String::as_str).collect();
        match &relative[..] {
            [] => self.apex(world, name, kind),
            ["dns-version"] if kind == RecordType::TXT || kind == RecordType::ANY => {
                self.found(vec![self.record(name, RData::TXT(TXT::new(vec![VERSION.to_owned()])))])
            }
            ["dns-version" | "dns" | "svc" | "pod"] => Answer::NoData,
            ["ns", "dns"] => match world.services.get(&self.dns_service) {
                Some(service) => self.addresses(name, kind, service.cluster_ips.iter().copied()),
                None => Answer::NoData,
            },
            [namespace, "svc" | "pod"] if known(world, namespace) => Answer::NoData,
            [ip, namespace, "pod"] if known(world, namespace) => match undashed(ip) {
                Some(ip) => self.addresses(name, kind, [ip].into_iter()),
                None => Answer::NxDomain,
            },
            [rest @ .., service, namespace, "svc"] => {
                match world.services.get(&ObjectName::new(*namespace, *service)) {
                    Some(service) => self.service(world, service, rest, name, kind),
                    None => Answer::NxDomain,
                }
            }
            _ => Answer::NxDomain,
        }
    }

    fn found(&self, answers: Vec<Record>) -> Answer {
        if answers.is_empty() { Answer::NoData } else { Answer::Found { answers, additionals: Vec::new() } }
    }

    fn addresses(&self, name: &Name, kind: RecordType, ips: impl Iterator<Item = IpAddr>) -> Answer {
        self.found(ips.filter(|ip| fits(ip, kind)).map(|ip| self.record(name, address(ip))).collect())
    }

    fn apex(&self, world: &World, name: &Name, kind: RecordType) -> Answer {
        let server = self.name("ns.dns").unwrap_or_else(|| self.origin.clone());
        match kind {
            RecordType::SOA | RecordType::ANY => {
                let mut soa = self.soa(world);
                soa.name = name.clone();
                self.found(vec![soa])
            }
            RecordType::NS => self.found(vec![self.record(name, RData::NS(NS(server)))]),
            _ => Answer::NoData,
        }
    }

    fn service(&self, world: &World, service: &Service, rest: &[&str], name: &Name, kind: RecordType) -> Answer {
        if service.service_type == ServiceType::ExternalName {
            return match rest {
                [] => self.alias(service, name, kind),
                _ => Answer::NxDomain,
            };
        }
        match rest {
            [] if kind == RecordType::SRV => self.ports(world, service, name, |_| true),
            [] if service.headless => {
                self.addresses(name, kind, unique(shown(world, service).flat_map(|(e, _)| e.addresses())))
            }
            [] => self.addresses(name, kind, service.cluster_ips.iter().copied()),
            [port, protocol] => {
                let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
                    return Answer::NxDomain;
                };
                let named = |p: &EndpointPort| {
                    p.name.eq_ignore_ascii_case(port) && p.protocol.as_str().eq_ignore_ascii_case(protocol)
                };
                match self.ports(world, service, name, named) {
                    Answer::NoData => Answer::NxDomain,
                    found if kind == RecordType::SRV || kind == RecordType::ANY => found,
                    _ => Answer::NoData,
                }
            }
            [protocol] if protocol.starts_with('_') => {
                let used = service
                    .ports
                    .iter()
                    .any(|p| !p.name.is_empty() && p.protocol.as_str().eq_ignore_ascii_case(&protocol[1..]));
                if used { Answer::NoData } else { Answer::NxDomain }
            }
            [host] => {
                let ips: Vec<IpAddr> = shown(world, service)
                    .flat_map(|(e, _)| e.addresses().map(move |ip| (e, ip)))
                    .filter(|(e, ip)| endpoint_label(e, *ip).eq_ignore_ascii_case(host) || dashed(*ip) == **host)
                    .map(|(_, ip)| ip)
                    .collect();
                if ips.is_empty() { Answer::NxDomain } else { self.addresses(name, kind, unique(ips.into_iter())) }
            }
            _ => Answer::NxDomain,
        }
    }

    fn alias(&self, service: &Service, name: &Name, kind: RecordType) -> Answer {
        let target = service.external_name.as_deref().unwrap_or_default().trim_end_matches('.');
        let Ok(mut target) = Name::from_ascii(target) else { return Answer::NoData };
        if target.is_root() {
            return Answer::NoData;
        }
        target.set_fqdn(true);
        let cname = self.record(name, RData::CNAME(CNAME(target.clone())));
        if kind == RecordType::CNAME {
            return self.found(vec![cname]);
        }
        Answer::Alias { cname: Box::new(cname), target }
    }

    /// SRV records of the ports that are wanted, with the addresses of their targets.
    fn ports(&self, world: &World, service: &Service, name: &Name, wanted: impl Fn(&EndpointPort) -> bool) -> Answer {
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        let own = format!("{}.{}.svc", service.name.name, service.name.namespace);
        let mut add = |port: u16, target: Name, ips: &[IpAddr]| {
            let record = self.record(name, RData::SRV(SRV::new(0, 100, port, target.clone())));
            if !answers.contains(&record) {
                answers.push(record);
            }
            for ip in ips {
                let record = self.record(&target, address(*ip));
                if !additionals.contains(&record) {
                    additionals.push(record);
                }
            }
        };
        if service.headless {
            for (endpoint, ports) in shown(world, service) {
                for ip in endpoint.addresses() {
                    let target = self.name(&format!("{}.{own}", endpoint_label(endpoint, ip)));
                    for port in ports.iter().filter(|p| wanted(p)) {
                        if let Some(target) = target.clone() {
                            add(port.port, target, &[ip]);
                        }
                    }
                }
            }
        } else if let Some(target) = self.name(&own) {
            for port in &service.ports {
                let port = EndpointPort { name: port.name.clone(), protocol: port.protocol, port: port.port };
                if wanted(&port) {
                    add(port.port, target.clone(), &service.cluster_ips);
                }
            }
        }
        if answers.is_empty() { Answer::NoData } else { Answer::Found { answers, additionals } }
    }

    /// PTR of the cluster's addresses; what is not of the cluster is somebody else's to say.
    fn pointer(&self, world: &World, reverse: &Reverse, name: &Name, kind: RecordType) -> Answer {
        let Some(ip) = reverse_address(name) else { return Answer::NotOurs };
        let targets = reverse.names(world, ip);
        if targets.is_empty() {
            return Answer::NotOurs;
        }
        if kind != RecordType::PTR && kind != RecordType::ANY {
            return Answer::NoData;
        }
        let pointers = targets.iter().filter_map(|target| self.name(target));
        self.found(pointers.map(|target| self.record(name, RData::PTR(PTR(target)))).collect())
    }
}

fn unique(ips: impl Iterator<Item = IpAddr>) -> impl Iterator<Item = IpAddr> {
    let mut seen = std::collections::HashSet::new();
    ips.filter(move |ip| seen.insert(*ip))
}

/// Whether a namespace exists, as far as can be told.
fn known(world: &World, namespace: &str) -> bool {
    let first = ObjectName::new(namespace, "");
    world.namespaces.contains_key(namespace)
        || world.services.range(first..).next().is_some_and(|(name, _)| &*name.namespace == namespace)
}

/// The address of a full name under in-addr.arpa or ip6.arpa.
fn reverse_address(name: &Name) -> Option<IpAddr> {
    let labels = labels(name);
    match &labels[..] {
        [octets @ .., zone, arpa] if zone == "in-addr" && arpa == "arpa" && octets.len() == 4 => {
            let text: Vec<&str> = octets.iter().rev().map(String::as_str).collect();
            text.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::from)
        }
        [nibbles @ .., zone, arpa] if zone == "ip6" && arpa == "arpa" && nibbles.len() == 32 => {
            let mut bits = 0u128;
            for nibble in nibbles.iter().rev() {
                if nibble.len() != 1 {
                    return None;
                }
                bits = bits << 4 | u128::from(u8::from_str_radix(nibble, 16).ok()?);
            }
            Some(Ipv6Addr::from(bits).into())
        }
        _ => None,
    }
}
