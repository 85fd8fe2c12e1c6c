//! Checks of Services.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, duplicate, forbidden, invalid, invalid_each, not_supported, one_of, required};
use crate::format::{self, NameRule};
use crate::ip;
use crate::meta;
use crate::pod::container::port_number;
use crate::pod::probe::port_or_name;
use crate::selector::labels;
use crate::service::{externally_accessible, is_headless, needs_health_port};
use crate::walk::Walk;

const LB_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
const RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// Checks a new Service, after allocation.
pub(crate) fn validate_create(svc: &Value, e: &mut Errs) {
    service(svc, None, e);
}

/// Checks an update of a Service proper.
pub(crate) fn validate_update(new: &Value, old: &Value, e: &mut Errs) {
    meta::validate_update(new, old, e);
    let (n, o, p) = (new.at("spec"), old.at("spec"), Path::new("spec"));
    let named = [n, o].iter().any(|s| s.text("type") == "ExternalName");
    let headless = is_headless(n) && is_headless(o);
    if !named && !headless {
        changed_once_set(n, o, "clusterIPs", "primary clusterIP can not be unset", "clusterIP", &p, e);
        if !is_headless(n) && !is_headless(o) {
            changed_once_set(n, o, "ipFamilies", "primary ipFamily can not be unset", "ipFamily", &p, e);
        }
    }
    if [n, o].iter().all(|s| s.text("type") == "LoadBalancer") && n.at("loadBalancerClass") != o.at("loadBalancerClass")
    {
        e.push(invalid(&p.child("loadBalancerClass"), n.at("loadBalancerClass").clone(), "may not change once set"));
    }
    if needs_health_port(n) && needs_health_port(o) && n.num("healthCheckNodePort") != o.num("healthCheckNodePort") {
        e.push(forbidden(&p.child("healthCheckNodePort"), "field is immutable"));
    }
    service(new, Some(old), e);
}

fn changed_once_set(n: &Value, o: &Value, field: &str, unset: &str, what: &str, p: &Path, e: &mut Errs) {
    let (new, old) = (n.texts(field), o.texts(field));
    let value = || n.at(field).clone();
    if new.len() == old.len() {
        for (i, was) in old.iter().enumerate() {
            if *was != new[i] {
                let at = p.child(field).index(if field == "clusterIPs" { i } else { 0 });
                e.push(invalid(&at, value(), "may not change once set"));
            }
        }
        return;
    }
    if new.is_empty() {
        e.push(invalid(&p.child(field).index(0), value(), unset));
    } else if !old.is_empty() && new[0] != old[0] {
        e.push(invalid(&p.child(field).index(0), value(), "may not change once set"));
    }
    if old.len() > new.len() && new.len() == 1 && n.text("ipFamilyPolicy") != "SingleStack" {
        let why = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        e.push(invalid(&p.child("ipFamilyPolicy"), n.at("ipFamilyPolicy").clone(), why));
    }
}

/// Checks an update of `status`.
pub(crate) fn validate_status(new: &Value, old: &Value, e: &mut Errs) {
    meta::validate_update(new, old, e);
    let p = Path::new("status").child("loadBalancer").child("ingress");
    let list = new.path(&["status", "loadBalancer"]).list("ingress");
    if new.at("spec").text("type") != "LoadBalancer" && !list.is_empty() {
        e.push(forbidden(&p, "may only be used when `spec.type` is 'LoadBalancer'"));
        return;
    }
    for (i, ingress) in list.iter().enumerate() {
        let at = p.index(i);
        let (addr, host) = (ingress.text("ip"), ingress.text("hostname"));
        if !addr.is_empty() {
            ip::address(addr, &at.child("ip"), e);
        }
        match (ingress.has("ipMode"), addr.is_empty()) {
            (false, false) => e.push(required(&at.child("ipMode"), "must be specified when `ip` is set")),
            (true, true) => e.push(forbidden(&at.child("ipMode"), "may not be specified when `ip` is not set")),
            (true, false) if !["Proxy", "VIP"].contains(&ingress.text("ipMode")) => {
                e.push(not_supported(&at.child("ipMode"), ingress.text("ipMode"), &["Proxy", "VIP"]));
            }
            _ => {}
        }
        if !host.is_empty() {
            invalid_each(e, &at.child("hostname"), host, format::dns_subdomain(host));
            if ip::parse(host).is_some() {
                e.push(invalid(&at.child("hostname"), host, "must be a DNS name, not an IP address"));
            }
        }
    }
}

