//! Which kind is checked by what.

use serde_json::Value;
use strake_machinery::Kind;

use crate::errs::Errs;
use crate::kinds::{is_custom, row_of};
use crate::{
    FieldError, certificates, classes, core_kinds, crd, devices, discovery, flowcontrol, meta, networking, node, pod,
    prepare, quota, rbac, scaling, service_validate, volumes, webhooks, workload,
};

/// Everything wrong with a new object, in the order upstream tells it; empty if it may be stored.
pub fn validate_create(kind: &Kind, obj: &Value) -> Vec<FieldError> {
    let mut e = Errs::new();
    let (group, name) = (kind.group.as_str(), kind.kind.as_str());
    // These check their metadata themselves.
    match (group, name) {
        ("", "Pod") => {
            pod::update::validate_create(obj, &mut e);
            return e;
        }
        ("", "Service") => {
            service_validate::validate_create(obj, &mut e);
            return e;
        }
        _ => {}
    }
    meta::validate(obj, kind.namespaced, row_of(kind).names, &mut e);
    if is_custom(kind) {
        return e;
    }
    match (group, name) {
        ("", "Namespace") => core_kinds::namespace(obj, &mut e),
        ("", "Node") => node::validate_create(obj, &mut e),
        ("", "PodTemplate") => {
            pod::spec::template(crate::walk::Walk::at(obj, "template"), &"template".into(), &mut e);
        }
        ("apps" | "batch", _) | ("", "ReplicationController") => workload::validate(group, name, obj, None, &mut e),
        _ => content(group, name, obj, None, &mut e),
    }
    e
}

/// Checks that hold on creation and, with `old`, on update alike.
fn content(group: &str, name: &str, obj: &Value, old: Option<&Value>, e: &mut Errs) {
    match (group, name) {
        ("", "ConfigMap") => core_kinds::config_map(obj, e),
        ("", "Secret") => core_kinds::secret(obj, e),
        ("", "Endpoints") => core_kinds::endpoints(obj, e),
        ("", "Event") => core_kinds::event(obj, e),
        ("events.k8s.io", "Event") => {
            core_kinds::event(obj, e);
            match old {
                None => core_kinds::event_strict(obj, e),
                Some(old) => core_kinds::event_strict_update(obj, old, e),
            }
        }
        ("", "PersistentVolume") => volumes::persistent_volume(obj, e),
        ("", "PersistentVolumeClaim") => volumes::claim(obj, e),
        ("storage.k8s.io", "StorageClass") => volumes::class(obj, e),
        ("storage.k8s.io", "CSIDriver") => volumes::driver(obj, e),
        ("storage.k8s.io", "CSINode") => volumes::csi_node(obj, e),
        ("storage.k8s.io", "VolumeAttachment") => volumes::attachment(obj, e),
        ("storage.k8s.io", "VolumeAttributesClass") => volumes::attributes_class(obj, old, e),
        ("storage.k8s.io", "CSIStorageCapacity") => volumes::storage_capacity(obj, old, e),
        ("resource.k8s.io", _) => devices::validate(name, obj, old, e),
        ("certificates.k8s.io", "CertificateSigningRequest") => certificates::validate(obj, e),
        ("certificates.k8s.io", "ClusterTrustBundle") => certificates::trust_bundle(obj, e),
        ("", "ResourceQuota") => quota::quota(obj, old, e),
        ("", "LimitRange") => quota::limits(obj, e),
        ("discovery.k8s.io", "EndpointSlice") => discovery::validate(obj, old, e),
        ("networking.k8s.io", "NetworkPolicy") => networking::policy(obj, e),
        ("networking.k8s.io", "Ingress") => networking::ingress(obj, old, e),
        ("networking.k8s.io", "IngressClass") => networking::class(obj, old, e),
        ("networking.k8s.io", "ServiceCIDR") => networking::service_cidr(obj, old, e),
        ("networking.k8s.io", "IPAddress") => networking::ip_address(obj, old, e),
        ("rbac.authorization.k8s.io", "Role") => rbac::role(obj, true, e),
        ("rbac.authorization.k8s.io", "ClusterRole") => rbac::role(obj, false, e),
        ("rbac.authorization.k8s.io", "RoleBinding") => rbac::binding(obj, true, old, e),
        ("rbac.authorization.k8s.io", "ClusterRoleBinding") => rbac::binding(obj, false, old, e),
        ("autoscaling", "HorizontalPodAutoscaler") => scaling::autoscaler(obj, e),
        ("policy", "PodDisruptionBudget") => scaling::budget(obj, e),
        ("coordination.k8s.io", "Lease") => classes::lease(obj, e),
        ("scheduling.k8s.io", "PriorityClass") => classes::priority(obj, old, e),
        ("node.k8s.io", "RuntimeClass") => classes::runtime(obj, old, e),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => crd::validate(obj, old, e),
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration") => webhooks::configuration(obj, true, e),
        ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration") => webhooks::configuration(obj, false, e),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => webhooks::policy(obj, false, e),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicy") => webhooks::policy(obj, true, e),
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding") => webhooks::policy_binding(obj, false, e),
        ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding") => webhooks::policy_binding(obj, true, e),
        ("flowcontrol.apiserver.k8s.io", "FlowSchema") => flowcontrol::schema(obj, e),
        ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration") => flowcontrol::level(obj, e),
        ("apiregistration.k8s.io", "APIService") => webhooks::api_service(obj, e),
        _ => {}
    }
}

