//! ClusterIPs and NodePorts: who has which, and the next free one.
//!
//! The Services themselves are the only record: the state here is rebuilt from them at start, and follows every write.
//! What a Service wants, of which families, is `strake_strategy::service_alloc`'s to say.

mod ports;
mod range;

use std::{collections::HashSet, net::IpAddr, ops::RangeInclusive};

use ipnetwork::IpNetwork;
use parking_lot::Mutex;
use serde_json::Value;
use strake_machinery::{ApiError, Kind, field::FieldError};
use strake_strategy::service_alloc::{self, Family};

use self::range::Range;
use crate::{api::Api, registry::Op};

/// The state of the pools: addresses of one or two families, and node ports.
pub struct ServiceAllocator {
    /// The cluster's default family first; at most one of each.
    ranges: Vec<Range>,
    ports: RangeInclusive<u16>,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    addresses: HashSet<IpAddr>,
    ports: HashSet<u16>,
}

/// What an operation took and gave up. Dropped, it is undone; kept, it is final.
#[must_use]
pub struct Reservation<'a> {
    allocator: Option<&'a ServiceAllocator>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    give_up_addresses: Vec<IpAddr>,
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

/// The ClusterIP addresses that a Service holds.
fn addresses_of(service: &Value) -> Vec<IpAddr> {
    service_alloc::held(service).0.iter().filter_map(|address| address.parse().ok()).collect()
}

