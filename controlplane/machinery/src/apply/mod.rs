//! Server-side apply (KEP-555): who owns which field of an object, in `metadata.managedFields`, and how a configuration
//! is merged into it.
//!
//! [`track`] is called for every write that is no apply, [`apply`] for an apply. Both work on plain values: time and
//! manager are the caller's.

mod set;
mod typed;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

pub use set::Set;

use crate::registry::Kind;
use crate::schema::Schema;
use crate::status::{Cause, quote};
use crate::{ApiError, meta, schema, time};
use typed::View;

/// Who writes.
#[derive(Debug, Clone, Copy)]
pub struct Manager<'a> {
    /// `fieldManager`, or what the User-Agent begins with.
    pub name: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    pub now: Timestamp,
}

/// Metadata that nobody owns.
const SYSTEM_METADATA: [&str; 8] = [
    "f:name",
    "f:namespace",
    "f:creationTimestamp",
    "f:uid",
    "f:generation",
    "f:managedFields",
    "f:resourceVersion",
    "f:selfLink",
];

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: String,
    set: Set,
}

impl Entry {
    fn is(&self, manager: &Manager<'_>, operation: &str, api_version: &str) -> bool {
        self.manager == manager.name
            && self.subresource == manager.subresource
            && self.operation == operation
            && self.api_version == api_version
    }

