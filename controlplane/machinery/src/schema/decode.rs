//! Makes an object out of what a client sent, as Go's decoder followed by its encoder would: types are checked, unknown
//! fields are reported and dropped, nulls and empty optional fields disappear, quantities and times get their canonical
//! form, and structs that Go always writes are there (`resources: {}`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::body::Step;
use super::{Field, Message, Schema, Type, body, go_name};
use crate::registry::{Kind, split_api_version};
use crate::status::quote;
use crate::{ApiError, Registry, meta, quantity, time};

/// An object a client sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub object: Value,
    /// What `fieldValidation=Strict` refuses and `Warn` warns of: `unknown field "spec.foo"`,
    /// `duplicate field "spec.bar"`.
    pub strict_errors: Vec<String>,
}

/// Decode a JSON body for a create or update of `kind`. `apiVersion` and `kind` may be missing; they are put there.
pub fn decode_json(kind: &Kind, bytes: &[u8]) -> Result<Decoded, ApiError> {
    let body = body::parse_json(bytes).map_err(|e| unrecognized(&kind.kind, &e, bytes))?;
    let mut decoded = match decode_value(kind, body.value) {
        Err(Misfit::NotAnObject(what)) => return Err(unrecognized(&kind.kind, &not_an_object(what), bytes)),
        Err(Misfit::Refused(e)) => return Err(e),
        Ok(decoded) => decoded,
    };
    decoded.strict_errors.extend(body.duplicates.iter().map(|d| format!("duplicate field {}", quote(d))));
    Ok(decoded)
}

/// Decode a JSON body as a message that is no kind of the registry (`io.k8s.api.policy.v1.Eviction`, DeleteOptions).
pub fn decode_json_as(schema_name: &str, bytes: &[u8]) -> Result<Decoded, ApiError> {
    let short = schema_name.rsplit('.').next().unwrap_or(schema_name);
    let body = body::parse_json(bytes).map_err(|e| unrecognized(short, &e, bytes))?;
    if let Some(what) = json_type(&body.value).filter(|_| !body.value.is_object()) {
        return Err(unrecognized(short, &not_an_object(what), bytes));
    }
    let mut decoded = decode_value_as(schema_name, body.value)?;
    decoded.strict_errors.extend(body.duplicates.iter().map(|d| format!("duplicate field {}", quote(d))));
    Ok(decoded)
}

