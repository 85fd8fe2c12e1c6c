//! Following an API server that denies, fails and changes.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of a test may panic as the tests do")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};
use strake_state::{ObjectName, Scope, SourceState, World, watch};
use tokio::sync::watch::Receiver;
use tokio_util::sync::CancellationToken;

fn list(kind: &str, items: Value) -> (u16, String) {
    let version = match kind {
        "EndpointSlice" => "discovery.k8s.io/v1",
        "RuntimeClass" => "node.k8s.io/v1",
        _ => "v1",
    };
    let body = json!({
        "kind": format!("{kind}List"), "apiVersion": version, "metadata": {"resourceVersion": "5"}, "items": items,
    });
    (200, body.to_string())
}

fn refusal(code: u16, reason: &str) -> (u16, String) {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": format!("{reason} it is"),
        "reason": reason, "code": code,
    });
    (code, body.to_string())
}

/// A client of a server that answers each path by `answer(path, is_watch, how_often_asked_before)`.
fn client(answer: impl Fn(&str, bool, u32) -> (u16, String) + Send + Sync + 'static) -> kube::Client {
    let answer = Arc::new(answer);
    let asked = Arc::new(AtomicU32::new(0));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (answer, asked) = (answer.clone(), asked.clone());
        async move {
            let watches = request.uri().query().is_some_and(|query| query.contains("watch="));
            let before =
                if request.uri().path().ends_with("services") { asked.fetch_add(1, Ordering::SeqCst) } else { 0 };
            let (code, body) = answer(request.uri().path(), watches, before);
            if code == 0 {
                // A watch on which nothing happens.
                std::future::pending::<()>().await;
            }
            Ok::<_, std::io::Error>(Response::builder().status(code).body(Body::from(body.into_bytes())).unwrap())
        }
    });
    kube::Client::new(service, "default")
}

async fn until(worlds: &mut Receiver<Arc<World>>, what: &str, condition: impl Fn(&World) -> bool) -> Arc<World> {
    let found = tokio::time::timeout(Duration::from_secs(20), worlds.wait_for(|world| condition(world)));
    found.await.unwrap_or_else(|_| panic!("{what} did not come")).unwrap().clone()
}

fn quiet(path: &str) -> (u16, String) {
    match path.rsplit('/').next().unwrap() {
        "services" => list(
            "Service",
            json!([{
                "metadata": {"namespace": "a", "name": "web", "resourceVersion": "4"},
                "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]},
            }]),
        ),
        "endpointslices" => list("EndpointSlice", json!([])),
        "nodes" => list("Node", json!([{"metadata": {"name": "n1"}}])),
        "pods" => list("Pod", json!([])),
        "runtimeclasses" => list("RuntimeClass", json!([{"metadata": {"name": "sandboxed"}, "handler": "runsc"}])),
        _ => list("Namespace", json!([])),
    }
}

#[tokio::test]
async fn an_agent_with_the_rights_of_kube_proxy_works_without_pods_and_says_so() {
    let client = client(|path, watches, _| match (path, watches) {
        ("/api/v1/pods" | "/api/v1/namespaces" | "/apis/node.k8s.io/v1/runtimeclasses", _) => refusal(403, "Forbidden"),
        (_, true) => (0, String::new()),
        (path, false) => quiet(path),
    });
    let mut worlds = watch(client, "n1", Scope::Cluster, CancellationToken::new());
    let world = until(&mut worlds, "a synced world", |world| world.synced).await;
    assert!(world.services.contains_key(&ObjectName::new("a", "web")));
    let denied: Vec<_> = world
        .sources
        .iter()
        .filter(|source| matches!(&source.state, SourceState::Denied { message } if message.contains("Forbidden")))
        .map(|source| source.kind.resource())
        .collect();
    assert_eq!(denied, ["pods", "namespaces", "runtimeclasses"]);
}

#[tokio::test]
async fn a_server_that_fails_first_is_asked_again_and_nothing_is_synced_before() {
    let client = client(|path, watches, before| match (path, watches, before) {
        ("/api/v1/services", false, 0) => refusal(500, "InternalError"),
        (_, true, _) => (0, String::new()),
        (path, false, _) => quiet(path),
    });
    let mut worlds = watch(client, "n1", Scope::Cluster, CancellationToken::new());
    let failing = until(&mut worlds, "the failure", |world| {
        world.sources.iter().any(|source| matches!(source.state, SourceState::Failing { .. }))
    });
    assert!(!failing.await.synced);
    let world = until(&mut worlds, "a synced world", |world| world.synced).await;
    assert_eq!(world.services.len(), 1);
    assert_eq!(&*world.runtime_classes["sandboxed"].handler, "runsc");
}

#[tokio::test]
async fn it_ends_when_told() {
    let client = client(|_, _, _| (0, String::new()));
    let token = CancellationToken::new();
    let mut worlds = watch(client, "n1", Scope::Cluster, token.clone());
    token.cancel();
    assert!(worlds.changed().await.is_err());
}
