//! What the maps hold, as the agent knows it: read back from pinned maps at the start, then kept by each `diff`.
//!
//! May not know: Kubernetes, system calls.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use ipnetwork::IpNetwork;
use strake_abi::addr::{Addr6, Port};
use strake_abi::config::Config;
use strake_abi::dns::{DnsKey, DnsName, DnsZone};
use strake_abi::service::{Backend, MemberKey, Service, ServiceKey6, SourceKey};

use crate::hash::{HashMap, HashSet};
use crate::plan::Plan;
use crate::sizes::MapSizes;
use crate::slices::{Extent, Slices};
use crate::tables::Table;

/// Address, port and protocol of a backend: what a [`Backend::id`] names.
pub type BackendName = (Addr6, Port, u8);

/// A row of `SOURCE_RANGES`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceRange {
    /// How many bits of the key count.
    pub bits: u32,
    pub key: SourceKey,
}

impl SourceRange {
    /// `network` has no bits of a host.
    pub fn new(list: u32, network: IpNetwork) -> Self {
        let written = network.prefix();
        let prefix = if network.is_ipv4() { 96 + written } else { written };
        Self { bits: SourceKey::bits(prefix), key: SourceKey { list, addr: network.network().into() } }
    }

    /// As people write it; None if the row is of no range that there is.
    pub fn network(&self) -> Option<IpNetwork> {
        let prefix = self.bits.checked_sub(SourceKey::bits(if self.key.addr.v4().is_some() { 96 } else { 0 }))?;
        IpNetwork::new(self.key.addr.ip(), u8::try_from(prefix).ok()?).ok()
    }
}

/// The contents of the maps.
#[derive(Clone, Debug)]
pub struct Installed {
    pub config: Config,
    pub zone: DnsZone,
    /// Of both families; keys of IPv4 are mapped, here and below.
    pub services: HashMap<ServiceKey6, Service>,
    /// What each extent that a service points at holds.
    pub slices: HashMap<Extent, Vec<Backend>>,
    pub members: HashSet<MemberKey>,
    /// Lists of source ranges, by id; each ordered.
    pub source_lists: HashMap<u32, Vec<SourceRange>>,
    pub nodes: HashMap<Addr6, u32>,
    /// Names are large and many: of each only what tells a changed row.
    pub names: HashMap<DnsKey, u64>,
    pub backend_ids: HashMap<BackendName, u32>,
    /// The extent that the frontends with this service id point at.
    pub extents: HashMap<u32, Extent>,
    /// The next id to hand out; at least every id ever handed out plus one.
    pub next_id: u32,
    pub allocator: Slices,
    /// The Maglev table that the external frontends with this service id point at. What is in it follows from the slice.
    pub tables: HashMap<u32, Table>,
    pub table_allocator: Slices,
}

/// What is read back from the maps.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub config: Config,
    pub zone: DnsZone,
    pub services: Vec<(ServiceKey6, Service)>,
    /// Slots that the services point at, by index.
    pub backends: HashMap<u32, Backend>,
    pub members: Vec<(MemberKey, Backend)>,
    pub sources: Vec<SourceRange>,
    pub nodes: Vec<(Addr6, u32)>,
    pub names: Vec<(DnsKey, DnsName)>,
}

/// A row of `DNS_NAMES` in 64 bits; only compared with another of the same process.
pub fn fingerprint(name: &DnsName) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

