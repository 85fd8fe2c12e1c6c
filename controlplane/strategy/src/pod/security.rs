//! Security contexts of Pods and containers: ids, seccomp, AppArmor, sysctls, Windows options.

use std::collections::BTreeSet;

use serde_json::Value;
use strake_machinery::field::Path;

use super::volume::descending_path;
use crate::errs::{Errs, between, duplicate, forbidden, invalid, invalid_each, not_supported, required, too_long};
use crate::format;
use crate::walk::Walk;

const MAX_ID: i64 = 0xffff_ffff;
const SYSCTL: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn unix_id(v: Option<i64>, p: &Path, e: &mut Errs) {
    if let Some(id) = v
        && !(0..=MAX_ID).contains(&id)
    {
        e.push(invalid(p, id, between(0, MAX_ID)));
    }
}

fn known(v: &Value, field: &str, allowed: &[&str], p: &Path, e: &mut Errs) {
    if v.has(field) && !allowed.contains(&v.text(field)) {
        e.push(not_supported(&p.child(field), v.text(field), allowed));
    }
}

/// Checks `spec.securityContext`; `spec` holds the host namespaces.
pub(crate) fn pod(v: &Value, spec: &Value, p: &Path, e: &mut Errs) {
    if v.is_null() {
        return;
    }
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        unix_id(v.int(field), &p.child(field), e);
    }
    for (i, g) in v.list("supplementalGroups").iter().enumerate() {
        unix_id(crate::walk::as_int(g), &p.child("supplementalGroups").index(i), e);
    }
    if spec.is_true("shareProcessNamespace") && spec.is_true("hostPID") {
        e.push(invalid(
            &p.child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        ));
    }
    sysctls(v.list("sysctls"), spec, &p.child("sysctls"), e);
    known(v, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], p, e);
    seccomp(v.at("seccompProfile"), &p.child("seccompProfile"), e);
    super::os::windows_options(v.at("windowsOptions"), &p.child("windowsOptions"), e);
    apparmor(v.at("appArmorProfile"), &p.child("appArmorProfile"), e);
    known(v, "supplementalGroupsPolicy", &["Merge", "Strict"], p, e);
    known(v, "seLinuxChangePolicy", &["MountOption", "Recursive"], p, e);
}

/// Checks a container's `securityContext`.
pub(crate) fn container(v: &Value, host_users: bool, p: &Path, e: &mut Errs) {
    if v.is_null() {
        return;
    }
    unix_id(v.int("runAsUser"), &p.child("runAsUser"), e);
    unix_id(v.int("runAsGroup"), &p.child("runAsGroup"), e);
    known(v, "procMount", &["Default", "Unmasked"], p, e);
    if host_users && v.text("procMount") == "Unmasked" {
        e.push(invalid(&p.child("procMount"), "Unmasked", "`hostUsers` must be false to use `Unmasked`"));
    }
    seccomp(v.at("seccompProfile"), &p.child("seccompProfile"), e);
    if v.flag("allowPrivilegeEscalation") == Some(false) {
        if v.is_true("privileged") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            e.push(invalid(p, v.clone(), why));
        }
        if v.at("capabilities").texts("add").contains(&"CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            e.push(invalid(p, v.clone(), why));
        }
    }
    super::os::windows_options(v.at("windowsOptions"), &p.child("windowsOptions"), e);
    apparmor(v.at("appArmorProfile"), &p.child("appArmorProfile"), e);
}

fn sysctls(list: &[Value], spec: &Value, p: &Path, e: &mut Errs) {
    let mut names = BTreeSet::new();
    for (i, s) in list.iter().enumerate() {
        let (name, at) = (s.text("name"), p.index(i).child("name"));
        if name.is_empty() {
            e.push(required(&at, ""));
        } else if !sysctl_name(name) {
            e.push(invalid(&at, name, format!("must have at most 253 characters and match regex {SYSCTL}")));
        } else if names.contains(name) {
            e.push(duplicate(&at, name));
        }
        let normal = name.replace('/', ".");
        let ipc =
            ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|x| normal.starts_with(x)) || normal == "kernel.sem";
        if spec.is_true("hostNetwork") && normal.starts_with("net.") {
            e.push(invalid(&at, name, "may not be specified when 'hostNetwork' is true"));
        } else if spec.is_true("hostIPC") && ipc {
            e.push(invalid(&at, name, "may not be specified when 'hostIPC' is true"));
        }
        names.insert(name);
    }
}

fn sysctl_name(name: &str) -> bool {
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            let b = part.as_bytes();
            !b.is_empty()
                && edge(b[0])
                && edge(b[b.len() - 1])
                && b.iter().all(|c| edge(*c) || *c == b'-' || *c == b'_')
        })
}

const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

