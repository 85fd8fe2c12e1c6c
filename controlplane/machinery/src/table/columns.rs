//! Which columns each kind has, and who computes their cells.

use super::{Column, Printer, controllers, nodes, pods, policy, services, storage};
use crate::registry::Kind;

const fn col(name: &'static str) -> Column {
    Column { name, ty: "string", format: "", priority: 0 }
}

const fn wide(name: &'static str) -> Column {
    Column { priority: 1, ..col(name) }
}

const fn int(name: &'static str) -> Column {
    Column { ty: "integer", ..col(name) }
}

const fn boolean(name: &'static str) -> Column {
    Column { ty: "boolean", ..col(name) }
}

const NAME: Column = Column { format: "name", ..col("Name") };
const AGE: Column = col("Age");

/// What kinds without columns of their own show, custom resources too.
static DEFAULT: Printer =
    Printer { columns: &[NAME, Column { ty: "date", ..col("Created At") }], cells: nodes::created };

/// The printer of a kind; the group is looked at too, so that a custom resource of the same name is not mistaken.
pub(super) fn printer(kind: &Kind) -> &'static Printer {
    PRINTERS
        .iter()
        .find(|(group, plural, _)| *plural == kind.plural && *group == kind.group)
        .map_or(&DEFAULT, |(_, _, printer)| printer)
}

