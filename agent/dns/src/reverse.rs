//! From an address to the names of it: built when somebody asks, and again after Services or EndpointSlices changed.

use crate::zone::{endpoint_label, shown};
use parking_lot::Mutex;
use std::{collections::HashMap, net::IpAddr, sync::Arc};
use strake_state::World;

type Names = HashMap<IpAddr, Vec<String>>;

/// The parts of a world the index was built of: while they are held, an equal pointer means equal content.
struct Built {
    services: strake_state::Services,
    slices: strake_state::SlicesByService,
    names: Arc<Names>,
}

/// The index.
#[derive(Default)]
pub struct Reverse(Mutex<Option<Built>>);

impl Reverse {
    /// Names below the zone's origin, such as `web.default.svc`.
    pub(crate) fn names(&self, world: &World, ip: IpAddr) -> Vec<String> {
        let mut built = self.0.lock();
        let current = built.as_ref().filter(|b| b.services.ptr_eq(&world.services) && b.slices.ptr_eq(&world.slices));
        let names = match current {
            Some(current) => current.names.clone(),
            None => {
                let names = Arc::new(index(world));
                *built = Some(Built {
                    services: world.services.clone(),
                    slices: world.slices.clone(),
                    names: names.clone(),
                });
                names
            }
        };
        names.get(&ip).cloned().unwrap_or_default()
    }
}

fn index(world: &World) -> Names {
    let mut names = Names::new();
    for service in world.services.values() {
        let own = format!("{}.{}.svc", service.name.name, service.name.namespace);
        for ip in &service.cluster_ips {
            names.entry(*ip).or_default().push(own.clone());
        }
        if !service.headless {
            continue;
        }
        for (endpoint, _) in shown(world, service) {
            for ip in endpoint.addresses() {
                let name = format!("{}.{own}", endpoint_label(endpoint, ip));
                let names = names.entry(ip).or_default();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
    }
    names
}
