//! What a Service needs from the cluster's pools of addresses and ports, told without knowing what is free.
//!
//! The API server calls, within one transaction: [`init_families`], then [`wanted`]; it allocates what is wanted and
//! writes it with [`set_cluster_ips`], [`set_node_port`] and [`set_health_port`]; then validation runs. When a Service
//! changes or goes, [`released`] says what returns to the pools.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use strake_machinery::field::{FieldError, Path};

use crate::errs::{Errs, invalid};
use crate::ip;
use crate::service::{is_headless, needs_cluster_ip, needs_health_port, needs_node_ports};
use crate::walk::{Walk, each, put, same, with};

/// An IP family of the API: `IPv4` or `IPv6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The name in `spec.ipFamilies`.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
    fn of(ip: &str) -> Family {
        if ip::is_v6(ip) { Family::V6 } else { Family::V4 }
    }
}

/// What a Service lacks and what it asks for by value. Empty for ExternalName.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Per entry of `spec.clusterIPs`: its family and the address asked for, if one is. Empty if headless.
    pub cluster_ips: Vec<(Family, Option<String>)>,
    /// Per port that needs one: index in `spec.ports`, protocol and the node port asked for, if one is.
    pub node_ports: Vec<NodePort>,
    /// Whether `healthCheckNodePort` is needed, and the one asked for.
    pub health_port: Option<Option<u16>>,
}

/// A node port to be had.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodePort {
    /// Index in `spec.ports`.
    pub index: usize,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The port asked for; 0 or negative numbers never get here, larger than 65535 are kept for the range check.
    pub port: Option<i64>,
}

/// Fills `ipFamilyPolicy` and `ipFamilies` for a cluster with these families, the first being its default; `old` is
/// the stored Service on update.
pub fn init_families(svc: &mut Value, old: Option<&Value>, cluster: &[Family]) -> Result<(), Vec<FieldError>> {
    let Some(default) = cluster.first().copied() else { return Ok(()) };
    if !svc.at("spec").is_object() || !needs_cluster_ip(svc.at("spec")) {
        return Ok(());
    }
    if old.is_some_and(|old| prefers_what_it_has(svc.at("spec"), old.at("spec"))) {
        return Ok(());
    }
    let mut errors = Errs::new();
    let headless_without_selector =
        svc.at("spec").text("clusterIP") == "None" && crate::walk::is_empty(svc.at("spec").at("selector"));
    with(svc, "spec", |s| {
        if !s.has("ipFamilyPolicy") {
            let inherited = old.map(|o| o.at("spec").text("ipFamilyPolicy")).filter(|p| !p.is_empty());
            let policy = inherited.unwrap_or(match headless_without_selector {
                true => "RequireDualStack",
                false => "SingleStack",
            });
            put(s, "ipFamilyPolicy", policy.into());
        }
    });
    crate::service_validate::cluster_ips(svc.at("spec"), &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let p = Path::new("spec");
    let single = svc.at("spec").text("ipFamilyPolicy") == "SingleStack";
    with(svc, "spec", |s| {
        if let (Some(o), true) = (old, single) {
            for field in ["clusterIPs", "ipFamilies"] {
                if same(s.at(field), o.at("spec").at(field)) && s.list(field).len() > 1 {
                    put(s, field, json!([s.list(field)[0]]));
                }
            }
        }
        let policy = s.at("ipFamilyPolicy").clone();
        if let (Some(o), false) = (old, single) {
            for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
                if reduced(s.list(field), o.at("spec").list(field)) {
                    let why = format!("must be 'SingleStack' to release the secondary {what}");
                    errors.push(invalid(&p.child("ipFamilyPolicy"), policy.clone(), why));
                }
            }
        }
        if single {
            for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
                if s.list(field).len() == 2 {
                    let why =
                        format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
                    errors.push(invalid(&p.child("ipFamilyPolicy"), policy.clone(), why));
                }
            }
        }
        let mut families: Vec<String> = s.texts("ipFamilies").into_iter().map(str::to_owned).collect();
        for (i, addr) in s.texts("clusterIPs").into_iter().enumerate() {
            if addr == "None" {
                break;
            }
            if i >= families.len() {
                let family = Family::of(addr);
                if cluster.contains(&family) {
                    families.push(family.as_str().to_owned());
                } else {
                    let why = format!("{} is not configured on this cluster", family.as_str());
                    errors.push(invalid(&p.child("clusterIPs").index(i), s.at("clusterIPs").clone(), why));
                }
            }
        }
        if !errors.is_empty() {
            return;
        }
        if headless_without_selector {
            // Its endpoints are given by hand and may be of any family, whatever the cluster's.
            if families.is_empty() {
                families.push(default.as_str().to_owned());
            }
        } else {
            if policy == "RequireDualStack" && cluster.len() < 2 {
                let why = "this cluster is not configured for dual-stack services";
                errors.push(invalid(&p.child("ipFamilyPolicy"), policy.clone(), why));
            }
            for (i, f) in families.iter().enumerate() {
                if !cluster.iter().any(|c| c.as_str() == f) {
                    let at = p.child("ipFamilies").index(i);
                    errors.push(invalid(&at, f.as_str(), "not configured on this cluster"));
                }
            }
            if families.is_empty() {
                families.push(default.as_str().to_owned());
            }
        }
        if !single && families.len() == 1 && (headless_without_selector || cluster.len() == 2) {
            families.push(if families[0] == "IPv4" { "IPv6".into() } else { "IPv4".into() });
        }
        put(s, "ipFamilies", json!(families));
    });
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// An update that leaves a PreferDualStack Service's families as they are. It neither gains nor loses an address then,
/// though the cluster may have gained or lost a family since.
fn prefers_what_it_has(new: &Value, old: &Value) -> bool {
    new.text("ipFamilyPolicy") == "PreferDualStack"
        && ["ipFamilyPolicy", "ipFamilies", "clusterIP", "clusterIPs"]
            .iter()
            .all(|field| same(new.at(field), old.at(field)))
}

