//! An API server double: objects by path, create/get/list/watch/patch/delete, one resourceVersion for all.
//! Only what the kubelet asks for; no validation, no defaulting.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::BroadcastStream;

type AnswerBody = http_body_util::combinators::BoxBody<Bytes, Infallible>;

#[derive(Clone)]
struct Event {
    kind: &'static str,
    path: String,
    object: Value,
}

struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
}

/// The double.
#[derive(Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    events: broadcast::Sender<Event>,
}

const NAMESPACED: [&str; 8] =
    ["pods", "configmaps", "secrets", "services", "events", "serviceaccounts", "leases", "endpoints"];

impl Api {
    pub fn new() -> Self {
        let state = State { objects: BTreeMap::new(), version: 1 };
        Self { state: Arc::new(Mutex::new(state)), events: broadcast::channel(4096).0 }
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// The object at a path like `/api/v1/namespaces/default/pods/a`.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    pub fn list(&self, prefix: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state.objects.iter().filter(|(k, _)| k.starts_with(prefix)).map(|(_, v)| v.clone()).collect()
    }

    pub fn put(&self, path: &str, mut object: Value) -> Value {
        let event = {
            let mut state = self.state.lock().unwrap();
            state.version += 1;
            let new = !state.objects.contains_key(path);
            let version = state.version;
            object["metadata"]["resourceVersion"] = json!(version.to_string());
            if object["metadata"]["uid"].is_null() {
                object["metadata"]["uid"] = json!(format!("uid-{version}"));
                object["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            state.objects.insert(path.to_owned(), object.clone());
            Event { kind: if new { "ADDED" } else { "MODIFIED" }, path: path.to_owned(), object: object.clone() }
        };
        let _ = self.events.send(event);
        object
    }

    pub fn remove(&self, path: &str) {
        let object = {
            let mut state = self.state.lock().unwrap();
            state.version += 1;
            let version = state.version;
            let Some(mut o) = state.objects.remove(path) else { return };
            o["metadata"]["resourceVersion"] = json!(version.to_string());
            o
        };
        let _ = self.events.send(Event { kind: "DELETED", path: path.to_owned(), object });
    }

    /// As the API server deletes a Pod: marks it, the kubelet does the rest.
    pub fn delete_pod(&self, path: &str, grace: i64) {
        let mut pod = self.get(path).unwrap();
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.put(path, pod);
    }

    async fn answer(&self, request: Request<Body>) -> Response<AnswerBody> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
        let path = parts.uri.path().to_owned();
        let query: BTreeMap<String, String> =
            url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
        let value: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        let rest = if segments[0] == "api" { &segments[2..] } else { &segments[3..] };
        match parts.method {
            Method::GET if query.get("watch").is_some_and(|w| w == "true" || w == "1") => self.watch(&path, &query),
            Method::GET if is_collection(rest) => self.answer_list(&path, &query),
            Method::GET => self.get(&path).map_or_else(not_found, |o| ok(&o)),
            Method::POST if rest.last() == Some(&"token") => {
                let status = json!({"token": "a-token", "expirationTimestamp": "2036-01-01T00:00:00Z"});
                ok(
                    &json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {}, "spec": value["spec"], "status": status}),
                )
            }
            Method::POST if rest[0] == "tokenreviews" => {
                let good = value["spec"]["token"] == "good";
                ok(
                    &json!({"metadata": {}, "spec": value["spec"], "status": {"authenticated": good, "user": {"username": "u", "groups": ["g"]}}}),
                )
            }
            Method::POST if rest[0] == "subjectaccessreviews" => {
                let allowed =
                    value["spec"]["resourceAttributes"]["subresource"] == "proxy" || value["spec"]["user"] == "admin";
                ok(&json!({"metadata": {}, "spec": value["spec"], "status": {"allowed": allowed}}))
            }
            Method::POST => {
                let name = value["metadata"]["name"].as_str().unwrap_or_default();
                ok(&self.put(&format!("{path}/{name}"), value.clone()))
            }
            Method::PUT => ok(&self.put(&path, value)),
            Method::PATCH => {
                let at = path.strip_suffix("/status").unwrap_or(&path);
                let Some(mut object) = self.get(at) else { return not_found() };
                let uid = &value["metadata"]["uid"];
                if !uid.is_null() && *uid != object["metadata"]["uid"] {
                    return status(409, "Conflict");
                }
                merge(&mut object, &value, "");
                ok(&self.put(at, object))
            }
            Method::DELETE => {
                self.remove(&path);
                ok(&json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
            }
            _ => status(405, "MethodNotAllowed"),
        }
    }

