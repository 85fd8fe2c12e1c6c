//! Volume sources of particular storage systems. They are kept valid because stock manifests use them; the kubelet
//! decides which it can mount. Shared by Pods and PersistentVolumes.

use serde_json::Value;
use strake_machinery::field::Path;

use super::volume::{Source, byte, descending_path};
use crate::errs::{Errs, between, invalid, invalid_each, need_text, not_supported, required, too_long};
use crate::format;
use crate::walk::Walk;

pub(crate) const ISCSI_NAME_TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

pub(crate) fn git_repo(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "repository");
    descending_path(v.text("directory"), &p.child("directory"), e);
}

pub(crate) fn gce_disk(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "pdName");
    byte(v, "partition", p, 1, e);
}

pub(crate) fn aws_disk(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "volumeID");
    byte(v, "partition", p, 1, e);
}

pub(crate) fn nfs(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "server");
    need_text(e, p, v, "path");
    if !v.text("path").starts_with('/') {
        e.push(invalid(&p.child("path"), v.text("path"), "must be an absolute path"));
    }
}

fn well_formed(name: &str) -> bool {
    let alnum = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric());
    if let Some(rest) = name.strip_prefix("iqn") {
        let b = rest.as_bytes();
        let dated = b.len() > 9
            && b[0] == b'.'
            && b[1..5].iter().all(u8::is_ascii_digit)
            && b[5] == b'-'
            && b[6..8].iter().all(u8::is_ascii_digit)
            && b[8] == b'.';
        return dated
            && rest[9..].split_once(':').is_some_and(|(authority, id)| {
                !authority.is_empty()
                    && authority.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
                    && !id.is_empty()
                    && !id.contains([',', ';', '*', '&', '$', '|', ' ', '\t', '\n'])
            });
    }
    if let Some(rest) = name.strip_prefix("eui") {
        return rest.len() == 17 && rest.is_char_boundary(1) && alnum(&rest[1..]);
    }
    name.strip_prefix("naa").is_some_and(|rest| rest.len() == 33 && rest.is_char_boundary(1) && alnum(&rest[1..]))
}

fn iscsi_name(name: &str, p: &Path, e: &mut Errs) {
    if !["iqn", "eui", "naa"].iter().any(|x| name.starts_with(x)) {
        e.push(invalid(p, name, "must be valid format starting with iqn, eui, or naa"));
    } else if !name.is_ascii() || !well_formed(name) {
        e.push(invalid(p, name, "must be valid format"));
    }
}

pub(crate) fn iscsi(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "targetPortal");
    if v.text("iqn").is_empty() {
        e.push(required(&p.child("iqn"), ""));
    } else {
        iscsi_name(v.text("iqn"), &p.child("iqn"), e);
    }
    byte(v, "lun", p, 0, e);
    if (v.is_true("chapAuthDiscovery") || v.is_true("chapAuthSession")) && !v.has("secretRef") {
        e.push(required(&p.child("secretRef"), ""));
    }
    if v.has("initiatorName") {
        iscsi_name(v.text("initiatorName"), &p.child("initiatorname"), e);
    }
}

pub(crate) fn glusterfs(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "endpoints");
    need_text(e, p, v, "path");
}

pub(crate) fn flocker(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    let (name, id) = (v.text("datasetName"), v.text("datasetUUID"));
    if name.is_empty() && id.is_empty() {
        e.push(required(p, "one of datasetName and datasetUUID is required"));
    }
    if !name.is_empty() && !id.is_empty() {
        e.push(invalid(p, "resource", "datasetName and datasetUUID can not be specified simultaneously"));
    }
    if name.contains('/') {
        e.push(invalid(&p.child("datasetName"), name, "must not contain '/'"));
    }
}

pub(crate) fn rbd(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    if v.list("monitors").is_empty() {
        e.push(required(&p.child("monitors"), ""));
    }
    need_text(e, p, v, "image");
}

pub(crate) fn cinder(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "volumeID");
    secret_ref(v, p, e);
}

fn secret_ref(v: &Value, p: &Path, e: &mut Errs) {
    if v.has("secretRef") {
        need_text(e, &p.child("secretRef"), v.at("secretRef"), "name");
    }
}

