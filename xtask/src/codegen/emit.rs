//! Puts the two inputs together into the table strake-machinery reads; its format is described there (schema/mod.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anyhow::{Result, bail};
use serde_json::Value;

use super::golang::{GoField, GoType, PACKAGES, Packages, is_primitive};

/// Types with a notation of their own, and the letter that says so.
const SPECIAL: &[(&str, &str)] = &[
    ("k8s.io/apimachinery/pkg/apis/meta/v1.Time", "t"),
    ("k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime", "u"),
    ("k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1", "F"),
    ("k8s.io/apimachinery/pkg/api/resource.Quantity", "q"),
    ("k8s.io/apimachinery/pkg/util/intstr.IntOrString", "x"),
    ("k8s.io/apimachinery/pkg/runtime.RawExtension", "r"),
    ("k8s.io/apimachinery/pkg/types.UID", "s"),
    ("k8s.io/apimachinery/pkg/types.NodeName", "s"),
    ("k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSON", "J"),
    ("k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrBool", "B"),
    ("k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrArray", "A"),
    ("k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrStringArray", "S"),
    ("k8s.io/api/authentication/v1.ExtraValue", "V"),
    ("k8s.io/api/authorization/v1.ExtraValue", "V"),
    ("k8s.io/api/certificates/v1.ExtraValue", "V"),
];

const TYPE_META: &str = "k8s.io/apimachinery/pkg/apis/meta/v1.TypeMeta";

/// The OpenAPI package of a Go package path: `k8s.io/api/core/v1` is `io.k8s.api.core.v1`.
fn openapi_package(go: &str) -> String {
    format!("io.k8s.{}", go.trim_start_matches("k8s.io/").replace('/', "."))
}

/// A struct that inlines the one of this name.
fn inlined_in<'a>(types: &'a Packages, name: &str) -> Option<&'a str> {
    types.iter().find_map(|(outer, go_type)| match go_type {
        GoType::Struct(fields) if fields.iter().any(|f| f.json.is_empty() && f.go_type == name) => Some(outer.as_str()),
        _ => None,
    })
}

struct Emitter<'a> {
    types: &'a Packages,
    packages: BTreeMap<String, usize>,
    disagreements: Vec<String>,
}

pub fn table(document: &Value, types: &Packages) -> Result<(String, Vec<String>)> {
    let packages = PACKAGES.iter().enumerate().map(|(i, p)| (format!("k8s.io/{p}"), i)).collect();
    let mut emitter = Emitter { types, packages, disagreements: Vec::new() };
    let mut out = String::new();
    for package in PACKAGES {
        let go = format!("k8s.io/{package}");
        writeln!(out, "@{}", openapi_package(&go))?;
        for (name, go_type) in types {
            let Some((owner, short)) = name.rsplit_once('.') else { continue };
            let GoType::Struct(fields) = go_type else { continue };
            if owner != go || SPECIAL.iter().any(|(s, _)| s == name) || name == TYPE_META {
                continue;
            }
            // Only what travels: something with a number, or nothing at all (an empty struct).
            if !fields.is_empty() && fields.iter().all(|f| f.proto.is_none() && f.go_type != TYPE_META) {
                continue;
            }
            let package = openapi_package(&go);
            let definition = |short: &str| &document["definitions"][format!("{package}.{short}")];
            let mut own = definition(short);
            // A struct that only exists inlined is described where it is.
            let mut inner = name.as_str();
            while let (true, Some(outer)) = (own.is_null(), inlined_in(types, inner)) {
                own = definition(outer.rsplit('.').next().unwrap_or(outer));
                inner = outer;
            }
            emitter.message(&mut out, short, fields, own, inner == name)?;
        }
    }
    Ok((out, emitter.disagreements))
}

