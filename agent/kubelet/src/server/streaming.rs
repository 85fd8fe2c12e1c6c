//! exec, attach and port-forward: the runtime's streaming server speaks the protocol, we carry the bytes.
//!
//! ```text
//! API server ── upgraded connection ── kubelet ── upgraded connection ── containerd (loopback)
//! ```

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::{Body, text};

/// Headers that belong to the upgrade and go through unchanged.
fn carried(headers: &HeaderMap) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in headers {
        let n = name.as_str();
        if n == "connection" || n == "upgrade" || n.starts_with("sec-websocket-") || n.starts_with("x-stream-protocol")
        {
            out.append(name.clone(), value.clone());
        }
    }
    out
}

/// Sends the request on to `target` and joins both connections once they are upgraded.
pub async fn tunnel(mut request: Request<Incoming>, target: &str) -> Response<Body> {
    match try_tunnel(&mut request, target).await {
        Ok(answer) => answer,
        Err(e) => text(StatusCode::BAD_GATEWAY, format!("streaming server of the runtime: {e}\n")),
    }
}

async fn try_tunnel(request: &mut Request<Incoming>, target: &str) -> Result<Response<Body>, String> {
    let url = url::Url::parse(target).map_err(|e| format!("{target}: {e}"))?;
    let host = url.host_str().ok_or("its address has no host")?.to_owned();
    let port = url.port_or_known_default().ok_or("its address has no port")?;
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| format!("dial {host}:{port}: {e}"))?;
    let _ = stream.set_nodelay(true);
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .preserve_header_case(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    tokio::spawn(connection.with_upgrades());

    let path = match url.query() {
        Some(q) => format!("{}?{q}", url.path()),
        None => url.path().to_owned(),
    };
    let mut onward = Request::builder()
        .method(request.method().clone())
        .uri(path)
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    *onward.headers_mut() = carried(request.headers());
    let authority = format!("{host}:{port}").parse().map_err(|_| "its address is no header value")?;
    onward.headers_mut().insert(header::HOST, authority);
    let mut answer = sender.send_request(onward).await.map_err(|e| e.to_string())?;

    let status = answer.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        let mut out = text(parts.status, String::from_utf8_lossy(&body));
        if let Some(kind) = parts.headers.get(header::CONTENT_TYPE) {
            out.headers_mut().insert(header::CONTENT_TYPE, kind.clone());
        }
        return Ok(out);
    }
    let mut back = Response::new(Empty::new().map_err(|e| match e {}).boxed());
    *back.status_mut() = status;
    *back.headers_mut() = carried(answer.headers());
    let (ours, theirs) = (hyper::upgrade::on(request), hyper::upgrade::on(&mut answer));
    tokio::spawn(async move {
        match tokio::try_join!(ours, theirs) {
            Ok((a, b)) => {
                let (mut a, mut b) = (TokioIo::new(a), TokioIo::new(b));
                if let Err(error) = tokio::io::copy_bidirectional(&mut a, &mut b).await {
                    tracing::debug!(%error, "stream ended");
                }
            }
            Err(error) => tracing::debug!(%error, "upgrade"),
        }
    });
    Ok(back)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_upgrade_is_carried() {
        let mut h = HeaderMap::new();
        for (k, v) in
            [("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("authorization", "Bearer x"), ("cookie", "y")]
        {
            h.insert(k, v.parse().unwrap());
        }
        h.append("x-stream-protocol-version", "v4.channel.k8s.io".parse().unwrap());
        h.append("x-stream-protocol-version", "channel.k8s.io".parse().unwrap());
        let c = carried(&h);
        assert_eq!(c.len(), 4);
        assert!(!c.contains_key("authorization"));
    }
}
