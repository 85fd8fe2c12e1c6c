//! Field paths and the errors about them, formatted as upstream formats them
//! (k8s.io/apimachinery/pkg/util/validation/field).

use std::fmt;

use serde_json::Value;

use crate::status::quote;

/// The way to a field: `spec.containers[0].resources.limits[cpu]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(String);

impl Path {
    pub fn new(name: impl Into<String>) -> Self {
        Path(name.into())
    }

    /// The object itself.
    pub fn root() -> Self {
        Path(String::new())
    }

    /// The field `name` of this one.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Path(name.into()) } else { Path(format!("{}.{name}", self.0)) }
    }

    /// The list item at `index`.
    pub fn index(&self, index: usize) -> Self {
        Path(format!("{}[{index}]", self.0))
    }

    /// The map entry `key`.
    pub fn key(&self, key: &str) -> Self {
        Path(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Path {
    fn from(s: &str) -> Self {
        Path(s.into())
    }
}

impl AsRef<Path> for Path {
    fn as_ref(&self) -> &Path {
        self
    }
}

/// `field.ErrorType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FieldErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    Internal,
    TypeInvalid,
}

impl FieldErrorKind {
    /// The words an error of this kind begins with.
    pub fn as_str(self) -> &'static str {
        match self {
            FieldErrorKind::NotFound => "Not found",
            FieldErrorKind::Required => "Required value",
            FieldErrorKind::Duplicate => "Duplicate value",
            FieldErrorKind::Invalid | FieldErrorKind::TypeInvalid => "Invalid value",
            FieldErrorKind::NotSupported => "Unsupported value",
            FieldErrorKind::Forbidden => "Forbidden",
            FieldErrorKind::TooLong => "Too long",
            FieldErrorKind::TooMany => "Too many",
            FieldErrorKind::Internal => "Internal error",
        }
    }

    /// The `reason` of the cause in a Status.
    pub fn cause_reason(self) -> &'static str {
        match self {
            FieldErrorKind::NotFound => "FieldValueNotFound",
            FieldErrorKind::Required => "FieldValueRequired",
            FieldErrorKind::Duplicate => "FieldValueDuplicate",
            FieldErrorKind::Invalid => "FieldValueInvalid",
            FieldErrorKind::NotSupported => "FieldValueNotSupported",
            FieldErrorKind::Forbidden => "FieldValueForbidden",
            FieldErrorKind::TooLong => "FieldValueTooLong",
            FieldErrorKind::TooMany => "FieldValueTooMany",
            FieldErrorKind::Internal => "InternalError",
            FieldErrorKind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One thing wrong with one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    pub kind: FieldErrorKind,
    pub field: String,
    /// What was found there; `None` is not shown at all.
    pub value: Option<Value>,
    pub detail: String,
}

impl FieldError {
    fn new(kind: FieldErrorKind, path: &Path, value: Option<Value>, detail: impl Into<String>) -> Self {
        FieldError { kind, field: path.0.clone(), value, detail: detail.into() }
    }

    /// `Required value` or `Required value: detail`.
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, path, None, detail)
    }

    /// `Invalid value: value: detail`.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Invalid, path, Some(value.into()), detail)
    }

    /// `Invalid value: value: detail` for a value of the wrong JSON type.
    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::TypeInvalid, path, Some(value.into()), detail)
    }

    /// `Unsupported value: value: supported values: "a", "b"`, in the order given (upstream's callers sort).
    pub fn not_supported<S: AsRef<str>>(path: &Path, value: impl Into<Value>, supported: &[S]) -> Self {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let names: Vec<String> = supported.iter().map(|s| quote(s.as_ref())).collect();
            format!("supported values: {}", names.join(", "))
        };
        Self::new(FieldErrorKind::NotSupported, path, Some(value.into()), detail)
    }

    /// `Duplicate value: value`.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::Duplicate, path, Some(value.into()), "")
    }

    /// `Not found: value`.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self::new(FieldErrorKind::NotFound, path, Some(value.into()), "")
    }

    /// `Forbidden: detail`.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, path, None, detail)
    }

    /// `Too long: may not be more than N bytes`.
    pub fn too_long(path: &Path, max_bytes: usize) -> Self {
        let unit = if max_bytes == 1 { "byte" } else { "bytes" };
        Self::new(FieldErrorKind::TooLong, path, None, format!("may not be more than {max_bytes} {unit}"))
    }

    /// `Too many: actual: must have at most N items`.
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::new(FieldErrorKind::TooMany, path, Some(actual.into()), format!("must have at most {max} {unit}"))
    }

    /// `Internal error: detail`.
    pub fn internal(path: &Path, detail: impl fmt::Display) -> Self {
        Self::new(FieldErrorKind::Internal, path, None, detail.to_string())
    }

    /// The error without its field: `Invalid value: "x": why`.
    pub fn body(&self) -> String {
        let mut s = self.kind.as_str().to_owned();
        match &self.value {
            None => {}
            Some(Value::Null) => s.push_str(": \"null\""),
            Some(Value::String(v)) => {
                s.push_str(": ");
                s.push_str(&quote(v));
            }
            Some(v) => {
                s.push_str(": ");
                s.push_str(&v.to_string());
            }
        }
        if !self.detail.is_empty() {
            s.push_str(": ");
            s.push_str(&self.detail);
        }
        s
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

impl std::error::Error for FieldError {}

/// The text of a list of errors: one as it is, several as `[a, b]`, each message once.
pub fn aggregate_message(errors: &[FieldError]) -> String {
    let mut messages: Vec<String> = Vec::with_capacity(errors.len());
    for e in errors {
        let m = e.to_string();
        if !messages.contains(&m) {
            messages.push(m);
        }
    }
    match messages.len() {
        1 => messages.remove(0),
        _ => format!("[{}]", messages.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_written_as_upstream_writes_them() {
        let p = Path::new("spec").child("containers").index(0).child("resources").child("limits").key("cpu");
        assert_eq!(p.as_str(), "spec.containers[0].resources.limits[cpu]");
        assert_eq!(Path::root().child("data").key("a/b").as_str(), "data[a/b]");
    }

    #[test]
    fn each_kind_has_its_wording() {
        let p = Path::new("f");
        let cases = [
            (FieldError::required(&p, ""), "f: Required value"),
            (FieldError::required(&p, "why"), "f: Required value: why"),
            (FieldError::invalid(&p, "a\"b", "why"), "f: Invalid value: \"a\\\"b\": why"),
            (FieldError::invalid(&p, 80, "why"), "f: Invalid value: 80: why"),
            (FieldError::invalid(&p, json!(["1.2.3.4"]), "why"), "f: Invalid value: [\"1.2.3.4\"]: why"),
            (FieldError::invalid(&p, Value::Null, "why"), "f: Invalid value: \"null\": why"),
            (
                FieldError::not_supported(&p, "X", &["B", "A"]),
                "f: Unsupported value: \"X\": supported values: \"B\", \"A\"",
            ),
            (FieldError::duplicate(&p, "c"), "f: Duplicate value: \"c\""),
            (FieldError::not_found(&p, "v"), "f: Not found: \"v\""),
            (FieldError::forbidden(&p, "why"), "f: Forbidden: why"),
            (FieldError::too_long(&p, 63), "f: Too long: may not be more than 63 bytes"),
            (FieldError::too_many(&p, 5, 1), "f: Too many: 5: must have at most 1 item"),
            (FieldError::internal(&p, "why"), "f: Internal error: why"),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn the_same_message_is_listed_once() {
        let p = Path::new("f");
        let twice = [FieldError::required(&p, ""), FieldError::required(&p, "")];
        assert_eq!(aggregate_message(&twice), "f: Required value");
    }
}