impl Emitter<'_> {
    /// `complete`: the definition describes this struct alone.
    fn message(
        &mut self,
        out: &mut String,
        name: &str,
        fields: &[GoField],
        definition: &Value,
        complete: bool,
    ) -> Result<()> {
        let mut flags = String::new();
        if fields.iter().any(|f| f.go_type == TYPE_META) {
            flags.push('T');
        }
        if complete && definition["x-kubernetes-map-type"] == "atomic" {
            flags.push('a');
        }
        writeln!(out, "{}", format!("={name} {flags}").trim_end())?;
        let empty = serde_json::Map::new();
        let properties = definition["properties"].as_object().unwrap_or(&empty);
        let required: BTreeSet<&str> =
            definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut seen = BTreeSet::new();
        for field in fields.iter().filter(|f| f.go_type != TYPE_META) {
            let Some((number, proto_name)) = &field.proto else { continue };
            let (type_code, pointer) = self.type_code(&field.go_type)?;
            if field.json.is_empty() {
                writeln!(out, "^{proto_name} {number} {type_code}")?;
                continue;
            }
            seen.insert(field.json.as_str());
            write!(out, "{} {number} {type_code}", field.json)?;
            if required.contains(field.json.as_str()) {
                out.push('!');
            }
            if pointer {
                out.push('*');
            }
            if !field.omit_empty {
                out.push('-');
            }
            let property = &properties.get(&field.json).cloned().unwrap_or_default();
            if definition.is_object() && property.is_null() {
                self.disagreements.push(format!("{name}.{} is not in the document", field.json));
            }
            extras(out, property, field)?;
            out.push('\n');
        }
        let inlined = fields.iter().any(|f| f.json.is_empty() && f.go_type != TYPE_META);
        for property in properties.keys().filter(|_| complete && !inlined) {
            if !seen.contains(property.as_str()) && !["apiVersion", "kind"].contains(&property.as_str()) {
                self.disagreements.push(format!("{name}.{property} is not in the Go types"));
            }
        }
        Ok(())
    }

    /// The table's notation of a Go type, and whether it is a pointer.
    fn type_code(&self, go_type: &str) -> Result<(String, bool)> {
        if let Some(rest) = go_type.strip_prefix('*') {
            return Ok((self.type_code(rest)?.0, true));
        }
        if let Some((_, letter)) = SPECIAL.iter().find(|(name, _)| *name == go_type) {
            return Ok(((*letter).into(), false));
        }
        if go_type == "[]byte" {
            return Ok(("y".into(), false));
        }
        if let Some(rest) = go_type.strip_prefix("[]") {
            return Ok((format!("[{}", self.type_code(rest)?.0), false));
        }
        if let Some(rest) = go_type.strip_prefix("map[string]") {
            return Ok((format!("{{{}", self.type_code(rest)?.0), false));
        }
        if is_primitive(go_type) {
            let letter = match go_type {
                "string" => "s",
                "bool" => "b",
                "int32" => "i",
                "int64" | "int" => "l",
                "float64" => "d",
                other => bail!("no notation for Go's {other}"),
            };
            return Ok((letter.into(), false));
        }
        match self.types.get(go_type) {
            Some(GoType::Alias(target)) => self.type_code(target),
            Some(GoType::Struct(_)) => {
                let (package, name) = go_type.rsplit_once('.').unwrap_or(("", go_type));
                match self.packages.get(package) {
                    Some(index) => Ok((format!("{index}.{name}"), false)),
                    None => bail!("{go_type} is in no package that is read"),
                }
            }
            None => bail!("{go_type} is declared nowhere"),
        }
    }
}

/// Merge behaviour and default of a field.
fn extras(out: &mut String, property: &Value, field: &GoField) -> Result<()> {
    let text = |key: &str| property[key].as_str();
    if let Some(key) = text("x-kubernetes-patch-merge-key") {
        write!(out, " k:{key}")?;
    }
    if let Some(strategy) = text("x-kubernetes-patch-strategy") {
        write!(out, " p:{strategy}")?;
    }
    if let Some(list_type) = text("x-kubernetes-list-type") {
        write!(out, " l:{list_type}")?;
        let keys: Vec<&str> =
            property["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if !keys.is_empty() {
            write!(out, ":{}", keys.join(","))?;
        }
    }
    match text("x-kubernetes-map-type") {
        Some("atomic") => out.push_str(" a"),
        Some("granular") => out.push_str(" g"),
        _ => {}
    }
    if let Some(default) = field.default.as_deref().filter(|d| serde_json::from_str::<Value>(d).is_ok()) {
        write!(out, " d:{default}")?;
    }
    Ok(())
}
