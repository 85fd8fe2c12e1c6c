//! Fields filled in when a Pod, a template or a claim inside one is decoded.

use serde_json::{Value, json};

use super::CONTAINER_LISTS;
use crate::quantities::{normalize, normalize_list, normalize_requirements};
use crate::walk::{Walk, default_num, default_text, default_to, each, is_empty, object_mut, put, with};

/// Fills a Pod.
pub(crate) fn pod(obj: &mut Value) {
    if object_mut(obj, "spec").is_none() {
        return;
    }
    with(obj, "spec", |s| {
        spec(s);
        for list in ["containers", "initContainers"] {
            each(s, list, requests_from_limits);
        }
        pod_level_requests(s);
        default_to(s, "enableServiceLinks", true);
        if s.is_true("hostNetwork") {
            for list in ["containers", "initContainers"] {
                each(s, list, |c| {
                    each(c, "ports", |p| {
                        let own = p.num("containerPort");
                        if own != 0 {
                            default_num(p, "hostPort", own);
                        }
                    });
                });
            }
        }
    });
}

/// Fills the template at `key`, made if missing.
pub(crate) fn template(owner: &mut Value, key: &str) {
    let Some(t) = object_mut(owner, key) else { return };
    if let Some(meta) = object_mut(t, "metadata") {
        crate::meta::tidy(meta);
    }
    if let Some(s) = object_mut(t, "spec") {
        spec(s);
    }
}

/// Fills what Pods and templates share.
fn spec(s: &mut Value) {
    default_text(s, "dnsPolicy", "ClusterFirst");
    default_text(s, "restartPolicy", "Always");
    default_to(s, "securityContext", json!({}));
    default_to(s, "terminationGracePeriodSeconds", 30);
    default_text(s, "schedulerName", "default-scheduler");
    // The old and the new name of one field; the new one wins.
    if s.text("serviceAccountName").is_empty() && !s.text("serviceAccount").is_empty() {
        put(s, "serviceAccountName", s.at("serviceAccount").clone());
    }
    if !s.text("serviceAccountName").is_empty() {
        put(s, "serviceAccount", s.at("serviceAccountName").clone());
    }
    normalize_list(s, "overhead");
    with(s, "resources", normalize_requirements);
    each(s, "volumes", volume);
    for list in CONTAINER_LISTS {
        each(s, list, container);
    }
}

fn container(c: &mut Value) {
    if c.text("imagePullPolicy").is_empty() {
        put(c, "imagePullPolicy", pull_policy(c.text("image")).into());
    }
    default_text(c, "terminationMessagePath", "/dev/termination-log");
    default_text(c, "terminationMessagePolicy", "File");
    default_to(c, "resources", json!({}));
    with(c, "resources", normalize_requirements);
    each(c, "ports", |p| default_text(p, "protocol", "TCP"));
    each(c, "env", |v| with(v, "valueFrom", field_refs));
    for p in ["livenessProbe", "readinessProbe", "startupProbe"] {
        with(c, p, probe);
    }
    with(c, "lifecycle", |l| {
        for hook in ["postStart", "preStop"] {
            with(l, hook, handler);
        }
    });
}

fn probe(p: &mut Value) {
    default_num(p, "timeoutSeconds", 1);
    default_num(p, "periodSeconds", 10);
    default_num(p, "successThreshold", 1);
    default_num(p, "failureThreshold", 3);
    with(p, "grpc", |g| default_to(g, "service", ""));
    handler(p);
}

fn handler(h: &mut Value) {
    with(h, "httpGet", |g| {
        default_text(g, "path", "/");
        default_text(g, "scheme", "HTTP");
    });
}

fn field_refs(v: &mut Value) {
    with(v, "fieldRef", |f| default_text(f, "apiVersion", "v1"));
    with(v, "resourceFieldRef", resource_field);
}

fn resource_field(f: &mut Value) {
    default_to(f, "divisor", "0");
    normalize(f, "divisor");
}

