//! Quantities inside objects: canonical spelling, comparison, sums. A value that is no quantity is left as it is and
//! reads as absent: the decoder refuses it (`decode::check`).

use serde_json::{Map, Value};
use strake_machinery::quantity::{self, Quantity};

use crate::walk::{Walk, with};

/// The quantity in a field.
pub(crate) fn parse(v: &Value) -> Option<Quantity> {
    if v.is_null() { None } else { Quantity::from_value(v).ok() }
}

/// Its canonical spelling.
pub(crate) fn canonical(v: &Value) -> Option<String> {
    quantity::canonical(v).ok()
}

/// True for a quantity below zero.
pub(crate) fn is_negative(v: &Value) -> bool {
    parse(v).is_some_and(Quantity::is_negative)
}

/// True for zero, and for no quantity.
pub(crate) fn is_zero_or_missing(v: &Value) -> bool {
    parse(v).is_none_or(Quantity::is_zero)
}

/// Rewrites the quantity at `key` canonically.
pub(crate) fn normalize(v: &mut Value, key: &str) {
    if let Some(q) = v.get_mut(key)
        && let Some(text) = canonical(q)
    {
        *q = Value::String(text);
    }
}

/// Rewrites every quantity of the resource list at `key` canonically, rounded up to thousandths.
pub(crate) fn normalize_list(v: &mut Value, key: &str) {
    with(v, key, |list| {
        for q in list.as_object_mut().into_iter().flat_map(Map::values_mut) {
            if let Some(parsed) = parse(q) {
                let milli = Quantity::from_milli(parsed.milli_value());
                let exact = parsed == milli || parsed.milli_value() == i64::MAX;
                *q = Value::String(if exact { parsed.to_string() } else { milli.to_string() });
            }
        }
    });
}

/// Both lists of a `resources` field.
pub(crate) fn normalize_requirements(v: &mut Value) {
    normalize_list(v, "limits");
    normalize_list(v, "requests");
}

/// A resource list as numbers.
pub(crate) fn list(v: &Value) -> std::collections::BTreeMap<String, Quantity> {
    crate::walk::entries(v).into_iter().filter_map(|(k, q)| Some((k.to_owned(), parse(q)?))).collect()
}

/// The canonical text of one entry of a resource list, or `0`.
pub(crate) fn text(list: &Value, name: &str) -> String {
    canonical(list.at(name)).unwrap_or_else(|| "0".into())
}
