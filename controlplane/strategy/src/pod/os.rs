//! What the operating system of a Pod allows: Linux Pods without Windows options, Windows Pods without Linux ones.

use serde_json::Value;
use strake_machinery::field::Path;

use crate::errs::{Errs, forbidden, invalid, not_supported, required};
use crate::walk::Walk;

const LINUX_POD_FIELDS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
const LINUX_CONTAINER_FIELDS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];
const WINDOWS: &str = "cannot be set for a windows pod";
const LINUX: &str = "windows options cannot be set for a linux pod";

/// Checks `spec.os` and what it forbids elsewhere in the spec.
pub(crate) fn os(spec: &Value, p: &Path, e: &mut Errs) {
    if !spec.has("os") {
        return;
    }
    let context = spec.at("securityContext");
    match spec.at("os").text("name") {
        "" => e.push(required(&p.child("os").child("name"), "cannot be empty")),
        "linux" => {
            if context.has("windowsOptions") {
                e.push(forbidden(&p.child("securityContext").child("windowsOptions"), LINUX));
            }
            for (c, at) in super::every_container_with_path(spec, p) {
                if c.at("securityContext").has("windowsOptions") {
                    e.push(forbidden(&at.child("securityContext").child("windowsOptions"), LINUX));
                }
            }
        }
        "windows" => windows(spec, context, p, e),
        other => e.push(not_supported(&p.child("os"), other, &["linux", "windows"])),
    }
}

fn windows(spec: &Value, context: &Value, p: &Path, e: &mut Errs) {
    for field in LINUX_POD_FIELDS {
        if context.has(field) {
            e.push(forbidden(&p.child("securityContext").child(field), WINDOWS));
        }
    }
    for field in ["hostUsers", "shareProcessNamespace"] {
        if spec.has(field) {
            e.push(forbidden(&p.child(field), WINDOWS));
        }
    }
    for field in ["hostPID", "hostIPC"] {
        if spec.is_true(field) {
            e.push(forbidden(&p.child(field), WINDOWS));
        }
    }
    for (c, at) in super::every_container_with_path(spec, p) {
        for field in LINUX_CONTAINER_FIELDS {
            if c.at("securityContext").has(field) {
                e.push(forbidden(&at.child("securityContext").child(field), WINDOWS));
            }
        }
    }
}

/// HostProcess containers come all or none, and need the host's network.
pub(crate) fn host_process(spec: &Value, p: &Path, e: &mut Errs) {
    let of_pod = spec.path(&["securityContext", "windowsOptions"]).flag("hostProcess");
    let (mut all, mut host) = (0, 0);
    for (c, at) in super::every_container_with_path(spec, p) {
        all += 1;
        let own = c.path(&["securityContext", "windowsOptions"]).flag("hostProcess");
        if let (Some(a), Some(b)) = (of_pod, own)
            && a != b
        {
            let why = format!("pod hostProcess value must be identical if both are specified, was {a}");
            let field = at.child("securityContext").child("windowsOptions").child("hostProcess");
            e.push(invalid(&field, b, why));
        }
        if own.or(of_pod) == Some(true) {
            host += 1;
        }
    }
    if host == 0 {
        return;
    }
    if host != all {
        let why = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        e.push(invalid(p, "", why));
    }
    if !spec.is_true("hostNetwork") {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        e.push(invalid(&p.child("hostNetwork"), false, why));
    }
}

/// Checks `windowsOptions` of a Pod or a container.
pub(crate) fn windows_options(v: &Value, p: &Path, e: &mut Errs) {
    if v.is_null() {
        return;
    }
    if v.has("gmsaCredentialSpecName") {
        super::security::subdomain(v.text("gmsaCredentialSpecName"), &p.child("gmsaCredentialSpecName"), e);
    }
    if v.has("gmsaCredentialSpec") {
        let (spec, at) = (v.text("gmsaCredentialSpec"), p.child("gmsaCredentialSpec"));
        if spec.is_empty() {
            e.push(invalid(&at, spec, "gmsaCredentialSpec cannot be an empty string"));
        } else if spec.len() > 64 * 1024 {
            e.push(invalid(&at, spec, "gmsaCredentialSpec size must be under 64 KiB"));
        }
    }
    if v.has("runAsUserName") {
        let (name, at) = (v.text("runAsUserName"), p.child("runAsUserName"));
        for why in user_name(name) {
            e.push(invalid(&at, name, why));
        }
    }
}

fn user_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".into()];
    }
    if name.contains(|c: char| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".into()];
    }
    if name.matches('\\').count() > 1 {
        return vec!["runAsUserName cannot contain more than one backslash".into()];
    }
    let mut out = Vec::new();
    let (domain, user) = name.split_once('\\').map_or((None, name), |(d, u)| (Some(d), u));
    if let Some(d) = domain {
        if d.len() >= 256 {
            out.push("runAsUserName's Domain length must be under 256 characters".into());
        }
        let net_bios = (1..=15).contains(&d.chars().count())
            && !d.starts_with('.')
            && !d.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|']);
        let dns = d.split('.').all(|l| {
            (1..=63).contains(&l.len())
                && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !l.starts_with('-')
                && !l.ends_with('-')
        });
        if !net_bios && !dns {
            out.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".into());
        }
    }
    if user.is_empty() {
        out.push("runAsUserName's User cannot be empty".into());
    } else if user.len() > 104 {
        out.push("runAsUserName's User length must not be longer than 104 characters".into());
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        out.push("runAsUserName's User cannot contain only periods or spaces".into());
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        out.push(r#"runAsUserName's User cannot contain the following characters: "/\:;|=,+*?<>@[]"#.into());
    }
    out
}
