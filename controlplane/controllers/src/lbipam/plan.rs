//! Who gets which address: a pure function of all LoadBalancer Services, the pool and the nodes' own addresses.
//!
//! ```text
//!   1  what stands in a status stays, the older Service's first
//!   2  what a Service asks for by name, if nobody has it
//!   3  for every family that is still without: the lowest free address
//! ```
//!
//! An address that stands in a Service's status and is to leave it is nobody's until that is written: two statuses never
//! name one address because a write failed in between.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service};
use k8s_openapi::jiff::Timestamp;

use super::pool::{AddressPool, Family};
use crate::runtime::Key;

/// The class of Services that are ours by name; those without a class are ours too.
pub const CLASS: &str = "strake.io/lb";
/// On a Service: the addresses it wants, separated by commas.
pub const WANTED: &str = "strake.io/load-balancer-ips";
/// The condition that says what became of a Service's addresses; who announces them looks for it.
pub const CONDITION: &str = "strake.io/LoadBalancerAddresses";

/// Why a Service has not what it should have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// In one word, for Events and the condition.
    pub reason: &'static str,
    /// In full.
    pub message: String,
}

/// What a Service's status should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// These addresses, in the order of its families, and what is missing.
    Has { addresses: Vec<IpAddr>, problem: Option<Problem> },
    /// It is not ours, or not any more: what we gave is taken back.
    NotOurs,
}

/// Whether we give this Service its addresses.
pub fn is_ours(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let class = spec.and_then(|spec| spec.load_balancer_class.as_deref());
    is_load_balancer(service) && class.is_none_or(|class| class == CLASS)
}

/// Whether it is of type LoadBalancer.
pub fn is_load_balancer(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"))
}

/// Whether we gave, or refused, this Service its addresses.
pub fn is_marked(service: &Service) -> bool {
    let conditions = service.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == CONDITION)
}

/// `status.loadBalancer.ingress`.
pub fn ingress(service: &Service) -> &[LoadBalancerIngress] {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default()
}

fn standing(service: &Service) -> impl Iterator<Item = IpAddr> {
    ingress(service).iter().filter_map(|entry| entry.ip.as_deref()?.parse().ok())
}

fn families(service: &Service) -> Vec<Family> {
    let named = service.spec.as_ref().and_then(|spec| spec.ip_families.as_deref()).unwrap_or_default();
    let families: Vec<Family> =
        [Family::V4, Family::V6].into_iter().filter(|f| named.iter().any(|n| n == f.as_str())).collect();
    match families[..] {
        // A server without families has IPv4 alone.
        [] => vec![Family::V4],
        [_, _] if named.first().is_some_and(|n| n == Family::V6.as_str()) => vec![Family::V6, Family::V4],
        _ => families,
    }
}

/// What the Service asks for, and what of it is no address.
fn wanted(service: &Service) -> (Vec<IpAddr>, Option<String>) {
    let annotation = service.metadata.annotations.as_ref().and_then(|all| all.get(WANTED)).map(String::as_str);
    let spec = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_deref());
    // The annotation is the newer way of saying it.
    let text = annotation.or(spec).unwrap_or_default();
    let (mut addresses, mut wrong) = (Vec::new(), None);
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part.parse::<IpAddr>() {
            Ok(ip) if !addresses.contains(&ip) => addresses.push(ip),
            Ok(_) => {}
            Err(_) => wrong = Some(part.to_owned()),
        }
    }
    (addresses, wrong)
}

struct Candidate<'a> {
    key: Key,
    families: Vec<Family>,
    wanted: Vec<IpAddr>,
    service: &'a Service,
    given: Vec<IpAddr>,
    problem: Option<Problem>,
}

impl Candidate<'_> {
    /// The first problem is the one to be told.
    fn fail(&mut self, reason: &'static str, message: String) {
        self.problem.get_or_insert(Problem { reason, message });
    }

    fn has(&self, family: Family) -> bool {
        self.given.iter().any(|ip| Family::of(*ip) == family)
    }

    /// Whether it may do without one of its families.
    fn is_modest(&self) -> bool {
        let policy = self.service.spec.as_ref().and_then(|spec| spec.ip_family_policy.as_deref());
        policy == Some("PreferDualStack")
    }
}

