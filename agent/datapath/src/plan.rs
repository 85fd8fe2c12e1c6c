//! The smallest set of map writes, and the one order in which they may be done.
//!
//! | step | why then |
//! |---|---|
//! | new members | a choice made by the new slice must be valid at once |
//! | new lists of source ranges | nobody refers to them yet |
//! | new slices, new tables | nobody points at them yet |
//! | nodes, CONFIG, zone | independent |
//! | services put | one update swaps a service from its whole old slice (with its table) to its whole new one |
//! | names put | an address is answered only after it is served |
//! | names removed | and no longer answered before it stops being served |
//! | services removed, members and lists of source ranges removed | nothing leads there any more |
//! | old slices and tables retired | by the caller, reused after a grace period |
//!
//! May not know: how maps are written.

use strake_abi::addr::Addr6;
use strake_abi::config::Config;
use strake_abi::dns::{DnsKey, DnsName, DnsZone};
use strake_abi::service::{Backend, MaglevRow, MemberKey, Service, ServiceKey6};

use crate::installed::SourceRange;
use crate::slices::Extent;

/// Writes of one `apply`, in no order but that of the table above. Keys of IPv4 are mapped; who writes them knows the
/// map of each family.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub members_put: Vec<(MemberKey, Backend)>,
    pub sources_put: Vec<SourceRange>,
    pub slices: Vec<(u32, Vec<Backend>)>,
    /// First row and rows of `MAGLEV`.
    pub tables: Vec<(u32, Vec<MaglevRow>)>,
    pub nodes_put: Vec<(Addr6, u32)>,
    pub nodes_removed: Vec<Addr6>,
    pub config: Option<Config>,
    pub zone: Option<DnsZone>,
    pub services_put: Vec<(ServiceKey6, Service)>,
    pub names_put: Vec<(DnsKey, DnsName)>,
    pub names_removed: Vec<DnsKey>,
    pub services_removed: Vec<ServiceKey6>,
    pub members_removed: Vec<MemberKey>,
    pub sources_removed: Vec<SourceRange>,
    pub retired: Vec<Extent>,
    pub tables_retired: Vec<Extent>,
    /// Owners of sets whose table found no room, and the rows it would have: they choose at random until there is some. No
    /// write.
    pub without_table: Vec<(Box<str>, u32)>,
}

impl Plan {
    /// How many map entries it writes or deletes.
    pub fn writes(&self) -> usize {
        let slots: usize = self.slices.iter().map(|(_, backends)| backends.len()).sum();
        let rows: usize = self.tables.iter().map(|(_, rows)| rows.len()).sum();
        slots
            + rows
            + self.members_put.len()
            + self.sources_put.len()
            + self.nodes_put.len()
            + self.nodes_removed.len()
            + usize::from(self.config.is_some())
            + usize::from(self.zone.is_some())
            + self.services_put.len()
            + self.names_put.len()
            + self.names_removed.len()
            + self.services_removed.len()
            + self.members_removed.len()
            + self.sources_removed.len()
    }

    /// Rows of the tables that found no room.
    pub fn table_rows_lacking(&self) -> u32 {
        self.without_table.iter().fold(0, |sum, (_, rows)| sum.saturating_add(*rows))
    }
}

/// Something that holds the maps: the kernel, or a model of it in tests.
pub trait Maps {
    type Error;

    fn put_members(&mut self, rows: &[(MemberKey, Backend)]) -> Result<(), Self::Error>;
    fn remove_members(&mut self, keys: &[MemberKey]) -> Result<(), Self::Error>;
    fn put_sources(&mut self, rows: &[SourceRange]) -> Result<(), Self::Error>;
    fn remove_sources(&mut self, rows: &[SourceRange]) -> Result<(), Self::Error>;
    fn write_slice(&mut self, base: u32, backends: &[Backend]) -> Result<(), Self::Error>;
    fn write_table(&mut self, base: u32, rows: &[MaglevRow]) -> Result<(), Self::Error>;
    fn put_nodes(&mut self, rows: &[(Addr6, u32)]) -> Result<(), Self::Error>;
    fn remove_nodes(&mut self, keys: &[Addr6]) -> Result<(), Self::Error>;
    fn set_config(&mut self, config: &Config) -> Result<(), Self::Error>;
    fn set_zone(&mut self, zone: &DnsZone) -> Result<(), Self::Error>;
    fn put_services(&mut self, rows: &[(ServiceKey6, Service)]) -> Result<(), Self::Error>;
    fn remove_services(&mut self, keys: &[ServiceKey6]) -> Result<(), Self::Error>;
    fn put_names(&mut self, rows: &[(DnsKey, DnsName)]) -> Result<(), Self::Error>;
    fn remove_names(&mut self, keys: &[DnsKey]) -> Result<(), Self::Error>;
}

/// Does the writes in order; stops at the first error, with the maps in a state that is whole for every service (old
/// or new), and that the next diff starts from after reading it back.
pub fn apply<M: Maps>(plan: &Plan, maps: &mut M) -> Result<(), M::Error> {
    // First of all: the watermark of ids must be durable before an id above it is seen anywhere.
    if let Some(config) = &plan.config {
        maps.set_config(config)?;
    }
    maps.put_members(&plan.members_put)?;
    maps.put_sources(&plan.sources_put)?;
    for (base, backends) in runs(&plan.slices) {
        maps.write_slice(base, &backends)?;
    }
    for (base, rows) in &plan.tables {
        maps.write_table(*base, rows)?;
    }
    maps.put_nodes(&plan.nodes_put)?;
    if let Some(zone) = &plan.zone {
        maps.set_zone(zone)?;
    }
    maps.put_services(&plan.services_put)?;
    maps.put_names(&plan.names_put)?;
    maps.remove_names(&plan.names_removed)?;
    maps.remove_services(&plan.services_removed)?;
    maps.remove_nodes(&plan.nodes_removed)?;
    maps.remove_members(&plan.members_removed)?;
    maps.remove_sources(&plan.sources_removed)?;
    Ok(())
}

/// Slices that lie side by side as one: a system call each, and not one for every Service of a cluster.
fn runs(slices: &[(u32, Vec<Backend>)]) -> Vec<(u32, Vec<Backend>)> {
    let mut sorted: Vec<_> = slices.iter().collect();
    sorted.sort_unstable_by_key(|(base, _)| *base);
    let mut runs: Vec<(u32, Vec<Backend>)> = Vec::new();
    for (base, backends) in sorted {
        match runs.last_mut() {
            Some((start, run)) if *start + run.len() as u32 == *base => run.extend(backends),
            _ => runs.push((*base, backends.clone())),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_side_by_side_are_written_at_once() {
        let backend = |id| Backend { id, ..Backend::default() };
        let slices = [(8, vec![backend(3)]), (2, vec![backend(1), backend(2)]), (4, vec![backend(5)])];
        let together = [(2, vec![backend(1), backend(2), backend(5)]), (8, vec![backend(3)])];
        assert_eq!(runs(&slices), together);
        assert!(runs(&[]).is_empty());
    }
}