/// Why a value is no object of a kind.
#[derive(Debug)]
pub enum Misfit {
    /// The JSON type it is instead.
    NotAnObject(&'static str),
    Refused(ApiError),
}

impl From<Misfit> for ApiError {
    fn from(m: Misfit) -> Self {
        match m {
            Misfit::NotAnObject(what) => ApiError::bad_request(not_an_object(what)),
            Misfit::Refused(e) => e,
        }
    }
}

/// The same of a value already parsed (YAML, a patched object).
pub fn decode_value(kind: &Kind, mut object: Value) -> Result<Decoded, Misfit> {
    if let Some(what) = json_type(&object).filter(|_| !object.is_object()) {
        return Err(Misfit::NotAnObject(what));
    }
    check_type(kind, &object).map_err(Misfit::Refused)?;
    meta::set_type(&mut object, &kind.api_version(), &kind.kind);
    let mut strict_errors = Vec::new();
    if let Some(message) = Schema::get().of_kind(kind) {
        walk(message, &mut object, &mut strict_errors)
            .map_err(|why| Misfit::Refused(cannot_be_handled(&kind.version, &kind.kind, &why)))?;
    }
    Ok(Decoded { object, strict_errors })
}

/// The same for a message by name; `apiVersion` and `kind` stay as they were sent.
pub fn decode_value_as(schema_name: &str, mut object: Value) -> Result<Decoded, ApiError> {
    let mut strict_errors = Vec::new();
    if let Some(message) = Schema::get().message(schema_name) {
        walk(message, &mut object, &mut strict_errors).map_err(|why| {
            let mut parts = schema_name.rsplit('.');
            let (short, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            cannot_be_handled(version, short, &why)
        })?;
    }
    Ok(Decoded { object, strict_errors })
}

/// Bring an object of `kind` in its canonical form (see the module); unknown fields are dropped silently.
pub fn normalize(kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
    let taken = std::mem::take(object);
    *object = decode_value(kind, taken)?.object;
    Ok(())
}

/// The same for a message by name.
pub fn normalize_as(schema_name: &str, object: &mut Value) -> Result<(), ApiError> {
    let taken = std::mem::take(object);
    *object = decode_value_as(schema_name, taken)?.object;
    Ok(())
}

/// The fields of an object that its kind does not have, `unknown field "spec.foo"`. Nothing for custom resources.
pub fn unknown_fields(kind: &Kind, object: &Value) -> Vec<String> {
    unknown_fields_as(&kind.schema, object)
}

/// The same for a message by name.
pub fn unknown_fields_as(schema_name: &str, object: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(message) = Schema::get().message(schema_name) {
        let mut walker = Walker { schema: Schema::get(), unknown: &mut found, only_prune: true };
        let mut copy = object.clone();
        // Types are not looked at in this mode, so nothing is refused.
        let _pruned = walker.message(message, &mut copy, &Step::Root);
    }
    found
}

/// Drop the fields the kind does not have; nothing else changes.
pub fn prune(kind: &Kind, object: &mut Value) {
    if let Some(message) = Schema::get().of_kind(kind) {
        let mut unknown = Vec::new();
        let mut walker = Walker { schema: Schema::get(), unknown: &mut unknown, only_prune: true };
        let _pruned = walker.message(message, object, &Step::Root);
    }
}

/// The refusal of `fieldValidation=Strict`.
pub fn strict_error(kind: &Kind, strict_errors: &[String]) -> ApiError {
    cannot_be_handled(&kind.version, &kind.kind, &format!("strict decoding error: {}", strict_errors.join(", ")))
}

fn cannot_be_handled(version: &str, kind: &str, why: &str) -> ApiError {
    ApiError::bad_request(format!("{kind} in version {} cannot be handled as a {kind}: {why}", quote(version)))
}

fn not_an_object(what: &str) -> String {
    format!(
        "json: cannot unmarshal {what} into Go value of type struct {{ APIVersion string \
         \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
    )
}

/// Upstream's answer to a body in which no kind was found, with the beginning of the body.
fn unrecognized(kind: &str, why: &str, body: &[u8]) -> ApiError {
    const SHOWN: usize = 30;
    let cut = &body[..body.len().min(SHOWN)];
    let more = if body.len() > SHOWN { " ..." } else { "" };
    let summary = match body.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(cut)),
        Some(_) => format!("{}{more}", cut.iter().map(|b| format!("{b:02x}")).collect::<String>()),
    };
    ApiError::bad_request(format!(
        "the object provided is unrecognized (must be of type {kind}): couldn't get version/kind; json parse error: \
         {why} ({summary})"
    ))
}

/// Whether the object says it is of this kind (or does not say).
fn check_type(kind: &Kind, object: &Value) -> Result<(), ApiError> {
    let (api_version, name) = (meta::api_version(object), meta::kind(object));
    let (group, version) = split_api_version(api_version);
    let same_kind = name.is_empty() || name == kind.kind;
    let same_version = api_version.is_empty() || (group == kind.group && version == kind.version);
    if same_kind && same_version {
        return Ok(());
    }
    let name = if name.is_empty() { &kind.kind } else { name };
    let (group, version) =
        if api_version.is_empty() { (kind.group.as_str(), kind.version.as_str()) } else { (group, version) };
    if Registry::builtin().kind(group, version, name).is_none() {
        return Err(ApiError::bad_request(format!(
            "{name} in version {} cannot be handled as a {}: no kind {} is registered for version {} in scheme \
             \"pkg/api/legacyscheme/scheme.go:30\"",
            quote(version),
            kind.kind,
            quote(name),
            quote(if api_version.is_empty() { version } else { api_version }),
        )));
    }
    if name != kind.kind || group != kind.group {
        let internal = kind.group.split('.').next().filter(|g| !g.is_empty()).unwrap_or("core");
        return Err(ApiError::bad_request(format!(
            "{name} in version {} cannot be handled as a {}: converting ({version}.{name}) to ({internal}.{}): unknown \
             conversion",
            quote(version),
            kind.kind,
            kind.kind,
        )));
    }
    Err(ApiError::bad_request(format!(
        "the API version in the data ({api_version}) does not match the expected API version ({})",
        kind.api_version()
    )))
}

fn walk(message: &'static Message, object: &mut Value, strict_errors: &mut Vec<String>) -> Result<(), String> {
    let mut walker = Walker { schema: Schema::get(), unknown: strict_errors, only_prune: false };
    walker.message(message, object, &Step::Root)
}

/// The object Go starts from: structs that are no pointers are there, lists it always writes are null.
pub(crate) fn zero(message: &'static Message) -> Value {
    let schema = Schema::get();
    let mut map = Map::new();
    for field in schema.json_fields(message) {
        match &field.ty {
            Type::Message(id) if !field.pointer => {
                map.insert(field.name.into(), zero(schema.get_message(*id)));
            }
            Type::List(_) if field.always => {
                map.insert(field.name.into(), Value::Null);
            }
            _ => {}
        }
    }
    Value::Object(map)
}

