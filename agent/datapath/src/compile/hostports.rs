//! hostPorts of this node's Pods, as a CNI portmap plugin would do them: an address of the node and a port that lead to one
//! Pod, for whoever asks, with the client's address kept.
//!
//! May not know: which Pods the scheduler let share a node.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use strake_abi::addr::Port;
use strake_abi::service::{BACKEND_LOCAL, SCOPE_EXTERNAL, SCOPE_INTERNAL, ServiceKey6};
use strake_state::{HostPort, OptOut, Pod};

use super::endpoints::is_endpoint;
use super::{Compiler, Family, FrontendKind};
use crate::desired::{Frontend, Set, ShowKey, Target};

impl Compiler<'_> {
    /// The Pods' network is ours, and so are their hostPorts: under another CNI plugin that one sees to them.
    pub(super) fn host_ports(&mut self) {
        if !self.config.host_ports {
            return self.unserved_sandboxes();
        }
        let here = |pod: &&Pod| pod.node.as_deref() == Some(&*self.node.name) && !pod.finished && !pod.host_network;
        let world = self.world;
        let pods: Vec<&Pod> = world.pods.values().map(|pod| &**pod).filter(here).collect();
        for pod in pods {
            for port in &pod.host_ports {
                if port.container_port == 0 {
                    continue;
                }
                for family in Family::ALL {
                    self.host_port(pod, port, family);
                }
            }
        }
    }

    /// Under another plugin: names the Pods that nobody serves, if the agent may read Pods at all. Their runtime's sockets are
    /// not this kernel's, so that no hook sees them, and no program of ours is at their interfaces.
    fn unserved_sandboxes(&mut self) {
        if !self.config.services {
            return;
        }
        let (world, node) = (self.world, self.node.name.clone());
        for pod in world.pods.values().filter(|pod| pod.node.as_ref() == Some(&node) && !pod.finished) {
            if let Some(OptOut::Runtime { class, handler }) = world.socket_opt_out(&pod.name, &self.config.sandboxes) {
                let message = format!(
                    "reaches no Service through this agent: its runtime class {class} (handler {handler}) has sockets of \
                     its own, and its packets pass an interface of another plugin"
                );
                self.warn(&pod.name.to_string(), message);
            }
        }
    }

    fn host_port(&mut self, pod: &Pod, port: &HostPort, family: Family) {
        let Some(ip) = pod.ips.iter().find(|ip| Family::of(ip) == family && is_endpoint(**ip)) else { return };
        let addresses = self.addresses(port, family);
        if addresses.is_empty() {
            return;
        }
        let target = Target { addr: (*ip).into(), port: Port::new(port.container_port), flags: BACKEND_LOCAL };
        let set = self.desired.sets.len();
        self.desired.sets.push(Set {
            owner: format!("pod {}:{}/{}", pod.name, port.container_port, port.protocol).into(),
            proto: port.protocol.number(),
            affinity_timeout_s: 0,
            backends: vec![target],
            lingering: Vec::new(),
            maglev: false,
        });
        let object = pod.name.to_string();
        for addr in addresses {
            for scope in [SCOPE_INTERNAL, SCOPE_EXTERNAL] {
                let proto = port.protocol.number();
                let key = ServiceKey6 { addr: addr.into(), port: Port::new(port.host_port), proto, scope };
                if let Some((kind, owner, _)) = self.taken.get(&key) {
                    let message = format!("hostPort {} belongs to {} of {owner}", ShowKey(&key), kind.as_str());
                    self.desired.contested.insert(key);
                    self.warn(&object, message);
                    continue;
                }
                self.taken.insert(key, (FrontendKind::HostPort, object.as_str().into(), self.desired.frontends.len()));
                self.desired.frontends.push(Frontend { key, set, sources: None, flags: 0 });
            }
        }
    }

    /// The one that was asked for, or every address of the node, the loopback one too.
    fn addresses(&self, port: &HostPort, family: Family) -> Vec<IpAddr> {
        let own = |ip: &IpAddr| Family::of(ip) == family;
        match port.host_ip.filter(|ip| !ip.is_unspecified()) {
            Some(ip) => {
                let disguised = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
                let dns = matches!(ip, IpAddr::V4(ip) if self.config.is_dns(ip));
                Some(ip).filter(|ip| own(ip) && !disguised && !dns).into_iter().collect()
            }
            None => {
                let loopback = match family {
                    Family::V4 => IpAddr::from(Ipv4Addr::LOCALHOST),
                    Family::V6 => Ipv6Addr::LOCALHOST.into(),
                };
                let nodes = self.node.addresses.iter().copied().filter(own);
                let mut all: Vec<IpAddr> = nodes.collect();
                // A node without an address of the family has none of it to offer.
                if !all.is_empty() {
                    all.push(loopback);
                }
                all
            }
        }
    }
}
