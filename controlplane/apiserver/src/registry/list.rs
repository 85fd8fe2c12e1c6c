//! Lists: from the cache as of now, or from the store's history when a page is continued.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use strake_machinery::{
    ApiError, GroupKind,
    field::{FieldError, Path},
};
use strake_store::{RangeRequest, Revision, prefix_end};

use super::{op::Op, select::Selection, storage::store_error};
use crate::{
    cache::{NotFresh, Object, Snapshot},
    query::Query,
};

/// How many keys are read from the store at once while a page is filled.
const CHUNK: usize = 1_000;

/// One page of objects.
#[derive(Debug)]
pub struct Page {
    /// The revision that all pages of this list show.
    pub revision: Revision,
    /// The objects, in the order of their keys.
    pub objects: Vec<Arc<Object>>,
    /// The token for the next page, if there is one.
    pub next: Option<String>,
    /// How many follow after this page, if that is known.
    pub remaining: Option<usize>,
}

/// What `continue` holds (upstream's form, so that it looks the same).
#[derive(Debug, Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

fn token(revision: Revision, after: &str) -> String {
    let token = Token { v: TOKEN_VERSION.to_owned(), rv: revision as i64, start: format!("{after}\0") };
    // A struct of strings and numbers always serialises.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn read_token(text: &str) -> Result<Token, ApiError> {
    let bad = |why: &str| ApiError::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|error| bad(&error.to_string()))?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|error| bad(&error.to_string()))?;
    if token.v != TOKEN_VERSION {
        return Err(bad("server does not recognize this encoded version"));
    }
    if token.rv <= 0 || token.start.is_empty() || token.start.starts_with('/') || token.start.contains("..") {
        return Err(bad("incorrect encoded start resourceVersion or key"));
    }
    Ok(token)
}

/// The error for a cache that is behind.
pub fn not_fresh(error: &NotFresh) -> ApiError {
    match error {
        NotFresh::Behind { wanted, current } => ApiError::too_large_resource_version(*wanted, *current),
        NotFresh::Store(error) => store_error(error),
    }
}

