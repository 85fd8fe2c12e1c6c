//! exec, attach and port-forward: finds the kubelet, agrees on protocols, and connects both ends.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::{
    body::Incoming,
    upgrade::{OnUpgrade, Upgraded},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use strake_machinery::{ApiError, meta};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};
use tracing::debug;

use super::{
    logs::{container, refusal},
    target::{self, Target},
    translate::{self, Wanted},
    tunnel, upgrade_of,
};
use crate::{
    http::body::{self, Body},
    registry::{Op, handlers::Call},
};

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
const TUNNELED_PORT_FORWARD: &str = "SPDY/3.1+portforward.k8s.io";
const PORT_FORWARD: &str = "portforward.k8s.io";

/// The protocol agreed on with a WebSocket client: the first of its own that is supported here.
fn choose(headers: &HeaderMap, supported: &[&'static str]) -> Result<&'static str, ApiError> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|offered| supported.iter().find(|one| **one == offered.trim()).copied())
        .ok_or_else(|| {
            let known = supported.join(", ");
            ApiError::bad_request(format!("none of the offered WebSocket protocols is supported; supported: {known}"))
        })
}

fn switching(protocol: &'static str) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(header::UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// The 101 that accepts a WebSocket.
fn accept_websocket(headers: &HeaderMap, protocol: &'static str) -> Result<Response<Body>, ApiError> {
    let key = headers
        .get(header::SEC_WEBSOCKET_KEY)
        .ok_or_else(|| ApiError::bad_request("the WebSocket request has no Sec-WebSocket-Key"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(ApiError::internal)?;
    let mut response = switching("websocket");
    response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    Ok(response)
}

async fn websocket(client: Upgraded) -> WebSocketStream<TokioIo<Upgraded>> {
    WebSocketStream::from_raw_socket(TokioIo::new(client), Role::Server, None).await
}

/// Asks a kubelet to switch to SPDY/3.1.
async fn dial(
    op: &Op<'_>,
    target: &Target,
    path: &str,
    protocols: &[HeaderValue],
) -> Result<Response<Incoming>, ApiError> {
    let mut request = Request::post(path)
        .header(header::HOST, format!("{}:{}", target.host, target.port))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header(header::CONTENT_LENGTH, 0)
        .body(body::empty())
        .map_err(ApiError::internal)?;
    for protocol in protocols {
        request.headers_mut().append(STREAM_PROTOCOL, protocol.clone());
    }
    let response = op.api.kubelets.send(target, request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS { Ok(response) } else { Err(refusal(response).await) }
}

/// A client that speaks SPDY/3.1 itself: its bytes are handed on.
async fn tunnel_spdy(
    op: &Op<'_>,
    headers: &HeaderMap,
    client: OnUpgrade,
    target: &Target,
    path: &str,
) -> Result<Response<Body>, ApiError> {
    let protocols: Vec<HeaderValue> = headers.get_all(STREAM_PROTOCOL).iter().cloned().collect();
    let mut answer = dial(op, target, path, &protocols).await?;
    tunnel::raw(client, hyper::upgrade::on(&mut answer), op.api.shutdown.clone());
    let mut response = switching("SPDY/3.1");
    if let Some(chosen) = answer.headers().get(STREAM_PROTOCOL) {
        response.headers_mut().insert(STREAM_PROTOCOL, chosen.clone());
    }
    Ok(response)
}

async fn node_of(op: &Op<'_>) -> Result<(Value, Target), ApiError> {
    let pod = target::pod(op, op.name).await?;
    let node = meta::str_at(&pod, &["spec", "nodeName"]);
    if node.is_empty() {
        return Err(ApiError::bad_request(format!("pod {} does not have a host assigned", op.name)));
    }
    let target = target::kubelet(op.api, node).await?;
    Ok((pod, target))
}

fn not_an_upgrade() -> ApiError {
    ApiError::bad_request("Upgrade request required")
}

/// The kubelet's path for an exec or attach request.
fn kubelet_path(call: &Call<'_>, op: &Op<'_>, pod: &Value, wanted: Wanted) -> Result<String, ApiError> {
    let query = call.query;
    let container = container(pod, query.get("container"))?;
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return Err(ApiError::bad_request("you must specify at least one of stdin, stdout, stderr"));
    }
    let mut out = url::form_urlencoded::Serializer::new(String::new());
    for (name, set) in [
        ("input", wanted.stdin),
        ("output", wanted.stdout),
        ("error", wanted.stderr && !wanted.tty),
        ("tty", wanted.tty),
    ] {
        if set {
            out.append_pair(name, "1");
        }
    }
    if op.subresource == "exec" {
        if query.get("command").is_none() {
            return Err(ApiError::bad_request("you must specify at least one command for the container"));
        }
        for word in query.all("command") {
            out.append_pair("command", word);
        }
    }
    Ok(format!("/{}/{}/{}/{container}?{}", op.subresource, op.namespace, op.name, out.finish()))
}

/// Answers exec and attach.
///
/// # Errors
/// 400 and 404 for what is asked for, the kubelet's refusals, 500 when it cannot be reached.
pub async fn handle(call: &Call<'_>, op: &Op<'_>, mut request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let (pod, target) = node_of(op).await?;
    let query = call.query;
    let wanted = Wanted {
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        tty: query.flag("tty"),
    };
    let path = kubelet_path(call, op, &pod, wanted)?;
    let client = hyper::upgrade::on(&mut request);
    match upgrade_of(call.headers).as_deref() {
        Some("websocket") => {
            let protocol = choose(call.headers, &[V5, V4])?;
            let response = accept_websocket(call.headers, protocol)?;
            let mut answer = dial(op, &target, &path, &[HeaderValue::from_static(V4)]).await?;
            let other = hyper::upgrade::on(&mut answer);
            let shutdown = op.api.shutdown.clone();
            tokio::spawn(async move {
                let (client, other) = match tokio::try_join!(client, other) {
                    Ok(both) => both,
                    Err(error) => {
                        debug!(%error, "an exec session's upgrade did not happen");
                        return;
                    }
                };
                tokio::select! {
                    ended = translate::run(websocket(client).await, TokioIo::new(other), wanted, protocol == V5) => {
                        if let Err(error) = ended {
                            debug!(%error, "an exec session ended");
                        }
                    }
                    () = shutdown.cancelled() => {}
                }
            });
            Ok(response)
        }
        Some("spdy/3.1") => tunnel_spdy(op, call.headers, client, &target, &path).await,
        _ => Err(not_an_upgrade()),
    }
}

/// Answers port-forward.
///
/// # Errors
/// As [`handle`].
pub async fn port_forward(
    call: &Call<'_>,
    op: &Op<'_>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, ApiError> {
    let (_, target) = node_of(op).await?;
    let path = format!("/portForward/{}/{}", op.namespace, op.name);
    let client = hyper::upgrade::on(&mut request);
    match upgrade_of(call.headers).as_deref() {
        Some("websocket") => {
            let protocol = choose(call.headers, &[TUNNELED_PORT_FORWARD])?;
            let response = accept_websocket(call.headers, protocol)?;
            let mut answer = dial(op, &target, &path, &[HeaderValue::from_static(PORT_FORWARD)]).await?;
            let other = hyper::upgrade::on(&mut answer);
            let shutdown = op.api.shutdown.clone();
            tokio::spawn(async move {
                if let Ok((client, other)) = tokio::try_join!(client, other) {
                    tokio::select! {
                        () = tunnel::in_websocket(websocket(client).await, other) => {}
                        () = shutdown.cancelled() => {}
                    }
                }
            });
            Ok(response)
        }
        Some("spdy/3.1") => tunnel_spdy(op, call.headers, client, &target, &path).await,
        _ => Err(not_an_upgrade()),
    }
}
