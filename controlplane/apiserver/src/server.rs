//! The chain every request goes through, and the server that runs it.
//!
//! ```text
//!   audit id ─► request info ─► in-flight limit ─► authentication ─► impersonation ─► authorization ─► handler
//!      └───── panics become 500, 60 s become 504, every answer is counted and carries the audit id ─────┘
//! ```

use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use hyper::body::{Body as _, Incoming};
use strake_auth::{UserInfo, groups};
use strake_machinery::ApiError;
use tracing::{debug, error, warn};

use crate::{
    api::Api,
    http::{
        body::{self, Body},
        listener::{Handler, Peer},
        negotiate::{Accepted, Encoding},
        respond::{self, Format},
    },
    metrics::Inflight,
    query::Query,
    registry::{
        self, Warnings,
        handlers::{Call, negotiate},
    },
    request::RequestInfo,
    system,
};

/// Requests that are not long-running are answered within this time.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// The function behind the listener.
pub struct Front {
    /// The server's state.
    pub api: Arc<Api>,
}

/// The audit id: the client's, if it is a sane one, or a new one.
fn audit_id(headers: &HeaderMap) -> HeaderValue {
    headers
        .get(&AUDIT_ID)
        .filter(|value| value.len() <= 64 && value.as_bytes().iter().all(u8::is_ascii_graphic))
        .cloned()
        .unwrap_or_else(|| {
            HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("none"))
        })
}

impl Handler for Front {
    async fn handle(&self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let started = Instant::now();
        let api = &self.api;
        let query = Query::parse(request.uri().query().unwrap_or_default());
        let info = RequestInfo::parse(request.method(), request.uri().path(), &query);
        let audit = audit_id(request.headers());
        let known = !info.is_resource || api.kinds.resource(&info.group, &info.version, &info.resource).is_some();
        let address = peer.address;
        let chain = Box::pin(run(api, &info, &query, request, peer));
        let guarded = AssertUnwindSafe(chain).catch_unwind();
        let outcome = if info.is_long_running() {
            Ok(guarded.await)
        } else {
            tokio::time::timeout(REQUEST_TIMEOUT, guarded).await
        };
        let mut response = match outcome {
            Ok(Ok(response)) => response,
            Ok(Err(panic)) => {
                api.metrics.panicked();
                let text = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("no message");
                error!(path = %info.path, verb = info.verb, panic = text, "a handler panicked");
                let why = "This request caused apiserver to panic. Look in the logs for details.";
                respond::error(&ApiError::internal(why), Format::PLAIN)
            }
            Err(_) => {
                warn!(path = %info.path, verb = info.verb, "a request took longer than 60 s");
                respond::error(&ApiError::generic(504, ""), Format::PLAIN)
            }
        };
        let headers = response.headers_mut();
        headers.insert(AUDIT_ID, audit);
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
        let code = response.status().as_u16();
        api.metrics.answered(&info, known, code, started.elapsed());
        debug!(target: "audit", %address, verb = info.verb, path = %info.path, code, took = ?started.elapsed());
        response
    }
}

/// What is left of a refused request's body is read up to this many bytes, so that the connection can be used again.
const DRAIN: usize = 256 * 1024;

/// A request that may go on.
struct Admitted {
    user: UserInfo,
    _inflight: Option<Inflight>,
}

/// Who asks, whether there is room, and whether they may.
fn admit(api: &Api, info: &RequestInfo, query: &Query, headers: &HeaderMap, peer: &Peer) -> Result<Admitted, ApiError> {
    let user = api.auth.user(headers, peer)?;
    let exempt = info.is_long_running() || user.in_group(groups::MASTERS);
    let limit = if info.is_read_only() { api.config.max_reads } else { api.config.max_writes };
    let inflight = if exempt {
        None
    } else {
        let refused = || ApiError::too_many_requests("Too many requests, please try again later.", 1);
        Some(api.metrics.enter(info.is_read_only(), limit).ok_or_else(refused)?)
    };
    api.auth.require(&user, info, query)?;
    Ok(Admitted { user, _inflight: inflight })
}

/// Answers a request that was refused before its body was read.
async fn refuse(request: Request<Incoming>, error: &ApiError, format: Format) -> Response<Body> {
    if !request.body().is_end_stream() {
        let _ = tokio::time::timeout(Duration::from_secs(1), body::read(request.into_body(), DRAIN)).await;
    }
    respond::error(error, format)
}

/// Everything between the connection and the handler.
async fn run(
    api: &Arc<Api>,
    info: &RequestInfo,
    query: &Query,
    request: Request<Incoming>,
    peer: Peer,
) -> Response<Body> {
    let format = Format::of(request.headers(), query.optional_flag("pretty"), Encoding::Json);
    let admitted = match admit(api, info, query, request.headers(), &peer) {
        Ok(admitted) => admitted,
        Err(error) => return refuse(request, &error, format).await,
    };
    let user = &admitted.user;
    if !info.is_resource {
        return system::handle(api, info, query, user, request).await;
    }
    let headers = request.headers().clone();
    // Streams and proxies answer in the kubelet's or the Pod's own media types.
    let (accepted, format) = match negotiate(&headers, query) {
        Ok(negotiated) => negotiated,
        Err(_) if matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy") => {
            (Accepted::JSON, format)
        }
        Err(error) => return refuse(request, &error, format).await,
    };
    let warnings = Warnings::default();
    let call = Call { api, info, query, headers: &headers, user, warnings: &warnings, accepted, format };
    let op = match registry::resolve(&call) {
        Ok(op) => op,
        Err(error) => return refuse(request, &error, format).await,
    };
    let mut response = match registry::handle(&call, op, request).await {
        Ok(response) => response,
        Err(error) => {
            if error.code >= 500 {
                warn!(path = %info.path, verb = info.verb, %error, "a request failed");
            }
            respond::error(&error, format)
        }
    };
    for text in warnings.take() {
        let quoted = text.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

/// A running server.
pub struct Server {
    /// Its state.
    pub(crate) api: Arc<Api>,
    pub(crate) done: tokio::task::JoinHandle<()>,
}

impl Server {
    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.api.address
    }

    /// The server's state, for what runs in the same process.
    pub fn api(&self) -> &Arc<Api> {
        &self.api
    }

    /// Waits until the server has ended, which the token given to [`crate::serve`] asks for.
    pub async fn wait(self) {
        if let Err(failure) = self.done.await {
            error!(%failure, "the listener's task failed");
        }
    }
}
