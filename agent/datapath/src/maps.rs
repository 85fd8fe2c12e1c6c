//! The kernel's maps, typed, and how they are read back and written.
//!
//! May not know: what the rows mean together.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::Pod;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use strake_abi::addr::{Addr4, Addr6};
use strake_abi::announce::{ANNOUNCED, Announced};
use strake_abi::config::{CONFIG, Config};
use strake_abi::conntrack::{
    CONNTRACK, CONNTRACK_V6, Conntrack, ConntrackKey, FRAGMENTS, FRAGMENTS_V6, FragmentKey, FragmentKey6, FragmentPorts,
};
use strake_abi::dns::{DNS_NAMES, DNS_ZONE, DnsKey, DnsName, DnsZone};
use strake_abi::endpoint::{
    ENDPOINTS, ENDPOINTS_BY_IP, ENDPOINTS_IP_V6, Endpoint, NODES, NODES_V6, PODS_BY_NETNS, PodNetns,
};
use strake_abi::flow::{COUNTERS, DROPS, EVENTS_LOST};
use strake_abi::service::{
    AFFINITY, AFFINITY_V6, Affinity, AffinityKey, AffinityKey6, BACKENDS, Backend, MAGLEV, MEMBERS, MaglevRow,
    MemberKey, SERVICES, SERVICES_V6, SOURCE_RANGES, Service, ServiceKey, ServiceKey6, SourceKey,
};
use strake_abi::sock::{
    SOCK_FLOWS, SOCK_FLOWS_V6, SOCK_NAT, SOCK_NAT_V6, SockFlow, SockFlow6, SockNat, SockNat6, SockNatKey, SockNatKey6,
};

use crate::installed::{Contents, SourceRange};
use crate::plan::Maps;
use crate::sys;

/// A map could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    #[error("opening map {map} pinned at {path}")]
    Open { map: &'static str, path: PathBuf, source: MapError },
    #[error("reading map {map}")]
    Read { map: &'static str, source: MapError },
    #[error("walking through map {map}")]
    Walk { map: &'static str, source: io::Error },
    #[error("{doing} map {map} (row {row} of {rows}){hint}", hint = if is_full(source) { ": the map is full" } else { "" })]
    Write { doing: &'static str, map: &'static str, row: usize, rows: usize, source: io::Error },
    #[error("writing map {map}")]
    Set { map: &'static str, source: MapError },
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC | libc::ENOMEM))
}

/// How full a map is.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Occupancy {
    pub map: &'static str,
    pub entries: u64,
    pub capacity: u32,
}

/// Rows a step of a walk that counts.
const STEP: usize = 4096;

/// A hash map: aya's view for reading, and the descriptor for batches.
pub struct Rows<K: Pod, V: Pod> {
    name: &'static str,
    typed: HashMap<MapData, K, V>,
    raw: MapData,
}

fn open(pins: &Path, name: &'static str) -> Result<MapData, MapsError> {
    let path = pins.join(name);
    MapData::from_pin(&path).map_err(|source| MapsError::Open { map: name, path, source })
}

impl<K: Pod, V: Pod> Rows<K, V> {
    pub fn open(pins: &Path, name: &'static str) -> Result<Self, MapsError> {
        let fail = |source| MapsError::Open { map: name, path: pins.join(name), source };
        let map = Map::from_map_data(open(pins, name)?).map_err(fail)?;
        let typed = HashMap::try_from(map).map_err(fail)?;
        Ok(Self { name, typed, raw: open(pins, name)? })
    }

    fn read_error(&self, source: MapError) -> MapsError {
        MapsError::Read { map: self.name, source }
    }

