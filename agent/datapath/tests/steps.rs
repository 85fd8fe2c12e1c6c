//! Snapshots that differ in a few Services are planned by those alone. What the maps hold afterwards is what planning
//! everything would have made of them, whatever the steps were, and whoever shares an address.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of a test may panic as the tests do")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use common::{Model, change, sizes};
use proptest::prelude::*;
use serde_json::json;
use strake_datapath::{Config, Desired, Installed, Planner, Runtime, apply, compile, exists_key, key_order};
use strake_state::{Cache, Change, Kind, ObjectName, World};

/// A Service with one slice of each family.
#[derive(Clone, Debug, PartialEq)]
struct Spec {
    /// Several may have it: then the first by name is served.
    external_ip: Option<u8>,
    node_port: u16,
    udp: bool,
    affinity: bool,
    dual: bool,
    restricted: bool,
    maglev: bool,
    local: bool,
    /// Last octet (several Services may have a backend), ready, terminating.
    endpoints: Vec<(u8, bool, bool)>,
}

fn spec() -> impl Strategy<Value = Spec> {
    let rarely = || prop::bool::weighted(0.1);
    (
        prop::option::weighted(0.2, 1_u8..3),
        prop_oneof![3 => Just(0_u16), 1 => 30_000_u16..30_004],
        (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
        (rarely(), rarely()),
        prop::collection::vec((1_u8..12, any::<bool>(), any::<bool>()), 0..5),
    )
        .prop_map(|(external_ip, node_port, (udp, affinity, dual, local), (restricted, maglev), endpoints)| Spec {
            external_ip,
            node_port,
            udp,
            affinity,
            dual,
            restricted,
            maglev,
            local,
            endpoints,
        })
}

/// What happens between two snapshots.
#[derive(Clone, Debug)]
enum Event {
    Put(u8, Spec),
    /// Only its endpoints.
    Endpoints(u8, Vec<(u8, bool, bool)>),
    Remove(u8),
    /// A Pod of this node with a hostPort comes (true) or goes.
    HostPort(bool),
    /// Another node comes (true) or goes.
    Node(bool),
    /// The slots of what is gone may be used again.
    Later,
    /// Another process goes on.
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    let endpoints = prop::collection::vec((1_u8..12, any::<bool>(), any::<bool>()), 0..5);
    prop_oneof![
        6 => (0_u8..8, spec()).prop_map(|(name, spec)| Event::Put(name, spec)),
        6 => (0_u8..8, endpoints).prop_map(|(name, endpoints)| Event::Endpoints(name, endpoints)),
        3 => (0_u8..8).prop_map(Event::Remove),
        1 => any::<bool>().prop_map(Event::HostPort),
        1 => any::<bool>().prop_map(Event::Node),
        1 => Just(Event::Later),
        1 => Just(Event::Restart),
    ]
}

fn service(name: u8, spec: &Spec, there: bool) -> Change {
    let protocol = if spec.udp { "UDP" } else { "TCP" };
    let external = spec.external_ip.map(|ip| format!("192.0.2.{}", 100 + ip));
    let families = if spec.dual { 2 } else { 1 };
    let ips = &[format!("10.96.1.{name}"), format!("fd00:96::{name}")][..families];
    change(
        json!({
            "kind": "Service",
            "metadata": {
                "namespace": "ns", "name": format!("s{name}"),
                "annotations": if spec.maglev { json!({"strake.io/lb-algorithm": "maglev"}) } else { json!({}) },
            },
            "spec": {
                "type": "LoadBalancer", "clusterIP": ips[0], "clusterIPs": ips,
                "externalIPs": external.into_iter().collect::<Vec<_>>(),
                "externalTrafficPolicy": if spec.local { "Local" } else { "Cluster" },
                "internalTrafficPolicy": if spec.local { "Local" } else { "Cluster" },
                "sessionAffinity": if spec.affinity { "ClientIP" } else { "None" },
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
                "loadBalancerSourceRanges": if spec.restricted { vec!["198.51.100.0/24"] } else { vec![] },
                "ports": [{"name": "p", "protocol": protocol, "port": 80, "nodePort": spec.node_port}],
            },
            "status": {"loadBalancer": {"ingress": [{"ip": format!("192.0.2.{name}")}]}},
        }),
        there,
    )
}

fn slices(name: u8, spec: &Spec, there: bool) -> [Change; 2] {
    let protocol = if spec.udp { "UDP" } else { "TCP" };
    [("IPv4", "10.244.0."), ("IPv6", "fd00:244::")].map(|(family, prefix)| {
        let endpoints: Vec<_> = spec
            .endpoints
            .iter()
            .map(|(octet, ready, terminating)| {
                let ready = *ready && !terminating;
                json!({
                    "addresses": [format!("{prefix}{octet}")],
                    "conditions": {"ready": ready, "serving": ready || *terminating, "terminating": terminating},
                    "nodeName": if octet % 2 == 0 { "n1" } else { "n2" },
                })
            })
            .collect();
        change(
            json!({
            "kind": "EndpointSlice",
                "metadata": {
                    "namespace": "ns", "name": format!("s{name}-{}", family.to_lowercase()),
                    "labels": {"kubernetes.io/service-name": format!("s{name}")},
                },
                "addressType": family,
                "ports": [{"name": "p", "protocol": protocol, "port": 8080}],
                "endpoints": endpoints,
            }),
            there,
        )
    })
}

fn node(name: &str, address: &str, there: bool) -> Change {
    change(
        json!({
            "kind": "Node",
            "metadata": {"name": name},
            "spec": {"podCIDRs": [if name == "n1" { "10.244.0.0/24" } else { "10.244.1.0/24" }]},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]},
        }),
        there,
    )
}

