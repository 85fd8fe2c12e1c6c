//! strake-auth's decisions, asked with this server's requests and answered from its cache.

use std::sync::Arc;

use http::HeaderMap;
use serde_json::Value;
use strake_auth::{
    Attributes, Authenticator, AuthenticatorConfig, Authorizer, Denied, ImpersonationError, Lookup, UserInfo,
};
use strake_machinery::{ApiError, GroupResource, Registry, selector::FieldSelector};
use strake_pki::{Pki, ServiceAccountSigner};

use crate::{
    api::cache_name,
    cache::{Cacher, ResourceCache},
    http::listener::Peer,
    query::Query,
    request::RequestInfo,
};

/// Why the server cannot decide who may do what.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// The ServiceAccount keys.
    #[error("the ServiceAccount keys: {0}")]
    Keys(#[from] strake_pki::Error),
    /// The token file.
    #[error(transparent)]
    Config(#[from] strake_auth::ConfigError),
}

/// Authentication and authorization.
pub struct Auth {
    /// Who asks.
    pub authenticator: Authenticator,
    /// May they.
    pub authorizer: Authorizer,
    /// What the decisions know of the cluster.
    pub lookup: Arc<CacheLookup>,
}

/// The cache as the decisions see it.
pub struct CacheLookup {
    kinds: &'static Registry,
    cacher: Arc<Cacher>,
}

impl CacheLookup {
    fn cache(&self, group: &str, resource: &str) -> Option<&Arc<ResourceCache>> {
        let kind = self.kinds.preferred_resource(group, resource)?;
        self.cacher.resource(cache_name(self.kinds.storage_kind(kind).unwrap_or(kind)))
    }
}

impl Lookup for CacheLookup {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        let cache = self.cache(group, resource)?;
        let object = if namespace.is_empty() { cache.get(name) } else { cache.get(&format!("{namespace}/{name}")) };
        object.map(|object| Arc::new(object.value()))
    }

    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>> {
        let Some(cache) = self.cache(group, resource) else { return Vec::new() };
        let snapshot = cache.snapshot(namespace.unwrap_or_default(), 0);
        snapshot.objects.iter().map(|object| Arc::new(object.value())).collect()
    }

    fn version(&self, group: &str, resource: &str) -> u64 {
        self.cache(group, resource).map_or(0, |cache| cache.latest())
    }

    fn pods_on_node(&self, node: &str) -> Vec<Arc<Value>> {
        let Some(cache) = self.cache("", "pods") else { return Vec::new() };
        cache
            .snapshot("", 0)
            .objects
            .iter()
            .filter(|pod| pod.field("spec.nodeName") == Some(node))
            .map(|pod| Arc::new(pod.value()))
            .collect()
    }
}

/// A 403 as a Status.
pub fn denied(denied: Denied) -> ApiError {
    let mut error = ApiError::forbidden(GroupResource::new(&denied.group, &denied.resource), &denied.name, "");
    error.message = denied.message;
    error
}

impl Auth {
    /// Decisions over a cache.
    ///
    /// # Errors
    /// When the ServiceAccount keys cannot be read.
    pub fn new(kinds: &'static Registry, cacher: &Arc<Cacher>, pki: &Pki) -> Result<Self, AuthError> {
        let lookup = Arc::new(CacheLookup { kinds, cacher: Arc::clone(cacher) });
        let signer = ServiceAccountSigner::ensure(pki.dir(), pki.service_accounts().issuer())?;
        let config = AuthenticatorConfig {
            service_accounts: Arc::new(signer),
            audiences: Vec::new(),
            token_file: None,
            anonymous: true,
        };
        let authenticator = Authenticator::new(config, Arc::clone(&lookup) as Arc<dyn Lookup>)?;
        let authorizer = Authorizer::new(Arc::clone(&lookup) as Arc<dyn Lookup>);
        Ok(Self { authenticator, authorizer, lookup })
    }

    /// The user of a request, impersonation included.
    ///
    /// # Errors
    /// 401 for credentials that do not hold, 403 and 400 for impersonation.
    pub fn user(&self, headers: &HeaderMap, peer: &Peer) -> Result<UserInfo, ApiError> {
        let leaf = peer.certificates.first().map(|certificate| certificate.as_ref());
        let user = self.authenticator.authenticate(leaf, headers).map_err(|error| {
            tracing::debug!(address = %peer.address, %error, "a request was not authenticated");
            ApiError::unauthorized("Unauthorized")
        })?;
        match strake_auth::impersonate(&self.authorizer, &user, headers) {
            Ok(None) => Ok(user),
            Ok(Some(other)) => Ok(other),
            Err(ImpersonationError::BadRequest(why)) => Err(ApiError::bad_request(why)),
            Err(ImpersonationError::Denied(why)) => Err(denied(why)),
        }
    }

    /// Whether a user may make a request.
    ///
    /// # Errors
    /// 403.
    pub fn require(&self, user: &UserInfo, info: &RequestInfo, query: &Query) -> Result<(), ApiError> {
        if !info.is_resource {
            return self.authorizer.require(&Attributes::non_resource(user, info.verb, &info.path)).map_err(denied);
        }
        let collection = matches!(info.verb, "list" | "watch" | "deletecollection");
        let selector = if collection {
            FieldSelector::parse_any(query.get("fieldSelector").unwrap_or_default()).unwrap_or_default()
        } else {
            FieldSelector::default()
        };
        let fields: Vec<(&str, &str)> = selector
            .requirements()
            .iter()
            .filter(|one| !one.negated)
            .map(|one| (one.field.as_str(), one.value.as_str()))
            .collect();
        let name = selector.exact("metadata.name").filter(|_| info.name.is_empty()).unwrap_or(&info.name);
        let attributes = Attributes::resource(user, info.verb, &info.group, &info.resource)
            .version(&info.version)
            .subresource(&info.subresource)
            .namespace(&info.namespace)
            .name(name)
            .fields(fields);
        self.authorizer.require(&attributes).map_err(denied)
    }
}
