//! Labels and label selectors as fields.

use serde_json::Value;
use strake_machinery::field::Path;
use strake_machinery::selector::LabelSelector;

use crate::errs::{Errs, forbidden, invalid, invalid_each, required};
use crate::format;
use crate::walk::{Walk, entries};

/// A label key.
pub(crate) fn label_name(key: &str, p: &Path, e: &mut Errs) {
    invalid_each(e, p, key, format::qualified_name(key));
}

/// A map of labels; every error is told at the map.
pub(crate) fn labels(map: &Value, p: &Path, e: &mut Errs) {
    for (k, v) in entries(map) {
        label_name(k, p, e);
        let v = v.as_str().unwrap_or("");
        invalid_each(e, p, v, format::label_value(v));
    }
}

/// A LabelSelector; nothing if it is not given.
pub(crate) fn label_selector(v: &Value, p: &Path, e: &mut Errs) {
    labels(v.at("matchLabels"), &p.child("matchLabels"), e);
    for (i, x) in v.list("matchExpressions").iter().enumerate() {
        let at = p.child("matchExpressions").index(i);
        let empty = x.list("values").is_empty();
        match x.text("operator") {
            "In" | "NotIn" if empty => {
                e.push(required(&at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !empty => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                e.push(forbidden(&at.child("values"), why));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => e.push(invalid(&at.child("operator"), other, "not a valid selector operator")),
        }
        label_name(x.text("key"), &at.child("key"), e);
        for (n, value) in x.texts("values").into_iter().enumerate() {
            invalid_each(e, &at.child("values").index(n), value, format::label_value(value));
        }
    }
}

/// True if the selector names no label at all.
pub(crate) fn is_empty(v: &Value) -> bool {
    v.at("matchLabels").as_object().is_none_or(serde_json::Map::is_empty) && v.list("matchExpressions").is_empty()
}

/// Whether a LabelSelector picks these labels; `None` if it is malformed. A missing selector picks nothing.
pub(crate) fn matches(selector: &Value, labels: &Value) -> Option<bool> {
    if selector.is_null() {
        return Some(false);
    }
    LabelSelector::from_object(selector).ok().map(|s| s.matches(labels.as_object()))
}

/// The selector in query form, as scale subresources and lists use it.
pub(crate) fn query(selector: &Value) -> String {
    LabelSelector::from_object(selector).map(|s| s.to_string()).unwrap_or_default()
}
