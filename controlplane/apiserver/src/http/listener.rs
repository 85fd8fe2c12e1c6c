//! The TLS listener: accepts connections, offers h2 and HTTP/1.1, and hands each request to one function.
//!
//! A connection that talks something else than TLS costs itself only: plain HTTP gets stock's one-line answer, the
//! rest is closed.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use rustls_pki_types::CertificateDer;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::body::Body;

/// A TLS handshake that takes longer is dropped.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Request heads that take longer are dropped (stock's read-header timeout).
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// How long open requests may take to finish after shutdown was asked for.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The client's address.
    pub address: SocketAddr,
    /// The client's certificate chain, leaf first; verified against the client CA by rustls. Empty without one.
    pub certificates: Arc<[CertificateDer<'static>]>,
}

/// What a server does with requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. Never panics and never fails: trouble is an answer too.
    fn handle(&self, request: Request<Incoming>, peer: Peer) -> impl Future<Output = Response<Body>> + Send;
}

/// Accepts until `shutdown`, then lets open requests finish for a few seconds.
pub async fn run<H: Handler>(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    handler: Arc<H>,
    shutdown: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let graceful = GracefulShutdown::new();
    loop {
        let (stream, address) = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors or a connection that died in the queue: both pass.
                    warn!(%error, "accepting a connection");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        let (acceptor, handler, watcher) = (acceptor.clone(), Arc::clone(&handler), graceful.watcher());
        tokio::spawn(async move {
            if let Err(error) = connection(stream, address, &acceptor, handler, watcher).await {
                debug!(%address, %error, "connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_TIMEOUT, graceful.shutdown()).await.is_err() {
        debug!("some connections were still busy at shutdown");
    }
}

async fn connection<H: Handler>(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: &TlsAcceptor,
    handler: Arc<H>,
    watcher: Watcher,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0_u8; 1];
    let seen = tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.peek(&mut first)).await??;
    if seen == 0 {
        return Ok(());
    }
    if first[0].is_ascii_uppercase() {
        return plain_http(stream).await;
    }
    let tls = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let certificates: Arc<[CertificateDer<'static>]> = tls
        .get_ref()
        .1
        .peer_certificates()
        .map(|chain| chain.iter().map(|certificate| certificate.clone().into_owned()).collect())
        .unwrap_or_default();
    let peer = Peer { address, certificates };
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (handler, peer) = (Arc::clone(&handler), peer.clone());
        async move { Ok::<_, std::convert::Infallible>(handler.handle(request, peer).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(250)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_header_list_size(256 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    watcher.watch(connection.into_owned()).await.map_err(io::Error::other)
}

/// Plain HTTP on the TLS port: the answer Go's server gives.
async fn plain_http(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n").await?;
    stream.shutdown().await
}

/// Binds the listening socket.
///
/// # Errors
/// The system's error with the address in its text: "address already in use" names which.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("listening on {address}: {error}")))
}