fn pod(there: bool) -> Change {
    change(
        json!({
            "kind": "Pod",
            "metadata": {"namespace": "ns", "name": "host-port", "uid": "u"},
            "spec": {
                "nodeName": "n1",
                // It may be a NodePort of a Service on every address.
                "containers": [{"name": "c", "ports": [{"containerPort": 8080, "hostPort": 80, "hostIP": "192.0.2.1"}]}],
            },
            "status": {"phase": "Running", "podIP": "10.244.0.200", "podIPs": [{"ip": "10.244.0.200"}]},
        }),
        there,
    )
}

/// What each frontend leads to, by names instead of numbers.
type Meaning = BTreeMap<([u8; 16], u16, u8, u8), String>;

fn wanted(desired: &Desired) -> Meaning {
    let frontends = desired.frontends.iter().map(|frontend| {
        let set = &desired.sets[frontend.set];
        let backends: Vec<_> = set.backends.iter().map(|target| target.end()).collect();
        let ranges = frontend.sources.map(|list| desired.source_lists[list].clone());
        (key_order(&frontend.key), format!("{} {} {backends:?} {ranges:?}", frontend.flags, set.affinity_timeout_s))
    });
    let exist = desired.cluster_ips.iter().map(|ip| (key_order(&exists_key(*ip)), "0 0 [] None".to_owned()));
    frontends.chain(exist).collect()
}

fn held(model: &Model) -> Meaning {
    let meaning = |key| {
        let (flags, affinity, backends, ranges, _) = model.resolve(key).unwrap();
        let ends: Vec<_> =
            backends.iter().map(|(addr, port)| std::net::SocketAddr::new(addr.ip(), port.get())).collect();
        format!("{flags} {affinity} {ends:?} {ranges:?}")
    };
    model.services.keys().map(|key| (key_order(key), meaning(key))).collect()
}

/// Every member that a sticky set has, and no other.
fn members(model: &Model, desired: &Desired) -> usize {
    let ids: BTreeMap<_, _> = model.services.iter().map(|(key, service)| (key_order(key), service.id)).collect();
    let sets: BTreeMap<usize, u32> =
        desired.frontends.iter().map(|frontend| (frontend.set, ids[&key_order(&frontend.key)])).collect();
    let mut count = 0;
    for (set, id) in sets {
        let set = &desired.sets[set];
        for target in set.backends.iter().chain(&set.lingering).filter(|_| set.sticky()) {
            let is_it = |(key, backend): &(&strake_abi::service::MemberKey, &strake_abi::service::Backend)| {
                key.service_id == id && (backend.addr, backend.port) == (target.addr, target.port)
            };
            assert!(model.members.iter().any(|row| is_it(&row)), "{} has no member {}", set.owner, target.end());
            count += 1;
        }
    }
    count
}

struct Cluster {
    cache: Cache,
    specs: BTreeMap<u8, Spec>,
}

impl Cluster {
    fn new() -> Self {
        let mut cache = Cache::new("n1");
        for kind in Kind::ALL {
            cache.apply(Change::Init(kind));
            cache.apply(Change::InitDone(kind));
        }
        cache.apply(node("n1", "192.0.2.1", true));
        Self { cache, specs: BTreeMap::new() }
    }

