//! The informers all controllers share, watched once under the identity `system:kube-controller-manager`
//! (whose stock role lists and watches everything). Writes go out under each controller's own identity.

use crate::runtime::{Informer, ownership, pods};
use futures::StreamExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints, Namespace, Node, Pod, Secret, Service, ServiceAccount};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::rbac::v1::ClusterRole;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Index: objects by the uid of their controller, or by [`orphans`] of their namespace when they have none.
pub const BY_CONTROLLER: &str = "controller";
/// Index: Pods by `spec.nodeName`.
pub const BY_NODE: &str = "node";
/// Index: Services that the address pool is for, all under the empty value.
pub const LOAD_BALANCERS: &str = "load-balancers";
/// Index: EndpointSlices by `namespace/service`.
pub const BY_SERVICE: &str = "service";
/// The label that ties an EndpointSlice to its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// The namespace of node heartbeats.
pub const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";

/// Every shared informer.
#[derive(Clone)]
pub struct Shared {
    /// All Pods, trimmed (see [`pods::trim`]).
    pub pods: Arc<Informer<Pod>>,
    /// All ReplicaSets.
    pub replica_sets: Arc<Informer<ReplicaSet>>,
    /// All Deployments.
    pub deployments: Arc<Informer<Deployment>>,
    /// All Services.
    pub services: Arc<Informer<Service>>,
    /// All EndpointSlices.
    pub endpoint_slices: Arc<Informer<EndpointSlice>>,
    /// All legacy Endpoints.
    pub endpoints: Arc<Informer<Endpoints>>,
    /// All Nodes.
    pub nodes: Arc<Informer<Node>>,
    /// The Leases of kube-node-lease.
    pub node_leases: Arc<Informer<Lease>>,
    /// All Namespaces.
    pub namespaces: Arc<Informer<Namespace>>,
    /// All ServiceAccounts.
    pub service_accounts: Arc<Informer<ServiceAccount>>,
    /// ConfigMaps named kube-root-ca.crt.
    pub root_ca_config_maps: Arc<Informer<ConfigMap>>,
    /// CertificateSigningRequests.
    pub csrs: Arc<Informer<CertificateSigningRequest>>,
    /// ClusterRoles.
    pub cluster_roles: Arc<Informer<ClusterRole>>,
    /// Bootstrap token Secrets of kube-system.
    pub bootstrap_tokens: Arc<Informer<Secret>>,
}

/// The value of [`BY_CONTROLLER`] for objects of a namespace that nobody controls.
pub fn orphans(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

fn controller_uid(meta: &ObjectMeta) -> Vec<String> {
    vec![
        ownership::controller_of(meta)
            .map_or_else(|| orphans(meta.namespace.as_deref().unwrap_or_default()), |r| r.uid.clone()),
    ]
}

fn start<K>(
    api: Api<K>,
    config: watcher::Config,
    informer: Arc<Informer<K>>,
    cancel: &CancellationToken,
) -> Arc<Informer<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let stream = watcher(api, config.streaming_lists()).default_backoff().boxed();
    tokio::spawn(informer.clone().run(stream, cancel.clone()));
    informer
}

impl Shared {
    /// Creates the informers and starts their watches. Controllers may register handlers at any time; workers
    /// must wait for what they read to be synced.
    pub fn start(client: &Client, cancel: &CancellationToken) -> Shared {
        let any = watcher::Config::default;
        fn all<K: Resource<DynamicType = ()>>(c: &Client) -> Api<K> {
            Api::all(c.clone())
        }
        Shared {
            pods: start(
                all(client),
                any(),
                Informer::new(
                    pods::trim,
                    &[
                        (BY_CONTROLLER, |p| controller_uid(&p.metadata)),
                        (BY_NODE, |p| vec![pods::node_name(p).to_string()]),
                    ],
                ),
                cancel,
            ),
            replica_sets: start(
                all(client),
                any(),
                Informer::new(|_| {}, &[(BY_CONTROLLER, |r| controller_uid(&r.metadata))]),
                cancel,
            ),
            deployments: start(all(client), any(), Informer::new(|_| {}, &[]), cancel),
            services: start(
                all(client),
                any(),
                Informer::new(
                    |_| {},
                    &[(LOAD_BALANCERS, |s| if crate::lbipam::concerns(s) { vec![String::new()] } else { Vec::new() })],
                ),
                cancel,
            ),
            endpoint_slices: start(
                all(client),
                any(),
                Informer::new(
                    |_| {},
                    &[(BY_SERVICE, |s: &EndpointSlice| {
                        let ns = s.metadata.namespace.as_deref().unwrap_or_default();
                        let service = s.metadata.labels.iter().flatten().find(|(k, _)| *k == SERVICE_NAME_LABEL);
                        service.map(|(_, v)| format!("{ns}/{v}")).into_iter().collect()
                    })],
                ),
                cancel,
            ),
            endpoints: start(all(client), any(), Informer::new(|_| {}, &[]), cancel),
            nodes: start(all(client), any(), Informer::new(|_| {}, &[]), cancel),
            node_leases: start(
                Api::namespaced(client.clone(), NODE_LEASE_NAMESPACE),
                any(),
                Informer::new(|_| {}, &[]),
                cancel,
            ),
            namespaces: start(all(client), any(), Informer::new(|_| {}, &[]), cancel),
            service_accounts: start(all(client), any(), Informer::new(|_| {}, &[]), cancel),
            root_ca_config_maps: start(
                all(client),
                any().fields("metadata.name=kube-root-ca.crt"),
                Informer::new(|_| {}, &[]),
                cancel,
            ),
            csrs: start(all(client), any(), Informer::new(|_| {}, &[]), cancel),
            cluster_roles: start(all(client), any(), Informer::new(|_| {}, &[]), cancel),
            bootstrap_tokens: start(
                Api::namespaced(client.clone(), "kube-system"),
                any().fields("type=bootstrap.kubernetes.io/token"),
                Informer::new(|_| {}, &[]),
                cancel,
            ),
        }
    }
}