    fn matches(collection: &str, query: &BTreeMap<String, String>, path: &str, object: &Value) -> bool {
        let (group, resource) = collection.rsplit_once('/').unwrap();
        let own = path.strip_prefix(collection).is_some_and(|r| r.starts_with('/'));
        // `/api/v1/pods` lists what is below `/api/v1/namespaces/NS/pods/`.
        let all = path.strip_prefix(group).and_then(|r| r.strip_prefix("/namespaces/")).is_some_and(|r| {
            let mut s = r.split('/').skip(1);
            s.next() == Some(resource) && s.count() == 1
        });
        let selected = query.get("fieldSelector").is_none_or(|f| {
            f.split(',').all(|term| {
                let (field, want) = term.split_once('=').unwrap();
                object.pointer(&format!("/{}", field.replace('.', "/"))) == Some(&json!(want))
            })
        });
        (own || all) && selected
    }

    fn answer_list(&self, path: &str, query: &BTreeMap<String, String>) -> Response<AnswerBody> {
        let state = self.state.lock().unwrap();
        let items: Vec<&Value> =
            state.objects.iter().filter(|(k, v)| Self::matches(path, query, k, v)).map(|(_, v)| v).collect();
        ok(
            &json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": state.version.to_string()}, "items": items}),
        )
    }

    fn watch(&self, path: &str, query: &BTreeMap<String, String>) -> Response<AnswerBody> {
        let since: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
        let rx = self.events.subscribe();
        // What happened between the list and this watch.
        let missed: Vec<Event> = {
            let state = self.state.lock().unwrap();
            let newer = |o: &Value| o["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > since;
            state
                .objects
                .iter()
                .filter(|(_, o)| newer(o))
                .map(|(k, o)| Event { kind: "MODIFIED", path: k.clone(), object: o.clone() })
                .collect()
        };
        let (path, query) = (path.to_owned(), query.clone());
        let stream = tokio_stream::iter(missed).chain(BroadcastStream::new(rx).filter_map(Result::ok));
        let lines = stream.filter(move |e| Self::matches(&path, &query, &e.path, &e.object)).map(|e| {
            let line = json!({"type": e.kind, "object": e.object}).to_string() + "\n";
            Ok::<_, Infallible>(Frame::data(Bytes::from(line)))
        });
        Response::new(BodyExt::boxed(StreamBody::new(lines)))
    }
}

fn is_collection(rest: &[&str]) -> bool {
    match rest {
        [_] => true,
        ["namespaces", _, resource] => NAMESPACED.contains(resource),
        _ => false,
    }
}

fn ok(value: &Value) -> Response<AnswerBody> {
    Response::new(http_body_util::Full::new(Bytes::from(value.to_string())).boxed())
}

fn status(code: u16, reason: &str) -> Response<AnswerBody> {
    let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason, "reason": reason, "code": code});
    let mut r = ok(&body);
    *r.status_mut() = http::StatusCode::from_u16(code).unwrap();
    r
}

fn not_found() -> Response<AnswerBody> {
    status(404, "NotFound")
}

/// Strategic merge of what the kubelet patches: conditions and addresses by type, `$patch: replace`, other lists whole.
fn merge(target: &mut Value, patch: &Value, key: &str) {
    match (target, patch) {
        (Value::Object(t), Value::Object(p)) => {
            for (k, v) in p {
                if v.is_null() {
                    t.remove(k);
                } else {
                    merge(t.entry(k.clone()).or_insert(Value::Null), v, k);
                }
            }
        }
        (Value::Array(t), Value::Array(p)) if matches!(key, "conditions" | "addresses") => {
            for item in p {
                match t.iter_mut().find(|i| i["type"] == item["type"]) {
                    Some(found) => merge(found, item, ""),
                    None => {
                        t.push(Value::Null);
                        merge(t.last_mut().unwrap(), item, "");
                    }
                }
            }
        }
        (t, Value::Array(p)) => {
            *t = Value::Array(p.iter().filter(|i| i.get("$patch").is_none()).cloned().collect());
        }
        (t, Value::Object(_)) => {
            *t = json!({});
            merge(t, patch, key);
        }
        (t, p) => *t = p.clone(),
    }
}