fn seccomp(v: &Value, p: &Path, e: &mut Errs) {
    if v.is_null() {
        return;
    }
    match v.text("type") {
        "" => e.push(required(&p.child("type"), "type is required when seccompProfile is set")),
        t if !PROFILES.contains(&t) => e.push(not_supported(&p.child("type"), t, PROFILES)),
        _ => {}
    }
    let at = p.child("localhostProfile");
    if v.text("type") == "Localhost" {
        if v.has("localhostProfile") {
            descending_path(v.text("localhostProfile"), &at, e);
        } else {
            e.push(required(&at, "must be set when seccomp type is Localhost"));
        }
    } else if v.has("localhostProfile") {
        e.push(invalid(&at, v.clone(), "can only be set when seccomp type is Localhost"));
    }
}

fn apparmor(v: &Value, p: &Path, e: &mut Errs) {
    if v.is_null() {
        return;
    }
    let at = p.child("localhostProfile");
    match v.text("type") {
        "Localhost" => {
            let profile = v.text("localhostProfile");
            if !v.has("localhostProfile") {
                e.push(required(&at, "must be set when AppArmor type is Localhost"));
                return;
            }
            if profile.trim() != profile {
                e.push(invalid(&at, profile, "must not be padded with whitespace"));
            } else if profile.is_empty() {
                e.push(required(&at, "must be set when AppArmor type is Localhost"));
            }
            if profile.len() > 4095 {
                e.push(too_long(&at, 4095));
            }
        }
        "RuntimeDefault" | "Unconfined" => {
            if v.has("localhostProfile") {
                let why = "can only be set when AppArmor type is Localhost";
                e.push(invalid(&at, v.text("localhostProfile"), why));
            }
        }
        "" => e.push(required(&p.child("type"), "type is required when appArmorProfile is set")),
        other => e.push(not_supported(&p.child("type"), other, PROFILES)),
    }
}

const APPARMOR_ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Checks the annotations that only mean something on a Pod.
pub(crate) fn annotations(meta: &Value, spec: &Value, p: &Path, e: &mut Errs) {
    let all = meta.at("annotations");
    if all.has(MIRROR) && spec.text("nodeName").is_empty() {
        let why = "must set spec.nodeName if mirror pod annotation is set";
        e.push(invalid(&p.key(MIRROR), all.text(MIRROR), why));
    }
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    if all.has(COST) {
        let cost = all.text(COST);
        let canonical = cost == "0" || !cost.trim_start_matches('-').starts_with(['0', '+']) && !cost.starts_with('+');
        if !canonical || cost.parse::<i32>().is_err() {
            e.push(invalid(&p.key(COST), cost, "must be a 32bit integer"));
        }
    }
    for (k, v) in meta.entries("annotations") {
        let profile = v.as_str().unwrap_or("");
        if k == "seccomp.security.alpha.kubernetes.io/pod"
            || k.starts_with("container.seccomp.security.alpha.kubernetes.io/")
        {
            match profile {
                "runtime/default" | "docker/default" | "unconfined" => {}
                _ => match profile.strip_prefix("localhost/") {
                    Some(path) => descending_path(path, &p.child(k), e),
                    None => e.push(invalid(&p.child(k), profile, "must be a valid seccomp profile")),
                },
            }
        }
        if let Some(name) = k.strip_prefix(APPARMOR_ANNOTATION) {
            if !super::every_container(spec).any(|c| c.text("name") == name) {
                e.push(invalid(&p.key(k), name, "container not found"));
            }
            if !["", "runtime/default", "unconfined"].contains(&profile) && !profile.starts_with("localhost/") {
                e.push(invalid(&p.key(k), profile, format!("invalid AppArmor profile name: {profile:?}")));
            }
        }
    }
}

/// Checks that annotations which may not change after creation did not.
pub(crate) fn annotation_changes(new: &Value, old: &Value, p: &Path, e: &mut Errs) {
    let (new, old) = (new.at("annotations"), old.at("annotations"));
    for (k, v) in crate::walk::entries(old) {
        if new.at(k) == v {
            continue;
        }
        if k.starts_with(APPARMOR_ANNOTATION) {
            e.push(forbidden(&p.key(k), "may not remove or update AppArmor annotations"));
        }
        if k == MIRROR {
            e.push(forbidden(&p.key(k), "may not remove or update mirror pod annotation"));
        }
    }
    for (k, _) in crate::walk::entries(new) {
        if old.has(k) {
            continue;
        }
        if k.starts_with(APPARMOR_ANNOTATION) {
            e.push(forbidden(&p.key(k), "may not add AppArmor annotations"));
        }
        if k == MIRROR {
            e.push(forbidden(&p.key(k), "may not add mirror pod annotation"));
        }
    }
}

/// A name that must be a DNS subdomain, told once a rule broken.
pub(crate) fn subdomain(name: &str, p: &Path, e: &mut Errs) {
    invalid_each(e, p, name, format::dns_subdomain(name));
}
