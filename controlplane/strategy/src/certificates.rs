//! CertificateSigningRequests and ClusterTrustBundles. Whether a request's signature is right is the signer's to see;
//! here only its form is checked.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, duplicate, forbidden, invalid, invalid_each, not_supported, required};
use crate::format;
use crate::walk::{Walk, default_to, drop_key, each, object_mut, put, same, with};

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The name of a signer: `domain.tld/path`, at most 571 bytes.
pub(crate) fn signer_name(name: &str, p: &Path, e: &mut Errs) {
    if name.is_empty() {
        e.push(required(p, ""));
        return;
    }
    let segments: Vec<&str> = name.split('/').collect();
    if segments.len() != 2 {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        e.push(invalid(p, name, why));
        return;
    }
    let (domain, path) = (segments[0], segments[1]);
    format::fully_qualified(domain, 2, p, e);
    for label in path.split('.') {
        let errors = format::dns_label(&label.to_lowercase());
        if !errors.is_empty() {
            let why = format!("validating label {label:?}: {}", errors.join(","));
            e.push(invalid(p, name, why));
        }
    }
    let limit = 253 + 1 + 63 * 5 + 2;
    if name.len() > limit {
        e.push(crate::errs::too_long(p, limit));
    }
}

/// The reasons against the name of a ClusterTrustBundle; one of a signer begins with the signer's name.
pub(crate) fn trust_bundle_name(name: &str) -> Vec<String> {
    match name.rsplit_once(':') {
        Some((_, last)) => format::dns_subdomain(last),
        None => format::dns_subdomain(name),
    }
}

/// Checks a ClusterTrustBundle.
pub(crate) fn trust_bundle(obj: &Value, e: &mut Errs) {
    let (name, signer) = (obj.at("metadata").text("name"), obj.at("spec").text("signerName"));
    let at = Path::new("metadata").child("name");
    if signer.is_empty() {
        if name.contains(':') {
            e.push(invalid(&at, name, "ClusterTrustBundle without signer name must not have \":\" in its name"));
        }
    } else {
        let prefix = format!("{}:", signer.replace('/', ":"));
        if !name.starts_with(&prefix) {
            let why = format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
            e.push(invalid(&at, name, why));
        }
        signer_name(signer, &Path::new("spec").child("signerName"), e);
    }
    invalid_each(e, &at, name, trust_bundle_name(name));
    let (bundle, at) = (obj.at("spec").text("trustBundle"), Path::new("spec").child("trustBundle"));
    let blocks = pem_blocks(bundle);
    if blocks.is_empty() {
        e.push(invalid(&at, "<value omitted>", "at least one trust anchor must be provided"));
    }
    for (i, (label, _)) in blocks.iter().enumerate() {
        if label != "CERTIFICATE" {
            let why = format!("entry {i} has bad block type: {label}");
            e.push(invalid(&at, "<value omitted>", why));
        }
    }
}

/// Labels and contents of the PEM blocks in a text.
fn pem_blocks(text: &str) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(label) = line.trim_end().strip_prefix("-----BEGIN ").and_then(|l| l.strip_suffix("-----")) else {
            continue;
        };
        let end = format!("-----END {label}-----");
        let mut body = String::new();
        for line in lines.by_ref() {
            if line.trim_end() == end {
                if let Ok(bytes) = BASE64_STANDARD.decode(&body) {
                    out.push((label.to_owned(), bytes));
                }
                break;
            }
            if !line.contains(':') {
                body.push_str(line.trim());
            }
        }
    }
    out
}

/// Fills a CertificateSigningRequest.
pub(crate) fn default(obj: &mut Value) {
    with(obj, "status", |s| each(s, "conditions", |c| default_to(c, "status", "True")));
}

/// A new request starts undecided.
pub(crate) fn prepare_create(obj: &mut Value) {
    put(obj, "status", json!({}));
}

/// Which part of a request an update may write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    Status,
    Approval,
}

fn decided(c: &Value) -> bool {
    ["Approved", "Denied"].contains(&c.text("type"))
}

/// The spec never changes. The approver writes Approved and Denied; the signer writes the rest. `now` is RFC 3339.
pub(crate) fn prepare_update(new: &mut Value, old: &Value, part: Part, now: &str) {
    put(new, "spec", old.at("spec").clone());
    let (was, wanted) = (old.at("status").clone(), new.at("status").clone());
    let take = |from: &Value, approvals: bool| -> Vec<Value> {
        from.list("conditions").iter().filter(|c| decided(c) == approvals).cloned().collect()
    };
    match part {
        Part::Main => put(new, "status", was),
        Part::Status | Part::Approval => {
            // Only the part's own conditions and fields come from the request.
            let approval = part == Part::Approval;
            let mut conditions = take(&was, !approval);
            let mine = take(&wanted, approval);
            if approval {
                conditions.extend(mine);
            } else {
                let theirs = std::mem::replace(&mut conditions, take(&was, true));
                drop(theirs);
                conditions.extend(mine);
            }
            let mut status = if approval { was.clone() } else { wanted.clone() };
            if conditions.is_empty() {
                drop_key(&mut status, "conditions");
            } else {
                put(&mut status, "conditions", json!(conditions));
            }
            if approval {
                put(&mut status, "certificate", was.at("certificate").clone());
            }
            each(&mut status, "conditions", |c| stamp(c, &was, now));
            put(new, "status", status);
            if part == Part::Status
                && let Some(m) = object_mut(new, "metadata")
            {
                for field in ["labels", "annotations", "ownerReferences", "finalizers"] {
                    put(m, field, old.at("metadata").at(field).clone());
                }
            }
        }
    }
}

