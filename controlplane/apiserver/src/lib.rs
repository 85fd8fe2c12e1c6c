//! The Kubernetes API over HTTP: authentication, authorization, admission, objects, watches, streams.
//!
//! What it is for: unmodified clients cannot tell it from the stock API server. What it must not know: how controllers,
//! scheduler and kubelets work; they are clients like any other. What a kind is comes from strake-machinery, what its
//! fields mean from strake-strategy, who may do what from strake-auth, and bytes go to strake-store.
//!
//! ```text
//!   listener ─► server (the chain) ─► registry (resources) ─► storage ─► store
//!                    │                    │    ▲                           │
//!                    │                    │    └────────── cache ◄──watch──┘
//!                    └─► system (health, discovery, metrics)
//!                                         └─► proxy (kubelets, Pods, Services)
//! ```

#![forbid(unsafe_code)]

mod admission;
mod allocate;
mod api;
mod auth;
mod bootstrap;
mod cache;
mod config;
mod discovery;
mod http;
mod metrics;
mod openapi;
mod proxy;
mod query;
mod registry;
mod request;
mod server;
mod spdy;
mod subresources;
mod system;
mod tls;
mod virtual_resources;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};

use strake_auth::{UserInfo, groups};
use strake_machinery::Registry;
use strake_pki::Pki;
use strake_store::Backend;
use tokio_util::sync::CancellationToken;

pub use bootstrap::BootstrapError;
pub use config::Config;
pub use server::Server;
pub use system::GIT_VERSION;

use crate::{
    allocate::ServiceAllocator,
    api::{Api, SYSTEM_USER},
    auth::Auth,
    http::listener,
    metrics::Metrics,
    proxy::kubelet::KubeletClient,
    registry::storage::Storage,
    server::Front,
};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be listened on; the message names it.
    #[error("{0}")]
    Listen(#[from] std::io::Error),
    /// The serving certificate or the CA.
    #[error("the API server's TLS configuration: {0}")]
    Tls(#[from] tls::TlsError),
    /// The client certificate towards kubelets.
    #[error(transparent)]
    Kubelets(#[from] proxy::kubelet::ClientError),
    /// Authentication.
    #[error(transparent)]
    Auth(#[from] auth::AuthError),
    /// The cluster's own objects.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// Shutdown was asked for before the server was ready.
    #[error("shut down while starting")]
    Cancelled,
}

/// Starts an API server: loads the cache, makes the cluster's own objects, and answers once it serves.
///
/// The server ends when `shutdown` is cancelled; [`Server::wait`] waits for that.
///
/// # Errors
/// [`ServeError`] names the address, file or object that is in the way.
pub async fn serve(
    config: Config,
    backend: Arc<dyn Backend>,
    pki: Arc<Pki>,
    shutdown: CancellationToken,
) -> Result<Server, ServeError> {
    // A server that fails half way takes with it what it has started.
    let shutdown = shutdown.child_token();
    let guard = shutdown.clone().drop_guard();
    let listener = listener::bind(config.bind).await?;
    let address = listener.local_addr()?;
    let tls = tls::server_config(&pki)?;
    let kinds = Registry::builtin();
    let cacher = api::cacher(kinds, Arc::clone(&backend));
    tokio::spawn(Arc::clone(&cacher).follow(shutdown.clone()));
    tokio::select! {
        () = cacher.wait_synced() => {}
        () = shutdown.cancelled() => return Err(ServeError::Cancelled),
    }
    let auth = Auth::new(kinds, &cacher, &pki)?;
    let services = ServiceAllocator::new(config.service_cidrs(), config.node_ports.clone());
    let api = Arc::new(Api {
        kubelets: KubeletClient::new(&pki)?,
        storage: Storage::new(backend),
        system_user: UserInfo::new(SYSTEM_USER, &[groups::MASTERS, groups::AUTHENTICATED]),
        metrics: Metrics::default(),
        bootstrapped: AtomicBool::new(false),
        started: Instant::now(),
        shutdown: shutdown.clone(),
        config,
        kinds,
        cacher,
        auth,
        pki,
        services,
        address,
    });
    if let Some(cache) = api.cache("", "services") {
        let snapshot = cache.snapshot("", 0);
        api.services.rebuild(snapshot.objects.iter().map(|object| object.value()));
    }
    let front = Arc::new(Front { api: Arc::clone(&api) });
    let done = tokio::spawn(listener::run(listener, tls, front, shutdown.clone()));
    tokio::select! {
        made = bootstrap::run(&api) => made?,
        () = shutdown.cancelled() => return Err(ServeError::Cancelled),
    }
    // Whoever is told that the server is ready sees these objects.
    let _ = api.cacher.wait_fresh().await;
    api.bootstrapped.store(true, std::sync::atomic::Ordering::Release);
    let _ = guard.disarm();
    Ok(Server { api, done })
}
