//! The one error type of the API: everything a `metav1.Status` carries, with upstream's constructors and wording
//! (k8s.io/apimachinery/pkg/api/errors).

use serde_json::{Map, Value, json};

use crate::field::{FieldError, aggregate_message};
use crate::registry::{GroupKind, GroupResource};

/// `metav1.StatusReason`: why a request was refused, machine readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

impl Reason {
    /// The name on the wire; `Unknown` is the empty string there.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Unknown => "",
            Reason::Unauthorized => "Unauthorized",
            Reason::Forbidden => "Forbidden",
            Reason::NotFound => "NotFound",
            Reason::AlreadyExists => "AlreadyExists",
            Reason::Conflict => "Conflict",
            Reason::Gone => "Gone",
            Reason::Invalid => "Invalid",
            Reason::ServerTimeout => "ServerTimeout",
            Reason::StoreReadError => "StorageReadError",
            Reason::Timeout => "Timeout",
            Reason::TooManyRequests => "TooManyRequests",
            Reason::BadRequest => "BadRequest",
            Reason::MethodNotAllowed => "MethodNotAllowed",
            Reason::NotAcceptable => "NotAcceptable",
            Reason::RequestEntityTooLarge => "RequestEntityTooLarge",
            Reason::UnsupportedMediaType => "UnsupportedMediaType",
            Reason::InternalError => "InternalError",
            Reason::Expired => "Expired",
            Reason::ServiceUnavailable => "ServiceUnavailable",
        }
    }
}

/// `metav1.StatusCause`: one of several reasons, with the field it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueInvalid`, `FieldManagerConflict`, `ResourceVersionTooLarge`, `UnexpectedServerResponse` ...
    pub reason: String,
    pub message: String,
    /// Field path in the object, empty if it is about no field.
    pub field: String,
}

/// `metav1.StatusDetails`. For not-found and conflicts `kind` holds the resource's plural, as upstream does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Details {
    pub name: String,
    pub group: String,
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    /// Seconds; 0 is "not said".
    pub retry_after_seconds: u32,
}

/// What the API answers instead of an object. `Display` is the message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    pub reason: Reason,
    pub message: String,
    /// Absent and empty differ on the wire (`"details":{}`).
    pub details: Option<Box<Details>>,
}

impl ApiError {
    fn with(code: u16, reason: Reason, message: String, details: Details) -> Self {
        ApiError { code, reason, message, details: Some(Box::new(details)) }
    }

    fn bare(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        ApiError { code, reason, message: message.into(), details: None }
    }

    fn of_resource(code: u16, reason: Reason, message: String, resource: GroupResource<'_>, name: &str) -> Self {
        let details = Details {
            name: name.into(),
            group: resource.group.into(),
            kind: resource.resource.into(),
            ..Details::default()
        };
        Self::with(code, reason, message, details)
    }

