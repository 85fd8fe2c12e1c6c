//! Strategic merge patch: a merge patch that knows which lists have keys.
//!
//! The schema says which lists merge and by what key; directives in the patch say the rest:
//!
//! ```text
//! {"$patch": "replace", ...}                 this map replaces the other one
//! {"$patch": "delete"}                       this map (or the list item with this merge key) goes away
//! [{"$patch": "replace"}, ...]               this list replaces the other one
//! "$deleteFromPrimitiveList/finalizers": []  these strings leave the list
//! "$setElementOrder/containers": [{"name": "a"}, ...]   the order of the result
//! "$retainKeys": ["type"]                    fields not named here go away
//! ```
//!
//! The order of merged lists follows k8s.io/apimachinery/pkg/util/strategicpatch exactly; clients depend on it.

mod order;

use serde_json::{Map, Value};

use crate::ApiError;
use crate::schema::{Field, Message, Schema, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_PREFIX: &str = "$deleteFromPrimitiveList/";
const ORDER_PREFIX: &str = "$setElementOrder/";

/// Why a patch does not apply. The words are upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StrategicError {
    #[error("invalid JSON document")]
    NotAnObject,
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    #[error("invalid patch format of setElementOrder list")]
    ElementOrder,
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey { map: String, key: String },
    #[error("unknown patch type: {directive} in map: {map}")]
    UnknownDirective { directive: String, map: String },
    #[error("the elements of a list are of different types")]
    MixedList,
}

impl From<StrategicError> for ApiError {
    fn from(e: StrategicError) -> Self {
        match e {
            StrategicError::NotAnObject
            | StrategicError::PrimitiveList
            | StrategicError::RetainKeys
            | StrategicError::ElementOrder => ApiError::bad_request(e.to_string()),
            _ => ApiError::generic(422, &e.to_string()),
        }
    }
}

/// Apply `patch` to an object of the message `schema_name` (`Kind::schema`).
pub fn strategic(schema_name: &str, object: &Value, patch: &Value) -> Result<Value, ApiError> {
    let (Value::Object(original), Value::Object(patch)) = (object, patch) else {
        return Err(StrategicError::NotAnObject.into());
    };
    let shape = Schema::get().message(schema_name).map_or(Shape::Unknown, Shape::Message);
    Ok(Value::Object(merge_map(original.clone(), patch, shape)?))
}

/// What is known of the value being merged.
#[derive(Clone, Copy)]
enum Shape {
    Unknown,
    Message(&'static Message),
    /// A map from string to this type.
    MapOf(&'static Type),
}

impl Shape {
    fn of(ty: &'static Type) -> Self {
        match ty {
            Type::Message(id) => Shape::Message(Schema::get().get_message(*id)),
            Type::Map(item) => Shape::MapOf(item),
            _ => Shape::Unknown,
        }
    }

    /// The field `key`, and the shape of its value (of its items, if it is a list).
    fn field(self, key: &str) -> (Option<&'static Field>, Shape) {
        match self {
            Shape::Unknown => (None, Shape::Unknown),
            Shape::MapOf(item) => (None, Shape::of(item)),
            Shape::Message(message) => match Schema::get().json_field(message, key) {
                None => (None, Shape::Unknown),
                Some((_, field)) => match &field.ty {
                    Type::List(item) => (Some(field), Shape::of(item)),
                    ty => (Some(field), Shape::of(ty)),
                },
            },
        }
    }
}

type Object = Map<String, Value>;

fn merge_map(mut original: Object, patch: &Object, shape: Shape) -> Result<Object, StrategicError> {
    let mut patch = patch.clone();
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => merge_map(Object::new(), &patch, shape),
            Some("delete") => Ok(Object::new()),
            Some("merge") => merge_map(original, &patch, shape),
            _ => Err(StrategicError::UnknownDirective {
                directive: directive.as_str().map_or_else(|| directive.to_string(), str::to_owned),
                map: Value::Object(patch).to_string(),
            }),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    element_orders(&mut original, &mut patch, shape)?;
    for (key, value) in patch {
        if let Some(name) = key.strip_prefix(DELETE_PREFIX) {
            let Value::Array(gone) = value else { return Err(StrategicError::PrimitiveList) };
            if let Some(Value::Array(list)) = original.get_mut(name) {
                list.retain(|v| !gone.contains(v));
            }
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let (field, inner) = shape.field(&key);
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) if !field.is_some_and(|f| f.replace) => {
                Value::Object(merge_map(old, &new, inner)?)
            }
            // Nothing to merge with: directives and nulls still do not belong in the result.
            (_, Value::Object(new)) => {
                if new.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
                    continue;
                }
                Value::Object(merge_map(Object::new(), &new, inner)?)
            }
            (old, Value::Array(new)) => {
                let old = match old {
                    Some(Value::Array(old)) => old,
                    _ => Vec::new(),
                };
                Value::Array(merge_field_list(field, inner, old, new)?)
            }
            (_, scalar) => scalar,
        };
        original.insert(key, merged);
    }
    Ok(original)
}

/// Merge two lists as the field says: item by item, or the new one for the old one.
fn merge_field_list(
    field: Option<&'static Field>,
    item: Shape,
    old: Vec<Value>,
    new: Vec<Value>,
) -> Result<Vec<Value>, StrategicError> {
    match field {
        Some(f) if f.merge => merge_list(old, new, f.merge_key, item),
        _ => new.into_iter().map(|v| plain(v, item)).collect(),
    }
}

