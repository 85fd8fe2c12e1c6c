//! Who gets which address, as sequences of plans whose verdicts are written to the statuses, or fail to be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use proptest::prelude::*;

use super::plan::{Verdict, ingress, is_ours, plan};
use super::pool::{AddressPool, Family};
use super::{CONDITION, WANTED, concerns, status};

/// Services by name, as the API would hold them.
struct Cluster {
    services: BTreeMap<String, Service>,
    pool: AddressPool,
    nodes: BTreeMap<IpAddr, String>,
    clock: i64,
}

impl Cluster {
    fn new(pool: &str) -> Self {
        Self { services: BTreeMap::new(), pool: pool.parse().unwrap(), nodes: BTreeMap::new(), clock: 0 }
    }

    fn add(&mut self, name: &str) -> &mut Service {
        self.clock += 1;
        let service = Service {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some("default".into()),
                uid: Some(format!("{name}-{}", self.clock)),
                creation_timestamp: Some(Time(Timestamp::from_second(self.clock).unwrap())),
                ..ObjectMeta::default()
            },
            spec: Some(ServiceSpec {
                type_: Some("LoadBalancer".into()),
                ip_families: Some(vec!["IPv4".into()]),
                ..ServiceSpec::default()
            }),
            status: None,
        };
        self.services.insert(name.into(), service);
        self.service(name)
    }

    fn service(&mut self, name: &str) -> &mut Service {
        self.services.get_mut(name).unwrap()
    }

    fn want(&mut self, name: &str, addresses: &str) {
        let annotations = self.service(name).metadata.annotations.get_or_insert_default();
        annotations.insert(WANTED.into(), addresses.into());
    }

    /// One pass; the writes to `failing` do not get through. Whether anything was written.
    fn pass(&mut self, failing: &BTreeSet<String>) -> bool {
        let concerned: Vec<&Service> = self.services.values().filter(|s| concerns(s)).collect();
        let mut written = false;
        for (key, verdict) in plan(concerned, &self.pool, &self.nodes) {
            let service = self.services.get_mut(&key.name).unwrap();
            if let Some(status) = status(service, &verdict)
                && !failing.contains(&key.name)
            {
                service.status = Some(status);
                written = true;
            }
        }
        written
    }

    fn settle(&mut self) {
        let end = (0..8).find(|_| !self.pass(&BTreeSet::new()));
        assert!(end.is_some(), "the plan does not come to rest");
    }

    fn of(&self, name: &str) -> String {
        let entries = ingress(&self.services[name]).iter();
        entries.map(|entry| entry.ip.clone().unwrap()).collect::<Vec<_>>().join(",")
    }

    fn why(&self, name: &str) -> String {
        let conditions = self.services[name].status.as_ref().unwrap().conditions.as_ref().unwrap();
        let condition = conditions.iter().find(|c| c.type_ == CONDITION).unwrap();
        format!("{} {}: {}", condition.status, condition.reason, condition.message)
    }

    /// No address stands in two statuses of ours, none outside the pool or of a node does.
    fn check(&self) -> Result<(), TestCaseError> {
        let mut seen = BTreeMap::new();
        for (name, service) in self.services.iter().filter(|(_, service)| concerns(service)) {
            for entry in ingress(service) {
                let ip: IpAddr = entry.ip.as_ref().unwrap().parse().unwrap();
                prop_assert_eq!(entry.ip_mode.as_deref(), Some("VIP"));
                prop_assert!(self.pool.contains(ip), "{name} has {ip}");
                let other = seen.insert(ip, name.clone());
                prop_assert!(other.is_none(), "{ip} is {name}'s and {other:?}'s");
            }
        }
        Ok(())
    }
}

