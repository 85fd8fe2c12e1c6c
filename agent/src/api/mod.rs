//! The agent's local API: endpoints for the CNI plugin, questions for the operator, flows for everybody on this host.
//!
//! Served on a unix socket that only root can open.

mod connections;
mod documents;
mod explain;

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use strake_agent_api::v1::endpoints_server::{Endpoints, EndpointsServer};
use strake_agent_api::v1::operator_server::{Operator, OperatorServer};
use strake_agent_api::v1::{
    Added, Endpoint, EndpointRef, FlushConnectionsReply, FlushConnectionsRequest, ListBackendsRequest,
    ListConnectionsRequest, ListServicesRequest, Removed, StatusReply, StatusRequest, TraceConnectionReply,
    TraceConnectionRequest, TraceServiceReply, TraceServiceRequest,
};
use strake_datapath::{Datapath, EndpointSpec, FrontendRow};
use strake_flow::{FlowService, History};
use strake_network::endpoint::{self, Records};
use strake_state::ObjectName;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::Error;
use crate::announce::Board;

/// A frontend, and the node that announces its address.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(flatten)]
    row: FrontendRow,
    announced_by: Option<String>,
}

/// Answers the operator.
pub struct Questions {
    pub datapath: Datapath,
    pub node_name: String,
    pub board: Board,
}

/// Takes Pods' interfaces from the CNI plugin.
pub struct Interfaces {
    pub datapath: Datapath,
    pub records: Records,
}

/// A record of the CNI plugin as the datapath wants it.
pub fn spec(endpoint: &endpoint::Endpoint) -> EndpointSpec {
    EndpointSpec {
        pod: ObjectName::new(endpoint.namespace.as_str(), endpoint.pod.as_str()),
        ip: endpoint.ip,
        ip6: endpoint.ip6,
        interface: endpoint.interface.clone(),
        ifindex: endpoint.ifindex,
        mac: endpoint.mac,
        host_mac: endpoint.host_mac,
        netns: endpoint.netns.clone().into(),
    }
}

/// Binds the socket, replacing one that a process before us left.
pub fn bind(path: &Path) -> Result<UnixListener, Error> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::io(format!("replacing {}", path.display()))(e)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(Error::io(format!("listening on {}", path.display())))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(Error::io(format!("closing {} to others", path.display())))?;
    Ok(listener)
}

/// Serves until `token` is cancelled.
pub async fn serve(
    listener: UnixListener,
    questions: Questions,
    interfaces: Option<Interfaces>,
    flows: Arc<History>,
    token: CancellationToken,
) -> Result<(), Error> {
    tonic::transport::Server::builder()
        .add_optional_service(interfaces.map(EndpointsServer::new))
        .add_service(OperatorServer::new(questions))
        .add_service(FlowService::new(flows, token.clone()).into_server())
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), token.cancelled_owned())
        .await
        .map_err(|e| Error::Part(format!("serving the local API: {e}")))
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn failed(error: impl std::error::Error) -> Status {
    Status::internal(chain(&error))
}

/// The datapath takes locks and makes system calls: not on a thread that others wait for.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Status> + Send + 'static) -> Result<T, Status> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Status::internal(format!("the agent's own error: {e}")))?
}

fn document<T: serde::Serialize>(value: &T) -> Result<String, Status> {
    serde_json::to_string(value).map_err(|e| Status::internal(format!("writing JSON: {e}")))
}

#[tonic::async_trait]
impl Endpoints for Interfaces {
    async fn add(&self, request: Request<Endpoint>) -> Result<Response<Added>, Status> {
        let e = request.into_inner();
        let wrong =
            |what: &str, value: &str| Status::invalid_argument(format!("{what} `{value}` of endpoint {}", e.interface));
        let spec = EndpointSpec {
            pod: ObjectName::new(e.namespace.as_str(), e.pod.as_str()),
            ip: e.ip.parse().map_err(|_| wrong("address", &e.ip))?,
            ip6: match e.ip6.as_str() {
                "" => None,
                ip6 => Some(ip6.parse().map_err(|_| wrong("address", ip6))?),
            },
            interface: e.interface.clone(),
            ifindex: e.ifindex,
            mac: endpoint::parse_mac(&e.mac).ok_or_else(|| wrong("hardware address", &e.mac))?,
            host_mac: endpoint::parse_mac(&e.host_mac).ok_or_else(|| wrong("hardware address", &e.host_mac))?,
            netns: e.netns.clone().into(),
        };
        let datapath = self.datapath.clone();
        blocking(move || datapath.add_endpoint(spec).map_err(failed)).await?;
        tracing::info!(
            pod = format!("{}/{}", e.namespace, e.pod),
            ip = e.ip,
            interface = e.interface,
            "endpoint added"
        );
        Ok(Response::new(Added {}))
    }

