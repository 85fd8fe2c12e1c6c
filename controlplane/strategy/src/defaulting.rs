//! Which kind is filled by what. Idempotent: filling a filled object changes nothing.

use serde_json::{Value, json};
use strake_machinery::Kind;
use strake_machinery::schema::Schema;

use crate::walk::{Walk, default_text, default_to, drop_zeroes, object_mut, put, strip_nulls, with};
use crate::{
    certificates, classes, core_kinds, crd, devices, discovery, flowcontrol, kinds, meta, networking, node, pod, quota,
    rbac, scaling, service, volumes, webhooks, workload,
};

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
        _ => {
            strip_nulls(obj, &["status"]);
            // A struct by value: a typed decoder has it even if nothing was sent.
            if !obj.has("spec") && has_spec(kind) {
                put(obj, "spec", json!({}));
            }
            for field in ["spec", "template"] {
                with(obj, field, drop_zeroes);
            }
        }
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
        ("", "ResourceQuota") => quota::default_quota(obj),
        ("", "LimitRange") => quota::default_limits(obj),
        ("discovery.k8s.io", "EndpointSlice") => discovery::default(obj),
        ("networking.k8s.io", "NetworkPolicy") => networking::default_policy(obj),
        ("networking.k8s.io", "IngressClass") => networking::default_class(obj),
        ("rbac.authorization.k8s.io", "RoleBinding" | "ClusterRoleBinding") => rbac::default_binding(obj),
        ("autoscaling", "HorizontalPodAutoscaler") => scaling::default_autoscaler(obj, &kind.version),
        ("node.k8s.io", "RuntimeClass") => classes::default_runtime(obj),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd::default(obj),
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => webhooks::default_configuration(obj, true),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => {
            webhooks::default_configuration(obj, false);
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy" | "MutatingAdmissionPolicy") => {
            webhooks::default_policy(obj);
        }
        ("admissionregistration.k8s.io", _) => webhooks::default_binding(obj),
        ("resource.k8s.io", _) => devices::default(name, obj),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => flowcontrol::default_schema(obj),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => flowcontrol::default_level(obj),
        ("apiregistration.k8s.io", "APIService") => webhooks::default_api_service(obj),
        _ => {}
    }
}

fn has_spec(kind: &Kind) -> bool {
    let schema = Schema::get();
    schema.of_kind(kind).is_some_and(|message| schema.json_field(message, "spec").is_some())
}
