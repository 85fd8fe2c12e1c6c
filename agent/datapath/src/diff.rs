//! `Installed` and `Desired` -> `Plan`, and what will be installed then.
//!
//! Numbers are given here, and they are sticky: a service keeps its id (conntrack, affinity and members hold it), a
//! backend keeps its id, a slice whose content is the same stays where it is. All of that is read back from the maps
//! themselves, so a restart changes nothing. May not know: Kubernetes, system calls, time.

use strake_abi::service::{Backend, MemberKey, SCOPE_EXTERNAL, Service};
use strake_logic::maglev;

use crate::desired::{Desired, Set, Target, exists_key};
use crate::hash::{HashMap, HashSet};
use crate::installed::{BackendName, Installed, SourceRange, fingerprint};
use crate::plan::Plan;
use crate::slices::{Extent, NoRoom, Slices};
use crate::tables::{self, Table};

/// The watermark in CONFIG moves by this many ids at a time, so that it is written rarely.
const ID_BLOCK: u32 = 4096;

/// Why there is no plan.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DiffError {
    #[error("placing the backends of {owner}")]
    NoRoom { owner: String, source: NoRoom },
    #[error("all 2^32 ids were handed out; remove the pinned maps to start anew")]
    IdsExhausted,
}

struct Ids {
    next: u32,
}

impl Ids {
    fn take(&mut self) -> Result<u32, DiffError> {
        let id = self.next;
        self.next = id.checked_add(1).ok_or(DiffError::IdsExhausted)?;
        Ok(id)
    }
}

