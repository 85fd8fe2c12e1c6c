//! serviceaccounts/token: a token for a ServiceAccount, bound to a Pod, a Secret or a Node if asked.

use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use strake_machinery::{
    ApiError, GroupKind, GroupResource,
    field::{FieldError, Path},
    meta, time,
};
use strake_pki::{BoundObject, TokenRequest};

use crate::{
    http::{body::Body, respond},
    registry::{
        Op,
        decode::{self, Expected},
        handlers::Call,
        op::now,
    },
};

const SCHEMA: &str = "io.k8s.api.authentication.v1.TokenRequest";
/// Seconds: the shortest lifetime that may be asked for.
const SHORTEST: i64 = 600;
/// Seconds: the lifetime when none is asked for.
const DEFAULT: i64 = 3600;
/// Seconds: the longest lifetime that may be asked for.
const LONGEST: i64 = 1 << 32;
/// Kubelets ask for this many seconds for projected volumes; stock extends such tokens to a year and warns (KEP-1205).
const WARN_ONLY_BOUND: i64 = 3607;
/// Seconds: the year that such tokens really last.
const EXTENDED: i64 = 365 * 24 * 3600;

/// Answers POST serviceaccounts/NAME/token.
///
/// # Errors
/// 404 for what the token is to be bound to, 409 for another uid, 422 for a bad lifetime.
pub async fn create(call: &Call<'_>, op: &Op<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let validation = op.options.field_validation;
    let mut request = decode::object(Expected::Message(SCHEMA), call.headers, body, validation, call.warnings)?;
    meta::set_type(&mut request, "authentication.k8s.io/v1", "TokenRequest");
    let account = op.api.storage.get(&op.key()).await?.ok_or_else(|| op.not_found())?.value;
    let seconds = meta::i64_at(&request, &["spec", "expirationSeconds"]).unwrap_or(DEFAULT);
    let why = match seconds {
        short if short < SHORTEST => "may not specify a duration less than 10 minutes",
        long if long > LONGEST => "may not specify a duration larger than 2^32 seconds",
        _ => "",
    };
    if !why.is_empty() {
        let error = FieldError::invalid(&Path::new("spec").child("expirationSeconds"), seconds, why);
        let kind = GroupKind::new("authentication.k8s.io", "TokenRequest");
        return Err(ApiError::invalid(kind, meta::name(&request), vec![error]));
    }
    let own = op.api.auth.authenticator.audiences().to_vec();
    let mut audiences: Vec<String> = meta::list_at(&request, &["spec", "audiences"])
        .iter()
        .filter_map(|audience| audience.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.clone_from(&own);
    }
    let bound = bound_object(op, &request["spec"]["boundObjectRef"]).await?;
    let for_the_api = audiences.iter().all(|audience| own.contains(audience));
    let warn_only = seconds == WARN_ONLY_BOUND && for_the_api && bound.pod.is_some();
    let granted = if warn_only { EXTENDED } else { seconds };
    let token_request = TokenRequest {
        namespace: op.namespace.to_owned(),
        service_account: BoundObject { name: op.name.to_owned(), uid: meta::uid(&account).to_owned() },
        audiences: audiences.clone(),
        lifetime: Duration::from_secs(granted.unsigned_abs()),
        warn_after: warn_only.then(|| Duration::from_secs(seconds.unsigned_abs())),
        pod: bound.pod,
        node: bound.node,
        secret: bound.secret,
    };
    let (token, claims) = op.api.pki.service_accounts().sign(&token_request).map_err(ApiError::internal)?;
    // What the client sees is the time it should act on, extended or not.
    let seen = if warn_only { claims.iat as i64 + seconds } else { claims.exp as i64 };
    let expires = jiff::Timestamp::from_second(seen).map(time::format_seconds).map_err(ApiError::internal)?;
    meta::set_name(&mut request, op.name);
    meta::set_namespace(&mut request, op.namespace);
    meta::metadata_mut(&mut request).insert("creationTimestamp".into(), now().into());
    let spec = meta::map_at_mut(&mut request, &["spec"]);
    spec.insert("audiences".into(), json!(audiences));
    spec.insert("expirationSeconds".into(), json!(seconds));
    request["status"] = json!({"token": token, "expirationTimestamp": expires});
    Ok(respond::object(StatusCode::CREATED, &request, call.format))
}

#[derive(Default)]
struct Bound {
    pod: Option<BoundObject>,
    node: Option<BoundObject>,
    secret: Option<BoundObject>,
}

async fn bound_object(op: &Op<'_>, reference: &Value) -> Result<Bound, ApiError> {
    if !reference.is_object() {
        return Ok(Bound::default());
    }
    let (kind, name, uid) =
        (meta::str_at(reference, &["kind"]), meta::str_at(reference, &["name"]), meta::str_at(reference, &["uid"]));
    let (resource, namespace) = match kind {
        "Pod" => ("pods", op.namespace),
        "Secret" => ("secrets", op.namespace),
        "Node" => ("nodes", ""),
        other => {
            let why = format!("cannot bind token for serviceaccount {:?} to object with type {other:?}", op.name);
            return Err(ApiError::bad_request(why));
        }
    };
    let of = GroupResource::new("", resource);
    let found = op.api.lookup_fresh("", resource, namespace, name).await;
    let object = found.ok_or_else(|| ApiError::not_found(of, name))?;
    if !uid.is_empty() && uid != meta::uid(&object) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been \
             deleted and then recreated"
        );
        return Err(ApiError::conflict(of, name, &why));
    }
    let this = BoundObject { name: name.to_owned(), uid: meta::uid(&object).to_owned() };
    Ok(match kind {
        "Secret" => Bound { secret: Some(this), ..Bound::default() },
        "Node" => Bound { node: Some(this), ..Bound::default() },
        _ => {
            if meta::str_at(&object, &["spec", "serviceAccountName"]) != op.name {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    op.name
                )));
            }
            let node = meta::str_at(&object, &["spec", "nodeName"]);
            let uid = op.api.lookup("", "nodes", "", node).map(|node| meta::uid(&node).to_owned()).unwrap_or_default();
            let node = (!node.is_empty()).then(|| BoundObject { name: node.to_owned(), uid });
            Bound { pod: Some(this), node, secret: None }
        }
    })
}
