//! What happens below objects: TLS, credentials, media types, hostile bytes, health, discovery.

use crate::server::{TestServer, raw, send};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn strangers_are_anonymous_and_may_do_little() {
    let server = TestServer::start().await;
    let nobody = kube::Client::try_from(server.config()).unwrap();
    let (code, refused) = send(&nobody, "GET", "/api/v1/nodes", None).await;
    assert_eq!(code, 403);
    let expected = "nodes is forbidden: User \"system:anonymous\" cannot list resource \"nodes\" in API group \"\" at the cluster scope";
    assert_eq!(refused["message"], expected);
    assert_eq!(raw(&nobody, "GET", "/version", "", vec![]).await.status(), 200);
    assert_eq!(raw(&nobody, "GET", "/readyz?verbose", "", vec![]).await.status(), 200);
    let mut config = server.config();
    config.auth_info.token = Some("no-token-of-ours".to_owned().into());
    let liar = kube::Client::try_from(config).unwrap();
    let (code, refused) = send(&liar, "GET", "/api/v1/nodes", None).await;
    assert_eq!((code, &refused["message"]), (401, &json!("Unauthorized")));
}

#[tokio::test]
async fn roles_and_tokens_of_service_accounts_work() {
    let server = TestServer::start().await;
    server.default_account().await;
    let admin = server.admin();
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (code, token) = send(&admin, "POST", path, Some(json!({"spec": {}}))).await;
    assert_eq!(code, 201, "{token}");
    let mut config = server.config();
    config.auth_info.token = Some(token["status"]["token"].as_str().unwrap().to_owned().into());
    let account = kube::Client::try_from(config).unwrap();
    assert_eq!(send(&account, "GET", "/api/v1/namespaces/default/pods", None).await.0, 403);
    let binding = json!({"metadata": {"name": "v"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let (code, made) = send(&admin, "POST", bindings, Some(binding)).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(send(&account, "GET", "/api/v1/namespaces/default/pods", None).await.0, 200);
    assert_eq!(send(&account, "GET", "/api/v1/namespaces/default/secrets", None).await.0, 403);
    let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}});
    let (_, answer) =
        send(&account, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", Some(review)).await;
    assert_eq!(answer["status"]["allowed"], true);
    let (_, me) = send(&account, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", Some(json!({}))).await;
    assert_eq!(me["status"]["userInfo"]["username"], "system:serviceaccount:default:default");
}

#[tokio::test]
async fn kubelets_write_their_own_node_only() {
    let server = TestServer::start().await;
    let kubelet = server.client("system:node:n1", &["system:nodes"]);
    let node = |name: &str| json!({"metadata": {"name": name}});
    let (code, made) = send(&kubelet, "POST", "/api/v1/nodes", Some(node("n1"))).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(made["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    assert_eq!(send(&kubelet, "POST", "/api/v1/nodes", Some(node("n2"))).await.0, 403);
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.9"}]}});
    assert_eq!(send(&kubelet, "PATCH", "/api/v1/nodes/n1/status", Some(status)).await.0, 200);
}

#[tokio::test]
async fn hostile_bodies_are_refused_and_the_server_lives() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let maps = "/api/v1/namespaces/default/configmaps";
    let deep = [b"{\"data\":".repeat(3000), b"1".to_vec()].concat();
    for (body, media_type, code) in [
        (b"{nope".to_vec(), "application/json", 400),
        (deep, "application/json", 400),
        (b"\xff\xfe\x00".to_vec(), "application/json", 400),
        (b"k8s\x00garbage".to_vec(), "application/vnd.kubernetes.protobuf", 400),
        (b"{}".to_vec(), "text/html", 415),
        (vec![b' '; 4 << 20], "application/json", 413),
    ] {
        let answer = raw(&admin, "POST", maps, media_type, body).await;
        assert_eq!(answer.status(), code, "{media_type}: {}", answer.body());
    }
    assert_eq!(raw(&admin, "GET", "/livez", "", vec![]).await.body(), "ok");
}

#[tokio::test]
async fn garbage_and_plain_http_on_the_port_cost_only_themselves() {
    let server = TestServer::start().await;
    for sent in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x00\x01\x02garbage"] {
        let mut connection = tokio::net::TcpStream::connect(server.address).await.unwrap();
        connection.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer).await;
        if sent.starts_with(b"GET") {
            assert!(String::from_utf8_lossy(&answer).contains("Client sent an HTTP request to an HTTPS server."));
        }
    }
    assert_eq!(raw(&server.admin(), "GET", "/livez", "", vec![]).await.status(), 200);
}

#[tokio::test]
async fn answers_carry_an_audit_id_and_the_shape_that_was_asked_for() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let get = |accept: &'static str| {
        let request =
            http::Request::get("/api/v1/namespaces").header("accept", accept).body(kube::client::Body::empty());
        let admin = admin.clone();
        async move {
            let (head, body) = admin.send(request.unwrap()).await.unwrap().into_parts();
            let bytes = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
            (head, serde_json::from_slice::<Value>(&bytes).unwrap_or(Value::Null))
        }
    };
    let (head, list) = get("application/vnd.kubernetes.protobuf,application/json").await;
    assert!(head.headers.contains_key("audit-id"));
    assert_eq!(list["kind"], "NamespaceList");
    let (_, table) = get("application/json;as=Table;v=v1;g=meta.k8s.io").await;
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    let (_, metadata) = get("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").await;
    assert_eq!(metadata["items"][0]["kind"], "PartialObjectMetadata");
    let (head, _) = get("application/vnd.kubernetes.protobuf").await;
    assert_eq!(head.status, 406);
}

