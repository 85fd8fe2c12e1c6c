//! What a write sets itself and what it ignores of the request, before admission and validation.

use serde_json::Value;
use strake_machinery::Kind;

use crate::kinds::{Generation, Row, is_custom, new_status, row_of};
use crate::pod::lifecycle as pod_lifecycle;
use crate::walk::{Walk, drop_key, entries, put, same};
use crate::{certificates, core_kinds, crd, has_status, meta, service, volumes, workload};

/// Prepares a new object: clears what a client may not set (status, generation, deletion fields), gives it its first
/// generation and status.
///
/// Call it after `default`, when `metadata.name`, `uid` and `creationTimestamp` are set: Jobs select their Pods by uid.
pub fn prepare_create(kind: &Kind, obj: &mut Value) {
    if !obj.is_object() {
        return;
    }
    let row = row_of(kind);
    meta::prepare_create(obj, row.generation != Generation::None);
    if !kind.namespaced {
        meta::drop_namespace(obj);
    }
    if is_custom(kind) {
        if has_status(kind) {
            drop_key(obj, "status");
        }
        return;
    }
    if let Some(status) = new_status(&row) {
        put(obj, "status", status);
    }
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Pod") => pod_lifecycle::prepare_create(obj),
        ("", "Service") => service::prepare_create(obj),
        ("", "Namespace") => core_kinds::create_namespace(obj),
        ("", "PersistentVolume") => volumes::create_volume(obj),
        ("apps" | "batch", name) => workload::prepare_create(name, obj),
        ("certificates.k8s.io", "CertificateSigningRequest") => certificates::prepare_create(obj),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd::prepare_create(obj),
        _ => {}
    }
}

/// Prepares an update of `subresource` (`""`: the object proper; `"status"`, ...): takes over from `old` what
/// the part may not write, and moves the generation if the desired state changed.
///
/// Two transitions record when they happened (a volume's phase, a certificate request's conditions): those read the
/// clock, once.
pub fn prepare_update(kind: &Kind, new: &mut Value, old: &Value, subresource: &str) {
    if !new.is_object() {
        return;
    }
    let subresource = Some(subresource).filter(|s| !s.is_empty());
    let row = row_of(kind);
    if !kind.namespaced {
        meta::drop_namespace(new);
    }
    meta::prepare_update(new, old);
    let (group, name) = (kind.group.as_str(), kind.kind.as_str());
    match (group, name, subresource) {
        ("", "Pod", part) => {
            let part = match part {
                Some("status") => pod_lifecycle::Part::Status,
                Some("ephemeralcontainers") => pod_lifecycle::Part::EphemeralContainers,
                Some("resize") => pod_lifecycle::Part::Resize,
                _ => pod_lifecycle::Part::Main,
            };
            pod_lifecycle::prepare_update(new, old, part);
            return;
        }
        ("certificates.k8s.io", "CertificateSigningRequest", part) => {
            certificates::prepare_update(new, old, request_part(part), &now());
            return;
        }
        (_, _, Some("status")) => {
            only_status(kind, new, old);
            if name == "PersistentVolume" && new.at("status").text("phase") != old.at("status").text("phase") {
                crate::walk::with(new, "status", |s| put(s, "lastPhaseTransitionTime", now().into()));
            }
            return;
        }
        ("", "Namespace", Some("finalize")) => put(new, "status", old.at("status").clone()),
        ("", "Namespace", _) => {
            put(new, "status", old.at("status").clone());
            let finalizers = old.at("spec").at("finalizers").clone();
            if let Some(spec) = crate::walk::object_mut(new, "spec") {
                put(spec, "finalizers", finalizers);
            }
        }
        ("", "Service", _) => service::prepare_update(new, old),
        ("apiextensions.k8s.io", "CustomResourceDefinition", _) => {
            put(new, "status", old.at("status").clone());
            crd::prepare_update(new, old);
        }
        _ if has_status(kind) => put(new, "status", old.at("status").clone()),
        _ => {}
    }
    if !is_custom(kind) && ["apps", "batch"].contains(&group) {
        workload::prepare_update(name, new, old);
    }
    if moved(&row, new, old) {
        meta::bump_generation(new, old);
    }
}

fn now() -> String {
    strake_machinery::time::format_seconds(jiff::Timestamp::now())
}

/// Which part of a CertificateSigningRequest a subresource is.
pub(crate) fn request_part(subresource: Option<&str>) -> certificates::Part {
    match subresource {
        Some("status") => certificates::Part::Status,
        Some("approval") => certificates::Part::Approval,
        _ => certificates::Part::Main,
    }
}

/// A status update leaves everything else as it was. Custom resources keep their metadata too.
fn only_status(kind: &Kind, new: &mut Value, old: &Value) {
    let status = new.at("status").clone();
    let mut metadata = new.at("metadata").clone();
    if is_custom(kind) {
        let (version, managed) = (metadata.at("resourceVersion").clone(), metadata.at("managedFields").clone());
        metadata = old.at("metadata").clone();
        put(&mut metadata, "resourceVersion", version);
        put(&mut metadata, "managedFields", managed);
    } else if kind.is("apps", "Deployment") {
        put(&mut metadata, "labels", old.at("metadata").at("labels").clone());
    }
    for (k, _) in entries(&new.clone()) {
        if !["apiVersion", "kind"].contains(&k) {
            drop_key(new, k);
        }
    }
    for (k, v) in entries(old) {
        if !["apiVersion", "kind", "metadata", "status"].contains(&k) {
            put(new, k, v.clone());
        }
    }
    put(new, "metadata", metadata);
    put(new, "status", status);
}

fn moved(row: &Row, new: &Value, old: &Value) -> bool {
    let differ = |field: &str| !same(new.at(field), old.at(field));
    let metadata = |field: &str| !same(&at_meta(new, field), &at_meta(old, field));
    match row.generation {
        Generation::None | Generation::Fixed => false,
        Generation::Spec => differ("spec"),
        Generation::SpecOrAnnotations => differ("spec") || metadata("annotations"),
        Generation::Content => !core_kinds::same_content(new, old) || metadata("labels"),
        Generation::AllButStatus => {
            let strip = |v: &Value| {
                let mut v = v.clone();
                drop_key(&mut v, "metadata");
                drop_key(&mut v, "status");
                v
            };
            strip(new) != strip(old)
        }
    }
}

fn at_meta(v: &Value, field: &str) -> Value {
    match v.at("metadata").at(field) {
        Value::Null => serde_json::json!({}),
        other => other.clone(),
    }
}
