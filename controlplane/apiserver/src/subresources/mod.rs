//! Subresources that are not a view of the object: binding, eviction, token. (Status, finalize, approval,
//! ephemeralcontainers and resize are updates with rules of their own in the strategies; scale is in the registry.)

mod binding;
mod eviction;
mod token;

use bytes::Bytes;
use http::Response;
use strake_machinery::ApiError;

use crate::{
    http::body::Body,
    registry::{Op, WriteOptions, handlers::Call},
};

pub use binding::bind;

/// Answers a POST to binding, eviction or token.
///
/// # Errors
/// What each of them says.
pub async fn create(call: &Call<'_>, op: &Op<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let op = &Op { options: WriteOptions::parse(call.query, "CreateOptions")?, ..*op };
    match op.subresource {
        "binding" => binding::create(call, op, body).await,
        "eviction" => eviction::create(call, op, body).await,
        _ => token::create(call, op, body).await,
    }
}
