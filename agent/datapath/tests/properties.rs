//! Random clusters, one after the other: what is compiled is sound, what is applied is what was compiled, every reader
//! in between sees the old or the new Service, and a restart changes nothing.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of a test may panic as the tests do")]

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use common::{Model, Resolution, Table, sizes};
use proptest::prelude::*;
use strake_abi::addr::Addr6;
use strake_abi::config::Config as AbiConfig;
use strake_abi::dns::{DnsKey, DnsName, DnsZone};
use strake_abi::service::{Backend, MaglevRow, MemberKey, SCOPE_EXTERNAL, Service as AbiService, ServiceKey6};
use strake_datapath::{
    Config, Desired, Installed, MapSizes, Maps, Plan, Runtime, SourceRange, apply, check, compile, diff, exists_key,
};
use strake_logic::maglev;
use strake_state::{
    Endpoint, EndpointPort, EndpointSlice, LbOwner, Node, ObjectName, Protocol, Service, ServicePort, ServiceType,
    SessionAffinity, TrafficPolicy, World,
};

/// One random Service: a small world on purpose, so that addresses, ports and backends collide.
#[derive(Clone, Debug)]
struct Spec {
    /// Bit 0: IPv4, bit 1: IPv6.
    families: u8,
    ip: u8,
    port: u16,
    udp: bool,
    node_port: u16,
    external: bool,
    /// LoadBalancer IPs with these of `RANGES`, by bit.
    ranges: u8,
    maglev: bool,
    affinity: bool,
    internal_local: bool,
    external_local: bool,
    /// Last octet, ready, terminating, on this node.
    endpoints: Vec<(u8, bool, bool, bool)>,
}

/// Networks and single clients, inside of each other, of both families, and everybody.
const RANGES: [&str; 6] =
    ["198.51.100.0/24", "198.51.100.128/25", "198.51.100.7/32", "2001:db8::/32", "0.0.0.0/0", "2001:db8:7::/48"];
fn spec() -> impl Strategy<Value = Spec> {
    let endpoint = (1_u8..9, any::<bool>(), any::<bool>(), any::<bool>());
    (
        (1_u8..4, 1_u8..5),
        80_u16..83,
        any::<bool>(),
        prop_oneof![Just(0_u16), 30_000_u16..30_003],
        (any::<bool>(), 0_u8..64, any::<bool>()),
        (any::<bool>(), any::<bool>(), any::<bool>()),
        prop::collection::vec(endpoint, 0..6),
    )
        .prop_map(
            |(
                (families, ip),
                port,
                udp,
                node_port,
                (external, ranges, maglev),
                (affinity, internal_local, external_local),
                endpoints,
            )| {
                Spec {
                    families,
                    ip,
                    port,
                    udp,
                    node_port,
                    external,
                    ranges,
                    maglev,
                    affinity,
                    internal_local,
                    external_local,
                    endpoints,
                }
            },
        )
}