    async fn remove(&self, request: Request<EndpointRef>) -> Result<Response<Removed>, Status> {
        let id = request.into_inner().container_id;
        let Some(record) = self.records.load(&id).map_err(failed)? else {
            return Ok(Response::new(Removed { known: false }));
        };
        let datapath = self.datapath.clone();
        let interface = record.interface;
        let known = blocking(move || datapath.remove_endpoint(&interface).map_err(failed)).await?;
        Ok(Response::new(Removed { known }))
    }
}

#[tonic::async_trait]
impl Operator for Questions {
    type ListConnectionsStream = documents::Stream;

    async fn list_connections(
        &self,
        request: Request<ListConnectionsRequest>,
    ) -> Result<Response<documents::Stream>, Status> {
        connections::list(self.datapath.clone(), request.into_inner()).await
    }

    async fn flush_connections(
        &self,
        request: Request<FlushConnectionsRequest>,
    ) -> Result<Response<FlushConnectionsReply>, Status> {
        connections::flush(self.datapath.clone(), request.into_inner()).await
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let datapath = self.datapath.clone();
        let node = self.node_name.clone();
        let announcements = self.board.all();
        let json = blocking(move || {
            let status = datapath.status().map_err(failed)?;
            let sources = datapath.world().sources.clone();
            document(&json!({
                "node": node, "version": env!("CARGO_PKG_VERSION"), "datapath": status, "watches": sources,
                "announcements": announcements,
            }))
        })
        .await?;
        Ok(Response::new(StatusReply { json }))
    }

    type ListServicesStream = documents::Stream;

    async fn list_services(&self, _: Request<ListServicesRequest>) -> Result<Response<documents::Stream>, Status> {
        let datapath = self.datapath.clone();
        let view = blocking(move || datapath.view().map_err(failed)).await?;
        let board = self.board.clone();
        Ok(documents::stream(move |sink| {
            let each = |row: FrontendRow| {
                let announced_by = board.node(row.address);
                sink.put(&Listed { row, announced_by })
            };
            view.frontends(each).map_err(failed)
        }))
    }

    type ListBackendsStream = documents::Stream;

    async fn list_backends(
        &self,
        request: Request<ListBackendsRequest>,
    ) -> Result<Response<documents::Stream>, Status> {
        let service = request.into_inner().service;
        let service = if service.is_empty() { None } else { Some(connections::object("Service", &service)?) };
        let datapath = self.datapath.clone();
        let rows = blocking(move || {
            if let Some(name) = service.as_ref().filter(|name| !datapath.world().services.contains_key(*name)) {
                return Err(Status::not_found(format!("there is no Service {name}")));
            }
            datapath.view().and_then(|view| Ok(view.backends(service.as_ref())?)).map_err(failed)
        });
        let rows = rows.await?;
        Ok(documents::stream(move |sink| {
            let _ = rows.iter().try_for_each(|row| sink.put(row));
            Ok(())
        }))
    }

    async fn trace_connection(
        &self,
        request: Request<TraceConnectionRequest>,
    ) -> Result<Response<TraceConnectionReply>, Status> {
        explain::connection(self.datapath.clone(), request.into_inner()).await
    }

    async fn trace_service(
        &self,
        request: Request<TraceServiceRequest>,
    ) -> Result<Response<TraceServiceReply>, Status> {
        let request = request.into_inner();
        let name = ObjectName::new(request.namespace.as_str(), request.name.as_str());
        if !self.datapath.world().services.contains_key(&name) {
            return Err(Status::not_found(format!("there is no Service {name}")));
        }
        let datapath = self.datapath.clone();
        let json = blocking(move || {
            let trace = datapath.trace(&name).map_err(failed)?;
            document(&json!({"text": trace.to_string(), "trace": trace}))
        })
        .await?;
        Ok(Response::new(TraceServiceReply { json }))
    }
}
