//! Volumes of a Pod: exactly one source each, and what each source needs. Does not know containers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use strake_machinery::field::Path;

use crate::errs::{Errs, between, duplicate, forbidden, invalid, invalid_each, need_text, not_supported, required};
use crate::format;
use crate::pod::env::{FieldRefUse, field_ref, resource_field_ref};
use crate::pod::volume_legacy as legacy;
use crate::selector::label_selector;
use crate::walk::Walk;

/// What a volume source's check may look at besides the source.
pub(crate) struct Source<'a> {
    pub volume_name: &'a str,
    /// The Pod's name; `None` in a template and before a name is known.
    pub pod_name: Option<&'a str>,
    /// False in a template.
    pub is_pod: bool,
}

type Check = fn(&Value, &Path, &Source<'_>, &mut Errs);

/// Source field, the path child told when it is one source too many, its check. Upstream's order and spelling.
const SOURCES: &[(&str, &str, Check)] = &[
    ("emptyDir", "emptyDir", empty_dir),
    ("hostPath", "hostPath", host_path),
    ("gitRepo", "gitRepo", legacy::git_repo),
    ("gcePersistentDisk", "gcePersistentDisk", legacy::gce_disk),
    ("awsElasticBlockStore", "awsElasticBlockStore", legacy::aws_disk),
    ("secret", "secret", secret),
    ("nfs", "nfs", legacy::nfs),
    ("iscsi", "iscsi", legacy::iscsi),
    ("glusterfs", "glusterfs", legacy::glusterfs),
    ("flocker", "flocker", legacy::flocker),
    ("persistentVolumeClaim", "persistentVolumeClaim", claim),
    ("rbd", "rbd", legacy::rbd),
    ("cinder", "cinder", legacy::cinder),
    ("cephfs", "cephFS", legacy::cephfs),
    ("quobyte", "quobyte", legacy::quobyte),
    ("downwardAPI", "downwarAPI", downward_api),
    ("fc", "fc", legacy::fc),
    ("flexVolume", "flexVolume", legacy::flex),
    ("configMap", "configMap", config_map),
    ("azureFile", "azureFile", legacy::azure_file),
    ("vsphereVolume", "vsphereVolume", legacy::vsphere),
    ("photonPersistentDisk", "photonPersistentDisk", legacy::photon),
    ("portworxVolume", "portworxVolume", legacy::portworx),
    ("azureDisk", "azureDisk", legacy::azure_disk),
    ("storageos", "storageos", legacy::storageos),
    ("projected", "projected", projected),
    ("scaleIO", "scaleIO", legacy::scaleio),
    ("csi", "csi", csi),
    ("ephemeral", "ephemeral", ephemeral),
    ("image", "image", image),
];

/// Names of every volume source field.
pub(crate) fn source_fields() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|(k, _, _)| *k)
}

/// Checks `spec.volumes`; the answer maps the name of each good volume to it.
pub(crate) fn volumes<'v>(
    list: &'v [Value],
    pod_name: Option<&str>,
    is_pod: bool,
    p: &Path,
    e: &mut Errs,
) -> BTreeMap<&'v str, &'v Value> {
    let made_claims: BTreeSet<String> = match pod_name {
        Some(pod) if !pod.is_empty() => {
            list.iter().filter(|v| v.has("ephemeral")).map(|v| format!("{pod}-{}", v.text("name"))).collect()
        }
        _ => BTreeSet::new(),
    };
    let mut good = BTreeMap::new();
    for (i, v) in list.iter().enumerate() {
        let at = p.index(i);
        let name = v.text("name");
        let mut found = Errs::new();
        source(v, &at, &Source { volume_name: name, pod_name, is_pod }, &mut found);
        if name.is_empty() {
            found.push(required(&at.child("name"), ""));
        } else {
            invalid_each(&mut found, &at.child("name"), name, format::dns_label(name));
        }
        if good.contains_key(name) {
            found.push(duplicate(&at.child("name"), name));
        }
        if found.is_empty() {
            good.insert(name, v);
        }
        e.append(&mut found);
        let claim_name = v.at("persistentVolumeClaim").text("claimName");
        if v.has("persistentVolumeClaim") && made_claims.contains(claim_name) {
            e.push(invalid(
                &at.child("persistentVolumeClaim").child("claimName"),
                claim_name,
                "must not reference a PVC that gets created for an ephemeral volume",
            ));
        }
    }
    good
}