#[test]
fn services_get_the_lowest_free_addresses_in_the_order_of_their_age_and_keep_them() {
    let mut c = Cluster::new("192.0.2.10-192.0.2.11");
    for name in ["z-first", "second", "third"] {
        c.add(name);
    }
    c.settle();
    assert_eq!((c.of("z-first"), c.of("second"), c.of("third")), ("192.0.2.10".into(), "192.0.2.11".into(), "".into()));
    assert_eq!(c.why("z-first"), "True Allocated: ");
    let all = "all 2 IPv4 addresses of the pool 192.0.2.10-192.0.2.11 are taken";
    assert_eq!(c.why("third"), format!("False PoolExhausted: {all}"));
    // What becomes free goes to who waits; the others keep theirs, also when the pool has more.
    c.services.remove("z-first");
    c.settle();
    assert_eq!((c.of("second"), c.of("third")), ("192.0.2.11".into(), "192.0.2.10".into()));
    c.pool = "192.0.2.2-192.0.2.11".parse().unwrap();
    c.settle();
    assert_eq!((c.of("second"), c.of("third")), ("192.0.2.11".into(), "192.0.2.10".into()));
    // A pool that an address is not of any more takes it.
    c.pool = "192.0.2.2-192.0.2.10".parse().unwrap();
    c.settle();
    assert_eq!((c.of("second"), c.of("third")), ("192.0.2.2".into(), "192.0.2.10".into()));
}

#[test]
fn an_address_that_is_asked_for_is_given_or_it_is_said_why_not() {
    let mut c = Cluster::new("192.0.2.10-192.0.2.20");
    c.nodes.insert("192.0.2.12".parse().unwrap(), "node1".into());
    c.add("auto");
    c.add("field").spec.as_mut().unwrap().load_balancer_ip = Some("192.0.2.15".into());
    c.add("note");
    c.want("note", "192.0.2.16, 192.0.2.17");
    for (name, wanted) in
        [("late", "192.0.2.15"), ("far", "198.51.100.1"), ("odd", "web"), ("node", "192.0.2.12"), ("six", "fd00::1")]
    {
        c.add(name);
        c.want(name, wanted);
    }
    c.settle();
    assert_eq!(c.of("auto"), "192.0.2.10");
    assert_eq!((c.of("field"), c.of("note")), ("192.0.2.15".into(), "192.0.2.16,192.0.2.17".into()));
    for (name, why) in [
        ("late", "AddressTaken: 192.0.2.15 is taken by Service default/field"),
        ("far", "AddressOutsidePool: 198.51.100.1 is not of the pool 192.0.2.10-192.0.2.20"),
        ("odd", "AddressInvalid: \"web\" is no address"),
        ("node", "AddressTaken: 192.0.2.12 is taken by node node1"),
        ("six", "AddressInvalid: fd00::1 is IPv6, which is not among spec.ipFamilies"),
    ] {
        assert_eq!((c.why(name), c.of(name)), (format!("False {why}"), String::new()), "{name}");
    }
    // It is given once its owner goes, and an owner who asks for another gives up what it has.
    c.services.remove("field");
    c.want("auto", "192.0.2.20");
    c.settle();
    assert_eq!((c.of("late"), c.of("auto")), ("192.0.2.15".into(), "192.0.2.20".into()));
    assert_eq!(c.why("late"), "True Allocated: ");
}

#[test]
fn each_family_of_a_service_gets_an_address_in_the_services_order() {
    let mut c = Cluster::new("192.0.2.10-192.0.2.20,fd00:10::/124");
    let families = |service: &mut Service, policy: &str| {
        let spec = service.spec.as_mut().unwrap();
        spec.ip_families = Some(vec!["IPv6".into(), "IPv4".into()]);
        spec.ip_family_policy = Some(policy.into());
    };
    families(c.add("both"), "RequireDualStack");
    c.settle();
    assert_eq!(c.of("both"), "fd00:10::,192.0.2.10");
    c.pool = "192.0.2.10-192.0.2.20".parse().unwrap();
    families(c.add("modest"), "PreferDualStack");
    c.settle();
    assert_eq!((c.of("both"), c.of("modest")), ("192.0.2.10".into(), "192.0.2.11".into()));
    let why = "False PoolExhausted: the pool 192.0.2.10-192.0.2.20 has no IPv6 address";
    assert_eq!((c.why("both"), c.why("modest")), (why.into(), "True Allocated: ".into()));
}

