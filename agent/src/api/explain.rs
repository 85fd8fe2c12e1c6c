//! A question about one connection, as the wire has it, for the datapath.

use std::net::{IpAddr, SocketAddr};

use serde_json::json;
use strake_agent_api::v1::{TraceConnectionReply, TraceConnectionRequest};
use strake_datapath::{Datapath, ExplainError, Origin, Question};
use tonic::{Response, Status};

use super::{blocking, connections, document, failed};

fn question(request: &TraceConnectionRequest) -> Result<Question, Status> {
    let TraceConnectionRequest { from, from_port, to, protocol, from_outside } = request;
    let wrong = |what: &str, value: &str, is: &str| Status::invalid_argument(format!("{what} `{value}` is not {is}"));
    let ip = from.parse::<IpAddr>();
    let origin = match (from_outside, ip) {
        (true, Ok(ip)) => Origin::Outside(ip),
        (true, Err(_)) => return Err(wrong("from", from, "an address, as it must be from outside")),
        (false, Ok(ip)) => Origin::Ip(ip),
        (false, Err(_)) if from == "node" => Origin::Node,
        (false, Err(_)) => Origin::Pod(connections::object("Pod", from)?),
    };
    let port = u16::try_from(*from_port).map_err(|_| wrong("port", &from_port.to_string(), "one"))?;
    Ok(Question {
        origin,
        source_port: Some(port).filter(|port| *port != 0),
        to: to.parse::<SocketAddr>().map_err(|_| wrong("to", to, "ADDRESS:PORT"))?,
        protocol: u8::try_from(*protocol).map_err(|_| wrong("protocol", &protocol.to_string(), "an IANA number"))?,
    })
}

/// Explains it.
pub async fn connection(
    datapath: Datapath,
    request: TraceConnectionRequest,
) -> Result<Response<TraceConnectionReply>, Status> {
    let question = question(&request)?;
    let json = blocking(move || {
        let explanation = datapath.explain(&question).map_err(|error| match error {
            ExplainError::Maps(error) => failed(error),
            other => Status::not_found(other.to_string()),
        })?;
        document(&json!({"text": explanation.to_string(), "trace": explanation}))
    })
    .await?;
    Ok(Response::new(TraceConnectionReply { json }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(from: &str, from_outside: bool) -> Result<Origin, String> {
        let to = "10.96.0.1:443".into();
        let request = TraceConnectionRequest { from: from.into(), from_port: 0, to, protocol: 6, from_outside };
        question(&request).map(|question| question.origin).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn an_origin_is_a_pod_an_address_or_the_node() {
        assert_eq!(asked("node", false), Ok(Origin::Node));
        assert_eq!(asked("10.244.0.5", false), Ok(Origin::Ip("10.244.0.5".parse().unwrap())));
        assert_eq!(asked("192.0.2.9", true), Ok(Origin::Outside("192.0.2.9".parse().unwrap())));
        assert!(matches!(asked("default/web", false), Ok(Origin::Pod(_))));
        assert!(asked("default/web", true).unwrap_err().contains("an address"));
        assert!(asked("web", false).unwrap_err().contains("NAMESPACE/NAME"));
    }
}