    pub fn get(&self, key: &K) -> Result<Option<V>, MapsError> {
        match self.typed.get(key, 0) {
            Ok(value) => Ok(Some(value)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(self.read_error(source)),
        }
    }

    /// Every row. Rows that come or go meanwhile may or may not be among them.
    pub fn all(&self) -> Result<Vec<(K, V)>, MapsError> {
        let mut rows = Vec::new();
        for row in self.typed.iter() {
            match row {
                Ok(row) => rows.push(row),
                // Deleted between the step to its key and the look at its value.
                Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(self.read_error(source)),
            }
        }
        Ok(rows)
    }

    /// The next rows of a walk, for maps too large to be held at once and too lively to be walked key by key.
    pub fn step(&self, cursor: &mut sys::Cursor) -> Result<Option<Vec<(K, V)>>, MapsError> {
        sys::lookup_batch(self.raw.fd().as_fd(), cursor).map_err(|source| MapsError::Walk { map: self.name, source })
    }

    pub fn put(&mut self, rows: &[(K, V)]) -> Result<(), MapsError> {
        let (keys, values): (Vec<K>, Vec<V>) = rows.iter().copied().unzip();
        sys::update_batch(self.raw.fd().as_fd(), &keys, &values).map_err(|(row, source)| MapsError::Write {
            doing: "writing",
            map: self.name,
            row,
            rows: rows.len(),
            source,
        })
    }

    /// Removes rows, in this order; those that are not there are no error.
    pub fn remove(&mut self, keys: &[K]) -> Result<(), MapsError> {
        let mut done = 0;
        while done < keys.len() {
            match sys::delete_batch(self.raw.fd().as_fd(), &keys[done..]) {
                Ok(()) => break,
                Err((row, source)) if source.raw_os_error() == Some(libc::ENOENT) => done += row + 1,
                Err((row, source)) => {
                    let (map, rows) = (self.name, keys.len());
                    return Err(MapsError::Write { doing: "deleting from", map, row: done + row, rows, source });
                }
            }
        }
        Ok(())
    }

    pub fn capacity(&self) -> u32 {
        self.raw.info().map_or(0, |info| info.max_entries())
    }

    /// Walks the map.
    pub fn occupancy(&self) -> Result<Occupancy, MapsError> {
        let (mut cursor, mut entries) = (sys::Cursor::new(STEP), 0);
        while let Some(rows) = self.step(&mut cursor)? {
            entries += rows.len() as u64;
        }
        Ok(Occupancy { map: self.name, entries, capacity: self.capacity() })
    }
}

/// `SOURCE_RANGES`. Written row by row: tries have batches from 5.13 only.
pub struct Sources {
    typed: LpmTrie<MapData, SourceKey, u32>,
    raw: MapData,
}

impl Sources {
    fn open(pins: &Path) -> Result<Self, MapsError> {
        let fail = |source| MapsError::Open { map: SOURCE_RANGES, path: pins.join(SOURCE_RANGES), source };
        let map = Map::from_map_data(open(pins, SOURCE_RANGES)?).map_err(fail)?;
        Ok(Self { typed: LpmTrie::try_from(map).map_err(fail)?, raw: open(pins, SOURCE_RANGES)? })
    }

    pub fn all(&self) -> Result<Vec<SourceRange>, MapsError> {
        let rows = self.typed.keys().map(|key| key.map(|key| SourceRange { bits: key.prefix_len(), key: key.data() }));
        rows.collect::<Result<_, _>>().map_err(|source| MapsError::Read { map: SOURCE_RANGES, source })
    }

    pub fn occupancy(&self) -> Result<Occupancy, MapsError> {
        let capacity = self.raw.info().map_or(0, |info| info.max_entries());
        Ok(Occupancy { map: SOURCE_RANGES, entries: self.all()?.len() as u64, capacity })
    }
}

/// An array map with both views.
struct Slots<V: Pod> {
    name: &'static str,
    typed: Array<MapData, V>,
    raw: MapData,
}

impl<V: Pod> Slots<V> {
    fn open(pins: &Path, name: &'static str) -> Result<Self, MapsError> {
        let fail = |source| MapsError::Open { map: name, path: pins.join(name), source };
        let map = Map::from_map_data(open(pins, name)?).map_err(fail)?;
        Ok(Self { name, typed: Array::try_from(map).map_err(fail)?, raw: open(pins, name)? })
    }

