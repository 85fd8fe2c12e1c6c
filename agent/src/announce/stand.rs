//! Which addresses of a Service this node may announce, from the World alone.
//!
//! May not know: Leases, time.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use strake_state::{LbOwner, Node, ObjectName, Service, ServiceType, TrafficPolicy, World};

/// Whose addresses are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those that our controller gave.
    Ours,
    /// Those too that somebody else gave to a Service of our class or of none.
    Everyones,
}

/// How this node stands to a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stand {
    /// To be announced by one of the nodes.
    pub addresses: Vec<IpAddr>,
    /// This node may be the one.
    pub may: bool,
    /// The Service is not there (and not: not there yet), or is no load balancer any more: its Lease is of no use.
    pub gone: bool,
}

/// How this node stands to the Service of that name.
pub fn stand(world: &World, name: &ObjectName, whose: Whose) -> Stand {
    let Some(service) = world.services.get(name) else {
        return Stand { gone: world.synced, ..Stand::default() };
    };
    if service.service_type != ServiceType::LoadBalancer {
        return Stand { gone: world.synced, ..Stand::default() };
    }
    let announced = !service.other_proxy
        && match service.lb_owner {
            LbOwner::Ours => true,
            LbOwner::Unclaimed => whose == Whose::Everyones,
            LbOwner::Other => false,
        };
    if !announced {
        return Stand::default();
    }
    let may = !service.load_balancer_ips.is_empty() && world.this_node().is_some_and(|node| may(world, service, node));
    Stand { addresses: service.load_balancer_ips.clone(), may, gone: false }
}

/// Whether a node may announce the Service's addresses: it is well, and what it lets in meets somebody there.
fn may(world: &World, service: &Service, node: &Node) -> bool {
    if !node.ready || node.leaving || node.excluded_from_lb {
        return false;
    }
    if service.external_policy == TrafficPolicy::Cluster {
        return true;
    }
    let endpoints = || world.slices_of(&service.name).flat_map(|slice| &slice.endpoints);
    let here = |name: &Option<Arc<str>>| name.as_ref() == Some(&node.name);
    let ready = |publish: bool, ready: bool| ready || publish;
    if endpoints().any(|e| ready(service.publish_not_ready, e.ready)) {
        return endpoints().any(|e| ready(service.publish_not_ready, e.ready) && here(&e.node));
    }
    // Where all that is left is on its way out, that still answers (KEP-1669).
    endpoints().any(|e| e.serving && e.terminating && here(&e.node))
}

/// How many nodes that may announce the Service come before this one. Every node computes the same order.
pub fn rank(world: &World, name: &ObjectName) -> usize {
    let Some(service) = world.services.get(name) else { return 0 };
    let weight = |node: &str| {
        let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
        (name, node).hash(&mut hasher);
        hasher.finish()
    };
    let own = (weight(&world.node_name), &world.node_name);
    let others = world.nodes.iter().filter(|(other, node)| {
        **other != world.node_name && (weight(other), *other) > own && may(world, service, node)
    });
    others.count()
}

