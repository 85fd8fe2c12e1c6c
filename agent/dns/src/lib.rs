//! The userspace half of cluster DNS: what the kernel does not answer at from_pod comes here.
//!
//! What it is for: every record type of the Kubernetes DNS specification (1.1.0) from the current [`World`], and
//! everything else from the node's upstream servers through a bounded cache, over UDP and TCP. What it must not know:
//! the API server, BPF, interfaces (whoever calls it has put the listen address on one).
//!
//! ```text
//!   UDP, TCP ──► message (parse, limits) ──► zone: pure, World -> records ──► message (encode, truncate) ──►
//!                                              │ not of the cluster, or an ExternalName's target
//!                                              └──► upstream: resolver with cache
//! ```

#![forbid(unsafe_code)]

#[doc(hidden)]
pub mod fuzz;
mod message;
mod reverse;
mod server;
mod upstream;
mod zone;

pub use server::Server;
pub use zone::Zone;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};
use strake_state::{ObjectName, World};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where names outside the cluster are asked for.
#[derive(Clone, Debug)]
pub enum UpstreamConfig {
    /// The name servers of a resolv.conf, read again when the file changes.
    ResolvConf(PathBuf),
    /// These servers.
    Servers(Vec<SocketAddr>),
}

#[derive(Clone, Debug)]
pub struct Config {
    /// UDP and TCP are served on each.
    pub listen: Vec<SocketAddr>,
    /// Such as `cluster.local`.
    pub cluster_domain: String,
    pub upstream: UpstreamConfig,
    /// Of the cluster's records, and of their absence, in seconds.
    pub ttl: u32,
    /// The Service through which Pods reach cluster DNS: the address of the zone's name server.
    pub dns_service: ObjectName,
    /// Upstream answers kept, in records.
    pub cache_records: u64,
}

impl Config {
    /// The stock values for a domain: TTL 5 s, kube-system/kube-dns, the node's /etc/resolv.conf.
    pub fn new(listen: Vec<SocketAddr>, cluster_domain: impl Into<String>) -> Self {
        Self {
            listen,
            cluster_domain: cluster_domain.into(),
            upstream: UpstreamConfig::ResolvConf("/etc/resolv.conf".into()),
            ttl: 5,
            dns_service: ObjectName::new("kube-system", "kube-dns"),
            cache_records: 4096,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cluster DNS cannot listen on {protocol} {address}: {source}")]
    Bind { protocol: &'static str, address: SocketAddr, source: std::io::Error },
    #[error("the cluster domain {domain:?} is not a domain name: {detail}")]
    Domain { domain: String, detail: String },
}

/// Binds and serves until cancelled.
///
/// # Errors
/// If an address cannot be bound or the domain is none; nothing after that ends it.
pub async fn serve(config: Config, world: watch::Receiver<Arc<World>>, cancel: CancellationToken) -> Result<(), Error> {
    Server::bind(config).await?.run(world, cancel).await;
    Ok(())
}
