//! Tracked connections for the operator: listed as they are read, forgotten on request.

use strake_agent_api::v1::{ConnectionFilter, FlushConnectionsReply, FlushConnectionsRequest, ListConnectionsRequest};
use strake_datapath::{ConntrackFilter, Datapath, FilterError, FlowState, ListError};
use strake_state::ObjectName;
use tonic::{Response, Status};

use super::{blocking, documents, failed};

/// Reads NAMESPACE/NAME.
pub fn object(what: &str, text: &str) -> Result<ObjectName, Status> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(ObjectName::new(namespace, name)),
        _ => Err(Status::invalid_argument(format!("{what} `{text}` is not NAMESPACE/NAME"))),
    }
}

/// Reads a filter; what is empty or zero does not restrict.
fn filter(wire: Option<ConnectionFilter>) -> Result<ConntrackFilter, Status> {
    let wire = wire.unwrap_or_default();
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let wrong = |what: &str, value: &str| Status::invalid_argument(format!("{what} `{value}` of a connection filter"));
    Ok(ConntrackFilter {
        ip: some(wire.ip).map(|ip| ip.parse().map_err(|_| wrong("address", &ip))).transpose()?,
        port: Some(u16::try_from(wire.port).map_err(|_| wrong("port", &wire.port.to_string()))?).filter(|p| *p != 0),
        pod: some(wire.pod).map(|pod| object("Pod", &pod)).transpose()?,
        service: some(wire.service).map(|service| object("Service", &service)).transpose()?,
        protocol: Some(u8::try_from(wire.protocol).map_err(|_| wrong("protocol", &wire.protocol.to_string()))?)
            .filter(|p| *p != 0),
        state: some(wire.state)
            .map(|state| {
                let found = FlowState::ALL.iter().copied().find(|known| known.as_str() == state);
                found.ok_or_else(|| wrong("state", &state))
            })
            .transpose()?,
    })
}

fn unknown(error: FilterError) -> Status {
    Status::not_found(error.to_string())
}

fn broken_off(error: ListError) -> Status {
    match error {
        ListError::Filter(error) => unknown(error),
        ListError::Maps(error) => failed(error),
    }
}

/// Streams the connections that the request asks for.
pub async fn list(datapath: Datapath, request: ListConnectionsRequest) -> Result<Response<documents::Stream>, Status> {
    let filter = filter(request.filter)?;
    // A name that is not known is the answer to the call; errors of the walk end the stream.
    let connections = blocking(move || {
        let connections = datapath.connections().map_err(failed)?;
        connections.check(&filter).map_err(unknown)?;
        Ok((connections, filter))
    });
    let (connections, filter) = connections.await?;
    Ok(documents::stream(move |sink| connections.list(&filter, |connection| sink.put(&connection)).map_err(broken_off)))
}

/// Forgets the connections that the request asks for.
pub async fn flush(
    datapath: Datapath,
    request: FlushConnectionsRequest,
) -> Result<Response<FlushConnectionsReply>, Status> {
    let filter = filter(request.filter)?;
    if filter == ConntrackFilter::default() && !request.all {
        return Err(Status::failed_precondition(
            "a flush without a filter forgets every connection of the node; say that all are meant",
        ));
    }
    let flushed = blocking(move || {
        let mut connections = datapath.connections().map_err(failed)?;
        connections.check(&filter).map_err(unknown)?;
        connections.flush(&filter).map_err(broken_off)
    })
    .await?;
    tracing::info!(connections = flushed.connections, rows = flushed.rows, "forgot tracked connections as told");
    Ok(Response::new(FlushConnectionsReply { connections: flushed.connections, rows: flushed.rows }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_or_the_wrong_part_of_it_is_named() {
        assert_eq!(filter(None).unwrap(), ConntrackFilter::default());
        let wire = ConnectionFilter { ip: "10.0.0.1".into(), state: "established".into(), ..Default::default() };
        let read = filter(Some(wire.clone())).unwrap();
        assert_eq!((read.ip, read.state), (Some("10.0.0.1".parse().unwrap()), Some(FlowState::Established)));
        let refused = |wire| filter(Some(wire)).unwrap_err().message().to_owned();
        assert!(refused(ConnectionFilter { ip: "10.0.0".into(), ..wire.clone() }).contains("10.0.0"));
        assert!(refused(ConnectionFilter { port: 70_000, ..wire.clone() }).contains("70000"));
        assert!(refused(ConnectionFilter { pod: "web".into(), ..wire.clone() }).contains("NAMESPACE/NAME"));
        assert!(refused(ConnectionFilter { state: "open".into(), ..wire }).contains("open"));
    }
}