/// FNV-1a: the same on every node and in every version, which the standard library's does not promise. Its last step
/// spreads what differs in the last bytes.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1 as core;
    use k8s_openapi::api::discovery::v1 as discovery;
    use serde_json::{Value, json};
    use strake_state::Extract;

    use super::*;

    fn merge(into: &mut Value, from: Value) {
        match from {
            Value::Object(fields) => fields.into_iter().for_each(|(key, value)| merge(&mut into[key], value)),
            value => *into = value,
        }
    }

    fn world(service: Value, endpoints: &[(&str, bool, bool)]) -> World {
        let mut object = json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.7", "ports": [{"port": 80}]},
            "status": {
                "loadBalancer": {"ingress": [{"ip": "192.0.2.10", "ipMode": "VIP"}]},
                "conditions": [{"type": "strake.io/LoadBalancerAddresses", "status": "True", "reason": "Allocated",
                    "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
            },
        });
        merge(&mut object, service);
        let service = serde_json::from_value::<core::Service>(object).unwrap().extract().unwrap();
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(node, ready, terminating)| {
                json!({"addresses": ["10.244.0.5"], "nodeName": node, "conditions": {
                    "ready": ready, "serving": ready | terminating, "terminating": terminating}})
            })
            .collect();
        let slice = json!({
            "metadata": {"name": "web-x", "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": [],
        });
        let slice = serde_json::from_value::<discovery::EndpointSlice>(slice).unwrap().extract().unwrap();
        let nodes = ["a", "b", "c"].map(|name| {
            let node =
                json!({"metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
            let node = serde_json::from_value::<core::Node>(node).unwrap().extract().unwrap();
            (node.name.clone(), Arc::new(node))
        });
        World {
            synced: true,
            node_name: "a".into(),
            services: [(service.name.clone(), Arc::new(service))].into_iter().collect(),
            slices: [(slice.service.clone(), Arc::from([Arc::new(slice)]))].into_iter().collect(),
            nodes: nodes.into_iter().collect(),
            ..World::default()
        }
    }

    fn name() -> ObjectName {
        ObjectName::new("default", "web")
    }

    #[test]
    fn what_we_gave_is_announced_and_what_others_gave_is_not() {
        let address: IpAddr = "192.0.2.10".parse().unwrap();
        let seen = |service: Value, whose| stand(&world(service, &[]), &name(), whose);
        assert_eq!(seen(json!({}), Whose::Ours), Stand { addresses: vec![address], may: true, gone: false });
        let unmarked = json!({"status": {"conditions": null}});
        assert_eq!(seen(unmarked.clone(), Whose::Ours), Stand::default());
        assert_eq!(seen(unmarked, Whose::Everyones).addresses, [address]);
        let foreign = json!({"spec": {"loadBalancerClass": "example.com/lb"}});
        assert_eq!(seen(foreign, Whose::Everyones), Stand::default());
        let no_more = seen(json!({"spec": {"type": "ClusterIP"}}), Whose::Everyones);
        assert_eq!(no_more, Stand { gone: true, ..Stand::default() });
        let mut unknown = world(json!({"spec": {"type": "NodePort"}}), &[]);
        unknown.synced = false;
        assert!(!stand(&unknown, &name(), Whose::Ours).gone);
        let gone = stand(&world(json!({}), &[]), &ObjectName::new("default", "other"), Whose::Ours);
        assert!(gone.gone && gone.addresses.is_empty());
    }

    #[test]
    fn a_node_that_is_not_well_or_has_nobody_there_may_not() {
        let local = json!({"spec": {"externalTrafficPolicy": "Local"}});
        let may =
            |service: &Value, endpoints: &[_]| stand(&world(service.clone(), endpoints), &name(), Whose::Ours).may;
        assert!(may(&json!({}), &[]));
        assert!(!may(&local, &[]) && !may(&local, &[("b", true, false)]));
        assert!(may(&local, &[("a", true, false), ("b", true, false)]));
        // On its way out: only while nobody else is ready.
        assert!(may(&local, &[("a", false, true)]));
        assert!(!may(&local, &[("a", false, true), ("b", true, false)]));
        for change in
            [|n: &mut Node| n.ready = false, |n: &mut Node| n.leaving = true, |n: &mut Node| n.excluded_from_lb = true]
        {
            let mut world = world(json!({}), &[]);
            let mut node = (**world.this_node().unwrap()).clone();
            change(&mut node);
            world.nodes.insert("a".into(), Arc::new(node));
            assert!(!stand(&world, &name(), Whose::Ours).may);
        }
    }

    #[test]
    fn every_node_has_a_rank_of_its_own_and_services_spread() {
        let mut first = std::collections::BTreeMap::<&str, usize>::new();
        for number in 0..300 {
            let mut world = world(json!({"metadata": {"name": format!("web-{number}")}}), &[]);
            let name = ObjectName::new("default", format!("web-{number}"));
            let mut ranks = Vec::new();
            for node in ["a", "b", "c"] {
                world.node_name = node.into();
                let rank = rank(&world, &name);
                if rank == 0 {
                    *first.entry(node).or_default() += 1;
                }
                ranks.push(rank);
            }
            ranks.sort_unstable();
            assert_eq!(ranks, [0, 1, 2]);
        }
        assert!(first.values().all(|count| (60..140).contains(count)), "{first:?}");
    }
}
