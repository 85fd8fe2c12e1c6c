//! Where a request about a Node, a Pod or a Service is sent.

use serde_json::Value;
use strake_machinery::{ApiError, GroupResource, meta};

use crate::{api::Api, registry::Op};

/// How the other end is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// TLS whose certificate is not verified.
    Https,
    /// TLS verified with the cluster CA, client certificate shown.
    Kubelet,
}

impl Scheme {
    /// As in URLs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https | Self::Kubelet => "https",
        }
    }
}

/// An address to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// How to speak.
    pub scheme: Scheme,
    /// An IP address or a name.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

/// The kubelet of a Node.
///
/// # Errors
/// 404 when there is no such Node, 503 when it has no address.
pub async fn kubelet(api: &Api, node: &str) -> Result<Target, ApiError> {
    let found = api.lookup_fresh("", "nodes", "", node).await;
    let object = found.ok_or_else(|| ApiError::not_found(GroupResource::new("", "nodes"), node))?;
    let addresses = meta::list_at(&object, &["status", "addresses"]);
    let host = ["InternalIP", "ExternalIP", "InternalDNS", "Hostname"]
        .iter()
        .find_map(|kind| addresses.iter().find(|address| address["type"] == *kind))
        .and_then(|address| address["address"].as_str())
        .ok_or_else(|| ApiError::service_unavailable(format!("no preferred addresses found for node {node:?}")))?;
    let port = meta::i64_at(&object, &["status", "daemonEndpoints", "kubeletEndpoint", "Port"])
        .and_then(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .unwrap_or(api.config.kubelet_port);
    Ok(Target { scheme: Scheme::Kubelet, host: host.to_owned(), port })
}

/// `[scheme:]name[:port]`, as proxy paths write it.
pub fn split_name(text: &str) -> Option<(Scheme, &str, &str)> {
    let parts: Vec<&str> = text.split(':').collect();
    match parts.as_slice() {
        [name] => Some((Scheme::Http, name, "")),
        [name, port] => Some((Scheme::Http, name, port)),
        ["https", name, port] => Some((Scheme::Https, name, port)),
        ["http" | "", name, port] => Some((Scheme::Http, name, port)),
        _ => None,
    }
}

/// The Pod of an operation.
///
/// # Errors
/// 404 when there is none.
pub async fn pod(op: &Op<'_>, name: &str) -> Result<Value, ApiError> {
    let found = op.api.lookup_fresh("", "pods", op.namespace, name).await;
    found.ok_or_else(|| ApiError::not_found(op.kind, name))
}

/// The target of a `pods/proxy` request.
///
/// # Errors
/// 400 for a name that cannot be parsed, 404, and 503 for a Pod without an address.
pub async fn pod_proxy(op: &Op<'_>) -> Result<Target, ApiError> {
    let (scheme, name, port) =
        split_name(op.name).ok_or_else(|| ApiError::bad_request(format!("invalid pod request {:?}", op.name)))?;
    let object = pod(op, name).await?;
    let containers = meta::list_at(&object, &["spec", "containers"]);
    let mut ports = containers.iter().flat_map(|container| meta::list_at(container, &["ports"]));
    let port = match port {
        "" => ports.find_map(|port| port["containerPort"].as_u64()).unwrap_or(80),
        text => match text.parse::<u64>() {
            Ok(number) => number,
            Err(_) => ports
                .find(|port| port["name"] == text)
                .and_then(|port| port["containerPort"].as_u64())
                .ok_or_else(|| ApiError::bad_request(format!("pod {name:?} has no port named {text:?}")))?,
        },
    };
    let host = meta::str_at(&object, &["status", "podIP"]);
    if host.is_empty() {
        return Err(ApiError::service_unavailable(format!("pod {name:?} has no IP address yet")));
    }
    let port = u16::try_from(port).map_err(|_| ApiError::bad_request(format!("invalid port {port}")))?;
    Ok(Target { scheme, host: host.to_owned(), port })
}

/// The target of a `services/proxy` request: a ready endpoint of the port.
///
/// # Errors
/// 400, 404, and 503 when no endpoint is ready.
pub async fn service_proxy(op: &Op<'_>) -> Result<Target, ApiError> {
    let (scheme, name, port) =
        split_name(op.name).ok_or_else(|| ApiError::bad_request(format!("invalid service request {:?}", op.name)))?;
    let found = op.api.lookup_fresh("", "services", op.namespace, name).await;
    let service = found.ok_or_else(|| ApiError::not_found(op.kind, name))?;
    let ports = meta::list_at(&service, &["spec", "ports"]);
    let chosen = match port {
        "" if ports.len() == 1 => ports.first(),
        "" => ports.iter().find(|one| meta::str_at(one, &["name"]).is_empty()),
        text => ports
            .iter()
            .find(|one| one["name"] == text || one["port"].as_u64().is_some_and(|port| text.parse() == Ok(port))),
    };
    let unavailable = || ApiError::service_unavailable(format!("no endpoints available for service {name:?}"));
    let port_name = chosen.map(|port| meta::str_at(port, &["name"])).ok_or_else(unavailable)?;
    let slices = op.api.cache("discovery.k8s.io", "endpointslices").ok_or_else(unavailable)?;
    let mut candidates: Vec<Target> = Vec::new();
    for object in slices.snapshot(op.namespace, op.api.cacher.applied()).objects {
        if object.labels.get("kubernetes.io/service-name").and_then(Value::as_str) != Some(name) {
            continue;
        }
        let slice = object.value();
        let number = meta::list_at(&slice, &["ports"])
            .iter()
            .find(|port| meta::str_at(port, &["name"]) == port_name)
            .and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
        let Some(port) = number else { continue };
        let ready = meta::list_at(&slice, &["endpoints"]).iter().filter(|one| one["conditions"]["ready"] != false);
        for host in ready.filter_map(|endpoint| endpoint["addresses"][0].as_str()) {
            candidates.push(Target { scheme, host: host.to_owned(), port });
        }
    }
    if candidates.is_empty() {
        return Err(unavailable());
    }
    Ok(candidates.swap_remove(rand::random_range(0..candidates.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_names_carry_scheme_and_port() {
        assert_eq!(split_name("web"), Some((Scheme::Http, "web", "")));
        assert_eq!(split_name("web:http"), Some((Scheme::Http, "web", "http")));
        assert_eq!(split_name("https:web:443"), Some((Scheme::Https, "web", "443")));
        assert_eq!(split_name("a:b:c:d"), None);
    }
}