/// The plan that leads from `installed` to `desired` (which `check` has passed), and what is installed after it.
/// The caller applies the plan and then replaces its `Installed`, retiring the plan's old slices.
pub fn diff(installed: &Installed, desired: &Desired) -> Result<(Plan, Installed), DiffError> {
    let mut ids = Ids { next: installed.next_id };
    let service_ids = service_ids(installed, desired, &mut ids)?;

    let mut plan = Plan::default();
    let mut next = Next {
        backend_ids: with_capacity(installed.backend_ids.len()),
        slices: with_capacity(desired.sets.len()),
        members: HashMap::default(),
        allocator: installed.allocator.clone(),
        tables: HashMap::default(),
        table_allocator: installed.table_allocator.clone(),
    };
    let mut extents = Vec::with_capacity(desired.sets.len());
    for (set, service_id) in desired.sets.iter().zip(&service_ids) {
        let old = &installed.backend_ids;
        let backends = next.backends(&set.backends, set.proto, old, &mut ids)?;
        if set.sticky() {
            let lingering = next.backends(&set.lingering, set.proto, old, &mut ids)?;
            for backend in backends.iter().chain(&lingering) {
                next.members.insert(MemberKey { service_id: *service_id, backend_id: backend.id }, *backend);
            }
        }
        let extent = next.place(set, *service_id, backends, installed, &mut plan)?;
        if let Some(extent) = extent.filter(|_| set.maglev) {
            next.table(set, *service_id, extent, installed, &mut plan);
        }
        extents.push(extent);
    }

    let source_lists = source_lists(installed, desired, &mut ids)?;
    let mut services = with_capacity(desired.frontends.len() + desired.cluster_ips.len());
    for frontend in &desired.frontends {
        let (set, extent) = (&desired.sets[frontend.set], extents[frontend.set]);
        let external = frontend.key.scope == SCOPE_EXTERNAL;
        let table = next.tables.get(&service_ids[frontend.set]).filter(|_| external);
        let service = Service {
            id: service_ids[frontend.set],
            backend_base: extent.map_or(0, |extent| extent.base),
            backend_count: extent.map_or(0, |extent| extent.count),
            affinity_timeout_s: set.affinity_timeout_s,
            flags: frontend.flags,
            maglev_base: table.map_or(0, |table| table.rows.base),
            maglev_size: table.map_or(0, |table| table.size),
            source_list: frontend.sources.map_or(0, |list| source_lists[list].0),
        };
        services.insert(frontend.key, service);
    }
    services.extend(desired.cluster_ips.iter().map(|ip| (exists_key(*ip), Service::default())));

    let mut names = with_capacity(desired.names.len());
    for name in &desired.names {
        let mut value = name.value;
        value.service_id = name.set.map_or(0, |set| service_ids[set]);
        let print = fingerprint(&value);
        if installed.names.get(&name.key) != Some(&print) {
            plan.names_put.push((name.key, value));
        }
        names.insert(name.key, print);
    }

    // A block is reserved the first time, and when the one before is used up.
    let mut config = desired.config;
    config.next_id = installed.config.next_id;
    if ids.next > config.next_id {
        config.next_id = ids.next.saturating_add(ID_BLOCK);
    }
    plan.config = (config != installed.config).then_some(config);
    plan.zone = (desired.zone != installed.zone).then_some(desired.zone);

    plan.services_put = changed(&services, &installed.services);
    plan.services_removed = gone(&installed.services, |key| services.contains_key(key));
    plan.names_removed = gone(&installed.names, |key| names.contains_key(key));
    let nodes: HashMap<_, _> = desired.nodes.iter().copied().collect();
    plan.nodes_put = changed(&nodes, &installed.nodes);
    plan.nodes_removed = gone(&installed.nodes, |key| nodes.contains_key(key));
    plan.members_put =
        next.members.iter().filter(|(key, _)| !installed.members.contains(key)).map(|(k, v)| (*k, *v)).collect();
    plan.members_removed = installed.members.iter().filter(|key| !next.members.contains_key(key)).copied().collect();
    let source_lists: HashMap<_, _> = source_lists.into_iter().collect();
    let new = |(id, _): &(&u32, &Vec<SourceRange>)| !installed.source_lists.contains_key(id);
    plan.sources_put = source_lists.iter().filter(new).flat_map(|(_, rows)| rows).copied().collect();
    let old = |(id, _): &(&u32, &Vec<SourceRange>)| !source_lists.contains_key(id);
    plan.sources_removed = installed.source_lists.iter().filter(old).flat_map(|(_, rows)| rows).copied().collect();
    plan.retired = gone(&installed.slices, |extent| next.slices.contains_key(extent));

    let used: HashSet<Extent> = next.tables.values().map(|table| table.rows).collect();
    plan.tables_retired =
        installed.tables.values().map(|table| table.rows).filter(|rows| !used.contains(rows)).collect();

    let extents = extents.iter().zip(&service_ids).filter_map(|(extent, id)| Some((*id, (*extent)?))).collect();
    let after = Installed {
        extents,
        next_id: ids.next,
        config,
        zone: desired.zone,
        services,
        slices: next.slices,
        members: next.members.into_keys().collect(),
        source_lists,
        nodes,
        names,
        backend_ids: next.backend_ids,
        allocator: next.allocator,
        tables: next.tables,
        table_allocator: next.table_allocator,
    };
    Ok((plan, after))
}

/// Each set keeps the id that one of its frontends has; the first set that asks for an id gets it.
fn service_ids(installed: &Installed, desired: &Desired, ids: &mut Ids) -> Result<Vec<u32>, DiffError> {
    let mut kept: Vec<Option<u32>> = vec![None; desired.sets.len()];
    let mut claimed = HashSet::default();
    for frontend in &desired.frontends {
        if kept[frontend.set].is_none()
            && let Some(id) = installed.services.get(&frontend.key).map(|service| service.id).filter(|id| *id != 0)
            && claimed.insert(id)
        {
            kept[frontend.set] = Some(id);
        }
    }
    kept.into_iter().map(|id| id.map_or_else(|| ids.take(), Ok)).collect()
}

