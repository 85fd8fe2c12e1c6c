//! Small HTTP answers for monitors and load balancers: one listener, one handler, plain HTTP/1.1.
//!
//! Knows nothing of what is answered.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub type Answer = Response<Full<Bytes>>;

/// Between two tries to have an address that somebody else (a proxy that is being replaced, say) still has.
const BIND_RETRY: Duration = Duration::from_secs(5);
/// A client that sends no whole request head within this time is hung up on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// An answer of one content type.
pub fn answer(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// What an unknown path gets.
pub fn not_found() -> Answer {
    answer(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n")
}

/// Serves `what` on `address` until `token` is cancelled. An address that cannot be had is said once and tried again.
pub async fn serve<F, A>(what: &str, address: SocketAddr, handler: F, token: CancellationToken)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    tokio::select! {
        () = token.cancelled() => {}
        listener = bind(what, address) => accept(listener, handler, &token).await,
    }
}

/// A port of every address that this machine has or will have.
pub fn everywhere(port: u16) -> SocketAddr {
    // Without IPv6 the kernel has no such file; with it, a socket of IPv6 takes both.
    let six = std::fs::exists("/proc/net/if_inet6").unwrap_or(false);
    let ip = if six { Ipv6Addr::UNSPECIFIED.into() } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    SocketAddr::new(ip, port)
}

async fn bind(what: &str, address: SocketAddr) -> TcpListener {
    let mut told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(what, %address, "listening");
                return listener;
            }
            Err(error) if !told => {
                tracing::warn!(what, %address, %error, "cannot listen; trying again until the address is free");
                told = true;
            }
            Err(error) => tracing::debug!(what, %address, %error, "cannot listen"),
        }
        tokio::time::sleep(BIND_RETRY).await;
    }
}

async fn accept<F, A>(listener: TcpListener, handler: F, token: &CancellationToken)
where
    F: Fn(Request<Incoming>) -> A + Clone + Send + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    loop {
        let stream = tokio::select! {
            () = token.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, usually: the next may do better.
                    tracing::debug!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (handler, token) = (handler.clone(), token.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let answer = handler(request);
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
            tokio::select! {
                ended = server.serve_connection(TokioIo::new(stream), service) => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection");
                    }
                }
                () = token.cancelled() => {}
            }
        });
    }
}