fn world(specs: &BTreeMap<u8, Spec>) -> World {
    let policy = |local| if local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let mut services = BTreeMap::new();
    let mut slices = BTreeMap::new();
    for (number, spec) in specs {
        let name = ObjectName::new("ns", format!("s{number}"));
        let (v4, v6) = (spec.families & 1 != 0, spec.families & 2 != 0);
        let both = |four: [u8; 4], six: [u16; 8]| -> Vec<IpAddr> {
            let (four, six) = (v4.then(|| IpAddr::from(four)), v6.then(|| IpAddr::from(six)));
            four.into_iter().chain(six).collect()
        };
        let protocol = if spec.udp { Protocol::Udp } else { Protocol::Tcp };
        let service = Service {
            name: name.clone(),
            service_type: if spec.node_port > 0 { ServiceType::NodePort } else { ServiceType::ClusterIP },
            cluster_ips: both([10, 96, 1, spec.ip], [0xfd00, 0x96, 0, 0, 0, 0, 0, spec.ip.into()]),
            headless: false,
            external_name: None,
            external_ips: if spec.external {
                both([192, 0, 2, 7], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 7])
            } else {
                Vec::new()
            },
            load_balancer_ips: both([192, 0, 2, 8], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 8]),
            load_balancer_source_ranges: RANGES
                .iter()
                .enumerate()
                .filter(|(bit, _)| spec.ranges & (1 << bit) != 0)
                .map(|(_, range)| range.parse().unwrap())
                .collect(),
            lb_owner: LbOwner::Other,
            invalid_source_ranges: Vec::new(),
            lb_algorithm: spec.maglev.then(|| "maglev".into()),
            ports: vec![ServicePort { name: "p".into(), protocol, port: spec.port, node_port: spec.node_port }],
            affinity: if spec.affinity { SessionAffinity::ClientIp { timeout: 60 } } else { SessionAffinity::None },
            internal_policy: policy(spec.internal_local),
            external_policy: policy(spec.external_local),
            publish_not_ready: false,
            health_check_node_port: 0,
            other_proxy: false,
        };
        // The slices of both families are there whatever the Service's are.
        let endpoints = |address: fn(u8) -> IpAddr| {
            let one = move |(octet, ready, terminating, local): &(u8, bool, bool, bool)| Endpoint {
                address: address(*octet),
                ready: *ready && !*terminating,
                serving: *ready,
                terminating: *terminating,
                node: Some(if *local { "n1" } else { "n2" }.into()),
                rare: None,
            };
            spec.endpoints.iter().map(one).collect::<Box<[_]>>()
        };
        let slice = |suffix: &str, endpoints| EndpointSlice {
            name: ObjectName::new("ns", format!("s{number}-{suffix}")),
            service: name.clone(),
            ports: vec![EndpointPort { name: "p".into(), protocol, port: 8080 }],
            endpoints,
            triggered_ms: None,
        };
        let x = slice("x", endpoints(|octet| Ipv4Addr::new(10, 244, 0, octet).into()));
        let y = slice("y", endpoints(|octet| Ipv6Addr::from([0xfd00, 0x244, 0, 0, 0, 0, 0, octet.into()]).into()));
        slices.insert(name.clone(), Arc::from([Arc::new(x), Arc::new(y)]));
        services.insert(name, Arc::new(service));
    }
    let node = Node {
        name: "n1".into(),
        internal_ips: vec![IpAddr::from([192, 0, 2, 1]), IpAddr::from([0xfd00, 0x192, 0, 0, 0, 0, 0, 1])],
        external_ips: Vec::new(),
        pod_cidrs: vec!["10.244.0.0/24".parse().unwrap()],
        zone: None,
        ready: true,
        leaving: false,
        excluded_from_lb: false,
    };
    World {
        synced: true,
        node_name: "n1".into(),
        services: services.into_iter().collect(),
        slices: slices.into_iter().collect(),
        nodes: [(Box::<str>::from("n1"), Arc::new(node))].into_iter().collect(),
        ..World::default()
    }
}

fn config() -> Config {
    Config::new("n1", "/cgroup", "/pins")
}

/// Address and port of a backend.
type Name = (Addr6, strake_abi::addr::Port);

/// Applies to a model and looks at it as a packet would, between any two writes of single rows.
struct Watched<'a> {
    model: &'a mut Model,
    /// Every frontend, with what it may resolve to: before, after.
    allowed: Vec<(ServiceKey6, Resolution, Resolution)>,
    /// Values a program may have read just before the plan began, and the slice it must then find.
    in_flight: Vec<(AbiService, Vec<Name>, Option<Table>)>,
}

