//! The agent's local API: generated messages, and how to reach an agent over its unix socket.
//!
//! Knows the wire only. What an endpoint or a status means is the agent's business.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use tonic::transport::{Channel, Endpoint, Uri};

/// Generated from `proto/agent.proto`.
#[allow(clippy::all, clippy::unwrap_used, missing_docs, reason = "generated code")]
pub mod v1 {
    tonic::include_proto!("strake.agent.v1");
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no agent answers on {path}: {source} (is `strake agent` or `strake server` running on this node?)")]
    Connect { path: PathBuf, source: tonic::transport::Error },
}

/// Connects to the agent behind `socket`.
pub async fn connect(socket: &Path) -> Result<Channel, Error> {
    let path = socket.to_owned();
    // The URI is required by the type and never resolved: the connector dials the socket.
    Endpoint::from_static("http://agent.invalid")
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(hyper_util::rt::TokioIo::new) }
        }))
        .await
        .map_err(|source| Error::Connect { path: socket.to_owned(), source })
}
