//! Which kinds the API serves, for the controllers that treat all of them alike (namespace, garbage).

use crate::runtime::{Doing, Result};
use kube::api::{ApiResource, DynamicObject};
use kube::core::PartialObjectMeta;
use kube::discovery::{Discovery, Scope};
use kube::{Api, Client};

/// Metadata of an object of any kind.
pub type AnyMeta = PartialObjectMeta<DynamicObject>;

/// A served kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Group, version, kind, plural.
    pub resource: ApiResource,
    /// Its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: Vec<String>,
}

impl Kind {
    /// Whether the API serves this verb for it.
    pub fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// `pods` or `deployments.apps`.
    pub fn name(&self) -> String {
        let r = &self.resource;
        if r.group.is_empty() { r.plural.clone() } else { format!("{}.{}", r.plural, r.group) }
    }

    /// Access to the metadata of its objects in `namespace` (ignored for cluster-scoped kinds).
    pub fn api(&self, client: &Client, namespace: &str) -> Api<AnyMeta> {
        if self.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client.clone(), namespace, &self.resource)
        } else {
            self.everywhere(client)
        }
    }

    /// Access to the metadata of all its objects.
    pub fn everywhere(&self, client: &Client) -> Api<AnyMeta> {
        Api::all_with(client.clone(), &self.resource)
    }
}

/// Asks the API. Each kind once, in its most stable version.
pub async fn kinds(client: &Client) -> Result<Vec<Kind>> {
    let found = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(d) => d,
        // A server without aggregated discovery.
        Err(_) => Discovery::new(client.clone()).run().await.doing(|| "discovering the API's kinds".to_string())?,
    };
    let mut kinds: Vec<Kind> = found
        .groups()
        .flat_map(|g| g.resources_by_stability())
        .map(|(resource, caps)| Kind { resource, namespaced: caps.scope == Scope::Namespaced, verbs: caps.operations })
        .collect();
    kinds.sort_by(|a, b| (&a.resource.group, &a.resource.plural).cmp(&(&b.resource.group, &b.resource.plural)));
    Ok(kinds)
}