impl Watched<'_> {
    fn look(&self) {
        for (key, old, new) in &self.allowed {
            let seen = self.model.resolve(key);
            assert!(seen == *old || seen == *new, "{key:?} is {seen:?}, was {old:?}, becomes {new:?}");
        }
        for (service, slice, table) in &self.in_flight {
            assert_eq!(&self.model.slice(service), slice, "a slice changed under a program that reads it");
            assert_eq!(&self.model.table(service), table, "a table changed under a program that reads it");
        }
    }

    fn each<T: Copy>(&mut self, rows: &[T], mut write: impl FnMut(&mut Model, &[T])) {
        for row in rows {
            write(self.model, &[*row]);
            self.look();
        }
    }
}

impl Maps for Watched<'_> {
    type Error = std::convert::Infallible;

    fn put_members(&mut self, rows: &[(MemberKey, Backend)]) -> Result<(), Self::Error> {
        self.each(rows, |model, row| model.put_members(row).unwrap());
        Ok(())
    }
    fn remove_members(&mut self, keys: &[MemberKey]) -> Result<(), Self::Error> {
        self.each(keys, |model, row| model.remove_members(row).unwrap());
        Ok(())
    }
    fn put_sources(&mut self, rows: &[SourceRange]) -> Result<(), Self::Error> {
        self.each(rows, |model, row| model.put_sources(row).unwrap());
        Ok(())
    }
    fn remove_sources(&mut self, rows: &[SourceRange]) -> Result<(), Self::Error> {
        self.each(rows, |model, row| model.remove_sources(row).unwrap());
        Ok(())
    }
    fn write_slice(&mut self, base: u32, backends: &[Backend]) -> Result<(), Self::Error> {
        for (offset, backend) in backends.iter().enumerate() {
            self.model.write_slice(base + offset as u32, &[*backend]).unwrap();
            self.look();
        }
        Ok(())
    }
    fn write_table(&mut self, base: u32, rows: &[MaglevRow]) -> Result<(), Self::Error> {
        for (offset, row) in rows.iter().enumerate() {
            self.model.write_table(base + offset as u32, &[*row]).unwrap();
        }
        self.look();
        Ok(())
    }
    fn put_nodes(&mut self, rows: &[(Addr6, u32)]) -> Result<(), Self::Error> {
        self.each(rows, |model, row| model.put_nodes(row).unwrap());
        Ok(())
    }
    fn remove_nodes(&mut self, keys: &[Addr6]) -> Result<(), Self::Error> {
        self.each(keys, |model, row| model.remove_nodes(row).unwrap());
        Ok(())
    }
    fn set_config(&mut self, config: &AbiConfig) -> Result<(), Self::Error> {
        self.model.set_config(config)
    }
    fn set_zone(&mut self, zone: &DnsZone) -> Result<(), Self::Error> {
        self.model.set_zone(zone)
    }
    fn put_services(&mut self, rows: &[(ServiceKey6, AbiService)]) -> Result<(), Self::Error> {
        self.each(rows, |model, row| model.put_services(row).unwrap());
        Ok(())
    }
    fn remove_services(&mut self, keys: &[ServiceKey6]) -> Result<(), Self::Error> {
        self.each(keys, |model, row| model.remove_services(row).unwrap());
        Ok(())
    }
    fn put_names(&mut self, rows: &[(DnsKey, DnsName)]) -> Result<(), Self::Error> {
        self.each(rows, |model, row| model.put_names(row).unwrap());
        Ok(())
    }
    fn remove_names(&mut self, keys: &[DnsKey]) -> Result<(), Self::Error> {
        self.each(keys, |model, row| model.remove_names(row).unwrap());
        Ok(())
    }
}

/// The table that a set of backends must have.
fn table(backends: &[Name]) -> Option<Table> {
    let size = maglev::size(backends.len() as u32);
    let mut entries = vec![0; size as usize];
    maglev::fill(backends, &mut vec![maglev::Turn::default(); backends.len()], &mut entries);
    let samples = entries.iter().step_by(97).map(|position| backends[usize::from(*position)]).collect();
    (size != 0).then_some((size, samples))
}

