//! The control plane of one host: keys, store, API server, credentials, controllers, scheduler, in that order.
//!
//! What it is for: composition. Each part could be a stock one instead (`disable`): controllers and scheduler are
//! clients of the API with certificates of their own, and know nothing else of this process.
//!
//! ```text
//!   D/server/pki      the CA and the server's keys
//!   D/server/store    the embedded store
//!   D/server/cred     a certificate and a kubeconfig for the scheduler and the controller manager
//!   D/server/token    what a joining node needs: bootstrap token and CA pin
//!   D/admin.kubeconfig
//! ```

#![forbid(unsafe_code)]

mod config;
mod credentials;
mod join;

use std::{path::PathBuf, sync::Arc, time::Duration};

use strake_apiserver::{Server, serve};
use strake_pki::{Names, Pki};
use strake_store::{
    Backend, compactor,
    embedded::{Embedded, Options},
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use strake_controllers::lbipam::AddressPool;

pub use config::{Component, InvalidRange, ServerConfig, UnknownComponent};
pub use join::{JoinToken, JoinTokenError};

/// Why the control plane did not start, or did not keep going.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Keys and certificates.
    #[error("the cluster's keys: {0}")]
    Pki(#[from] strake_pki::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] strake_store::Error),
    /// The API server.
    #[error("the API server: {0}")]
    Serve(#[from] strake_apiserver::ServeError),
    /// A client of one of the parts.
    #[error("a client for {identity}: {source}")]
    Client {
        /// Whose client.
        identity: String,
        /// What kube says.
        source: Box<kube::Error>,
    },
    /// A range of addresses.
    #[error(transparent)]
    Range(#[from] config::InvalidRange),
    /// The join token.
    #[error(transparent)]
    Join(#[from] join::JoinError),
}

/// A control plane that answers.
pub struct ControlPlane {
    server: Server,
    store: Arc<Embedded>,
    tasks: JoinSet<()>,
    /// Where clients on this host reach the API.
    pub url: String,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// What a joining node needs; also in the file `D/server/token`.
    pub join: JoinToken,
    /// From the call of [`start`] to now.
    pub took: Duration,
}

/// Starts everything and returns once the API is ready: the bootstrap objects are there, credentials are written,
/// controllers and scheduler are running.
///
/// # Errors
/// [`Error`] names the file, address or object that is in the way.
pub async fn start(config: ServerConfig, shutdown: CancellationToken) -> Result<ControlPlane, Error> {
    let started = std::time::Instant::now();
    config.check()?;
    // What has been started ends if the rest cannot.
    let stop = shutdown.child_token();
    let guard = stop.clone().drop_guard();
    let api = config.api();
    let advertise = config.advertise.to_string();
    let extra = config.names.iter().map(String::as_str).chain([advertise.as_str()]);
    let names = Names::api_server(&config.cluster_domain, &[api.kubernetes_ip()], extra);
    let pki = Arc::new(Pki::ensure(&config.data_dir.join("server/pki"), &names)?);
    let store_dir = config.data_dir.join("server/store");
    let opened = tokio::task::spawn_blocking(move || Embedded::open(&store_dir, Options::default())).await;
    let store = Arc::new(opened.map_err(|_| strake_store::Error::Closed)??);
    let backend: Arc<dyn Backend> = Arc::clone(&store) as Arc<dyn Backend>;
    let server = serve(api, Arc::clone(&backend), Arc::clone(&pki), stop.clone()).await?;
    let mut tasks = JoinSet::new();
    tasks.spawn(compactor::run(backend, compactor::INTERVAL, stop.clone()));

    let port = server.local_addr().port();
    let url = format!("https://{}", std::net::SocketAddr::new(config.local_address(), port));
    let outside = format!("https://{}", std::net::SocketAddr::new(config.advertise, port));
    let credentials = credentials::Credentials::new(&pki, &config.data_dir, &url);
    let kubeconfig = credentials.write(&outside)?;
    let join = join::ensure(&credentials.master()?, &pki, &config.data_dir).await?;
    if !config.disabled.contains(&Component::Controllers) {
        let clients = credentials.controllers()?;
        let settings = strake_controllers::Config {
            cluster_cidr: config.cluster_cidr,
            secondary_cluster_cidr: config.secondary_cluster_cidr,
            load_balancer_pool: config.load_balancer_pool.clone(),
            ..strake_controllers::Config::new(Arc::clone(&pki))
        };
        let stop = stop.clone();
        tasks.spawn(async move { strake_controllers::run(settings, move |name| clients.get(name), stop).await });
    }
    if !config.disabled.contains(&Component::Scheduler) {
        let client = credentials.client("system:kube-scheduler")?;
        tasks.spawn(strake_scheduler::run(strake_scheduler::Config::default(), client, stop.clone()));
    }
    let _ = guard.disarm();
    Ok(ControlPlane { server, store, tasks, url, kubeconfig, join, took: started.elapsed() })
}

impl ControlPlane {
    /// Waits until everything has ended, which the token given to [`start`] asks for, and closes the store.
    ///
    /// # Errors
    /// When the store cannot be closed cleanly; nothing acknowledged is lost by that.
    pub async fn wait(mut self) -> Result<(), Error> {
        self.server.wait().await;
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a part of the control plane failed");
            }
        }
        Backend::close(&*self.store).await?;
        Ok(())
    }
}

/// [`start`], then [`ControlPlane::wait`].
///
/// # Errors
/// As those.
pub async fn run(config: ServerConfig, shutdown: CancellationToken) -> Result<(), Error> {
    start(config, shutdown).await?.wait().await
}
