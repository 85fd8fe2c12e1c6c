//! ClusterIPs and NodePorts: who has which, and the next free one.
//!
//! The Services themselves are the only record: the state here is rebuilt from them at start, and follows every write.
//! ```text
//!   10.96.0.0/16   .1 ─ static band (256 at most) ─┤├──────────── dynamic band ───────────┤
//!                       asked for by name               chosen here, then the static band
//! ```

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

use ipnetwork::Ipv4Network;
use parking_lot::Mutex;
use serde_json::{Value, json};
use strake_machinery::{
    ApiError, Kind,
    field::{FieldError, Path},
    meta,
};

use crate::{api::Api, registry::Op};

/// The state of both pools.
pub struct ServiceAllocator {
    network: Ipv4Network,
    ports: RangeInclusive<u16>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    addresses: HashMap<Ipv4Addr, String>,
    ports: HashMap<u16, String>,
}

/// What an operation took and gave up. Dropped, it is undone; kept, it is final.
#[must_use]
pub struct Reservation<'a> {
    allocator: Option<&'a ServiceAllocator>,
    addresses: Vec<Ipv4Addr>,
    ports: Vec<u16>,
    give_up_addresses: Vec<Ipv4Addr>,
    give_up_ports: Vec<u16>,
}

impl Reservation<'_> {
    /// Nothing taken, nothing given up.
    pub fn none() -> Self {
        Self {
            allocator: None,
            addresses: Vec::new(),
            ports: Vec::new(),
            give_up_addresses: Vec::new(),
            give_up_ports: Vec::new(),
        }
    }

    /// The write succeeded.
    pub fn keep(mut self) {
        if let Some(allocator) = self.allocator.take() {
            let mut taken = allocator.taken.lock();
            for address in &self.give_up_addresses {
                taken.addresses.remove(address);
            }
            for port in &self.give_up_ports {
                taken.ports.remove(port);
            }
        }
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if let Some(allocator) = self.allocator.take() {
            let mut taken = allocator.taken.lock();
            for address in &self.addresses {
                taken.addresses.remove(address);
            }
            for port in &self.ports {
                taken.ports.remove(port);
            }
        }
    }
}

fn service_type(service: &Value) -> &str {
    match meta::str_at(service, &["spec", "type"]) {
        "" => "ClusterIP",
        other => other,
    }
}

fn owner(service: &Value) -> String {
    format!("{}/{}", meta::namespace(service), meta::name(service))
}

/// The ClusterIP addresses that a Service holds.
fn addresses_of(service: &Value) -> Vec<Ipv4Addr> {
    if service_type(service) == "ExternalName" {
        return Vec::new();
    }
    let mut addresses: Vec<Ipv4Addr> = meta::list_at(service, &["spec", "clusterIPs"])
        .iter()
        .filter_map(|address| address.as_str()?.parse().ok())
        .collect();
    if let Ok(address) = meta::str_at(service, &["spec", "clusterIP"]).parse()
        && !addresses.contains(&address)
    {
        addresses.push(address);
    }
    addresses
}