/// What each frontend must resolve to, in the order of their keys.
type Expected = BTreeMap<([u8; 16], u16, u8, u8), (ServiceKey6, Resolution)>;

fn expected(desired: &Desired) -> Expected {
    let frontends = desired.frontends.iter().map(|frontend| {
        let set = &desired.sets[frontend.set];
        let backends: Vec<_> = set.backends.iter().map(|target| (target.addr, target.port)).collect();
        let table = (set.maglev && frontend.key.scope == SCOPE_EXTERNAL).then(|| table(&backends)).flatten();
        let ranges = frontend.sources.map(|list| desired.source_lists[list].clone());
        (frontend.key, Some((frontend.flags, set.affinity_timeout_s, backends, ranges, table)))
    });
    let exists = desired.cluster_ips.iter().map(|ip| (exists_key(*ip), Some((0, 0, Vec::new(), None, None))));
    frontends.chain(exists).map(|(key, value)| (strake_datapath::key_order(&key), (key, value))).collect()
}

/// Each frontend leads to the backends of its own family, and those of the other are not among the rows of its map.
fn families_are_apart(desired: &Desired) {
    for frontend in &desired.frontends {
        let v4 = frontend.key.v4().is_some();
        let set = &desired.sets[frontend.set];
        assert!(set.backends.iter().chain(&set.lingering).all(|target| target.addr.v4().is_some() == v4));
    }
}

fn watched_apply(plan: &Plan, model: &mut Model, desired: &Desired) {
    let after = expected(desired);
    let mut keys: Vec<ServiceKey6> = model.services.keys().copied().collect();
    keys.extend(after.values().map(|(key, _)| *key));
    let allowed = keys
        .into_iter()
        .map(|key| {
            let new = after.get(&strake_datapath::key_order(&key)).and_then(|(_, resolution)| resolution.clone());
            (key, model.resolve(&key), new)
        })
        .collect();
    let in_flight = model.services.values().map(|s| (*s, model.slice(s), model.table(s))).collect();
    apply(plan, &mut Watched { model, allowed, in_flight }).unwrap();
}

fn verify(model: &Model, desired: &Desired) {
    let wanted = expected(desired);
    assert_eq!(model.services.len(), wanted.len());
    for (key, resolution) in wanted.values() {
        assert_eq!(&model.resolve(key), resolution);
    }
    let ids: BTreeMap<_, _> =
        model.services.iter().map(|(key, service)| (strake_datapath::key_order(key), service.id)).collect();
    let ranges: usize = desired.source_lists.iter().map(Vec::len).sum();
    assert_eq!(model.sources.len(), ranges);
    let mut members = 0;
    let mut seen = std::collections::HashSet::new();
    for frontend in &desired.frontends {
        let set = &desired.sets[frontend.set];
        let id = ids[&strake_datapath::key_order(&frontend.key)];
        assert_ne!(id, 0);
        if set.sticky() && seen.insert(frontend.set) {
            members += set.backends.len() + set.lingering.len();
            for target in set.backends.iter().chain(&set.lingering) {
                let row = model.members.iter().find(|(key, backend)| {
                    key.service_id == id && backend.addr == target.addr && backend.port == target.port
                });
                assert!(row.is_some_and(|(key, backend)| key.backend_id == backend.id));
            }
        }
    }
    assert_eq!(model.members.len(), members);
    assert_eq!(model.names.len(), desired.names.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_reader_sees_the_old_or_the_new_service_and_a_restart_changes_nothing(
        steps in prop::collection::vec(prop::collection::btree_map(0_u8..6, spec(), 0..6), 1..6),
    ) {
        let config = config();
        let mut model = Model::default();
        let mut installed = Installed::empty(&sizes());
        let mut highest_id = 0;
        for specs in steps {
            let desired = compile(&world(&specs), &config, Runtime::default());
            prop_assert_eq!(check(&desired, &MapSizes::default()), Ok(()));
            families_are_apart(&desired);

            let (plan, mut after) = diff(&installed, &desired).unwrap();
            watched_apply(&plan, &mut model, &desired);
            verify(&model, &desired);

            // An id is never handed out again, not even after a restart.
            for (_, service) in &plan.services_put {
                if !installed.services.values().any(|old| old.id == service.id) && service.id != 0 {
                    prop_assert!(service.id > highest_id);
                }
            }
            let ids = model.services.values().map(|s| s.id).chain(model.backends.iter().map(|b| b.id));
            highest_id = highest_id.max(ids.max().unwrap_or(0));
            prop_assert!(model.config.next_id > highest_id || highest_id == 0);

            // The same again is no work; neither is it after reading everything back.
            let (again, _) = diff(&after, &desired).unwrap();
            prop_assert_eq!(again.writes(), 0);
            let restarted = Installed::new(model.contents(), &sizes());
            let (again, _) = diff(&restarted, &desired).unwrap();
            prop_assert_eq!(again, Plan::default());

            after.retire(&plan, std::time::Instant::now());
            after.reclaim_all();
            // Every other step goes on as another process would.
            installed = if specs.len() % 2 == 0 { after } else { restarted };
        }
    }
}

/// A process that is killed before its write number `left`.
struct Killed<'a> {
    model: &'a mut Model,
    left: usize,
}

