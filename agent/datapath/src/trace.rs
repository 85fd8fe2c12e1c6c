//! `strake service trace NS/NAME`: what would happen to a connection, read from the kernel's maps (not from what the
//! agent believes), with the entries named, and compared with what the cluster's snapshot asks for.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;
use strake_abi::dns::{DNS_HAS_A, DNS_NAMES};
use strake_abi::service::{
    BACKEND_HOST, BACKEND_LOCAL, BACKENDS, MAGLEV, MEMBERS, MemberKey, SERVICE_DROP_IF_EMPTY, SOURCE_RANGES, Service,
    ServiceKey6,
};
use strake_logic::dns::table::WireName;
use strake_state::{ObjectName, World};

use crate::compile::service_name;
use crate::config::Config;
use crate::desired::{Desired, ShowKey, table};
use crate::maps::{KernelMaps, MapsError};

/// One backend that a frontend leads to.
#[derive(Clone, Debug, Serialize)]
pub struct TracedBackend {
    /// `BACKENDS[40]`.
    pub entry: String,
    pub address: String,
    pub id: u32,
    /// `namespace/name` of the Pod, when it is known.
    pub pod: Option<String>,
    pub node: Option<String>,
    pub local: bool,
    /// This node itself, not a Pod.
    pub host: bool,
    /// For UDP and ClientIP affinity: whether `MEMBERS` has it, so that a remembered choice stays valid.
    pub member: Option<bool>,
}

/// What a connection to one frontend would meet.
#[derive(Clone, Debug, Serialize)]
pub struct TracedFrontend {
    /// `10.96.0.1:443/TCP internal`.
    pub frontend: String,
    /// `SERVICES[10.96.0.1:443/TCP internal]`, `SERVICES_V6[[fd00::1]:443/TCP internal]`.
    pub entry: String,
    /// The row's value as it is in the kernel; None when it is missing.
    pub value: Option<String>,
    pub backends: Vec<TracedBackend>,
    pub affinity_seconds: u32,
    /// Clients outside of these ranges are dropped; None: all are admitted.
    pub source_ranges: Option<Vec<String>>,
    /// A sentence.
    pub outcome: String,
}

/// The name's row.
#[derive(Clone, Debug, Serialize)]
pub struct TracedName {
    pub name: String,
    /// `DNS_NAMES[hash]`.
    pub entry: String,
    /// The address the kernel answers; None when the agent's server is asked.
    pub address: Option<String>,
    pub ttl: u32,
}

/// The whole trace; `Display` is for people.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    pub service: String,
    /// Why there is nothing to trace, if so.
    pub note: Option<String>,
    pub name: Option<TracedName>,
    pub frontends: Vec<TracedFrontend>,
    pub warnings: Vec<String>,
}

/// Traces a Service of the snapshot.
pub fn trace(
    service: &ObjectName,
    world: &World,
    desired: &Desired,
    config: &Config,
    maps: &KernelMaps,
) -> Result<Trace, MapsError> {
    let object = service.to_string();
    let mut trace = Trace {
        service: object.clone(),
        note: None,
        name: None,
        frontends: Vec::new(),
        warnings: desired.warnings.iter().filter(|w| *w.object == *object).map(|w| w.message.to_string()).collect(),
    };
    let Some(found) = world.services.get(service) else {
        trace.note = Some(format!("the API server has no Service {service}"));
        return Ok(trace);
    };
    let is_dns = found.cluster_ips.contains(&IpAddr::V4(config.cluster_dns));
    trace.note = if found.headless {
        Some("headless: it has no address of its own, and the agent's DNS server answers its endpoints".into())
    } else if is_dns {
        Some("the cluster DNS: answered at from_pod or by the agent's own server, never load-balanced".into())
    } else if found.external_name.is_some() && found.cluster_ips.is_empty() {
        Some("ExternalName: the agent's DNS server answers with a CNAME".into())
    } else {
        None
    };
    trace.name = name(service, config, maps)?;
    // Set owners are `namespace/name:port...`.
    let prefix = format!("{object}:");
    for frontend in desired.frontends.iter().filter(|f| desired.sets[f.set].owner.starts_with(&prefix)) {
        let sticky = desired.sets[frontend.set].sticky();
        trace.frontends.push(traced(frontend.key, sticky, world, maps)?);
    }
    Ok(trace)
}

fn name(service: &ObjectName, config: &Config, maps: &KernelMaps) -> Result<Option<TracedName>, MapsError> {
    let name = service_name(service, config);
    let Some(wire) = WireName::from_dotted(&name) else { return Ok(None) };
    let key = wire.key();
    let row = maps.names.get(&key)?.filter(|row| row.flags & DNS_HAS_A != 0);
    Ok(Some(TracedName {
        name,
        entry: format!("{DNS_NAMES}[{:016x}{:016x}]", key.hash[0], key.hash[1]),
        address: row.map(|row| row.addr.to_string()),
        ttl: row.map_or(0, |row| row.ttl),
    }))
}