/// A value that replaces: without nulls and directives inside.
fn plain(value: Value, shape: Shape) -> Result<Value, StrategicError> {
    match value {
        Value::Object(map) => Ok(Value::Object(merge_map(Object::new(), &map, shape)?)),
        other => Ok(other),
    }
}

fn merge_list(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: Option<&'static str>,
    item: Shape,
) -> Result<Vec<Value>, StrategicError> {
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let Some(key) = key.filter(|_| are_maps(original.iter().chain(&patch)).unwrap_or(false)) else {
        if are_maps(original.iter().chain(&patch))? {
            return Err(StrategicError::NoMergeKey {
                map: patch.first().or(original.first()).map(Value::to_string).unwrap_or_default(),
                key: String::new(),
            });
        }
        let server_order = original.clone();
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for v in original.into_iter().chain(patch.iter().cloned()) {
            if !merged.contains(&v) {
                merged.push(v);
            }
        }
        return Ok(order::enforce(merged, &patch, &server_order, None));
    };
    // Directives first: they change the list the rest is merged into.
    let (mut plain_items, mut replace) = (Vec::with_capacity(patch.len()), false);
    for v in patch {
        match v.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
            None => plain_items.push(v),
            Some("delete") => {
                let wanted = merge_value(&v, key)?;
                original.retain(|o| !o.get(key).is_some_and(|k| same_key(k, wanted)));
            }
            Some("replace") => replace = true,
            Some(other) => {
                return Err(StrategicError::UnknownDirective { directive: other.to_owned(), map: v.to_string() });
            }
        }
    }
    if replace {
        return plain_items.into_iter().map(|v| plain(v, item)).collect();
    }
    let server_order = original.clone();
    let mut merged = original;
    for v in &plain_items {
        let wanted = merge_value(v, key)?;
        let Value::Object(new) = v else { continue };
        match merged.iter_mut().find(|o| o.get(key).is_some_and(|k| same_key(k, wanted))) {
            Some(found) => {
                let old = match found.take() {
                    Value::Object(old) => old,
                    _ => Object::new(),
                };
                *found = Value::Object(merge_map(old, new, item)?);
            }
            None => merged.push(Value::Object(merge_map(Object::new(), new, item)?)),
        }
    }
    Ok(order::enforce(merged, &plain_items, &server_order, Some(key)))
}

fn merge_value<'a>(item: &'a Value, key: &str) -> Result<&'a Value, StrategicError> {
    item.get(key).ok_or_else(|| StrategicError::NoMergeKey { map: item.to_string(), key: key.to_owned() })
}

/// Merge keys compare as printed: 80 and "80" are the same.
fn same_key(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::String(s), Value::Number(n)) | (Value::Number(n), Value::String(s)) => {
            n.as_i64().is_some_and(|n| s.parse() == Ok(n))
        }
        (a, b) => a == b,
    }
}

/// Whether all items are maps; mixed lists and lists of lists are errors.
fn are_maps<'a>(mut items: impl Iterator<Item = &'a Value>) -> Result<bool, StrategicError> {
    let Some(first) = items.next() else { return Ok(false) };
    if first.is_array() || items.by_ref().any(|v| v.is_object() != first.is_object()) {
        return Err(if first.is_array() { StrategicError::ListOfLists } else { StrategicError::MixedList });
    }
    Ok(first.is_object())
}

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), StrategicError> {
    let Some(directive) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(names) = directive else { return Err(StrategicError::RetainKeys) };
    let named = |key: &str| names.iter().any(|n| n.as_str() == Some(key));
    for (key, value) in patch.iter() {
        if value.is_null() || key.starts_with(DELETE_PREFIX) || key.starts_with(ORDER_PREFIX) {
            continue;
        }
        if !named(key) {
            return Err(StrategicError::RetainKeys);
        }
    }
    original.retain(|key, _| named(key));
    Ok(())
}

/// Merge the lists that have a `$setElementOrder`, and put them in that order.
fn element_orders(original: &mut Object, patch: &mut Object, shape: Shape) -> Result<(), StrategicError> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(ORDER_PREFIX)).cloned().collect();
    for directive in directives {
        let Some(Value::Array(wanted)) = patch.remove(&directive) else { return Err(StrategicError::ElementOrder) };
        let name = &directive[ORDER_PREFIX.len()..];
        let (field, item) = shape.field(name);
        let key = field.and_then(|f| f.merge_key);
        let new = match patch.remove(name) {
            Some(Value::Array(new)) => Some(new),
            Some(Value::Null) => {
                original.remove(name);
                continue;
            }
            Some(_) => return Err(StrategicError::ElementOrder),
            None => None,
        };
        let old = match original.get(name) {
            Some(Value::Array(old)) => Some(old.clone()),
            _ => None,
        };
        if let Some(new) = &new {
            check_order(new, &wanted, key)?;
        }
        let merged = match (&old, new) {
            (None, None) => continue,
            (Some(old), None) => old.clone(),
            (old, Some(new)) => merge_field_list(field, item, old.clone().unwrap_or_default(), new)?,
        };
        let server_order = old.unwrap_or_default();
        original.insert(name.to_owned(), Value::Array(order::enforce(merged, &wanted, &server_order, key)));
    }
    Ok(())
}

/// Every item of the patch's list must be in its order, and in that sequence (deleted ones apart).
fn check_order(items: &[Value], wanted: &[Value], key: Option<&str>) -> Result<(), StrategicError> {
    let mut from = 0;
    for item in items.iter().filter(|v| v.get(DIRECTIVE).is_none()) {
        match wanted[from..].iter().position(|w| order::same(w, item, key)) {
            Some(at) => from += at + 1,
            None => return Err(StrategicError::ElementOrder),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
