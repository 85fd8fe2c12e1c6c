//! NetworkPolicies, Ingresses, IngressClasses, ServiceCIDRs and IPAddresses.

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, forbidden, immutable, invalid, invalid_each, need_text, not_supported, required, too_long};
use crate::format;
use crate::ip;
use crate::pod::container::port_number;
use crate::selector::label_selector;
use crate::walk::{Walk, default_text, default_to, each, is_empty, object_mut, put};

/// Fills a NetworkPolicy: it is about ingress, and about egress if it has rules for it.
pub(crate) fn default_policy(obj: &mut Value) {
    let Some(s) = object_mut(obj, "spec") else { return };
    default_to(s, "podSelector", json!({}));
    for rules in ["ingress", "egress"] {
        each(s, rules, |r| each(r, "ports", |p| default_text(p, "protocol", "TCP")));
    }
    if s.list("policyTypes").is_empty() {
        let both = !s.list("egress").is_empty();
        put(s, "policyTypes", if both { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
}

/// Checks a NetworkPolicy.
pub(crate) fn policy(obj: &Value, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    label_selector(s.at("podSelector"), &p.child("podSelector"), e);
    for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in s.list(rules).iter().enumerate() {
            let at = p.child(rules).index(i);
            for (n, port) in rule.list("ports").iter().enumerate() {
                policy_port(port, &at.child("ports").index(n), e);
            }
            for (n, peer) in rule.list(peers).iter().enumerate() {
                policy_peer(peer, &at.child(peers).index(n), e);
            }
        }
    }
    let (types, at) = (s.texts("policyTypes"), p.child("policyTypes"));
    if types.len() > 2 {
        e.push(invalid(&at, s.at("policyTypes").clone(), "may not specify more than two policyTypes"));
        return;
    }
    for (i, t) in types.into_iter().enumerate() {
        if !["Ingress", "Egress"].contains(&t) {
            e.push(not_supported(&at.index(i), t, &["Ingress", "Egress"]));
        }
    }
}

fn policy_port(v: &Value, p: &Path, e: &mut Errs) {
    const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
    if v.has("protocol") && !PROTOCOLS.contains(&v.text("protocol")) {
        e.push(not_supported(&p.child("protocol"), v.text("protocol"), PROTOCOLS));
    }
    let (end, ep) = (v.int("endPort"), p.child("endPort"));
    match v.at("port") {
        Value::Null => {
            if let Some(n) = end {
                e.push(invalid(&ep, n, "may not be specified when `port` is not specified"));
            }
        }
        Value::String(name) => {
            if let Some(n) = end {
                e.push(invalid(&ep, n, "may not be specified when `port` is non-numeric"));
            }
            invalid_each(e, &p.child("port"), name, format::port_name(name));
        }
        number => {
            let first = crate::walk::as_int(number).unwrap_or(0);
            port_number(first, &p.child("port"), e);
            if let Some(n) = end {
                if n < first {
                    e.push(invalid(&ep, n, "must be greater than or equal to `port`"));
                }
                port_number(n, &ep, e);
            }
        }
    }
}

fn policy_peer(v: &Value, p: &Path, e: &mut Errs) {
    let mut peers = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if v.has(field) {
            peers += 1;
            label_selector(v.at(field), &p.child(field), e);
        }
    }
    if v.has("ipBlock") {
        peers += 1;
        ip_block(v.at("ipBlock"), &p.child("ipBlock"), e);
    }
    if peers == 0 {
        e.push(required(p, "must specify a peer"));
    } else if peers > 1 && v.has("ipBlock") {
        e.push(forbidden(p, "may not specify both ipBlock and another peer"));
    }
}

fn ip_block(v: &Value, p: &Path, e: &mut Errs) {
    if v.text("cidr").is_empty() {
        e.push(required(&p.child("cidr"), ""));
        return;
    }
    ip::cidr(v.text("cidr"), &p.child("cidr"), e);
    let Some((block, _)) = ip::parse_cidr(v.text("cidr")) else { return };
    for (i, text) in v.texts("except").into_iter().enumerate() {
        let at = p.child("except").index(i);
        ip::cidr(text, &at, e);
        if let Some((hole, _)) = ip::parse_cidr(text)
            && (!block.contains(hole.base) || block.bits >= hole.bits)
        {
            e.push(invalid(&at, text, "must be a strict subset of `cidr`"));
        }
    }
}

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// Checks an Ingress.
pub(crate) fn ingress(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    let rules = s.list("rules");
    if rules.is_empty() && !s.has("defaultBackend") {
        let why = "either `defaultBackend` or `rules` must be specified";
        e.push(invalid(&p, s.at("rules").clone(), why));
    }
    if s.has("defaultBackend") {
        backend(s.at("defaultBackend"), &p.child("defaultBackend"), e);
    }
    for (i, r) in rules.iter().enumerate() {
        rule(r, &p.child("rules").index(i), e);
    }
    for (i, tls) in s.list("tls").iter().enumerate() {
        let at = p.child("tls").index(i);
        for (n, host) in tls.texts("hosts").into_iter().enumerate() {
            invalid_each(e, &at.child("hosts").index(n), host, host_errors(host));
        }
        let secret = tls.text("secretName");
        if !secret.is_empty() {
            invalid_each(e, &at.child("secretName"), secret, format::dns_subdomain(secret));
        }
    }
    let class = s.text("ingressClassName");
    if s.has("ingressClassName") {
        invalid_each(e, &p.child("ingressClassName"), class, format::dns_subdomain(class));
    }
    let annotations = obj.at("metadata").at("annotations");
    if old.is_none() && annotations.has(CLASS_ANNOTATION) && s.has("ingressClassName") {
        let value = annotations.text(CLASS_ANNOTATION);
        if value != class {
            let at = Path::new("annotations").child(CLASS_ANNOTATION);
            e.push(invalid(&at, value, "must match `ingressClassName` when both are specified"));
        }
    }
}

fn host_errors(host: &str) -> Vec<String> {
    if host.contains('*') { format::wildcard_subdomain(host) } else { format::dns_subdomain(host) }
}

fn rule(r: &Value, p: &Path, e: &mut Errs) {
    let host = r.text("host");
    if !host.is_empty() {
        if ip::parse(host).is_some() {
            e.push(invalid(&p.child("host"), host, "must be a DNS name, not an IP address"));
        }
        invalid_each(e, &p.child("host"), host, host_errors(host));
    }
    if !r.has("http") {
        return;
    }
    let (paths, at) = (r.at("http").list("paths"), p.child("http").child("paths"));
    if paths.is_empty() {
        e.push(required(&at, ""));
    }
    for (i, x) in paths.iter().enumerate() {
        http_path(x, &at.index(i), e);
    }
}

fn http_path(x: &Value, p: &Path, e: &mut Errs) {
    if !x.has("pathType") {
        e.push(required(&p.child("pathType"), "pathType must be specified"));
        return;
    }
    let (path, at) = (x.text("path"), p.child("path"));
    match x.text("pathType") {
        "Exact" | "Prefix" => {
            if !path.starts_with('/') {
                e.push(invalid(&at, path, "must be an absolute path"));
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.contains(bad) {
                    e.push(invalid(&at, path, format!("must not contain '{bad}'")));
                }
            }
            for bad in ["/..", "/."] {
                if path.ends_with(bad) {
                    e.push(invalid(&at, path, format!("cannot end with '{bad}'")));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.starts_with('/') {
                e.push(invalid(&at, path, "must be an absolute path"));
            }
        }
        other => {
            let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
            e.push(not_supported(&p.child("pathType"), other, &kinds));
        }
    }
    backend(x.at("backend"), &p.child("backend"), e);
}

fn backend(v: &Value, p: &Path, e: &mut Errs) {
    match (v.has("resource"), v.has("service")) {
        (true, true) => e.push(invalid(p, "", "cannot set both resource and service backends")),
        (false, false) => e.push(invalid(p, "", "resource or service backend is required")),
        (true, false) => typed_reference(v.at("resource"), &p.child("resource"), e),
        (false, true) => {
            let (s, at) = (v.at("service"), p.child("service"));
            let name = s.text("name");
            if name.is_empty() {
                e.push(required(&at.child("name"), ""));
            } else {
                invalid_each(e, &at.child("name"), name, format::dns_label(name));
            }
            let (port, pp) = (s.at("port"), at.child("port"));
            let (by_name, number) = (port.text("name"), port.num("number"));
            if !by_name.is_empty() && number != 0 {
                e.push(invalid(p, "", "cannot set both port name & port number"));
            } else if !by_name.is_empty() {
                invalid_each(e, &pp.child("name"), by_name, format::port_name(by_name));
            } else if number != 0 {
                port_number(number, &pp.child("number"), e);
            } else {
                e.push(required(p, "port name or number is required"));
            }
        }
    }
}

fn typed_reference(v: &Value, p: &Path, e: &mut Errs) {
    if v.has("apiGroup") {
        invalid_each(e, &p.child("apiGroup"), v.text("apiGroup"), format::dns_subdomain(v.text("apiGroup")));
    }
    for field in ["kind", "name"] {
        if v.text(field).is_empty() {
            e.push(required(&p.child(field), ""));
        } else {
            invalid_each(e, &p.child(field), v.text(field), format::path_segment(v.text(field)));
        }
    }
}

/// Checks an Ingress's status.
pub(crate) fn ingress_status(obj: &Value, e: &mut Errs) {
    let p = Path::new("status").child("loadBalancer").child("ingress");
    for (i, x) in obj.path(&["status", "loadBalancer"]).list("ingress").iter().enumerate() {
        let (at, addr, host) = (p.index(i), x.text("ip"), x.text("hostname"));
        if !addr.is_empty() {
            ip::address(addr, &at.child("ip"), e);
        }
        if !host.is_empty() {
            invalid_each(e, &at.child("hostname"), host, format::dns_subdomain(host));
            if ip::parse(host).is_some() {
                e.push(invalid(&at.child("hostname"), host, "must be a DNS name, not an IP address"));
            }
        }
    }
}

/// Fills an IngressClass.
pub(crate) fn default_class(obj: &mut Value) {
    crate::walk::with(obj, "spec", |s| {
        crate::walk::with(s, "parameters", |p| default_text(p, "scope", "Cluster"));
    });
}

/// Checks an IngressClass.
pub(crate) fn class(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    if let Some(old) = old {
        immutable(e, &p.child("controller"), s.at("controller"), old.at("spec").at("controller"));
    }
    if s.text("controller").is_empty() {
        e.push(required(&p.child("controller"), ""));
    } else {
        if s.text("controller").len() > 250 {
            e.push(too_long(&p.child("controller"), 250));
        }
        format::domain_prefixed_path(s.text("controller"), &p.child("controller"), e);
    }
    let (x, at) = (s.at("parameters"), p.child("parameters"));
    if x.is_null() {
        return;
    }
    typed_reference(x, &at, e);
    let namespace = at.child("namespace");
    match x.text("scope") {
        "" => e.push(required(&at.child("scope"), "")),
        "Namespace" if !x.has("namespace") => {
            e.push(required(&namespace, "`parameters.scope` is set to 'Namespace'"));
        }
        "Namespace" => invalid_each(e, &namespace, x.text("namespace"), format::dns_label(x.text("namespace"))),
        "Cluster" if x.has("namespace") => {
            e.push(forbidden(&namespace, "`parameters.scope` is set to 'Cluster'"));
        }
        "Cluster" => {}
        other => e.push(not_supported(&at.child("scope"), other, &["Cluster", "Namespace"])),
    }
}

/// Checks a ServiceCIDR: one network a family, never changed but by adding the other family.
pub(crate) fn service_cidr(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let (cidrs, p) = (obj.at("spec").texts("cidrs"), Path::new("spec").child("cidrs"));
    if cidrs.is_empty() {
        e.push(required(&p, "at least one CIDR required"));
        return;
    }
    let value = || obj.at("spec").at("cidrs").clone();
    if cidrs.len() > 2 {
        e.push(invalid(&p, value(), "may only hold up to 2 values"));
    }
    for (i, c) in cidrs.iter().enumerate() {
        ip::canonical_cidr(c, &p.index(i), e);
    }
    if cidrs.len() == 2 && cidrs[0].contains(':') == cidrs[1].contains(':') {
        e.push(invalid(
            &p,
            value(),
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ));
    }
    if let Some(old) = old {
        let was = old.at("spec").texts("cidrs");
        for (i, c) in was.iter().enumerate() {
            if cidrs.get(i) != Some(c) {
                e.push(invalid(&p.index(i), cidrs.get(i).copied().unwrap_or(""), "field is immutable"));
            }
        }
    }
}

/// Checks an IPAddress: it names whose it is, for good.
pub(crate) fn ip_address(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let (r, p) = (obj.at("spec").at("parentRef"), Path::new("spec").child("parentRef"));
    if let Some(old) = old {
        immutable(e, &p, r, old.at("spec").at("parentRef"));
        return;
    }
    if is_empty(r) {
        e.push(required(&p, ""));
        return;
    }
    if !r.text("group").is_empty() {
        invalid_each(e, &p.child("group"), r.text("group"), format::dns_subdomain(r.text("group")));
    }
    for field in ["resource", "name", "namespace"] {
        let value = r.text(field);
        if value.is_empty() {
            if field != "namespace" {
                need_text(e, &p, r, field);
            }
        } else {
            invalid_each(e, &p.child(field), value, format::path_segment(value));
        }
    }
}
