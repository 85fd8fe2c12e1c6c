//! Which Service an address is, and which backend it gives. Shared by the socket hooks and the packet path.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use aya_ebpf::maps::lpm_trie::Key;
use strake_abi::config::Config;
use strake_abi::conntrack::Tuple;
use strake_abi::endpoint::NODE_LOCAL;
use strake_abi::flow::Counter;
use strake_abi::service::{
    Affinity, AffinityKey, AffinityKey6, Backend, MAGLEV_ROW, MemberKey, Service, ServiceKey, ServiceKey6, SourceKey,
};
use strake_abi::{Addr4, Addr6, Port};
use strake_logic::{choose, maglev};

use crate::maps::{
    AFFINITY, AFFINITY_V6, BACKENDS, MAGLEV, MEMBERS, NODES, NODES_V6, SERVICES, SERVICES_V6, SOURCE_RANGES, get,
};
use crate::report::count;

/// A length of addresses, for reading backends, whose rows have room for both.
pub trait Wide: Copy {
    fn of(backend: &Backend) -> Self;
}

impl Wide for Addr4 {
    #[inline(always)]
    fn of(backend: &Backend) -> Self {
        Self(backend.addr.0[3])
    }
}

impl Wide for Addr6 {
    #[inline(always)]
    fn of(backend: &Backend) -> Self {
        backend.addr
    }
}

/// A backend, copied: with the part of its address that the asker needs.
#[derive(Clone, Copy)]
pub struct Target<A> {
    pub addr: A,
    pub port: Port,
    pub flags: u8,
    pub id: u32,
}

impl<A: Wide> Target<A> {
    #[inline(always)]
    pub fn of(backend: &Backend) -> Self {
        Self { addr: A::of(backend), port: backend.port, flags: backend.flags, id: backend.id }
    }
}

/// 32 random bits.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: no memory is involved.
    unsafe { bpf_get_prandom_u32() }
}

/// Both families find a Service in the same way, in maps of their own.
macro_rules! finder {
    ($find:ident, $addr:ident, $key:ident in $services:ident, $nodes:ident) => {
        /// The Service at an address, NodePorts included.
        #[inline(always)]
        pub fn $find(config: &Config, addr: $addr, port: Port, proto: u8, scope: u8) -> Option<&'static Service> {
            if let Some(service) = get!($services, &$key { addr, port, proto, scope }) {
                return Some(service);
            }
            let number = port.get();
            if number < config.node_port_min || number > config.node_port_max {
                return None;
            }
            let flags = *get!($nodes, &addr)?;
            if flags & NODE_LOCAL == 0 {
                return None;
            }
            get!($services, &$key { addr: $addr::ANY, port, proto, scope })
        }
    };
}
finder!(find, Addr4, ServiceKey in SERVICES, NODES);
finder!(find6, Addr6, ServiceKey6 in SERVICES_V6, NODES_V6);

/// Whether this client may open a connection to the frontend, before anything else is asked of it. Of either family.
#[inline(always)]
pub fn admits(service: &Service, client: impl Into<Addr6>) -> bool {
    service.source_list == 0 || is_on_list(service.source_list, &client.into())
}

#[inline(never)]
fn is_on_list(list: u32, client: &Addr6) -> bool {
    SOURCE_RANGES.get(Key::new(SourceKey::BITS, SourceKey { list, addr: *client })).is_some()
}

/// Whether a backend that was chosen before may still be used for this Service.
#[inline(always)]
pub fn is_member(service_id: u32, backend_id: u32) -> Option<&'static Backend> {
    get!(MEMBERS, &MemberKey { service_id, backend_id })
}

/// Who ClientIP affinity is kept for: an IPv4 address, which is also the name of a Pod in both families, or the IPv6
/// address of a client of the network.
pub trait Client: Copy {
    fn affinity(self, service_id: u32) -> Option<*mut Affinity>;

    /// If the map has no room the connection is served all the same; only its stickiness is lost.
    fn stick(self, service_id: u32, to: &Affinity);
}

