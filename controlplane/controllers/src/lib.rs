//! The controllers of kube-controller-manager that Strake runs, as clients of the API.
//!
//! One folder a controller: `mod.rs` wires informers, queue and writes; `plan.rs` is a pure function from a
//! snapshot to actions; `tests.rs` tests the plan. They know the API and each other's objects, never the store,
//! never each other. Reads go through one set of informers ([`shared`]), writes under one identity a controller.
//!
//! ```text
//!             clients("system:kube-controller-manager")          clients("deployment-controller") ...
//!                    | watch                                             ^ writes
//!                 Shared informers --> handlers --> queue --> snapshot --> plan --> actions
//! ```
#![forbid(unsafe_code)]

pub mod backing;
pub mod bootstraptoken;
pub mod certificates;
pub mod clusterrole;
pub mod deployment;
pub mod discovered;
pub mod endpoints;
pub mod endpointslice;
pub mod garbage;
pub mod lbipam;
pub mod namespace;
pub mod nodeipam;
pub mod nodelifecycle;
pub mod podgc;
pub mod replicaset;
pub mod rootca;
pub mod runtime;
pub mod serviceaccount;
pub mod shared;

pub use crate::nodeipam::plan::node_cidr_mask;
use crate::runtime::{Flavour, Recorder};
use crate::shared::Shared;
use ipnetwork::IpNetwork;
use kube::Client;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use strake_pki::Pki;
use tokio_util::sync::CancellationToken;

/// The identity under which the shared informers list and watch.
pub const INFORMER_IDENTITY: &str = "system:kube-controller-manager";

/// Every identity [`run`] asks `clients` for. Names without `system:` are ServiceAccounts of kube-system.
pub const IDENTITIES: &[&str] = &[
    INFORMER_IDENTITY,
    "deployment-controller",
    "endpointslice-controller",
    "endpoint-controller",
    "replicaset-controller",
    "service-account-controller",
    "root-ca-cert-publisher",
    "certificate-controller",
    "node-controller",
    "clusterrole-aggregation-controller",
    "token-cleaner",
    "namespace-controller",
    "generic-garbage-collector",
    "pod-garbage-collector",
    "load-balancer-ipam-controller",
];

/// What the controllers must be told. Everything else they read from the API.
#[derive(Clone)]
pub struct Config {
    /// The cluster's CA: signs approved requests, and its certificate is published as kube-root-ca.crt.
    pub pki: Arc<Pki>,
    /// Longest validity of a signed certificate.
    pub certificate_validity: Duration,
    /// The network Pod CIDRs are cut from.
    pub cluster_cidr: IpNetwork,
    /// And the one of the other family, in a dual-stack cluster.
    pub secondary_cluster_cidr: Option<IpNetwork>,
    /// What LoadBalancer Services get addresses of; none: nobody here gives them any.
    pub load_balancer_pool: Option<lbipam::AddressPool>,
    /// A node that has not renewed its Lease for this long is Unknown (stock: 40 s; 50 s since 1.32).
    pub node_monitor_grace: Duration,
    /// The same for a node that has never reported (stock: 60 s).
    pub node_startup_grace: Duration,
    /// Finished Pods beyond this many are deleted, oldest first; 0 keeps all (stock: 12500).
    pub terminated_pod_threshold: usize,
}

impl Config {
    /// The cluster's usual values, for a CA.
    pub fn new(pki: Arc<Pki>) -> Self {
        // 10.244.0.0/16 is a valid network.
        let pods = IpAddr::from([10, 244, 0, 0]);
        Config {
            pki,
            certificate_validity: strake_pki::LEAF_VALIDITY,
            cluster_cidr: IpNetwork::new(pods, 16).unwrap_or_else(|_| IpNetwork::from(pods)),
            secondary_cluster_cidr: None,
            load_balancer_pool: None,
            node_monitor_grace: Duration::from_secs(40),
            node_startup_grace: Duration::from_secs(60),
            terminated_pod_threshold: 12_500,
        }
    }
}

/// What one controller gets.
#[derive(Clone)]
pub(crate) struct Context {
    pub shared: Shared,
    /// Writes, under the controller's own identity.
    pub client: Client,
    /// Lists and watches, under [`INFORMER_IDENTITY`].
    pub informers: Client,
    pub recorder: Recorder,
    pub cancel: CancellationToken,
    pub config: Arc<Config>,
}

/// Runs every controller until `cancel`. `clients` gives the client of an identity by its stock name
/// (`deployment-controller`, ...; [`INFORMER_IDENTITY`] for the informers). The API server may come up later:
/// everything retries.
///
/// With several servers this is what the holder of the `kube-system/kube-controller-manager` Lease runs: take the
/// Lease first, and cancel when it is lost. Nothing here keeps state outside the API.
pub async fn run(config: Config, clients: impl Fn(&str) -> Client, cancel: CancellationToken) {
    let informers = clients(INFORMER_IDENTITY);
    let shared = Shared::start(&informers, &cancel);
    let config = Arc::new(config);
    let context = |identity: &'static str| {
        let client = clients(identity);
        Context {
            shared: shared.clone(),
            recorder: Recorder::start(client.clone(), identity, Flavour::Core, cancel.clone()),
            client,
            informers: informers.clone(),
            cancel: cancel.clone(),
            config: config.clone(),
        }
    };
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(deployment::run(context("deployment-controller")));
    tasks.spawn(endpointslice::run(context("endpointslice-controller")));
    tasks.spawn(endpoints::run(context("endpoint-controller")));
    tasks.spawn(replicaset::run(context("replicaset-controller")));
    tasks.spawn(serviceaccount::run(context("service-account-controller")));
    tasks.spawn(rootca::run(context("root-ca-cert-publisher")));
    tasks.spawn(certificates::run(context("certificate-controller")));
    tasks.spawn(nodeipam::run(context("node-controller")));
    tasks.spawn(nodelifecycle::run(context("node-controller")));
    tasks.spawn(podgc::run(context("pod-garbage-collector")));
    tasks.spawn(namespace::run(context("namespace-controller")));
    tasks.spawn(garbage::run(context("generic-garbage-collector")));
    tasks.spawn(clusterrole::run(context("clusterrole-aggregation-controller")));
    tasks.spawn(bootstraptoken::run(context("token-cleaner")));
    tasks.spawn(lbipam::run(context("load-balancer-ipam-controller")));
    while let Some(finished) = tasks.join_next().await {
        if let Err(e) = finished {
            tracing::error!(error = %e, "a controller panicked");
        }
    }
}