/// `Always` for an image tagged latest or not tagged at all, `IfNotPresent` otherwise.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(n, _)| (n, true));
    let last = name.rsplit('/').next().unwrap_or("");
    match last.rsplit_once(':') {
        Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
        None if digest || image.is_empty() => "IfNotPresent",
        None => "Always",
    }
}

fn volume(v: &mut Value) {
    if !super::volume::source_fields().any(|f| v.has(f)) {
        put(v, "emptyDir", json!({}));
    }
    with(v, "emptyDir", |x| normalize(x, "sizeLimit"));
    for field in ["secret", "configMap"] {
        with(v, field, |x| default_to(x, "defaultMode", 0o644));
    }
    with(v, "downwardAPI", |x| {
        default_to(x, "defaultMode", 0o644);
        each(x, "items", field_refs);
    });
    with(v, "projected", |x| {
        default_to(x, "defaultMode", 0o644);
        each(x, "sources", |s| {
            with(s, "serviceAccountToken", |t| default_to(t, "expirationSeconds", 3600));
            with(s, "downwardAPI", |d| each(d, "items", field_refs));
        });
    });
    with(v, "image", |x| {
        if x.text("pullPolicy").is_empty() {
            put(x, "pullPolicy", pull_policy(x.text("reference")).into());
        }
    });
    with(v, "ephemeral", |x| {
        with(x, "volumeClaimTemplate", |t| {
            object_mut(t, "metadata");
            if let Some(spec) = object_mut(t, "spec") {
                crate::volumes::default_claim_spec(spec);
            }
        });
    });
    storage(v);
}

/// Fills the volume sources that Pods and PersistentVolumes share.
pub(crate) fn storage(v: &mut Value) {
    with(v, "hostPath", |x| default_to(x, "type", ""));
    with(v, "iscsi", |x| default_text(x, "iscsiInterface", "default"));
    with(v, "rbd", |x| {
        default_text(x, "pool", "rbd");
        default_text(x, "user", "admin");
        default_text(x, "keyring", "/etc/ceph/keyring");
    });
    with(v, "azureDisk", |x| {
        default_to(x, "cachingMode", "ReadWrite");
        default_to(x, "kind", "Shared");
        default_to(x, "fsType", "ext4");
        default_to(x, "readOnly", false);
    });
    with(v, "scaleIO", |x| {
        default_text(x, "storageMode", "ThinProvisioned");
        default_text(x, "fsType", "xfs");
    });
}

/// A limit without a request is also the request (Pods only, not templates).
fn requests_from_limits(c: &mut Value) {
    with(c, "resources", |r| {
        let limits = r.at("limits").clone();
        let Value::Object(limits) = limits else { return };
        if limits.is_empty() {
            return;
        }
        if let Some(requests) = object_mut(r, "requests") {
            for (k, q) in limits {
                default_to(requests, &k, q);
            }
        }
    });
}

/// Requests of the whole Pod, if only limits (or hugepages of its containers) were given (KEP-2837).
fn pod_level_requests(s: &mut Value) {
    if is_empty(s.at("resources").at("limits")) && is_empty(s.at("resources").at("requests")) {
        return;
    }
    let huge: Vec<_> =
        super::spec::aggregate(s, "limits").into_iter().filter(|(k, _)| k.starts_with("hugepages-")).collect();
    let wanted = super::spec::aggregate_requests(s);
    with(s, "resources", |r| {
        for (k, q) in huge {
            if !r.at("requests").has(&k)
                && let Some(limits) = object_mut(r, "limits")
            {
                default_to(limits, &k, q.to_string());
            }
        }
        let limits = r.at("limits").clone();
        if is_empty(&limits) {
            return;
        }
        if let Some(requests) = object_mut(r, "requests") {
            for (k, q) in wanted {
                if ["cpu", "memory"].contains(&k.as_str()) {
                    default_to(requests, &k, q.to_string());
                }
            }
            for (k, q) in limits.as_object().into_iter().flatten() {
                if ["cpu", "memory"].contains(&k.as_str()) || k.starts_with("hugepages-") {
                    default_to(requests, k, q.clone());
                }
            }
        }
    });
}
