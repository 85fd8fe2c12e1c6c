//! Paths and what they answer.

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::{Span, Timestamp};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::{Body, Server, json, metrics, streaming, text};
use crate::logs::follow::{self, Options};
use crate::logs::format::Stream;
use crate::pod;
use crate::pods::manager::View;
use crate::runtime::{Record, State};

type Query = Vec<(String, String)>;

fn query(request: &Request<Incoming>) -> Query {
    url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()).into_owned().collect()
}

fn first<'a>(q: &'a Query, key: &str) -> Option<&'a str> {
    q.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
}

fn flag(q: &Query, key: &str) -> bool {
    matches!(first(q, key), Some("1" | "true"))
}

/// Answers a request that was authorized.
pub async fn route(s: &Server, request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let decoded: Vec<String> = path
        .split('/')
        .filter(|p| !p.is_empty())
        .map(|p| percent_encoding::percent_decode_str(p).decode_utf8_lossy().into_owned())
        .collect();
    let parts: Vec<&str> = decoded.iter().map(String::as_str).collect();
    let q = query(&request);
    let get = request.method() == Method::GET;
    match parts.as_slice() {
        ["healthz"] | ["healthz", "ping" | "log" | "syncloop"] if get => text(StatusCode::OK, "ok"),
        ["pods"] if get => pods(s),
        ["stats", "summary"] if get => metrics::summary(&s.shared, &s.pods).await,
        ["metrics"] if get => metrics::own(&s.shared, &s.pods),
        ["metrics", "resource"] if get => metrics::resource(&s.shared, &s.pods).await,
        ["containerLogs", ns, name, container] if get => logs(s, ns, name, container, &q),
        ["exec", ns, name, container] => exec(s, request, &q, ns, name, None, container).await,
        ["exec", ns, name, uid, container] => exec(s, request, &q, ns, name, Some(uid), container).await,
        ["attach", ns, name, container] => attach(s, request, &q, ns, name, None, container).await,
        ["attach", ns, name, uid, container] => attach(s, request, &q, ns, name, Some(uid), container).await,
        ["portForward", ns, name] => forward(s, request, &q, ns, name, None).await,
        ["portForward", ns, name, uid] => forward(s, request, &q, ns, name, Some(uid)).await,
        ["run", ns, name, container] if request.method() == Method::POST => run(s, &q, ns, name, container).await,
        _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
    }
}

fn pods(s: &Server) -> Response<Body> {
    let items: Vec<Pod> = s
        .pods
        .all()
        .into_iter()
        .map(|v| {
            let mut p = (*v.pod).clone();
            let status = PodStatus { conditions: v.status.conditions.clone(), ..v.status };
            p.status = Some(status);
            p
        })
        .collect();
    json(&serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}))
}

fn pod_of(s: &Server, ns: &str, name: &str, uid: Option<&str>) -> Result<View, Response<Body>> {
    s.pods.find(ns, name, uid).ok_or_else(|| text(StatusCode::NOT_FOUND, "pod does not exist\n"))
}

fn running(v: &View, container: &str) -> Result<Record, Response<Body>> {
    let found = v.runtime.latest(container).filter(|r| r.state == State::Running).cloned();
    found.ok_or_else(|| text(StatusCode::NOT_FOUND, format!("container not found (\"{container}\")\n")))
}

fn bad(message: impl Into<String>) -> Response<Body> {
    text(StatusCode::BAD_REQUEST, message)
}

fn log_options(q: &Query) -> Result<Options, String> {
    let number = |key: &str| match first(q, key) {
        None | Some("") => Ok(None),
        Some(v) => v.parse::<u64>().map(Some).map_err(|_| format!("invalid value {v:?} for {key}")),
    };
    let mut since = match first(q, "sinceTime") {
        None | Some("") => None,
        Some(t) => Some(t.parse::<Timestamp>().map_err(|e| format!("invalid value {t:?} for sinceTime: {e}"))?),
    };
    if let Some(seconds) = number("sinceSeconds")? {
        let span = i64::try_from(seconds).ok().and_then(|seconds| Span::new().try_seconds(seconds).ok());
        let span =
            span.ok_or_else(|| format!("invalid value {seconds} for sinceSeconds: it is longer than time is told"))?;
        since = Timestamp::now().checked_sub(span).ok();
    }
    let stream = match first(q, "stream") {
        None | Some("" | "All") => None,
        Some("Stdout") => Some(Stream::Stdout),
        Some("Stderr") => Some(Stream::Stderr),
        Some(other) => return Err(format!("invalid value {other:?} for stream")),
    };
    Ok(Options {
        follow: flag(q, "follow"),
        tail: number("tailLines")?,
        since,
        timestamps: flag(q, "timestamps"),
        limit: number("limitBytes")?,
        stream,
    })
}