    /// 404 `pods "x" not found`.
    pub fn not_found<'a>(resource: impl Into<GroupResource<'a>>, name: &str) -> Self {
        let r = resource.into();
        Self::of_resource(404, Reason::NotFound, format!("{r} {} not found", quote(name)), r, name)
    }

    /// 404 for a path that leads to no resource.
    pub fn no_such_resource() -> Self {
        Self::generic(404, "")
    }

    /// 409 `configmaps "x" already exists`.
    pub fn already_exists<'a>(resource: impl Into<GroupResource<'a>>, name: &str) -> Self {
        let r = resource.into();
        Self::of_resource(409, Reason::AlreadyExists, format!("{r} {} already exists", quote(name)), r, name)
    }

    /// 409 when every name generated from `metadata.generateName` was taken.
    pub fn generate_name_conflict<'a>(resource: impl Into<GroupResource<'a>>, name: &str) -> Self {
        let r = resource.into();
        let message = format!(
            "{r} {} already exists, the server was not able to generate a unique name for the object",
            quote(name)
        );
        let mut e = Self::of_resource(409, Reason::AlreadyExists, message, r, name);
        e.details_mut().retry_after_seconds = 1;
        e
    }

    /// 401; an empty `reason` gives upstream's `not authorized`. The handler chain answers with `Unauthorized`.
    pub fn unauthorized(reason: &str) -> Self {
        Self::bare(401, Reason::Unauthorized, if reason.is_empty() { "not authorized" } else { reason })
    }

    /// 403 `pods "x" is forbidden: why`; without a name `pods is forbidden: why`, without a resource `forbidden: why`.
    pub fn forbidden<'a>(resource: impl Into<GroupResource<'a>>, name: &str, why: &str) -> Self {
        let r = resource.into();
        let message = if r.resource.is_empty() {
            format!("forbidden: {why}")
        } else if name.is_empty() {
            format!("{r} is forbidden: {why}")
        } else {
            format!("{r} {} is forbidden: {why}", quote(name))
        };
        Self::of_resource(403, Reason::Forbidden, message, r, name)
    }

    /// 409 `Operation cannot be fulfilled on pods "x": why`.
    pub fn conflict<'a>(resource: impl Into<GroupResource<'a>>, name: &str, why: &str) -> Self {
        let r = resource.into();
        let message = format!("Operation cannot be fulfilled on {r} {}: {why}", quote(name));
        Self::of_resource(409, Reason::Conflict, message, r, name)
    }

    /// 409 for a write whose `resourceVersion` is not the stored one.
    pub fn modified<'a>(resource: impl Into<GroupResource<'a>>, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    /// 409 of server-side apply; one cause (reason `FieldManagerConflict`) a field.
    pub fn apply_conflict(causes: Vec<Cause>, message: impl Into<String>) -> Self {
        Self::with(409, Reason::Conflict, message.into(), Details { causes, ..Details::default() })
    }

    /// 410 `Gone`.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::bare(410, Reason::Gone, message)
    }

    /// 410 `Expired`: the resourceVersion or continue token is older than what is kept.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::bare(410, Reason::Expired, message)
    }

    /// 422 `Pod "x" is invalid: ...` with one cause a field error.
    pub fn invalid<'a>(kind: impl Into<GroupKind<'a>>, name: &str, errors: Vec<FieldError>) -> Self {
        let k = kind.into();
        let causes = errors
            .iter()
            .map(|e| Cause { reason: e.kind.cause_reason().into(), message: e.body(), field: e.field.clone() })
            .collect();
        let message = if errors.is_empty() {
            format!("{k} {} is invalid", quote(name))
        } else {
            format!("{k} {} is invalid: {}", quote(name), aggregate_message(&errors))
        };
        let details =
            Details { name: name.into(), group: k.group.into(), kind: k.kind.into(), causes, ..Details::default() };
        Self::with(422, Reason::Invalid, message, details)
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::bare(400, Reason::BadRequest, message)
    }

    /// 429 `TooManyRequests` with the delay to wait, in seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let details = Details { retry_after_seconds, ..Details::default() };
        Self::with(429, Reason::TooManyRequests, message.into(), details)
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::bare(503, Reason::ServiceUnavailable, message)
    }

    /// 405 for a verb a resource does not have, `delete is not supported on resources of kind "pods"`.
    pub fn method_not_supported<'a>(resource: impl Into<GroupResource<'a>>, action: &str) -> Self {
        let r = resource.into();
        let message = format!("{action} is not supported on resources of kind {}", quote(&r.to_string()));
        Self::of_resource(405, Reason::MethodNotAllowed, message, r, "")
    }

    /// 405 for an HTTP method no route of the path takes.
    pub fn method_not_allowed() -> Self {
        Self::generic(405, "")
    }

    /// 500 `ServerTimeout`: worth trying again.
    pub fn server_timeout<'a>(
        resource: impl Into<GroupResource<'a>>,
        operation: &str,
        retry_after_seconds: u32,
    ) -> Self {
        let r = resource.into();
        let message =
            format!("The {operation} operation against {r} could not be completed at this time, please try again.");
        let mut e = Self::of_resource(500, Reason::ServerTimeout, message, r, operation);
        e.details_mut().retry_after_seconds = retry_after_seconds;
        e
    }

    /// 500 `Internal error occurred: why`.
    pub fn internal(why: impl std::fmt::Display) -> Self {
        let why = why.to_string();
        let message = format!("Internal error occurred: {why}");
        let causes = vec![Cause { message: why, ..Cause::default() }];
        Self::with(500, Reason::InternalError, message, Details { causes, ..Details::default() })
    }

    /// 504 `Timeout: why`; `retry_after_seconds` 0 is not said.
    pub fn timeout(why: &str, retry_after_seconds: u32) -> Self {
        let details = Details { retry_after_seconds, ..Details::default() };
        Self::with(504, Reason::Timeout, format!("Timeout: {why}"), details)
    }

    /// 504 for a resourceVersion that the store has not reached.
    pub fn too_large_resource_version(asked: u64, current: u64) -> Self {
        let mut e = Self::timeout(&format!("Too large resource version: {asked}, current: {current}"), 1);
        e.details_mut().causes.push(Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            field: String::new(),
        });
        e
    }

    /// 413.
    pub fn too_large(why: &str) -> Self {
        Self::bare(413, Reason::RequestEntityTooLarge, format!("Request entity too large: {why}"))
    }

    /// 415 for a body whose media type no decoder takes.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {}",
            accepted.join(", ")
        );
        Self::bare(415, Reason::UnsupportedMediaType, message)
    }

    /// 406 for an `Accept` header nothing satisfies.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        let message = format!("only the following media types are accepted: {}", accepted.join(", "));
        Self::bare(406, Reason::NotAcceptable, message)
    }

    /// What upstream's router answers when no handler was reached (`NewGenericServerResponse`): the wording follows
    /// from the code; `server_message` is used where upstream uses it (403, 406, 415, 5xx).
    pub fn generic(code: u16, server_message: &str) -> Self {
        let (reason, message) = match code {
            400 => (Reason::BadRequest, "the server rejected our request for an unknown reason".to_owned()),
            401 => (Reason::Unauthorized, "the server has asked for the client to provide credentials".to_owned()),
            403 => (Reason::Forbidden, server_message.to_owned()),
            404 => (Reason::NotFound, "the server could not find the requested resource".to_owned()),
            405 => {
                (Reason::MethodNotAllowed, "the server does not allow this method on the requested resource".to_owned())
            }
            406 if server_message.is_empty() => (
                Reason::NotAcceptable,
                "the server was unable to respond with a content type that the client supports".to_owned(),
            ),
            406 => (Reason::NotAcceptable, server_message.to_owned()),
            409 => (Reason::Conflict, "the server reported a conflict".to_owned()),
            415 => (Reason::UnsupportedMediaType, server_message.to_owned()),
            422 => (Reason::Invalid, "the server rejected our request due to an error in our request".to_owned()),
            429 => (
                Reason::TooManyRequests,
                "the server has received too many requests and has asked us to try again later".to_owned(),
            ),
            503 => (Reason::ServiceUnavailable, "the server is currently unable to handle the request".to_owned()),
            504 => (
                Reason::Timeout,
                "the server was unable to return a response in the time allotted, but may still be processing the \
                 request"
                    .to_owned(),
            ),
            c if c >= 500 => (
                Reason::InternalError,
                format!("an error on the server ({}) has prevented the request from succeeding", quote(server_message)),
            ),
            c => (
                Reason::Unknown,
                format!("the server responded with the status code {c} but did not return more information"),
            ),
        };
        Self::with(code, reason, message, Details::default())
    }

    /// The details, made if absent.
    pub fn details_mut(&mut self) -> &mut Details {
        self.details.get_or_insert_with(Box::default)
    }

    pub fn is_not_found(&self) -> bool {
        self.reason == Reason::NotFound
    }

    pub fn is_conflict(&self) -> bool {
        self.reason == Reason::Conflict
    }

    pub fn is_already_exists(&self) -> bool {
        self.reason == Reason::AlreadyExists
    }

    /// The `Retry-After` header's value, if one is due.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        self.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0)
    }

    /// The `v1` `Status` object.
    pub fn to_value(&self) -> Value {
        let mut status = Map::new();
        status.insert("kind".into(), json!("Status"));
        status.insert("apiVersion".into(), json!("v1"));
        status.insert("metadata".into(), json!({}));
        status.insert("status".into(), json!("Failure"));
        put(&mut status, "message", &self.message);
        put(&mut status, "reason", self.reason.as_str());
        if let Some(details) = &self.details {
            status.insert("details".into(), details_value(details));
        }
        status.insert("code".into(), json!(self.code));
        Value::Object(status)
    }

    /// The body of the answer.
    pub fn to_json(&self) -> Vec<u8> {
        self.to_value().to_string().into_bytes()
    }
}