/// What every Service's status should say. `services`: all that are ours, or marked as if they were.
pub fn plan<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    pool: &AddressPool,
    nodes: &BTreeMap<IpAddr, String>,
) -> Vec<(Key, Verdict)> {
    let mut verdicts = Vec::new();
    let mut candidates = Vec::new();
    // In a status now, whoever's it is to be: not free before that is written otherwise.
    let mut standing_at: BTreeMap<IpAddr, Key> = BTreeMap::new();
    for service in services {
        let key = Key::of(&service.metadata);
        if is_ours(service) || is_marked(service) {
            standing(service).filter(|ip| pool.contains(*ip)).for_each(|ip| {
                standing_at.entry(ip).or_insert_with(|| key.clone());
            });
        }
        if !is_ours(service) {
            if is_marked(service) {
                verdicts.push((key, Verdict::NotOurs));
            }
            continue;
        }
        let (wanted, wrong) = wanted(service);
        let families = families(service);
        let mut candidate = Candidate { key, families, wanted, service, given: Vec::new(), problem: None };
        if let Some(text) = wrong {
            candidate.fail("AddressInvalid", format!("{text:?} is no address"));
        }
        candidates.push(candidate);
    }
    candidates.sort_by_cached_key(|candidate| {
        let meta = &candidate.service.metadata;
        let born = meta.creation_timestamp.as_ref().map_or(Timestamp::MAX, |time| time.0);
        (born, candidate.key.clone())
    });

    let mut taken: BTreeMap<IpAddr, String> = nodes.iter().map(|(ip, node)| (*ip, format!("node {node}"))).collect();
    keep(&mut candidates, pool, &mut taken);
    grant(&mut candidates, pool, &mut taken, &standing_at);
    fill(&mut candidates, pool, &taken, &standing_at);

    verdicts.extend(candidates.into_iter().map(|mut candidate| {
        let order = |ip: &IpAddr| candidate.families.iter().position(|family| *family == Family::of(*ip));
        candidate.given.sort_by_key(order);
        (candidate.key, Verdict::Has { addresses: candidate.given, problem: candidate.problem })
    }));
    verdicts
}

/// 1: what stands in a status.
fn keep(candidates: &mut [Candidate<'_>], pool: &AddressPool, taken: &mut BTreeMap<IpAddr, String>) {
    for candidate in candidates {
        for ip in standing(candidate.service) {
            let family = Family::of(ip);
            let asked = candidate.wanted.iter().any(|wanted| Family::of(*wanted) == family);
            let fits = match asked {
                true => candidate.wanted.contains(&ip),
                false => !candidate.has(family),
            };
            if fits && candidate.families.contains(&family) && pool.contains(ip) && !taken.contains_key(&ip) {
                taken.insert(ip, format!("Service {}", candidate.key));
                candidate.given.push(ip);
            }
        }
    }
}

/// 2: what is asked for by name.
fn grant(
    candidates: &mut [Candidate<'_>],
    pool: &AddressPool,
    taken: &mut BTreeMap<IpAddr, String>,
    standing_at: &BTreeMap<IpAddr, Key>,
) {
    for candidate in candidates {
        for ip in candidate.wanted.clone() {
            if candidate.given.contains(&ip) {
                continue;
            }
            let elsewhere = standing_at.get(&ip).filter(|key| **key != candidate.key);
            if !candidate.families.contains(&Family::of(ip)) {
                let family = Family::of(ip).as_str();
                candidate.fail("AddressInvalid", format!("{ip} is {family}, which is not among spec.ipFamilies"));
            } else if !pool.contains(ip) {
                candidate.fail("AddressOutsidePool", format!("{ip} is not of the pool {pool}"));
            } else if let Some(owner) = taken.get(&ip) {
                candidate.fail("AddressTaken", format!("{ip} is taken by {owner}"));
            } else if let Some(owner) = elsewhere {
                candidate.fail("AddressTaken", format!("{ip} is taken by Service {owner}, which is giving it up"));
            } else {
                taken.insert(ip, format!("Service {}", candidate.key));
                candidate.given.push(ip);
            }
        }
    }
}

/// 3: the lowest free address for every family that is without and was not asked for by name.
fn fill(
    candidates: &mut [Candidate<'_>],
    pool: &AddressPool,
    taken: &BTreeMap<IpAddr, String>,
    standing_at: &BTreeMap<IpAddr, Key>,
) {
    let mut used: BTreeSet<IpAddr> = taken.keys().chain(standing_at.keys()).copied().collect();
    // Addresses are only taken here: the search goes on where it ended.
    let mut from: BTreeMap<Family, Option<IpAddr>> = BTreeMap::new();
    for candidate in candidates {
        for family in candidate.families.clone() {
            let asked = candidate.wanted.iter().any(|wanted| Family::of(*wanted) == family);
            // Who wrote down an address, even a wrong one, does not want just any.
            let wrong = candidate.problem.as_ref().is_some_and(|problem| problem.reason == "AddressInvalid");
            if candidate.has(family) || asked || wrong {
                continue;
            }
            let from = from.entry(family).or_default();
            match pool.free(family, *from, &used) {
                Some(ip) => {
                    used.insert(ip);
                    *from = Some(ip);
                    candidate.given.push(ip);
                }
                None if candidate.is_modest() && candidate.families.len() > 1 && pool.size(family) == 0 => {}
                None => {
                    let (name, size) = (family.as_str(), pool.size(family));
                    let message = match size {
                        0 => format!("the pool {pool} has no {name} address"),
                        1 => format!("the pool's only {name} address is taken"),
                        _ => format!("all {size} {name} addresses of the pool {pool} are taken"),
                    };
                    candidate.fail("PoolExhausted", message);
                }
            }
        }
    }
}