impl Killed<'_> {
    fn rows<T: Copy>(&mut self, rows: &[T], mut write: impl FnMut(&mut Model, &[T])) -> Result<(), ()> {
        for row in rows {
            self.left = self.left.checked_sub(1).ok_or(())?;
            write(self.model, &[*row]);
        }
        Ok(())
    }
}

impl Maps for Killed<'_> {
    type Error = ();

    fn put_members(&mut self, rows: &[(MemberKey, Backend)]) -> Result<(), ()> {
        self.rows(rows, |model, row| model.put_members(row).unwrap())
    }
    fn remove_members(&mut self, keys: &[MemberKey]) -> Result<(), ()> {
        self.rows(keys, |model, row| model.remove_members(row).unwrap())
    }
    fn put_sources(&mut self, rows: &[SourceRange]) -> Result<(), ()> {
        self.rows(rows, |model, row| model.put_sources(row).unwrap())
    }
    fn remove_sources(&mut self, rows: &[SourceRange]) -> Result<(), ()> {
        self.rows(rows, |model, row| model.remove_sources(row).unwrap())
    }
    fn write_slice(&mut self, base: u32, backends: &[Backend]) -> Result<(), ()> {
        let slots: Vec<_> = (base..).zip(backends.iter().copied()).collect();
        self.rows(&slots, |model, row| model.write_slice(row[0].0, &[row[0].1]).unwrap())
    }
    fn write_table(&mut self, base: u32, rows: &[MaglevRow]) -> Result<(), ()> {
        let rows: Vec<_> = (base..).zip(rows.iter().copied()).collect();
        self.rows(&rows, |model, row| model.write_table(row[0].0, &[row[0].1]).unwrap())
    }
    fn put_nodes(&mut self, rows: &[(Addr6, u32)]) -> Result<(), ()> {
        self.rows(rows, |model, row| model.put_nodes(row).unwrap())
    }
    fn remove_nodes(&mut self, keys: &[Addr6]) -> Result<(), ()> {
        self.rows(keys, |model, row| model.remove_nodes(row).unwrap())
    }
    fn set_config(&mut self, config: &AbiConfig) -> Result<(), ()> {
        self.rows(&[*config], |model, row| model.set_config(&row[0]).unwrap())
    }
    fn set_zone(&mut self, zone: &DnsZone) -> Result<(), ()> {
        self.rows(&[*zone], |model, row| model.set_zone(&row[0]).unwrap())
    }
    fn put_services(&mut self, rows: &[(ServiceKey6, AbiService)]) -> Result<(), ()> {
        self.rows(rows, |model, row| model.put_services(row).unwrap())
    }
    fn remove_services(&mut self, keys: &[ServiceKey6]) -> Result<(), ()> {
        self.rows(keys, |model, row| model.remove_services(row).unwrap())
    }
    fn put_names(&mut self, rows: &[(DnsKey, DnsName)]) -> Result<(), ()> {
        self.rows(rows, |model, row| model.put_names(row).unwrap())
    }
    fn remove_names(&mut self, keys: &[DnsKey]) -> Result<(), ()> {
        self.rows(keys, |model, row| model.remove_names(row).unwrap())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn an_agent_killed_at_any_write_is_finished_by_the_next(
        steps in prop::collection::vec((prop::collection::btree_map(0_u8..6, spec(), 0..6), 0_usize..60), 2..6),
    ) {
        let config = config();
        let mut model = Model::default();
        for (specs, left) in steps {
            let desired = compile(&world(&specs), &config, Runtime::default());
            let (plan, _) = diff(&Installed::new(model.contents(), &sizes()), &desired).unwrap();
            let _ = apply(&plan, &mut Killed { model: &mut model, left });
            // The next process reads what is there, and packets go on meanwhile.
            let (plan, _) = diff(&Installed::new(model.contents(), &sizes()), &desired).unwrap();
            watched_apply(&plan, &mut model, &desired);
            verify(&model, &desired);
            let (plan, _) = diff(&Installed::new(model.contents(), &sizes()), &desired).unwrap();
            prop_assert_eq!(plan, Plan::default());
        }
    }
}

