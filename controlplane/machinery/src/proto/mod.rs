//! Protobuf as Kubernetes uses it, to and from JSON values: `k8s\0`, then `runtime.Unknown` with the type and the bytes
//! of the message. Field numbers come from the schema; nothing is generated code.
//!
//! ```text
//! "k8s\0"  1: TypeMeta { 1: apiVersion  2: kind }  2: raw  3: contentEncoding  4: contentType
//! ```
//!
//! Go's generated code writes every scalar that is no pointer, zero or not, and Go's JSON leaves the empty ones out;
//! decoding does the same.

mod decode;
mod encode;
mod wire;

use serde_json::Value;

use crate::registry::{Kind, schema_name, split_api_version};
use crate::schema::{self, Schema};
use crate::status::quote;
use crate::{ApiError, meta};

/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every message begins with.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Magic,
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: illegal wireType {0}")]
    WireType(u8),
    #[error("proto: wrong wireType = {wire_type} for field {field} of {message}")]
    Mismatch { message: String, field: &'static str, wire_type: u8 },
    #[error("proto: field {field} of {message} contains invalid UTF-8")]
    Utf8 { message: String, field: &'static str },
    #[error("proto: {message} is nested too deep")]
    Depth { message: String },
    #[error("field {field} of {message} holds no valid JSON: {why}")]
    Json { message: String, field: &'static str, why: String },
    #[error("content encoding {0} is not supported")]
    ContentEncoding(String),
    #[error("no kind {kind} is registered for version {api_version}")]
    UnknownType { api_version: String, kind: String },
    #[error("field {field} of {message} cannot be written: {why}")]
    Unwritable { message: String, field: &'static str, why: String },
}

impl From<ProtoError> for ApiError {
    fn from(e: ProtoError) -> Self {
        ApiError::bad_request(e.to_string())
    }
}

/// The envelope of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub raw: &'a [u8],
    /// Empty for a protobuf message; `application/json` is possible.
    pub content_type: &'a str,
}

/// Whether the bytes begin as a message does.
pub fn is_envelope(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// Open the envelope.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    decode::envelope(bytes)
}

/// Decode the body of a create or update of `kind`, in canonical form (see [`schema::decode_value`]).
pub fn decode(kind: &Kind, bytes: &[u8]) -> Result<Value, ApiError> {
    let envelope = open(bytes)?;
    let mut object = if envelope.api_version == kind.api_version() && envelope.kind == kind.kind {
        let message = Schema::get()
            .of_kind(kind)
            .ok_or_else(|| ApiError::unsupported_media_type(&["application/json", "application/yaml"]))?;
        decode::message(message, &envelope).map_err(|e| {
            let (kind, version) = (&kind.kind, quote(&kind.version));
            ApiError::bad_request(format!("{kind} in version {version} cannot be handled as a {kind}: {e}"))
        })?
    } else {
        // Another type: let the check of types say so, in its words.
        serde_json::json!({})
    };
    if !envelope.kind.is_empty() {
        meta::set_type(&mut object, envelope.api_version, envelope.kind);
    }
    Ok(schema::decode_value(kind, object)?.object)
}

/// Decode a message that is no kind of the registry (`io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions`).
pub fn decode_as(schema_name: &str, bytes: &[u8]) -> Result<Value, ApiError> {
    let envelope = open(bytes)?;
    let message = Schema::get().message(schema_name).ok_or_else(|| ProtoError::UnknownType {
        api_version: envelope.api_version.to_owned(),
        kind: envelope.kind.to_owned(),
    })?;
    let mut object = decode::message(message, &envelope)?;
    if message.top_level {
        meta::set_type(&mut object, envelope.api_version, envelope.kind);
    }
    Ok(schema::decode_value_as(schema_name, object)?.object)
}

/// Decode a message whose type is whatever its envelope says: any built-in kind, a list of one, or a meta kind.
pub fn decode_any(bytes: &[u8]) -> Result<Value, ApiError> {
    let envelope = open(bytes)?;
    decode_as(&name_of(envelope.api_version, envelope.kind)?, bytes)
}

/// Encode an object of any built-in kind, with its envelope.
pub fn encode(object: &Value) -> Result<Vec<u8>, ApiError> {
    let (api_version, kind) = (meta::api_version(object), meta::kind(object));
    let name = name_of(api_version, kind)?;
    let raw = match Schema::get().message(&name) {
        Some(message) => encode::message(message, object)?,
        None => Vec::new(),
    };
    Ok(encode::envelope(api_version, kind, &raw))
}

/// The message of a type: of the group's package, or of meta/v1 for the kinds every group has.
fn name_of(api_version: &str, kind: &str) -> Result<String, ProtoError> {
    let (group, version) = split_api_version(api_version);
    [schema_name(group, version, kind), format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")]
        .into_iter()
        .find(|name| Schema::get().message(name).is_some())
        .ok_or_else(|| ProtoError::UnknownType { api_version: api_version.to_owned(), kind: kind.to_owned() })
}

#[cfg(test)]
mod tests;
