//! What types and fields are for, in the words of the k8s-openapi crate: a megabyte of text in the binary. They are
//! collected for the kinds of one document, and dropped with it.

use std::collections::HashMap;

use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::registry::Kind;

/// Descriptions by schema name.
#[derive(Debug, Default)]
pub(super) struct Descriptions(HashMap<String, Value>);

impl Descriptions {
    /// The descriptions of these kinds and of everything they are made of.
    pub(super) fn of(kinds: &[&Kind]) -> Self {
        Descriptions(collect(kinds))
    }

    pub(super) fn of_type(&self, schema_name: &str) -> Option<&str> {
        self.0.get(schema_name)?.get("description")?.as_str()
    }

    pub(super) fn of_field(&self, schema_name: &str, field: &str) -> Option<&str> {
        self.0.get(schema_name)?.get("properties")?.get(field)?.get("description")?.as_str()
    }
}

fn collect(kinds: &[&Kind]) -> HashMap<String, Value> {
    let mut generator = SchemaSettings::openapi3().into_generator();
    macro_rules! add {
        ($($group:literal: $($path:ident)::+ { $($kind:ident),* })*) => {
            $({
                use k8s_openapi::$($path)::+ as package;
                $(if kinds.iter().any(|k| k.group == $group && k.kind == stringify!($kind)) {
                    generator.subschema_for::<package::$kind>();
                })*
            })*
        };
    }
    add! {
        "": api::core::v1 { ConfigMap, Endpoints, Event, LimitRange, Namespace, Node, PersistentVolumeClaim,
            PersistentVolume, Pod, PodTemplate, ReplicationController, ResourceQuota, Secret, ServiceAccount, Service }
        "apiregistration.k8s.io": kube_aggregator::pkg::apis::apiregistration::v1 { APIService }
        "apps": api::apps::v1 { ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet }
        "events.k8s.io": api::events::v1 { Event }
        "batch": api::batch::v1 { CronJob, Job }
        "certificates.k8s.io": api::certificates::v1 { CertificateSigningRequest }
        "networking.k8s.io": api::networking::v1 { IngressClass, Ingress, IPAddress, NetworkPolicy, ServiceCIDR }
        "policy": api::policy::v1 { PodDisruptionBudget }
        "rbac.authorization.k8s.io": api::rbac::v1 { ClusterRoleBinding, ClusterRole, RoleBinding, Role }
        "storage.k8s.io": api::storage::v1 { CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment,
            VolumeAttributesClass }
        "admissionregistration.k8s.io": api::admissionregistration::v1 { MutatingAdmissionPolicy,
            MutatingAdmissionPolicyBinding, MutatingWebhookConfiguration, ValidatingAdmissionPolicy,
            ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration }
        "apiextensions.k8s.io": apiextensions_apiserver::pkg::apis::apiextensions::v1 { CustomResourceDefinition }
        "scheduling.k8s.io": api::scheduling::v1 { PriorityClass }
        "coordination.k8s.io": api::coordination::v1 { Lease }
        "node.k8s.io": api::node::v1 { RuntimeClass }
        "discovery.k8s.io": api::discovery::v1 { EndpointSlice }
        "resource.k8s.io": api::resource::v1 { DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice }
        "flowcontrol.apiserver.k8s.io": api::flowcontrol::v1 { FlowSchema, PriorityLevelConfiguration }
        "": api::core::v1 { Binding, ComponentStatus }
        "authentication.k8s.io": api::authentication::v1 { SelfSubjectReview, TokenReview }
        "authorization.k8s.io": api::authorization::v1 { LocalSubjectAccessReview, SelfSubjectAccessReview,
            SelfSubjectRulesReview, SubjectAccessReview }
        "autoscaling": api::autoscaling::v1 { HorizontalPodAutoscaler }
        "autoscaling": api::autoscaling::v2 { HorizontalPodAutoscaler }
    }
    // What subresources and every group use.
    use k8s_openapi::{api, apimachinery::pkg::apis::meta::v1 as meta};
    generator.subschema_for::<api::autoscaling::v1::Scale>();
    generator.subschema_for::<api::policy::v1::Eviction>();
    generator.subschema_for::<api::authentication::v1::TokenRequest>();
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::Status>();
    generator.take_definitions(true).into_iter().collect()
}
