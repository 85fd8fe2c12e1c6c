//! The server under test and clients for it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Request, Response};
use kube::Client;
use serde_json::Value;
use strake_apiserver::{Config, Server, serve};
use strake_pki::{DAY, Names, Pki};
use strake_store::{
    Backend as _,
    embedded::{Embedded, Options},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// A server that ends with its test.
pub struct TestServer {
    dir: Option<TempDir>,
    pub pki: Arc<Pki>,
    pub address: SocketAddr,
    store: Arc<Embedded>,
    server: Option<Server>,
    shutdown: CancellationToken,
}

impl TestServer {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap()).await
    }

    pub async fn start_in(dir: TempDir) -> Self {
        Self::start_with(dir, |_| ()).await
    }

    /// With another configuration than the usual.
    pub async fn start_with(dir: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut config = Config::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), Ipv4Addr::new(192, 0, 2, 1).into());
        change(&mut config);
        let names = Names::api_server("cluster.local", &[config.kubernetes_ip()], []);
        let pki = Arc::new(Pki::ensure(&dir.path().join("pki"), &names).unwrap());
        let store = Arc::new(Embedded::open(&dir.path().join("store"), Options::default()).unwrap());
        let shutdown = CancellationToken::new();
        let server = serve(config, Arc::clone(&store) as _, Arc::clone(&pki), shutdown.clone()).await.unwrap();
        Self { dir: Some(dir), pki, address: server.local_addr(), store, server: Some(server), shutdown }
    }

    /// Ends the server and starts another one over the same files.
    pub async fn restart(self) -> Self {
        Self::start_in(self.end().await).await
    }

    /// Ends the server; its files stay.
    pub async fn end(mut self) -> TempDir {
        self.shutdown.cancel();
        self.server.take().unwrap().wait().await;
        self.store.close().await.unwrap();
        self.dir.take().unwrap()
    }

    /// A client with a certificate for a user and its groups.
    pub fn client(&self, user: &str, groups: &[&str]) -> Client {
        let identity = self.pki.issue_client(user, groups, DAY).unwrap();
        let mut config = self.config();
        config.auth_info.client_certificate_data = Some(STANDARD.encode(&identity.certificate_pem));
        config.auth_info.client_key_data = Some(STANDARD.encode(&identity.key_pem).into());
        Client::try_from(config).unwrap()
    }

    pub fn config(&self) -> kube::Config {
        let mut config = kube::Config::new(format!("https://{}", self.address).parse().unwrap());
        config.root_cert = Some(vec![self.pki.ca().certificate_der().to_vec()]);
        config
    }

    pub fn admin(&self) -> Client {
        self.client("admin", &["system:masters"])
    }

    /// Makes what Pods need and controllers would make: the namespace's default ServiceAccount.
    pub async fn default_account(&self) {
        let account = serde_json::json!({"metadata": {"name": "default"}});
        let made = send(&self.admin(), "POST", "/api/v1/namespaces/default/serviceaccounts", Some(account)).await;
        assert_eq!(made.0, 201, "{}", made.1);
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Sends a request with a media type, and answers status, headers and text.
pub async fn raw(client: &Client, method: &str, path: &str, media_type: &str, body: Vec<u8>) -> Response<String> {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media_type)
        .header("accept", "application/json")
        .body(kube::client::Body::from(body))
        .unwrap();
    let response = client.send(request).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
    Response::from_parts(head, String::from_utf8(bytes.to_vec()).unwrap())
}

/// Sends JSON and answers status and JSON.
pub async fn send(client: &Client, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let media_type = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let response = raw(client, method, path, media_type, body).await;
    let value = serde_json::from_str(response.body()).unwrap_or(Value::Null);
    (response.status().as_u16(), value)
}
