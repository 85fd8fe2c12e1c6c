//! `/openapi/v3` and `/openapi/v2` over HTTP.

use http::{HeaderMap, Response};

use crate::{
    http::{body::Body, respond},
    query::Query,
};

/// Answers paths under /openapi.
pub fn handle(_rest: &str, _query: &Query, _headers: &HeaderMap) -> Response<Body> {
    respond::page_not_found()
}