fn stamp(c: &mut Value, was: &Value, now: &str) {
    let before = was.list("conditions").iter().find(|o| o.text("type") == c.text("type"));
    default_to(c, "status", "True");
    if c.text("lastUpdateTime").is_empty() {
        put(c, "lastUpdateTime", now.into());
    }
    if c.text("lastTransitionTime").is_empty() {
        let same_status = before.filter(|b| b.text("status") == c.text("status"));
        let since = same_status.map(|b| b.text("lastTransitionTime")).filter(|t| !t.is_empty()).unwrap_or(now);
        put(c, "lastTransitionTime", since.into());
    }
}

/// Checks a CertificateSigningRequest.
pub(crate) fn validate(obj: &Value, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    let request = BASE64_STANDARD.decode(s.text("request")).unwrap_or_default();
    let text = String::from_utf8_lossy(&request);
    if pem_blocks(&text).first().is_none_or(|(label, _)| label != "CERTIFICATE REQUEST") {
        let told = s.text("request");
        e.push(invalid(&p.child("request"), told, "PEM block type must be CERTIFICATE REQUEST"));
    }
    let usages = s.texts("usages");
    if usages.is_empty() {
        e.push(required(&p.child("usages"), ""));
    }
    for (i, u) in usages.iter().enumerate() {
        if !USAGES.contains(u) {
            e.push(not_supported(&p.child("usages").index(i), *u, USAGES));
        }
        if usages[..i].contains(u) {
            e.push(duplicate(&p.child("usages").index(i), *u));
        }
    }
    let signer = s.text("signerName");
    if signer == "kubernetes.io/legacy-unknown" {
        let why = "the legacy signerName is not allowed via this API version";
        e.push(invalid(&p.child("signerName"), signer, why));
    } else {
        signer_name(signer, &p.child("signerName"), e);
    }
    if let Some(seconds) = s.int("expirationSeconds")
        && seconds < 600
    {
        let why = "may not specify a duration less than 600 seconds (10 minutes)";
        e.push(invalid(&p.child("expirationSeconds"), seconds, why));
    }
    conditions(obj.at("status"), e);
}

fn conditions(status: &Value, e: &mut Errs) {
    let all = status.list("conditions");
    let p = Path::new("status").child("conditions");
    for (i, c) in all.iter().enumerate() {
        let at = p.index(i);
        let kind = c.text("type");
        if kind.is_empty() {
            e.push(required(&at.child("type"), ""));
        }
        if !["True", "False", "Unknown"].contains(&c.text("status")) {
            e.push(not_supported(&at.child("status"), c.text("status"), &["False", "True", "Unknown"]));
        }
        if ["Approved", "Denied", "Failed"].contains(&kind) && c.text("status") != "True" {
            e.push(not_supported(&at.child("status"), c.text("status"), &["True"]));
        }
        if all[..i].iter().any(|o| o.text("type") == kind) {
            e.push(duplicate(&at.child("type"), kind));
        }
    }
    if all.iter().any(|c| c.text("type") == "Approved") && all.iter().any(|c| c.text("type") == "Denied") {
        e.push(invalid(&p, "Denied", "Approved and Denied conditions are mutually exclusive"));
    }
}

/// Checks an update: decisions and certificates stay.
pub(crate) fn validate_update(new: &Value, old: &Value, part: Part, e: &mut Errs) {
    let (n, o) = (new.at("status"), old.at("status"));
    let p = Path::new("status").child("conditions");
    for kind in ["Approved", "Denied", "Failed"] {
        let of = |v: &Value| -> Vec<Value> {
            v.list("conditions").iter().filter(|c| c.text("type") == kind).cloned().collect()
        };
        let (now, was) = (of(n), of(o));
        if was.len() > now.len() {
            e.push(forbidden(&p, format!("updates may not remove a condition of type {kind:?}")));
        } else if part == Part::Status && kind != "Failed" && now.len() > was.len() {
            e.push(forbidden(&p, format!("updates may not add a condition of type {kind:?}")));
        } else if !was.is_empty() && !now.iter().zip(&was).all(|(a, b)| same(a, b)) && part != Part::Approval {
            e.push(forbidden(&p, format!("updates may not modify a condition of type {kind:?}")));
        }
    }
    if !o.text("certificate").is_empty() && n.text("certificate") != o.text("certificate") {
        e.push(forbidden(&Path::new("status").child("certificate"), "updates may not set certificate content"));
    }
    conditions(n, e);
}