/// Everything wrong with an update of `subresource` (`""`: the object proper), in the order upstream tells it.
pub fn validate_update(kind: &Kind, new: &Value, old: &Value, subresource: &str) -> Vec<FieldError> {
    let subresource = Some(subresource).filter(|s| !s.is_empty());
    let mut e = Errs::new();
    let (group, name) = (kind.group.as_str(), kind.kind.as_str());
    match (group, name, subresource) {
        ("", "Pod", Some("status")) => pod::update::validate_status(new, old, &mut e),
        ("", "Pod", Some("ephemeralcontainers")) => pod::update::validate_ephemeral(new, old, &mut e),
        ("", "Pod", Some("resize")) => pod::update::validate_resize(new, old, &mut e),
        ("", "Pod", _) => pod::update::validate_update(new, old, &mut e),
        ("", "Service", Some("status")) => service_validate::validate_status(new, old, &mut e),
        ("", "Service", _) => service_validate::validate_update(new, old, &mut e),
        _ => {
            meta::validate_update(new, old, &mut e);
            if !is_custom(kind) {
                update(group, name, new, old, subresource, &mut e);
            }
        }
    }
    e
}

fn update(group: &str, name: &str, new: &Value, old: &Value, subresource: Option<&str>, e: &mut Errs) {
    match (group, name, subresource) {
        ("certificates.k8s.io", "CertificateSigningRequest", part) => {
            certificates::validate_update(new, old, prepare::request_part(part), e);
        }
        ("", "Namespace", Some("status")) => core_kinds::namespace_status(new, e),
        ("", "Namespace", Some("finalize")) => core_kinds::namespace_finalize(new, e),
        ("", "Namespace", _) => {}
        ("", "Node", _) => node::validate_update(new, old, e),
        ("apps" | "batch", _, Some("status")) | ("", "ReplicationController", Some("status")) => {
            workload::validate_status(name, new, old, e);
        }
        ("", "ResourceQuota", Some("status")) => quota::quota_status(new, e),
        ("networking.k8s.io", "Ingress", Some("status")) => networking::ingress_status(new, e),
        ("policy", "PodDisruptionBudget", Some("status")) => scaling::budget_status(new, e),
        (_, _, Some("status")) => {}
        ("apps" | "batch", ..) | ("", "ReplicationController", _) => {
            workload::validate(group, name, new, Some(old), e);
        }
        ("", "ConfigMap", _) => {
            core_kinds::frozen(new, old, &["data", "binaryData"], e);
            core_kinds::config_map(new, e);
        }
        ("", "Secret", _) => core_kinds::secret_update(new, old, e),
        ("", "PodTemplate", _) => {
            pod::spec::template(crate::walk::Walk::at(new, "template"), &"template".into(), e);
        }
        ("", "PersistentVolume", _) => volumes::persistent_volume_update(new, old, e),
        ("", "PersistentVolumeClaim", _) => volumes::claim_update(new, old, e),
        ("storage.k8s.io", "StorageClass", _) => volumes::class_update(new, old, e),
        ("storage.k8s.io", "CSIDriver", _) => volumes::driver_update(new, old, e),
        _ => content(group, name, new, Some(old), e),
    }
}
