//! Names of what the maps hold by address and number: Pods, nodes, Services. A copy of its own, so that whoever reads
//! maps for long holds no lock meanwhile.
//!
//! May not know: which map a number comes from.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use strake_abi::service::ServiceKey6;
use strake_state::{ObjectName, Service, World};

use crate::desired::Desired;
use crate::installed::Installed;

/// Whose set of backends a number names: what [`crate::Set::owner`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub name: ObjectName,
    /// A Pod's hostPort, not a Service.
    pub host_port: bool,
    /// The Service's port, or the container's.
    pub port: u16,
    /// As in `80/TCP IPv6 (node-local)`.
    pub set: Box<str>,
}

impl Owner {
    /// Reads `namespace/name:port/PROTO...` or `pod namespace/name:port/PROTO`.
    fn parse(owner: &str) -> Option<Self> {
        let (object, set) = owner.split_once(':')?;
        let (host_port, object) = object.strip_prefix("pod ").map_or((false, object), |pod| (true, pod));
        let (namespace, name) = object.split_once('/')?;
        let port = set.split_once('/')?.0.parse().ok()?;
        Some(Self { name: ObjectName::new(namespace, name), host_port, port, set: set.into() })
    }

    /// The Service, unless it is a Pod's hostPort.
    pub fn service(&self) -> Option<&ObjectName> {
        (!self.host_port).then_some(&self.name)
    }
}

/// Who has an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Who {
    /// `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The Pod's, or whose address it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// The names of one moment.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub world: Arc<World>,
    owners: HashMap<u32, Arc<Owner>>,
    /// Every frontend that the snapshot asks for.
    wanted: Vec<(ServiceKey6, Arc<Owner>)>,
    nodes: HashMap<IpAddr, Arc<str>>,
}

impl Names {
    pub fn new(world: &Arc<World>, desired: &Desired, installed: Option<&Installed>) -> Self {
        let parsed: Vec<Option<Arc<Owner>>> =
            desired.sets.iter().map(|set| Owner::parse(&set.owner).map(Arc::new)).collect();
        let (mut owners, mut wanted) = (HashMap::new(), Vec::with_capacity(desired.frontends.len()));
        for frontend in &desired.frontends {
            let Some(owner) = &parsed[frontend.set] else { continue };
            if let Some(row) = installed.and_then(|installed| installed.services.get(&frontend.key)) {
                owners.insert(row.id, owner.clone());
            }
            wanted.push((frontend.key, owner.clone()));
        }
        let addresses = |node: &Arc<strake_state::Node>| {
            let name = node.name.clone();
            let all: Vec<_> =
                node.internal_ips.iter().chain(&node.external_ips).map(|ip| (*ip, name.clone())).collect();
            all
        };
        Self { world: world.clone(), owners, wanted, nodes: world.nodes.values().flat_map(addresses).collect() }
    }

    /// Whose a [`strake_abi::service::Service::id`] is.
    pub fn owner(&self, service_id: u32) -> Option<&Arc<Owner>> {
        self.owners.get(&service_id)
    }

    /// Every frontend that the snapshot asks for, and whose it is.
    pub fn wanted(&self) -> &[(ServiceKey6, Arc<Owner>)] {
        &self.wanted
    }

    /// The ids of a Service.
    pub fn ids_of(&self, service: &ObjectName) -> Vec<u32> {
        let of = |owner: &Owner| owner.service() == Some(service);
        self.owners.iter().filter(|(_, owner)| of(owner)).map(|(id, _)| *id).collect()
    }

    pub fn who(&self, ip: IpAddr) -> Who {
        match self.world.pods_by_ip.get(&ip) {
            Some(pod) => Who { pod: Some(pod.name.to_string()), node: pod.node.as_deref().map(Into::into) },
            None => Who { pod: None, node: self.nodes.get(&ip).map(|node| node.to_string()) },
        }
    }

    pub fn service(&self, name: &ObjectName) -> Option<&Arc<Service>> {
        self.world.services.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_read_back_from_what_a_set_says() {
        let owner = Owner::parse("default/web:80/TCP IPv6 (node-local)").unwrap();
        assert_eq!((owner.name.to_string().as_str(), owner.port), ("default/web", 80));
        assert_eq!(owner.service(), Some(&owner.name));
        let owner = Owner::parse("pod default/web-1:8080/UDP").unwrap();
        assert_eq!((owner.service(), owner.port, &*owner.set), (None, 8080, "8080/UDP"));
        assert_eq!(Owner::parse("nobody"), None);
    }
}
