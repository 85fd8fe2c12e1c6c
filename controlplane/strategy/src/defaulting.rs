//! Which kind is filled by what. Idempotent: filling a filled object changes nothing.

use serde_json::{Value, json};
use strake_machinery::Kind;

use crate::walk::{default_text, default_to, object_mut, strip_nulls};
use crate::{certificates, core_kinds, kinds, meta, node, pod, service, volumes, workload};

/// Fills what a decoder of the kind's version would fill, and takes away what a typed client would not have sent
/// (`null`s, empty metadata maps, quantities in a spelling of their own).
///
/// Call it on every decoded object, before and after admission changed it. Does nothing to custom resources: their
/// schema is their own.
pub fn default(kind: &Kind, obj: &mut Value) {
    if !obj.is_object() {
        return;
    }
    let (group, name) = (kind.group.as_str(), kind.kind.as_str());
    if let Some(m) = object_mut(obj, "metadata") {
        strip_nulls(m, &[]);
        meta::tidy(m);
    }
    if kinds::is_custom(kind) {
        return;
    }
    match (group, name) {
        // Raw JSON inside: an explicit null there means something.
        ("apps", "ControllerRevision") => strip_nulls(obj, &["data"]),
        ("apiextensions.k8s.io", _) => strip_nulls(obj, &["spec", "status"]),
        _ => strip_nulls(obj, &["status"]),
    }
    match (group, name) {
        ("", "Pod") => pod::defaults::pod(obj),
        ("", "PodTemplate") => pod::defaults::template(obj, "template"),
        ("", "Service") => service::default(obj),
        ("", "ConfigMap") => core_kinds::default_config_map(obj),
        ("", "Secret") => core_kinds::default_secret(obj),
        ("", "Namespace") => core_kinds::default_namespace(obj),
        ("", "Node") => node::default(obj),
        ("", "Endpoints") => core_kinds::default_endpoints(obj),
        ("", "PersistentVolume") => volumes::default_volume(obj),
        ("", "PersistentVolumeClaim") => volumes::default_claim(obj),
        ("apps" | "batch", _) | ("", "ReplicationController") => workload::default(group, name, obj),
        ("storage.k8s.io", "StorageClass") => volumes::default_class(obj),
        ("storage.k8s.io", "CSIDriver") => volumes::default_driver(obj),
        ("certificates.k8s.io", _) => certificates::default(obj),
        ("scheduling.k8s.io", "PriorityClass") => {
            default_text(obj, "preemptionPolicy", "PreemptLowerPriority");
            default_to(obj, "value", json!(0));
        }
        _ => {}
    }
}
