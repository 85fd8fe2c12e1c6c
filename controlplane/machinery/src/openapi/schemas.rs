//! Messages of the schema as OpenAPI schemas.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::Dialect;
use super::descriptions::Descriptions;
use crate::registry::{Kind, Registry};
use crate::schema::{Field, JSON_SCHEMA_PROPS, ListType, Message, Schema, Type};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const EXTENSIONS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW_EXTENSION: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";
/// The schema of a PATCH body.
pub(super) const PATCH: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Patch";

/// Meta kinds that exist in every group and version.
const EVERYWHERE: [&str; 2] = ["DeleteOptions", "WatchEvent"];

/// The schemas of `wanted` (names) and of everything they refer to.
pub(super) fn closure(
    registry: &Registry,
    kinds: &[&Kind],
    wanted: BTreeSet<String>,
    dialect: Dialect,
) -> Map<String, Value> {
    let mut writer = Writer {
        dialect,
        packages: group_versions(),
        every: registry.groups().iter().flat_map(|g| g.versions.iter().map(|v| (&*g.name, &**v))).collect(),
        descriptions: Descriptions::of(kinds),
        todo: wanted.into_iter().collect(),
    };
    let mut done = Map::new();
    while let Some(name) = writer.todo.pop() {
        if !done.contains_key(&name) {
            let schema = writer.schema(&name);
            done.insert(name, schema);
        }
    }
    done
}

/// Group and version of each package of the schema.
fn group_versions() -> HashMap<&'static str, (&'static str, &'static str)> {
    let mut found = HashMap::from([(META, ("", "v1"))]);
    for kind in Registry::builtin().kinds() {
        if let Some((package, _)) = kind.schema.rsplit_once('.') {
            found.insert(package, (&*kind.group, &*kind.version));
        }
    }
    found
}

struct Writer<'a> {
    dialect: Dialect,
    packages: HashMap<&'static str, (&'static str, &'static str)>,
    /// Every group and version.
    every: Vec<(&'a str, &'a str)>,
    descriptions: Descriptions,
    /// Names still to write.
    todo: Vec<String>,
}

