//! A model of the kernel's maps.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use serde::de::DeserializeOwned;
use strake_abi::addr::{Addr6, Port};
use strake_abi::config::Config;
use strake_abi::dns::{DnsKey, DnsName, DnsZone};
use strake_abi::service::{Backend, MAGLEV_ROW, MaglevRow, MemberKey, Service, ServiceKey6};
use strake_datapath::{Contents, MapSizes, Maps, ShowKey, SourceRange, key_order, table};
use strake_state::{Change, Extract, ObjectName};

/// An object of a cluster, as it is written in YAML, that is there or is gone.
pub fn change(mut object: serde_json::Value, there: bool) -> Change {
    let meta = &object["metadata"];
    let text = |value: &serde_json::Value| value.as_str().unwrap_or("default").to_owned();
    let name = ObjectName::new(text(&meta["namespace"]), text(&meta["name"]));
    object["metadata"]["namespace"] = (*name.namespace).into();
    fn extract<K: DeserializeOwned + Extract>(object: serde_json::Value, there: bool) -> Option<Arc<K::Kept>> {
        serde_json::from_value::<K>(object).unwrap().extract().filter(|_| there).map(Arc::new)
    }
    match object["kind"].as_str().unwrap() {
        "Service" => Change::Service(name, extract::<core::Service>(object, there)),
        "EndpointSlice" => Change::Slice(name, extract::<discovery::EndpointSlice>(object, there)),
        "Node" => Change::Node(name.name, extract::<core::Node>(object, there)),
        "Pod" => Change::Pod(name, extract::<core::Pod>(object, there)),
        other => panic!("{other} is not followed by these tests"),
    }
}

pub const SLOTS: u32 = 512;
const ROWS: u32 = 1024;

/// The room there is.
pub fn sizes() -> MapSizes {
    MapSizes { backends: SLOTS, maglev: ROWS, ..MapSizes::default() }
}

/// Samples of a Maglev table: its size, and who has every 97th entry.
pub type Table = (u32, Vec<(Addr6, Port)>);

/// What a reader of one frontend gets: flags, affinity, the backends of the slice, the ranges of clients, and the table.
pub type Resolution = Option<(u32, u32, Vec<(Addr6, Port)>, Option<Vec<IpNetwork>>, Option<Table>)>;

#[derive(Clone, Debug)]
pub struct Model {
    pub config: Config,
    pub zone: DnsZone,
    pub services: HashMap<ServiceKey6, Service>,
    pub backends: Vec<Backend>,
    pub members: HashMap<MemberKey, Backend>,
    pub sources: HashSet<SourceRange>,
    pub tables: Vec<MaglevRow>,
    pub nodes: HashMap<Addr6, u32>,
    pub names: HashMap<DnsKey, DnsName>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            config: Config::default(),
            zone: DnsZone::default(),
            services: HashMap::new(),
            backends: vec![Backend::default(); SLOTS as usize],
            members: HashMap::new(),
            sources: HashSet::new(),
            tables: vec![MaglevRow::default(); ROWS as usize],
            nodes: HashMap::new(),
            names: HashMap::new(),
        }
    }
}

impl Model {
    pub fn slice(&self, service: &Service) -> Vec<(Addr6, Port)> {
        let slots = service.backend_base as usize..(service.backend_base + service.backend_count) as usize;
        self.backends[slots].iter().map(|backend| (backend.addr, backend.port)).collect()
    }

    pub fn resolve(&self, key: &ServiceKey6) -> Resolution {
        let service = self.services.get(key)?;
        Some((
            service.flags,
            service.affinity_timeout_s,
            self.slice(service),
            self.ranges(service),
            self.table(service),
        ))
    }

    /// The ranges that a Service admits, None for all.
    pub fn ranges(&self, service: &Service) -> Option<Vec<IpNetwork>> {
        let rows = self.sources.iter().filter(|row| row.key.list == service.source_list);
        let mut ranges: Vec<_> = rows.map(|row| row.network().unwrap()).collect();
        ranges.sort();
        (service.source_list != 0).then_some(ranges)
    }

