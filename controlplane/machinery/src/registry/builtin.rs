//! The rows of the built-in kinds: the stable API groups of Kubernetes 1.36, in discovery (priority) order.

use super::{Kind, ScalePaths, Subresource, Verbs};

const NS: bool = true;
const CLUSTER: bool = false;

/// A stored kind with every verb; the chained calls below say what differs.
fn row(group: &str, version: &str, plural: &str, kind: &str, namespaced: bool) -> Kind {
    Kind {
        group: group.into(),
        version: version.into(),
        kind: kind.into(),
        plural: plural.into(),
        singular: kind.to_lowercase(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced,
        verbs: Verbs::ALL,
        subresources: Vec::new(),
        stored: true,
        storage_prefix: format!("/registry/{}/", storage_segment(group, plural)),
        storage_version: version.into(),
        storage_group: group.into(),
        schema: schema_name(group, version, kind),
        selectable: Vec::new(),
    }
}

/// The name of a kind in the schema table, `io.k8s.api.apps.v1.Deployment`.
pub(crate) fn schema_name(group: &str, version: &str, kind: &str) -> String {
    format!("{}.{version}.{kind}", package(group))
}

/// The package part of a schema name.
fn package(group: &str) -> String {
    match group {
        "" => "io.k8s.api.core".into(),
        "apiextensions.k8s.io" => "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions".into(),
        "apiregistration.k8s.io" => "io.k8s.kube-aggregator.pkg.apis.apiregistration".into(),
        "flowcontrol.apiserver.k8s.io" => "io.k8s.api.flowcontrol".into(),
        g => format!("io.k8s.api.{}", g.split('.').next().unwrap_or(g)),
    }
}

/// Upstream's directory in etcd, so that a datastore can be shared with (or taken over from) a stock server.
fn storage_segment(group: &str, plural: &str) -> String {
    match (group, plural) {
        ("", "services") => "services/specs".into(),
        ("", "endpoints") => "services/endpoints".into(),
        ("", "nodes") => "minions".into(),
        ("", "replicationcontrollers") => "controllers".into(),
        ("networking.k8s.io", "ingresses") => "ingress".into(),
        ("events.k8s.io", "events") => "events".into(),
        ("apiextensions.k8s.io" | "apiregistration.k8s.io", p) => format!("{group}/{p}"),
        (_, p) => p.into(),
    }
}

impl Kind {
    fn short(mut self, names: &[&str]) -> Self {
        self.short_names = names.iter().map(|s| (*s).into()).collect();
        self
    }

    fn category(mut self, name: &str) -> Self {
        self.categories.push(name.into());
        self
    }

    fn without(mut self, verbs: Verbs) -> Self {
        self.verbs = self.verbs.without(verbs);
        self
    }

    /// Answered a request, never kept.
    fn computed(mut self, verbs: Verbs) -> Self {
        self.verbs = verbs;
        self.stored = false;
        self.storage_prefix.clear();
        self
    }

    fn stored_as(mut self, group: &str, version: &str) -> Self {
        self.storage_group = group.into();
        self.storage_version = version.into();
        self
    }

    fn selectable(mut self, fields: &[&str]) -> Self {
        self.selectable = fields.iter().map(|s| (*s).into()).collect();
        self
    }

    fn sub_as(mut self, name: &str, group: &str, version: &str, kind: &str, verbs: Verbs) -> Self {
        self.subresources.push(Subresource {
            name: name.into(),
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            verbs,
            scale: None,
        });
        self
    }

    /// A subresource of the kind's own type.
    fn sub(self, name: &str, verbs: Verbs) -> Self {
        let (group, version, kind) = (self.group.clone(), self.version.clone(), self.kind.clone());
        self.sub_as(name, &group, &version, &kind, verbs)
    }

    fn status(self) -> Self {
        self.sub("status", Verbs::READ_WRITE)
    }

    fn scale(self) -> Self {
        let mut kind = self.sub_as("scale", "autoscaling", "v1", "Scale", Verbs::READ_WRITE);
        let path = |p: [&str; 2]| p.iter().map(|s| (*s).to_owned()).collect();
        if let Some(scale) = kind.subresources.last_mut() {
            scale.scale = Some(ScalePaths {
                spec: path(["spec", "replicas"]),
                status: path(["status", "replicas"]),
                selector: path(["spec", "selector"]),
            });
        }
        kind
    }
}

const STREAM: Verbs = Verbs::CREATE.with(Verbs::GET);
const PROXY: Verbs = Verbs::CREATE.with(Verbs::DELETE).with(Verbs::READ_WRITE);

pub(super) fn rows() -> Vec<Kind> {
    let mut rows = core();
    rows.extend(workloads());
    rows.extend(reviews());
    rows.extend(batch_and_network());
    rows.extend(rbac_and_storage());
    rows.extend(extension_and_rest());
    rows
}

fn core() -> Vec<Kind> {
    let event_fields = [
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ];
    let row = |plural: &str, kind: &str, namespaced| row("", "v1", plural, kind, namespaced);
    vec![
        row("bindings", "Binding", NS).computed(Verbs::CREATE),
        row("componentstatuses", "ComponentStatus", CLUSTER).short(&["cs"]).computed(Verbs::GET.with(Verbs::LIST)),
        row("configmaps", "ConfigMap", NS).short(&["cm"]),
        row("endpoints", "Endpoints", NS).short(&["ep"]),
        row("events", "Event", NS).short(&["ev"]).selectable(&event_fields),
        row("limitranges", "LimitRange", NS).short(&["limits"]),
        row("namespaces", "Namespace", CLUSTER)
            .short(&["ns"])
            .without(Verbs::DELETECOLLECTION)
            .selectable(&["status.phase"])
            .sub("finalize", Verbs::UPDATE)
            .status(),
        row("nodes", "Node", CLUSTER)
            .short(&["no"])
            .selectable(&["spec.unschedulable"])
            .sub_as("proxy", "", "v1", "NodeProxyOptions", PROXY)
            .status(),
        row("persistentvolumeclaims", "PersistentVolumeClaim", NS).short(&["pvc"]).status(),
        row("persistentvolumes", "PersistentVolume", CLUSTER).short(&["pv"]).status(),
        row("pods", "Pod", NS)
            .short(&["po"])
            .category("all")
            .selectable(&[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.podIPs",
                "status.nominatedNodeName",
            ])
            .sub_as("attach", "", "v1", "PodAttachOptions", STREAM)
            .sub_as("binding", "", "v1", "Binding", Verbs::CREATE)
            .sub("ephemeralcontainers", Verbs::READ_WRITE)
            .sub_as("eviction", "policy", "v1", "Eviction", Verbs::CREATE)
            .sub_as("exec", "", "v1", "PodExecOptions", STREAM)
            .sub("log", Verbs::GET)
            .sub_as("portforward", "", "v1", "PodPortForwardOptions", STREAM)
            .sub_as("proxy", "", "v1", "PodProxyOptions", PROXY)
            .sub("resize", Verbs::READ_WRITE)
            .status(),
        row("podtemplates", "PodTemplate", NS),
        row("replicationcontrollers", "ReplicationController", NS)
            .short(&["rc"])
            .category("all")
            .selectable(&["status.replicas"])
            .scale()
            .status(),
        row("resourcequotas", "ResourceQuota", NS).short(&["quota"]).status(),
        row("secrets", "Secret", NS).selectable(&["type"]),
        row("serviceaccounts", "ServiceAccount", NS).short(&["sa"]).sub_as(
            "token",
            "authentication.k8s.io",
            "v1",
            "TokenRequest",
            Verbs::CREATE,
        ),
        row("services", "Service", NS)
            .short(&["svc"])
            .category("all")
            .selectable(&["spec.clusterIP", "spec.type"])
            .sub_as("proxy", "", "v1", "ServiceProxyOptions", PROXY)
            .status(),
    ]
}

fn workloads() -> Vec<Kind> {
    let apps = |plural: &str, kind: &str| row("apps", "v1", plural, kind, NS);
    vec![
        row("apiregistration.k8s.io", "v1", "apiservices", "APIService", CLUSTER).category("api-extensions").status(),
        apps("controllerrevisions", "ControllerRevision"),
        apps("daemonsets", "DaemonSet").short(&["ds"]).category("all").status(),
        apps("deployments", "Deployment").short(&["deploy"]).category("all").scale().status(),
        apps("replicasets", "ReplicaSet")
            .short(&["rs"])
            .category("all")
            .selectable(&["status.replicas"])
            .scale()
            .status(),
        apps("statefulsets", "StatefulSet").short(&["sts"]).category("all").scale().status(),
        row("events.k8s.io", "v1", "events", "Event", NS).short(&["ev"]).stored_as("", "v1").selectable(&[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ]),
    ]
}

fn reviews() -> Vec<Kind> {
    let review = |group: &str, plural: &str, kind: &str, namespaced| {
        row(group, "v1", plural, kind, namespaced).computed(Verbs::CREATE)
    };
    let (authn, authz) = ("authentication.k8s.io", "authorization.k8s.io");
    vec![
        review(authn, "selfsubjectreviews", "SelfSubjectReview", CLUSTER),
        review(authn, "tokenreviews", "TokenReview", CLUSTER),
        review(authz, "localsubjectaccessreviews", "LocalSubjectAccessReview", NS),
        review(authz, "selfsubjectaccessreviews", "SelfSubjectAccessReview", CLUSTER),
        review(authz, "selfsubjectrulesreviews", "SelfSubjectRulesReview", CLUSTER),
        review(authz, "subjectaccessreviews", "SubjectAccessReview", CLUSTER),
    ]
}

fn batch_and_network() -> Vec<Kind> {
    let net = |plural: &str, kind: &str, namespaced| row("networking.k8s.io", "v1", plural, kind, namespaced);
    let hpa = |version: &str| {
        row("autoscaling", version, "horizontalpodautoscalers", "HorizontalPodAutoscaler", NS)
            .short(&["hpa"])
            .category("all")
            .stored_as("autoscaling", "v2")
            .status()
    };
    vec![
        hpa("v2"),
        hpa("v1"),
        row("batch", "v1", "cronjobs", "CronJob", NS).short(&["cj"]).category("all").status(),
        row("batch", "v1", "jobs", "Job", NS).category("all").selectable(&["status.successful"]).status(),
        row("certificates.k8s.io", "v1", "certificatesigningrequests", "CertificateSigningRequest", CLUSTER)
            .short(&["csr"])
            .selectable(&["spec.signerName"])
            .sub("approval", Verbs::READ_WRITE)
            .status(),
        net("ingressclasses", "IngressClass", CLUSTER),
        net("ingresses", "Ingress", NS).short(&["ing"]).status(),
        net("ipaddresses", "IPAddress", CLUSTER)
            .short(&["ip"])
            .selectable(&["spec.parentRef.kind", "spec.parentRef.name"]),
        net("networkpolicies", "NetworkPolicy", NS).short(&["netpol"]),
        net("servicecidrs", "ServiceCIDR", CLUSTER).status(),
        row("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", NS).short(&["pdb"]).status(),
    ]
}

fn rbac_and_storage() -> Vec<Kind> {
    let rbac = |plural: &str, kind: &str, namespaced| row("rbac.authorization.k8s.io", "v1", plural, kind, namespaced);
    let storage = |plural: &str, kind: &str, namespaced| row("storage.k8s.io", "v1", plural, kind, namespaced);
    vec![
        rbac("clusterrolebindings", "ClusterRoleBinding", CLUSTER),
        rbac("clusterroles", "ClusterRole", CLUSTER),
        rbac("rolebindings", "RoleBinding", NS),
        rbac("roles", "Role", NS),
        storage("csidrivers", "CSIDriver", CLUSTER),
        storage("csinodes", "CSINode", CLUSTER),
        storage("csistoragecapacities", "CSIStorageCapacity", NS),
        storage("storageclasses", "StorageClass", CLUSTER).short(&["sc"]),
        storage("volumeattachments", "VolumeAttachment", CLUSTER).status(),
        storage("volumeattributesclasses", "VolumeAttributesClass", CLUSTER).short(&["vac"]),
    ]
}

fn extension_and_rest() -> Vec<Kind> {
    let admission = |plural: &str, kind: &str| {
        row("admissionregistration.k8s.io", "v1", plural, kind, CLUSTER).category("api-extensions")
    };
    let resource = |plural: &str, kind: &str, namespaced| row("resource.k8s.io", "v1", plural, kind, namespaced);
    let flow = |plural: &str, kind: &str| row("flowcontrol.apiserver.k8s.io", "v1", plural, kind, CLUSTER).status();
    vec![
        admission("mutatingadmissionpolicies", "MutatingAdmissionPolicy"),
        admission("mutatingadmissionpolicybindings", "MutatingAdmissionPolicyBinding"),
        admission("mutatingwebhookconfigurations", "MutatingWebhookConfiguration"),
        admission("validatingadmissionpolicies", "ValidatingAdmissionPolicy").status(),
        admission("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"),
        admission("validatingwebhookconfigurations", "ValidatingWebhookConfiguration"),
        row("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", CLUSTER)
            .short(&["crd", "crds"])
            .category("api-extensions")
            .status(),
        row("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", CLUSTER).short(&["pc"]),
        row("coordination.k8s.io", "v1", "leases", "Lease", NS),
        row("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", CLUSTER),
        row("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", NS),
        resource("deviceclasses", "DeviceClass", CLUSTER),
        resource("resourceclaims", "ResourceClaim", NS).status(),
        resource("resourceclaimtemplates", "ResourceClaimTemplate", NS),
        resource("resourceslices", "ResourceSlice", CLUSTER).selectable(&["spec.nodeName", "spec.driver"]),
        flow("flowschemas", "FlowSchema"),
        flow("prioritylevelconfigurations", "PriorityLevelConfiguration"),
    ]
}