struct Walker<'a> {
    schema: &'static Schema,
    unknown: &'a mut Vec<String>,
    /// Report and drop unknown fields, and nothing else.
    only_prune: bool,
}

impl Walker<'_> {
    fn message(&mut self, message: &'static Message, value: &mut Value, path: &Step<'_>) -> Result<(), String> {
        let Value::Object(map) = value else {
            return Ok(());
        };
        let mut failed = Ok(());
        map.retain(|key, value| {
            if failed.is_err() {
                return true;
            }
            let step = Step::Key(path, key);
            let Some((owner, field)) = self.schema.json_field(message, key) else {
                self.unknown.push(format!("unknown field {}", quote(&step.to_string())));
                return false;
            };
            if value.is_null() {
                return self.only_prune;
            }
            if let Err(why) = self.value(owner, &field.ty, value, &step) {
                failed = Err(why);
                return true;
            }
            self.only_prune || !omitted(field, value)
        });
        failed?;
        if !self.only_prune {
            self.fill(message, map);
        }
        Ok(())
    }

    /// Structs that are no pointers in Go are always written.
    fn fill(&self, message: &'static Message, map: &mut Map<String, Value>) {
        for field in self.schema.json_fields(message) {
            if let (Type::Message(id), false) = (&field.ty, field.pointer)
                && !map.contains_key(field.name)
            {
                let mut inner = Map::new();
                self.fill(self.schema.get_message(*id), &mut inner);
                map.insert(field.name.into(), Value::Object(inner));
            }
        }
    }

    fn value(&mut self, owner: &Message, ty: &Type, value: &mut Value, path: &Step<'_>) -> Result<(), String> {
        if self.only_prune {
            return self.descend(owner, ty, value, path);
        }
        let fits = match ty {
            Type::String | Type::Bytes | Type::Time | Type::MicroTime => value.is_string(),
            Type::Bool => value.is_boolean(),
            Type::Int32 | Type::Int64 | Type::Double => value.is_number(),
            Type::Quantity | Type::IntOrString => value.is_string() || value.is_number(),
            Type::Message(_) | Type::Map(_) => value.is_object(),
            Type::List(_) | Type::ExtraValue => value.is_array(),
            Type::RawExtension | Type::FieldsV1 | Type::Json => true,
            Type::SchemaOrBool => value.is_object() || value.is_boolean(),
            Type::SchemaOrArray | Type::SchemaOrStrings => value.is_object() || value.is_array(),
        };
        if !fits {
            return Err(self.unmarshal_error(owner, ty, json_type(value).unwrap_or("null"), path));
        }
        match ty {
            Type::Int32 if value.as_i64().and_then(|n| i32::try_from(n).ok()).is_none() => {
                return Err(self.unmarshal_error(owner, ty, &format!("number {value}"), path));
            }
            Type::Int64 if value.as_i64().is_none() => {
                return Err(self.unmarshal_error(owner, ty, &format!("number {value}"), path));
            }
            Type::IntOrString if value.is_number() && value.as_i64().and_then(|n| i32::try_from(n).ok()).is_none() => {
                return Err(format!("json: cannot unmarshal number {value} into Go value of type int32"));
            }
            Type::Quantity => *value = json!(quantity::canonical(value).map_err(|e| e.to_string())?),
            Type::Time | Type::MicroTime => canonical_time(ty, value)?,
            Type::Bytes => {
                if let Some(why) = value.as_str().and_then(base64_error) {
                    return Err(why);
                }
            }
            _ => {}
        }
        self.descend(owner, ty, value, path)
    }

    fn descend(&mut self, owner: &Message, ty: &Type, value: &mut Value, path: &Step<'_>) -> Result<(), String> {
        match ty {
            Type::Message(id) => self.message(self.schema.get_message(*id), value, path),
            Type::List(item) => {
                for (i, v) in value.as_array_mut().into_iter().flatten().enumerate() {
                    if v.is_null() && !self.only_prune {
                        *v = zero_of(item);
                    }
                    self.value(owner, item, v, &Step::Index(path, i))?;
                }
                Ok(())
            }
            Type::Map(item) => {
                for (key, v) in value.as_object_mut().into_iter().flatten() {
                    if v.is_null() && !self.only_prune {
                        *v = zero_of(item);
                    }
                    self.value(owner, item, v, &Step::Key(path, key))?;
                }
                Ok(())
            }
            Type::ExtraValue => {
                for (i, v) in value.as_array_mut().into_iter().flatten().enumerate() {
                    self.value(owner, &Type::String, v, &Step::Index(path, i))?;
                }
                Ok(())
            }
            Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings => {
                let Some(props) = self.schema.message(JSON_SCHEMA_PROPS) else { return Ok(()) };
                match value {
                    Value::Object(_) => self.message(props, value, path),
                    Value::Array(items) if *ty == Type::SchemaOrArray => {
                        for (i, v) in items.iter_mut().enumerate() {
                            self.message(props, v, &Step::Index(path, i))?;
                        }
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn unmarshal_error(&self, owner: &Message, ty: &Type, what: &str, path: &Step<'_>) -> String {
        format!(
            "json: cannot unmarshal {what} into Go struct field {}.{} of type {}",
            owner.short,
            path.without_indices(),
            self.go_type(ty)
        )
    }

    fn go_type(&self, ty: &Type) -> String {
        match ty {
            Type::String => "string".into(),
            Type::Bool => "bool".into(),
            Type::Int32 => "int32".into(),
            Type::Int64 => "int64".into(),
            Type::Double => "float64".into(),
            Type::Bytes => "[]uint8".into(),
            Type::Time => "v1.Time".into(),
            Type::MicroTime => "v1.MicroTime".into(),
            Type::Quantity => "resource.Quantity".into(),
            Type::IntOrString => "intstr.IntOrString".into(),
            Type::RawExtension => "runtime.RawExtension".into(),
            Type::FieldsV1 => "v1.FieldsV1".into(),
            Type::Json => "v1.JSON".into(),
            Type::ExtraValue => "v1.ExtraValue".into(),
            Type::SchemaOrBool => "v1.JSONSchemaPropsOrBool".into(),
            Type::SchemaOrArray => "v1.JSONSchemaPropsOrArray".into(),
            Type::SchemaOrStrings => "v1.JSONSchemaPropsOrStringArray".into(),
            Type::Message(id) => go_name(self.schema.get_message(*id)),
            Type::List(item) => format!("[]{}", self.go_type(item)),
            Type::Map(item) => format!("map[string]{}", self.go_type(item)),
        }
    }
}

pub(crate) const JSON_SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// Whether Go's `omitempty` leaves the field out. Structs are never empty to it.
pub(crate) fn omitted(field: &Field, value: &Value) -> bool {
    match field.ty {
        Type::List(_) | Type::Map(_) | Type::Bytes | Type::ExtraValue => !field.always && meta::is_empty(value),
        Type::String | Type::Bool | Type::Int32 | Type::Int64 | Type::Double => {
            !field.pointer && !field.always && meta::is_empty(value)
        }
        Type::Time | Type::MicroTime => value.as_str() == Some(""),
        _ => false,
    }
}

/// What a null in a list or map becomes.
fn zero_of(ty: &Type) -> Value {
    match ty {
        Type::String | Type::Bytes => json!(""),
        Type::Bool => json!(false),
        Type::Int32 | Type::Int64 | Type::Double | Type::IntOrString => json!(0),
        Type::Quantity => json!("0"),
        Type::List(_) | Type::ExtraValue => json!([]),
        Type::Message(_) | Type::Map(_) => json!({}),
        _ => Value::Null,
    }
}

fn canonical_time(ty: &Type, value: &mut Value) -> Result<(), String> {
    let Some(text) = value.as_str() else { return Ok(()) };
    if text.is_empty() {
        return Err("parsing time \"\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"2006\"".into());
    }
    let Some(t) = time::parse(text) else {
        return Err(format!(
            "parsing time {} as \"2006-01-02T15:04:05Z07:00\": cannot parse {} as \"2006\"",
            quote(text),
            quote(text)
        ));
    };
    let canonical = if *ty == Type::Time { time::format_seconds(t) } else { time::format_micros(t) };
    *value = Value::String(canonical);
    Ok(())
}

/// Go's complaint about a text that is not base64.
fn base64_error(text: &str) -> Option<String> {
    // Go skips line breaks.
    let cleaned: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    match STANDARD.decode(&cleaned) {
        Ok(_) => None,
        Err(e) => {
            let at = match e {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => cleaned.len() / 4 * 4,
            };
            Some(format!("illegal base64 data at input byte {at}"))
        }
    }
}

fn json_type(value: &Value) -> Option<&'static str> {
    match value {
        Value::Null => None,
        Value::Bool(_) => Some("bool"),
        Value::Number(_) => Some("number"),
        Value::String(_) => Some("string"),
        Value::Array(_) => Some("array"),
        Value::Object(_) => Some("object"),
    }
}

#[cfg(test)]
#[path = "decode_tests.rs"]
mod tests;
