//! How many entries maps have: those that programs fill by the machine's memory, those that the agent fills by need.
//!
//! May not know: what is in them.

use strake_abi::{dns, endpoint, service};

use crate::check::Violation;
use crate::memory::Memory;
use crate::slices::NoRoom;

/// Part of the memory for what programs remember of flows, sockets and clients.
pub const MEMORY_RATIO: f64 = 0.0025;
/// Most entries of a map that the agent fills, unless told otherwise.
pub const MAX_ROWS: u32 = 1 << 22;
/// How far from the usual sizes memory may lead: 16,384 rows of `CONNTRACK` on small machines, 2 million on large ones.
const SCALE: (f64, f64) = (0.125, 16.0);
/// Part of what the agent's control group is limited to, at most: the rest is for the agent, and for maps that follow the
/// cluster.
const LIMIT_RATIO: f64 = 0.25;
/// What the kernel keeps beside the key and the value of an entry: its bucket, its lists.
const OVERHEAD: u64 = 72;

/// Entries of the maps. Those of pinned maps never become fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// Frontends: about two for a ClusterIP port, two more for its NodePort.
    pub services: u32,
    pub services_v6: u32,
    pub backends: u32,
    pub members: u32,
    pub affinity: u32,
    pub affinity_v6: u32,
    /// Rows of 32 entries. A table takes 32 rows (for up to 10 backends), 128 (40), 512 (163) or 2,048.
    pub maglev: u32,
    /// Ranges of clients; Services with the same ones share them.
    pub source_ranges: u32,
    pub sock_flows: u32,
    pub sock_nat: u32,
    pub sock_flows_v6: u32,
    pub sock_nat_v6: u32,
    pub conntrack: u32,
    pub conntrack_v6: u32,
    pub fragments: u32,
    pub fragments_v6: u32,
    pub endpoints: u32,
    pub nodes: u32,
    pub dns_names: u32,
    /// Bytes; a power of two and a multiple of the page size.
    pub events: u32,
}

impl Default for MapSizes {
    /// Room for 30,000 Services of 4 endpoints, half of them IPv6's too, and 64k connections of each path (16k of IPv6).
    fn default() -> Self {
        Self {
            services: 131_072,
            services_v6: 65_536,
            backends: 262_144,
            members: 131_072,
            affinity: 65_536,
            affinity_v6: 16_384,
            source_ranges: 65_536,
            // 2 MiB, taken at once: tables for 1,024 Service ports of up to 10 backends. More is made when it is needed.
            maglev: 32_768,
            sock_flows: 65_536,
            sock_nat: 65_536,
            sock_flows_v6: 16_384,
            sock_nat_v6: 16_384,
            conntrack: 131_072,
            conntrack_v6: 32_768,
            fragments: 8_192,
            fragments_v6: 2_048,
            endpoints: 1_024,
            nodes: 16_384,
            dns_names: 65_536,
            events: 1 << 20,
        }
    }
}

impl MapSizes {
    /// For a machine with this much memory, `ratio` of which is for what programs remember, but no more than a quarter of
    /// what the agent is limited to. Maps that the agent fills have their usual room, and are made larger when they need it.
    pub fn for_memory(memory: Memory, ratio: f64) -> Self {
        let usual = Self::default();
        let limited = memory.limit.map_or(f64::INFINITY, |limit| limit as f64 * LIMIT_RATIO);
        let bytes = (memory.machine as f64 * ratio).min(limited);
        usual.scaled((bytes / usual.remembered_bytes() as f64).clamp(SCALE.0, SCALE.1))
    }

    /// With so many rows of `CONNTRACK`, which has two a connection, and everything else that programs remember in
    /// proportion.
    pub fn for_conntrack(rows: u32) -> Self {
        let usual = Self::default();
        Self { conntrack: rows.max(1024), ..usual.scaled(f64::from(rows) / f64::from(usual.conntrack)) }
    }

    /// Bytes of what programs remember, all of it taken at once.
    pub fn remembered_bytes(&self) -> u64 {
        let rows = [
            (self.conntrack, 16 + 64),
            (self.conntrack_v6, 40 + 88),
            (self.sock_flows, 8 + 24),
            (self.sock_flows_v6, 8 + 48),
            (self.sock_nat, 16 + 20),
            (self.sock_nat_v6, 32 + 32),
            (self.affinity, 8 + 8),
            (self.affinity_v6, 20 + 8),
            (self.fragments, 12 + 8),
            (self.fragments_v6, 40 + 8),
        ];
        rows.iter().map(|(rows, row)| u64::from(*rows) * (row + OVERHEAD)).sum()
    }

    fn scaled(self, scale: f64) -> Self {
        let scaled = |rows: u32| ((f64::from(rows) * scale) as u32).next_multiple_of(1024);
        Self {
            conntrack: scaled(self.conntrack),
            conntrack_v6: scaled(self.conntrack_v6),
            sock_flows: scaled(self.sock_flows),
            sock_flows_v6: scaled(self.sock_flows_v6),
            sock_nat: scaled(self.sock_nat),
            sock_nat_v6: scaled(self.sock_nat_v6),
            affinity: scaled(self.affinity),
            affinity_v6: scaled(self.affinity_v6),
            fragments: scaled(self.fragments),
            fragments_v6: scaled(self.fragments_v6),
            ..self
        }
    }

