//! pods/log: the kubelet's answer, as it comes.

use futures::StreamExt as _;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;
use strake_machinery::{
    ApiError, GroupKind,
    field::{FieldError, Path},
    meta,
};

use super::target;
use crate::{
    http::body::{self, Body, BoxError},
    registry::{Op, handlers::Call},
};

/// Parameters of PodLogOptions that the kubelet understands under the same names.
const PARAMETERS: [&str; 8] =
    ["follow", "previous", "sinceSeconds", "sinceTime", "timestamps", "tailLines", "limitBytes", "stream"];

/// Error texts of a kubelet are read up to this many bytes.
const MAX_ERROR: usize = 16 * 1024;

fn names(pod: &Value, list: &str) -> Vec<String> {
    meta::list_at(pod, &["spec", list]).iter().map(|container| meta::str_at(container, &["name"]).to_owned()).collect()
}

/// The container that a request is about: the one asked for, or the only one.
///
/// # Errors
/// 400 in upstream's words when it is not clear or does not exist.
pub fn container(pod: &Value, wanted: Option<&str>) -> Result<String, ApiError> {
    let name = meta::name(pod);
    let lists = ["containers", "initContainers", "ephemeralContainers"].map(|list| names(pod, list));
    if let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) {
        return if lists.iter().flatten().any(|one| one == wanted) {
            Ok(wanted.to_owned())
        } else {
            Err(ApiError::bad_request(format!("container {wanted} is not valid for pod {name}")))
        };
    }
    let [containers, init, ephemeral] = lists;
    if let [only] = containers.as_slice() {
        return Ok(only.clone());
    }
    let mut text = format!("a container name must be specified for pod {name}");
    for (words, list) in [
        (", choose one of:", containers),
        (" or one of the init containers:", init),
        (" or one of the ephemeral containers:", ephemeral),
    ] {
        if !list.is_empty() {
            text.push_str(&format!("{words} [{}]", list.join(" ")));
        }
    }
    Err(ApiError::bad_request(text))
}

/// A kubelet's refusal as a Status.
pub async fn refusal(response: Response<Incoming>) -> ApiError {
    let status = response.status();
    let text = match body::read(response.into_body(), MAX_ERROR).await {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim_end().to_owned(),
        Err(error) => error.to_string(),
    };
    // A kubelet that answers with a Status has said it best.
    if let Ok(value) = serde_json::from_str::<Value>(&text)
        && value["kind"] == "Status"
    {
        let mut error = ApiError::generic(status.as_u16(), &text);
        error.message = meta::str_at(&value, &["message"]).to_owned();
        return error;
    }
    match status {
        StatusCode::INTERNAL_SERVER_ERROR => ApiError::internal(text),
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        other => {
            let mut error = ApiError::generic(other.as_u16(), &text);
            if !text.is_empty() {
                error.message = format!("{}: {text}", error.message);
            }
            error
        }
    }
}

/// Answers a log request.
///
/// # Errors
/// 400 and 404 for what is asked for, the kubelet's refusals, 500 when it cannot be reached.
pub async fn handle(call: &Call<'_>, op: &Op<'_>) -> Result<Response<Body>, ApiError> {
    let pod = target::pod(op, op.name).await?;
    check(call)?;
    let container = container(&pod, call.query.get("container"))?;
    let node = meta::str_at(&pod, &["spec", "nodeName"]);
    let body = if node.is_empty() {
        // Not scheduled: nothing has been written yet.
        body::empty()
    } else {
        let target = target::kubelet(op.api, node).await?;
        let path = format!("/containerLogs/{}/{}/{container}?{}", op.namespace, op.name, parameters(call));
        let request = Request::get(path)
            .header(header::HOST, format!("{}:{}", target.host, target.port))
            .body(body::empty())
            .map_err(ApiError::internal)?;
        let response = op.api.kubelets.send(&target, request).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let shutdown = op.api.shutdown.clone();
        let chunks = response.into_body().into_data_stream().map(|chunk| chunk.map_err(BoxError::from));
        body::stream(chunks.take_until(async move { shutdown.cancelled().await }))
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    Ok(response)
}

fn parameters(call: &Call<'_>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for name in PARAMETERS {
        if let Some(value) = call.query.non_empty(name) {
            query.append_pair(name, value);
        }
    }
    query.finish()
}

fn check(call: &Call<'_>) -> Result<(), ApiError> {
    let mut errors = Vec::new();
    for (name, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        let value = call.query.integer(name).map_err(ApiError::bad_request)?;
        if let Some(value) = value.filter(|value| *value < least) {
            let why = if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            errors.push(FieldError::invalid(&Path::new(name), value, why));
        }
    }
    if call.query.non_empty("sinceSeconds").is_some() && call.query.non_empty("sinceTime").is_some() {
        let why = "at most one of `sinceTime` or `sinceSeconds` may be specified";
        errors.push(FieldError::forbidden(&Path::root(), why));
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(GroupKind::new("", "PodLogOptions"), "", errors)) }
}
