//! From a request about a resource to its answer.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::Value;
use strake_auth::UserInfo;
use strake_machinery::{ApiError, Kind, field::FieldError, meta, status};

use super::{
    create,
    decode::{self, Expected},
    delete::{self, DeleteOptions, Propagation},
    list, notyet,
    op::{FieldValidation, Op, Warnings, WriteOptions, dry_run},
    patch::{self, Patch},
    render::Renderer,
    scale,
    update::{self, OnRace, Updated},
    watch,
};
use crate::{
    api::Api,
    http::{
        body::{self, Body, MAX_BODY, ReadError},
        negotiate::{self, Accepted},
        respond::{self, Format},
    },
    proxy,
    query::Query,
    request::RequestInfo,
    subresources, virtual_resources,
};

/// Everything that belongs to one request.
pub struct Call<'a> {
    /// The server.
    pub api: &'a Arc<Api>,
    /// What the request is about.
    pub info: &'a RequestInfo,
    /// Its parameters.
    pub query: &'a Query,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Warnings for the client.
    pub warnings: &'a Warnings,
    /// What the client can read.
    pub accepted: Accepted,
    /// How answers are written.
    pub format: Format,
}

/// Reads a body of at most 3 MiB.
///
/// # Errors
/// 413 for more, 400 when the client goes away.
pub async fn read_body(incoming: Incoming) -> Result<Bytes, ApiError> {
    body::read(incoming, MAX_BODY).await.map_err(|error| match error {
        ReadError::TooLarge { limit } => ApiError::too_large(&format!("limit is {limit}")),
        ReadError::Broken(_) => ApiError::bad_request(error.to_string()),
    })
}

/// The name under which the client owns fields: `fieldManager`, or what its User-Agent begins with.
fn manager<'a>(call: &Call<'a>) -> &'a str {
    let agent = call.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let program = agent.split('/').next().filter(|program| !program.is_empty()).unwrap_or("unknown");
    let program = if program.len() > 128 { &program[..128] } else { program };
    call.query.non_empty("fieldManager").unwrap_or(program)
}

/// What a request is about, if there is such a thing and it can be done to it.
///
/// # Errors
/// 404 for resources that do not exist, 405 for verbs that they have not.
pub fn resolve<'a>(call: &Call<'a>) -> Result<Op<'a>, ApiError> {
    let (api, info): (&'a Api, &'a RequestInfo) = (call.api, call.info);
    let kind = api.kinds.resource(&info.group, &info.version, &info.resource).ok_or_else(ApiError::no_such_resource)?;
    if !info.subresource.is_empty() {
        let Some(subresource) = kind.subresource(&info.subresource) else { return Err(ApiError::no_such_resource()) };
        if info.subresource != "proxy" && !subresource.verbs.has(info.verb) {
            return Err(ApiError::method_not_allowed());
        }
    } else if !kind.verbs.has(info.verb) || (info.verb == "create" && !info.name.is_empty()) {
        return Err(ApiError::method_not_allowed());
    }
    if kind.namespaced && info.namespace.is_empty() && !matches!(info.verb, "list" | "watch") {
        // Objects of a namespace are never reached without one.
        return Err(ApiError::method_not_allowed());
    }
    if !kind.namespaced && !info.namespace.is_empty() && info.resource != "namespaces" {
        return Err(ApiError::no_such_resource());
    }
    Ok(Op {
        api,
        kind,
        stored: api.kinds.storage_kind(kind).unwrap_or(kind),
        namespace: if kind.namespaced { &info.namespace } else { "" },
        name: &info.name,
        subresource: &info.subresource,
        user: call.user,
        manager: manager(call),
        options: WriteOptions::default(),
        warnings: call.warnings,
    })
}

