//! Every backend that the maps hold, once, with what it is and who uses it.
//!
//! ```text
//!   SERVICES ─► slice of BACKENDS ─► ready, or terminating where nothing else is ready
//!   MEMBERS, of no slice           ─► lingering: it keeps the flows it has
//! ```
//!
//! May not know: who asks.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;

use serde::Serialize;
use strake_abi::service::{BACKEND_HOST, BACKEND_LOCAL, Backend};
use strake_state::{ObjectName, World};

use crate::conntrack::protocol_name;
use crate::maps::MapsError;
use crate::names::Who;
use crate::view::View;

/// What a backend is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// New connections go there.
    Ready,
    /// It is on its way out, and new connections go there since nothing else is ready.
    Terminating,
    /// It is on its way out, and keeps the UDP flows it has.
    Lingering,
}

/// A backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRow {
    pub id: u32,
    pub address: SocketAddr,
    pub protocol: String,
    pub condition: Condition,
    /// A Pod of this node, or this node itself.
    pub local: bool,
    /// In this node's own network namespace.
    pub host: bool,
    #[serde(flatten)]
    pub who: Who,
    /// `namespace/name:port` of each Service that leads to it, `namespace/name:port (hostPort)` of a Pod.
    pub services: BTreeSet<String>,
}

struct Found {
    backend: Backend,
    protocol: u8,
    chosen: bool,
    users: HashSet<u32>,
}

impl View {
    /// The backends of all Services, or of one (with the others that use them); ordered by address.
    pub fn backends(&self, service: Option<&ObjectName>) -> Result<Vec<BackendRow>, MapsError> {
        let wanted = |id: u32| {
            service.is_none_or(|name| self.names.owner(id).is_some_and(|owner| owner.service() == Some(name)))
        };
        let mut found: HashMap<u32, Found> = HashMap::new();
        let mut protocols: HashMap<u32, u8> = HashMap::new();
        let mut note = |backend: Backend, protocol, chosen, user| {
            let new = Found { backend, protocol, chosen: false, users: HashSet::new() };
            let entry = found.entry(backend.id).or_insert(new);
            entry.chosen |= chosen;
            entry.users.insert(user);
        };
        for (key, row) in self.services()? {
            // Frontends of one id have one slice.
            if protocols.insert(row.id, key.proto).is_none() {
                for backend in self.slice(&row)? {
                    note(backend, key.proto, true, row.id);
                }
            }
        }
        for (key, backend) in self.maps.members.all()? {
            if let Some(protocol) = protocols.get(&key.service_id) {
                note(backend, *protocol, false, key.service_id);
            }
        }
        let found = found.into_values().filter(|found| found.users.iter().any(|id| wanted(*id)));
        let mut rows: Vec<BackendRow> = found.map(|found| self.backend_row(&found)).collect();
        rows.sort_by(|a, b| (a.address, &a.protocol).cmp(&(b.address, &b.protocol)));
        Ok(rows)
    }

    fn backend_row(&self, found: &Found) -> BackendRow {
        let Found { backend, protocol, chosen, users } = found;
        let address = SocketAddr::new(backend.addr.ip(), backend.port.get());
        let owners: Vec<_> = users.iter().filter_map(|id| self.names.owner(*id)).collect();
        let leaving = owners.iter().filter_map(|owner| owner.service());
        let leaving = leaving.into_iter().any(|service| is_leaving(&self.names.world, service, address));
        let named = |owner: &&std::sync::Arc<crate::Owner>| {
            let suffix = if owner.host_port { " (hostPort)" } else { "" };
            format!("{}:{}{suffix}", owner.name, owner.port)
        };
        BackendRow {
            id: backend.id,
            address,
            protocol: protocol_name(*protocol),
            condition: match (chosen, leaving) {
                (true, false) => Condition::Ready,
                (true, true) => Condition::Terminating,
                (false, _) => Condition::Lingering,
            },
            local: backend.flags & BACKEND_LOCAL != 0,
            host: backend.flags & BACKEND_HOST != 0,
            who: self.names.who(address.ip()),
            services: owners.iter().map(named).collect(),
        }
    }
}

/// Whether the API says that the endpoint terminates.
fn is_leaving(world: &World, service: &ObjectName, address: SocketAddr) -> bool {
    let endpoints = world.slices_of(service).flat_map(|slice| &slice.endpoints);
    let mut at = endpoints.filter(|endpoint| endpoint.addresses().any(|ip| ip == address.ip())).peekable();
    at.peek().is_some() && at.all(|endpoint| endpoint.terminating && !endpoint.ready)
}
