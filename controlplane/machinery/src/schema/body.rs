//! A JSON body as a value, and the keys that were in an object twice (the last one counts, as in Go).

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::syntax;

/// A parsed body.
#[derive(Debug, Clone, PartialEq)]
pub struct Body {
    pub value: Value,
    /// Paths of keys that came twice, `spec.restartPolicy`, in order.
    pub duplicates: Vec<String>,
}

/// Parse a body. The error is worded as Go's JSON decoder words it.
pub fn parse_json(body: &[u8]) -> Result<Body, String> {
    let duplicates = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let seed = Seed { path: &Step::Root, duplicates: &duplicates };
    let value = seed.deserialize(&mut deserializer).and_then(|v| deserializer.end().map(|()| v));
    match value {
        Ok(value) => Ok(Body { value, duplicates: duplicates.into_inner() }),
        Err(e) => Err(syntax::error(body).unwrap_or_else(|| e.to_string())),
    }
}

/// The way to a value; written out only when there is something to report.
pub(super) enum Step<'a> {
    Root,
    Key(&'a Step<'a>, &'a str),
    Index(&'a Step<'a>, usize),
}

impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Root => Ok(()),
            Step::Key(Step::Root, key) => f.write_str(key),
            Step::Key(parent, key) => write!(f, "{parent}.{key}"),
            Step::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl Step<'_> {
    /// Field names only, as Go's unmarshal errors have it.
    pub(super) fn without_indices(&self) -> String {
        match self {
            Step::Root => String::new(),
            Step::Key(parent, key) => {
                let above = parent.without_indices();
                if above.is_empty() { (*key).to_owned() } else { format!("{above}.{key}") }
            }
            Step::Index(parent, _) => parent.without_indices(),
        }
    }
}

#[derive(Clone, Copy)]
struct Seed<'a> {
    path: &'a Step<'a>,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let path = Step::Index(self.path, list.len());
            match seq.next_element_seed(Seed { path: &path, duplicates: self.duplicates })? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = Step::Key(self.path, &key);
            let value = map.next_value_seed(Seed { path: &path, duplicates: self.duplicates })?;
            if object.contains_key(&key) {
                self.duplicates.borrow_mut().push(path.to_string());
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_key_that_comes_twice_is_reported_and_the_last_one_counts() {
        let body = parse_json(br#"{"spec":{"a":1,"list":[{"x":1},{"x":1,"x":2}],"a":2}}"#).unwrap();
        assert_eq!(body.value, json!({"spec": {"a": 2, "list": [{"x": 1}, {"x": 2}]}}));
        assert_eq!(body.duplicates, ["spec.list[1].x", "spec.a"]);
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_an_overflow() {
        assert!(parse_json("[".repeat(100_000).as_bytes()).is_err());
    }

    #[test]
    fn broken_json_is_described_as_go_does() {
        let error = |s: &str| parse_json(s.as_bytes()).unwrap_err();
        assert_eq!(error("{nope"), "invalid character 'n' looking for beginning of object key string");
        assert_eq!(error(""), "unexpected end of JSON input");
        assert_eq!(error("{} x"), "invalid character 'x' after top-level value");
    }
}