    /// The sizes with which these would not be broken. None if one is not about room, or needs more than `max`.
    pub(crate) fn with_room_for(mut self, violations: &[Violation], max: u32) -> Option<Self> {
        for violation in violations {
            let Violation::TooMany { map, needed, .. } = violation else { return None };
            let rows = match *map {
                service::SERVICES => &mut self.services,
                service::SERVICES_V6 => &mut self.services_v6,
                service::BACKENDS => &mut self.backends,
                service::MEMBERS => &mut self.members,
                service::SOURCE_RANGES => &mut self.source_ranges,
                dns::DNS_NAMES => &mut self.dns_names,
                endpoint::NODES => &mut self.nodes,
                _ => return None,
            };
            let needed = u32::try_from(*needed).ok().filter(|needed| *needed <= max)?;
            // Room for a while.
            *rows = (needed + needed / 4).checked_next_power_of_two()?.min(max).max(needed);
        }
        Some(self)
    }

    /// The sizes with which tables of so many rows find room in `MAGLEV`, as far as `max` goes. None if there is no more.
    pub(crate) fn with_tables_for(self, rows: u32, max: u32) -> Option<Self> {
        let maglev = self.maglev.saturating_add(rows).checked_next_power_of_two().unwrap_or(max).min(max);
        (rows > 0 && maglev > self.maglev).then_some(Self { maglev, ..self })
    }

    /// The sizes with which a slice finds room in `BACKENDS`. None if that needs more than `max`.
    pub(crate) fn with_slots_for(self, no_room: &NoRoom, max: u32) -> Option<Self> {
        let backends = self.backends.checked_add(no_room.needed)?.checked_next_power_of_two()?.min(max);
        (backends > self.backends && backends - self.backends >= no_room.needed).then_some(Self { backends, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn what_programs_remember_follows_memory_between_bounds() {
        let at = |gib: u64| MapSizes::for_memory(Memory { machine: gib * GIB, limit: None }, MEMORY_RATIO);
        for gib in [4, 8, 16, 32, 64] {
            let share = at(gib).remembered_bytes() as f64 / (gib * GIB) as f64;
            assert!((0.9 * MEMORY_RATIO..1.2 * MEMORY_RATIO).contains(&share), "{share} of {gib} GiB");
        }
        assert_eq!(at(1).conntrack, 16_384);
        assert_eq!(at(4096).conntrack, 2_097_152);
        assert_eq!(at(64).services, MapSizes::default().services, "that follows need");
        assert!(at(64).affinity > at(8).affinity);
    }

    #[test]
    fn a_limit_of_the_agents_own_bounds_it() {
        let at = |limit| MapSizes::for_memory(Memory { machine: 256 * GIB, limit }, MEMORY_RATIO).remembered_bytes();
        let free = at(None);
        assert_eq!(at(Some(128 * GIB)), free);
        let small = at(Some(GIB / 2));
        assert!(free > GIB / 2 && small < GIB / 7 && small > GIB / 9, "{free} {small}");
        assert_eq!(at(Some(1 << 20)), at(Some(0)), "and never less than the least");
    }

    #[test]
    fn conntrack_can_be_told() {
        let sizes = MapSizes::for_conntrack(262_144);
        assert_eq!((sizes.conntrack, sizes.sock_flows), (262_144, 131_072));
    }

    #[test]
    fn maps_of_the_agent_grow_by_need_and_not_without_bound() {
        let too_many = |map, needed| Violation::TooMany { map, needed, room: 0 };
        let usual = MapSizes::default();
        let grown = usual.with_room_for(&[too_many(service::SERVICES, 200_000)], MAX_ROWS).unwrap();
        assert_eq!(grown, MapSizes { services: 262_144, ..usual });
        assert_eq!(usual.with_room_for(&[too_many(service::SERVICES, 200_000)], 200_000).unwrap().services, 200_000);
        assert_eq!(usual.with_room_for(&[too_many(service::SERVICES, 200_001)], 200_000), None);
        let other = Violation::Protocol { owner: String::new(), proto: 0 };
        assert_eq!(usual.with_room_for(&[too_many(service::SERVICES, 1), other], MAX_ROWS), None);
        let no_room = NoRoom { needed: 10, longest: 9, free: 20, retired: 0 };
        assert_eq!(usual.with_slots_for(&no_room, MAX_ROWS).unwrap().backends, 524_288);
        assert_eq!(usual.with_slots_for(&no_room, usual.backends + 9), None);
        assert_eq!(usual.with_tables_for(32, MAX_ROWS).unwrap().maglev, 65_536);
        assert_eq!(usual.with_tables_for(1 << 31, MAX_ROWS).unwrap().maglev, MAX_ROWS);
        assert_eq!((usual.with_tables_for(32, usual.maglev), usual.with_tables_for(0, MAX_ROWS)), (None, None));
    }
}