fn source(v: &Value, p: &Path, ctx: &Source<'_>, e: &mut Errs) {
    let mut seen = 0;
    for (field, told, check) in SOURCES {
        if !v.has(field) {
            continue;
        }
        if seen > 0 {
            e.push(forbidden(&p.child(told), "may not specify more than 1 volume type"));
        } else {
            seen += 1;
            let at = p.child(if *field == "gcePersistentDisk" { "persistentDisk" } else { field });
            check(v.at(field), &at, ctx, e);
        }
        if *field == "iscsi" {
            let portal = v.at("iscsi").text("targetPortal");
            if v.at("iscsi").has("initiatorName") && ctx.volume_name.len() + 1 + portal.len() > 64 {
                e.push(invalid(&p.child("name"), ctx.volume_name, legacy::ISCSI_NAME_TOO_LONG));
            }
        }
        if *field == "ephemeral"
            && seen == 1
            && let Some(pod) = ctx.pod_name
            && !pod.is_empty()
            && !ctx.volume_name.is_empty()
        {
            let claim = format!("{pod}-{}", ctx.volume_name);
            for m in format::dns_subdomain(&claim) {
                e.push(invalid(&p.child("name"), ctx.volume_name, format!("PVC name {claim:?}: {m}")));
            }
        }
    }
    if seen == 0 {
        e.push(required(p, "must specify a volume type"));
    }
}

fn empty_dir(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    if crate::quantities::is_negative(v.at("sizeLimit")) {
        e.push(forbidden(&p.child("sizeLimit"), "SizeLimit field must be a valid resource quantity"));
    }
}

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

/// A hostPath source, of a Pod or of a PersistentVolume.
pub(crate) fn host_path(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    let path = v.text("path");
    if path.is_empty() {
        e.push(required(&p.child("path"), ""));
        return;
    }
    no_backsteps(path, &p.child("path"), e);
    if v.has("type") && !HOST_PATH_TYPES.contains(&v.text("type")) {
        e.push(not_supported(&p.child("type"), v.text("type"), HOST_PATH_TYPES));
    }
}

fn secret(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "secretName");
    mode(v, "defaultMode", p, e);
    key_paths(v, p, e);
}

fn config_map(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "name");
    mode(v, "defaultMode", p, e);
    key_paths(v, p, e);
}

fn claim(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    need_text(e, p, v, "claimName");
}

fn downward_api(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    mode(v, "defaultMode", p, e);
    for file in v.list("items") {
        downward_file(file, p, e);
    }
}