/// Answers a request about a resource that was authorized and resolved. Bodies are read before anything can fail, so
/// that the connection stays usable.
///
/// # Errors
/// Every Status error there is.
pub async fn handle(call: &Call<'_>, op: Op<'_>, request: Request<Incoming>) -> Result<Response<Body>, ApiError> {
    let info = call.info;
    match info.subresource.as_str() {
        "log" | "exec" | "attach" | "portforward" | "proxy" => return proxy::handle(call, &op, request).await,
        "binding" | "eviction" | "token" => {
            let body = read_body(request.into_body()).await?;
            return subresources::create(call, &op, &body).await;
        }
        "scale" => {
            let body = if info.verb == "get" { Bytes::new() } else { read_body(request.into_body()).await? };
            return scale::handle(call, &op, &body).await;
        }
        _ => {}
    }
    if !op.kind.stored {
        let body = if info.verb == "create" { read_body(request.into_body()).await? } else { Bytes::new() };
        return virtual_resources::handle(call, &op, &body).await;
    }
    match info.verb {
        "get" => get(call, &op).await,
        "list" => {
            let page = list::list(&op, call.query).await?;
            Ok(Renderer::new(&op, call.accepted, call.query).page(&page, call.format))
        }
        "watch" => watch::watch(&op, call.query, call.accepted).await,
        "create" => post(call, &op, &read_body(request.into_body()).await?).await,
        "update" => put(call, &op, &read_body(request.into_body()).await?).await,
        "patch" => {
            let body = read_body(request.into_body()).await?;
            let op = Op { options: WriteOptions::parse(call.query, "PatchOptions")?, ..op };
            let updated = if patch::is_apply(call.headers) {
                patch::apply(&op, call.query, &body).await?
            } else {
                patch::patch(&op, &Patch::read(call.headers, &body)?).await?
            };
            Ok(answer_update(call, &op, updated))
        }
        "delete" => remove(call, &op, &read_body(request.into_body()).await?).await,
        "deletecollection" => remove_all(call, &op, &read_body(request.into_body()).await?).await,
        _ => Err(ApiError::method_not_allowed()),
    }
}

async fn get(call: &Call<'_>, op: &Op<'_>) -> Result<Response<Body>, ApiError> {
    match list::revision_parameter(call.query)? {
        None => op.api.cacher.wait_fresh().await,
        Some(revision) => op.api.cacher.wait_for(revision).await,
    }
    .map_err(|error| list::not_fresh(&error))?;
    let key = if op.namespace.is_empty() { op.name.to_owned() } else { format!("{}/{}", op.namespace, op.name) };
    let object = op.cache()?.get(&key).ok_or_else(|| op.not_found())?;
    Ok(Renderer::new(op, call.accepted, call.query).cached(&object, call.format))
}

async fn post(call: &Call<'_>, op: &Op<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let op = &Op { options: WriteOptions::parse(call.query, "CreateOptions")?, ..*op };
    let expected = Expected::Kind(op.kind);
    let object = decode::object(expected, call.headers, body, op.options.field_validation, call.warnings)?;
    let created = create::create(op, op.to_storage(object)).await?;
    if let Some(text) = notyet::warning(op.kind) {
        call.warnings.add(text);
    }
    let renderer = Renderer::new(op, call.accepted, call.query);
    Ok(renderer.object(StatusCode::CREATED, &op.to_requested(created), call.format))
}

async fn put(call: &Call<'_>, op: &Op<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let op = &Op { options: WriteOptions::parse(call.query, "UpdateOptions")?, ..*op };
    let expected = Expected::Kind(op.kind);
    let object = decode::object(expected, call.headers, body, op.options.field_validation, call.warnings)?;
    if meta::name(&object).is_empty() && op.subresource.is_empty() {
        return Err(ApiError::bad_request("name must be provided"));
    }
    let object = op.to_storage(object);
    let updated = update::update(op, OnRace::Report, |_| Ok(object.clone())).await?;
    Ok(answer_update(call, op, updated))
}

/// The answer to an update or a patch.
pub fn answer_update(call: &Call<'_>, op: &Op<'_>, updated: Updated) -> Response<Body> {
    let status = if updated.created { StatusCode::CREATED } else { StatusCode::OK };
    let renderer = Renderer::new(op, call.accepted, call.query);
    renderer.object(status, &op.to_requested(updated.object), call.format)
}

