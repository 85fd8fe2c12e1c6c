//! Reading and filling `serde_json::Value` objects by field name.
//!
//! A missing field, a `null` and a value of the wrong type all read as the type's zero value, which is what decoding into
//! the API's own structs would have left there; the decoder in front of this crate refuses wrong types with a 400. Knows
//! nothing about any kind.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// Zero-value reads of an object's fields.
pub trait Walk {
    /// The field, or `null` if it is missing.
    fn at(&self, key: &str) -> &Value;
    /// The field as text, or `""`.
    fn text(&self, key: &str) -> &str;
    /// The field as an integer, if it is one.
    fn int(&self, key: &str) -> Option<i64>;
    /// The field as a boolean, if it is one.
    fn flag(&self, key: &str) -> Option<bool>;
    /// The field as a list, or an empty one.
    fn list(&self, key: &str) -> &[Value];
    /// True if the field is there and not `null`.
    fn has(&self, key: &str) -> bool;
    /// The field's entries in key order; none unless it is an object.
    fn entries(&self, key: &str) -> Vec<(&str, &Value)>;

    /// True if the field is `true`.
    fn is_true(&self, key: &str) -> bool {
        self.flag(key) == Some(true)
    }
    /// The field as an integer, or 0.
    fn num(&self, key: &str) -> i64 {
        self.int(key).unwrap_or(0)
    }
    /// The field's texts, skipping what is not text.
    fn texts(&self, key: &str) -> Vec<&str> {
        self.list(key).iter().filter_map(Value::as_str).collect()
    }
    /// Follows several field names.
    fn path(&self, keys: &[&str]) -> &Value;
}

impl Walk for Value {
    fn at(&self, key: &str) -> &Value {
        self.get(key).unwrap_or(&NULL)
    }
    fn text(&self, key: &str) -> &str {
        self.at(key).as_str().unwrap_or("")
    }
    fn int(&self, key: &str) -> Option<i64> {
        as_int(self.at(key))
    }
    fn flag(&self, key: &str) -> Option<bool> {
        self.at(key).as_bool()
    }
    fn list(&self, key: &str) -> &[Value] {
        self.at(key).as_array().map_or(&[], Vec::as_slice)
    }
    fn has(&self, key: &str) -> bool {
        !self.at(key).is_null()
    }
    fn entries(&self, key: &str) -> Vec<(&str, &Value)> {
        entries(self.at(key))
    }
    fn path(&self, keys: &[&str]) -> &Value {
        keys.iter().fold(self, |v, k| v.at(k))
    }
}

/// An integer, however the sender's encoder spelled it (`3`, `3.0`).
pub fn as_int(v: &Value) -> Option<i64> {
    v.as_i64().or_else(|| {
        let f = v.as_f64()?;
        (f.fract() == 0.0 && f.abs() < 9.0e18).then_some(f as i64)
    })
}

/// Entries of an object in key order.
pub fn entries(v: &Value) -> Vec<(&str, &Value)> {
    let mut all: Vec<_> = v.as_object().into_iter().flatten().map(|(k, v)| (k.as_str(), v)).collect();
    all.sort_by_key(|(k, _)| *k);
    all
}

/// True for nothing at all: `null`, `""`, `[]` and `{}`.
pub fn is_empty(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Sets `key` if it is missing or `null`. Does nothing unless `v` is an object.
pub fn default_to(v: &mut Value, key: &str, value: impl Into<Value>) {
    if let Some(o) = v.as_object_mut()
        && o.get(key).is_none_or(Value::is_null)
    {
        o.insert(key.to_owned(), value.into());
    }
}

/// Sets `key` if it is missing, `null` or `""`.
pub fn default_text(v: &mut Value, key: &str, value: &str) {
    if let Some(o) = v.as_object_mut()
        && o.get(key).is_none_or(|f| f.is_null() || f.as_str() == Some(""))
    {
        o.insert(key.to_owned(), value.into());
    }
}

/// Sets `key` if it is missing, `null` or 0.
pub fn default_num(v: &mut Value, key: &str, value: i64) {
    if let Some(o) = v.as_object_mut()
        && o.get(key).is_none_or(|f| f.is_null() || as_int(f) == Some(0))
    {
        o.insert(key.to_owned(), value.into());
    }
}

/// Sets `key` whatever it was; a `null` removes it. Does nothing unless `v` is an object.
pub fn put(v: &mut Value, key: &str, value: Value) {
    if let Some(o) = v.as_object_mut() {
        if value.is_null() {
            o.remove(key);
        } else {
            o.insert(key.to_owned(), value);
        }
    }
}

/// Removes `key`.
pub fn drop_key(v: &mut Value, key: &str) {
    if let Some(o) = v.as_object_mut() {
        o.remove(key);
    }
}

/// The object at `key`, made if it is missing or `null`; `None` if there is something else there.
pub fn object_mut<'v>(v: &'v mut Value, key: &str) -> Option<&'v mut Value> {
    let o = v.as_object_mut()?;
    let slot = o.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.is_object().then_some(slot)
}