#[tokio::test]
async fn discovery_is_answered_in_both_forms_and_not_twice() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let (code, groups) = send(&admin, "GET", "/apis", None).await;
    assert_eq!((code, &groups["kind"]), (200, &json!("APIGroupList")));
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let mut request = http::Request::get("/apis").header("accept", accept).body(kube::client::Body::empty()).unwrap();
    let answer = admin.send(request).await.unwrap();
    let etag = answer.headers()["etag"].clone();
    request = http::Request::get("/apis")
        .header("accept", accept)
        .header("if-none-match", etag)
        .body(kube::client::Body::empty())
        .unwrap();
    assert_eq!(admin.send(request).await.unwrap().status(), 304);
    let (code, index) = send(&admin, "GET", "/openapi/v3", None).await;
    assert_eq!(code, 200);
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let (code, document) = send(&admin, "GET", &url, None).await;
    assert_eq!((code, &document["openapi"]), (200, &json!("3.0.0")));
    let missing = raw(&admin, "GET", "/apis/nope.example/v1", "", vec![]).await;
    assert_eq!((missing.status().as_u16(), missing.body().as_str()), (404, "404 page not found\n"));
    let metrics = raw(&admin, "GET", "/metrics", "", vec![]).await;
    assert!(metrics.body().contains("apiserver_request_total{"), "{}", metrics.body());
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let server = TestServer::start().await;
    let dir = tempfile::tempdir().unwrap();
    let config = strake_apiserver::Config::new(server.address, server.address.ip());
    let store = strake_store::embedded::Embedded::open(dir.path(), Default::default()).unwrap();
    let pki = std::sync::Arc::clone(&server.pki);
    let refused = strake_apiserver::serve(config, std::sync::Arc::new(store), pki, Default::default()).await;
    let message = refused.err().unwrap().to_string();
    assert!(message.contains(&server.address.to_string()) && message.contains("in use"), "{message}");
}

#[tokio::test]
async fn a_connection_survives_refusals() {
    use hyper_util::rt::TokioIo;
    let server = TestServer::start().await;
    let identity = server.pki.issue_client("nobody-special", &[], strake_pki::DAY).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(server.pki.ca().certificate_der().clone()).unwrap();
    let config = rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(identity.chain().unwrap(), identity.key().unwrap())
        .unwrap();
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    let stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for path in ["/api/v1/nodes", "/api/v1/nope", "/version", "/api/v1/namespaces/default/pods/p"] {
        let body = http_body_util::Full::new(bytes::Bytes::from(vec![b' '; 100_000]));
        let request = http::Request::post(path).header("host", "x").body(body).unwrap();
        let answer = sender.send_request(request).await.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert!(answer.status().is_client_error(), "{path}: {}", answer.status());
        http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
        sender.ready().await.unwrap();
    }
}
