//! nodes/proxy, pods/proxy, services/proxy: the request as it is, to another place.

use futures::StreamExt as _;
use http::{HeaderName, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use strake_machinery::ApiError;

use super::{
    target::{self, Scheme, Target},
    tunnel, upgrade_of,
};
use crate::{
    http::body::{self, Body, BoxError},
    registry::{Op, handlers::Call},
};

/// Headers that belong to one connection (RFC 9110, 7.6.1), and credentials that are for this server only.
const NOT_FORWARDED: [HeaderName; 7] = [
    header::CONNECTION,
    header::HOST,
    header::TRANSFER_ENCODING,
    header::TE,
    header::TRAILER,
    header::PROXY_AUTHORIZATION,
    header::AUTHORIZATION,
];

async fn target_of(op: &Op<'_>) -> Result<Target, ApiError> {
    match op.kind.plural.as_str() {
        "pods" => target::pod_proxy(op).await,
        "services" => target::service_proxy(op).await,
        _ => {
            let (_, name, port) = target::split_name(op.name)
                .ok_or_else(|| ApiError::bad_request(format!("invalid node request {:?}", op.name)))?;
            let mut target = target::kubelet(op.api, name).await?;
            if !port.is_empty() {
                let number: u16 = port.parse().map_err(|_| ApiError::bad_request(format!("invalid port {port:?}")))?;
                if number != target.port {
                    target = Target { scheme: Scheme::Http, port: number, ..target };
                }
            }
            Ok(target)
        }
    }
}

/// Forwards a request.
///
/// # Errors
/// 400, 404 and 503 for the target, 500 when it cannot be reached.
pub async fn handle(call: &Call<'_>, op: &Op<'_>, mut request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let target = target_of(op).await?;
    let mut path = format!("/{}", call.info.rest);
    if call.info.trailing_slash && !path.ends_with('/') {
        path.push('/');
    }
    if let Some(query) = request.uri().query() {
        path = format!("{path}?{query}");
    }
    let upgrade = upgrade_of(call.headers);
    let client = hyper::upgrade::on(&mut request);
    let (head, incoming) = request.into_parts();
    let bodiless = matches!(head.method, Method::GET | Method::HEAD);
    let host = format!("{}:{}", target.host, target.port);
    let mut builder = Request::builder().method(head.method).uri(path).header(header::HOST, host);
    for (name, value) in &head.headers {
        let forwarded = !NOT_FORWARDED.contains(name) && !name.as_str().starts_with("impersonate-");
        if forwarded && (upgrade.is_some() || name != header::UPGRADE) {
            builder = builder.header(name, value);
        }
    }
    if upgrade.is_some() {
        builder = builder.header(header::CONNECTION, "Upgrade");
    }
    let chunks = incoming.into_data_stream().map(|chunk| chunk.map_err(BoxError::from));
    let body = if bodiless { body::empty() } else { body::stream(chunks) };
    let outgoing = builder.body(body).map_err(ApiError::internal)?;
    let mut answer = op.api.kubelets.send(&target, outgoing).await?;
    let switched = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switched {
        tunnel::raw(client, hyper::upgrade::on(&mut answer), op.api.shutdown.clone());
    }
    let (head, incoming) = answer.into_parts();
    let body = if switched {
        body::empty()
    } else {
        body::stream(incoming.into_data_stream().map(|chunk| chunk.map_err(BoxError::from)))
    };
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    for (name, value) in &head.headers {
        if switched || !(name == header::CONNECTION || name == header::TRANSFER_ENCODING) {
            response.headers_mut().append(name, value.clone());
        }
    }
    Ok(response)
}
