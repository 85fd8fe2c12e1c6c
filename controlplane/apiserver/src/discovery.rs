//! Discovery and OpenAPI over HTTP: which document, in which form, and whether the client has it already.

use std::sync::OnceLock;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use sha2::{Digest as _, Sha512};
use strake_machinery::discovery;

use crate::{
    api::Api,
    http::{
        body::{self, Body},
        negotiate,
        respond::{self, Format},
    },
    system,
};

/// The paths that `/` lists.
pub fn paths(api: &Api) -> Vec<String> {
    let mut paths: Vec<String> = ["/.well-known/openid-configuration", "/api", "/api/v1", "/apis", "/apis/"]
        .iter()
        .map(|path| (*path).to_owned())
        .collect();
    for group in api.kinds.groups().iter().filter(|group| !group.name.is_empty()) {
        paths.push(format!("/apis/{}", group.name));
        paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{version}", group.name)));
    }
    let others =
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"];
    paths.extend(others.iter().map(|path| (*path).to_owned()));
    paths
}

/// An entity tag: upper-case hexadecimal SHA-512, as upstream makes it.
fn etag(bytes: &[u8]) -> String {
    Sha512::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect()
}

struct Document {
    bytes: Bytes,
    etag: String,
}

fn document(value: &Value) -> Document {
    let bytes = Bytes::from(value.to_string());
    let etag = etag(&bytes);
    Document { bytes, etag }
}

fn not_modified(etag: &str) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    set_etag(&mut response, etag);
    response
}

fn set_etag(response: &mut Response<Body>, etag: &str) {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{etag}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
}

fn has(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim().trim_matches('"') == etag)
}

/// Answers paths under /api and /apis.
pub fn handle(api: &Api, path: &str, headers: &HeaderMap, format: Format) -> Response<Body> {
    static CORE: OnceLock<Document> = OnceLock::new();
    static GROUPS: OnceLock<Document> = OnceLock::new();
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if let (Some(version), "/api" | "/apis") = (negotiate::aggregated_discovery(accept), path) {
        let known = if path == "/api" {
            CORE.get_or_init(|| document(&discovery::aggregated_core(api.kinds)))
        } else {
            GROUPS.get_or_init(|| document(&discovery::aggregated_groups(api.kinds)))
        };
        if has(headers, &known.etag) {
            return not_modified(&known.etag);
        }
        let content_type = if version == "v2" {
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
        } else {
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList"
        };
        let mut response = respond::typed(StatusCode::OK, content_type, known.bytes.clone(), format.gzip);
        set_etag(&mut response, &known.etag);
        response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
        return response;
    }
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let answer = match parts.as_slice() {
        ["api"] => Some(discovery::api_versions(api.kinds, &system::authority(api))),
        ["apis"] => Some(discovery::api_group_list(api.kinds)),
        ["api", version] => discovery::api_resource_list(api.kinds, "", version),
        ["apis", group] => discovery::api_group(api.kinds, group),
        ["apis", group, version] => discovery::api_resource_list(api.kinds, group, version),
        _ => None,
    };
    match answer {
        Some(value) => respond::object(StatusCode::OK, &value, format),
        None => respond::page_not_found(),
    }
}
