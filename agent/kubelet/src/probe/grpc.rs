//! The gRPC health check (grpc.health.v1.Health/Check), its two messages written out by hand.

use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;

use super::Attempt;

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    /// 0 unknown, 1 serving, 2 not serving, 3 no such service
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks the health service at `ip:port`.
pub async fn check(ip: &str, port: u16, service: &str) -> Attempt {
    let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
    let channel = Endpoint::from_shared(format!("http://{host}:{port}"))
        .map_err(|e| e.to_string())?
        .user_agent("kube-probe/1.36")
        .map_err(|e| e.to_string())?
        .connect()
        .await
        .map_err(|e| format!("failed to connect service \"{host}:{port}\": {e}"))?;
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|e| e.to_string())?;
    let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let request = tonic::Request::new(HealthCheckRequest { service: service.to_owned() });
    let answer = client.unary(request, path, codec).await.map_err(|s| match s.code() {
        tonic::Code::Unimplemented => {
            "this server does not implement the grpc health protocol (grpc.health.v1.Health)".to_owned()
        }
        _ => format!("health rpc probe failed: {}", s.message()),
    })?;
    match answer.into_inner().status {
        1 => Ok(()),
        other => {
            let name = match other {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "?",
            };
            Err(format!("service unhealthy (responded with \"{name}\")"))
        }
    }
}
