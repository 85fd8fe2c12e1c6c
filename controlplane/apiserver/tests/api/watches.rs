//! Watches: resumed, bookmarked, selected, expired.

use crate::server::{TestServer, send};
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use kube::Client;
use serde_json::{Value, json};
use std::pin::Pin;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

type Events = Pin<Box<dyn futures::Stream<Item = Value> + Send>>;

async fn watch(client: &Client, query: &str) -> Events {
    let request = http::Request::get(format!("{MAPS}?watch=1&timeoutSeconds=20&{query}")).body(Vec::new()).unwrap();
    let lines = client.request_stream(request).await.unwrap().lines();
    Box::pin(lines.map_ok(|line| serde_json::from_str(&line).unwrap()).map(Result::unwrap))
}

async fn next(events: &mut Events) -> (String, Value) {
    let event = tokio::time::timeout(std::time::Duration::from_secs(10), events.next()).await.unwrap().unwrap();
    (event["type"].as_str().unwrap().to_owned(), event["object"].clone())
}

async fn put(client: &Client, name: &str, label: &str) -> Value {
    let object = json!({"metadata": {"name": name, "labels": {"l": label}}});
    let (code, made) = send(client, "POST", MAPS, Some(object.clone())).await;
    if code == 201 { made } else { send(client, "PATCH", &format!("{MAPS}/{name}"), Some(object)).await.1 }
}

#[tokio::test]
async fn a_watch_list_begins_with_the_state_and_says_where_it_ends() {
    let server = TestServer::start().await;
    let admin = server.admin();
    put(&admin, "a", "1").await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = watch(&admin, query).await;
    let (kind, object) = next(&mut events).await;
    assert_eq!((kind.as_str(), &object["metadata"]["name"]), ("ADDED", &json!("a")));
    let (kind, bookmark) = next(&mut events).await;
    assert_eq!(kind, "BOOKMARK");
    assert_eq!(bookmark["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let made = put(&admin, "b", "1").await;
    assert_eq!(next(&mut events).await, ("ADDED".to_owned(), made));
    let (code, refused) = send(&admin, "GET", &format!("{MAPS}?watch=1&sendInitialEvents=true"), None).await;
    assert_eq!((code, &refused["reason"]), (422, &json!("Invalid")));
}

#[tokio::test]
async fn a_watch_goes_on_where_it_was_even_after_a_restart() {
    let server = TestServer::start().await;
    let first = put(&server.admin(), "a", "1").await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    put(&server.admin(), "a", "2").await;
    let server = server.restart().await;
    let admin = server.admin();
    let mut events = watch(&admin, &format!("resourceVersion={version}")).await;
    let (kind, object) = next(&mut events).await;
    assert_eq!((kind.as_str(), &object["metadata"]["labels"]["l"]), ("MODIFIED", &json!("2")));
    send(&admin, "DELETE", &format!("{MAPS}/a"), None).await;
    let (kind, gone) = next(&mut events).await;
    assert_eq!(kind, "DELETED");
    assert_ne!(gone["metadata"]["resourceVersion"], object["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn objects_enter_and_leave_a_selection() {
    let server = TestServer::start().await;
    let admin = server.admin();
    let start = put(&admin, "a", "out").await;
    let version = start["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut events = watch(&admin, &format!("labelSelector=l%3Din&resourceVersion={version}")).await;
    put(&admin, "a", "in").await;
    put(&admin, "b", "out").await;
    put(&admin, "a", "out").await;
    let kinds = [next(&mut events).await, next(&mut events).await];
    assert_eq!((kinds[0].0.as_str(), kinds[1].0.as_str()), ("ADDED", "DELETED"));
    assert_eq!(kinds[1].1["metadata"]["labels"]["l"], "in", "the last state that the client may see");
}

#[tokio::test]
async fn parameters_that_make_no_sense_are_refused() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for (query, code) in [
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersion=x", 400),
        ("limit=1&continue=x", 400),
        ("fieldSelector=spec.x%3Dy", 400),
    ] {
        let (got, refused) = send(&admin, "GET", &format!("{MAPS}?{query}"), None).await;
        assert_eq!(got, code, "{query}: {refused}");
    }
}

#[tokio::test]
async fn tables_are_watched_with_their_columns_once() {
    let server = TestServer::start().await;
    let admin = server.admin();
    put(&admin, "a", "1").await;
    put(&admin, "b", "1").await;
    let request = http::Request::get(format!("{MAPS}?watch=1&timeoutSeconds=20"))
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .body(Vec::new())
        .unwrap();
    let lines = admin.request_stream(request).await.unwrap().lines();
    let mut events: Events = Box::pin(lines.map_ok(|line| serde_json::from_str(&line).unwrap()).map(Result::unwrap));
    let (_, first) = next(&mut events).await;
    let (_, second) = next(&mut events).await;
    assert_eq!((&first["kind"], &first["rows"][0]["cells"][0]), (&json!("Table"), &json!("a")));
    assert!(first["columnDefinitions"].is_array() && second["columnDefinitions"].is_null());
}