    fn get(&self, index: u32) -> Result<V, MapsError> {
        self.typed.get(&index, 0).map_err(|source| MapsError::Read { map: self.name, source })
    }

    /// Writes adjacent slots.
    fn write(&mut self, base: u32, values: &[V]) -> Result<(), MapsError> {
        let slots: Vec<u32> = (base..base + values.len() as u32).collect();
        sys::update_batch(self.raw.fd().as_fd(), &slots, values).map_err(|(row, source)| MapsError::Write {
            doing: "writing",
            map: self.name,
            row,
            rows: values.len(),
            source,
        })
    }

    fn set(&mut self, index: u32, value: &V) -> Result<(), MapsError> {
        self.typed.set(index, value, 0).map_err(|source| MapsError::Set { map: self.name, source })
    }
}

/// The maps that the agent reads and writes.
pub struct KernelMaps {
    config: Slots<Config>,
    zone: Slots<DnsZone>,
    backends: Slots<Backend>,
    tables: Slots<MaglevRow>,
    pub services: Rows<ServiceKey, Service>,
    pub services_v6: Rows<ServiceKey6, Service>,
    pub members: Rows<MemberKey, Backend>,
    pub sources: Sources,
    pub nodes: Rows<Addr4, u32>,
    pub nodes_v6: Rows<Addr6, u32>,
    pub names: Rows<DnsKey, DnsName>,
    pub endpoints: Rows<u32, Endpoint>,
    pub endpoints_by_ip: Rows<Addr4, u32>,
    pub endpoints_ip_v6: Rows<Addr6, u32>,
    pub pods_by_netns: Rows<u64, PodNetns>,
    pub sock_flows: Rows<u64, SockFlow>,
    pub sock_nat: Rows<SockNatKey, SockNat>,
    pub sock_flows_v6: Rows<u64, SockFlow6>,
    pub sock_nat_v6: Rows<SockNatKey6, SockNat6>,
    pub conntrack: Rows<ConntrackKey, Conntrack>,
    pub conntrack_v6: Rows<ConntrackKey<Addr6>, Conntrack<Addr6>>,
    pub fragments: Rows<FragmentKey, FragmentPorts>,
    pub fragments_v6: Rows<FragmentKey6, FragmentPorts>,
    pub announced: Rows<Addr6, Announced>,
    pub affinity: Rows<AffinityKey, Affinity>,
    pub affinity_v6: Rows<AffinityKey6, Affinity>,
    drops: PerCpuArray<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
    events_lost: PerCpuArray<MapData, u64>,
}

fn per_cpu(pins: &Path, name: &'static str) -> Result<PerCpuArray<MapData, u64>, MapsError> {
    let fail = |source| MapsError::Open { map: name, path: pins.join(name), source };
    PerCpuArray::try_from(Map::from_map_data(open(pins, name)?).map_err(fail)?).map_err(fail)
}

fn sums(map: &PerCpuArray<MapData, u64>, name: &'static str) -> Result<Vec<u64>, MapsError> {
    let sum = |index| map.get(&index, 0).map(|per_cpu| per_cpu.iter().sum::<u64>());
    (0..map.len()).map(sum).collect::<Result<_, _>>().map_err(|source| MapsError::Read { map: name, source })
}

impl KernelMaps {
    /// Opens the maps pinned in the folder `pins`.
    pub fn open(pins: &Path) -> Result<Self, MapsError> {
        Ok(Self {
            config: Slots::open(pins, CONFIG)?,
            zone: Slots::open(pins, DNS_ZONE)?,
            backends: Slots::open(pins, BACKENDS)?,
            tables: Slots::open(pins, MAGLEV)?,
            services: Rows::open(pins, SERVICES)?,
            services_v6: Rows::open(pins, SERVICES_V6)?,
            members: Rows::open(pins, MEMBERS)?,
            sources: Sources::open(pins)?,
            nodes: Rows::open(pins, NODES)?,
            nodes_v6: Rows::open(pins, NODES_V6)?,
            names: Rows::open(pins, DNS_NAMES)?,
            endpoints: Rows::open(pins, ENDPOINTS)?,
            endpoints_by_ip: Rows::open(pins, ENDPOINTS_BY_IP)?,
            endpoints_ip_v6: Rows::open(pins, ENDPOINTS_IP_V6)?,
            pods_by_netns: Rows::open(pins, PODS_BY_NETNS)?,
            sock_flows: Rows::open(pins, SOCK_FLOWS)?,
            sock_nat: Rows::open(pins, SOCK_NAT)?,
            sock_flows_v6: Rows::open(pins, SOCK_FLOWS_V6)?,
            sock_nat_v6: Rows::open(pins, SOCK_NAT_V6)?,
            conntrack: Rows::open(pins, CONNTRACK)?,
            conntrack_v6: Rows::open(pins, CONNTRACK_V6)?,
            fragments: Rows::open(pins, FRAGMENTS)?,
            fragments_v6: Rows::open(pins, FRAGMENTS_V6)?,
            announced: Rows::open(pins, ANNOUNCED)?,
            affinity: Rows::open(pins, AFFINITY)?,
            affinity_v6: Rows::open(pins, AFFINITY_V6)?,
            drops: per_cpu(pins, DROPS)?,
            counters: per_cpu(pins, COUNTERS)?,
            events_lost: per_cpu(pins, EVENTS_LOST)?,
        })
    }

