//! `metadata`: what the system owns of it, what an update may change, and the checks every kind shares.

use std::collections::BTreeSet;

use serde_json::Value;
use strake_machinery::field::Path;

use crate::errs::{Errs, forbidden, immutable, invalid, invalid_each, non_negative, required, too_long};
use crate::format::{self, NameRule};
use crate::selector::labels;
use crate::walk::{Walk, drop_key, is_empty, object_mut, put};

/// Bytes of all annotation keys and values together.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// Clears what a client may not set when it creates an object. The caller then sets uid and creationTimestamp.
pub(crate) fn prepare_create(obj: &mut Value, generation: bool) {
    let Some(meta) = object_mut(obj, "metadata") else { return };
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"] {
        drop_key(meta, field);
    }
    if generation {
        put(meta, "generation", 1.into());
    }
}

/// Carries over what an update may not change. A uid or resourceVersion that differs is left for validation and the
/// store to refuse.
pub(crate) fn prepare_update(new: &mut Value, old: &Value) {
    let Some(meta) = object_mut(new, "metadata") else { return };
    let old = old.at("metadata");
    drop_key(meta, "selfLink");
    put(meta, "generation", old.at("generation").clone());
    put(meta, "creationTimestamp", old.at("creationTimestamp").clone());
    // An unconditional update is of whatever is stored; the kinds that have none are the API server's to refuse.
    for field in ["uid", "name", "namespace", "resourceVersion"] {
        if meta.text(field).is_empty() {
            put(meta, field, old.at(field).clone());
        }
    }
    if old.has("deletionTimestamp") {
        put(meta, "deletionTimestamp", old.at("deletionTimestamp").clone());
    }
    if old.has("deletionGracePeriodSeconds") && !meta.has("deletionGracePeriodSeconds") {
        put(meta, "deletionGracePeriodSeconds", old.at("deletionGracePeriodSeconds").clone());
    }
}

/// What a request to a path without a namespace says of one is not an error, and forgotten.
pub(crate) fn drop_namespace(obj: &mut Value) {
    if obj.at("metadata").has("namespace")
        && let Some(meta) = object_mut(obj, "metadata")
    {
        drop_key(meta, "namespace");
    }
}

/// One more than the old generation.
pub(crate) fn bump_generation(new: &mut Value, old: &Value) {
    let next = old.at("metadata").num("generation").saturating_add(1);
    if let Some(meta) = object_mut(new, "metadata") {
        put(meta, "generation", next.into());
    }
}

/// Empty maps and lists that a typed client would not have sent.
pub(crate) fn tidy(meta: &mut Value) {
    for field in ["labels", "annotations", "finalizers", "ownerReferences", "managedFields", "name", "generateName"] {
        if is_empty(meta.at(field)) {
            drop_key(meta, field);
        }
    }
}

/// Checks the metadata of a new object; names must have been generated.
pub(crate) fn validate(obj: &Value, namespaced: bool, rule: NameRule, e: &mut Errs) {
    let (meta, p) = (obj.at("metadata"), Path::new("metadata"));
    let (name, prefix, namespace) = (meta.text("name"), meta.text("generateName"), meta.text("namespace"));
    if !prefix.is_empty() {
        invalid_each(e, &p.child("generateName"), prefix, rule.errors(prefix, true));
    }
    if name.is_empty() {
        e.push(required(&p.child("name"), "name or generateName is required"));
    } else {
        invalid_each(e, &p.child("name"), name, rule.errors(name, false));
    }
    if namespaced {
        if namespace.is_empty() {
            e.push(required(&p.child("namespace"), ""));
        } else {
            invalid_each(e, &p.child("namespace"), namespace, format::dns_label(namespace));
        }
    } else if !namespace.is_empty() {
        e.push(forbidden(&p.child("namespace"), "not allowed on this type"));
    }
    non_negative(e, &p.child("generation"), meta.num("generation"));
    common(meta, &p, e);
    finalizers(meta, &p.child("finalizers"), e);
    managed_fields(meta, &p.child("managedFields"), e);
    qualified_finalizers(meta, &p.child("finalizers"), e);
}

