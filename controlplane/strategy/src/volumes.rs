//! PersistentVolumes, PersistentVolumeClaims and the classes and drivers of storage.k8s.io.

use serde_json::Value;
use strake_machinery::field::Path;

use crate::errs::{
    Errs, IMMUTABLE, forbidden, immutable, invalid, invalid_each, need_text, not_supported, one_of, required,
};
use crate::format;
use crate::pod::affinity::node_selector;
use crate::pod::security::subdomain;
use crate::pod::volume::{self, Source};
use crate::pod::volume_legacy as legacy;
use crate::quantities::{self, normalize_list, normalize_requirements};
use crate::selector::label_selector;
use crate::walk::{Walk, changes, default_text, default_to, drop_key, each, is_empty, object_mut, put, same, with};

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const RECLAIM: &[&str] = &["Delete", "Recycle", "Retain"];
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Fills a claim's spec, in a claim or in a template of one.
pub(crate) fn default_claim_spec(spec: &mut Value) {
    default_to(spec, "volumeMode", "Filesystem");
    default_to(spec, "resources", serde_json::json!({}));
    with(spec, "resources", normalize_requirements);
    // The two source fields mirror each other while the reference stays in the namespace.
    let (old, new) = (spec.at("dataSource").clone(), spec.at("dataSourceRef").clone());
    if !old.is_null() && new.is_null() {
        put(spec, "dataSourceRef", old);
    } else if old.is_null() && !new.is_null() && new.text("namespace").is_empty() {
        put(spec, "dataSource", new);
    }
}

/// Fills a PersistentVolumeClaim.
pub(crate) fn default_claim(obj: &mut Value) {
    if let Some(spec) = object_mut(obj, "spec") {
        default_claim_spec(spec);
    }
    if let Some(status) = object_mut(obj, "status") {
        default_text(status, "phase", "Pending");
        normalize_list(status, "capacity");
        normalize_list(status, "allocatedResources");
    }
}

/// Fills a PersistentVolume.
pub(crate) fn default_volume(obj: &mut Value) {
    if let Some(status) = object_mut(obj, "status") {
        default_text(status, "phase", "Pending");
    }
    if let Some(spec) = object_mut(obj, "spec") {
        default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        default_to(spec, "volumeMode", "Filesystem");
        normalize_list(spec, "capacity");
        crate::pod::defaults::storage(spec);
    }
}

/// A new volume has been pending since it was made.
pub(crate) fn create_volume(obj: &mut Value) {
    let now = obj.at("metadata").at("creationTimestamp").clone();
    with(obj, "status", |s| put(s, "lastPhaseTransitionTime", now));
}

fn access_modes(v: &Value, p: &Path, e: &mut Errs) {
    let modes = v.texts("accessModes");
    let at = p.child("accessModes");
    for m in &modes {
        if !ACCESS_MODES.contains(m) {
            e.push(not_supported(&at, *m, ACCESS_MODES));
        }
    }
    let once = modes.contains(&"ReadWriteOncePod");
    if once && modes.iter().any(|m| *m != "ReadWriteOncePod" && ACCESS_MODES.contains(m)) {
        e.push(forbidden(&at, "may not use ReadWriteOncePod with other access modes"));
    }
}

/// Checks a claim's spec.
pub(crate) fn claim_spec(v: &Value, p: &Path, e: &mut Errs) {
    if v.list("accessModes").is_empty() {
        e.push(required(&p.child("accessModes"), "at least 1 access mode is required"));
    }
    label_selector(v.at("selector"), &p.child("selector"), e);
    access_modes(v, p, e);
    let at = p.child("resources").key("storage");
    match quantities::parse(v.path(&["resources", "requests", "storage"])) {
        None => e.push(required(&at, "")),
        Some(q) if q.is_zero() || q.is_negative() => {
            e.push(invalid(&at, q.to_string(), "must be greater than zero"));
        }
        Some(_) => {}
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        if field == "volumeAttributesClassName" {
            if v.has("volumeMode") && !VOLUME_MODES.contains(&v.text("volumeMode")) {
                e.push(not_supported(&p.child("volumeMode"), v.text("volumeMode"), VOLUME_MODES));
            }
            data_sources(v, p, e);
        }
        if !v.text(field).is_empty() {
            subdomain(v.text(field), &p.child(field), e);
        }
    }
}