    /// Everything that `diff` starts from.
    pub fn contents(&self) -> Result<Contents, MapsError> {
        let v4 = self.services.all()?.into_iter().map(|(key, service)| (key.into(), service));
        let services: Vec<(ServiceKey6, Service)> = v4.chain(self.services_v6.all()?).collect();
        let nodes = self.nodes.all()?.into_iter().map(|(addr, flags)| (addr.into(), flags));
        let wanted: BTreeSet<u32> = services
            .iter()
            .flat_map(|(_, s)| s.backend_base..s.backend_base.saturating_add(s.backend_count).min(self.slots()))
            .collect();
        let mut backends = crate::hash::HashMap::default();
        backends.reserve(wanted.len());
        for slot in wanted {
            backends.insert(slot, self.backends.get(slot)?);
        }
        Ok(Contents {
            config: self.config.get(0)?,
            zone: self.zone.get(0)?,
            services,
            backends,
            members: self.members.all()?,
            sources: self.sources.all()?,
            nodes: nodes.chain(self.nodes_v6.all()?).collect(),
            names: self.names.all()?,
        })
    }

    /// The row of a frontend of either family.
    pub fn service(&self, key: &ServiceKey6) -> Result<Option<Service>, MapsError> {
        key.v4().map_or_else(|| self.services_v6.get(key), |key| self.services.get(&key))
    }

    pub fn backend(&self, slot: u32) -> Result<Backend, MapsError> {
        self.backends.get(slot)
    }

    pub fn config(&self) -> Result<Config, MapsError> {
        self.config.get(0)
    }

    /// A piece of a Maglev table.
    pub fn table_row(&self, row: u32) -> Result<MaglevRow, MapsError> {
        self.tables.get(row)
    }

    /// Entries of `BACKENDS`.
    pub fn slots(&self) -> u32 {
        self.backends.typed.len()
    }

    /// The room there really is (pinned maps keep the size they were made with).
    pub fn sizes(&self, configured: crate::sizes::MapSizes) -> crate::sizes::MapSizes {
        crate::sizes::MapSizes {
            services: self.services.capacity(),
            services_v6: self.services_v6.capacity(),
            backends: self.slots(),
            maglev: self.tables.typed.len(),
            members: self.members.capacity(),
            source_ranges: self.sources.raw.info().map_or(0, |info| info.max_entries()),
            endpoints: self.endpoints.capacity(),
            nodes: self.nodes.capacity(),
            dns_names: self.names.capacity(),
            ..configured
        }
    }

    /// Totals since the maps were made, by number of the enum.
    pub fn drops(&self) -> Result<Vec<u64>, MapsError> {
        sums(&self.drops, DROPS)
    }

