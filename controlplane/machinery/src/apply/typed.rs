//! Objects seen through their schema: which paths they have, how two differ, how one is merged into another
//! (the rules of structured-merge-diff).

use serde_json::{Map, Value};

use super::set::Set;
use crate::schema::{Field, ListType, Message, Schema, Type};

/// How a value is taken apart.
#[derive(Clone, Copy)]
pub(super) enum View {
    /// As a whole: scalars, atomic lists and maps.
    Leaf,
    Struct(&'static Message),
    /// A map from string to this.
    MapOf(&'static Type),
    /// A list whose items are told apart by these keys.
    Keyed(&'static [&'static str], &'static Type),
    /// A list of different scalars.
    SetOf,
    /// Nothing is known: maps are maps, everything else is a leaf.
    Unknown,
}

impl View {
    pub(super) fn root(schema_name: &str) -> View {
        Schema::get().message(schema_name).map_or(View::Unknown, View::Struct)
    }

    fn of_field(field: &'static Field) -> View {
        match &field.ty {
            Type::Message(id) => {
                let message = Schema::get().get_message(*id);
                let atomic = field.atomic || (message.atomic && !field.granular);
                if atomic { View::Leaf } else { View::Struct(message) }
            }
            Type::Map(_) if field.atomic => View::Leaf,
            Type::Map(item) => View::MapOf(item),
            Type::List(item) => match (field.list_type, &field.merge_key) {
                (Some(ListType::Map), _) => View::Keyed(&field.map_keys, item),
                (Some(ListType::Set), _) => View::SetOf,
                (Some(ListType::Atomic), _) => View::Leaf,
                // Older fields only say how a strategic merge goes.
                (None, Some(key)) if field.merge => View::Keyed(std::slice::from_ref(key), item),
                (None, None) if field.merge => View::SetOf,
                (None, _) => View::Leaf,
            },
            _ => View::Leaf,
        }
    }

    fn of_type(ty: &'static Type) -> View {
        match ty {
            Type::Message(id) => {
                let message = Schema::get().get_message(*id);
                if message.atomic { View::Leaf } else { View::Struct(message) }
            }
            Type::Map(item) => View::MapOf(item),
            _ => View::Leaf,
        }
    }

    /// The view of a member of a map, or of an item of a list.
    fn child(self, key: &str) -> View {
        match self {
            View::Struct(message) => {
                Schema::get().json_field(message, key).map_or(View::Unknown, |(_, f)| View::of_field(f))
            }
            View::MapOf(item) | View::Keyed(_, item) => View::of_type(item),
            View::Leaf | View::SetOf => View::Leaf,
            View::Unknown => View::Unknown,
        }
    }
}

/// A value taken apart: path element and part.
pub(super) enum Parts<'a> {
    Whole,
    Map(&'a Map<String, Value>),
    List(&'a [Value]),
}

fn parts<'a>(view: View, value: &'a Value) -> Parts<'a> {
    match (view, value) {
        (View::Struct(_) | View::MapOf(_) | View::Unknown, Value::Object(map)) => Parts::Map(map),
        (View::Keyed(..) | View::SetOf, Value::Array(items)) => Parts::List(items),
        (View::Keyed(..) | View::SetOf, Value::Null) => Parts::List(&[]),
        _ => Parts::Whole,
    }
}

/// The path element of a list item.
pub(super) fn item_element(view: View, item: &Value) -> String {
    match view {
        View::Keyed(keys, ty) => {
            let mut found = Map::new();
            for key in keys {
                let value = match item.get(*key) {
                    Some(v) if !v.is_null() => Some(v.clone()),
                    _ => key_default(ty, key),
                };
                if let Some(value) = value {
                    found.insert((*key).into(), value);
                }
            }
            format!("k:{}", Value::Object(found))
        }
        _ => format!("v:{item}"),
    }
}

fn key_default(ty: &Type, key: &str) -> Option<Value> {
    let Type::Message(id) = ty else { return None };
    let (_, field) = Schema::get().json_field(Schema::get().get_message(*id), key)?;
    serde_json::from_str(field.default?).ok()
}

/// The paths an applied configuration names.
pub(super) fn field_set(view: View, value: &Value) -> Set {
    match parts(view, value) {
        Parts::Whole => Set::leaf(),
        Parts::Map(map) => {
            let mut set = Set::default();
            for (key, v) in map {
                let mut below = field_set(view.child(key), v);
                let declared = matches!(view, View::Struct(m) if Schema::get().json_field(m, key).is_some());
                below.here |= !declared || v.is_null() || v.as_object().is_some_and(Map::is_empty);
                set.put(format!("f:{key}"), below);
            }
            set
        }
        Parts::List(items) => {
            let mut set = Set::default();
            for item in items {
                let mut below = field_set(view.child(""), item);
                below.here = true;
                set.put(item_element(view, item), below);
            }
            set
        }
    }
}

/// How two values differ.
#[derive(Default)]
pub(super) struct Difference {
    /// Added or modified.
    pub(super) changed: Set,
    pub(super) removed: Set,
}

pub(super) fn compare(view: View, old: Option<&Value>, new: Option<&Value>) -> Difference {
    match (old, new) {
        (None, None) => Difference::default(),
        (None, Some(new)) => Difference { changed: everything(view, new), removed: Set::default() },
        (Some(old), None) => Difference { changed: Set::default(), removed: everything(view, old) },
        (Some(old), Some(new)) => match (parts(view, old), parts(view, new)) {
            (Parts::Map(old), Parts::Map(new)) => {
                let mut difference = Difference::default();
                let added = new.keys().filter(|k| !old.contains_key(*k));
                for key in old.keys().chain(added) {
                    let below = compare(view.child(key), old.get(key), new.get(key));
                    difference.put(format!("f:{key}"), below);
                }
                difference
            }
            (Parts::List(old), Parts::List(new)) => {
                let mut difference = Difference::default();
                let find =
                    |list: &'_ [Value], element: &str| list.iter().position(|v| item_element(view, v) == element);
                for item in old {
                    let element = item_element(view, item);
                    let now = find(new, &element).map(|i| &new[i]);
                    difference.put(element, compare(view.child(""), Some(item), now));
                }
                for item in new {
                    let element = item_element(view, item);
                    if find(old, &element).is_none() {
                        difference.put(element, compare(view.child(""), None, Some(item)));
                    }
                }
                difference
            }
            _ if old == new => Difference::default(),
            _ => Difference { changed: everything(view, new), removed: Set::default() },
        },
    }
}

impl Difference {
    fn put(&mut self, element: String, below: Difference) {
        self.changed.put(element.clone(), below.changed);
        self.removed.put(element, below.removed);
    }
}

/// A value's own path and all below it.
fn everything(view: View, value: &Value) -> Set {
    let mut set = Set::leaf();
    match parts(view, value) {
        Parts::Whole => {}
        Parts::Map(map) => {
            for (key, v) in map {
                set.put(format!("f:{key}"), everything(view.child(key), v));
            }
        }
        Parts::List(items) => {
            for item in items {
                set.put(item_element(view, item), everything(view.child(""), item));
            }
        }
    }
    set
}

/// The live value with the configuration put over it.
pub(super) fn merge(view: View, live: Value, config: &Value) -> Value {
    match (view, live, config) {
        (View::Struct(_) | View::MapOf(_) | View::Unknown, Value::Object(mut live), Value::Object(config)) => {
            for (key, v) in config {
                let merged = match live.remove(key) {
                    Some(old) => merge(view.child(key), old, v),
                    None => v.clone(),
                };
                if !merged.is_null() {
                    live.insert(key.clone(), merged);
                }
            }
            Value::Object(live)
        }
        (View::Keyed(..) | View::SetOf, Value::Array(live), Value::Array(config)) => {
            Value::Array(merge_list(view, live, config))
        }
        (_, _, config) => config.clone(),
    }
}

/// Items of the configuration in its order; items only the live list has stay before the ones they preceded.
fn merge_list(view: View, live: Vec<Value>, config: &[Value]) -> Vec<Value> {
    let wanted: Vec<String> = config.iter().map(|v| item_element(view, v)).collect();
    let mut result = Vec::with_capacity(live.len() + config.len());
    let mut pending = Vec::new();
    let mut old: Vec<Option<(String, Value)>> =
        live.into_iter().map(|v| (item_element(view, &v), v)).map(Some).collect();
    let mut next_live = 0;
    for (element, item) in wanted.iter().zip(config) {
        let found = old.iter().position(|o| o.as_ref().is_some_and(|(e, _)| e == element));
        if let Some(at) = found {
            // Live-only items before this one come first.
            for slot in old.iter_mut().take(at).skip(next_live) {
                if slot.as_ref().is_some_and(|(e, _)| !wanted.contains(e)) {
                    pending.extend(slot.take().map(|(_, v)| v));
                }
            }
            next_live = next_live.max(at);
        }
        result.append(&mut pending);
        result.push(match found.and_then(|at| old[at].take()) {
            Some((_, before)) => merge(view.child(""), before, item),
            None => item.clone(),
        });
    }
    result.extend(old.into_iter().flatten().filter(|(e, _)| !wanted.contains(e)).map(|(_, v)| v));
    result
}

/// Take away what is in `removable`, except where somebody owns something below.
pub(super) fn remove(view: View, value: &mut Value, removable: &Set, owned: &Set) {
    match (view, value) {
        (View::Struct(_) | View::MapOf(_) | View::Unknown, Value::Object(map)) => {
            for (element, below) in &removable.children {
                let Some(key) = element.strip_prefix("f:") else { continue };
                match (below.here || is_leaf(view, key), owned.children.get(element)) {
                    (true, None) => {
                        map.remove(key);
                    }
                    (_, owned) => {
                        if let Some(v) = map.get_mut(key) {
                            remove(view.child(key), v, below, owned.unwrap_or(&Set::default()));
                        }
                    }
                }
            }
        }
        (View::Keyed(..) | View::SetOf, Value::Array(items)) => items.retain_mut(|item| {
            let element = item_element(view, item);
            match (removable.children.get(&element), owned.children.get(&element)) {
                (None, _) => true,
                (Some(below), None) if below.here => false,
                (Some(below), owned) => {
                    remove(view.child(""), item, below, owned.unwrap_or(&Set::default()));
                    true
                }
            }
        }),
        _ => {}
    }
}

fn is_leaf(view: View, key: &str) -> bool {
    matches!(view.child(key), View::Leaf)
}

/// Drop maps and lists that `remove` has emptied and nobody owns, as if they had never been set.
pub(super) fn drop_emptied(view: View, value: &mut Value, removable: &Set, owned: &Set) {
    let Value::Object(map) = value else { return };
    for (element, below) in &removable.children {
        let Some(key) = element.strip_prefix("f:") else { continue };
        let owned_below = owned.children.get(element);
        let Some(v) = map.get_mut(key) else { continue };
        drop_emptied(view.child(key), v, below, owned_below.unwrap_or(&Set::default()));
        let empty = v.as_object().is_some_and(Map::is_empty) || v.as_array().is_some_and(Vec::is_empty);
        if empty && owned_below.is_none() {
            map.remove(key);
        }
    }
}
