//! `/openapi/v3` and `/openapi/v2` over HTTP. Each document is made on first use and kept compressed: they are large,
//! rarely asked for, and never change while the server runs.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    sync::OnceLock,
};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use parking_lot::Mutex;
use strake_machinery::{ApiError, Registry, openapi};

use crate::{
    http::{
        body::{self, Body},
        compress,
        respond::{self, Format},
    },
    query::Query,
};

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

#[derive(Clone)]
struct Document {
    gzip: Bytes,
    etag: String,
    content_type: &'static str,
}

fn pack(bytes: &[u8], etag: String, content_type: &'static str) -> std::io::Result<Document> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    Ok(Document { gzip: encoder.finish()?.into(), etag, content_type })
}

/// A kept document, made if it is not there.
fn kept(name: &str, make: impl FnOnce() -> Option<std::io::Result<Document>>) -> Option<std::io::Result<Document>> {
    static DOCUMENTS: OnceLock<Mutex<HashMap<String, Document>>> = OnceLock::new();
    let documents = DOCUMENTS.get_or_init(Mutex::default);
    if let Some(document) = documents.lock().get(name) {
        return Some(Ok(document.clone()));
    }
    let made = make()?;
    if let Ok(document) = &made {
        documents.lock().insert(name.to_owned(), document.clone());
    }
    Some(made)
}

fn send(document: &Document, headers: &HeaderMap, immutable: bool) -> std::io::Result<Response<Body>> {
    let known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|tag| tag.trim().trim_matches('"') == document.etag));
    let gzip = compress::accepts_gzip(headers);
    let mut response = if known {
        let mut response = Response::new(body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else if gzip {
        let mut response = respond::typed(StatusCode::OK, document.content_type, document.gzip.clone(), false);
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    } else {
        let mut plain = Vec::new();
        GzDecoder::new(&document.gzip[..]).read_to_end(&mut plain)?;
        respond::typed(StatusCode::OK, document.content_type, plain, false)
    };
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", document.etag)) {
        headers.insert(header::ETAG, etag);
    }
    headers.append(header::VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    if immutable {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        let ever = HeaderValue::from_static("Thu, 31 Dec 2099 23:59:59 GMT");
        headers.insert(header::EXPIRES, ever);
    }
    Ok(response)
}

/// Answers paths under /openapi; `rest` is what follows.
pub fn handle(kinds: &Registry, rest: &str, query: &Query, headers: &HeaderMap) -> Response<Body> {
    let hash = query.get("hash");
    let answer = match rest.split('/').collect::<Vec<_>>().as_slice() {
        ["v2"] => Some(v2(kinds, headers)),
        ["v3"] => kept("v3", || {
            let index = openapi::v3_index(kinds).to_string();
            let etag = format!("{:016x}", fingerprint(index.as_bytes()));
            Some(pack(index.as_bytes(), etag, "application/json"))
        })
        .map(|document| document.and_then(|document| send(&document, headers, false))),
        ["v3", "api", version] => v3(kinds, "", version, headers, hash),
        ["v3", "apis", group, version] => v3(kinds, group, version, headers, hash),
        _ => None,
    };
    match answer {
        Some(Ok(response)) => response,
        Some(Err(error)) => respond::error(&ApiError::internal(error), Format::PLAIN),
        None => respond::page_not_found(),
    }
}

fn fingerprint(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

fn v3(
    kinds: &Registry,
    group: &str,
    version: &str,
    headers: &HeaderMap,
    hash: Option<&str>,
) -> Option<std::io::Result<Response<Body>>> {
    if !kinds.has_group_version(group, version) {
        return None;
    }
    let current = openapi::hash(kinds, group, version);
    let document = kept(&openapi::v3_path(group, version), || {
        let document = openapi::v3(kinds, group, version)?;
        Some(pack(document.to_string().as_bytes(), current.clone(), "application/json"))
    })?;
    let immutable = hash == Some(current.as_str());
    Some(document.and_then(|document| send(&document, headers, immutable)))
}

fn v2(kinds: &Registry, headers: &HeaderMap) -> std::io::Result<Response<Body>> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let protobuf = accept.contains(V2_PROTOBUF) || accept.contains(V2_PROTOBUF_OLD);
    let name = if protobuf { "v2 protobuf" } else { "v2" };
    let document = kept(name, || {
        let value = openapi::v2(kinds);
        let bytes = if protobuf { openapi::v2_protobuf(&value) } else { value.to_string().into_bytes() };
        let etag = format!("{:016x}", fingerprint(&bytes));
        Some(pack(&bytes, etag, if protobuf { V2_PROTOBUF_OLD } else { "application/json" }))
    });
    match document {
        Some(document) => document.and_then(|document| send(&document, headers, false)),
        None => Ok(respond::page_not_found()),
    }
}
