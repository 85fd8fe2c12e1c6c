//! Logs and exec through a kubelet: here one that the test plays.

use crate::server::{TestServer, raw, send};
use serde_json::json;

async fn bound_pod(server: &TestServer, port: u16) {
    server.default_account().await;
    let admin = server.admin();
    let node = json!({"metadata": {"name": "n1"}});
    assert_eq!(send(&admin, "POST", "/api/v1/nodes", Some(node)).await.0, 201);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}}}});
    assert_eq!(send(&admin, "PATCH", "/api/v1/nodes/n1/status", Some(status)).await.0, 200);
    let pod =
        json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    let (code, made) = send(&admin, "POST", "/api/v1/namespaces/default/pods", Some(pod)).await;
    assert_eq!(code, 201, "{made}");
}

/// A kubelet that answers every request with what it was asked, and verifies that the API server shows its certificate.
async fn kubelet(server: &TestServer) -> u16 {
    use http_body_util::Full;
    use std::sync::Arc;
    let names = strake_pki::Names { dns: vec![], ips: vec!["127.0.0.1".parse().unwrap()] };
    let identity = server.pki.issue_server("system:node:n1", &["system:nodes"], &names, strake_pki::DAY).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.pki.ca().certificate_der().clone()).unwrap();
    let clients = rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
    let config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(clients)
        .with_single_cert(identity.chain().unwrap(), identity.key().unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = hyper::service::service_fn(|mut request: http::Request<hyper::body::Incoming>| async move {
                let text = format!("{} {}\n", request.method(), request.uri());
                let mut answer = http::Response::new(Full::new(bytes::Bytes::from(text)));
                if request.headers().get("upgrade").is_some_and(|protocol| protocol == "SPDY/3.1") {
                    assert_eq!(request.uri(), "/exec/default/p/c?input=1&output=1&error=1&command=cat&command=-n");
                    assert_eq!(request.headers()["x-stream-protocol-version"], "v4.channel.k8s.io");
                    let upgrade = hyper::upgrade::on(&mut request);
                    tokio::spawn(async move { runtime::echo(upgrade.await.unwrap()).await });
                    answer = http::Response::builder()
                        .status(101)
                        .header("connection", "Upgrade")
                        .header("upgrade", "SPDY/3.1")
                        .body(Full::default())
                        .unwrap();
                }
                Ok::<_, std::convert::Infallible>(answer)
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                    .with_upgrades(),
            );
        }
    });
    port
}

#[tokio::test]
async fn logs_come_from_the_kubelet() {
    let server = TestServer::start().await;
    let port = kubelet(&server).await;
    bound_pod(&server, port).await;
    let admin = server.admin();
    let path = "/api/v1/namespaces/default/pods/p/log";
    let answer = raw(&admin, "GET", &format!("{path}?tailLines=5&follow=true"), "", vec![]).await;
    assert_eq!(answer.body(), "GET /containerLogs/default/p/c?follow=true&tailLines=5\n");
    assert_eq!(answer.headers()["content-type"], "text/plain");
    let (code, refused) = send(&admin, "GET", &format!("{path}?container=x"), None).await;
    assert_eq!((code, &refused["message"]), (400, &json!("container x is not valid for pod p")));
    assert_eq!(send(&admin, "GET", &format!("{path}?tailLines=-1"), None).await.0, 422);
    let proxied = raw(&admin, "GET", "/api/v1/nodes/n1/proxy/stats/summary?x=1", "", vec![]).await;
    assert_eq!(proxied.body(), "GET /stats/summary?x=1\n");
}

#[tokio::test]
async fn a_kubelet_that_is_away_is_named() {
    let server = TestServer::start().await;
    bound_pod(&server, 1).await;
    let (code, refused) = send(&server.admin(), "GET", "/api/v1/namespaces/default/pods/p/log", None).await;
    assert_eq!(code, 500);
    assert!(refused["message"].as_str().unwrap().contains("https://127.0.0.1:1/containerLogs"), "{refused}");
    let (code, refused) =
        send(&server.admin(), "POST", "/api/v1/namespaces/default/pods/p/exec?stdout=1&command=ls", None).await;
    assert_eq!((code, &refused["message"]), (400, &json!("Upgrade request required")));
}

/// A container runtime behind a kubelet: accepts SPDY/3.1, answers the streams it is opened with raw frames.
mod runtime {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn frame(first: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = first.to_be_bytes().to_vec();
        out.extend_from_slice(&(u32::from(flags) << 24 | payload.len() as u32).to_be_bytes());
        out.extend_from_slice(payload);
        out
    }

    /// Reads the client's frames. The streams are error (1), stdin (3), stdout (5), stderr (7); when stdin ends, what
    /// came in goes out on stdout and the status on error.
    pub async fn echo(connection: hyper::upgrade::Upgraded) {
        let mut io = hyper_util::rt::TokioIo::new(connection);
        let mut typed = Vec::new();
        loop {
            let mut head = [0_u8; 8];
            if io.read_exact(&mut head).await.is_err() {
                return;
            }
            let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
            let mut payload = vec![0; length];
            io.read_exact(&mut payload).await.unwrap();
            let first = u32::from_be_bytes(head[..4].try_into().unwrap());
            if first == 0x8003_0001 {
                // SYN_REPLY with no headers would need compression; a stream id alone is what is looked at.
                io.write_all(&frame(0x8003_0002, 0, &payload[..4])).await.unwrap();
            } else if first == 3 {
                typed.extend_from_slice(&payload);
                if head[4] & 1 != 0 {
                    io.write_all(&frame(5, 1, &typed)).await.unwrap();
                    io.write_all(&frame(7, 1, b"bye")).await.unwrap();
                    let status = br#"{"metadata":{},"status":"Failure","reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#;
                    io.write_all(&frame(1, 1, status)).await.unwrap();
                }
            }
        }
    }
}

#[tokio::test]
async fn exec_over_a_websocket_reaches_the_container() {
    use futures::{SinkExt as _, StreamExt as _};
    use tokio_tungstenite::{WebSocketStream, tungstenite::Message};
    let server = TestServer::start().await;
    let port = kubelet(&server).await;
    bound_pod(&server, port).await;
    let identity = server.pki.issue_client("admin", &["system:masters"], strake_pki::DAY).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.pki.ca().certificate_der().clone()).unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.chain().unwrap(), identity.key().unwrap())
        .unwrap();
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
    let path = "/api/v1/namespaces/default/pods/p/exec?command=cat&command=-n&stdin=true&stdout=true&stderr=true";
    let request = http::Request::get(format!("wss://127.0.0.1{path}"))
        .header("host", "127.0.0.1")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io")
        .body(())
        .unwrap();
    let (mut socket, answer): (WebSocketStream<_>, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(answer.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
    socket.send(Message::Binary(bytes::Bytes::from_static(b"\x00typed"))).await.unwrap();
    socket.send(Message::Binary(bytes::Bytes::from_static(&[255, 0]))).await.unwrap();
    let mut seen = [const { Vec::new() }; 4];
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(data) = message {
            seen[usize::from(data[0])].extend_from_slice(&data[1..]);
        }
    }
    assert_eq!((seen[1].as_slice(), seen[2].as_slice()), (&b"typed"[..], &b"bye"[..]));
    assert!(String::from_utf8_lossy(&seen[3]).contains("NonZeroExitCode"));
}
