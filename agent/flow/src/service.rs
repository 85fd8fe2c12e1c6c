//! The gRPC service `strake.flow.v1.Flows` on a unix socket, and its client.
//!
//! May not know: the ring buffer, names.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tokio::net::UnixListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use crate::filter::matches;
use crate::history::{History, Item};
use crate::proto::flows_client::FlowsClient;
use crate::proto::flows_server::{Flows, FlowsServer};
use crate::proto::get_flows_response::Item as Answer;
use crate::proto::lost::Where;
use crate::proto::{Filter, GetFlowsRequest, GetFlowsResponse, Lost};
use crate::time::now;

/// Why the service cannot be offered or reached.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("listening on {path}")]
    Listen { path: PathBuf, source: io::Error },
    #[error("serving flows on {path}")]
    Serve { path: PathBuf, source: tonic::transport::Error },
    #[error("connecting to {path}: is the agent running?")]
    Connect { path: PathBuf, source: tonic::transport::Error },
}

/// Answers readers from a [`History`]. Add it to a server of your own, or use [`serve`].
pub struct FlowService {
    history: Arc<History>,
    token: CancellationToken,
}

impl FlowService {
    pub fn new(history: Arc<History>, token: CancellationToken) -> Self {
        Self { history, token }
    }

    /// As a tonic service.
    pub fn into_server(self) -> FlowsServer<Self> {
        FlowsServer::new(self)
    }
}

fn answer(item: Item) -> GetFlowsResponse {
    let item = match item {
        Item::Flow(flow) => Answer::Flow(Arc::unwrap_or_clone(flow)),
        Item::Lost(lost) => Answer::Lost(lost),
    };
    GetFlowsResponse { item: Some(item) }
}

fn wanted(filter: &Filter, item: &Item) -> bool {
    match item {
        Item::Flow(flow) => matches(filter, flow),
        Item::Lost(_) => true,
    }
}

#[tonic::async_trait]
impl Flows for FlowService {
    type GetFlowsStream = Pin<Box<dyn Stream<Item = Result<GetFlowsResponse, Status>> + Send>>;

    async fn get_flows(&self, request: Request<GetFlowsRequest>) -> Result<Response<Self::GetFlowsStream>, Status> {
        let GetFlowsRequest { filter, last, follow } = request.into_inner();
        let filter = filter.unwrap_or_default();
        let (past, mut future) = if follow && last == 0 {
            (Vec::new(), self.history.follow())
        } else {
            self.history.read(&filter, last as usize)
        };
        let (sender, receiver) = mpsc::channel(256);
        let token = self.token.clone();
        tokio::spawn(async move {
            let pump = async {
                for item in past {
                    if sender.send(Ok(answer(item))).await.is_err() {
                        return;
                    }
                }
                if !follow {
                    return;
                }
                loop {
                    let item = match future.recv().await {
                        Ok(item) if wanted(&filter, &item) => item,
                        Ok(_) => continue,
                        Err(RecvError::Lagged(count)) => {
                            Item::Lost(Lost { r#where: Where::Reader.into(), count, time_ns: now() })
                        }
                        Err(RecvError::Closed) => return,
                    };
                    if sender.send(Ok(answer(item))).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = pump => {}
                () = sender.closed() => {}
                () = token.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// Serves flows on the unix socket `path` until `token` is cancelled. A socket left by a process before us is replaced.
pub async fn serve(path: &Path, history: Arc<History>, token: CancellationToken) -> Result<(), ServiceError> {
    let listen = |source| ServiceError::Listen { path: path.into(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(listen(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(listen)?;
    let service = FlowService::new(history, token.clone()).into_server();
    Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), token.cancelled_owned())
        .await
        .map_err(|source| ServiceError::Serve { path: path.into(), source })
}

/// A client of the agent that serves on the unix socket `path`.
pub async fn connect(path: &Path) -> Result<FlowsClient<Channel>, ServiceError> {
    let refused = |source| ServiceError::Connect { path: path.into(), source };
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).map_err(refused)?;
    Ok(FlowsClient::new(endpoint.connect().await.map_err(refused)?))
}