fn wants_node_ports(service: &Value) -> bool {
    match service_type(service) {
        "NodePort" => true,
        "LoadBalancer" => {
            meta::at(service, &["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool).unwrap_or(true)
        }
        _ => false,
    }
}

/// The NodePorts that a Service holds, the health check's included.
fn ports_of(service: &Value) -> Vec<u16> {
    let mut ports: Vec<u16> = meta::list_at(service, &["spec", "ports"])
        .iter()
        .filter_map(|port| port["nodePort"].as_u64())
        .chain(meta::i64_at(service, &["spec", "healthCheckNodePort"]).and_then(|port| u64::try_from(port).ok()))
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

impl ServiceAllocator {
    /// Empty pools.
    pub fn new(network: Ipv4Network, ports: RangeInclusive<u16>) -> Self {
        Self { network, ports, taken: Mutex::default() }
    }

    /// Starts over from the Services there are.
    pub fn rebuild(&self, services: impl Iterator<Item = Value>) {
        let mut taken = Taken::default();
        for service in services {
            for address in addresses_of(&service) {
                taken.addresses.insert(address, owner(&service));
            }
            for port in ports_of(&service) {
                taken.ports.insert(port, owner(&service));
            }
        }
        *self.taken.lock() = taken;
    }

    fn hosts(&self) -> (u32, u32) {
        let first = u32::from(self.network.network()) + 1;
        let size = 2_u64.pow(32 - u32::from(self.network.prefix()));
        // The network's and the broadcast address are left out.
        let count = u32::try_from(size.saturating_sub(2)).unwrap_or(u32::MAX);
        (first, count)
    }

    /// Takes the next free address: the dynamic band first, from a random place.
    fn any_address(&self, owner: &str) -> Option<Ipv4Addr> {
        let (first, count) = self.hosts();
        if count == 0 {
            return None;
        }
        let size = count + 2;
        let band = if size < 16 { 0 } else { (size / 16).clamp(16, 256) }.min(count);
        let dynamic = count - band;
        let start = if dynamic > 0 { rand::random_range(0..dynamic) } else { 0 };
        let mut taken = self.taken.lock();
        let candidates = (0..dynamic).map(|step| band + (start + step) % dynamic).chain(0..band);
        for offset in candidates {
            let address = Ipv4Addr::from(first + offset);
            if let std::collections::hash_map::Entry::Vacant(free) = taken.addresses.entry(address) {
                free.insert(owner.to_owned());
                return Some(address);
            }
        }
        None
    }

    fn this_address(&self, address: Ipv4Addr, owner: &str) -> Result<(), String> {
        let (first, count) = self.hosts();
        let offset = u32::from(address).wrapping_sub(first);
        if !self.network.contains(address) || offset >= count {
            return Err(format!(
                "failed to allocate IP {address}: the provided network does not match the current range"
            ));
        }
        match self.taken.lock().addresses.entry(address) {
            std::collections::hash_map::Entry::Occupied(_) => {
                Err(format!("failed to allocate IP {address}: provided IP is already allocated"))
            }
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(owner.to_owned());
                Ok(())
            }
        }
    }

    fn any_port(&self, owner: &str) -> Option<u16> {
        let (first, last) = (*self.ports.start(), *self.ports.end());
        let count = u32::from(last - first) + 1;
        // As for addresses, the lower part is left to those who ask by number.
        let band = if count < 16 { 0 } else { (count / 32).clamp(16, 128) };
        let dynamic = count - band;
        let start = rand::random_range(0..dynamic);
        let mut taken = self.taken.lock();
        for offset in (0..dynamic).map(|step| band + (start + step) % dynamic).chain(0..band) {
            let port = first + offset as u16;
            if let std::collections::hash_map::Entry::Vacant(free) = taken.ports.entry(port) {
                free.insert(owner.to_owned());
                return Some(port);
            }
        }
        None
    }

    fn this_port(&self, port: u16, owner: &str) -> Result<(), String> {
        if !self.ports.contains(&port) {
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.ports.start(),
                self.ports.end()
            ));
        }
        match self.taken.lock().ports.entry(port) {
            std::collections::hash_map::Entry::Occupied(_) => Err("provided port is already allocated".to_owned()),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(owner.to_owned());
                Ok(())
            }
        }
    }

    /// Gives a Service what it needs beyond what `old` holds, and notes what it no longer needs.
    fn allocate<'a>(
        &'a self,
        op: &Op<'_>,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Reservation<'a>, ApiError> {
        let mut reservation = Reservation::none();
        reservation.allocator = Some(self);
        let owner = owner(service);
        let invalid = |path: Path, value: Value, why: String| {
            ApiError::invalid(op.kind, op.name, vec![FieldError::invalid(&path, value, why)])
        };
        let spec = Path::new("spec");
        let held = old.map(addresses_of).unwrap_or_default();
        self.addresses(service, &held, &owner, &mut reservation)
            .map_err(|(value, why)| invalid(spec.child("clusterIPs"), value, why))?;
        let held = old.map(ports_of).unwrap_or_default();
        self.node_ports(service, &held, &owner, &mut reservation)
            .map_err(|(path, value, why)| invalid(path, value, why))?;
        if let Some(old) = old {
            let (addresses, ports) = (addresses_of(service), ports_of(service));
            reservation.give_up_addresses.extend(addresses_of(old).into_iter().filter(|one| !addresses.contains(one)));
            reservation.give_up_ports.extend(ports_of(old).into_iter().filter(|one| !ports.contains(one)));
        }
        Ok(reservation)
    }

    fn addresses(
        &self,
        service: &mut Value,
        held: &[Ipv4Addr],
        owner: &str,
        reservation: &mut Reservation<'_>,
    ) -> Result<(), (Value, String)> {
        if service_type(service) == "ExternalName" {
            for field in ["clusterIP", "clusterIPs"] {
                meta::remove_at(service, &["spec", field]);
            }
            return Ok(());
        }
        let mut wanted = meta::str_at(service, &["spec", "clusterIP"]).to_owned();
        if wanted.is_empty() {
            wanted = meta::list_at(service, &["spec", "clusterIPs"])
                .first()
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned();
        }
        let family = if wanted.parse::<IpAddr>().is_ok_and(|address| address.is_ipv6()) { "IPv6" } else { "IPv4" };
        let spec = meta::map_at_mut(service, &["spec"]);
        if spec.get("ipFamilies").is_none_or(meta::is_empty) {
            spec.insert("ipFamilies".into(), json!([family]));
        }
        if spec.get("ipFamilyPolicy").is_none_or(meta::is_empty) {
            spec.insert("ipFamilyPolicy".into(), "SingleStack".into());
        }
        let address = match wanted.as_str() {
            "None" => "None".to_owned(),
            "" => {
                let address = self
                    .any_address(owner)
                    .ok_or_else(|| (json!([]), "failed to allocate a serviceIP: range is full".to_owned()))?;
                reservation.addresses.push(address);
                address.to_string()
            }
            text => {
                let shown = json!([text]);
                let address: Ipv4Addr = text.parse().map_err(|_| {
                    (
                        shown.clone(),
                        format!("failed to allocate IP {text}: the provided network does not match the current range"),
                    )
                })?;
                if !held.contains(&address) {
                    self.this_address(address, owner).map_err(|why| (shown, why))?;
                    reservation.addresses.push(address);
                }
                text.to_owned()
            }
        };
        spec.insert("clusterIP".into(), address.as_str().into());
        spec.insert("clusterIPs".into(), json!([address]));
        Ok(())
    }

    fn node_ports(
        &self,
        service: &mut Value,
        held: &[u16],
        owner: &str,
        reservation: &mut Reservation<'_>,
    ) -> Result<(), (Path, Value, String)> {
        let wanted = wants_node_ports(service);
        let local = service_type(service) == "LoadBalancer"
            && meta::str_at(service, &["spec", "externalTrafficPolicy"]) == "Local";
        let type_has_ports = matches!(service_type(service), "NodePort" | "LoadBalancer");
        let path = Path::new("spec");
        let mut mine: Vec<u16> = held.to_vec();
        // One number may serve the same port in two protocols.
        let mut by_port: HashMap<(u64, String), u16> = HashMap::new();
        let mut used: Vec<(u16, String)> = Vec::new();
        if let Some(ports) = service["spec"].get_mut("ports").and_then(Value::as_array_mut) {
            for (index, port) in ports.iter_mut().enumerate() {
                let asked = port["nodePort"].as_u64().unwrap_or(0);
                let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
                let at = || path.child("ports").index(index).child("nodePort");
                if !type_has_ports {
                    if let Some(map) = port.as_object_mut()
                        && asked != 0
                    {
                        map.remove("nodePort");
                    }
                    continue;
                }
                let number = port["port"].as_u64().unwrap_or(0);
                let chosen = if asked != 0 {
                    let asked = u16::try_from(asked)
                        .map_err(|_| (at(), json!(asked), "must be between 1 and 65535, inclusive".to_owned()))?;
                    let shared = used.iter().any(|(port, other)| *port == asked && *other != protocol);
                    if !mine.contains(&asked) && !shared {
                        self.this_port(asked, owner).map_err(|why| (at(), json!(asked), why))?;
                        reservation.ports.push(asked);
                        mine.push(asked);
                    }
                    asked
                } else if wanted {
                    match by_port.iter().find(|((port, other), _)| *port == number && *other != protocol) {
                        Some((_, shared)) => *shared,
                        None => {
                            let free = self.any_port(owner).ok_or_else(|| {
                                (at(), json!(0), "failed to allocate a nodePort: range is full".to_owned())
                            })?;
                            reservation.ports.push(free);
                            mine.push(free);
                            free
                        }
                    }
                } else {
                    continue;
                };
                by_port.insert((number, protocol.clone()), chosen);
                used.push((chosen, protocol));
                port["nodePort"] = json!(chosen);
            }
        }
        let asked = meta::i64_at(service, &["spec", "healthCheckNodePort"]).unwrap_or(0);
        if !local {
            meta::remove_at(service, &["spec", "healthCheckNodePort"]);
        } else if asked == 0 {
            let at = path.child("healthCheckNodePort");
            let free = self
                .any_port(owner)
                .ok_or_else(|| (at, json!(0), "failed to allocate a healthCheckNodePort: range is full".to_owned()))?;
            reservation.ports.push(free);
            meta::set_at(service, &["spec", "healthCheckNodePort"], free);
        } else if let Ok(asked) = u16::try_from(asked)
            && !mine.contains(&asked)
        {
            let at = path.child("healthCheckNodePort");
            self.this_port(asked, owner).map_err(|why| (at, json!(asked), why))?;
            reservation.ports.push(asked);
        }
        Ok(())
    }

    fn release(&self, service: &Value) {
        let mut taken = self.taken.lock();
        for address in addresses_of(service) {
            taken.addresses.remove(&address);
        }
        for port in ports_of(service) {
            taken.ports.remove(&port);
        }
    }
}