    /// The table of a Service, None if it chooses at random.
    pub fn table(&self, service: &Service) -> Option<Table> {
        let entry = |entry: u32| {
            let row = self.tables[(service.maglev_base + entry / MAGLEV_ROW) as usize];
            let position = u32::from(row.entries[(entry % MAGLEV_ROW) as usize]);
            let backend = self.backends[(service.backend_base + position) as usize];
            (backend.addr, backend.port)
        };
        let entries = (0..service.maglev_size).step_by(97).map(entry).collect();
        (service.maglev_size != 0).then_some((service.maglev_size, entries))
    }

    pub fn contents(&self) -> Contents {
        Contents {
            config: self.config,
            zone: self.zone,
            services: self.services.iter().map(|(k, v)| (*k, *v)).collect(),
            backends: self.backends.iter().enumerate().map(|(slot, backend)| (slot as u32, *backend)).collect(),
            members: self.members.iter().map(|(k, v)| (*k, *v)).collect(),
            sources: self.sources.iter().copied().collect(),
            nodes: self.nodes.iter().map(|(k, v)| (*k, *v)).collect(),
            names: self.names.iter().map(|(k, v)| (*k, *v)).collect(),
        }
    }

    /// The maps as text, in an order that people and diffs like.
    pub fn render(&self) -> String {
        let mut out = String::new();
        let mut services: Vec<_> = self.services.iter().collect();
        services.sort_by_key(|(key, _)| key_order(key));
        for (key, service) in services {
            let flags = service_flags(service.flags);
            let affinity = match service.affinity_timeout_s {
                0 => String::new(),
                seconds => format!(" affinity {seconds} s"),
            };
            let maglev = match service.maglev_size {
                0 => String::new(),
                size => format!(" maglev {size}"),
            };
            let _ = writeln!(out, "{} {}{affinity}{maglev}{flags}", table(key), ShowKey(key));
            let slots = service.backend_base as usize..(service.backend_base + service.backend_count) as usize;
            for backend in &self.backends[slots] {
                let _ = writeln!(out, "  -> {}{}", end(backend), backend_flags(backend.flags));
                let member = MemberKey { service_id: service.id, backend_id: backend.id };
                if self.members.contains_key(&member) {
                    let _ = writeln!(out, "     member");
                }
            }
            for range in self.ranges(service).into_iter().flatten() {
                let _ = writeln!(out, "  from {range}");
            }
            if service.id != 0 {
                let live = self.backends[service.backend_base as usize..].iter().take(service.backend_count as usize);
                let live: Vec<u32> = live.map(|backend| backend.id).collect();
                let mut lingering: Vec<_> = self
                    .members
                    .iter()
                    .filter(|(member, b)| member.service_id == service.id && !live.contains(&b.id))
                    .map(|(_, backend)| end(backend).to_string())
                    .collect();
                lingering.sort();
                for backend in lingering {
                    let _ = writeln!(out, "  lingering member {backend}");
                }
            }
        }
        let mut nodes: Vec<_> = self.nodes.iter().collect();
        nodes.sort();
        for (addr, flags) in nodes {
            let what = if *flags & strake_abi::endpoint::NODE_LOCAL != 0 { "this node" } else { "another node" };
            let table = if addr.v4().is_some() { "NODES" } else { "NODES_V6" };
            let _ = writeln!(out, "{table} {addr} {what}");
        }
        let mut names: Vec<String> = self
            .names
            .values()
            .map(|row| {
                let bytes: Vec<u8> = row.name.iter().flat_map(|word| word.to_ne_bytes()).collect();
                format!("DNS_NAMES {} A {} ttl {} flags {:#x}", dotted(&bytes), row.addr, row.ttl, row.flags)
            })
            .collect();
        names.sort();
        for name in names {
            let _ = writeln!(out, "{name}");
        }
        out
    }
}

fn end(backend: &Backend) -> SocketAddr {
    SocketAddr::new(backend.addr.ip(), backend.port.get())
}

