//! What a request is about: verb, group, version, resource, subresource, namespace, name. Pure.
//!
//! Follows upstream's RequestInfoFactory, because RBAC rules are written in its terms.

use http::Method;

use crate::query::Query;

/// The parsed form of a request's method, path and query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestInfo {
    /// The path without its query.
    pub path: String,
    /// get, list, watch, create, update, patch, delete, deletecollection; the lower-case method for other paths.
    pub verb: &'static str,
    /// Whether the path names a resource of an API group.
    pub is_resource: bool,
    /// "api" or "apis".
    pub prefix: String,
    /// API group, "" for core.
    pub group: String,
    /// API version.
    pub version: String,
    /// Namespace, "" for cluster scope or all namespaces.
    pub namespace: String,
    /// Plural resource name.
    pub resource: String,
    /// Subresource, or "".
    pub subresource: String,
    /// Object name, or "".
    pub name: String,
    /// What follows the subresource (proxy paths), without a leading slash.
    pub rest: String,
    /// Whether the path ended in a slash after the last part (significant for proxies).
    pub trailing_slash: bool,
}

/// Subresources of namespaces: `/namespaces/NAME/status` is not a resource called status in a namespace.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

fn non_resource_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "other",
    }
}

impl RequestInfo {
    /// Parses a request's line.
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = Self { path: path.to_owned(), verb: non_resource_verb(method), ..Self::default() };
        let decoded: Vec<String> = path
            .trim_matches('/')
            .split('/')
            .map(|part| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned())
            .collect();
        let mut parts: &[String] = &decoded;
        if parts.len() < 3 {
            return info;
        }
        match parts[0].as_str() {
            "api" => parts = &parts[1..],
            "apis" if parts.len() >= 4 => {
                info.group.clone_from(&parts[1]);
                parts = &parts[2..];
            }
            _ => return info,
        }
        info.is_resource = true;
        info.prefix.clone_from(&decoded[0]);
        info.trailing_slash = path.ends_with('/');
        info.version.clone_from(&parts[0]);
        parts = &parts[1..];
        info.verb = verb_of(method);
        let mut legacy_watch = false;
        if parts.len() > 1 && parts[0] == "watch" {
            legacy_watch = true;
            parts = &parts[1..];
        }
        if parts.first().is_some_and(|part| part == "namespaces") && parts.len() > 1 {
            info.namespace.clone_from(&parts[1]);
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2].as_str()) {
                parts = &parts[2..];
            }
        }
        if let Some(resource) = parts.first() {
            info.resource.clone_from(resource);
        }
        if let Some(name) = parts.get(1) {
            info.name.clone_from(name);
        }
        if let Some(subresource) = parts.get(2) {
            info.subresource.clone_from(subresource);
        }
        if parts.len() > 3 {
            info.rest = parts[3..].join("/");
        }
        if legacy_watch && info.verb == "get" {
            info.verb = "watch";
        }
        if info.name.is_empty() {
            match info.verb {
                "get" => info.verb = if query.flag("watch") { "watch" } else { "list" },
                "delete" => info.verb = "deletecollection",
                _ => {}
            }
        }
        info
    }

    /// Whether the answer may last as long as the client likes: watches, streams and proxies.
    pub fn is_long_running(&self) -> bool {
        self.is_resource
            && (self.verb == "watch"
                || matches!(self.subresource.as_str(), "attach" | "exec" | "log" | "portforward" | "proxy"))
    }

    /// Whether the request changes nothing.
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch" | "head" | "options")
    }

    /// `resource.group`, or `resource` for the core group, as messages write it.
    pub fn qualified_resource(&self) -> String {
        if self.group.is_empty() { self.resource.clone() } else { format!("{}.{}", self.resource, self.group) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: Method, target: &str) -> RequestInfo {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        RequestInfo::parse(&method, path, &Query::parse(query))
    }

    #[test]
    fn a_namespaced_object_is_named_by_its_path() {
        let got = info(Method::GET, "/api/v1/namespaces/default/pods/web-0");
        assert_eq!(
            (got.verb, got.namespace.as_str(), got.resource.as_str(), got.name.as_str()),
            ("get", "default", "pods", "web-0")
        );
    }

    #[test]
    fn collections_are_listed_watched_and_deleted() {
        assert_eq!(info(Method::GET, "/apis/apps/v1/deployments").verb, "list");
        assert_eq!(info(Method::GET, "/apis/apps/v1/deployments?watch=1").verb, "watch");
        assert_eq!(info(Method::GET, "/apis/apps/v1/deployments?watch=false").verb, "list");
        assert_eq!(info(Method::DELETE, "/apis/apps/v1/namespaces/a/deployments").verb, "deletecollection");
        assert_eq!(info(Method::GET, "/api/v1/watch/namespaces/a/pods").verb, "watch");
    }

    #[test]
    fn a_namespace_is_both_scope_and_object() {
        let got = info(Method::GET, "/api/v1/namespaces/default");
        assert_eq!(
            (got.resource.as_str(), got.name.as_str(), got.namespace.as_str()),
            ("namespaces", "default", "default")
        );
        let got = info(Method::PUT, "/api/v1/namespaces/default/finalize");
        assert_eq!(
            (got.resource.as_str(), got.name.as_str(), got.subresource.as_str()),
            ("namespaces", "default", "finalize")
        );
    }

    #[test]
    fn discovery_paths_are_no_resources() {
        for path in ["/api", "/apis", "/api/v1", "/apis/apps", "/apis/apps/v1", "/version", "/healthz/ping"] {
            let got = info(Method::GET, path);
            assert!(!got.is_resource, "{path}");
            assert_eq!(got.verb, "get", "{path}");
        }
    }

    #[test]
    fn proxy_paths_keep_what_follows() {
        let got = info(Method::GET, "/api/v1/namespaces/a/services/http:web:80/proxy/x/y");
        assert_eq!((got.subresource.as_str(), got.rest.as_str()), ("proxy", "x/y"));
        assert!(got.is_long_running());
    }
}