fn logs(s: &Server, ns: &str, name: &str, container: &str, q: &Query) -> Response<Body> {
    let v = match pod_of(s, ns, name, None) {
        Ok(v) => v,
        Err(answer) => return answer,
    };
    if pod::container(&v.pod, container).is_none() {
        return text(StatusCode::NOT_FOUND, format!("container \"{container}\" not found in pod \"{name}\"\n"));
    }
    let options = match log_options(q) {
        Ok(o) => o,
        Err(e) => return bad(e),
    };
    let mut records = v.runtime.containers.iter().filter(|r| r.name == container);
    let record = if flag(q, "previous") {
        let newest = records.next();
        // In backoff the newest is the one that ended.
        let waits = newest.is_some_and(|r| r.state == State::Exited && waiting(&v.status, container).is_some());
        match if waits { newest } else { records.next() } {
            Some(r) => r,
            None => {
                return bad(format!("previous terminated container \"{container}\" in pod \"{name}\" not found"));
            }
        }
    } else {
        match records.find(|r| matches!(r.state, State::Running | State::Exited)) {
            Some(r) => r,
            None => {
                let reason = waiting(&v.status, container).unwrap_or_else(|| "ContainerCreating".into());
                return bad(format!("container \"{container}\" in pod \"{name}\" is waiting to start: {reason}"));
            }
        }
    };
    let (tx, rx) = mpsc::channel(16);
    let (path, id) = (record.log_path.clone(), record.id.clone());
    let changes = v.changes;
    tokio::spawn(async move {
        let failed = tx.clone();
        if let Err(error) = follow::read(path, id, options, Some(changes), tx).await {
            let _ = failed.send(Err(std::io::Error::other(error.to_string()))).await;
        }
    });
    let body = StreamBody::new(ReceiverStream::new(rx).map(|chunk| chunk.map(Frame::data)));
    let mut r = Response::new(BodyExt::boxed(body));
    r.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("text/plain"));
    r
}

fn waiting(status: &PodStatus, container: &str) -> Option<String> {
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found = lists.into_iter().flat_map(|l| l.iter().flatten()).find(|c| c.name == container)?;
    found.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

async fn exec(
    s: &Server,
    request: Request<Incoming>,
    q: &Query,
    ns: &str,
    name: &str,
    uid: Option<&str>,
    container: &str,
) -> Response<Body> {
    let record = match pod_of(s, ns, name, uid).and_then(|v| running(&v, container)) {
        Ok(r) => r,
        Err(answer) => return answer,
    };
    let tty = flag(q, "tty");
    let wanted = cri::ExecRequest {
        container_id: record.id,
        cmd: q.iter().filter(|(k, _)| k == "command").map(|(_, v)| v.clone()).collect(),
        tty,
        stdin: flag(q, "input"),
        stdout: flag(q, "output"),
        stderr: flag(q, "error") && !tty,
    };
    if wanted.cmd.is_empty() {
        return bad("you must specify a command");
    }
    if !(wanted.stdin || wanted.stdout || wanted.stderr) {
        return bad("you must specify at least 1 of stdin, stdout, stderr");
    }
    match s.shared.cri.exec(wanted).await {
        Ok(answer) => streaming::tunnel(request, &answer.url).await,
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

async fn attach(
    s: &Server,
    request: Request<Incoming>,
    q: &Query,
    ns: &str,
    name: &str,
    uid: Option<&str>,
    container: &str,
) -> Response<Body> {
    let v = match pod_of(s, ns, name, uid) {
        Ok(v) => v,
        Err(answer) => return answer,
    };
    let record = match running(&v, container) {
        Ok(r) => r,
        Err(answer) => return answer,
    };
    // Whether there is a terminal was decided when the container was made.
    let tty = pod::container(&v.pod, container).and_then(|c| c.tty) == Some(true);
    let wanted = cri::AttachRequest {
        container_id: record.id,
        stdin: flag(q, "input"),
        tty,
        stdout: flag(q, "output"),
        stderr: flag(q, "error") && !tty,
    };
    match s.shared.cri.attach(wanted).await {
        Ok(answer) => streaming::tunnel(request, &answer.url).await,
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

async fn forward(
    s: &Server,
    request: Request<Incoming>,
    q: &Query,
    ns: &str,
    name: &str,
    uid: Option<&str>,
) -> Response<Body> {
    let v = match pod_of(s, ns, name, uid) {
        Ok(v) => v,
        Err(answer) => return answer,
    };
    let Some(sandbox) = v.runtime.active_sandbox() else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, format!("sandbox of pod \"{name}\" is not running\n"));
    };
    // SPDY names the port in each stream, WebSocket in the query.
    let port = q.iter().filter(|(k, _)| k == "port" || k == "ports").flat_map(|(_, v)| v.split(','));
    let port = port.filter_map(|p| p.parse().ok()).collect();
    match s.shared.cri.port_forward(cri::PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port }).await {
        Ok(answer) => streaming::tunnel(request, &answer.url).await,
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

async fn run(s: &Server, q: &Query, ns: &str, name: &str, container: &str) -> Response<Body> {
    let record = match pod_of(s, ns, name, None).and_then(|v| running(&v, container)) {
        Ok(r) => r,
        Err(answer) => return answer,
    };
    let command: Vec<String> = first(q, "cmd").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    match s.shared.cri.exec_sync(&record.id, command, 0).await {
        Ok(r) => {
            let mut out = String::from_utf8_lossy(&r.stdout).into_owned();
            out.push_str(&String::from_utf8_lossy(&r.stderr));
            let status = if r.exit_code == 0 { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
            text(status, out)
        }
        Err(e) => text(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

/// The options of any query.
pub(super) fn read_any(text: &str) {
    let query: Query = url::form_urlencoded::parse(text.as_bytes()).into_owned().collect();
    let _ = log_options(&query);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_options_are_read_and_bad_ones_named() {
        let q = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect::<Query>();
        let o = log_options(&q(&[
            ("follow", "true"),
            ("tailLines", "5"),
            ("timestamps", "1"),
            ("sinceTime", "2026-01-02T03:04:05Z"),
        ]))
        .unwrap();
        assert!(o.follow && o.timestamps && o.tail == Some(5) && o.since.is_some());
        assert_eq!(log_options(&q(&[("tailLines", "x")])).unwrap_err(), "invalid value \"x\" for tailLines");
        let since = |seconds: &str| log_options(&q(&[("sinceSeconds", seconds)])).map(|o| o.since.is_some());
        assert_eq!(since("60"), Ok(true));
        assert!(since("9223372036854775807").unwrap_err().contains("sinceSeconds"));
    }
}
