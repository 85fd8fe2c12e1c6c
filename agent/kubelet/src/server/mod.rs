//! The kubelet's HTTPS server (10250): logs, exec, attach, port-forward, stats, metrics, for who may.

mod access;
mod handlers;
mod metrics;
mod streaming;
mod tls;

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::pods::SharedRef;
use crate::pods::manager::Pods;

/// Body of every answer.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// What the handlers use.
pub struct Server {
    shared: SharedRef,
    pods: Pods,
    access: access::Access,
}

/// An answer of plain text.
pub fn text(status: StatusCode, body: impl Into<String>) -> Response<Body> {
    let mut r = Response::new(Full::new(Bytes::from(body.into())).map_err(|e: Infallible| match e {}).boxed());
    *r.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    r.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    r
}

/// An answer of JSON.
pub fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(body) => {
            let mut r = text(StatusCode::OK, body);
            r.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            r
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

/// Binds the address; the server runs once `serve` is called.
pub async fn bind(shared: &SharedRef) -> Result<TcpListener> {
    let address = shared.config.listen;
    TcpListener::bind(address).await.map_err(Error::io("listen on", address.to_string()))
}

/// Serves until `stop`.
pub async fn serve(listener: TcpListener, shared: SharedRef, pods: Pods, stop: CancellationToken) -> Result<()> {
    let mut acceptor = tls::Acceptor::load(&shared.config)?;
    let access = access::Access::new(shared.client.clone(), &shared.config.node_name);
    let server = Arc::new(Server { shared: shared.clone(), pods, access });
    loop {
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok(a) => a,
                Err(error) => {
                    tracing::warn!(%error, "kubelet server: accept");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true);
        let Some(tls) = acceptor.current(&shared.config) else {
            tracing::debug!(%peer, "there is no serving certificate yet");
            continue;
        };
        let (server, stop) = (server.clone(), stop.clone());
        tokio::spawn(async move {
            let handshake = tokio::time::timeout(std::time::Duration::from_secs(10), tls.accept(stream)).await;
            let stream = match handshake {
                Ok(Ok(s)) => s,
                Ok(Err(error)) => return tracing::debug!(%error, %peer, "TLS handshake"),
                Err(_) => return tracing::debug!(%peer, "TLS handshake timed out"),
            };
            let caller = stream
                .get_ref()
                .1
                .peer_certificates()
                .and_then(|c| c.first())
                .and_then(|c| access::from_certificate(c));
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (server, caller) = (server.clone(), caller.clone());
                async move { Ok::<_, Infallible>(server.handle(request, caller).await) }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            tokio::select! {
                outcome = connection => if let Err(error) = outcome { tracing::debug!(error, %peer, "connection") },
                () = stop.cancelled() => {}
            }
        });
    }
}

impl Server {
    async fn handle(&self, request: Request<Incoming>, certificate: Option<access::Caller>) -> Response<Body> {
        let caller = match self.access.authenticate(&request, certificate).await {
            Ok(caller) => caller,
            Err(answer) => return answer,
        };
        if let Err(answer) = self.access.authorize(&caller, request.method(), request.uri().path()).await {
            return answer;
        }
        handlers::route(self, request).await
    }
}

/// All that is read of a request before anybody is asked, for any bytes.
pub(crate) fn read_any(bytes: &[u8]) {
    let _ = access::from_certificate(bytes);
    handlers::read_any(&String::from_utf8_lossy(bytes));
}