impl Writer<'_> {
    fn schema(&mut self, name: &str) -> Value {
        let mut schema = match Schema::get().message(name) {
            Some(message) => self.message(message),
            None => special(name, self.dialect),
        };
        if let Some(text) = self.descriptions.of_type(name) {
            schema.insert("description".into(), json!(text));
        }
        Value::Object(schema)
    }

    fn message(&mut self, message: &'static Message) -> Map<String, Value> {
        let mut properties = Map::new();
        if message.top_level {
            for name in ["apiVersion", "kind"] {
                let mut property = json!({"type": "string"});
                self.describe(message, name, &mut property);
                properties.insert(name.into(), property);
            }
        }
        let mut required = Vec::new();
        for field in Schema::get().json_fields(message) {
            let mut property = self.property(field);
            self.describe(message, field.name, &mut property);
            properties.insert(field.name.into(), property);
            if field.required {
                required.push(field.name);
            }
        }
        let mut schema = Map::new();
        schema.insert("type".into(), json!("object"));
        if !required.is_empty() {
            schema.insert("required".into(), json!(required));
        }
        if !properties.is_empty() {
            schema.insert("properties".into(), Value::Object(properties));
        }
        if message.atomic {
            schema.insert("x-kubernetes-map-type".into(), json!("atomic"));
        }
        if message.top_level {
            schema.insert("x-kubernetes-group-version-kind".into(), self.types_of(message));
        }
        schema
    }

    fn types_of(&self, message: &Message) -> Value {
        let one = |group: &str, version: &str| json!({"group": group, "version": version, "kind": message.short});
        let package = message.name.rsplit_once('.').map_or("", |(package, _)| package);
        if package == META && EVERYWHERE.contains(&message.short) {
            return self.every.iter().map(|(g, v)| one(g, v)).collect();
        }
        match self.packages.get(package) {
            Some((group, version)) => json!([one(group, version)]),
            None => json!([]),
        }
    }

    fn describe(&self, message: &Message, field: &str, property: &mut Value) {
        let Some(text) = self.descriptions.of_field(&message.name, field) else { return };
        if let Value::Object(property) = property {
            // Beside a `$ref` nothing else counts in v3; there it is wrapped.
            if self.dialect == Dialect::V3 && property.contains_key("$ref") {
                let reference = std::mem::take(property);
                property.insert("allOf".into(), json!([reference]));
            }
            property.insert("description".into(), json!(text));
        }
    }

    fn property(&mut self, field: &Field) -> Value {
        let mut property = self.of_type(&field.ty);
        let Value::Object(map) = &mut property else { return property };
        if self.dialect == Dialect::V3 {
            let default = match field.default {
                Some(text) => serde_json::from_str(text).ok(),
                None => zero_default(field),
            };
            if let Some(default) = default {
                if map.contains_key("$ref") {
                    let reference = std::mem::take(map);
                    map.insert("allOf".into(), json!([reference]));
                }
                map.insert("default".into(), default);
            }
        }
        if let Some(key) = field.merge_key {
            map.insert("x-kubernetes-patch-merge-key".into(), json!(key));
        }
        let strategies: Vec<&str> =
            [(field.merge, "merge"), (field.replace, "replace"), (field.retain_keys, "retainKeys")]
                .into_iter()
                .filter_map(|(set, name)| set.then_some(name))
                .collect();
        if !strategies.is_empty() {
            map.insert("x-kubernetes-patch-strategy".into(), json!(strategies.join(",")));
        }
        let list_type = match field.list_type {
            Some(ListType::Atomic) => Some("atomic"),
            Some(ListType::Set) => Some("set"),
            Some(ListType::Map) => Some("map"),
            None => None,
        };
        if let Some(list_type) = list_type {
            map.insert("x-kubernetes-list-type".into(), json!(list_type));
        }
        if !field.map_keys.is_empty() {
            map.insert("x-kubernetes-list-map-keys".into(), json!(field.map_keys));
        }
        if field.atomic || field.granular {
            let map_type = if field.atomic { "atomic" } else { "granular" };
            map.insert("x-kubernetes-map-type".into(), json!(map_type));
        }
        property
    }

    fn reference(&mut self, name: &str) -> Value {
        self.todo.push(name.to_owned());
        self.dialect.reference(name)
    }

    fn of_type(&mut self, ty: &Type) -> Value {
        let strings = || json!({"type": "array", "items": {"type": "string"}});
        match ty {
            Type::String => json!({"type": "string"}),
            Type::Bool => json!({"type": "boolean"}),
            Type::Int32 => json!({"type": "integer", "format": "int32"}),
            Type::Int64 => json!({"type": "integer", "format": "int64"}),
            Type::Double => json!({"type": "number", "format": "double"}),
            Type::Bytes => json!({"type": "string", "format": "byte"}),
            Type::Time => self.reference(&format!("{META}.Time")),
            Type::MicroTime => self.reference(&format!("{META}.MicroTime")),
            Type::FieldsV1 => self.reference(&format!("{META}.FieldsV1")),
            Type::Quantity => self.reference(QUANTITY),
            Type::IntOrString => self.reference(INT_OR_STRING),
            Type::RawExtension => self.reference(RAW_EXTENSION),
            Type::Json => self.reference(&format!("{EXTENSIONS}.JSON")),
            Type::SchemaOrBool => self.reference(&format!("{JSON_SCHEMA_PROPS}OrBool")),
            Type::SchemaOrArray => self.reference(&format!("{JSON_SCHEMA_PROPS}OrArray")),
            Type::SchemaOrStrings => self.reference(&format!("{JSON_SCHEMA_PROPS}OrStringArray")),
            Type::ExtraValue => strings(),
            Type::Message(id) => self.reference(&Schema::get().get_message(*id).name),
            Type::List(item) => json!({"type": "array", "items": self.item(item)}),
            Type::Map(item) => json!({"type": "object", "additionalProperties": self.item(item)}),
        }
    }

    /// Items of lists and maps: structs have an empty default in v3.
    fn item(&mut self, ty: &Type) -> Value {
        let item = self.of_type(ty);
        match (self.dialect, ty) {
            (Dialect::V3, Type::Message(_)) => json!({"allOf": [item], "default": {}}),
            (Dialect::V3, Type::String) => json!({"type": "string", "default": ""}),
            (Dialect::V3, Type::Int32 | Type::Int64) => {
                let mut item = item;
                item["default"] = json!(0);
                item
            }
            _ => item,
        }
    }
}

/// What Go writes for a field that is no pointer and has no declared default, where v3 says so.
fn zero_default(field: &Field) -> Option<Value> {
    match field.ty {
        Type::Message(_) if !field.pointer => Some(json!({})),
        Type::String if field.always && !field.pointer => Some(json!("")),
        Type::Int32 | Type::Int64 | Type::Double if field.always && !field.pointer => Some(json!(0)),
        Type::Bool if field.always && !field.pointer => Some(json!(false)),
        _ => None,
    }
}

/// The schemas that are no messages.
fn special(name: &str, dialect: Dialect) -> Map<String, Value> {
    let schema = match (name.rsplit('.').next().unwrap_or(name), dialect) {
        ("Time" | "MicroTime", _) => json!({"type": "string", "format": "date-time"}),
        ("Quantity", Dialect::V2) => json!({"type": "string"}),
        ("Quantity", Dialect::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        ("IntOrString", Dialect::V2) => json!({"type": "string", "format": "int-or-string"}),
        ("IntOrString", Dialect::V3) => {
            json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
        }
        ("RawExtension" | "FieldsV1" | "Patch", _) => json!({"type": "object"}),
        // JSON and the JSONSchemaPropsOr types take more than one type.
        _ => json!({}),
    };
    match schema {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
