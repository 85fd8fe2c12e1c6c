//! Containers of the three lists of a Pod spec: what all share, and what only one list allows.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use strake_machinery::field::Path;

use super::{env, mount, probe, security};
use crate::errs::{Errs, duplicate, forbidden, invalid, invalid_each, not_found, not_supported, one_of, required};
use crate::format;
use crate::resources;
use crate::walk::Walk;

/// What a container's check needs of the spec around it.
pub(crate) struct Around<'a> {
    /// Good volumes by name.
    pub volumes: &'a BTreeMap<&'a str, &'a Value>,
    /// Names in `spec.resourceClaims`.
    pub claims: &'a BTreeSet<&'a str>,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace: Option<i64>,
    /// `spec.restartPolicy`.
    pub restart_policy: &'a str,
    /// False if `spec.hostUsers` is false.
    pub host_users: bool,
}

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// Checks `spec.containers`.
pub(crate) fn containers(list: &[Value], around: &Around<'_>, p: &Path, e: &mut Errs) {
    if list.is_empty() {
        e.push(required(p, ""));
        return;
    }
    let mut names = BTreeSet::new();
    for (i, c) in list.iter().enumerate() {
        let at = p.index(i);
        common(c, around, &at, e);
        if !names.insert(c.text("name")) {
            e.push(duplicate(&at.child("name"), c.text("name")));
        }
        handlers(c, around, &at, e);
        restart_policy(c, &at, e);
    }
    host_port_conflicts(list, p, e);
}

/// Checks `spec.initContainers`.
pub(crate) fn init_containers(list: &[Value], regular: &[Value], around: &Around<'_>, p: &Path, e: &mut Errs) {
    let mut names: BTreeSet<&str> = regular.iter().map(|c| c.text("name")).collect();
    for (i, c) in list.iter().enumerate() {
        let at = p.index(i);
        common(c, around, &at, e);
        restart_policy(c, &at, e);
        let name = c.text("name");
        if names.contains(name) {
            e.push(duplicate(&at.child("name"), name));
        } else if !name.is_empty() {
            names.insert(name);
        }
        host_port_conflicts(std::slice::from_ref(c), p, e);
        if c.text("restartPolicy") == "Always" {
            handlers(c, around, &at, e);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if c.has(field) {
                    e.push(forbidden(
                        &at.child(field),
                        "may not be set for init containers without restartPolicy=Always",
                    ));
                }
            }
        }
    }
}

/// Fields an ephemeral container may not have.
const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// Checks `spec.ephemeralContainers`.
pub(crate) fn ephemeral_containers(spec: &Value, around: &Around<'_>, p: &Path, e: &mut Errs) {
    let others: BTreeSet<&str> =
        spec.list("containers").iter().chain(spec.list("initContainers")).map(|c| c.text("name")).collect();
    let mut names = others.clone();
    for (i, c) in spec.list("ephemeralContainers").iter().enumerate() {
        let at = p.index(i);
        common(c, around, &at, e);
        image_not_padded(c, &at, e);
        if !names.insert(c.text("name")) {
            e.push(duplicate(&at.child("name"), c.text("name")));
        }
        let target = c.text("targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            e.push(not_found(&at.child("targetContainerName"), target));
        }
        for field in NOT_EPHEMERAL {
            if !crate::walk::is_empty(c.at(field)) {
                e.push(forbidden(&at.child(field), "cannot be set for an Ephemeral Container"));
            }
        }
        for (n, m) in c.list("volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !m.text(field).is_empty() {
                    let fp = at.child("volumeMounts").index(n).child(field);
                    e.push(forbidden(&fp, "cannot be set for an Ephemeral Container"));
                }
            }
        }
    }
}

/// Refused in Pods, tolerated in templates.
pub(crate) fn image_not_padded(c: &Value, p: &Path, e: &mut Errs) {
    let image = c.text("image");
    if image.trim().len() != image.len() {
        e.push(invalid(&p.child("image"), image, "must not have leading or trailing whitespace"));
    }
}

fn common(c: &Value, around: &Around<'_>, p: &Path, e: &mut Errs) {
    let name = c.text("name");
    if name.is_empty() {
        e.push(required(&p.child("name"), ""));
    } else {
        invalid_each(e, &p.child("name"), name, format::dns_label(name));
    }
    if c.text("image").is_empty() {
        e.push(required(&p.child("image"), ""));
    }
    one_of(
        e,
        &p.child("terminationMessagePolicy"),
        c.text("terminationMessagePolicy"),
        &["File", "FallbackToLogsOnError"],
    );
    ports(c.list("ports"), &p.child("ports"), e);
    env::env(c.list("env"), &p.child("env"), e);
    env::env_from(c.list("envFrom"), &p.child("envFrom"), e);
    mount::volume_mounts(c, around.volumes, &p.child("volumeMounts"), e);
    mount::volume_devices(c, around.volumes, &p.child("volumeDevices"), e);
    pull_policy(c.text("imagePullPolicy"), &p.child("imagePullPolicy"), e);
    resources::requirements(
        c.at("resources"),
        resources::Names::Container,
        Some(around.claims),
        &p.child("resources"),
        e,
    );
    resize_policy(c.list("resizePolicy"), around.restart_policy, &p.child("resizePolicy"), e);
    security::container(c.at("securityContext"), around.host_users, &p.child("securityContext"), e);
}