static PRINTERS: &[(&str, &str, Printer)] = &[
    (
        "",
        "componentstatuses",
        Printer { columns: &[NAME, col("Status"), col("Message"), col("Error")], cells: nodes::component_status },
    ),
    ("", "configmaps", Printer { columns: &[NAME, col("Data"), AGE], cells: nodes::config_map }),
    ("", "endpoints", Printer { columns: &[NAME, col("Endpoints"), AGE], cells: services::endpoints }),
    (
        "",
        "events",
        Printer {
            columns: &[
                col("Last Seen"),
                col("Type"),
                col("Reason"),
                col("Object"),
                wide("Subobject"),
                wide("Source"),
                col("Message"),
                wide("First Seen"),
                wide("Count"),
                Column { format: "name", ..wide("Name") },
            ],
            cells: nodes::event,
        },
    ),
    ("", "namespaces", Printer { columns: &[NAME, col("Status"), AGE], cells: nodes::namespace }),
    (
        "",
        "nodes",
        Printer {
            columns: &[
                NAME,
                col("Status"),
                col("Roles"),
                AGE,
                col("Version"),
                wide("Internal-IP"),
                wide("External-IP"),
                wide("OS-Image"),
                wide("Kernel-Version"),
                wide("Container-Runtime"),
            ],
            cells: nodes::node,
        },
    ),
    (
        "",
        "persistentvolumeclaims",
        Printer {
            columns: &[
                NAME,
                col("Status"),
                col("Volume"),
                col("Capacity"),
                col("Access Modes"),
                col("StorageClass"),
                col("VolumeAttributesClass"),
                AGE,
                wide("VolumeMode"),
            ],
            cells: storage::claim,
        },
    ),
    (
        "",
        "persistentvolumes",
        Printer {
            columns: &[
                NAME,
                col("Capacity"),
                col("Access Modes"),
                col("Reclaim Policy"),
                col("Status"),
                col("Claim"),
                col("StorageClass"),
                col("VolumeAttributesClass"),
                col("Reason"),
                AGE,
                wide("VolumeMode"),
            ],
            cells: storage::volume,
        },
    ),
    (
        "",
        "pods",
        Printer {
            columns: &[
                NAME,
                col("Ready"),
                col("Status"),
                col("Restarts"),
                AGE,
                wide("IP"),
                wide("Node"),
                wide("Nominated Node"),
                wide("Readiness Gates"),
            ],
            cells: pods::cells,
        },
    ),
    (
        "",
        "podtemplates",
        Printer { columns: &[NAME, col("Containers"), col("Images"), col("Pod Labels")], cells: nodes::pod_template },
    ),
    (
        "",
        "replicationcontrollers",
        Printer {
            columns: &[
                NAME,
                int("Desired"),
                int("Current"),
                int("Ready"),
                AGE,
                wide("Containers"),
                wide("Images"),
                wide("Selector"),
            ],
            cells: controllers::replication_controller,
        },
    ),
    (
        "",
        "resourcequotas",
        Printer { columns: &[NAME, col("Request"), col("Limit"), AGE], cells: nodes::resource_quota },
    ),
    ("", "secrets", Printer { columns: &[NAME, col("Type"), col("Data"), AGE], cells: nodes::secret }),
    ("", "serviceaccounts", Printer { columns: &[NAME, AGE], cells: nodes::plain }),
    (
        "",
        "services",
        Printer {
            columns: &[NAME, col("Type"), col("Cluster-IP"), col("External-IP"), col("Port(s)"), AGE, wide("Selector")],
            cells: services::service,
        },
    ),
    (
        "apiregistration.k8s.io",
        "apiservices",
        Printer { columns: &[NAME, col("Service"), col("Available"), AGE], cells: policy::api_service },
    ),
    (
        "apps",
        "controllerrevisions",
        Printer { columns: &[NAME, col("Controller"), col("Revision"), AGE], cells: controllers::controller_revision },
    ),
    (
        "apps",
        "daemonsets",
        Printer {
            columns: &[
                NAME,
                int("Desired"),
                int("Current"),
                int("Ready"),
                int("Up-to-date"),
                int("Available"),
                col("Node Selector"),
                AGE,
                wide("Containers"),
                wide("Images"),
                wide("Selector"),
            ],
            cells: controllers::daemon_set,
        },
    ),
    (
        "apps",
        "deployments",
        Printer {
            columns: &[
                NAME,
                col("Ready"),
                col("Up-to-date"),
                col("Available"),
                AGE,
                wide("Containers"),
                wide("Images"),
                wide("Selector"),
            ],
            cells: controllers::deployment,
        },
    ),
    (
        "apps",
        "replicasets",
        Printer {
            columns: &[
                NAME,
                int("Desired"),
                int("Current"),
                int("Ready"),
                AGE,
                wide("Containers"),
                wide("Images"),
                wide("Selector"),
            ],
            cells: controllers::replica_set,
        },
    ),
    (
        "apps",
        "statefulsets",
        Printer {
            columns: &[NAME, col("Ready"), AGE, wide("Containers"), wide("Images")],
            cells: controllers::stateful_set,
        },
    ),
    (
        "events.k8s.io",
        "events",
        Printer {
            columns: &[
                col("Last Seen"),
                col("Type"),
                col("Reason"),
                col("Object"),
                wide("Subobject"),
                wide("Source"),
                col("Message"),
                wide("First Seen"),
                wide("Count"),
                Column { format: "name", ..wide("Name") },
            ],
            cells: nodes::event,
        },
    ),
    (
        "autoscaling",
        "horizontalpodautoscalers",
        Printer {
            columns: &[NAME, col("Reference"), col("Targets"), col("MinPods"), col("MaxPods"), col("Replicas"), AGE],
            cells: controllers::autoscaler,
        },
    ),
    (
        "batch",
        "cronjobs",
        Printer {
            columns: &[
                NAME,
                col("Schedule"),
                col("Timezone"),
                boolean("Suspend"),
                int("Active"),
                col("Last Schedule"),
                AGE,
                wide("Containers"),
                wide("Images"),
                wide("Selector"),
            ],
            cells: controllers::cron_job,
        },
    ),
    (
        "batch",
        "jobs",
        Printer {
            columns: &[
                NAME,
                col("Status"),
                col("Completions"),
                col("Duration"),
                AGE,
                wide("Containers"),
                wide("Images"),
                wide("Selector"),
            ],
            cells: controllers::job,
        },
    ),
    (
        "certificates.k8s.io",
        "certificatesigningrequests",
        Printer {
            columns: &[NAME, AGE, col("SignerName"), col("Requestor"), col("RequestedDuration"), col("Condition")],
            cells: policy::signing_request,
        },
    ),
    (
        "networking.k8s.io",
        "ingressclasses",
        Printer { columns: &[NAME, col("Controller"), col("Parameters"), AGE], cells: services::ingress_class },
    ),
    (
        "networking.k8s.io",
        "ingresses",
        Printer {
            columns: &[NAME, col("Class"), col("Hosts"), col("Address"), col("Ports"), AGE],
            cells: services::ingress,
        },
    ),
    ("networking.k8s.io", "ipaddresses", Printer { columns: &[NAME, col("ParentRef")], cells: services::ip_address }),
    (
        "networking.k8s.io",
        "networkpolicies",
        Printer { columns: &[NAME, col("Pod-Selector"), AGE], cells: services::network_policy },
    ),
    (
        "networking.k8s.io",
        "servicecidrs",
        Printer { columns: &[NAME, col("CIDRs"), AGE], cells: services::service_cidr },
    ),
    (
        "policy",
        "poddisruptionbudgets",
        Printer {
            columns: &[NAME, col("Min Available"), col("Max Unavailable"), int("Allowed Disruptions"), AGE],
            cells: controllers::disruption_budget,
        },
    ),
    (
        "rbac.authorization.k8s.io",
        "clusterrolebindings",
        Printer {
            columns: &[NAME, col("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")],
            cells: policy::binding,
        },
    ),
    (
        "rbac.authorization.k8s.io",
        "rolebindings",
        Printer {
            columns: &[NAME, col("Role"), AGE, wide("Users"), wide("Groups"), wide("ServiceAccounts")],
            cells: policy::binding,
        },
    ),
    (
        "storage.k8s.io",
        "csidrivers",
        Printer {
            columns: &[
                NAME,
                boolean("AttachRequired"),
                boolean("PodInfoOnMount"),
                boolean("StorageCapacity"),
                col("TokenRequests"),
                boolean("RequiresRepublish"),
                col("Modes"),
                AGE,
            ],
            cells: storage::csi_driver,
        },
    ),
    ("storage.k8s.io", "csinodes", Printer { columns: &[NAME, int("Drivers"), AGE], cells: storage::csi_node }),
    (
        "storage.k8s.io",
        "storageclasses",
        Printer {
            columns: &[
                NAME,
                col("Provisioner"),
                col("ReclaimPolicy"),
                col("VolumeBindingMode"),
                col("AllowVolumeExpansion"),
                AGE,
            ],
            cells: storage::storage_class,
        },
    ),
    (
        "storage.k8s.io",
        "volumeattachments",
        Printer {
            columns: &[
                NAME,
                Column { format: "name", ..col("Attacher") },
                col("PV"),
                col("Node"),
                boolean("Attached"),
                AGE,
            ],
            cells: storage::attachment,
        },
    ),
    (
        "storage.k8s.io",
        "volumeattributesclasses",
        Printer { columns: &[NAME, col("DriverName"), AGE], cells: storage::attributes_class },
    ),
    (
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicies",
        Printer { columns: &[NAME, int("Mutations"), col("ParamKind"), AGE], cells: policy::mutating_policy },
    ),
    (
        "admissionregistration.k8s.io",
        "mutatingadmissionpolicybindings",
        Printer { columns: &[NAME, col("PolicyName"), col("ParamRef"), AGE], cells: policy::policy_binding },
    ),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations",
        Printer { columns: &[NAME, int("Webhooks"), AGE], cells: policy::webhooks },
    ),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicies",
        Printer { columns: &[NAME, int("Validations"), col("ParamKind"), AGE], cells: policy::validating_policy },
    ),
    (
        "admissionregistration.k8s.io",
        "validatingadmissionpolicybindings",
        Printer { columns: &[NAME, col("PolicyName"), col("ParamRef"), AGE], cells: policy::policy_binding },
    ),
    (
        "admissionregistration.k8s.io",
        "validatingwebhookconfigurations",
        Printer { columns: &[NAME, int("Webhooks"), AGE], cells: policy::webhooks },
    ),
    (
        "scheduling.k8s.io",
        "priorityclasses",
        Printer {
            columns: &[NAME, int("Value"), boolean("Global-Default"), AGE, col("PreemptionPolicy")],
            cells: policy::priority_class,
        },
    ),
    ("coordination.k8s.io", "leases", Printer { columns: &[NAME, col("Holder"), AGE], cells: services::lease }),
    ("node.k8s.io", "runtimeclasses", Printer { columns: &[NAME, col("Handler"), AGE], cells: policy::runtime_class }),
    (
        "discovery.k8s.io",
        "endpointslices",
        Printer {
            columns: &[NAME, col("AddressType"), col("Ports"), col("Endpoints"), AGE],
            cells: services::endpoint_slice,
        },
    ),
    ("resource.k8s.io", "deviceclasses", Printer { columns: &[NAME, AGE], cells: nodes::plain }),
    (
        "resource.k8s.io",
        "resourceclaims",
        Printer { columns: &[NAME, col("State"), AGE], cells: storage::resource_claim },
    ),
    ("resource.k8s.io", "resourceclaimtemplates", Printer { columns: &[NAME, AGE], cells: nodes::plain }),
    (
        "resource.k8s.io",
        "resourceslices",
        Printer { columns: &[NAME, col("Node"), col("Driver"), col("Pool"), AGE], cells: storage::resource_slice },
    ),
    (
        "flowcontrol.apiserver.k8s.io",
        "flowschemas",
        Printer {
            columns: &[
                NAME,
                col("PriorityLevel"),
                col("MatchingPrecedence"),
                col("DistinguisherMethod"),
                AGE,
                col("MissingPL"),
            ],
            cells: policy::flow_schema,
        },
    ),
    (
        "flowcontrol.apiserver.k8s.io",
        "prioritylevelconfigurations",
        Printer {
            columns: &[
                NAME,
                col("Type"),
                col("NominalConcurrencyShares"),
                col("Queues"),
                col("HandSize"),
                col("QueueLengthLimit"),
                AGE,
            ],
            cells: policy::priority_level,
        },
    ),
];
