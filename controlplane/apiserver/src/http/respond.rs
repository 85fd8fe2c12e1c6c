//! Answers: objects, Status errors, text. One place decides headers, pretty printing and compression.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use strake_machinery::ApiError;

use super::{
    body::{self, Body},
    compress,
    negotiate::Encoding,
};

/// How this client wants bytes.
#[derive(Debug, Clone, Copy)]
pub struct Format {
    /// JSON or YAML.
    pub encoding: Encoding,
    /// Indented JSON.
    pub pretty: bool,
    /// gzip is accepted.
    pub gzip: bool,
}

impl Format {
    /// Compact JSON, uncompressed.
    pub const PLAIN: Self = Self { encoding: Encoding::Json, pretty: false, gzip: false };

    /// Reads what the headers and the `pretty` parameter say; people's tools get indented JSON, as upstream does.
    pub fn of(headers: &HeaderMap, pretty: Option<bool>, encoding: Encoding) -> Self {
        let pretty = pretty.unwrap_or_else(|| {
            headers
                .get(header::USER_AGENT)
                .and_then(|agent| agent.to_str().ok())
                .is_some_and(|agent| ["curl", "Wget", "Mozilla/5.0"].iter().any(|tool| agent.starts_with(tool)))
        });
        Self { encoding, pretty, gzip: compress::accepts_gzip(headers) }
    }
}

fn response(status: StatusCode, content_type: &'static str, bytes: Bytes, gzip: bool) -> Response<Body> {
    let compressed = if gzip { compress::gzip(&bytes) } else { None };
    let encoded = compressed.is_some();
    let bytes = compressed.unwrap_or(bytes);
    let mut response = Response::new(body::full(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if encoded {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

/// An object.
pub fn object(status: StatusCode, value: &Value, format: Format) -> Response<Body> {
    match format.encoding {
        Encoding::Yaml => match serde_saphyr::to_string(value) {
            Ok(text) => response(status, "application/yaml", Bytes::from(text), format.gzip),
            Err(failure) => error(&ApiError::internal(format!("writing YAML: {failure}")), Format::PLAIN),
        },
        Encoding::Json => {
            let written = if format.pretty { serde_json::to_vec_pretty(value) } else { serde_json::to_vec(value) };
            match written {
                Ok(mut bytes) => {
                    bytes.push(b'\n');
                    response(status, "application/json", Bytes::from(bytes), format.gzip)
                }
                Err(failure) => error(&ApiError::internal(format!("writing JSON: {failure}")), Format::PLAIN),
            }
        }
    }
}

/// An object that is serialised already.
pub fn serialised(status: StatusCode, json: Bytes, format: Format) -> Response<Body> {
    if format.encoding == Encoding::Json && !format.pretty {
        return response(status, "application/json", json, format.gzip);
    }
    match serde_json::from_slice::<Value>(&json) {
        Ok(value) => object(status, &value, format),
        Err(failure) => error(&ApiError::internal(format!("reading a cached object: {failure}")), Format::PLAIN),
    }
}

/// A Status error.
pub fn error(error: &ApiError, format: Format) -> Response<Body> {
    let status = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = object(status, &error.to_value(), format);
    if let Some(seconds) = error.retry_after_seconds() {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    answer
}

/// Plain text.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut answer = response(status, "text/plain; charset=utf-8", text.into(), false);
    answer.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    answer
}

/// JSON bytes with a media type of their own.
pub fn typed(status: StatusCode, content_type: &'static str, bytes: impl Into<Bytes>, gzip: bool) -> Response<Body> {
    response(status, content_type, bytes.into(), gzip)
}

/// What stock answers for a path nobody serves.
pub fn page_not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}
