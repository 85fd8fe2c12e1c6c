//! Which endpoints serve a Service port, as kube-proxy categorises them (KEP-1669 for terminating ones).

use std::net::IpAddr;

use strake_abi::addr::Port;
use strake_abi::service::{BACKEND_HOST, BACKEND_LOCAL};
use strake_state::{Endpoint, Service, ServicePort, World};

use super::topology::Preference;
use super::{Family, NodeView};
use crate::check::is_reachable;
use crate::desired::Target;
use crate::hash::HashMap;

/// Endpoints for one traffic policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    pub backends: Vec<Target>,
    /// Terminating and still serving, but not chosen for new connections.
    pub lingering: Vec<Target>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// For policy Cluster: the ready ones that this node prefers, or else the terminating ones that still serve.
    pub cluster: Chosen,
    /// For policy Local: the same among this node's.
    pub local: Chosen,
    /// Some node has an endpoint that can serve.
    pub anywhere: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Condition {
    Ready,
    ServingTerminating,
}

/// The endpoints of one family: a Service's IPv6 addresses lead to the endpoints in its slices of IPv6 addresses.
pub(super) fn select(
    world: &World,
    node: &NodeView,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> Selection {
    // An endpoint may stand in two slices while the controller moves it; the better condition counts.
    let mut found: HashMap<(IpAddr, u16), Found<'_>> = HashMap::default();
    for slice in world.slices_of(&service.name) {
        let numbers = slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for number in numbers.map(|p| p.port) {
            for endpoint in &slice.endpoints {
                let Some(condition) = condition(endpoint) else { continue };
                let on_this_node = endpoint.node.as_deref() == Some(&*node.name);
                let ip = endpoint.address;
                if Family::of(&ip) != family || !is_endpoint(ip) {
                    continue;
                }
                let target = Target { addr: ip.into(), port: Port::new(number), flags: flags(node, ip, on_this_node) };
                let new = Found { condition, on_this_node, target, endpoint };
                let entry = found.entry((ip, number)).or_insert(new);
                if condition < entry.condition {
                    *entry = new;
                }
            }
        }
    }
    let mut found: Vec<_> = found.into_values().collect();
    found.sort_by_key(|found| found.target.order());
    let ready = found.iter().filter(|found| found.condition == Condition::Ready);
    let preference = Preference::of(ready.map(|found| found.endpoint), node);
    // The hints are about ready endpoints; one that terminates is a last resort wherever it is.
    let preferred = |found: &Found<'_>| found.condition != Condition::Ready || preference.admits(found.endpoint, node);
    Selection {
        anywhere: !found.is_empty(),
        cluster: choose(&found, preferred),
        local: choose(&found, |found| found.on_this_node),
    }
}

#[derive(Clone, Copy)]
struct Found<'a> {
    condition: Condition,
    on_this_node: bool,
    target: Target,
    endpoint: &'a Endpoint,
}

fn choose(found: &[Found<'_>], eligible: impl Fn(&Found<'_>) -> bool) -> Chosen {
    let of = |wanted: Condition| -> Vec<Target> {
        let eligible = found.iter().filter(|found| found.condition == wanted && eligible(found));
        eligible.map(|found| found.target).collect()
    };
    let (ready, terminating) = (of(Condition::Ready), of(Condition::ServingTerminating));
    if ready.is_empty() {
        Chosen { backends: terminating, lingering: Vec::new() }
    } else {
        Chosen { backends: ready, lingering: terminating }
    }
}

fn condition(endpoint: &Endpoint) -> Option<Condition> {
    if endpoint.ready {
        Some(Condition::Ready)
    } else if endpoint.serving && endpoint.terminating {
        Some(Condition::ServingTerminating)
    } else {
        None
    }
}

/// Whether the address can be an endpoint's at all. The API server takes more (0.1.2.3, say), and one such endpoint must not
/// keep a whole snapshot from being programmed.
pub(super) fn is_endpoint(ip: IpAddr) -> bool {
    // A mapped one is IPv4 in disguise: on the wire it would be a packet of the other family.
    let disguised = matches!(ip, IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some());
    is_reachable(ip) && !disguised
}

fn flags(node: &NodeView, ip: IpAddr, on_this_node: bool) -> u8 {
    if node.addresses.contains(&ip) {
        BACKEND_LOCAL | BACKEND_HOST
    } else if on_this_node || node.pod_cidrs.iter().any(|cidr| cidr.contains(ip)) {
        BACKEND_LOCAL
    } else {
        0
    }
}