/// A resourceVersion parameter: `None` for the newest, 0 for any.
///
/// # Errors
/// 400 when it is no number.
pub fn revision_parameter(query: &Query) -> Result<Option<Revision>, ApiError> {
    match query.non_empty("resourceVersion") {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!(
                "Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        }),
    }
}

/// The resourceVersionMatch parameter, checked against the others as upstream does.
///
/// # Errors
/// 422 for combinations that make no sense.
pub fn check_match(query: &Query, watch: bool) -> Result<&str, ApiError> {
    let wanted = query.get("resourceVersionMatch").unwrap_or_default();
    let version = query.get("resourceVersion").unwrap_or_default();
    let initial = query.optional_flag("sendInitialEvents");
    let path = Path::new("resourceVersionMatch");
    let mut errors = Vec::new();
    if watch {
        if initial.is_some() && wanted != "NotOlderThan" {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            errors.push(FieldError::forbidden(&path, why));
        } else if !wanted.is_empty() && initial.is_none() {
            errors.push(FieldError::forbidden(
                &path,
                "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            ));
        }
    } else {
        if initial.is_some() {
            errors.push(FieldError::forbidden(
                &Path::new("sendInitialEvents"),
                "sendInitialEvents is forbidden for list",
            ));
        }
        if !wanted.is_empty() {
            if version.is_empty() {
                errors.push(FieldError::forbidden(
                    &path,
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            if query.non_empty("continue").is_some() {
                errors
                    .push(FieldError::forbidden(&path, "resourceVersionMatch is forbidden when continue is provided"));
            }
            if !matches!(wanted, "Exact" | "NotOlderThan") {
                errors.push(FieldError::not_supported(&path, wanted, &["Exact", "NotOlderThan", ""]));
            }
            if wanted == "Exact" && version == "0" {
                errors.push(FieldError::forbidden(
                    &path,
                    "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
                ));
            }
        }
    }
    if errors.is_empty() {
        Ok(wanted)
    } else {
        Err(ApiError::invalid(GroupKind::new("meta.k8s.io", "ListOptions"), "", errors))
    }
}

/// Lists what the parameters ask for.
///
/// # Errors
/// 400 and 422 for bad parameters, 410 for history that is gone, 504 for a future that has not come.
pub async fn list(op: &Op<'_>, query: &Query) -> Result<Page, ApiError> {
    let selection = Selection::parse(op, query)?;
    let limit = query.integer("limit").map_err(ApiError::bad_request)?.unwrap_or(0).max(0) as usize;
    let exact = check_match(query, false)? == "Exact";
    let revision = revision_parameter(query)?;
    if let Some(text) = query.non_empty("continue") {
        let token = read_token(text)?;
        if revision.is_some_and(|revision| revision != 0) {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        return from_history(op, &selection, token.rv as Revision, Some(&token.start), limit).await;
    }
    match revision {
        None => op.api.cacher.wait_fresh().await.map_err(|error| not_fresh(&error))?,
        Some(revision) if exact => return from_history(op, &selection, revision, None, limit).await,
        Some(revision) => op.api.cacher.wait_for(revision).await.map_err(|error| not_fresh(&error))?,
    }
    Ok(from_cache(op, &selection, limit, op.cache()?.snapshot(op.namespace, op.api.cacher.applied())))
}

fn from_cache(op: &Op<'_>, selection: &Selection, limit: usize, snapshot: Snapshot) -> Page {
    let Snapshot { revision, mut objects } = snapshot;
    if !selection.is_everything() {
        objects.retain(|object| selection.matches(object));
    }
    let mut page = Page { revision, objects, next: None, remaining: None };
    if limit > 0 && page.objects.len() > limit {
        if selection.is_everything() {
            page.remaining = Some(page.objects.len() - limit);
        }
        page.objects.truncate(limit);
        page.next = page.objects.last().map(|last| token(revision, relative(op, &last.key)));
    }
    page
}

/// A key below the list's own prefix, as tokens hold it.
fn relative<'k>(op: &Op<'_>, key: &'k str) -> &'k str {
    if op.namespace.is_empty() {
        return key;
    }
    key.strip_prefix(op.namespace).and_then(|rest| rest.strip_prefix('/')).unwrap_or(key)
}

/// A page of the state at a past revision.
async fn from_history(
    op: &Op<'_>,
    selection: &Selection,
    revision: Revision,
    start: Option<&str>,
    limit: usize,
) -> Result<Page, ApiError> {
    let cache = op.cache()?;
    let prefix = op.stored.storage_list_prefix(op.namespace);
    let root = op.stored.storage_list_prefix("");
    let mut from = format!("{prefix}{}", start.unwrap_or_default()).into_bytes();
    let end = prefix_end(prefix.as_bytes());
    let mut page = Page { revision, objects: Vec::new(), next: None, remaining: None };
    loop {
        let wanted = if limit > 0 { (limit - page.objects.len() + 1).clamp(1, CHUNK) } else { 0 };
        let request = RangeRequest { start: from.clone().into(), end: end.clone(), limit: wanted, revision };
        let range = op.api.storage.backend().range(request).await.map_err(|error| store_error(&error))?;
        let more = range.more;
        for (index, kv) in range.kvs.iter().enumerate() {
            if limit > 0 && page.objects.len() == limit {
                page.next = page.objects.last().map(|last| token(revision, relative(op, &last.key)));
                if selection.is_everything() && !more {
                    page.remaining = Some(range.kvs.len() - index);
                }
                return Ok(page);
            }
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            let key: Arc<str> = Arc::from(key.strip_prefix(root.as_str()).unwrap_or(&key));
            if let Some(object) = Object::from_stored(key, &kv.value, kv.mod_revision, cache.fields())
                && selection.matches(&object)
            {
                page.objects.push(Arc::new(object));
            }
        }
        match range.kvs.last() {
            Some(last) if more => {
                from = last.key.to_vec();
                from.push(0);
            }
            _ => return Ok(page),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_and_forgeries_do_not() {
        let read = read_token(&token(42, "default/web")).unwrap();
        assert_eq!((read.rv, read.start.as_str()), (42, "default/web\0"));
        for text in ["", "x", "e30", &URL_SAFE_NO_PAD.encode(r#"{"v":"meta.k8s.io/v1","rv":5,"start":"/../secrets"}"#)]
        {
            assert!(read_token(text).is_err(), "{text}");
        }
    }
}
