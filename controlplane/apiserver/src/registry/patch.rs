//! PATCH: JSON patch, JSON merge patch, strategic merge patch, server-side apply.

use bytes::Bytes;
use http::HeaderMap;
use serde_json::Value;
use strake_machinery::{
    ApiError, GroupKind,
    apply::apply as machinery_apply,
    field::{FieldError, Path},
    meta, patch as machinery,
};

use crate::query::Query;

use super::{
    decode::{self, Expected, media_type},
    op::{Op, WriteOptions},
    update::{self, OnRace, Updated},
};

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";

/// A patch that was read.
pub struct Patch {
    kind: PatchKind,
    body: Value,
    duplicates: Vec<String>,
}

enum PatchKind {
    Json,
    Merge,
    Strategic,
}

impl Patch {
    /// Reads a patch.
    ///
    /// # Errors
    /// 415 for media types that are no patch, 400 for what is no JSON.
    pub fn read(headers: &HeaderMap, body: &Bytes) -> Result<Self, ApiError> {
        let kind = match media_type(headers) {
            JSON_PATCH => PatchKind::Json,
            MERGE_PATCH => PatchKind::Merge,
            STRATEGIC_PATCH => PatchKind::Strategic,
            _ => return Err(ApiError::generic(415, "415: Unsupported Media Type")),
        };
        let parsed = strake_machinery::schema::parse_json(body)
            .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))?;
        Ok(Self { kind, body: parsed.value, duplicates: parsed.duplicates })
    }

    /// The patched object, which is a message `schema` of the schema (empty for custom resources).
    ///
    /// # Errors
    /// 400 and 422 for patches that do not fit the object.
    pub fn apply(&self, schema: &str, object: &Value) -> Result<Value, ApiError> {
        match self.kind {
            PatchKind::Json => machinery::json(object, &self.body),
            PatchKind::Merge => {
                let mut patched = object.clone();
                machinery::merge(&mut patched, &self.body);
                Ok(patched)
            }
            PatchKind::Strategic => machinery::strategic(schema, object, &self.body),
        }
    }

    /// Keys that the patch's document has twice.
    pub fn duplicates(&self) -> &[String] {
        &self.duplicates
    }
}

/// Patches the operation's object.
///
/// # Errors
/// As [`update::update`], and those of the patch.
pub async fn patch(op: &Op<'_>, patch: &Patch) -> Result<Updated, ApiError> {
    update::update(op, OnRace::Retry, |old| {
        let old = old.ok_or_else(|| op.not_found())?;
        let old = op.to_requested(old.clone());
        let new = patch.apply(&op.kind.schema, &old)?;
        let validation = op.options.field_validation;
        let mut new = decode::check(Expected::Kind(op.kind), new, patch.duplicates(), validation, op.warnings)?;
        if meta::name(&new) != op.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                meta::name(&new),
                op.name
            )));
        }
        if meta::resource_version(&new).is_empty() {
            meta::set_resource_version(&mut new, meta::resource_version(&old));
        }
        Ok(op.to_storage(new))
    })
    .await
}

/// Whether a request is a server-side apply.
pub fn is_apply(headers: &HeaderMap) -> bool {
    media_type(headers) == APPLY_PATCH
}

/// Applies a configuration: creates the operation's object, or merges into it what the manager says and takes away
/// what it no longer says (KEP-555).
///
/// # Errors
/// 422 without a fieldManager, 409 for fields that others own, and as [`update::update`].
pub async fn apply(op: &Op<'_>, query: &Query, body: &Bytes) -> Result<Updated, ApiError> {
    if query.non_empty("fieldManager").is_none() {
        let error = FieldError::required(&Path::new("fieldManager"), "is required for apply patch");
        return Err(ApiError::invalid(GroupKind::new("meta.k8s.io", "PatchOptions"), "", vec![error]));
    }
    let config = decode::parse_yaml(body)?;
    for field in ["apiVersion", "kind"] {
        if meta::str_at(&config, &[field]).is_empty() {
            return Err(ApiError::bad_request(format!("{field} must be set in an apply patch")));
        }
    }
    let validation = op.options.field_validation;
    let mut config = decode::check(Expected::Kind(op.kind), config, &[], validation, op.warnings)?;
    if meta::name(&config).is_empty() {
        meta::set_name(&mut config, op.name);
    }
    if op.kind.namespaced && meta::namespace(&config).is_empty() {
        meta::set_namespace(&mut config, op.namespace);
    }
    let config = op.to_storage(config);
    let force = query.flag("force");
    let op = &Op { options: WriteOptions { applied: true, ..op.options }, ..*op };
    update::update(op, OnRace::Retry, |old| machinery_apply(op.stored, old, &config, &op.field_manager(), force)).await
}