fn service(svc: &Value, old: Option<&Value>, e: &mut Errs) {
    // A name from before today's rule stays; it cannot change anyway.
    let rule = if old.is_some() { NameRule::Any } else { NameRule::Label };
    meta::validate(svc, true, rule, e);
    topology_annotations(svc, e);
    let (s, p) = (svc.at("spec"), Path::new("spec"));
    let (ports, kind) = (s.list("ports"), s.text("type"));
    if ports.is_empty() && !is_headless(s) && kind != "ExternalName" {
        e.push(required(&p.child("ports"), ""));
    }
    match kind {
        "LoadBalancer" | "NodePort" if is_headless(s) => {
            let why = format!("may not be set to 'None' for {kind} services");
            e.push(invalid(&p.child("clusterIPs").index(0), "None", why));
        }
        "ExternalName" => external_name(s, &p, e),
        _ => {}
    }
    let mut names = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        service_port(port, ports.len() > 1, &mut names, &p.child("ports").index(i), e);
    }
    labels(s.at("selector"), &p.child("selector"), e);
    affinity(s, &p, e);
    cluster_ips(s, e);
    for (i, addr) in s.texts("externalIPs").into_iter().enumerate() {
        let (at, before) = (p.child("externalIPs").index(i), e.len());
        ip::address(addr, &at, e);
        if e.len() == before {
            ip::non_special(addr, &at, e);
        }
    }
    one_of(e, &p.child("type"), kind, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    duplicate_ports(ports, kind, &p.child("ports"), e);
    source_ranges(svc, &p, e);
    if s.has("allocateLoadBalancerNodePorts") && kind != "LoadBalancer" {
        e.push(forbidden(&p.child("allocateLoadBalancerNodePorts"), LB_ONLY));
    }
    if kind == "LoadBalancer" && !s.has("allocateLoadBalancerNodePorts") {
        e.push(required(&Path::new("allocateLoadBalancerNodePorts"), ""));
    }
    if s.has("loadBalancerClass") {
        let at = p.child("loadBalancerClass");
        if kind == "LoadBalancer" {
            let class = s.text("loadBalancerClass");
            invalid_each(e, &at, class, format::qualified_name(class));
        } else {
            e.push(forbidden(&at, LB_ONLY));
        }
    }
    traffic(s, kind, &p, e);
}

fn topology_annotations(svc: &Value, e: &mut Errs) {
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    const MODE: &str = "service.kubernetes.io/topology-mode";
    let all = svc.at("metadata").at("annotations");
    if all.has(HINTS) && all.has(MODE) && all.text(HINTS) != all.text(MODE) {
        let at = Path::new("metadata").child("annotations").key(MODE);
        e.push(invalid(&at, all.text(MODE), format!("must match annotations[{HINTS}] when both are specified")));
    }
}

fn external_name(s: &Value, p: &Path, e: &mut Errs) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !crate::walk::is_empty(s.at(field)) {
            e.push(forbidden(&p.child(field), "may not be set for ExternalName services"));
        }
    }
    let name = s.text("externalName").strip_suffix('.').unwrap_or(s.text("externalName"));
    if name.is_empty() {
        e.push(required(&p.child("externalName"), ""));
    } else {
        invalid_each(e, &p.child("externalName"), name, format::dns_subdomain(name));
    }
}