/// Allocates for a new object; does nothing for kinds other than Service.
///
/// # Errors
/// 422 when what is asked for is taken or out of range, or the pool is empty.
pub fn for_create<'a>(op: &Op<'a>, object: &mut Value) -> Result<Reservation<'a>, ApiError> {
    if !op.stored.is("", "Service") {
        return Ok(Reservation::none());
    }
    // A reservation that is not kept (dry run, a taken name) is undone.
    op.api.services.allocate(op, object, None)
}

/// Allocates for a changed object; does nothing for kinds other than Service and for subresources.
///
/// # Errors
/// As [`for_create`].
pub fn for_update<'a>(op: &Op<'a>, new: &mut Value, old: &Value) -> Result<Reservation<'a>, ApiError> {
    if !op.stored.is("", "Service") || !op.subresource.is_empty() {
        return Ok(Reservation::none());
    }
    op.api.services.allocate(op, new, Some(old))
}

/// Gives back what a deleted object held.
pub fn release(api: &Api, kind: &Kind, object: &Value) {
    if kind.is("", "Service") {
        api.services.release(object);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator(prefix: &str) -> ServiceAllocator {
        ServiceAllocator::new(prefix.parse().unwrap(), 30_000..=30_003)
    }

    #[test]
    fn a_full_range_is_said_and_every_address_is_used() {
        let pool = allocator("10.0.0.0/29");
        let mut seen: Vec<Ipv4Addr> = (0..6).map(|_| pool.any_address("a/b").unwrap()).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 6);
        assert!(!seen.contains(&Ipv4Addr::new(10, 0, 0, 0)) && !seen.contains(&Ipv4Addr::new(10, 0, 0, 7)));
        assert_eq!(pool.any_address("a/b"), None);
    }

    #[test]
    fn dynamic_addresses_leave_the_static_band_alone() {
        let pool = allocator("10.96.0.0/16");
        for _ in 0..200 {
            let address = pool.any_address("a/b").unwrap();
            assert!(u32::from(address) > u32::from(Ipv4Addr::new(10, 96, 1, 0)), "{address}");
        }
    }

    #[test]
    fn asked_for_addresses_and_ports_are_checked() {
        let pool = allocator("10.96.0.0/16");
        let wanted = Ipv4Addr::new(10, 96, 0, 10);
        pool.this_address(wanted, "a/b").unwrap();
        assert!(pool.this_address(wanted, "c/d").unwrap_err().ends_with("provided IP is already allocated"));
        let outside = pool.this_address(Ipv4Addr::new(1, 2, 3, 4), "c/d").unwrap_err();
        assert!(outside.ends_with("does not match the current range"), "{outside}");
        assert!(pool.this_port(80, "c/d").unwrap_err().contains("30000-30003"));
        pool.this_port(30_001, "a/b").unwrap();
        assert!(pool.this_port(30_001, "c/d").unwrap_err().contains("already allocated"));
    }

    #[test]
    fn a_restart_remembers_what_services_hold() {
        let pool = allocator("10.96.0.0/16");
        let service = json!({"metadata": {"name": "w", "namespace": "d"},
            "spec": {"type": "NodePort", "clusterIP": "10.96.5.5", "clusterIPs": ["10.96.5.5"], "ports": [{"nodePort": 30_002}]}});
        pool.rebuild(std::iter::once(service.clone()));
        assert!(pool.this_address(Ipv4Addr::new(10, 96, 5, 5), "x/y").is_err());
        assert!(pool.this_port(30_002, "x/y").is_err());
        pool.release(&service);
        assert!(pool.this_port(30_002, "x/y").is_ok());
    }
}