fn downward_file(f: &Value, p: &Path, e: &mut Errs) {
    need_text(e, p, f, "path");
    local_path(f.text("path"), &p.child("path"), e);
    if f.has("fieldRef") {
        field_ref(f.at("fieldRef"), FieldRefUse::Volume, &p.child("fieldRef"), e);
        if f.has("resourceFieldRef") {
            e.push(invalid(p, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"));
        }
    } else if f.has("resourceFieldRef") {
        resource_field_ref(f.at("resourceFieldRef"), true, &p.child("resourceFieldRef"), e);
    } else {
        e.push(required(p, "one of fieldRef and resourceFieldRef is required"));
    }
    mode(f, "mode", p, e);
}

fn csi(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    legacy::csi_driver_name(v.text("driver"), &p.child("driver"), e);
    if v.has("nodePublishSecretRef") {
        let name = v.at("nodePublishSecretRef").text("name");
        if name.is_empty() {
            e.push(required(&p.child("nodePublishSecretRef").child("name"), ""));
        } else {
            invalid_each(e, &p.child("name"), name, format::dns_subdomain(name));
        }
    }
}

fn ephemeral(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    if !v.has("volumeClaimTemplate") {
        e.push(required(&p.child("volumeClaimTemplate"), ""));
        return;
    }
    let at = p.child("volumeClaimTemplate");
    let template = v.at("volumeClaimTemplate");
    crate::meta::template_meta(template.at("metadata"), &at.child("metadata"), e);
    crate::volumes::claim_spec(template.at("spec"), &at.child("spec"), e);
}

fn image(v: &Value, p: &Path, ctx: &Source<'_>, e: &mut Errs) {
    if ctx.is_pod {
        need_text(e, p, v, "reference");
    }
    super::container::pull_policy(v.text("pullPolicy"), &p.child("pullPolicy"), e);
}

fn projected(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    mode(v, "defaultMode", p, e);
    let mut paths = BTreeSet::new();
    for (i, s) in v.list("sources").iter().enumerate() {
        let at = p.child("sources").index(i);
        let mut seen = 0;
        for field in ["secret", "configMap"] {
            if s.has(field) {
                seen += 1;
                let (src, sp) = (s.at(field), at.child(field));
                need_text(e, &sp, src, "name");
                for (n, item) in src.list("items").iter().enumerate() {
                    key_path(item, &sp.child("items").index(n), e);
                    taken(&mut paths, item.text("path"), src.text("name"), p, e);
                }
            }
        }
        if s.has("downwardAPI") {
            seen += 1;
            for f in s.at("downwardAPI").list("items") {
                downward_file(f, &at.child("downwardAPI"), e);
                taken(&mut paths, f.text("path"), f.text("path"), p, e);
            }
        }
        if s.has("serviceAccountToken") {
            seen += 1;
            token(s.at("serviceAccountToken"), &at.child("serviceAccountToken"), p, e);
        }
        if s.has("clusterTrustBundle") {
            seen += 1;
            trust_bundle(s.at("clusterTrustBundle"), &at.child("clusterTrustBundle"), e);
            let path = s.at("clusterTrustBundle").text("path");
            if !paths.insert(path.to_owned()) {
                e.push(invalid(p, path, "conflicting duplicate paths"));
            }
        }
        if s.has("podCertificate") {
            seen += 1;
            let (cert, cp) = (s.at("podCertificate"), at.child("podCertificate"));
            need_text(e, &cp, cert, "signerName");
            need_text(e, &cp, cert, "keyType");
            for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
                let path = cert.text(field);
                local_path(path, &cp.child(field), e);
                taken(&mut paths, path, path, p, e);
            }
        }
        if seen > 1 {
            e.push(forbidden(&at, "may not specify more than 1 volume type per source"));
        }
    }
}

fn taken(paths: &mut BTreeSet<String>, path: &str, told: &str, p: &Path, e: &mut Errs) {
    if !path.is_empty() && !paths.insert(path.to_owned()) {
        e.push(invalid(p, told, "conflicting duplicate paths"));
    }
}

fn token(v: &Value, at: &Path, volume: &Path, e: &mut Errs) {
    let seconds = v.num("expirationSeconds");
    if seconds < 600 {
        e.push(invalid(&at.child("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes"));
    }
    if seconds > 1 << 32 {
        e.push(invalid(&at.child("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds"));
    }
    if v.text("path").is_empty() {
        e.push(required(&volume.child("path"), ""));
    } else {
        local_path(v.text("path"), &volume.child("path"), e);
    }
}

fn trust_bundle(v: &Value, p: &Path, e: &mut Errs) {
    match (v.has("name"), v.has("signerName")) {
        (true, true) => e.push(invalid(p, v.clone(), "only one of name and signerName may be used")),
        (true, false) => {
            let name = v.text("name");
            if name.is_empty() {
                e.push(required(&p.child("name"), "must be a valid object name"));
            }
            for m in crate::certificates::trust_bundle_name(name) {
                e.push(invalid(&p.child("name"), name, format!("not a valid clustertrustbundlename: {m}")));
            }
            if v.has("labelSelector") {
                e.push(invalid(
                    &p.child("labelSelector"),
                    v.at("labelSelector").clone(),
                    "labelSelector must be unset if name is specified",
                ));
            }
        }
        (false, true) => {
            let at = p.child("signerName");
            if v.text("signerName").is_empty() {
                e.push(required(&at, "must be a valid signer name"));
            }
            crate::certificates::signer_name(v.text("signerName"), &at, e);
            label_selector(v.at("labelSelector"), &p.child("labelSelector"), e);
        }
        (false, false) => e.push(required(p, "either name or signerName must be specified")),
    }
    need_text(e, p, v, "path");
    local_path(v.text("path"), &p.child("path"), e);
}

fn key_paths(v: &Value, p: &Path, e: &mut Errs) {
    for (i, item) in v.list("items").iter().enumerate() {
        key_path(item, &p.child("items").index(i), e);
    }
}

fn key_path(item: &Value, p: &Path, e: &mut Errs) {
    need_text(e, p, item, "key");
    need_text(e, p, item, "path");
    local_path(item.text("path"), &p.child("path"), e);
    mode(item, "mode", p, e);
}

fn mode(v: &Value, field: &str, p: &Path, e: &mut Errs) {
    if let Some(m) = v.int(field)
        && !(0..=0o777).contains(&m)
    {
        e.push(invalid(&p.child(field), m, "must be a number between 0 and 0777 (octal), both inclusive"));
    }
}

/// A path may not climb.
pub(crate) fn no_backsteps(path: &str, p: &Path, e: &mut Errs) {
    if path.split('/').any(|part| part == "..") {
        e.push(invalid(p, path, "must not contain '..'"));
    }
}

/// A relative path that does not climb.
pub(crate) fn descending_path(path: &str, p: &Path, e: &mut Errs) {
    if path.starts_with('/') {
        e.push(invalid(p, path, "must be a relative path"));
    }
    no_backsteps(path, p, e);
}

/// A relative path that neither climbs nor begins with the reserved `..`.
pub(crate) fn local_path(path: &str, p: &Path, e: &mut Errs) {
    descending_path(path, p, e);
    if path.starts_with("..") && !path.starts_with("../") {
        e.push(invalid(p, path, "must not start with '..'"));
    }
}

/// A number in 0..=255.
pub(crate) fn byte(v: &Value, field: &str, p: &Path, lo: i64, e: &mut Errs) {
    let n = v.num(field);
    if !(0..=255).contains(&n) {
        e.push(invalid(&p.child(field), n, between(lo, 255)));
    }
}
