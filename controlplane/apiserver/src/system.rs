//! Everything that is no resource: version, health, metrics, discovery, OpenAPI, issuer discovery.

use std::{
    fmt::Write as _,
    sync::{Arc, atomic::Ordering},
};

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::json;
use strake_auth::UserInfo;
use strake_machinery::ApiError;

use crate::{
    api::Api,
    discovery,
    http::{
        body::Body,
        negotiate::Encoding,
        respond::{self, Format},
    },
    query::Query,
    request::RequestInfo,
};

/// The Kubernetes version whose API is served.
pub const GIT_VERSION: &str = "v1.36.0+strake";

/// The named checks of /livez and /readyz, and whether each holds.
fn checks(api: &Api, ready: bool) -> Vec<(&'static str, bool)> {
    let synced = api.cacher.is_synced();
    let mut checks = vec![("ping", true), ("log", true), ("etcd", synced)];
    if ready {
        let bootstrapped = api.bootstrapped.load(Ordering::Acquire);
        checks.push(("informer-sync", synced));
        checks.push(("poststarthook/rbac/bootstrap-roles", bootstrapped));
        checks.push(("poststarthook/scheduling/bootstrap-system-priority-classes", bootstrapped));
        checks.push(("poststarthook/bootstrap-controller", bootstrapped));
        checks.push(("shutdown", !api.shutdown.is_cancelled()));
    }
    checks
}

fn health(api: &Api, endpoint: &str, rest: &str, query: &Query) -> Response<Body> {
    let ready = endpoint == "readyz";
    let checks = checks(api, ready);
    if !rest.is_empty() {
        return match checks.iter().find(|(name, _)| *name == rest) {
            Some((_, true)) => respond::text(StatusCode::OK, "ok"),
            Some((name, false)) => {
                respond::text(StatusCode::INTERNAL_SERVER_ERROR, format!("internal server error: {name} failed\n"))
            }
            None => respond::page_not_found(),
        };
    }
    let excluded: Vec<&str> = query.all("exclude").collect();
    let (mut text, mut healthy) = (String::new(), true);
    for (name, holds) in checks {
        let excluded = excluded.contains(&name);
        healthy &= holds || excluded;
        // Writing to a String does not fail.
        let _ = match (excluded, holds) {
            (true, _) => writeln!(text, "[+]{name} excluded: ok"),
            (false, true) => writeln!(text, "[+]{name} ok"),
            (false, false) => writeln!(text, "[-]{name} failed: reason withheld"),
        };
    }
    if !healthy {
        let _ = writeln!(text, "{endpoint} check failed");
        return respond::text(StatusCode::INTERNAL_SERVER_ERROR, text);
    }
    if query.get("verbose").is_some() {
        let _ = writeln!(text, "{endpoint} check passed");
        return respond::text(StatusCode::OK, text);
    }
    respond::text(StatusCode::OK, "ok")
}

fn version() -> serde_json::Value {
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "rustc",
        "platform": format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }),
    })
}

fn metrics(api: &Api) -> Response<Body> {
    let objects = api.kinds.kinds().iter().filter(|kind| kind.stored).filter_map(|kind| {
        let cache = api.cache_of(api.kinds.storage_kind(kind)?)?;
        Some((kind.group.clone(), kind.plural.clone(), cache.len()))
    });
    match api.metrics.render(objects) {
        Ok(text) => {
            respond::typed(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", text, false)
        }
        Err(error) => respond::error(&ApiError::internal(error), Format::PLAIN),
    }
}

/// Answers a request that is about no resource.
pub async fn handle(
    api: &Arc<Api>,
    info: &RequestInfo,
    query: &Query,
    _user: &UserInfo,
    request: Request<Incoming>,
) -> Response<Body> {
    let format = Format::of(request.headers(), query.optional_flag("pretty"), Encoding::Json);
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = respond::error(&ApiError::method_not_allowed(), format);
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    let path = info.path.trim_end_matches('/');
    let (first, rest) = path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    match (first, rest) {
        ("", _) => respond::object(StatusCode::OK, &json!({"paths": discovery::paths(api)}), format),
        ("version", "") => respond::object(StatusCode::OK, &version(), format),
        ("livez" | "readyz" | "healthz", rest) => health(api, first, rest, query),
        ("metrics", "") => metrics(api),
        (".well-known", "openid-configuration") => {
            let jwks_uri = format!("https://{}/openid/v1/jwks", authority(api));
            let document = api.pki.service_accounts().discovery(&jwks_uri);
            respond::object(StatusCode::OK, &document, format)
        }
        ("openid", "v1/jwks") => {
            let keys = api.pki.service_accounts().jwks().to_string();
            respond::typed(StatusCode::OK, "application/jwk-set+json", keys, false)
        }
        ("api" | "apis", _) => discovery::handle(api, path, request.headers(), format),
        ("openapi", rest) => crate::openapi::handle(api.kinds, rest, query, request.headers()),
        _ => respond::page_not_found(),
    }
}

/// Host and port under which others reach this server.
pub fn authority(api: &Api) -> String {
    std::net::SocketAddr::new(api.config.advertise, api.address.port()).to_string()
}
