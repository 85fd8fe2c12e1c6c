//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction; and who a request is from.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use strake_auth::Attributes;
use strake_machinery::{ApiError, meta};
use strake_pki::CertificateRequest;

use super::Operation;
use crate::registry::Op;

/// The spec names the user who sent it, whatever the client wrote.
pub fn mutate(op: &Op<'_>, operation: Operation, object: &mut Value, old: Option<&Value>) {
    let spec = meta::map_at_mut(object, &["spec"]);
    if operation == Operation::Create {
        let Value::Object(user) = op.user.to_json() else { return };
        for field in ["username", "uid", "groups", "extra"] {
            match user.get(field) {
                Some(value) => spec.insert(field.to_owned(), value.clone()),
                None => spec.remove(field),
            };
        }
        return;
    }
    if op.subresource == "approval"
        && let Some(old) = old
    {
        stamp_conditions(object, old);
    }
}

/// New conditions get their times.
fn stamp_conditions(object: &mut Value, old: &Value) {
    let now = crate::registry::op::now();
    let before: Vec<Value> = meta::list_at(old, &["status", "conditions"]).to_vec();
    if let Some(conditions) = object["status"].get_mut("conditions").and_then(Value::as_array_mut) {
        for condition in conditions {
            let known =
                before.iter().any(|one| one["type"] == condition["type"] && one["status"] == condition["status"]);
            if condition["lastUpdateTime"].is_null() {
                condition["lastUpdateTime"] = json!(now);
            }
            if condition["lastTransitionTime"].is_null() && !known {
                condition["lastTransitionTime"] = json!(now);
            }
        }
    }
}

fn may(op: &Op<'_>, verb: &str, signer: &str) -> bool {
    let ask = |name: &str| {
        let attributes = Attributes::resource(op.user, verb, "certificates.k8s.io", "signers").name(name);
        op.api.auth.authorizer.authorize(&attributes).allowed()
    };
    let domain = signer.split('/').next().unwrap_or_default();
    ask(signer) || ask(&format!("{domain}/*"))
}

/// Before a CertificateSigningRequest is stored.
///
/// # Errors
/// 403 for users who may not approve or sign for the signer, and for client certificates of system:masters.
pub fn validate(op: &Op<'_>, operation: Operation, object: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let signer = meta::str_at(old.unwrap_or(object), &["spec", "signerName"]);
    match (operation, op.subresource) {
        (Operation::Update, "approval") if !may(op, "approve", signer) => {
            let why = format!("user not permitted to approve requests with signerName {signer:?}");
            Err(ApiError::forbidden(op.kind, op.name, &why))
        }
        (Operation::Update, "status") => {
            let issued = |object: &Value| meta::str_at(object, &["status", "certificate"]).to_owned();
            let changed = old.is_none_or(|old| issued(old) != issued(object));
            if changed && !may(op, "sign", signer) {
                let why = format!("user not permitted to sign requests with signerName {signer:?}");
                return Err(ApiError::forbidden(op.kind, op.name, &why));
            }
            Ok(())
        }
        (Operation::Create, _) if signer == "kubernetes.io/kube-apiserver-client" => {
            let request = meta::str_at(object, &["spec", "request"]);
            let parsed = STANDARD
                .decode(request.replace(['\n', '\r'], ""))
                .ok()
                .and_then(|pem| String::from_utf8(pem).ok())
                .and_then(|pem| CertificateRequest::parse(&pem).ok());
            if parsed.is_some_and(|parsed| parsed.organizations.iter().any(|group| group == "system:masters")) {
                let why = format!("use of {signer} signer with system:masters group is not allowed");
                return Err(ApiError::forbidden(op.kind, op.name, &why));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}
