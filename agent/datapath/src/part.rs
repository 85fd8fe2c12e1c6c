//! The part of the maps that belongs to a few changed Services, planned without looking at the rest.
//!
//! The changed Services are compiled twice, as they were and as they are, each time as if there were no others. What
//! they were tells which rows are theirs: those are an [`Installed`] of its own, from which the usual `diff` leads to
//! what they are. That is right as long as nothing crosses the border: a frontend that others ask for too, a list of
//! source ranges (Services share them), the node, a hostPort. Then there is no part, and everything is planned.
//!
//! May not know: how maps are written.

use std::collections::BTreeSet;

use strake_abi::service::{MemberKey, ServiceKey6};
use strake_state::{ObjectName, Pod, World, changed};

use crate::check::{Needs, sound};
use crate::compile::{Runtime, compile_services};
use crate::config::Config;
use crate::desired::{Desired, Warning, exists_key};
use crate::diff::diff;
use crate::hash::HashSet;
use crate::installed::Installed;
use crate::plan::Plan;
use crate::planner::Last;
use crate::sizes::MapSizes;

/// With more changed Services than this, and than an eighth of all, planning everything is no more work.
const FEW: usize = 64;

/// What is exchanged once the plan is written.
pub(crate) struct Part {
    before: Installed,
    after: Installed,
    needs: (Needs, Needs),
    warnings: (Vec<Warning>, Vec<Warning>),
}

impl Part {
    /// The plan from `before`, which the maps hold, to `after`; None if everything has to be planned.
    pub fn plan(
        installed: &Installed,
        last: &Last,
        before: &World,
        after: &World,
        config: &Config,
        runtime: Runtime,
        sizes: &MapSizes,
    ) -> Option<(Plan, Self)> {
        let names = services_only(before, after, config).filter(|_| last.all_tables)?;
        let old = compile_services(before, config, runtime, &names);
        let mut new = compile_services(after, config, runtime, &names);
        if !apart(&old, &new, installed, last) || !sound(&new).is_empty() {
            return None;
        }
        let needs = (Needs::of(&old), Needs::of(&new));
        if !last.needs.exchanged(&needs.0, &needs.1).fits(sizes) {
            return None;
        }
        let mine = mine(installed, &old, &new)?;
        (new.config, new.zone) = (mine.config, mine.zone);
        let (plan, after) = diff(&mine, &new).ok().filter(|(plan, _)| plan.without_table.is_empty())?;
        let warnings = (old.warnings, new.warnings);
        Some((plan, Self { before: mine, after, needs, warnings }))
    }

    /// Puts it into the whole.
    pub fn commit(self, installed: &mut Installed, last: &mut Last) {
        let Self { before, after, needs, warnings } = self;
        last.needs = last.needs.exchanged(&needs.0, &needs.1);
        warnings.0.iter().for_each(|warning| {
            last.warnings.remove(warning);
        });
        last.warnings.extend(warnings.1);
        installed.exchange(&before, after);
    }
}

/// The Services that differ; None if more does that is compiled.
fn services_only(before: &World, after: &World, config: &Config) -> Option<BTreeSet<ObjectName>> {
    // Runtimes and namespaces: a Pod with a hostPort may have opted out of the socket hooks, or not any more.
    if changed(&before.nodes, &after.nodes).next().is_some()
        || changed(&before.runtime_classes, &after.runtime_classes).next().is_some()
        || changed(&before.namespaces, &after.namespaces)
            .any(|(_, old, new)| old.into_iter().chain(new).any(|namespace| namespace.socket_lb_disabled))
    {
        return None;
    }
    let matters = |pod: &Pod| pod.node.as_deref() == Some(config.node_name.as_str()) && !pod.host_ports.is_empty();
    if changed(&before.pods, &after.pods).any(|(_, old, new)| old.into_iter().chain(new).any(|pod| matters(pod))) {
        return None;
    }
    let names = after.changed_services(before);
    (names.len() <= FEW.max(after.services.len() / 8)).then_some(names)
}

/// Whether no row of either is, or will be, of another Service too.
fn apart(old: &Desired, new: &Desired, installed: &Installed, last: &Last) -> bool {
    let mine: HashSet<ServiceKey6> = keys(old).collect();
    let alone = |key: &ServiceKey6| !last.contested.contains(key);
    old.contested.is_empty()
        && new.contested.is_empty()
        && old.source_lists.is_empty()
        && new.source_lists.is_empty()
        && mine.iter().all(alone)
        && keys(new).all(|key| alone(&key) && (mine.contains(&key) || !installed.services.contains_key(&key)))
}

fn keys(desired: &Desired) -> impl Iterator<Item = ServiceKey6> {
    let exist = desired.cluster_ips.iter().map(|ip| exists_key(*ip));
    desired.frontends.iter().map(|frontend| frontend.key).chain(exist)
}

/// The rows that `old` has in the maps, with the ids of backends that `new` will ask for; None if one is missing.
fn mine(installed: &Installed, old: &Desired, new: &Desired) -> Option<Installed> {
    let mut mine = installed.without_rows();
    for key in keys(old) {
        mine.services.insert(key, *installed.services.get(&key)?);
    }
    let mut ids = vec![None; old.sets.len()];
    for frontend in &old.frontends {
        ids[frontend.set] = mine.services.get(&frontend.key).map(|service| service.id);
    }
    for (set, id) in old.sets.iter().zip(ids) {
        let id = id?;
        if let Some(extent) = installed.extents.get(&id) {
            mine.extents.insert(id, *extent);
            mine.slices.insert(*extent, installed.slices.get(extent)?.clone());
        }
        if let Some(table) = installed.tables.get(&id) {
            mine.tables.insert(id, *table);
        }
        for target in set.backends.iter().chain(&set.lingering).filter(|_| set.sticky()) {
            let backend_id = *installed.backend_ids.get(&(target.addr, target.port, set.proto))?;
            mine.members.insert(MemberKey { service_id: id, backend_id });
        }
    }
    for set in old.sets.iter().chain(&new.sets) {
        for target in set.backends.iter().chain(&set.lingering) {
            let name = (target.addr, target.port, set.proto);
            if let Some(id) = installed.backend_ids.get(&name) {
                mine.backend_ids.insert(name, *id);
            }
        }
    }
    for name in &old.names {
        mine.names.insert(name.key, *installed.names.get(&name.key)?);
    }
    Some(mine)
}
