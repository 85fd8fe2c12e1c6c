//! Sets of field paths, and their notation `FieldsV1`.
//!
//! ```text
//! {"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}}}}
//! ```
//! `f:` a field, `k:` the list item with these keys, `v:` the item of a set; `.` the node itself, beside its children.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A node of the tree: whether the path so far is a member, and what is below. Keys are path elements as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    pub(super) here: bool,
    pub(super) children: BTreeMap<String, Set>,
}

impl Set {
    pub(super) fn leaf() -> Self {
        Set { here: true, children: BTreeMap::new() }
    }

    pub fn is_empty(&self) -> bool {
        !self.here && self.children.is_empty()
    }

    /// Put a subtree under an element, unless it is empty.
    pub(super) fn put(&mut self, element: String, below: Set) {
        if !below.is_empty() {
            self.children.insert(element, below);
        }
    }

    /// Read `fieldsV1`; anything that is no object is the empty set.
    pub fn from_fields_v1(fields: &Value) -> Self {
        let mut set = Set::default();
        for (element, below) in fields.as_object().into_iter().flatten() {
            if element == "." {
                set.here = true;
                continue;
            }
            let mut child = Set::from_fields_v1(below);
            child.here |= child.children.is_empty();
            set.children.insert(element.clone(), child);
        }
        set
    }

    /// Write `fieldsV1`.
    pub fn to_fields_v1(&self) -> Value {
        let mut map = Map::new();
        for (element, child) in &self.children {
            let mut below = child.to_fields_v1();
            if let (Value::Object(below), true) = (&mut below, child.here && !child.children.is_empty()) {
                below.insert(".".into(), Value::Object(Map::new()));
            }
            map.insert(element.clone(), below);
        }
        Value::Object(map)
    }

    pub fn union(mut self, other: &Set) -> Set {
        self.here |= other.here;
        for (element, below) in &other.children {
            let merged = self.children.remove(element).unwrap_or_default().union(below);
            self.put(element.clone(), merged);
        }
        self
    }

    pub fn difference(&self, other: &Set) -> Set {
        let mut left = Set { here: self.here && !other.here, children: BTreeMap::new() };
        for (element, below) in &self.children {
            let rest = match other.children.get(element) {
                Some(o) => below.difference(o),
                None => below.clone(),
            };
            left.put(element.clone(), rest);
        }
        left
    }

    pub fn intersection(&self, other: &Set) -> Set {
        let mut both = Set { here: self.here && other.here, children: BTreeMap::new() };
        for (element, below) in &self.children {
            if let Some(o) = other.children.get(element) {
                both.put(element.clone(), below.intersection(o));
            }
        }
        both
    }

    /// Take the subtree at a path of elements away.
    pub(super) fn remove(&mut self, path: &[&str]) {
        match path {
            [] => {}
            [last] => {
                self.children.remove(*last);
            }
            [first, rest @ ..] => {
                if let Some(child) = self.children.get_mut(*first) {
                    child.remove(rest);
                    if child.is_empty() {
                        self.children.remove(*first);
                    }
                }
            }
        }
    }

    /// The members as paths people read: `.spec.containers[name="c"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.collect(String::new(), &mut found);
        found
    }

    fn collect(&self, path: String, found: &mut Vec<String>) {
        if self.here {
            found.push(path.clone());
        }
        for (element, below) in &self.children {
            let step = match element.split_once(':') {
                Some(("f", name)) => format!(".{name}"),
                Some(("k", keys)) => {
                    let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                    let pairs: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                    format!("[{}]", pairs.join(","))
                }
                Some(("v", value)) => format!("[={value}]"),
                _ => format!("[{element}]"),
            };
            below.collect(format!("{path}{step}"), found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sets_survive_being_written() {
        let fields = json!({"f:data": {".": {}, "f:a": {}}, "f:spec": {"f:list": {"k:{\"name\":\"c\"}": {".": {}, "f:x": {}}},
            "f:set": {"v:\"s\"": {}}}});
        let set = Set::from_fields_v1(&fields);
        assert_eq!(set.to_fields_v1(), fields);
        assert_eq!(
            set.paths(),
            [".data", ".data.a", ".spec.list[name=\"c\"]", ".spec.list[name=\"c\"].x", ".spec.set[=\"s\"]"]
        );
    }

    #[test]
    fn sets_combine() {
        let set = |v| Set::from_fields_v1(&v);
        let (a, b) = (set(json!({"f:a": {}, "f:b": {"f:c": {}}})), set(json!({"f:a": {}, "f:b": {"f:d": {}}})));
        assert_eq!(a.clone().union(&b).to_fields_v1(), json!({"f:a": {}, "f:b": {"f:c": {}, "f:d": {}}}));
        assert_eq!(a.difference(&b).to_fields_v1(), json!({"f:b": {"f:c": {}}}));
        assert_eq!(a.intersection(&b).to_fields_v1(), json!({"f:a": {}}));
        assert!(a.difference(&a).is_empty());
    }
}