    fn apply(&mut self, event: &Event) {
        let mut changes = Vec::new();
        match event {
            Event::Put(name, spec) => {
                changes.push(service(*name, spec, true));
                changes.extend(slices(*name, spec, true));
                self.specs.insert(*name, spec.clone());
            }
            Event::Endpoints(name, endpoints) => {
                let Some(spec) = self.specs.get_mut(name) else { return };
                spec.endpoints = endpoints.clone();
                changes.extend(slices(*name, spec, true));
            }
            Event::Remove(name) => {
                let Some(spec) = self.specs.remove(name) else { return };
                changes.push(service(*name, &spec, false));
                changes.extend(slices(*name, &spec, false));
            }
            Event::HostPort(there) => changes.push(pod(*there)),
            Event::Node(there) => changes.push(node("n2", "192.0.2.2", *there)),
            Event::Later | Event::Restart => {}
        }
        for change in changes {
            self.cache.apply(change);
        }
    }

    fn world(&mut self) -> Arc<World> {
        Arc::new(self.cache.snapshot())
    }
}

fn planner(config: &Arc<Config>, model: &Model) -> Planner {
    Planner::new(config.clone(), Runtime::default(), sizes(), Installed::new(model.contents(), &sizes()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn steps_lead_where_planning_everything_does(
        events in prop::collection::vec(prop::collection::vec(event(), 1..4), 1..14),
    ) {
        let config = Arc::new(Config::new("n1", "/cgroup", "/pins"));
        let (mut cluster, mut model) = (Cluster::new(), Model::default());
        let mut ours = planner(&config, &model);
        for step in events {
            for event in &step {
                cluster.apply(event);
                match event {
                    Event::Later => ours.reclaim_all(),
                    Event::Restart => ours = planner(&config, &model),
                    _ => {}
                }
            }
            let world = cluster.world();
            let now = Instant::now();
            let proposal = ours.propose(&world, now).unwrap();
            apply(&proposal.plan, &mut model).unwrap();
            ours.commit(proposal, now);

            let desired = compile(&world, &config, Runtime::default());
            prop_assert_eq!(held(&model), wanted(&desired));
            prop_assert_eq!(members(&model, &desired), model.members.len());
            prop_assert_eq!(model.names.len(), desired.names.len());
            prop_assert_eq!(ours.needs(), strake_datapath::Needs::of(&desired));
            let warnings: Vec<_> = ours.warnings().cloned().collect();
            prop_assert_eq!(warnings, desired.warnings);
            // Whoever reads the maps instead of remembering them finds nothing to do.
            let again = planner(&config, &model).propose(&world, now).unwrap();
            prop_assert_eq!(again.plan.writes(), 0);
        }
    }
}

/// One changed Service among many writes its own rows, and is planned by itself.
#[test]
fn one_changed_service_of_many_is_planned_alone() {
    let config = Arc::new(Config::new("n1", "/cgroup", "/pins"));
    let (mut cluster, mut model) = (Cluster::new(), Model::default());
    let spec = Spec {
        external_ip: None,
        node_port: 0,
        udp: true,
        affinity: false,
        dual: false,
        restricted: false,
        maglev: false,
        local: false,
        endpoints: vec![(1, true, false), (2, true, false)],
    };
    for name in 1..100 {
        cluster.apply(&Event::Put(name, spec.clone()));
    }
    let mut planner = planner(&config, &model);
    let mut step = |cluster: &mut Cluster| {
        let proposal = planner.propose(&cluster.world(), Instant::now()).unwrap();
        apply(&proposal.plan, &mut model).unwrap();
        let (writes, partial) = (proposal.plan.writes(), proposal.is_partial());
        planner.commit(proposal, Instant::now());
        (writes, partial)
    };
    assert!(!step(&mut cluster).1);
    assert_eq!(step(&mut cluster), (0, true));
    cluster.apply(&Event::Put(100, spec.clone()));
    // ClusterIP and LoadBalancer IP in two scopes, "it exists", the name, 2 slots, 2 members.
    assert_eq!(step(&mut cluster), (3 + 1 + 1 + 2 + 2, true));
    cluster.apply(&Event::Endpoints(7, vec![(1, true, false)]));
    // Three frontends to a new slice of one, a member less.
    assert_eq!(step(&mut cluster), (3 + 1 + 1, true));
    cluster.apply(&Event::Remove(7));
    assert_eq!(step(&mut cluster), (3 + 1 + 1 + 1, true));
    // What others share is planned with them.
    cluster.apply(&Event::Put(8, Spec { external_ip: Some(1), ..spec.clone() }));
    assert!(step(&mut cluster).1);
    cluster.apply(&Event::Put(9, Spec { external_ip: Some(1), ..spec.clone() }));
    assert!(!step(&mut cluster).1);
    cluster.apply(&Event::Node(true));
    assert!(!step(&mut cluster).1);
    assert!(cluster.cache.apply(Change::Pod(ObjectName::new("ns", "other"), None)) || step(&mut cluster) == (0, true));
}