/// Reads DeleteOptions from the body and the parameters.
///
/// # Errors
/// 400 and 422 for what cannot be read or is unknown.
pub fn delete_options(call: &Call<'_>, body: &Bytes) -> Result<DeleteOptions, ApiError> {
    let query = call.query;
    let mut options = DeleteOptions::default();
    let mut errors: Vec<FieldError> = Vec::new();
    let mut propagation = query.non_empty("propagationPolicy").map(str::to_owned);
    let mut orphan = query.optional_flag("orphanDependents");
    options.grace = query.integer("gracePeriodSeconds").map_err(ApiError::bad_request)?;
    options.dry_run = dry_run(query.all("dryRun"), &mut errors);
    if !body.is_empty() {
        let value = delete_options_body(call, body)?;
        if let Some(grace) = meta::i64_at(&value, &["gracePeriodSeconds"]) {
            options.grace = Some(grace);
        }
        if let Some(policy) = meta::at(&value, &["propagationPolicy"]).and_then(Value::as_str) {
            propagation = Some(policy.to_owned());
        }
        if let Some(flag) = meta::at(&value, &["orphanDependents"]).and_then(Value::as_bool) {
            orphan = Some(flag);
        }
        let text = |field: &str| {
            Some(meta::str_at(&value, &["preconditions", field])).filter(|text| !text.is_empty()).map(str::to_owned)
        };
        options.uid = text("uid");
        options.resource_version = text("resourceVersion");
        let values: Vec<&str> = meta::list_at(&value, &["dryRun"]).iter().filter_map(Value::as_str).collect();
        options.dry_run |= dry_run(values.into_iter(), &mut errors);
    }
    let path = strake_machinery::field::Path::new("propagationPolicy");
    options.propagation = match (propagation.as_deref(), orphan) {
        (Some(policy), Some(_)) => {
            errors.push(FieldError::invalid(
                &path,
                policy,
                "orphanDependents and deletionPropagation cannot be both set",
            ));
            None
        }
        (Some("Orphan"), None) | (None, Some(true)) => Some(Propagation::Orphan),
        (Some("Background"), None) | (None, Some(false)) => Some(Propagation::Background),
        (Some("Foreground"), None) => Some(Propagation::Foreground),
        (Some(other), None) => {
            errors.push(FieldError::not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]));
            None
        }
        (None, None) => None,
    };
    if errors.is_empty() {
        Ok(options)
    } else {
        Err(ApiError::invalid(strake_machinery::GroupKind::new("meta.k8s.io", "DeleteOptions"), "", errors))
    }
}

/// DeleteOptions come as meta.k8s.io/v1, v1, or in the group of the resource: only their fields matter.
fn delete_options_body(call: &Call<'_>, body: &Bytes) -> Result<Value, ApiError> {
    match decode::media_type(call.headers) {
        "application/vnd.kubernetes.protobuf" => {
            let expected = Expected::Message("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
            decode::object(expected, call.headers, body, FieldValidation::Ignore, call.warnings)
        }
        "application/yaml" => decode::parse_yaml(body),
        "" | "application/json" => serde_json::from_slice(body)
            .map_err(|error| ApiError::bad_request(format!("reading DeleteOptions: {error}"))),
        _ => Err(decode::unsupported()),
    }
}

/// Kinds whose deletion is answered with the object (upstream's ReturnDeletedObject), not with a Status.
fn answers_object(kind: &Kind) -> bool {
    kind.group.is_empty()
        && matches!(
            kind.plural.as_str(),
            "pods"
                | "services"
                | "serviceaccounts"
                | "persistentvolumes"
                | "persistentvolumeclaims"
                | "podtemplates"
                | "resourcequotas"
        )
}

async fn remove(call: &Call<'_>, op: &Op<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = delete_options(call, body)?;
    let deleted = delete::delete(op, &options).await?;
    if deleted.gone && !answers_object(op.kind) {
        let details = status::Details {
            name: op.name.to_owned(),
            group: op.kind.group.clone(),
            kind: op.kind.plural.clone(),
            uid: meta::uid(&deleted.object).to_owned(),
            ..status::Details::default()
        };
        return Ok(respond::object(StatusCode::OK, &status::success(Some(&details)), call.format));
    }
    let renderer = Renderer::new(op, call.accepted, call.query);
    Ok(renderer.object(StatusCode::OK, &op.to_requested(deleted.object), call.format))
}

/// How many objects of a collection are deleted at once.
const DELETE_WORKERS: usize = 32;

async fn remove_all(call: &Call<'_>, op: &Op<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let options = delete_options(call, body)?;
    let page = list::list(op, call.query).await?;
    let options = &options;
    futures::stream::iter(page.objects.clone())
        .map(|object| async move {
            match delete::delete(&op.on(object.namespace(), object.name()), options).await {
                Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
                _ => Ok(()),
            }
        })
        .buffer_unordered(DELETE_WORKERS)
        .try_collect::<()>()
        .await?;
    Ok(Renderer::new(op, call.accepted, call.query).page(&page, call.format))
}

/// The negotiated form of a request's answer.
///
/// # Errors
/// 406 when nothing that is produced here is acceptable.
pub fn negotiate(headers: &HeaderMap, query: &Query) -> Result<(Accepted, Format), ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let accepted =
        negotiate::accept(accept).map_err(|_| ApiError::not_acceptable(&["application/json", "application/yaml"]))?;
    Ok((accepted, Format::of(headers, query.optional_flag("pretty"), accepted.encoding)))
}