#[test]
fn a_desired_that_breaks_an_invariant_is_refused_by_name() {
    let specs = BTreeMap::from([(
        1,
        Spec {
            families: 3,
            ip: 1,
            port: 80,
            udp: false,
            node_port: 0,
            external: false,
            ranges: 0b1011,
            maglev: true,
            affinity: false,
            internal_local: false,
            external_local: false,
            endpoints: vec![(1, true, false, true), (2, true, false, false)],
        },
    )]);
    let sound = compile(&world(&specs), &config(), Runtime::default());
    let broken = |change: fn(&mut Desired)| {
        let mut desired = sound.clone();
        change(&mut desired);
        let violations = check(&desired, &MapSizes::default()).unwrap_err();
        violations[0].to_string()
    };
    assert!(broken(|d| d.frontends[0].set = 9).contains("points at set 9 of 2"));
    assert!(
        broken(|d| d.source_lists[0].reverse()).contains("source list 0: 198.51.100.0/24 is no network, not in order")
    );
    assert!(
        broken(|d| d.source_lists[0].push("2001:db8::/32".parse().unwrap())).contains("source list 0 of 2, which is")
    );
    assert!(broken(|d| d.source_lists[1].clear()).contains("[2001:db8::8]:80/TCP internal admits source list 1"));
    assert!(broken(|d| d.sets[0].backends.reverse()).contains("not in order"));
    assert!(broken(|d| d.sets[0].backends[0].addr = Ipv4Addr::LOCALHOST.into()).contains("not an address"));
    assert!(broken(|d| d.sets[1].backends[0].addr = Ipv6Addr::LOCALHOST.into()).contains("backend [::1]:8080 is not"));
    assert!(
        broken(|d| d.frontends[0].set = 1).contains("of another family than a backend of its set ns/s1:80/TCP IPv6")
    );
    assert!(broken(|d| d.frontends.push(d.frontends[0])).contains("stands twice"));
    assert!(broken(|d| d.names[0].value.name_len = 3).contains("name row 0"));
    assert!(broken(|d| d.frontends[1].key.addr = d.config.cluster_dns.into()).contains("cluster DNS"));
    assert!(broken(|d| d.config.snat_port_min = 31_000).contains("overlap NodePorts"));
    let small = MapSizes { backends: 1, ..MapSizes::default() };
    assert!(check(&sound, &small).unwrap_err()[0].to_string().contains("BACKENDS needs 4 entries and has room for 1"));
}
