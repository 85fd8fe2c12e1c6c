//! The order in which a Pod spec is checked, and the fields that belong to no other file.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use strake_machinery::field::Path;
use strake_machinery::quantity::Quantity;

use super::{affinity, container, dns, os, placement, security, volume};
use crate::errs::{Errs, between, duplicate, forbidden, invalid, invalid_each, not_supported, one_of, required};
use crate::format;
use crate::quantities;
use crate::resources;
use crate::selector::labels;
use crate::walk::Walk;

/// Whose spec it is: some checks hold for Pods only.
#[derive(Clone, Copy)]
pub(crate) enum Owner<'a> {
    /// A Pod of this name (empty before one is generated).
    Pod(&'a str),
    /// A template.
    Template,
}

/// Checks a Pod spec.
pub(crate) fn spec(v: &Value, owner: Owner<'_>, p: &Path, e: &mut Errs) {
    let (pod_name, is_pod) = match owner {
        Owner::Pod(name) => (Some(name), true),
        Owner::Template => (None, false),
    };
    let grace = v.int("terminationGracePeriodSeconds");
    if grace.is_none() {
        e.push(required(&p.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volume::volumes(v.list("volumes"), pod_name, is_pod, &p.child("volumes"), e);
    let claims: BTreeSet<&str> =
        v.list("resourceClaims").iter().map(|c| c.text("name")).filter(|n| !n.is_empty()).collect();
    resource_claims(v.list("resourceClaims"), &p.child("resourceClaims"), e);
    let around = container::Around {
        volumes: &volumes,
        claims: &claims,
        grace,
        restart_policy: v.text("restartPolicy"),
        host_users: v.flag("hostUsers") != Some(false),
    };
    container::containers(v.list("containers"), &around, &p.child("containers"), e);
    container::init_containers(v.list("initContainers"), v.list("containers"), &around, &p.child("initContainers"), e);
    container::ephemeral_containers(v, &around, &p.child("ephemeralContainers"), e);
    pod_resources(v, &claims, &p.child("resources"), e);
    host_network_ports(v, is_pod, p, e);
    one_of(e, &p.child("restartPolicy"), v.text("restartPolicy"), &["Always", "OnFailure", "Never"]);
    dns::policy(v, p, e);
    labels(v.at("nodeSelector"), &p.child("nodeSelector"), e);
    security::pod(v.at("securityContext"), v, &p.child("securityContext"), e);
    affinity::affinity(v.at("affinity"), &p.child("affinity"), e);
    dns::config(v, p, e);
    placement::readiness_gates(v.list("readinessGates"), &p.child("readinessGates"), e);
    placement::scheduling_gates(v.list("schedulingGates"), &p.child("schedulingGates"), e);
    placement::topology_spread(v.list("topologySpreadConstraints"), &p.child("topologySpreadConstraints"), e);
    os::host_process(v, p, e);
    host_users(v, p, e);
    names(v, p, e);
    placement::tolerations(v.list("tolerations"), &p.child("tolerations"), e);
    dns::host_aliases(v.list("hostAliases"), &p.child("hostAliases"), e);
    for field in ["priorityClassName", "runtimeClassName"] {
        if !v.text(field).is_empty() || (field == "runtimeClassName" && v.has(field)) {
            security::subdomain(v.text(field), &p.child(field), e);
        }
    }
    if v.has("preemptionPolicy") {
        let policies = ["PreemptLowerPriority", "Never"];
        one_of(e, &p.child("preemptionPolicy"), v.text("preemptionPolicy"), &policies);
    }
    if v.has("overhead") {
        let overhead = serde_json::json!({ "limits": v.at("overhead") });
        resources::requirements(&overhead, resources::Names::Container, None, &p.child("overhead"), e);
    }
    os::os(v, p, e);
}

fn names(v: &Value, p: &Path, e: &mut Errs) {
    for field in ["serviceAccountName", "nodeName"] {
        if !v.text(field).is_empty() {
            security::subdomain(v.text(field), &p.child(field), e);
        }
    }
    if let Some(n) = v.int("activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&n)
    {
        e.push(invalid(&p.child("activeDeadlineSeconds"), n, between(1, i64::from(i32::MAX))));
    }
    for field in ["hostname", "subdomain"] {
        if !v.text(field).is_empty() {
            invalid_each(e, &p.child(field), v.text(field), format::dns_label(v.text(field)));
        }
    }
    if v.has("hostnameOverride") {
        let (host, at) = (v.text("hostnameOverride"), p.child("hostnameOverride"));
        invalid_each(e, &at, host, format::dns_subdomain(host));
        if host.len() > 64 {
            e.push(invalid(&at, host, "must be no more than 64 characters"));
        }
        if v.is_true("hostNetwork") {
            e.push(forbidden(&at, "may not be specified when hostNetwork is true"));
        }
        if v.is_true("setHostnameAsFQDN") {
            e.push(forbidden(&at, "may not be specified when setHostnameAsFQDN is true"));
        }
    }
}

fn host_network_ports(v: &Value, is_pod: bool, p: &Path, e: &mut Errs) {
    if !v.is_true("hostNetwork") {
        return;
    }
    for (i, c) in v.list("containers").iter().enumerate() {
        for (n, port) in c.list("ports").iter().enumerate() {
            let (host, own) = (port.num("hostPort"), port.num("containerPort"));
            if (is_pod || host != 0) && host != own {
                let at = p.child("containers").index(i).child("ports").index(n).child("hostPort");
                e.push(invalid(&at, host, "must match `containerPort` when `hostNetwork` is true"));
            }
        }
    }
}

fn host_users(v: &Value, p: &Path, e: &mut Errs) {
    if v.flag("hostUsers") != Some(false) {
        return;
    }
    for (field, told) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if v.is_true(field) {
            e.push(forbidden(&p.child(told), "when `pod.Spec.HostUsers` is false"));
        }
    }
}

fn resource_claims(list: &[Value], p: &Path, e: &mut Errs) {
    let mut seen = BTreeSet::new();
    for (i, c) in list.iter().enumerate() {
        let (at, name) = (p.index(i), c.text("name"));
        if name.is_empty() {
            e.push(required(&at.child("name"), ""));
        } else if seen.contains(name) {
            e.push(duplicate(&at.child("name"), name));
        } else {
            invalid_each(e, &at.child("name"), name, format::dns_label(name));
            seen.insert(name);
        }
        let (direct, template) = ("resourceClaimName", "resourceClaimTemplateName");
        match (c.has(direct), c.has(template)) {
            (true, true) => {
                let why = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                e.push(invalid(&at, c.clone(), why));
            }
            (false, false) => {
                let why = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                e.push(invalid(&at, c.clone(), why));
            }
            _ => {}
        }
        for field in [direct, template] {
            if c.has(field) {
                security::subdomain(c.text(field), &at.child(field), e);
            }
        }
    }
}

fn pod_resources(v: &Value, claims: &BTreeSet<&str>, p: &Path, e: &mut Errs) {
    if !v.has("resources") {
        return;
    }
    let own = v.at("resources");
    if own.has("claims") {
        e.push(forbidden(&p.child("claims"), "claims cannot be set for Resources at pod-level"));
    }
    resources::requirements(own, resources::Names::Pod, Some(claims), p, e);
    for (name, sum) in aggregate_requests(v) {
        let of_pod = quantities::parse(own.at("requests").at(&name));
        if of_pod.is_none_or(|q| sum > q) && !sum.is_zero() {
            let why = format!("must be greater than or equal to aggregate container requests of {sum}");
            e.push(invalid(&p.child("requests").key(&name), quantities::text(own.at("requests"), &name), why));
        }
    }
    for (i, c) in v.list("containers").iter().enumerate() {
        for (name, limit) in quantities::list(c.at("resources").at("limits")) {
            if let Some(of_pod) = quantities::parse(own.at("limits").at(&name))
                && limit > of_pod
            {
                let at = p.child("containers").index(i).key(&name).child("limits");
                let why = format!("must be less than or equal to pod limits of {of_pod}");
                e.push(invalid(&at, limit.to_string(), why));
            }
        }
    }
}

/// What the containers of a spec request together: the larger of all running at once and of the greediest init
/// container with the sidecars started before it (KEP-753).
pub(crate) fn aggregate_requests(spec: &Value) -> BTreeMap<String, Quantity> {
    aggregate(spec, "requests")
}

pub(crate) fn aggregate(spec: &Value, which: &str) -> BTreeMap<String, Quantity> {
    let add = |into: &mut BTreeMap<String, Quantity>, from: &BTreeMap<String, Quantity>| {
        for (k, q) in from {
            let sum = into.get(k).map_or(*q, |have| *have + *q);
            into.insert(k.clone(), sum);
        }
    };
    let raise = |into: &mut BTreeMap<String, Quantity>, from: &BTreeMap<String, Quantity>| {
        for (k, q) in from {
            if into.get(k).is_none_or(|have| have < q) {
                into.insert(k.clone(), *q);
            }
        }
    };
    let of = |c: &Value| quantities::list(c.at("resources").at(which));
    let mut total = BTreeMap::new();
    for c in spec.list("containers") {
        add(&mut total, &of(c));
    }
    let (mut sidecars, mut peak) = (BTreeMap::new(), BTreeMap::new());
    for c in spec.list("initContainers") {
        if c.text("restartPolicy") == "Always" {
            add(&mut total, &of(c));
            add(&mut sidecars, &of(c));
            raise(&mut peak, &sidecars);
        } else {
            let mut now = of(c);
            add(&mut now, &sidecars);
            raise(&mut peak, &now);
        }
    }
    raise(&mut total, &peak);
    total
}

/// Checks a Pod template.
pub(crate) fn template(v: &Value, p: &Path, e: &mut Errs) {
    template_metadata(v, p, e);
    spec(v.at("spec"), Owner::Template, &p.child("spec"), e);
    if !v.at("spec").list("ephemeralContainers").is_empty() {
        let at = p.child("spec").child("ephemeralContainers");
        e.push(forbidden(&at, "ephemeral containers not allowed in pod template"));
    }
}

/// Checks only the metadata of a Pod template. Upstream tells these errors at the template, not at its metadata.
pub(crate) fn template_metadata(v: &Value, p: &Path, e: &mut Errs) {
    let meta = v.at("metadata");
    labels(meta.at("labels"), &p.child("labels"), e);
    crate::meta::annotations(meta.at("annotations"), &p.child("annotations"), e);
    security::annotations(meta, v.at("spec"), &p.child("annotations"), e);
}

/// A template whose Pods run forever.
pub(crate) fn always_restarting(template: &Value, kind: &str, p: &Path, e: &mut Errs) {
    let spec = template.at("spec");
    if spec.text("restartPolicy") != "Always" {
        let at = p.child("spec").child("restartPolicy");
        e.push(not_supported(&at, spec.text("restartPolicy"), &["Always"]));
    }
    if spec.has("activeDeadlineSeconds") {
        let why = format!("activeDeadlineSeconds in {kind} is not Supported");
        e.push(forbidden(&p.child("spec").child("activeDeadlineSeconds"), why));
    }
}
