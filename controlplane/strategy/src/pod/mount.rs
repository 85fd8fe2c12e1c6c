//! Volume mounts and block devices of a container.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use strake_machinery::field::Path;

use super::volume::descending_path;
use crate::errs::{Errs, forbidden, invalid, not_found, not_supported, required};
use crate::walk::Walk;

/// Checks `volumeMounts` of container `c`.
pub(crate) fn volume_mounts(c: &Value, volumes: &BTreeMap<&str, &Value>, p: &Path, e: &mut Errs) {
    let devices: BTreeMap<&str, &str> =
        c.list("volumeDevices").iter().map(|d| (d.text("name"), d.text("devicePath"))).collect();
    let mut paths = BTreeSet::new();
    for (i, m) in c.list("volumeMounts").iter().enumerate() {
        let at = p.index(i);
        let (name, path) = (m.text("name"), m.text("mountPath"));
        if name.is_empty() {
            e.push(required(&at.child("name"), ""));
        }
        if !volumes.contains_key(name) {
            e.push(not_found(&at.child("name"), name));
        }
        if path.is_empty() {
            e.push(required(&at.child("mountPath"), ""));
        }
        if !paths.insert(path) {
            e.push(invalid(&at.child("mountPath"), path, "must be unique"));
        }
        if devices.contains_key(name) {
            e.push(invalid(&at.child("name"), name, "must not already exist in volumeDevices"));
        }
        if devices.values().any(|d| *d == path) {
            e.push(invalid(&at.child("mountPath"), path, "must not already exist as a path in volumeDevices"));
        }
        let (sub, expr) = (m.text("subPath"), m.text("subPathExpr"));
        if volumes.get(name).is_some_and(|v| v.has("image")) {
            for (field, value) in [("subPath", sub), ("subPathExpr", expr)] {
                if !value.is_empty() && field == "subPathExpr" {
                    e.push(invalid(&at.child(field), value, "not allowed in image volume sources"));
                }
            }
        }
        if !sub.is_empty() {
            descending_path(sub, &p.child("subPath"), e);
        }
        if !expr.is_empty() {
            if !sub.is_empty() {
                e.push(invalid(&at.child("subPathExpr"), expr, "subPathExpr and subPath are mutually exclusive"));
            }
            descending_path(expr, &p.child("subPathExpr"), e);
        }
        propagation(m, c, &p.child("mountPropagation"), e);
        recursive_read_only(m, &p.child("recursiveReadOnly"), e);
    }
}

fn propagation(m: &Value, c: &Value, p: &Path, e: &mut Errs) {
    const MODES: &[&str] = &["Bidirectional", "HostToContainer", "None"];
    if !m.has("mountPropagation") {
        return;
    }
    let mode = m.text("mountPropagation");
    if !MODES.contains(&mode) {
        e.push(not_supported(p, mode, MODES));
    }
    if mode == "Bidirectional" && !c.at("securityContext").is_true("privileged") {
        e.push(forbidden(p, "Bidirectional mount propagation is available only to privileged containers"));
    }
}

fn recursive_read_only(m: &Value, p: &Path, e: &mut Errs) {
    if !m.has("recursiveReadOnly") {
        return;
    }
    match m.text("recursiveReadOnly") {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !m.is_true("readOnly") {
                e.push(forbidden(p, "may only be specified when readOnly is true"));
            }
            if m.has("mountPropagation") && m.text("mountPropagation") != "None" {
                e.push(forbidden(p, "may only be specified when mountPropagation is None or not specified"));
            }
        }
        other => e.push(not_supported(p, other, &["Disabled", "Enabled", "IfPossible"])),
    }
}

/// Checks `volumeDevices` of container `c`.
pub(crate) fn volume_devices(c: &Value, volumes: &BTreeMap<&str, &Value>, p: &Path, e: &mut Errs) {
    let mounts: BTreeMap<&str, &str> =
        c.list("volumeMounts").iter().map(|m| (m.text("name"), m.text("mountPath"))).collect();
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, d) in c.list("volumeDevices").iter().enumerate() {
        let at = p.index(i);
        let (name, path) = (d.text("name"), d.text("devicePath"));
        if name.is_empty() {
            e.push(required(&at.child("name"), ""));
        }
        if names.contains(name) {
            e.push(invalid(&at.child("name"), name, "must be unique"));
        }
        match volumes.get(name) {
            Some(v) if !v.has("persistentVolumeClaim") && !v.has("ephemeral") => e.push(invalid(
                &at.child("name"),
                name,
                "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
            )),
            Some(_) => {}
            None => e.push(not_found(&at.child("name"), name)),
        }
        if path.is_empty() {
            e.push(required(&at.child("devicePath"), ""));
        }
        if paths.contains(path) {
            e.push(invalid(&at.child("devicePath"), path, "must be unique"));
        }
        if path.split('/').any(|part| part == "..") {
            e.push(invalid(&at.child("devicePath"), path, "can not contain backsteps ('..')"));
        } else {
            paths.insert(path);
        }
        if mounts.contains_key(name) {
            e.push(invalid(&at.child("name"), name, "must not already exist in volumeMounts"));
        }
        if mounts.values().any(|m| *m == path) {
            e.push(invalid(&at.child("devicePath"), path, "must not already exist as a path in volumeMounts"));
        }
        if !name.is_empty() {
            names.insert(name);
        }
    }
}
