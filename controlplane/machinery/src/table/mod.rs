//! Server-side printing: Tables (`as=Table;v=v1;g=meta.k8s.io`) with the stock columns of each kind, and
//! PartialObjectMetadata. Cells are computed as upstream's printers compute them; `now` is the caller's.

mod columns;
mod controllers;
mod nodes;
mod pods;
mod policy;
mod services;
mod storage;
mod text;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::meta;
use crate::registry::Kind;

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`.
    pub ty: &'static str,
    /// `name` marks the column that names the object.
    pub format: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

/// What goes into each row beside its cells (`includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IncludeObject {
    None,
    #[default]
    Metadata,
    Object,
}

impl IncludeObject {
    /// The value of the query parameter; empty is the default. Names as upstream spells them.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Metadata" => Some(IncludeObject::Metadata),
            "None" => Some(IncludeObject::None),
            "Object" => Some(IncludeObject::Object),
            _ => None,
        }
    }
}

/// Columns of a kind, and the cells of one object of it.
struct Printer {
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

/// The columns of a kind's table.
pub fn columns(kind: &Kind) -> &'static [Column] {
    columns::printer(kind).columns
}

/// The `columnDefinitions` of a kind's table.
pub fn column_definitions(kind: &Kind) -> Value {
    columns(kind)
        .iter()
        .map(|c| json!({"name": c.name, "type": c.ty, "format": c.format, "description": "", "priority": c.priority}))
        .collect()
}

/// The table of a list of objects. `list_metadata` is the list's (resourceVersion, continue, remainingItemCount); a
/// single object has none, and its own resourceVersion is used.
pub fn table(
    kind: &Kind,
    items: &[&Value],
    list_metadata: Option<&Value>,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let mut metadata = match list_metadata {
        Some(m) => m.clone(),
        None => match items.first().map(|o| meta::resource_version(o)) {
            Some(version) if !version.is_empty() => json!({"resourceVersion": version}),
            _ => json!({}),
        },
    };
    if !metadata.is_object() {
        metadata = json!({});
    }
    let printer = columns::printer(kind);
    let rows: Vec<Value> = items.iter().map(|o| row(kind, printer, o, include, now)).collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": column_definitions(kind),
        "rows": rows,
    })
}

/// The table of a watch event. Only the first event of a watch carries the columns.
pub fn event_table(kind: &Kind, object: &Value, with_columns: bool, include: IncludeObject, now: Timestamp) -> Value {
    let mut table = table(kind, &[object], None, include, now);
    if !with_columns {
        table["columnDefinitions"] = Value::Null;
    }
    table
}

fn row(kind: &Kind, printer: &Printer, object: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let cells = (printer.cells)(object, now);
    let mut row = Map::new();
    row.insert("cells".into(), Value::Array(cells));
    if let Some(conditions) = kind.is("", "Pod").then(|| pods::row_conditions(object)).flatten() {
        row.insert("conditions".into(), conditions);
    }
    let shown = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial_metadata(object),
        IncludeObject::Object => object.clone(),
    };
    row.insert("object".into(), shown);
    Value::Object(row)
}

/// The `PartialObjectMetadata` of an object: its metadata, and nothing else.
pub fn partial_metadata(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| json!({})),
    })
}

/// The `PartialObjectMetadataList` of a list.
pub fn partial_metadata_list(items: &[&Value], list_metadata: &Value) -> Value {
    let items: Vec<Value> = items.iter().map(|o| partial_metadata(o)).collect();
    json!({
        "kind": "PartialObjectMetadataList",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "items": items,
    })
}

#[cfg(test)]
mod tests;