impl Installed {
    /// From maps of which `BACKENDS` and `MAGLEV` have the room that `sizes` says.
    pub fn new(contents: Contents, sizes: &MapSizes) -> Self {
        let Contents { config, zone, services, backends, members, sources, nodes, names } = contents;
        let mut slices = HashMap::default();
        let mut backend_ids = HashMap::default();
        for (key, service) in &services {
            let extent = Extent { base: service.backend_base, count: service.backend_count };
            if extent.count == 0 {
                continue;
            }
            let slice = slices.entry(extent).or_insert_with(|| -> Vec<Backend> {
                let slots = extent.base..extent.base.saturating_add(extent.count);
                slots.map(|slot| backends.get(&slot).copied().unwrap_or_default()).collect()
            });
            for backend in slice.iter().filter(|backend| backend.id != 0) {
                backend_ids.insert((backend.addr, backend.port, key.proto), backend.id);
            }
        }
        let protocols: HashMap<u32, u8> = services.iter().map(|(key, service)| (service.id, key.proto)).collect();
        for (key, backend) in &members {
            if let Some(proto) = protocols.get(&key.service_id) {
                backend_ids.entry((backend.addr, backend.port, *proto)).or_insert(backend.id);
            }
        }
        let mut source_lists: HashMap<u32, Vec<SourceRange>> = HashMap::default();
        for row in sources {
            source_lists.entry(row.key.list).or_default().push(row);
        }
        source_lists.values_mut().for_each(|rows| rows.sort_by_key(SourceRange::network));
        let ids = services.iter().map(|(_, service)| service.id).chain(backend_ids.values().copied());
        let highest = ids.chain(source_lists.keys().copied()).max();
        let tables: HashMap<u32, Table> = services
            .iter()
            .filter(|(_, service)| service.maglev_size > 0)
            .map(|(_, service)| (service.id, Table::new(service.maglev_base, service.maglev_size)))
            .collect();
        let extents = services.iter().filter(|(_, service)| service.backend_count > 0);
        let extents = extents
            .map(|(_, service)| (service.id, Extent { base: service.backend_base, count: service.backend_count }))
            .collect();
        Self {
            extents,
            next_id: config.next_id.max(highest.map_or(1, |id| id.saturating_add(1))).max(1),
            allocator: Slices::new(sizes.backends, slices.keys().copied()),
            table_allocator: Slices::new(sizes.maglev, tables.values().map(|table| table.rows)),
            tables,
            config,
            zone,
            services: services.into_iter().collect(),
            slices,
            members: members.into_iter().map(|(key, _)| key).collect(),
            source_lists,
            nodes: nodes.into_iter().collect(),
            names: names.iter().map(|(key, name)| (*key, fingerprint(name))).collect(),
            backend_ids,
        }
    }

    /// Empty maps.
    pub fn empty(sizes: &MapSizes) -> Self {
        Self::new(Contents::default(), sizes)
    }

    /// The same maps without any row, but with the numbers and the room that there are.
    pub(crate) fn without_rows(&self) -> Self {
        Self {
            config: self.config,
            zone: self.zone,
            next_id: self.next_id,
            allocator: self.allocator.clone(),
            table_allocator: self.table_allocator.clone(),
            ..Self::new(Contents::default(), &MapSizes { backends: 0, maglev: 0, ..MapSizes::default() })
        }
    }

    /// Takes the rows of `before` out and those of `after`, made from it, in.
    pub(crate) fn exchange(&mut self, before: &Self, after: Self) {
        exchange(&mut self.services, &before.services, after.services);
        exchange(&mut self.slices, &before.slices, after.slices);
        exchange(&mut self.names, &before.names, after.names);
        exchange(&mut self.extents, &before.extents, after.extents);
        exchange(&mut self.tables, &before.tables, after.tables);
        for key in &before.members {
            self.members.remove(key);
        }
        self.members.extend(after.members);
        self.backend_ids.extend(after.backend_ids);
        self.config = after.config;
        self.next_id = after.next_id;
        self.allocator = after.allocator;
        self.table_allocator = after.table_allocator;
        self.forget_backends();
    }

    /// Forgets the ids of backends that nobody has any more, when they have become the greater part. (Another Service
    /// may still have a backend that one gave up.)
    fn forget_backends(&mut self) {
        let live = self.allocator.used() as usize + self.members.len();
        if self.backend_ids.len() > 2 * live + 1024 {
            let members = self.members.iter().map(|key| key.backend_id);
            let used: HashSet<u32> = self.slices.values().flatten().map(|backend| backend.id).chain(members).collect();
            self.backend_ids.retain(|_, id| used.contains(id));
        }
    }

    /// Keeps what a plan that was applied left unused until the programs that may read it are done.
    pub fn retire(&mut self, plan: &Plan, now: Instant) {
        plan.retired.iter().for_each(|extent| self.allocator.retire(*extent, now));
        plan.tables_retired.iter().for_each(|rows| self.table_allocator.retire(*rows, now));
    }

    /// Frees what was retired a grace period ago.
    pub fn reclaim(&mut self, now: Instant) {
        self.allocator.reclaim(now);
        self.table_allocator.reclaim(now);
    }

    /// Frees all that was retired: the caller has waited for every running program.
    pub fn reclaim_all(&mut self) {
        self.allocator.reclaim_all();
        self.table_allocator.reclaim_all();
    }
}

fn exchange<K: Eq + Hash, V>(rows: &mut HashMap<K, V>, before: &HashMap<K, V>, after: HashMap<K, V>) {
    for key in before.keys() {
        rows.remove(key);
    }
    rows.extend(after);
}