/// The list at `key`, made if it is missing or `null`; `None` if there is something else there.
pub fn list_mut<'v>(v: &'v mut Value, key: &str) -> Option<&'v mut Vec<Value>> {
    let o = v.as_object_mut()?;
    let slot = o.entry(key).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut()
}

/// Runs `f` on the object at `key`, if there is one.
pub fn with(v: &mut Value, key: &str, f: impl FnOnce(&mut Value)) {
    if let Some(x) = v.get_mut(key)
        && x.is_object()
    {
        f(x);
    }
}

/// Runs `f` on each object of the list at `key`.
pub fn each(v: &mut Value, key: &str, mut f: impl FnMut(&mut Value)) {
    if let Some(Value::Array(items)) = v.get_mut(key) {
        items.iter_mut().filter(|i| i.is_object()).for_each(&mut f);
    }
}

/// Removes every `null` below `v` except inside the named top-level fields: a decoder would not have seen them.
pub fn strip_nulls(v: &mut Value, keep: &[&str]) {
    match v {
        Value::Object(o) => {
            o.retain(|k, x| keep.contains(&k.as_str()) || !x.is_null());
            for (k, x) in o.iter_mut() {
                if !keep.contains(&k.as_str()) {
                    strip_nulls(x, &[]);
                }
            }
        }
        Value::Array(a) => a.iter_mut().for_each(|x| strip_nulls(x, &[])),
        _ => {}
    }
}

/// Numbers and booleans that the API's types hold by value and leave out when zero: `false` or 0 there equals nothing.
const ZEROES: &[&str] = &[
    "hostNetwork",
    "hostPID",
    "hostIPC",
    "stdin",
    "stdinOnce",
    "tty",
    "readOnly",
    "unschedulable",
    "paused",
    "publishNotReadyAddresses",
    "globalDefault",
    "minReadySeconds",
    "initialDelaySeconds",
    "hostPort",
    "nodePort",
    "healthCheckNodePort",
    "chapAuthDiscovery",
    "chapAuthSession",
    "insecureSkipTLSVerify",
    "deprecated",
];

/// Removes such zeroes everywhere below `v`, as a typed client would have.
pub fn drop_zeroes(v: &mut Value) {
    match v {
        Value::Object(o) => {
            o.retain(|k, x| !(ZEROES.contains(&k.as_str()) && (*x == Value::Bool(false) || as_int(x) == Some(0))));
            o.values_mut().for_each(drop_zeroes);
        }
        Value::Array(a) => a.iter_mut().for_each(drop_zeroes),
        _ => {}
    }
}

/// Fields whose type is a map of text, quantities or bytes: there an empty map equals none.
const MAPS: &[&str] = &[
    "labels",
    "annotations",
    "matchLabels",
    "nodeSelector",
    "limits",
    "requests",
    "data",
    "binaryData",
    "capacity",
    "allocatable",
    "hard",
    "used",
    "overhead",
    "parameters",
    "options",
    "volumeAttributes",
    "default",
    "defaultRequest",
    "max",
    "min",
    "maxLimitRequestRatio",
];

/// Equality as the API machinery means it: a missing list, text, `false`-free map or `null` equals an empty one.
/// An empty struct (`emptyDir: {}`) does not equal a missing one.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| same_field(k, v, y.get(k).unwrap_or(&NULL)))
                && y.iter().all(|(k, v)| x.contains_key(k) || same_field(k, &NULL, v))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(p, q)| same(p, q)),
        (Value::Number(x), Value::Number(y)) => x == y || as_int(a).is_some_and(|i| as_int(b) == Some(i)),
        _ => a == b || (nothing(a) && nothing(b)),
    }
}

fn same_field(key: &str, a: &Value, b: &Value) -> bool {
    if MAPS.contains(&key) && is_empty(a) && is_empty(b) { true } else { same(a, b) }
}

fn nothing(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        _ => false,
    }
}

/// What changed between two values, one `path: old -> new` a line, at most `limit` of them.
pub fn changes(old: &Value, new: &Value, limit: usize) -> String {
    let mut out = Vec::new();
    collect(old, new, String::new(), &mut out, limit);
    out.join("\n")
}

fn collect(old: &Value, new: &Value, at: String, out: &mut Vec<String>, limit: usize) {
    if same(old, new) || out.len() >= limit {
        return;
    }
    match (old, new) {
        (Value::Object(x), Value::Object(y)) => {
            let mut keys: Vec<&String> = x.keys().chain(y.keys()).collect();
            keys.sort();
            keys.dedup();
            for k in keys {
                let sub = if at.is_empty() { k.clone() } else { format!("{at}.{k}") };
                collect(x.get(k).unwrap_or(&NULL), y.get(k).unwrap_or(&NULL), sub, out, limit);
            }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            for (i, (p, q)) in x.iter().zip(y).enumerate() {
                collect(p, q, format!("{at}[{i}]"), out, limit);
            }
        }
        _ => out.push(format!("  {at}: {old} -> {new}")),
    }
}