/// The `Status` of a request that succeeded and has no object to answer with (a finished delete).
pub fn success(details: Option<&Details>) -> Value {
    let mut status = Map::new();
    status.insert("kind".into(), json!("Status"));
    status.insert("apiVersion".into(), json!("v1"));
    status.insert("metadata".into(), json!({}));
    status.insert("status".into(), json!("Success"));
    if let Some(details) = details {
        status.insert("details".into(), details_value(details));
    }
    Value::Object(status)
}

fn details_value(details: &Details) -> Value {
    let mut out = Map::new();
    put(&mut out, "name", &details.name);
    put(&mut out, "group", &details.group);
    put(&mut out, "kind", &details.kind);
    put(&mut out, "uid", &details.uid);
    if !details.causes.is_empty() {
        let causes = details.causes.iter().map(|c| {
            let mut cause = Map::new();
            put(&mut cause, "reason", &c.reason);
            put(&mut cause, "message", &c.message);
            put(&mut cause, "field", &c.field);
            Value::Object(cause)
        });
        out.insert("causes".into(), causes.collect());
    }
    if details.retry_after_seconds > 0 {
        out.insert("retryAfterSeconds".into(), json!(details.retry_after_seconds));
    }
    Value::Object(out)
}

fn put(map: &mut Map<String, Value>, key: &str, value: &str) {
    if !value.is_empty() {
        map.insert(key.into(), Value::String(value.into()));
    }
}