/// The id and the rows of each list: the id of one with the same rows, or a new one.
fn source_lists(
    installed: &Installed,
    desired: &Desired,
    ids: &mut Ids,
) -> Result<Vec<(u32, Vec<SourceRange>)>, DiffError> {
    let networks = |rows: &Vec<SourceRange>| rows.iter().map(SourceRange::network).collect::<Option<Vec<_>>>();
    let present: HashMap<_, u32> =
        installed.source_lists.iter().filter_map(|(id, rows)| Some((networks(rows)?, *id))).collect();
    let lists = desired.source_lists.iter().map(|list| {
        let id = present.get(list).map_or_else(|| ids.take(), |id| Ok(*id))?;
        Ok((id, list.iter().map(|range| SourceRange::new(id, *range)).collect()))
    });
    lists.collect()
}

struct Next {
    backend_ids: HashMap<BackendName, u32>,
    slices: HashMap<Extent, Vec<Backend>>,
    members: HashMap<MemberKey, Backend>,
    allocator: Slices,
    tables: HashMap<u32, Table>,
    table_allocator: Slices,
}

impl Next {
    fn backends(
        &mut self,
        targets: &[Target],
        proto: u8,
        old: &HashMap<BackendName, u32>,
        ids: &mut Ids,
    ) -> Result<Vec<Backend>, DiffError> {
        let mut backends = Vec::with_capacity(targets.len());
        for target in targets {
            let name = (target.addr, target.port, proto);
            let id = match self.backend_ids.get(&name).or_else(|| old.get(&name)) {
                Some(id) => *id,
                None => ids.take()?,
            };
            self.backend_ids.insert(name, id);
            backends.push(Backend { addr: target.addr, port: target.port, flags: target.flags, reserved: 0, id });
        }
        Ok(backends)
    }

    /// Keeps the slice that one of the set's frontends points at if its content is the same, or writes a new one.
    fn place(
        &mut self,
        set: &Set,
        service_id: u32,
        backends: Vec<Backend>,
        installed: &Installed,
        plan: &mut Plan,
    ) -> Result<Option<Extent>, DiffError> {
        let count = backends.len() as u32;
        if count == 0 {
            return Ok(None);
        }
        let current = installed
            .extents
            .get(&service_id)
            .filter(|extent| installed.slices.get(extent) == Some(&backends) && !self.slices.contains_key(extent));
        let extent = match current {
            Some(extent) => *extent,
            None => {
                let base = self
                    .allocator
                    .take(count)
                    .map_err(|source| DiffError::NoRoom { owner: set.owner.to_string(), source })?;
                plan.slices.push((base, backends.clone()));
                Extent { base, count }
            }
        };
        self.slices.insert(extent, backends);
        Ok(Some(extent))
    }

    /// Keeps the table if the slice was kept, or writes a new one. Without room for it the set has none.
    fn table(&mut self, set: &Set, service_id: u32, slice: Extent, installed: &Installed, plan: &mut Plan) {
        let size = maglev::size(slice.count);
        if size == 0 {
            return;
        }
        let kept = installed.extents.get(&service_id) == Some(&slice);
        let current = installed.tables.get(&service_id).filter(|table| kept && table.size == size).copied();
        let table = match current {
            Some(table) => table,
            None => {
                let Ok(base) = self.table_allocator.take(tables::rows(size)) else {
                    plan.without_table.push((set.owner.clone(), tables::rows(size)));
                    return;
                };
                plan.tables.push((base, tables::make(&self.slices[&slice], size)));
                Table::new(base, size)
            }
        };
        self.tables.insert(service_id, table);
    }
}

fn changed<K: Copy + Eq + std::hash::Hash, V: Copy + PartialEq>(
    wanted: &HashMap<K, V>,
    present: &HashMap<K, V>,
) -> Vec<(K, V)> {
    wanted.iter().filter(|(key, value)| present.get(key) != Some(value)).map(|(key, value)| (*key, *value)).collect()
}

/// Room for as many, so that it need not grow.
fn with_capacity<K: Eq + std::hash::Hash, V>(capacity: usize) -> HashMap<K, V> {
    HashMap::with_capacity_and_hasher(capacity, Default::default())
}

fn gone<K: Copy, V>(present: &HashMap<K, V>, wanted: impl Fn(&K) -> bool) -> Vec<K> {
    present.keys().filter(|key| !wanted(key)).copied().collect()
}
