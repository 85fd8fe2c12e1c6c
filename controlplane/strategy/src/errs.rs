//! Short constructors for field errors, and the few checks every kind repeats. Knows no kind.

use serde_json::Value;
use strake_machinery::field::{FieldError, Path};

/// What validation collects, in the order a client reads it.
pub type Errs = Vec<FieldError>;

/// The field must be given.
pub fn required(p: &Path, detail: impl Into<String>) -> FieldError {
    FieldError::required(p, detail)
}
/// The value is not acceptable.
pub fn invalid(p: &Path, value: impl Into<Value>, detail: impl Into<String>) -> FieldError {
    FieldError::invalid(p, value, detail)
}
/// The field may not be given here, or not changed.
pub fn forbidden(p: &Path, detail: impl Into<String>) -> FieldError {
    FieldError::forbidden(p, detail)
}
/// The value is already used by a sibling.
pub fn duplicate(p: &Path, value: impl Into<Value>) -> FieldError {
    FieldError::duplicate(p, value)
}
/// The value names something that is not there.
pub fn not_found(p: &Path, value: impl Into<Value>) -> FieldError {
    FieldError::not_found(p, value)
}
/// The value is none of the supported ones; `supported` is told in the order given.
pub fn not_supported(p: &Path, value: impl Into<Value>, supported: &[&str]) -> FieldError {
    FieldError::not_supported(p, value, supported)
}
/// More bytes than allowed.
pub fn too_long(p: &Path, max: usize) -> FieldError {
    FieldError::too_long(p, max)
}
/// More items than allowed.
pub fn too_many(p: &Path, actual: usize, max: usize) -> FieldError {
    FieldError::too_many(p, actual, max)
}

/// Pushes one invalid-value error a message.
pub fn invalid_each(e: &mut Errs, p: &Path, value: &str, messages: Vec<String>) {
    e.extend(messages.into_iter().map(|m| invalid(p, value, m)));
}

/// Must not be negative.
pub fn non_negative(e: &mut Errs, p: &Path, value: i64) {
    if value < 0 {
        e.push(invalid(p, value, NOT_NEGATIVE));
    }
}

/// The old and the new value must be the same.
pub fn immutable(e: &mut Errs, p: &Path, new: &Value, old: &Value) {
    if !crate::walk::same(new, old) {
        e.push(invalid(p, new.clone(), IMMUTABLE));
    }
}

/// A text field that must be one of `allowed`: told as missing when empty, as unsupported otherwise.
pub fn one_of(e: &mut Errs, p: &Path, value: &str, allowed: &[&str]) {
    if value.is_empty() {
        e.push(required(p, ""));
    } else if !allowed.contains(&value) {
        e.push(not_supported(p, value, allowed));
    }
}

/// A text field that must not be empty.
pub fn need_text(e: &mut Errs, p: &Path, v: &Value, key: &str) {
    if crate::walk::Walk::text(v, key).is_empty() {
        e.push(required(&p.child(key), ""));
    }
}

/// The message for a number that must not be negative.
pub const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
/// The message for a field that may not change.
pub const IMMUTABLE: &str = "field is immutable";

/// The message for a number outside an inclusive range.
pub fn between(lo: i64, hi: i64) -> String {
    format!("must be between {lo} and {hi}, inclusive")
}