fn handlers(c: &Value, around: &Around<'_>, p: &Path, e: &mut Errs) {
    probe::lifecycle(c.at("lifecycle"), around.grace, &p.child("lifecycle"), e);
    for (field, kind) in [
        ("livenessProbe", probe::Use::Liveness),
        ("readinessProbe", probe::Use::Readiness),
        ("startupProbe", probe::Use::Startup),
    ] {
        probe::probe(c.at(field), kind, &p.child(field), e);
    }
}

fn restart_policy(c: &Value, p: &Path, e: &mut Errs) {
    const POLICIES: &[&str] = &["Always", "Never", "OnFailure"];
    let rules = c.list("restartPolicyRules");
    if !c.has("restartPolicy") {
        if !rules.is_empty() {
            e.push(required(&p.child("restartPolicy"), "must specify restartPolicy when restart rules are used"));
        }
        return;
    }
    if !POLICIES.contains(&c.text("restartPolicy")) {
        e.push(not_supported(&p.child("restartPolicy"), c.text("restartPolicy"), POLICIES));
    }
    if rules.len() > 20 {
        e.push(crate::errs::too_many(&p.child("restartPolicyRules"), rules.len(), 20));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = p.child("restartPolicyRules").index(i);
        if rule.text("action") != "Restart" {
            e.push(not_supported(&at.child("action"), rule.text("action"), &["Restart"]));
        }
        if !rule.has("exitCodes") {
            e.push(required(&at.child("exitCodes"), "must be specified"));
            continue;
        }
        let (codes, cp) = (rule.at("exitCodes"), at.child("exitCodes"));
        if !["In", "NotIn"].contains(&codes.text("operator")) {
            e.push(not_supported(&cp.child("operator"), codes.text("operator"), &["In", "NotIn"]));
        }
        if codes.list("values").len() > 255 {
            e.push(crate::errs::too_many(&cp.child("values"), codes.list("values").len(), 255));
        }
    }
}

/// An image pull policy must be given and known.
pub(crate) fn pull_policy(policy: &str, p: &Path, e: &mut Errs) {
    one_of(e, p, policy, PULL_POLICIES);
}

fn ports(list: &[Value], p: &Path, e: &mut Errs) {
    let mut names = BTreeSet::new();
    for (i, port) in list.iter().enumerate() {
        let at = p.index(i);
        let name = port.text("name");
        if !name.is_empty() {
            let messages = format::port_name(name);
            if !messages.is_empty() {
                invalid_each(e, &at.child("name"), name, messages);
            } else if !names.insert(name) {
                e.push(duplicate(&at.child("name"), name));
            }
        }
        match port.num("containerPort") {
            0 => e.push(required(&at.child("containerPort"), "")),
            n => port_number(n, &at.child("containerPort"), e),
        }
        match port.num("hostPort") {
            0 => {}
            n => port_number(n, &at.child("hostPort"), e),
        }
        one_of(e, &at.child("protocol"), port.text("protocol"), PROTOCOLS);
    }
}

/// A port must be in 1..=65535.
pub(crate) fn port_number(n: i64, p: &Path, e: &mut Errs) {
    e.extend(format::port_number(n).into_iter().map(|m| invalid(p, n, m)));
}

fn host_port_conflicts(list: &[Value], p: &Path, e: &mut Errs) {
    let mut seen = BTreeSet::new();
    for (i, c) in list.iter().enumerate() {
        for (n, port) in c.list("ports").iter().enumerate() {
            let number = port.num("hostPort");
            if number == 0 {
                continue;
            }
            let key = format!("{}/{}/{number}", port.text("protocol"), port.text("hostIP"));
            if seen.contains(&key) {
                e.push(duplicate(&p.index(i).child("ports").index(n).child("hostPort"), key));
            } else {
                seen.insert(key);
            }
        }
    }
}

fn resize_policy(list: &[Value], pod_restart_policy: &str, p: &Path, e: &mut Errs) {
    let mut seen = BTreeSet::new();
    for (i, policy) in list.iter().enumerate() {
        let (resource, restart) = (policy.text("resourceName"), policy.text("restartPolicy"));
        if !seen.insert(resource) {
            e.push(duplicate(&p.index(i), resource));
        }
        one_of(e, p, resource, &["cpu", "memory"]);
        one_of(e, p, restart, &["NotRequired", "RestartContainer"]);
        if pod_restart_policy == "Never" && restart != "NotRequired" {
            e.push(invalid(p, restart, "must be 'NotRequired' when `restartPolicy` is 'Never'"));
        }
    }
}
