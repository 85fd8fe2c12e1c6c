//! CertificateSigningRequests.

use serde_json::{Value, json};

use crate::{created, kind, refused, updated};

/// Base64 of a PEM block labelled CERTIFICATE REQUEST.
const REQUEST: &str =
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KQUFBQQotLS0tLUVORCBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0K";

fn request() -> Value {
    json!({ "spec": { "request": REQUEST, "signerName": "example.com/serving", "usages": ["server auth"] } })
}

#[test]
fn a_request_names_signer_and_usages() {
    let k = kind("certificates.k8s.io/v1", "CertificateSigningRequest");
    assert!(refused(&k, request()).is_empty());
    let mut bad = request();
    bad["spec"]["usages"] = json!(["flying"]);
    bad["spec"]["signerName"] = "nothing".into();
    bad["spec"]["expirationSeconds"] = 5.into();
    let errors = refused(&k, bad);
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(errors[0].starts_with("spec.usages[0]: Unsupported value: \"flying\""));
    assert_eq!(
        errors[2],
        "spec.expirationSeconds: Invalid value: 5: may not specify a duration less than 600 seconds (10 minutes)"
    );
}

#[test]
fn the_approver_decides_and_the_signer_signs() {
    let k = kind("certificates.k8s.io/v1", "CertificateSigningRequest");
    let csr = created(&k, request());
    let approved = |r: &mut Value| r["status"]["conditions"] = json!([{ "type": "Approved", "reason": "Fine" }]);
    let (ignored, _) = updated(&k, &csr, "status", approved);
    assert!(ignored["status"].get("conditions").is_none(), "only the approval subresource approves");
    let (yes, errors) = updated(&k, &csr, "approval", |r| {
        approved(r);
        r["status"]["certificate"] = "forged".into();
        r["spec"]["usages"] = json!(["any"]);
    });
    assert!(errors.is_empty(), "{errors:?}");
    let c = &yes["status"]["conditions"][0];
    assert_eq!(c["status"], "True");
    assert!(c["lastUpdateTime"].is_string() && c["lastTransitionTime"].is_string());
    assert!(yes["status"].get("certificate").is_none());
    assert_eq!(yes["spec"]["usages"], json!(["server auth"]));
    let (signed, errors) = updated(&k, &yes, "status", |r| r["status"]["certificate"] = "AAAA".into());
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(signed["status"]["conditions"], yes["status"]["conditions"]);
    let (_, errors) = updated(&k, &signed, "status", |r| r["status"]["certificate"] = "BBBB".into());
    assert_eq!(errors, ["status.certificate: Forbidden: updates may not set certificate content"]);
}

#[test]
fn a_decision_stays() {
    let k = kind("certificates.k8s.io/v1", "CertificateSigningRequest");
    let (yes, _) = updated(&k, &created(&k, request()), "approval", |r| {
        r["status"]["conditions"] = json!([{ "type": "Approved" }]);
    });
    let (_, errors) = updated(&k, &yes, "approval", |r| r["status"]["conditions"] = json!([]));
    assert_eq!(errors, ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]);
    let (_, errors) = updated(&k, &yes, "approval", |r| {
        r["status"]["conditions"].as_array_mut().unwrap().push(json!({ "type": "Denied" }));
    });
    assert_eq!(
        errors,
        ["status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive"]
    );
}