impl Client for Addr4 {
    #[inline(always)]
    fn affinity(self, service_id: u32) -> Option<*mut Affinity> {
        AFFINITY.get_ptr_mut(&AffinityKey { client: self, service_id })
    }

    #[inline(always)]
    fn stick(self, service_id: u32, to: &Affinity) {
        let _ = AFFINITY.insert(&AffinityKey { client: self, service_id }, to, u64::from(BPF_ANY));
    }
}

impl Client for Addr6 {
    #[inline(always)]
    fn affinity(self, service_id: u32) -> Option<*mut Affinity> {
        AFFINITY_V6.get_ptr_mut(&AffinityKey6 { client: self, service_id })
    }

    #[inline(always)]
    fn stick(self, service_id: u32, to: &Affinity) {
        let _ = AFFINITY_V6.insert(&AffinityKey6 { client: self, service_id }, to, u64::from(BPF_ANY));
    }
}

/// A backend for a new connection of `client`, at a Service of either family with at least one.
#[inline(always)]
pub fn choose<A: Wide>(service: &Service, client: impl Client, now_s: u32) -> Option<Target<A>> {
    choose_at(service, client, choose::index(random(), service.backend_count), now_s)
}

/// A backend for a new flow from outside: where the Service has a Maglev table, the one that every node chooses for it.
#[inline(always)]
pub fn choose_outside<A: Wide + Client + Into<Addr6>>(
    service: &Service,
    tuple: &Tuple<A>,
    proto: u8,
    now_s: u32,
) -> Option<Target<A>> {
    let position = if service.maglev_size == 0 {
        choose::index(random(), service.backend_count)
    } else {
        consistent(service, tuple, proto)
    };
    choose_at(service, tuple.src, position, now_s)
}

#[inline(never)]
fn consistent<A: Wide + Into<Addr6>>(service: &Service, tuple: &Tuple<A>, proto: u8) -> u32 {
    let (client, vip) = (tuple.src.into(), tuple.dst.into());
    position(service, maglev::Flow { client, vip, sport: tuple.sport, dport: tuple.dport, proto })
}

/// The position in the slice that the table has for a flow, of either family.
#[inline(always)]
pub fn position(service: &Service, flow: maglev::Flow) -> u32 {
    let entry = maglev::entry(&flow.at(service), service.maglev_size);
    let row = MAGLEV.get(service.maglev_base.wrapping_add(entry / MAGLEV_ROW));
    let found = row.map_or(0, |row| u32::from(row.entries[(entry % MAGLEV_ROW) as usize]));
    // A table says no such thing of its slice; whatever it says, the choice stays within.
    if found < service.backend_count { found } else { 0 }
}

#[inline(always)]
fn choose_at<A: Wide>(service: &Service, client: impl Client, position: u32, now_s: u32) -> Option<Target<A>> {
    if service.affinity_timeout_s != 0 {
        return sticky(service, client, position, now_s);
    }
    at(service, position)
}

#[inline(always)]
fn at<A: Wide>(service: &Service, position: u32) -> Option<Target<A>> {
    BACKENDS.get(service.backend_base.wrapping_add(position)).map(Target::of).filter(|b| b.id != 0)
}

#[inline(never)]
fn sticky<A: Wide>(service: &Service, client: impl Client, position: u32, now_s: u32) -> Option<Target<A>> {
    if let Some(row) = client.affinity(service.id) {
        // SAFETY: see `maps::get`; both fields are words.
        let row = unsafe { &mut *row };
        if choose::is_fresh(now_s, row.last_used_s, service.affinity_timeout_s) {
            if let Some(backend) = is_member(service.id, row.backend_id) {
                row.last_used_s = now_s;
                count(Counter::AffinityHit);
                return Some(Target::of(backend));
            }
            count(Counter::BackendReplaced);
        }
    }
    let backend: Target<A> = at(service, position)?;
    client.stick(service.id, &Affinity { backend_id: backend.id, last_used_s: now_s });
    Some(backend)
}
