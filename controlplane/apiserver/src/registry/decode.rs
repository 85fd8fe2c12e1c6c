//! Request bodies into objects: media types, then the schema's view of types, unknown and duplicate fields.

use bytes::Bytes;
use http::{HeaderMap, header};
use serde_json::Value;
use strake_machinery::{
    ApiError, Kind, proto,
    schema::{self, Decoded},
};

use super::op::{FieldValidation, Warnings};

const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// What a body must be.
#[derive(Debug, Clone, Copy)]
pub enum Expected<'a> {
    /// An object of a row.
    Kind(&'a Kind),
    /// A message of the schema, `io.k8s.api.autoscaling.v1.Scale`.
    Message(&'a str),
}

/// The media type of a request, without parameters; empty for none.
pub fn media_type(headers: &HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(str::trim)
        .unwrap_or_default()
}

/// 415 with the media types that are read.
pub fn unsupported() -> ApiError {
    ApiError::unsupported_media_type(&[JSON, YAML, PROTOBUF])
}

/// Reads an object.
///
/// # Errors
/// 415 for other media types, 400 for what cannot be read or is another kind, 400 for unknown and duplicate fields
/// under Strict.
pub fn object(
    expected: Expected<'_>,
    headers: &HeaderMap,
    body: &Bytes,
    validation: FieldValidation,
    warnings: &Warnings,
) -> Result<Value, ApiError> {
    let decoded = match (media_type(headers), expected) {
        ("" | JSON, Expected::Kind(kind)) => schema::decode_json(kind, body)?,
        ("" | JSON, Expected::Message(name)) => schema::decode_json_as(name, body)?,
        (YAML, Expected::Kind(kind)) => schema::decode_value(kind, parse_yaml(body)?)?,
        (YAML, Expected::Message(name)) => schema::decode_value_as(name, parse_yaml(body)?)?,
        (PROTOBUF, Expected::Kind(kind)) => plain(proto::decode(kind, body)?),
        (PROTOBUF, Expected::Message(name)) => plain(proto::decode_as(name, body)?),
        _ => return Err(unsupported()),
    };
    finish(expected, decoded, validation, warnings)
}

fn plain(object: Value) -> Decoded {
    Decoded { object, strict_errors: Vec::new() }
}

/// Checks an object that was made here (a patch's outcome) as if it had been sent; `duplicates` are the paths of keys
/// that the patch has twice.
///
/// # Errors
/// As [`object`].
pub fn check(
    expected: Expected<'_>,
    value: Value,
    duplicates: &[String],
    validation: FieldValidation,
    warnings: &Warnings,
) -> Result<Value, ApiError> {
    let mut decoded = match expected {
        Expected::Kind(kind) => schema::decode_value(kind, value)?,
        Expected::Message(name) => schema::decode_value_as(name, value)?,
    };
    decoded.strict_errors.extend(duplicates.iter().map(|path| format!("duplicate field {path:?}")));
    finish(expected, decoded, validation, warnings)
}

fn finish(
    expected: Expected<'_>,
    decoded: Decoded,
    validation: FieldValidation,
    warnings: &Warnings,
) -> Result<Value, ApiError> {
    if let Expected::Kind(kind) = expected {
        strake_strategy::decode::check(kind, &decoded.object)
            .map_err(|error| ApiError::bad_request(error.message(kind)))?;
    }
    match validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => decoded.strict_errors.into_iter().for_each(|text| warnings.add(text)),
        FieldValidation::Strict if decoded.strict_errors.is_empty() => {}
        FieldValidation::Strict => {
            return Err(match expected {
                Expected::Kind(kind) => schema::strict_error(kind, &decoded.strict_errors),
                Expected::Message(_) => {
                    ApiError::bad_request(format!("strict decoding error: {}", decoded.strict_errors.join(", ")))
                }
            });
        }
    }
    Ok(decoded.object)
}

/// A YAML document as JSON.
///
/// # Errors
/// 400 for what is no YAML.
pub fn parse_yaml(body: &Bytes) -> Result<Value, ApiError> {
    let text = std::str::from_utf8(body)
        .map_err(|error| ApiError::bad_request(format!("yaml: invalid UTF-8 in the request body: {error}")))?;
    serde_saphyr::from_str(text).map_err(|error| ApiError::bad_request(format!("yaml: {error}")))
}