    pub fn counters(&self) -> Result<Vec<u64>, MapsError> {
        sums(&self.counters, COUNTERS)
    }

    pub fn events_lost(&self) -> Result<Vec<u64>, MapsError> {
        sums(&self.events_lost, EVENTS_LOST)
    }
}

/// Rows (or keys) of IPv4 in the form of their own map, and those of IPv6.
fn split<T: Copy, S>(rows: &[T], v4: impl Fn(&T) -> Option<S>) -> (Vec<S>, Vec<T>) {
    let short = rows.iter().filter_map(&v4).collect();
    (short, rows.iter().filter(|row| v4(row).is_none()).copied().collect())
}

impl Maps for KernelMaps {
    type Error = MapsError;

    fn put_members(&mut self, rows: &[(MemberKey, Backend)]) -> Result<(), MapsError> {
        self.members.put(rows)
    }

    fn remove_members(&mut self, keys: &[MemberKey]) -> Result<(), MapsError> {
        self.members.remove(keys)
    }

    fn put_sources(&mut self, rows: &[SourceRange]) -> Result<(), MapsError> {
        for range in rows {
            let put = self.sources.typed.insert(&Key::new(range.bits, range.key), 1, 0);
            put.map_err(|source| MapsError::Set { map: SOURCE_RANGES, source })?;
        }
        Ok(())
    }

    fn remove_sources(&mut self, rows: &[SourceRange]) -> Result<(), MapsError> {
        if rows.is_empty() {
            return Ok(());
        }
        // A program may have read a Service's value just before it was swapped, and look for its list just after. On a
        // kernel that cannot wait for it, it refuses one connection, whose client tries again.
        if let Err(error) = sys::wait_for_running_programs() {
            tracing::debug!(%error, "removing source ranges without waiting for running programs");
        }
        for range in rows {
            match self.sources.typed.remove(&Key::new(range.bits, range.key)) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(MapsError::Set { map: SOURCE_RANGES, source }),
            }
        }
        Ok(())
    }

    fn write_slice(&mut self, base: u32, backends: &[Backend]) -> Result<(), MapsError> {
        self.backends.write(base, backends)
    }

    fn write_table(&mut self, base: u32, rows: &[MaglevRow]) -> Result<(), MapsError> {
        self.tables.write(base, rows)
    }

    fn put_nodes(&mut self, rows: &[(Addr6, u32)]) -> Result<(), MapsError> {
        let (v4, v6) = split(rows, |(addr, flags)| Some((addr.v4()?, *flags)));
        self.nodes.put(&v4)?;
        self.nodes_v6.put(&v6)
    }

    fn remove_nodes(&mut self, keys: &[Addr6]) -> Result<(), MapsError> {
        let (v4, v6) = split(keys, |addr| addr.v4());
        self.nodes.remove(&v4)?;
        self.nodes_v6.remove(&v6)
    }

    fn set_config(&mut self, config: &Config) -> Result<(), MapsError> {
        self.config.set(0, config)
    }

    fn set_zone(&mut self, zone: &DnsZone) -> Result<(), MapsError> {
        self.zone.set(0, zone)
    }

    fn put_services(&mut self, rows: &[(ServiceKey6, Service)]) -> Result<(), MapsError> {
        let (v4, v6) = split(rows, |(key, service)| Some((key.v4()?, *service)));
        self.services.put(&v4)?;
        self.services_v6.put(&v6)
    }

    fn remove_services(&mut self, keys: &[ServiceKey6]) -> Result<(), MapsError> {
        let (v4, v6) = split(keys, ServiceKey6::v4);
        self.services.remove(&v4)?;
        self.services_v6.remove(&v6)
    }

    fn put_names(&mut self, rows: &[(DnsKey, DnsName)]) -> Result<(), MapsError> {
        self.names.put(rows)
    }

    fn remove_names(&mut self, keys: &[DnsKey]) -> Result<(), MapsError> {
        self.names.remove(keys)
    }
}
