//! What the decisions need to know of the cluster.

use serde_json::Value;
use std::sync::Arc;

/// Read access to stored objects, answered from memory. The API server implements it with its watch cache.
pub trait Lookup: Send + Sync + 'static {
    /// One object; `namespace` is empty for cluster-scoped ones.
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>>;

    /// All objects of a resource, in one namespace or in all.
    fn list(&self, group: &str, resource: &str, namespace: Option<&str>) -> Vec<Arc<Value>>;

    /// A number that differs whenever any object of the resource differs, such as the newest revision seen for it.
    fn version(&self, group: &str, resource: &str) -> u64;

    /// The Pods whose `spec.nodeName` is `node`. Worth an index where there are many Pods.
    fn pods_on_node(&self, node: &str) -> Vec<Arc<Value>> {
        let mut pods = self.list("", "pods", None);
        pods.retain(|pod| pod["spec"]["nodeName"] == node);
        pods
    }
}
