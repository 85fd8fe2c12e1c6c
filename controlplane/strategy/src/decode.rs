//! Formats that upstream's decoder checks while it reads, so that they are refused with 400 rather than 422.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use strake_machinery::Kind;
use strake_machinery::quantity::Quantity;

use crate::walk::{Walk, entries};

/// Fields that hold a map of quantities, wherever they stand in a spec or status.
const LISTS: &[&str] = &[
    "limits",
    "requests",
    "capacity",
    "allocatable",
    "hard",
    "used",
    "overhead",
    "max",
    "min",
    "default",
    "defaultRequest",
    "maxLimitRequestRatio",
    "allocatedResources",
    "podFixed",
];
/// Fields that hold one quantity.
const SINGLES: &[&str] = &["sizeLimit", "divisor", "averageValue", "maximumVolumeSize"];

/// Why an object cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A quantity is misspelt.
    #[error("{0}")]
    Quantity(String),
    /// Bytes are not base64.
    #[error("illegal base64 data at input byte {0}")]
    Base64(usize),
}

impl DecodeError {
    /// The message of the 400, as upstream words it.
    pub fn message(&self, kind: &Kind) -> String {
        format!("{} in version {:?} cannot be handled as a {}: {self}", kind.kind, kind.version, kind.kind)
    }
}

/// Checks quantities and bytes. Call it on the decoded JSON, before `default`.
pub fn check(kind: &Kind, obj: &Value) -> Result<(), DecodeError> {
    match (kind.group.as_str(), kind.kind.as_str()) {
        ("", "Secret") => bytes(obj.at("data")),
        ("", "ConfigMap") => bytes(obj.at("binaryData")),
        ("certificates.k8s.io", "CertificateSigningRequest") => byte_field(obj.at("spec").at("request")),
        ("apiextensions.k8s.io", _) | ("apps", "ControllerRevision") => Ok(()),
        _ if crate::kinds::is_custom(kind) => Ok(()),
        _ => quantities(obj.at("spec"))
            .and_then(|()| quantities(obj.at("status")))
            .and_then(|()| quantities(obj.at("template"))),
    }
}

fn bytes(map: &Value) -> Result<(), DecodeError> {
    entries(map).into_iter().try_for_each(|(_, v)| byte_field(v))
}

fn byte_field(v: &Value) -> Result<(), DecodeError> {
    let Some(text) = v.as_str() else { return Ok(()) };
    let clean: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    match BASE64_STANDARD.decode(&clean) {
        Ok(_) => Ok(()),
        Err(base64::DecodeError::InvalidByte(at, _)) | Err(base64::DecodeError::InvalidLastSymbol(at, _)) => {
            Err(DecodeError::Base64(at))
        }
        Err(_) => Err(DecodeError::Base64(clean.len() / 4 * 4)),
    }
}

fn quantities(v: &Value) -> Result<(), DecodeError> {
    match v {
        Value::Array(items) => items.iter().try_for_each(quantities),
        Value::Object(fields) => fields.iter().try_for_each(|(k, x)| {
            if LISTS.contains(&k.as_str()) && x.is_object() {
                let named = entries(x).into_iter();
                return named.filter(|(_, q)| q.is_string() || q.is_number()).try_for_each(|(_, q)| quantity(q));
            }
            if SINGLES.contains(&k.as_str()) && (x.is_string() || x.is_number()) {
                return quantity(x);
            }
            quantities(x)
        }),
        _ => Ok(()),
    }
}

fn quantity(v: &Value) -> Result<(), DecodeError> {
    Quantity::from_value(v).map(drop).map_err(|e| DecodeError::Quantity(e.to_string()))
}
