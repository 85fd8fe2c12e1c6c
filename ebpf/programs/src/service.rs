//! Which Service an address is, and which backend it gives. Shared by the socket hooks and the packet path.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use strake_abi::config::Config;
use strake_abi::endpoint::NODE_LOCAL;
use strake_abi::flow::{Counter, DropReason};
use strake_abi::service::{Affinity, AffinityKey, Backend, MemberKey, SCOPE_INTERNAL, Service, ServiceKey};
use strake_abi::{Addr4, Port};
use strake_logic::choose;

use crate::maps::{AFFINITY, BACKENDS, MEMBERS, NODES, SERVICES, get};
use crate::report::count;

/// 32 random bits.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: no memory is involved.
    unsafe { bpf_get_prandom_u32() }
}

/// The Service at an address, NodePorts included.
#[inline(always)]
pub fn find(config: &Config, addr: Addr4, port: Port, proto: u8, scope: u8) -> Option<&'static Service> {
    let key = ServiceKey { addr, port, proto, scope };
    if let Some(service) = get!(SERVICES, &key) {
        return Some(service);
    }
    let number = port.get();
    if number < config.node_port_min || number > config.node_port_max {
        return None;
    }
    let flags = *get!(NODES, &addr)?;
    if flags & NODE_LOCAL == 0 {
        return None;
    }
    get!(SERVICES, &ServiceKey { addr: Addr4::ANY, port, proto, scope })
}

/// Whether a port that no Service has stands on a ClusterIP that exists (reject) or not (drop).
#[inline(never)]
pub fn unknown_port(addr: Addr4) -> DropReason {
    let key = ServiceKey { addr, port: Port(0), proto: 0, scope: SCOPE_INTERNAL };
    if get!(SERVICES, &key).is_some() { DropReason::NoServicePort } else { DropReason::NoService }
}

/// Whether a backend that was chosen before may still be used for this Service.
#[inline(always)]
pub fn is_member(service_id: u32, backend_id: u32) -> Option<&'static Backend> {
    get!(MEMBERS, &MemberKey { service_id, backend_id })
}

/// A backend for a new connection of `client`, at a Service with at least one.
#[inline(always)]
pub fn choose(service: &Service, client: Addr4, now_s: u32) -> Option<Backend> {
    if service.affinity_timeout_s != 0 {
        return sticky(service, client, now_s);
    }
    any(service)
}

#[inline(always)]
fn any(service: &Service) -> Option<Backend> {
    let index = service.backend_base.wrapping_add(choose::index(random(), service.backend_count));
    BACKENDS.get(index).copied().filter(|b| b.id != 0)
}

#[inline(never)]
fn sticky(service: &Service, client: Addr4, now_s: u32) -> Option<Backend> {
    let key = AffinityKey { client, service_id: service.id };
    if let Some(row) = AFFINITY.get_ptr_mut(&key) {
        // SAFETY: see `maps::get`; both fields are words.
        let row = unsafe { &mut *row };
        if choose::is_fresh(now_s, row.last_used_s, service.affinity_timeout_s) {
            if let Some(backend) = is_member(service.id, row.backend_id) {
                row.last_used_s = now_s;
                count(Counter::AffinityHit);
                return Some(*backend);
            }
            count(Counter::BackendReplaced);
        }
    }
    let backend = any(service)?;
    // If the map has no room the connection is served all the same; only its stickiness is lost.
    let _ = AFFINITY.insert(&key, &Affinity { backend_id: backend.id, last_used_s: now_s }, u64::from(BPF_ANY));
    Some(backend)
}
