//! Environment variables and the downward API's references. Does not know volumes.

use serde_json::Value;
use strake_machinery::field::Path;

use crate::errs::{Errs, invalid, invalid_each, not_supported, required};
use crate::format;
use crate::walk::Walk;

/// Where a field reference stands: the two places may read different fields.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum FieldRefUse {
    Env,
    Volume,
}

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const CONVERTIBLE: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Checks `env`.
pub(crate) fn env(vars: &[Value], p: &Path, e: &mut Errs) {
    for (i, var) in vars.iter().enumerate() {
        let at = p.index(i);
        let name = var.text("name");
        if name.is_empty() {
            e.push(required(&at.child("name"), ""));
        } else {
            invalid_each(e, &at.child("name"), name, format::env_var_name(name));
        }
        value_from(var, &at.child("valueFrom"), e);
    }
}

fn value_from(var: &Value, p: &Path, e: &mut Errs) {
    if !var.has("valueFrom") {
        return;
    }
    let from = var.at("valueFrom");
    let mut sources = 0;
    if from.has("fieldRef") {
        sources += 1;
        field_ref(from.at("fieldRef"), FieldRefUse::Env, &p.child("fieldRef"), e);
    }
    if from.has("resourceFieldRef") {
        sources += 1;
        resource_field_ref(from.at("resourceFieldRef"), false, &p.child("resourceFieldRef"), e);
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        if from.has(field) {
            sources += 1;
            key_selector(from.at(field), &p.child(field), e);
        }
    }
    if from.has("fileKeyRef") {
        sources += 1;
        file_key(from.at("fileKeyRef"), &p.child("fileKeyRef"), e);
    }
    if sources == 0 {
        e.push(invalid(
            p,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        ));
    } else if !var.text("value").is_empty() {
        e.push(invalid(p, "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        e.push(invalid(p, "", "may not have more than one field specified at a time"));
    }
}

fn key_selector(v: &Value, p: &Path, e: &mut Errs) {
    invalid_each(e, &p.child("name"), v.text("name"), format::dns_subdomain(v.text("name")));
    config_key(v.text("key"), &p.child("key"), e);
}

fn config_key(key: &str, p: &Path, e: &mut Errs) {
    if key.is_empty() {
        e.push(required(p, ""));
    } else {
        invalid_each(e, p, key, format::config_map_key(key));
    }
}

fn file_key(v: &Value, p: &Path, e: &mut Errs) {
    let (key, volume, path) = (v.text("key"), v.text("volumeName"), v.text("path"));
    if key.is_empty() {
        e.push(required(&p.child("key"), ""));
    } else {
        invalid_each(e, &p.child("key"), key, format::env_var_name(key));
    }
    if volume.is_empty() {
        e.push(required(&p.child("volumeName"), ""));
    } else {
        invalid_each(e, &p.child("volumeName"), volume, format::dns_label(volume));
    }
    if path.is_empty() {
        e.push(required(&p.child("path"), ""));
    } else {
        super::volume::local_path(path, &p.child("path"), e);
    }
}

/// Checks `envFrom`.
pub(crate) fn env_from(sources: &[Value], p: &Path, e: &mut Errs) {
    for (i, source) in sources.iter().enumerate() {
        let at = p.index(i);
        let prefix = source.text("prefix");
        if !prefix.is_empty() {
            invalid_each(e, &at.child("prefix"), prefix, format::env_var_name(prefix));
        }
        let mut seen = 0;
        for field in ["configMapRef", "secretRef"] {
            if source.has(field) {
                seen += 1;
                let name = source.at(field).text("name");
                let np = at.child(field).child("name");
                if name.is_empty() {
                    e.push(required(&np, ""));
                } else {
                    invalid_each(e, &np, name, format::dns_subdomain(format::without_trailing_dash(name)));
                }
            }
        }
        if seen == 0 {
            e.push(invalid(p, "", "must specify one of: `configMapRef` or `secretRef`"));
        } else if seen > 1 {
            e.push(invalid(p, "", "may not have more than one field specified at a time"));
        }
    }
}

/// Checks a reference to a field of the Pod itself.
pub(crate) fn field_ref(v: &Value, place: FieldRefUse, p: &Path, e: &mut Errs) {
    let (version, path) = (v.text("apiVersion"), v.text("fieldPath"));
    if version.is_empty() {
        e.push(required(&p.child("apiVersion"), ""));
        return;
    }
    if path.is_empty() {
        e.push(required(&p.child("fieldPath"), ""));
        return;
    }
    let subscript = subscripted(path);
    let base = subscript.map_or(path, |(base, _)| base);
    if version != "v1" {
        let why = format!("error converting fieldPath: unsupported pod version: {version}");
        e.push(invalid(&p.child("fieldPath"), path, why));
        return;
    }
    if !CONVERTIBLE.contains(&base)
        || (subscript.is_some() && !["metadata.annotations", "metadata.labels"].contains(&base))
    {
        let why = format!("error converting fieldPath: field label not supported: {path}");
        e.push(invalid(&p.child("fieldPath"), path, why));
        return;
    }
    match subscript {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            invalid_each(e, p, &key, format::qualified_name(&key));
        }
        Some((_, key)) => invalid_each(e, p, key, format::qualified_name(key)),
        None => {
            let fields = if place == FieldRefUse::Env { ENV_FIELDS } else { VOLUME_FIELDS };
            if !fields.contains(&path) {
                e.push(not_supported(&p.child("fieldPath"), path, fields));
            }
        }
    }
}

/// Splits `metadata.labels['key']`.
fn subscripted(path: &str) -> Option<(&str, &str)> {
    let (base, key) = path.strip_suffix("']")?.split_once("['")?;
    (!base.is_empty()).then_some((base, key))
}

/// Checks a reference to a container's resources; in a volume it must name the container.
pub(crate) fn resource_field_ref(v: &Value, in_volume: bool, p: &Path, e: &mut Errs) {
    let resource = v.text("resource");
    let huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if in_volume && v.text("containerName").is_empty() {
        e.push(required(&p.child("containerName"), ""));
    } else if resource.is_empty() {
        e.push(required(&p.child("resource"), ""));
    } else if !RESOURCES.contains(&resource) && !huge {
        e.push(not_supported(&p.child("resource"), resource, RESOURCES));
    }
    divisor(resource, v.at("divisor"), &p.child("divisor"), e);
}

fn divisor(resource: &str, divisor: &Value, p: &Path, e: &mut Errs) {
    const BYTES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    if crate::quantities::is_zero_or_missing(divisor) {
        return;
    }
    let Some(text) = crate::quantities::canonical(divisor) else { return };
    let (good, what) = match resource.split_once('.').map_or("", |(_, r)| r) {
        "cpu" => {
            if !["1", "1m"].contains(&text.as_str()) {
                e.push(invalid(p, resource, "only divisor's values 1m and 1 are supported with the cpu resource"));
            }
            return;
        }
        "memory" => (BYTES, "memory"),
        "ephemeral-storage" => (BYTES, "local ephemeral storage"),
        r if r.starts_with("hugepages-") => (BYTES, "hugepages"),
        _ => return,
    };
    if !good.contains(&text.as_str()) {
        let why = format!("only divisor's values {} are supported with the {what} resource", BYTES.join(", "));
        e.push(invalid(p, resource, why));
    }
}