fn data_sources(v: &Value, p: &Path, e: &mut Errs) {
    for field in ["dataSource", "dataSourceRef"] {
        if !v.has(field) {
            continue;
        }
        let (s, at) = (v.at(field), p.child(field));
        need_text(e, &at, s, "name");
        need_text(e, &at, s, "kind");
        let group = s.text("apiGroup");
        if group.is_empty() {
            if s.text("kind") != "PersistentVolumeClaim" {
                let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
                e.push(invalid(&at, s.text("kind"), why));
            }
        } else {
            invalid_each(e, &at.child("apiGroup"), group, format::dns_subdomain(group));
        }
        if field == "dataSourceRef" && !s.text("namespace").is_empty() {
            let namespace = s.text("namespace");
            invalid_each(e, &at.child("namespace"), namespace, format::dns_label(namespace));
        }
    }
    if v.has("dataSource") && v.has("dataSourceRef") {
        let told = p.child("dataSource").to_string();
        let (a, b) = (v.at("dataSource"), v.at("dataSourceRef"));
        if !b.text("namespace").is_empty() {
            e.push(invalid(p, told, "may not be specified when dataSourceRef.namespace is specified"));
        } else if ["apiGroup", "kind", "name"].iter().any(|f| a.at(f) != b.at(f)) {
            e.push(invalid(p, told, "must match dataSourceRef"));
        }
    }
}

/// Checks a PersistentVolumeClaim.
pub(crate) fn claim(obj: &Value, e: &mut Errs) {
    claim_spec(obj.at("spec"), &Path::new("spec"), e);
}

/// Checks what an update of a claim may change: its size and attributes class once bound, its volume once.
pub(crate) fn claim_update(new: &Value, old: &Value, e: &mut Errs) {
    claim(new, e);
    let (n, o, p) = (new.at("spec"), old.at("spec"), Path::new("spec"));
    let class = |v: &Value| v.path(&["metadata", "annotations"]).text(CLASS_ANNOTATION).to_owned();
    let (now, was) = (class(new), class(old));
    let mut rest = n.clone();
    let mut base = o.clone();
    if o.text("volumeName").is_empty() {
        put(&mut base, "volumeName", n.at("volumeName").clone());
    }
    let upgraded = !was.is_empty() && !o.has("storageClassName") && n.text("storageClassName") == was;
    if upgraded {
        drop_key(&mut rest, "storageClassName");
    } else {
        if now != was {
            e.push(invalid(&Path::new("metadata").child("annotations").child(CLASS_ANNOTATION), now, IMMUTABLE));
        }
        if !o.has("storageClassName") && n.has("storageClassName") {
            drop_key(&mut rest, "storageClassName");
        }
    }
    if new.at("status").text("phase") == "Bound" {
        let size = o.path(&["resources", "requests", "storage"]).clone();
        with(&mut rest, "resources", |r| with(r, "requests", |q| put(q, "storage", size)));
        if n.has("volumeAttributesClassName") {
            put(&mut rest, "volumeAttributesClassName", o.at("volumeAttributesClassName").clone());
        }
    }
    if !same(&rest, &base) {
        let diff = changes(&base, &rest, 8);
        let why = format!(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n{diff}"
        );
        e.push(forbidden(&p, why));
    }
    let size = |v: &Value| quantities::parse(v.path(&["resources", "requests", "storage"]));
    if let (Some(a), Some(b)) = (size(n), size(o))
        && a < b
        && quantities::parse(old.path(&["status", "capacity", "storage"])).is_none_or(|c| a <= c)
    {
        let at = p.child("resources").child("requests").child("storage");
        e.push(forbidden(&at, "field can not be less than status.capacity"));
    }
    immutable(e, &Path::new("volumeMode"), n.at("volumeMode"), o.at("volumeMode"));
    if o.has("volumeAttributesClassName") {
        let at = p.child("volumeAttributesClassName");
        if !n.has("volumeAttributesClassName") {
            e.push(forbidden(&at, "update from non-nil value to nil is forbidden"));
        } else if n.text("volumeAttributesClassName").is_empty() {
            e.push(forbidden(&at, "update from non-nil value to an empty string is forbidden"));
        }
    }
}

