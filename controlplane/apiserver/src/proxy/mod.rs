//! Requests that end somewhere else: at a kubelet, a Pod or a Service.
//!
//! ```text
//!   kubectl exec ──WebSocket v5/v4──► translate ──SPDY/3.1──► kubelet ──► container runtime
//!   older client ──SPDY/3.1─────────► tunnel ─────bytes────►
//!   port-forward ──SPDY in WebSocket─► tunnel ────bytes────►
//!   logs, proxy  ──HTTP──────────────► forward ───HTTP─────►
//! ```

pub mod forward;
pub mod kubelet;
pub mod logs;
pub mod streams;
pub mod target;
pub mod translate;
pub mod tunnel;

use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;
use strake_machinery::ApiError;

use crate::{
    http::body::Body,
    registry::{Op, handlers::Call},
};

/// Answers log, exec, attach, portforward and proxy.
///
/// # Errors
/// 404 and 400 for what is asked for, 500 when the other end cannot be reached.
pub async fn handle(call: &Call<'_>, op: &Op<'_>, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    match op.subresource {
        "log" => logs::handle(call, op).await,
        "exec" | "attach" => streams::handle(call, op, request).await,
        "portforward" => streams::port_forward(call, op, request).await,
        _ => forward::handle(call, op, request).await,
    }
}

/// The protocol that a request wants to switch to, in lower case.
pub fn upgrade_of(headers: &HeaderMap) -> Option<String> {
    let connection = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    let protocol = headers.get(header::UPGRADE)?.to_str().ok()?;
    connection.then(|| protocol.to_ascii_lowercase())
}