fn traced(key: ServiceKey6, sticky: bool, world: &World, maps: &KernelMaps) -> Result<TracedFrontend, MapsError> {
    let shown = ShowKey(&key).to_string();
    let entry = format!("{}[{shown}]", table(&key));
    let Some(value) = maps.service(&key)? else {
        let outcome = "not programmed: the row is missing".into();
        return Ok(TracedFrontend {
            frontend: shown,
            entry,
            value: None,
            backends: Vec::new(),
            affinity_seconds: 0,
            source_ranges: None,
            outcome,
        });
    };
    let mut backends = Vec::new();
    for slot in value.backend_base..value.backend_base.saturating_add(value.backend_count) {
        let backend = maps.backend(slot)?;
        let member = if sticky {
            Some(maps.members.get(&MemberKey { service_id: value.id, backend_id: backend.id })?.is_some())
        } else {
            None
        };
        let (pod, node) = owner(backend.addr.ip(), world);
        backends.push(TracedBackend {
            entry: format!("{BACKENDS}[{slot}]"),
            address: SocketAddr::new(backend.addr.ip(), backend.port.get()).to_string(),
            id: backend.id,
            pod,
            node,
            local: backend.flags & BACKEND_LOCAL != 0,
            host: backend.flags & BACKEND_HOST != 0,
            member,
        });
    }
    let outcome = outcome(&value);
    let source_ranges = if value.source_list != 0 {
        let rows = maps.sources.all()?.into_iter().filter(|row| row.key.list == value.source_list);
        let mut ranges: Vec<_> = rows.filter_map(|row| row.network()).collect();
        ranges.sort();
        Some(ranges.iter().map(ToString::to_string).collect())
    } else {
        None
    };
    let mut row = format!(
        "id {}, base {}, count {}, flags {:#x}",
        value.id, value.backend_base, value.backend_count, value.flags
    );
    if value.maglev_size > 0 {
        row.push_str(&format!(", {MAGLEV} base {}, {} entries", value.maglev_base, value.maglev_size));
    }
    Ok(TracedFrontend {
        frontend: shown,
        entry,
        value: Some(row),
        backends,
        affinity_seconds: value.affinity_timeout_s,
        source_ranges,
        outcome,
    })
}

/// What becomes of a new connection, as a sentence.
pub(crate) fn outcome(value: &Service) -> String {
    match (value.backend_count, value.flags & SERVICE_DROP_IF_EMPTY != 0) {
        (0, true) => "dropped: the traffic policy is Local and no endpoint is on this node".to_owned(),
        (0, false) => "refused: no endpoint is ready".to_owned(),
        (1, _) => "goes to its one backend".to_owned(),
        (count, _) if value.affinity_timeout_s > 0 && value.maglev_size > 0 => format!(
            "goes to one of {count} backends by Maglev, the same on every node and for {} s for each client",
            value.affinity_timeout_s
        ),
        (count, _) if value.maglev_size > 0 => {
            format!("goes to one of {count} backends by Maglev, the same on every node for each client and its port")
        }
        (count, _) if value.affinity_timeout_s > 0 => {
            format!("goes to one of {count} backends, the same for {} s for each client", value.affinity_timeout_s)
        }
        (count, _) => format!("goes to one of {count} backends, each as likely"),
    }
}

fn owner(ip: IpAddr, world: &World) -> (Option<String>, Option<String>) {
    match world.pods_by_ip.get(&ip) {
        Some(pod) => (Some(pod.name.to_string()), pod.node.as_deref().map(Into::into)),
        None => (None, world.node_by_ip(ip).map(|node| node.name.to_string())),
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Service {}", self.service)?;
        if let Some(note) = &self.note {
            writeln!(f, "  {note}")?;
        }
        for warning in &self.warnings {
            writeln!(f, "  warning: {warning}")?;
        }
        if let Some(TracedName { name, entry, address, ttl }) = &self.name {
            match address {
                Some(address) => writeln!(f, "  name {name}\n    {entry} -> {address}, ttl {ttl} s, in the kernel")?,
                None => writeln!(f, "  name {name}\n    {entry} is missing: the agent's DNS server is asked")?,
            }
        }
        for frontend in &self.frontends {
            writeln!(f, "  to {}\n    {}", frontend.frontend, frontend.outcome)?;
            if let Some(value) = &frontend.value {
                writeln!(f, "    {} -> {value}", frontend.entry)?;
            }
            if let Some(ranges) = &frontend.source_ranges {
                writeln!(f, "    {SOURCE_RANGES} admits {}; others are dropped", ranges.join(", "))?;
            }
            for backend in &frontend.backends {
                let pod = backend.pod.as_deref().unwrap_or(if backend.host { "this node" } else { "unknown" });
                let node = backend.node.as_deref().map(|node| format!(" on {node}")).unwrap_or_default();
                let member = match backend.member {
                    Some(true) => format!(", in {MEMBERS}"),
                    Some(false) => format!(", not in {MEMBERS}"),
                    None => String::new(),
                };
                writeln!(f, "      {} {} {pod}{node}{member}", backend.entry, backend.address)?;
            }
        }
        Ok(())
    }
}