type Check = fn(&Value, &Path, &Source<'_>, &mut Errs);

/// Sources of a PersistentVolume, in upstream's order: field, path child when one too many, path child when checked.
const SOURCES: &[(&str, &str, &str, Check)] = &[
    ("hostPath", "hostPath", "hostPath", volume::host_path),
    ("gcePersistentDisk", "gcePersistentDisk", "persistentDisk", legacy::gce_disk),
    ("awsElasticBlockStore", "awsElasticBlockStore", "awsElasticBlockStore", legacy::aws_disk),
    ("glusterfs", "glusterfs", "glusterfs", legacy::glusterfs),
    ("flocker", "flocker", "flocker", legacy::flocker),
    ("nfs", "nfs", "nfs", legacy::nfs),
    ("rbd", "rbd", "rbd", legacy::rbd),
    ("quobyte", "quobyte", "quobyte", legacy::quobyte),
    ("cephfs", "cephFS", "cephfs", legacy::cephfs),
    ("iscsi", "iscsi", "iscsi", legacy::iscsi),
    ("cinder", "cinder", "cinder", legacy::cinder),
    ("fc", "fc", "fc", legacy::fc),
    ("flexVolume", "flexVolume", "flexVolume", legacy::flex),
    ("azureFile", "azureFile", "azureFile", legacy::azure_file),
    ("vsphereVolume", "vsphereVolume", "vsphereVolume", legacy::vsphere),
    ("photonPersistentDisk", "photonPersistentDisk", "photonPersistentDisk", legacy::photon),
    ("portworxVolume", "portworxVolume", "portworxVolume", legacy::portworx),
    ("azureDisk", "azureDisk", "azureDisk", legacy::azure_disk),
    ("scaleIO", "scaleIO", "scaleIO", legacy::scaleio),
    ("local", "local", "local", local),
    ("storageos", "storageos", "storageos", legacy::storageos),
    ("csi", "csi", "csi", csi),
];

fn local(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    if v.text("path").is_empty() {
        e.push(required(&p.child("path"), ""));
    } else {
        volume::no_backsteps(v.text("path"), &p.child("path"), e);
    }
}

fn csi(v: &Value, p: &Path, _: &Source<'_>, e: &mut Errs) {
    legacy::csi_driver_name(v.text("driver"), &p.child("driver"), e);
    need_text(e, p, v, "volumeHandle");
    for field in
        ["controllerPublishSecretRef", "controllerExpandSecretRef", "nodePublishSecretRef", "nodeExpandSecretRef"]
    {
        if v.has(field) {
            let (r, at) = (v.at(field), p.child(field));
            for (part, errors) in
                [("name", format::dns_subdomain(r.text("name"))), ("namespace", format::dns_label(r.text("namespace")))]
            {
                if r.text(part).is_empty() {
                    e.push(required(&at.child(part), ""));
                } else {
                    invalid_each(e, &at.child(part), r.text(part), errors);
                }
            }
        }
    }
}

/// Checks a PersistentVolume.
pub(crate) fn persistent_volume(obj: &Value, e: &mut Errs) {
    let (v, p) = (obj.at("spec"), Path::new("spec"));
    if v.list("accessModes").is_empty() {
        e.push(required(&p.child("accessModes"), ""));
    }
    access_modes(v, &p, e);
    let at = p.child("capacity");
    if is_empty(v.at("capacity")) {
        e.push(required(&at, ""));
    }
    let entries = v.entries("capacity");
    if entries.len() != 1 || entries[0].0 != "storage" {
        e.push(not_supported(&at, v.at("capacity").clone(), &["storage"]));
    }
    for (k, q) in entries {
        if let Some(q) = quantities::parse(q)
            && (q.is_zero() || q.is_negative())
        {
            if q.is_negative() {
                e.push(invalid(&at.key(k), q.value(), "must be a valid resource quantity"));
            }
            e.push(invalid(&at.key(k), q.to_string(), "must be greater than zero"));
        }
    }
    let policy = v.text("persistentVolumeReclaimPolicy");
    if !policy.is_empty() && !RECLAIM.contains(&policy) {
        e.push(not_supported(&p.child("persistentVolumeReclaimPolicy"), policy, RECLAIM));
    }
    if v.has("nodeAffinity") {
        let at = p.child("nodeAffinity").child("required");
        if v.at("nodeAffinity").has("required") {
            node_selector(v.at("nodeAffinity").at("required"), &at, e);
        } else {
            e.push(required(&at, "must specify required node constraints"));
        }
    }
    let name = obj.at("metadata").text("name");
    let mut seen = 0;
    for (field, many, one, check) in SOURCES {
        if !v.has(field) {
            continue;
        }
        if seen > 0 && *field != "flexVolume" {
            e.push(forbidden(&p.child(many), "may not specify more than 1 volume type"));
            continue;
        }
        seen += 1;
        check(v.at(field), &p.child(one), &Source { volume_name: name, pod_name: None, is_pod: false }, e);
        if *field == "local" && !v.has("nodeAffinity") {
            e.push(required(&p.child("nodeAffinity"), "Local volume requires node affinity"));
        }
    }
    if seen == 0 {
        e.push(required(&p, "must specify a volume type"));
    }
    let path = v.at("hostPath").text("path");
    if v.has("hostPath") && !path.is_empty() && path.chars().all(|c| c == '/') && policy == "Recycle" {
        let why = "may not be 'recycle' for a hostPath mount of '/'";
        e.push(forbidden(&p.child("persistentVolumeReclaimPolicy"), why));
    }
    if !v.text("storageClassName").is_empty() {
        subdomain(v.text("storageClassName"), &p.child("storageClassName"), e);
    }
    if v.has("volumeMode") && !VOLUME_MODES.contains(&v.text("volumeMode")) {
        e.push(not_supported(&p.child("volumeMode"), v.text("volumeMode"), VOLUME_MODES));
    }
    if v.has("volumeAttributesClassName") {
        let at = p.child("volumeAttributesClassName");
        if v.text("volumeAttributesClassName").is_empty() {
            e.push(required(&at, "an empty string is disallowed"));
        } else {
            subdomain(v.text("volumeAttributesClassName"), &at, e);
        }
        if !v.has("csi") {
            e.push(required(&p.child("csi"), "has to be specified when using volumeAttributesClassName"));
        }
    }
}

/// Checks an update of a PersistentVolume: its source stays.
pub(crate) fn persistent_volume_update(new: &Value, old: &Value, e: &mut Errs) {
    persistent_volume(new, e);
    let (n, o) = (new.at("spec"), old.at("spec"));
    for (field, ..) in SOURCES {
        let mut now = n.at(field).clone();
        if *field == "csi" && !o.at("csi").has("controllerExpandSecretRef") {
            drop_key(&mut now, "controllerExpandSecretRef");
        }
        if !same(&now, o.at(field)) {
            let diff = changes(o.at(field), &now, 8);
            let why = format!("spec.persistentvolumesource is immutable after creation\n{diff}");
            e.push(forbidden(&Path::new("spec").child("persistentvolumesource"), why));
            break;
        }
    }
    immutable(e, &Path::new("volumeMode"), n.at("volumeMode"), o.at("volumeMode"));
    if o.has("nodeAffinity") && !same(n.at("nodeAffinity"), o.at("nodeAffinity")) {
        let why = format!("{IMMUTABLE}, except for updating from beta label to GA");
        e.push(invalid(&Path::new("nodeAffinity"), n.at("nodeAffinity").clone(), why));
    }
}

/// Fills a StorageClass.
pub(crate) fn default_class(obj: &mut Value) {
    default_to(obj, "reclaimPolicy", "Delete");
    default_to(obj, "volumeBindingMode", "Immediate");
}

/// Checks a StorageClass.
pub(crate) fn class(obj: &Value, e: &mut Errs) {
    let provisioner = obj.text("provisioner");
    if provisioner.is_empty() {
        e.push(required(&Path::new("provisioner"), provisioner));
    } else {
        let lower = provisioner.to_lowercase();
        invalid_each(e, &Path::new("provisioner"), provisioner, format::qualified_name(&lower));
    }
    let mut size = 0;
    let parameters = obj.entries("parameters");
    if parameters.len() > 512 {
        e.push(crate::errs::too_long(&Path::new("parameters"), 512));
        return;
    }
    for (k, v) in parameters {
        if k.is_empty() {
            e.push(invalid(&Path::new("parameters"), k, "field can not be empty."));
        }
        size += k.len() + v.as_str().map_or(0, str::len);
    }
    if size > 256 * 1024 {
        e.push(crate::errs::too_long(&Path::new("parameters"), 256 * 1024));
    }
    if obj.has("reclaimPolicy") && !["Delete", "Retain"].contains(&obj.text("reclaimPolicy")) {
        e.push(not_supported(&Path::new("reclaimPolicy"), obj.text("reclaimPolicy"), &["Delete", "Retain"]));
    }
    one_of(e, &Path::new("volumeBindingMode"), obj.text("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"]);
}

/// Checks an update of a StorageClass: what volumes were made with stays.
pub(crate) fn class_update(new: &Value, old: &Value, e: &mut Errs) {
    let (now, was) = (new.at("parameters"), old.at("parameters"));
    let both_empty = is_empty(now) && is_empty(was);
    if !both_empty && !same(now, was) {
        e.push(forbidden(&Path::new("parameters"), "updates to parameters are forbidden."));
    }
    if new.text("provisioner") != old.text("provisioner") {
        e.push(forbidden(&Path::new("provisioner"), "updates to provisioner are forbidden."));
    }
    if new.text("reclaimPolicy") != old.text("reclaimPolicy") {
        e.push(forbidden(&Path::new("reclaimPolicy"), "updates to reclaimPolicy are forbidden."));
    }
    immutable(e, &Path::new("volumeBindingMode"), new.at("volumeBindingMode"), old.at("volumeBindingMode"));
}

/// Fills a CSIDriver.
pub(crate) fn default_driver(obj: &mut Value) {
    if let Some(s) = object_mut(obj, "spec") {
        default_to(s, "attachRequired", true);
        default_to(s, "podInfoOnMount", false);
        default_to(s, "storageCapacity", false);
        default_to(s, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        default_to(s, "requiresRepublish", false);
        default_to(s, "seLinuxMount", false);
        if s.list("volumeLifecycleModes").is_empty() {
            put(s, "volumeLifecycleModes", serde_json::json!(["Persistent"]));
        }
    }
}

/// Checks a CSIDriver.
pub(crate) fn driver(obj: &Value, e: &mut Errs) {
    legacy::csi_driver_name(obj.at("metadata").text("name"), &Path::new("name"), e);
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    for (field, told) in [
        ("attachRequired", "attachedRequired"),
        ("podInfoOnMount", "podInfoOnMount"),
        ("storageCapacity", "storageCapacity"),
        ("seLinuxMount", "seLinuxMount"),
    ] {
        if !s.has(field) {
            e.push(required(&p.child(told), ""));
        }
    }
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    one_of(e, &p.child("fsGroupPolicy"), s.text("fsGroupPolicy"), &policies);
    for (i, m) in s.texts("volumeLifecycleModes").into_iter().enumerate() {
        if !["Ephemeral", "Persistent"].contains(&m) {
            e.push(not_supported(&p.child("volumeLifecycleModes").index(i), m, &["Ephemeral", "Persistent"]));
        }
    }
    let mut audiences = std::collections::BTreeSet::new();
    for (i, t) in s.list("tokenRequests").iter().enumerate() {
        let at = p.child("tokenRequests").index(i);
        if !audiences.insert(t.text("audience")) {
            e.push(crate::errs::duplicate(&at.child("audience"), t.text("audience")));
        }
        if let Some(seconds) = t.int("expirationSeconds") {
            if seconds < 600 {
                let why = "may not specify a duration less than 10 minutes";
                e.push(invalid(&at.child("expirationSeconds"), seconds, why));
            } else if seconds > 1 << 32 {
                let why = "may not specify a duration larger than 2^32 seconds";
                e.push(invalid(&at.child("expirationSeconds"), seconds, why));
            }
        }
    }
}

/// Checks an update of a CSIDriver.
pub(crate) fn driver_update(new: &Value, old: &Value, e: &mut Errs) {
    driver(new, e);
    let (n, o, p) = (new.at("spec"), old.at("spec"), Path::new("spec"));
    for (field, told) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")] {
        immutable(e, &p.child(told), n.at(field), o.at(field));
    }
}

/// Checks a CSINode: every driver named, once, with an id for the node.
pub(crate) fn csi_node(obj: &Value, e: &mut Errs) {
    let mut names = std::collections::BTreeSet::new();
    for (i, d) in obj.at("spec").list("drivers").iter().enumerate() {
        let at = Path::new("spec").child("drivers").index(i);
        legacy::csi_driver_name(d.text("name"), &at.child("name"), e);
        if d.text("nodeID").is_empty() {
            e.push(required(&at.child("nodeID"), ""));
        } else if d.text("nodeID").len() > 256 {
            e.push(invalid(&at.child("nodeID"), d.text("nodeID"), "must be 256 characters or less"));
        }
        if let Some(n) = d.at("allocatable").int("count") {
            crate::errs::non_negative(e, &at.child("allocatable").child("count"), n);
        }
        for key in d.texts("topologyKeys") {
            invalid_each(e, &at, key, format::qualified_name(key));
        }
        if !names.insert(d.text("name")) {
            e.push(crate::errs::duplicate(&at.child("name"), d.text("name")));
        }
    }
}

/// Checks a VolumeAttachment.
pub(crate) fn attachment(obj: &Value, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    let attacher = s.text("attacher");
    if attacher.is_empty() {
        e.push(required(&p.child("attacher"), attacher));
    } else {
        invalid_each(e, &p.child("attacher"), attacher, format::qualified_name(&attacher.to_lowercase()));
    }
    let (source, at) = (s.at("source"), p.child("source"));
    match (source.has("inlineVolumeSpec"), source.text("persistentVolumeName")) {
        (false, "") if !source.has("persistentVolumeName") => {
            e.push(required(&at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"));
        }
        (true, _) if source.has("persistentVolumeName") => {
            e.push(forbidden(&at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"));
        }
        (false, "") => {
            e.push(required(&at.child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
        }
        (false, name) => subdomain(name, &at.child("persistentVolumeName"), e),
        (true, _) => {}
    }
    subdomain(s.text("nodeName"), &p.child("nodeName"), e);
}

/// Fills the claim templates of a StatefulSet.
pub(crate) fn default_claim_templates(spec: &mut Value) {
    each(spec, "volumeClaimTemplates", |t| {
        put(t, "apiVersion", "v1".into());
        put(t, "kind", "PersistentVolumeClaim".into());
        object_mut(t, "metadata");
        default_claim(t);
    });
}

/// Checks a VolumeAttributesClass; what volumes were changed with stays.
pub(crate) fn attributes_class(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    if let Some(old) = old {
        for field in ["driverName", "parameters"] {
            immutable(e, &Path::new(field), obj.at(field), old.at(field));
        }
        return;
    }
    legacy::csi_driver_name(obj.text("driverName"), &Path::new("driverName"), e);
    if obj.entries("parameters").is_empty() {
        e.push(required(&Path::new("parameters"), "must contain at least one key/value pair"));
    }
}

/// Checks a CSIStorageCapacity: of one class in one place.
pub(crate) fn storage_capacity(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let class = obj.text("storageClassName");
    invalid_each(e, &Path::new("storageClassName"), class, format::dns_subdomain(class));
    label_selector(obj.at("nodeTopology"), &Path::new("nodeTopology"), e);
    for field in ["capacity", "maximumVolumeSize"] {
        if quantities::is_negative(obj.at(field)) {
            let told = quantities::canonical(obj.at(field)).unwrap_or_default();
            e.push(invalid(&Path::new(field), told, crate::errs::NOT_NEGATIVE));
        }
    }
    if let Some(old) = old {
        for field in ["nodeTopology", "storageClassName"] {
            immutable(e, &Path::new(field), obj.at(field), old.at(field));
        }
    }
}