fn service_port<'v>(port: &'v Value, need_name: bool, names: &mut BTreeSet<&'v str>, p: &Path, e: &mut Errs) {
    let name = port.text("name");
    if name.is_empty() {
        if need_name {
            e.push(required(&p.child("name"), ""));
        }
    } else {
        invalid_each(e, &p.child("name"), name, format::dns_label(name));
        if !names.insert(name) {
            e.push(duplicate(&p.child("name"), name));
        }
    }
    port_number(port.num("port"), &p.child("port"), e);
    one_of(e, &p.child("protocol"), port.text("protocol"), &["SCTP", "TCP", "UDP"]);
    port_or_name(port.at("targetPort"), &p.child("targetPort"), e);
    if port.has("appProtocol") {
        let app = port.text("appProtocol");
        invalid_each(e, &p.child("appProtocol"), app, format::qualified_name(app));
    }
}

fn affinity(s: &Value, p: &Path, e: &mut Errs) {
    const DAY: i64 = 86400;
    one_of(e, &p.child("sessionAffinity"), s.text("sessionAffinity"), &["ClientIP", "None"]);
    let at = p.child("sessionAffinityConfig");
    let config = s.at("sessionAffinityConfig");
    match s.text("sessionAffinity") {
        "ClientIP" => {
            let why = "when session affinity type is ClientIP";
            if config.is_null() {
                e.push(required(&at, why));
            } else if !config.has("clientIP") {
                e.push(required(&at.child("clientIP"), why));
            } else {
                let tp = at.child("clientIP").child("timeoutSeconds");
                match config.at("clientIP").int("timeoutSeconds") {
                    None => e.push(required(&tp, why)),
                    Some(t) if t <= 0 || t > DAY => {
                        e.push(invalid(&tp, t, format!("must be greater than 0 and less than {DAY}")));
                    }
                    Some(_) => {}
                }
            }
        }
        "None" if !config.is_null() => {
            e.push(forbidden(&at, "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

/// Checks `clusterIP`, `clusterIPs`, `ipFamilies` and `ipFamilyPolicy` together.
pub(crate) fn cluster_ips(s: &Value, e: &mut Errs) {
    if s.text("type") == "ExternalName" {
        return;
    }
    let p = Path::new("spec");
    let (ips, families) = (p.child("clusterIPs"), p.child("ipFamilies"));
    let (one, many) = (s.text("clusterIP"), s.texts("clusterIPs"));
    let all = || s.at("clusterIPs").clone();
    match (one.is_empty(), many.first()) {
        (false, None) => e.push(required(&ips, "")),
        (false, Some(first)) if *first != one => e.push(invalid(&ips, all(), "first value must match `clusterIP`")),
        (true, Some(_)) => e.push(invalid(&ips, all(), "must be empty when `clusterIP` is not specified")),
        _ => {}
    }
    let list = s.texts("ipFamilies");
    for (i, f) in list.iter().enumerate() {
        if !["IPv4", "IPv6"].contains(f) {
            e.push(not_supported(&families.index(i), *f, &["IPv4", "IPv6"]));
        }
        if list[..i].contains(f) {
            e.push(duplicate(&families.index(i), *f));
        }
    }
    const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    if s.has("ipFamilyPolicy") && !POLICIES.contains(&s.text("ipFamilyPolicy")) {
        e.push(not_supported(&p.child("ipFamilyPolicy"), s.text("ipFamilyPolicy"), POLICIES));
    }
    let before = e.len();
    for (i, addr) in many.iter().enumerate() {
        if i == 0 && *addr == "None" {
            if many.len() > 1 {
                e.push(invalid(&ips, all(), "'None' must be the first and only value"));
            }
            continue;
        }
        ip::address(addr, &ips.index(i), e);
    }
    let bad = e.len() > before;
    if many.len() > 2 {
        e.push(invalid(&ips, all(), "may only hold up to 2 values"));
    }
    if bad {
        return;
    }
    if many.len() > 1 && ip::is_dual_stack(&many) != Some(true) {
        e.push(invalid(&ips, all(), "may specify no more than one IP for each IP family"));
    }
    if is_headless(s) {
        return;
    }
    for (i, (addr, family)) in many.iter().zip(&list).enumerate() {
        if (*family == "IPv4" && ip::is_v6(addr)) || (*family == "IPv6" && !ip::is_v6(addr)) {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            e.push(invalid(&ips.index(i), *addr, why));
        }
    }
}

fn duplicate_ports(ports: &[Value], kind: &str, p: &Path, e: &mut Errs) {
    if kind == "ClusterIP" {
        for (i, port) in ports.iter().enumerate() {
            if port.num("nodePort") != 0 {
                let why = "may not be used when `type` is 'ClusterIP'";
                e.push(forbidden(&p.index(i).child("nodePort"), why));
            }
        }
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let n = port.num("nodePort");
        if n != 0 && !seen.insert((port.text("protocol"), n)) {
            e.push(duplicate(&p.index(i).child("nodePort"), n));
        }
    }
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let key = (port.text("protocol"), port.num("port"));
        if !seen.insert(key) {
            let told = json!({ "Name": "", "Protocol": key.0, "AppProtocol": null, "Port": key.1, "TargetPort": 0, "NodePort": 0 });
            e.push(duplicate(&p.index(i), told));
        }
    }
}

fn source_ranges(svc: &Value, p: &Path, e: &mut Errs) {
    let s = svc.at("spec");
    let balanced = s.text("type") == "LoadBalancer";
    let ranges = s.texts("loadBalancerSourceRanges");
    let annotation = svc.at("metadata").at("annotations");
    if !ranges.is_empty() {
        let at = p.child("LoadBalancerSourceRanges");
        if !balanced {
            e.push(forbidden(&at, LB_ONLY));
        }
        for (i, r) in ranges.into_iter().enumerate() {
            ip::cidr(r.trim(), &at.index(i), e);
        }
    } else if annotation.has(RANGES_ANNOTATION) {
        let at = Path::new("metadata").child("annotations").key(RANGES_ANNOTATION);
        if !balanced {
            e.push(forbidden(&at, LB_ONLY));
        }
        let value = annotation.text(RANGES_ANNOTATION).trim();
        if !value.is_empty() {
            for r in value.split(',') {
                ip::cidr(r.trim(), &at, e);
            }
        }
    }
}

fn traffic(s: &Value, kind: &str, p: &Path, e: &mut Errs) {
    let external = s.text("externalTrafficPolicy");
    let at = p.child("externalTrafficPolicy");
    if externally_accessible(s) {
        one_of(e, &at, external, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        e.push(invalid(&at, external, "may only be set for externally-accessible services"));
    }
    let (health, at) = (s.num("healthCheckNodePort"), p.child("healthCheckNodePort"));
    if !needs_health_port(s) {
        if health != 0 {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            e.push(invalid(&at, health, why));
        }
    } else if health != 0 {
        // None is not an error: it is allocated, and whether before or after these checks is the caller's choice.
        port_number(health, &at, e);
    }
    let internal = p.child("internalTrafficPolicy");
    if !s.has("internalTrafficPolicy") {
        if ["NodePort", "LoadBalancer", "ClusterIP"].contains(&kind) {
            e.push(required(&internal, ""));
        }
    } else if !["Cluster", "Local"].contains(&s.text("internalTrafficPolicy")) {
        e.push(not_supported(&internal, s.text("internalTrafficPolicy"), &["Cluster", "Local"]));
    }
    const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
    if s.has("trafficDistribution") && !DISTRIBUTIONS.contains(&s.text("trafficDistribution")) {
        let at = p.child("trafficDistribution");
        e.push(not_supported(&at, s.text("trafficDistribution"), DISTRIBUTIONS));
    }
}