/// Checks the metadata of an update.
pub(crate) fn validate_update(new: &Value, old: &Value, e: &mut Errs) {
    let (new, old, p) = (new.at("metadata"), old.at("metadata"), Path::new("metadata"));
    if old.has("deletionTimestamp") {
        let had: BTreeSet<&str> = old.texts("finalizers").into_iter().collect();
        let extra: Vec<String> = new
            .texts("finalizers")
            .into_iter()
            .filter(|f| !had.contains(f))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .map(|f| format!("{f:?}"))
            .collect();
        if !extra.is_empty() {
            let why = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                extra.join(", ")
            );
            e.push(forbidden(&p.child("finalizers"), why));
        }
    }
    if new.text("resourceVersion").is_empty() {
        e.push(invalid(&p.child("resourceVersion"), "", "must be specified for an update"));
    }
    if new.num("generation") < old.num("generation") {
        e.push(invalid(&p.child("generation"), new.num("generation"), "must not be decremented"));
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        immutable(e, &p.child(field), new.at(field), old.at(field));
    }
    common(new, &p, e);
    managed_fields(new, &p.child("managedFields"), e);
    qualified_finalizers(new, &p.child("finalizers"), e);
}

fn common(meta: &Value, p: &Path, e: &mut Errs) {
    labels(meta.at("labels"), &p.child("labels"), e);
    annotations(meta.at("annotations"), &p.child("annotations"), e);
    owners(meta.list("ownerReferences"), &p.child("ownerReferences"), e);
}

/// Checks annotation keys, in any case, and the size of all together.
pub(crate) fn annotations(map: &Value, p: &Path, e: &mut Errs) {
    let mut size = 0;
    for (k, v) in crate::walk::entries(map) {
        invalid_each(e, p, k, format::qualified_name(&k.to_lowercase()));
        size += k.len() + v.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_LIMIT {
        e.push(too_long(p, ANNOTATIONS_LIMIT));
    }
}

fn owners(list: &[Value], p: &Path, e: &mut Errs) {
    let mut controller: Option<String> = None;
    for owner in list {
        let (api, kind) = (owner.text("apiVersion"), owner.text("kind"));
        let version = api.rsplit_once('/').map_or(api, |(_, v)| v);
        if version.is_empty() {
            e.push(invalid(&p.child("apiVersion"), api, "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                e.push(invalid(&p.child(field), "", "must not be empty"));
            }
        }
        if api == "v1" && kind == "Event" {
            e.push(invalid(p, owner.clone(), "/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner.is_true("controller") {
            let this = format!("{kind}/{}", owner.text("name"));
            match &controller {
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    e.push(invalid(p, list.to_vec(), why));
                }
                None => controller = Some(this),
            }
        }
    }
}

fn finalizers(meta: &Value, p: &Path, e: &mut Errs) {
    let all = meta.texts("finalizers");
    for f in &all {
        finalizer_name(f, p, e);
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        let why = "finalizer orphan and foregroundDeletion cannot be both set";
        e.push(invalid(p, meta.list("finalizers").to_vec(), why));
    }
}

/// A finalizer's name is a qualified name.
pub(crate) fn finalizer_name(name: &str, p: &Path, e: &mut Errs) {
    invalid_each(e, p, name, format::qualified_name(name));
}

/// A finalizer without a domain must be one of Kubernetes' own.
pub(crate) fn standard_or_qualified(name: &str, p: &Path, e: &mut Errs) {
    if !name.contains('/') && !["kubernetes", "orphan", "foregroundDeletion"].contains(&name) {
        e.push(invalid(p, name, "name is neither a standard finalizer name nor is it fully qualified"));
    }
}

fn qualified_finalizers(meta: &Value, p: &Path, e: &mut Errs) {
    for (i, f) in meta.texts("finalizers").into_iter().enumerate() {
        standard_or_qualified(f, &p.index(i), e);
    }
}

fn managed_fields(meta: &Value, p: &Path, e: &mut Errs) {
    for (i, f) in meta.list("managedFields").iter().enumerate() {
        let at = p.index(i);
        if !["Apply", "Update"].contains(&f.text("operation")) {
            let why = "must be `Apply` or `Update`";
            e.push(invalid(&at.child("operation"), f.text("operation"), why));
        }
        if !["", "FieldsV1"].contains(&f.text("fieldsType")) {
            e.push(invalid(&at.child("fieldsType"), f.text("fieldsType"), "must be `FieldsV1`"));
        }
        let manager = f.text("manager");
        if manager.len() > 128 {
            e.push(too_long(&at.child("manager"), 128));
        }
        if manager.chars().any(char::is_control) {
            e.push(invalid(&at.child("manager"), manager, "should only contain printable characters"));
        }
    }
}

/// The metadata of an embedded template may hold labels and annotations only.
pub(crate) fn template_meta(meta: &Value, p: &Path, e: &mut Errs) {
    annotations(meta.at("annotations"), &p.child("annotations"), e);
    labels(meta.at("labels"), &p.child("labels"), e);
    for (k, v) in crate::walk::entries(meta) {
        if !["labels", "annotations"].contains(&k) && !is_empty(v) {
            e.push(forbidden(&p.child(k), "cannot be set"));
        }
    }
}
