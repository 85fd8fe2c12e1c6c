//! The server's shared state, handed to everything that answers requests.

use std::sync::Arc;

use serde_json::Value;
use strake_auth::UserInfo;
use strake_machinery::{Kind, Registry};
use strake_pki::Pki;
use strake_store::Backend;
use tokio_util::sync::CancellationToken;

use crate::{
    allocate::ServiceAllocator,
    auth::Auth,
    cache::{Cacher, Object, ROOT, ResourceCache, Selectable},
    config::Config,
    metrics::Metrics,
    proxy::kubelet::KubeletClient,
    registry::storage::Storage,
};

/// The name under which the server itself works, as stock's loopback client does.
pub const SYSTEM_USER: &str = "system:apiserver";

/// The server's shared state.
pub struct Api {
    /// What the server was told.
    pub config: Config,
    /// Every kind.
    pub kinds: &'static Registry,
    /// Objects in the store.
    pub storage: Storage,
    /// Objects in memory.
    pub cacher: Arc<Cacher>,
    /// Who asks, and whether they may.
    pub auth: Auth,
    /// Certificates and ServiceAccount tokens.
    pub pki: Arc<Pki>,
    /// ClusterIPs and NodePorts.
    pub services: ServiceAllocator,
    /// The way to kubelets.
    pub kubelets: KubeletClient,
    /// Figures.
    pub metrics: Metrics,
    /// The identity of the server itself.
    pub system_user: UserInfo,
    /// Ends everything.
    pub shutdown: CancellationToken,
    /// The address that the server listens on.
    pub address: std::net::SocketAddr,
    /// When the server started.
    pub started: std::time::Instant,
    /// Whether the objects that the server keeps itself are there.
    pub bootstrapped: std::sync::atomic::AtomicBool,
}

/// What follows the root in the keys of a kind's objects, without slashes at the ends.
pub fn cache_name(kind: &Kind) -> &str {
    kind.storage_prefix.trim_start_matches(ROOT).trim_end_matches('/')
}

/// A cache for every stored kind.
pub fn cacher(kinds: &Registry, backend: Arc<dyn Backend>) -> Arc<Cacher> {
    let mut resources: Vec<(String, Selectable)> = Vec::new();
    for kind in kinds.kinds().iter().filter(|kind| kind.stored) {
        let row = kinds.storage_kind(kind).unwrap_or(kind);
        let name = cache_name(row).to_owned();
        if !resources.iter().any(|(known, _)| *known == name) {
            resources.push((name, Selectable::new(&row.selectable)));
        }
    }
    Cacher::new(backend, resources)
}

impl Api {
    /// The cache of a stored kind.
    pub fn cache_of(&self, kind: &Kind) -> Option<&Arc<ResourceCache>> {
        self.cacher.resource(cache_name(kind))
    }

    /// The cache of a built-in resource.
    pub fn cache(&self, group: &str, resource: &str) -> Option<&Arc<ResourceCache>> {
        let kind = self.kinds.preferred_resource(group, resource)?;
        self.cache_of(self.kinds.storage_kind(kind).unwrap_or(kind))
    }

    /// One object of the cache, as it is there at this moment.
    pub fn cached(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let cache = self.cache(group, resource)?;
        if namespace.is_empty() { cache.get(name) } else { cache.get(&format!("{namespace}/{name}")) }
    }

    /// One object of the cache, parsed.
    pub fn lookup(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        self.cached(group, resource, namespace, name).map(|object| object.value())
    }

    /// One object, parsed, as of now: if the cache does not have it, it is asked again once it shows everything that
    /// was written before this call.
    pub async fn lookup_fresh(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        if let Some(found) = self.lookup(group, resource, namespace, name) {
            return Some(found);
        }
        self.cacher.wait_fresh().await.ok()?;
        self.lookup(group, resource, namespace, name)
    }
}