#[test]
fn the_older_of_two_claimants_keeps_an_address_and_strangers_are_left_alone() {
    let mut c = Cluster::new("192.0.2.10-192.0.2.20");
    c.add("older");
    c.settle();
    let given = c.services["older"].status.clone();
    c.add("a-younger").status = given.clone();
    let foreign = c.add("foreign");
    foreign.spec.as_mut().unwrap().load_balancer_class = Some("example.com/lb".into());
    foreign.status = given.clone();
    foreign.status.as_mut().unwrap().conditions = None;
    c.settle();
    assert_eq!(
        (c.of("older"), c.of("a-younger"), c.of("foreign")),
        ("192.0.2.10".into(), "192.0.2.11".into(), "192.0.2.10".into())
    );
    // Its type changes: what we wrote is taken back, condition and all.
    c.service("older").spec.as_mut().unwrap().type_ = Some("ClusterIP".into());
    c.settle();
    let left = c.services["older"].status.clone().unwrap();
    assert!(c.of("older").is_empty() && left.conditions.unwrap().is_empty());
    c.service("a-younger").spec.as_mut().unwrap().load_balancer_class = Some(super::CLASS.into());
    assert!(!c.pass(&BTreeSet::new()), "nothing is left to write");
}

/// What happens to a cluster.
#[derive(Clone, Debug)]
enum Step {
    Add(u8),
    Delete(u8),
    Want(u8, u8),
    WantNothing(u8),
    NotLoadBalancer(u8),
    Shrink(u8),
    /// A pass in which these writes fail.
    Pass(BTreeSet<u8>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = || 0u8..8;
    let step = prop_oneof![
        3 => name().prop_map(Step::Add),
        1 => name().prop_map(Step::Delete),
        2 => (name(), 0u8..8).prop_map(|(name, ip)| Step::Want(name, ip)),
        1 => name().prop_map(Step::WantNothing),
        1 => name().prop_map(Step::NotLoadBalancer),
        1 => (3u8..8).prop_map(Step::Shrink),
        4 => proptest::collection::btree_set(name(), 0..4).prop_map(Step::Pass),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #[test]
    fn no_address_is_given_twice_or_lost(steps in steps()) {
        let mut c = Cluster::new("192.0.2.0/29");
        for step in steps {
            let name = |n: u8| format!("s{n}");
            match step {
                Step::Add(n) if !c.services.contains_key(&name(n)) => { c.add(&name(n)); }
                Step::Delete(n) => { c.services.remove(&name(n)); }
                Step::Want(n, ip) if c.services.contains_key(&name(n)) => c.want(&name(n), &format!("192.0.2.{ip}")),
                Step::WantNothing(n) => if let Some(s) = c.services.get_mut(&name(n)) {
                    s.metadata.annotations = None;
                },
                Step::NotLoadBalancer(n) => if let Some(s) = c.services.get_mut(&name(n)) {
                    s.spec.as_mut().unwrap().type_ = Some("NodePort".into());
                },
                // What was given outside is not ours to check before it is taken back.
                Step::Shrink(last) => {
                    c.pool = format!("192.0.2.0-192.0.2.{last}").parse().unwrap();
                    c.settle();
                }
                Step::Pass(failing) => { c.pass(&failing.into_iter().map(name).collect()); }
                Step::Add(_) | Step::Want(..) => {}
            }
            c.check()?;
        }
        c.settle();
        c.check()?;
        // Nobody waits for an address that is free, and nobody who is not a load balancer has one.
        let held: BTreeSet<IpAddr> = c.services.values().flat_map(ingress).map(|e| e.ip.as_ref().unwrap().parse().unwrap()).collect();
        let free = c.pool.free(Family::V4, None, &held).is_some();
        for (name, service) in &c.services {
            let wants = service.metadata.annotations.as_ref().and_then(|all| all.get(WANTED));
            let has = c.of(name);
            match (is_ours(service), wants) {
                (false, _) => prop_assert!(has.is_empty(), "{} has {}", name, has),
                (true, None) => prop_assert!(!has.is_empty() || !free, "{} waits: {}", name, c.why(name)),
                (true, Some(wanted)) => {
                    let there = c.pool.contains(wanted.parse().unwrap()) && !held.contains(&wanted.parse().unwrap());
                    prop_assert!(has == *wanted || (has.is_empty() && !there), "{} has {}, wants {}", name, has, wanted);
                }
            }
        }
        let verdicts = plan(c.services.values().filter(|s| concerns(s)), &c.pool, &c.nodes);
        prop_assert!(verdicts.iter().all(|(_, verdict)| *verdict != Verdict::NotOurs));
    }
}