/// Go's `%q` of a string, near enough: double quotes, with quotes, backslashes and control characters escaped.
pub fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Path;

    const PODS: GroupResource<'static> = GroupResource::new("", "pods");
    const DEPLOYMENT: GroupKind<'static> = GroupKind::new("apps", "Deployment");

    #[test]
    fn a_missing_object_is_named_with_its_resource() {
        let e = ApiError::not_found(PODS, "none");
        assert_eq!(
            e.to_value(),
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "pods \"none\" not found", "reason": "NotFound",
                "details": {"name": "none", "kind": "pods"}, "code": 404})
        );
        let grouped = ApiError::not_found(GroupResource::new("apps", "deployments"), "d");
        assert_eq!(grouped.message, "deployments.apps \"d\" not found");
    }

    #[test]
    fn several_field_errors_are_listed_in_brackets_and_as_causes() {
        let spec = Path::new("spec");
        let e = ApiError::invalid(
            DEPLOYMENT,
            "x",
            vec![
                FieldError::required(&spec.child("selector"), ""),
                FieldError::invalid(
                    &spec.child("template").child("metadata").child("labels"),
                    json!({"a": "b"}),
                    "`selector` does not match template `labels`",
                ),
            ],
        );
        assert_eq!(
            e.message,
            "Deployment.apps \"x\" is invalid: [spec.selector: Required value, spec.template.metadata.labels: \
             Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`]"
        );
        let causes = &e.details.as_ref().unwrap().causes;
        assert_eq!(causes[0].reason, "FieldValueRequired");
        assert_eq!(causes[1].field, "spec.template.metadata.labels");
    }

    #[test]
    fn a_version_from_the_future_says_when_to_try_again() {
        let e = ApiError::too_large_resource_version(99999999, 264);
        assert_eq!(e.message, "Timeout: Too large resource version: 99999999, current: 264");
        assert_eq!(e.retry_after_seconds(), Some(1));
        assert_eq!(
            e.to_value()["details"],
            json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                "retryAfterSeconds": 1})
        );
    }

    #[test]
    fn generic_answers_have_empty_details() {
        assert_eq!(ApiError::method_not_allowed().to_value()["details"], json!({}));
        assert_eq!(ApiError::generic(415, "415: Unsupported Media Type").message, "415: Unsupported Media Type");
    }
}