pub(crate) fn cephfs(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    if v.list("monitors").is_empty() {
        e.push(required(&p.child("monitors"), ""));
    }
}

pub(crate) fn quobyte(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let registry = v.text("registry");
    if registry.is_empty() {
        e.push(required(&p.child("registry"), PAIRS));
    } else if v.text("tenant").len() >= 65 {
        e.push(required(&p.child("tenant"), "must be a UUID and may not exceed a length of 64 characters"));
    } else {
        for pair in registry.split(',') {
            if pair.rsplit_once(':').is_none_or(|(host, _)| host.contains(':') && !host.starts_with('[')) {
                e.push(invalid(&p.child("registry"), registry, PAIRS));
            }
        }
    }
    need_text(e, p, v, "volume");
}

pub(crate) fn fc(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    let (targets, wwids) = (v.list("targetWWNs"), v.list("wwids"));
    if targets.is_empty() && wwids.is_empty() {
        e.push(required(&p.child("targetWWNs"), "must specify either targetWWNs or wwids, but not both"));
    }
    if !targets.is_empty() && !wwids.is_empty() {
        e.push(invalid(
            &p.child("targetWWNs"),
            targets.to_vec(),
            "targetWWNs and wwids can not be specified simultaneously",
        ));
    }
    if !targets.is_empty() {
        match v.int("lun") {
            None => e.push(required(&p.child("lun"), "lun is required if targetWWNs is specified")),
            Some(n) if !(0..=255).contains(&n) => e.push(invalid(&p.child("lun"), n, between(0, 255))),
            Some(_) => {}
        }
    }
}

pub(crate) fn flex(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "driver");
    for (k, _) in v.entries("options") {
        let domain = format!(".{}", k.split_once('/').map_or(k, |(d, _)| d).to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            e.push(invalid(&p.child("options").key(k), k, "kubernetes.io and k8s.io namespaces are reserved"));
        }
    }
}

pub(crate) fn azure_file(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "secretName");
    need_text(e, p, v, "shareName");
}

pub(crate) fn vsphere(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "volumePath");
}

pub(crate) fn photon(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "pdID");
}

pub(crate) fn portworx(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "volumeID");
}

pub(crate) fn azure_disk(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    const CACHING: &[&str] = &["None", "ReadOnly", "ReadWrite"];
    const KINDS: &[&str] = &["Dedicated", "Managed", "Shared"];
    need_text(e, p, v, "diskName");
    need_text(e, p, v, "diskURI");
    let (caching, kind, uri) = (v.text("cachingMode"), v.text("kind"), v.text("diskURI"));
    if v.has("cachingMode") && !CACHING.contains(&caching) {
        e.push(not_supported(&p.child("cachingMode"), caching, CACHING));
    }
    if v.has("kind") && !KINDS.contains(&kind) {
        e.push(not_supported(&p.child("kind"), kind, KINDS));
    }
    if v.has("kind") {
        let (prefix, example) = if kind == "Managed" {
            (
                "/subscriptions/",
                "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
            )
        } else {
            ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd")
        };
        if !uri.starts_with(prefix) {
            e.push(not_supported(&p.child("diskURI"), uri, &[example]));
        }
    }
}

pub(crate) fn storageos(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    let (name, namespace) = (v.text("volumeName"), v.text("volumeNamespace"));
    if name.is_empty() {
        e.push(required(&p.child("volumeName"), ""));
    } else {
        invalid_each(e, &p.child("volumeName"), name, format::dns_label(name));
    }
    if !namespace.is_empty() {
        invalid_each(e, &p.child("volumeNamespace"), namespace, format::dns_label(namespace));
    }
    secret_ref(v, p, e);
}

pub(crate) fn scaleio(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    for field in ["gateway", "system", "volumeName"] {
        need_text(e, p, v, field);
    }
}

/// The name of a CSI driver: a DNS subdomain, in any case, of at most 63 bytes.
pub(crate) fn csi_driver_name(name: &str, p: &Path, e: &mut Errs) {
    if name.is_empty() {
        e.push(required(p, ""));
    }
    if name.len() > 63 {
        e.push(too_long(p, 63));
    }
    invalid_each(e, p, name, format::dns_subdomain(&name.to_lowercase()));
}