/// The NodePorts that a Service holds, the health check's included.
fn ports_of(service: &Value) -> Vec<u16> {
    let mut ports: Vec<u16> =
        service_alloc::held(service).1.into_iter().filter_map(|(_, port)| u16::try_from(port).ok()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

impl ServiceAllocator {
    /// Empty pools.
    pub fn new(networks: impl IntoIterator<Item = IpNetwork>, ports: RangeInclusive<u16>) -> Self {
        Self { ranges: networks.into_iter().map(Range::new).collect(), ports, taken: Mutex::default() }
    }

    /// Starts over from the Services there are.
    pub fn rebuild(&self, services: impl Iterator<Item = Value>) {
        let mut taken = Taken::default();
        for service in services {
            taken.addresses.extend(addresses_of(&service));
            taken.ports.extend(ports_of(&service));
        }
        *self.taken.lock() = taken;
    }

    /// Takes the next free address of a family; None when all are taken or the cluster does not have the family.
    fn any_address(&self, family: Family) -> Option<IpAddr> {
        let range = self.ranges.iter().find(|range| range.family() == family)?;
        let mut taken = self.taken.lock();
        range.candidates().find(|address| taken.addresses.insert(*address))
    }

    fn this_address(&self, address: IpAddr) -> Result<(), &'static str> {
        if !self.ranges.iter().any(|range| range.holds(address)) {
            return Err("the provided network does not match the current range");
        }
        if self.taken.lock().addresses.insert(address) { Ok(()) } else { Err("provided IP is already allocated") }
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
        let invalid = |errors: Vec<FieldError>| ApiError::invalid(op.kind, op.name, errors);
        let families: Vec<Family> = self.ranges.iter().map(Range::family).collect();
        service_alloc::init_families(service, old, &families).map_err(invalid)?;
        self.addresses(service, old, &mut reservation).map_err(|refused| match refused {
            Refused::Address(error) => invalid(vec![*error]),
            Refused::Full => ApiError::internal("failed to allocate a serviceIP: range is full"),
        })?;
        let held = old.map(ports_of).unwrap_or_default();
        self.node_ports(service, &held, &mut reservation)
            .map_err(|(path, value, why)| invalid(vec![FieldError::invalid(&path, value, why)]))?;
        if let Some(old) = old {
            let (addresses, ports) = (addresses_of(service), ports_of(service));
            reservation.give_up_addresses.extend(addresses_of(old).into_iter().filter(|one| !addresses.contains(one)));
            reservation.give_up_ports.extend(ports_of(old).into_iter().filter(|one| !ports.contains(one)));
        }
        Ok(reservation)
    }

    /// One address for each of the Service's families.
    fn addresses(
        &self,
        service: &mut Value,
        old: Option<&Value>,
        reservation: &mut Reservation<'_>,
    ) -> Result<(), Refused> {
        let held = old.map(addresses_of).unwrap_or_default();
        let mut given = Vec::new();
        for (family, asked) in service_alloc::wanted(service).cluster_ips {
            let Some(text) = asked else {
                let address = self.any_address(family).ok_or(Refused::Full)?;
                reservation.addresses.push(address);
                given.push(address.to_string());
                continue;
            };
            let refused = |why: &str| Refused::Address(Box::new(service_alloc::ip_refused(service, &text, why)));
            let address: IpAddr = text.parse().map_err(|_| refused("not a valid IP address"))?;
            if !held.contains(&address) {
                self.this_address(address).map_err(refused)?;
                reservation.addresses.push(address);
            }
            given.push(address.to_string());
        }
        service_alloc::set_cluster_ips(service, &given);
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

/// Why there is no address.
enum Refused {
    /// The one asked for cannot be had.
    Address(Box<FieldError>),
    /// All are taken.
    Full,
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
    use serde_json::json;

    use super::*;

    fn allocator(ranges: &[&str]) -> ServiceAllocator {
        ServiceAllocator::new(ranges.iter().map(|range| range.parse().unwrap()), 30_000..=30_003)
    }

    #[test]
    fn a_full_range_is_said_and_every_address_is_used() {
        let pool = allocator(&["10.0.0.0/29", "fd00::/126"]);
        let mut seen: Vec<IpAddr> = (0..6).map(|_| pool.any_address(Family::V4).unwrap()).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 6);
        assert_eq!(pool.any_address(Family::V4), None);
        assert!((0..3).all(|_| pool.any_address(Family::V6).is_some()), "the families do not share a pool");
        assert_eq!(pool.any_address(Family::V6), None);
        assert_eq!(allocator(&["10.0.0.0/29"]).any_address(Family::V6), None);
    }

    #[test]
    fn asked_for_addresses_and_ports_are_checked() {
        let pool = allocator(&["10.96.0.0/16", "fd00::/112"]);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        pool.this_address(ip("10.96.0.10")).unwrap();
        pool.this_address(ip("fd00::a")).unwrap();
        assert_eq!(pool.this_address(ip("10.96.0.10")), Err("provided IP is already allocated"));
        assert_eq!(pool.this_address(ip("fd00::a")), Err("provided IP is already allocated"));
        for outside in ["1.2.3.4", "fd00::1:0", "10.96.0.0"] {
            let why = pool.this_address(ip(outside)).unwrap_err();
            assert_eq!(why, "the provided network does not match the current range", "{outside}");
        }
        assert!(pool.this_port(80).unwrap_err().contains("30000-30003"));
        pool.this_port(30_001).unwrap();
        assert!(pool.this_port(30_001).unwrap_err().contains("already allocated"));
    }

    #[test]
    fn a_restart_remembers_what_services_hold() {
        let pool = allocator(&["10.96.0.0/16", "fd00::/112"]);
        let service = json!({"metadata": {"name": "w", "namespace": "d"}, "spec": {
            "type": "NodePort", "clusterIP": "10.96.5.5", "clusterIPs": ["10.96.5.5", "fd00::5"],
            "ports": [{"nodePort": 30_002}]}});
        pool.rebuild(std::iter::once(service.clone()));
        assert!(pool.this_address("10.96.5.5".parse().unwrap()).is_err());
        assert!(pool.this_address("fd00::5".parse().unwrap()).is_err());
        assert!(pool.this_port(30_002).is_err());
        pool.release(&service);
        assert!(pool.this_address("fd00::5".parse().unwrap()).is_ok());
        assert!(pool.this_port(30_002).is_ok());
    }
}
