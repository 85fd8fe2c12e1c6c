//! One row a kind: how its names are checked, when its generation moves, what its status is when it is new. Kinds that
//! need more have a file; kinds without a row are treated as custom resources are.

use serde_json::Value;
use strake_machinery::Kind;

use crate::format::NameRule;

/// When `metadata.generation` moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Generation {
    /// The kind has none.
    None,
    /// 1 forever.
    Fixed,
    /// With `spec`.
    Spec,
    /// With `spec` or the annotations.
    SpecOrAnnotations,
    /// With anything but metadata, or with the labels.
    Content,
    /// With anything but metadata and status: custom resources.
    AllButStatus,
}

/// What the kind's objects have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub names: NameRule,
    pub generation: Generation,
    /// JSON of the status of a new object; `None` keeps what the client sent.
    pub new_status: Option<&'static str>,
}

const fn row(names: NameRule, generation: Generation, new_status: Option<&'static str>) -> Row {
    Row { names, generation, new_status }
}

use Generation::{AllButStatus, Content, Fixed, None as NoGeneration, Spec, SpecOrAnnotations};
use NameRule::{Any, Ip, Label, PathSegment, Subdomain};

/// The row of a kind.
pub(crate) fn row_of(kind: &Kind) -> Row {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Namespace") => row(Label, NoGeneration, Some(r#"{"phase":"Active"}"#)),
        ("", "Service") => row(Label, NoGeneration, Some(r#"{"loadBalancer":{}}"#)),
        ("", "Pod") => row(Subdomain, Spec, None),
        ("", "Node") => row(Subdomain, NoGeneration, None),
        ("", "PodTemplate") => row(Subdomain, Content, None),
        ("", "ReplicationController") => row(Subdomain, Spec, Some(r#"{"replicas":0}"#)),
        ("", "ResourceQuota") => row(Subdomain, NoGeneration, Some("{}")),
        ("", "PersistentVolume" | "PersistentVolumeClaim") => {
            row(Subdomain, NoGeneration, Some(r#"{"phase":"Pending"}"#))
        }
        ("" | "events.k8s.io", "Event") => row(Any, NoGeneration, None),
        ("", _) => row(Subdomain, NoGeneration, None),
        ("apps", "Deployment") => row(Subdomain, SpecOrAnnotations, Some("{}")),
        ("apps", "ReplicaSet") => row(Subdomain, Spec, Some(r#"{"replicas":0}"#)),
        ("apps", "StatefulSet") => row(Label, Spec, Some(r#"{"replicas":0,"availableReplicas":0}"#)),
        ("apps", "DaemonSet") => row(
            Subdomain,
            Spec,
            Some(r#"{"currentNumberScheduled":0,"numberMisscheduled":0,"desiredNumberScheduled":0,"numberReady":0}"#),
        ),
        ("apps", _) => row(Subdomain, NoGeneration, None),
        ("batch", _) => row(Subdomain, Spec, Some("{}")),
        ("autoscaling", "HorizontalPodAutoscaler") => {
            row(Subdomain, NoGeneration, Some(r#"{"desiredReplicas":0,"currentMetrics":null}"#))
        }
        ("policy", "PodDisruptionBudget") => row(
            Subdomain,
            Spec,
            Some(r#"{"disruptionsAllowed":0,"currentHealthy":0,"desiredHealthy":0,"expectedPods":0}"#),
        ),
        ("networking.k8s.io", "Ingress") => row(Subdomain, Spec, Some(r#"{"loadBalancer":{}}"#)),
        ("networking.k8s.io", "NetworkPolicy" | "IngressClass") => row(Subdomain, Spec, None),
        ("networking.k8s.io", "ServiceCIDR") => row(Subdomain, NoGeneration, Some("{}")),
        ("networking.k8s.io", "IPAddress") => row(Ip, NoGeneration, None),
        ("discovery.k8s.io", "EndpointSlice") => row(Subdomain, Content, None),
        ("rbac.authorization.k8s.io", _) => row(PathSegment, NoGeneration, None),
        ("scheduling.k8s.io", "PriorityClass") => row(Subdomain, Fixed, None),
        ("storage.k8s.io", "VolumeAttachment") => row(Subdomain, NoGeneration, Some(r#"{"attached":false}"#)),
        ("storage.k8s.io", "CSIDriver") => row(Any, NoGeneration, None),
        ("storage.k8s.io" | "coordination.k8s.io" | "node.k8s.io", _) => row(Subdomain, NoGeneration, None),
        ("certificates.k8s.io", "CertificateSigningRequest") => row(Subdomain, NoGeneration, Some("{}")),
        ("certificates.k8s.io", _) => row(Any, NoGeneration, None),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => {
            row(Any, Spec, Some(r#"{"conditions":null,"acceptedNames":{"plural":"","kind":""},"storedVersions":null}"#))
        }
        ("admissionregistration.k8s.io", "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration") => {
            row(Subdomain, Content, None)
        }
        ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy") => row(Subdomain, Spec, Some("{}")),
        ("admissionregistration.k8s.io", _) => row(Subdomain, Spec, None),
        ("flowcontrol.apiserver.k8s.io", _) => row(Subdomain, Spec, Some("{}")),
        ("resource.k8s.io", "ResourceClaim") => row(Subdomain, NoGeneration, Some("{}")),
        ("resource.k8s.io", "ResourceClaimTemplate") => row(Subdomain, NoGeneration, None),
        ("resource.k8s.io", _) => row(Subdomain, Spec, None),
        ("apiregistration.k8s.io", "APIService") => row(Any, NoGeneration, Some("{}")),
        _ => row(Subdomain, AllButStatus, None),
    }
}

/// The status of a new object.
pub(crate) fn new_status(row: &Row) -> Option<Value> {
    row.new_status.and_then(|text| serde_json::from_str(text).ok())
}

/// True for kinds that come from a CustomResourceDefinition.
pub(crate) fn is_custom(kind: &Kind) -> bool {
    kind.schema.is_empty()
}
