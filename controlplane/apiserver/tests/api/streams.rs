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
            let service = hyper::service::service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                let text = format!("{} {}\n", request.method(), request.uri());
                Ok::<_, std::convert::Infallible>(http::Response::new(Full::new(bytes::Bytes::from(text))))
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
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