    /// As conflicts name it.
    fn describe(&self) -> String {
        let mut text = quote(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", quote(&self.subresource)));
        }
        if self.operation == "Update" {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

fn read(object: &Value) -> Vec<Entry> {
    let text = |e: &Value, key: &str| meta::str_at(e, &[key]).to_owned();
    meta::list_at(object, &["metadata", "managedFields"])
        .iter()
        .map(|e| Entry {
            manager: text(e, "manager"),
            operation: text(e, "operation"),
            api_version: text(e, "apiVersion"),
            subresource: text(e, "subresource"),
            time: text(e, "time"),
            set: e.get("fieldsV1").map(Set::from_fields_v1).unwrap_or_default(),
        })
        .collect()
}

fn write(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.set.is_empty());
    if entries.is_empty() {
        meta::remove_at(object, &["metadata", "managedFields"]);
        return;
    }
    entries.sort_by(|a, b| (&a.operation, &a.time, &a.manager).cmp(&(&b.operation, &b.time, &b.manager)));
    let list = entries.into_iter().map(|e| {
        let mut entry = Map::new();
        entry.insert("manager".into(), json!(e.manager));
        entry.insert("operation".into(), json!(e.operation));
        entry.insert("apiVersion".into(), json!(e.api_version));
        entry.insert("time".into(), json!(e.time));
        entry.insert("fieldsType".into(), json!("FieldsV1"));
        entry.insert("fieldsV1".into(), e.set.to_fields_v1());
        if !e.subresource.is_empty() {
            entry.insert("subresource".into(), json!(e.subresource));
        }
        Value::Object(entry)
    });
    let list: Value = list.collect();
    meta::metadata_mut(object).insert("managedFields".into(), list);
}

/// Take away what nobody may own through this path: the type, system metadata, and the other half of an object that
/// has a status subresource.
fn strip(kind: &Kind, manager: &Manager<'_>, set: &mut Set) {
    set.here = false;
    set.remove(&["f:apiVersion"]);
    set.remove(&["f:kind"]);
    for field in SYSTEM_METADATA {
        set.remove(&["f:metadata", field]);
    }
    if let Some(metadata) = set.children.get_mut("f:metadata") {
        metadata.here = false;
        if metadata.is_empty() {
            set.children.remove("f:metadata");
        }
    }
    if kind.has_subresource("status") {
        set.remove(&[if manager.subresource == "status" { "f:spec" } else { "f:status" }]);
    }
}

/// Record in `new` that `manager` made the difference between `old` (none for a create) and `new`.
pub fn track(kind: &Kind, old: Option<&Value>, new: &mut Value, manager: &Manager<'_>) {
    let view = View::root(&kind.schema);
    let zero;
    let before = match old {
        Some(old) => old,
        None => {
            zero = zero_object(kind);
            &zero
        }
    };
    let mut difference = typed::compare(view, Some(before), Some(new));
    strip(kind, manager, &mut difference.changed);
    strip(kind, manager, &mut difference.removed);
    let mut entries = read(old.unwrap_or(&Value::Null));
    let api_version = kind.api_version();
    let now = time::format_seconds(manager.now);
    for entry in &mut entries {
        let before = entry.set.clone();
        entry.set = entry.set.difference(&difference.removed);
        if entry.is(manager, "Update", &api_version) {
            entry.set = std::mem::take(&mut entry.set).union(&difference.changed);
        } else {
            entry.set = entry.set.difference(&difference.changed);
        }
        if entry.set != before && entry.is(manager, "Update", &api_version) {
            entry.time.clone_from(&now);
        }
    }
    if !entries.iter().any(|e| e.is(manager, "Update", &api_version)) {
        entries.push(Entry {
            manager: manager.name.into(),
            operation: "Update".into(),
            api_version,
            subresource: manager.subresource.into(),
            time: now,
            set: difference.changed,
        });
    }
    write(new, entries);
}

/// Apply `config` to the live object (none: it is created) and answer with the result, managedFields included. Fields
/// that this manager applied before and that are no longer in the configuration go away, unless somebody else owns
/// them. A field that somebody else owns with another value is a conflict, unless `force` takes it over.
pub fn apply(
    kind: &Kind,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Value, ApiError> {
    if meta::list_at(config, &["metadata", "managedFields"]).iter().next().is_some() {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let view = View::root(&kind.schema);
    let api_version = kind.api_version();
    let mut config_set = typed::field_set(view, config);
    strip(kind, manager, &mut config_set);
    let mut entries = live.map(read).unwrap_or_default();
    if let Some(live) = live.filter(|_| entries.is_empty()) {
        // Written before ownership was recorded: whatever is there belongs to somebody.
        let mut set = typed::compare(view, Some(&zero_object(kind)), Some(live)).changed;
        strip(kind, manager, &mut set);
        entries.push(Entry {
            manager: "before-first-apply".into(),
            operation: "Update".into(),
            api_version: api_version.clone(),
            subresource: String::new(),
            time: time::format_seconds(manager.now),
            set,
        });
    }
    let mine = entries.iter().position(|e| e.is(manager, "Apply", &api_version));
    let last = mine.map(|i| entries[i].set.clone()).unwrap_or_default();
    let entry = Entry {
        manager: manager.name.into(),
        operation: "Apply".into(),
        api_version,
        subresource: manager.subresource.into(),
        time: time::format_seconds(manager.now),
        set: config_set.clone(),
    };
    match mine {
        Some(i) if entries[i].set == config_set => {}
        Some(i) => entries[i] = entry,
        None => entries.push(entry),
    }
    let owned = entries.iter().fold(Set::default(), |all, e| all.union(&e.set));
    let mut merged = typed::merge(view, live.cloned().unwrap_or_else(|| json!({})), config);
    let removable = last.difference(&owned);
    typed::remove(view, &mut merged, &removable, &owned);
    typed::drop_emptied(view, &mut merged, &removable, &owned);
    if let Some(live) = live {
        let difference = typed::compare(view, Some(live), Some(&merged));
        let ours =
            |e: &Entry| e.operation == "Apply" && e.manager == manager.name && e.subresource == manager.subresource;
        let mut conflicts = Vec::new();
        for entry in entries.iter_mut().filter(|e| !ours(e)) {
            let contested = entry.set.intersection(&difference.changed).intersection(&config_set);
            conflicts.extend(contested.paths().into_iter().map(|p| (entry.describe(), p)));
            entry.set = entry.set.difference(&contested).difference(&difference.removed);
        }
        if !force && !conflicts.is_empty() {
            return Err(conflict(conflicts));
        }
    }
    write(&mut merged, entries);
    Ok(merged)
}

fn conflict(conflicts: Vec<(String, String)>) -> ApiError {
    let message = match conflicts.as_slice() {
        [(manager, path)] => format!("Apply failed with 1 conflict: conflict with {manager}: {path}"),
        all => {
            let mut managers: Vec<&str> = all.iter().map(|(m, _)| m.as_str()).collect();
            managers.sort_unstable();
            managers.dedup();
            let texts: Vec<String> = managers
                .iter()
                .map(|m| {
                    let paths: Vec<String> =
                        all.iter().filter(|(of, _)| of == m).map(|(_, path)| format!("- {path}")).collect();
                    format!("conflicts with {m}:\n{}", paths.join("\n"))
                })
                .collect();
            format!("Apply failed with {} conflicts: {}", all.len(), texts.join("\n"))
        }
    };
    let causes = conflicts
        .into_iter()
        .map(|(manager, field)| Cause {
            reason: "FieldManagerConflict".into(),
            message: format!("conflict with {manager}"),
            field,
        })
        .collect();
    ApiError::apply_conflict(causes, message)
}

/// The object Go starts from: structs that are no pointers are there, and so are lists it always writes.
fn zero_object(kind: &Kind) -> Value {
    match Schema::get().of_kind(kind) {
        Some(message) => schema::zero(message),
        None => json!({}),
    }
}

#[cfg(test)]
mod tests;