/// True if the first of two is left.
fn reduced(new: &[Value], old: &[Value]) -> bool {
    old.len() == 2 && new.len() == 1 && new[0] == old[0]
}

/// What a Service needs. Call after [`init_families`].
pub fn wanted(svc: &Value) -> Wanted {
    let s = svc.at("spec");
    let mut w = Wanted::default();
    if !needs_cluster_ip(s) {
        return w;
    }
    if !is_headless(s) {
        let given = s.texts("clusterIPs");
        w.cluster_ips = s
            .texts("ipFamilies")
            .into_iter()
            .enumerate()
            .map(|(i, f)| {
                let family = if f == "IPv6" { Family::V6 } else { Family::V4 };
                (family, given.get(i).filter(|g| !g.is_empty()).map(|g| (*g).to_owned()))
            })
            .collect();
    }
    let by_choice = s.text("type") == "LoadBalancer" && s.flag("allocateLoadBalancerNodePorts") == Some(false);
    if needs_node_ports(s) {
        for (index, p) in s.list("ports").iter().enumerate() {
            let port = Some(p.num("nodePort")).filter(|n| *n != 0);
            if port.is_some() || !by_choice {
                w.node_ports.push(NodePort { index, protocol: p.text("protocol").to_owned(), port });
            }
        }
    }
    if needs_health_port(s) {
        w.health_port = Some(u16::try_from(s.num("healthCheckNodePort")).ok().filter(|n| *n != 0));
    }
    w
}

/// Writes the allocated addresses, one a family in the order of `spec.ipFamilies`.
pub fn set_cluster_ips(svc: &mut Value, ips: &[String]) {
    with(svc, "spec", |s| {
        if let Some(first) = ips.first() {
            put(s, "clusterIP", first.as_str().into());
            put(s, "clusterIPs", json!(ips));
        }
    });
}

/// Writes the node port of the port at `index`.
pub fn set_node_port(svc: &mut Value, index: usize, port: u16) {
    with(svc, "spec", |s| {
        let mut at = 0;
        each(s, "ports", |p| {
            if at == index {
                put(p, "nodePort", port.into());
            }
            at += 1;
        });
    });
}

/// Writes `healthCheckNodePort`.
pub fn set_health_port(svc: &mut Value, port: u16) {
    with(svc, "spec", |s| put(s, "healthCheckNodePort", port.into()));
}

/// What a Service holds: its addresses, its (protocol, node port) pairs, its health-check port (as `TCP`).
pub fn held(svc: &Value) -> (BTreeSet<String>, BTreeSet<(String, i64)>) {
    let s = svc.at("spec");
    let mut ips = BTreeSet::new();
    if needs_cluster_ip(s) && !is_headless(s) {
        ips.extend(s.texts("clusterIPs").into_iter().filter(|i| !i.is_empty()).map(str::to_owned));
    }
    let mut ports: BTreeSet<(String, i64)> = s
        .list("ports")
        .iter()
        .filter(|p| p.num("nodePort") != 0)
        .map(|p| (p.text("protocol").to_owned(), p.num("nodePort")))
        .collect();
    if s.num("healthCheckNodePort") != 0 {
        ports.insert(("TCP".into(), s.num("healthCheckNodePort")));
    }
    (ips, ports)
}

/// What `old` held that `new` (absent: deleted) does not.
pub fn released(old: &Value, new: Option<&Value>) -> (BTreeSet<String>, BTreeSet<(String, i64)>) {
    let (mut ips, mut ports) = held(old);
    if let Some(new) = new {
        let (i, p) = held(new);
        ips.retain(|x| !i.contains(x));
        ports.retain(|x| !p.contains(x));
    }
    (ips, ports)
}

/// The error for an address that cannot be had; `why` completes `failed to allocate IP ADDR: `.
pub fn ip_refused(svc: &Value, ip: &str, why: &str) -> FieldError {
    let all = svc.at("spec").at("clusterIPs").clone();
    invalid(&Path::new("spec").child("clusterIPs"), all, format!("failed to allocate IP {ip}: {why}"))
}

/// The error for a node port that cannot be had: outside `range` or taken.
pub fn node_port_refused(index: usize, port: i64, range: (u16, u16)) -> FieldError {
    let at = Path::new("spec").child("ports").index(index).child("nodePort");
    let why = if (i64::from(range.0)..=i64::from(range.1)).contains(&port) {
        "provided port is already allocated".to_owned()
    } else {
        format!("provided port is not in the valid range. The range of valid ports is {}-{}", range.0, range.1)
    };
    invalid(&at, port, why)
}