fn service_flags(flags: u32) -> String {
    use strake_abi::service::{
        SERVICE_ADMITS_NODE, SERVICE_ADMITS_PODS, SERVICE_DROP_IF_EMPTY, SERVICE_DSR, SERVICE_NODE_PORT,
    };
    let mut text = String::new();
    if flags & SERVICE_NODE_PORT != 0 {
        text.push_str(" node-port");
    }
    if flags & SERVICE_DROP_IF_EMPTY != 0 {
        text.push_str(" drop-if-empty");
    }
    if flags & SERVICE_ADMITS_NODE != 0 {
        text.push_str(" admits-node");
    }
    if flags & SERVICE_ADMITS_PODS != 0 {
        text.push_str(" admits-pods");
    }
    if flags & SERVICE_DSR != 0 {
        text.push_str(" dsr");
    }
    text
}

fn backend_flags(flags: u8) -> &'static str {
    use strake_abi::service::{BACKEND_HOST, BACKEND_LOCAL};
    match (flags & BACKEND_LOCAL != 0, flags & BACKEND_HOST != 0) {
        (_, true) => " host",
        (true, false) => " local",
        (false, false) => "",
    }
}

fn dotted(mut wire: &[u8]) -> String {
    let mut labels = Vec::new();
    while let Some((&length, rest)) = wire.split_first()
        && length != 0
    {
        let (label, rest) = rest.split_at(usize::from(length));
        labels.push(String::from_utf8_lossy(label).into_owned());
        wire = rest;
    }
    labels.join(".")
}

impl Maps for Model {
    type Error = Infallible;

    fn put_members(&mut self, rows: &[(MemberKey, Backend)]) -> Result<(), Infallible> {
        self.members.extend(rows.iter().copied());
        Ok(())
    }

    fn remove_members(&mut self, keys: &[MemberKey]) -> Result<(), Infallible> {
        self.members.retain(|key, _| !keys.contains(key));
        Ok(())
    }

    fn put_sources(&mut self, rows: &[SourceRange]) -> Result<(), Infallible> {
        self.sources.extend(rows.iter().copied());
        Ok(())
    }

    fn remove_sources(&mut self, rows: &[SourceRange]) -> Result<(), Infallible> {
        self.sources.retain(|row| !rows.contains(row));
        Ok(())
    }

    fn write_slice(&mut self, base: u32, backends: &[Backend]) -> Result<(), Infallible> {
        self.backends[base as usize..base as usize + backends.len()].copy_from_slice(backends);
        Ok(())
    }

    fn write_table(&mut self, base: u32, rows: &[MaglevRow]) -> Result<(), Infallible> {
        self.tables[base as usize..base as usize + rows.len()].copy_from_slice(rows);
        Ok(())
    }

    fn put_nodes(&mut self, rows: &[(Addr6, u32)]) -> Result<(), Infallible> {
        self.nodes.extend(rows.iter().copied());
        Ok(())
    }

    fn remove_nodes(&mut self, keys: &[Addr6]) -> Result<(), Infallible> {
        self.nodes.retain(|key, _| !keys.contains(key));
        Ok(())
    }

    fn set_config(&mut self, config: &Config) -> Result<(), Infallible> {
        self.config = *config;
        Ok(())
    }

    fn set_zone(&mut self, zone: &DnsZone) -> Result<(), Infallible> {
        self.zone = *zone;
        Ok(())
    }

    fn put_services(&mut self, rows: &[(ServiceKey6, Service)]) -> Result<(), Infallible> {
        self.services.extend(rows.iter().copied());
        Ok(())
    }

    fn remove_services(&mut self, keys: &[ServiceKey6]) -> Result<(), Infallible> {
        self.services.retain(|key, _| !keys.contains(key));
        Ok(())
    }

    fn put_names(&mut self, rows: &[(DnsKey, DnsName)]) -> Result<(), Infallible> {
        self.names.extend(rows.iter().copied());
        Ok(())
    }

    fn remove_names(&mut self, keys: &[DnsKey]) -> Result<(), Infallible> {
        self.names.retain(|key, _| !keys.contains(key));
        Ok(())
    }
}
