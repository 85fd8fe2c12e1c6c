//! Bytes to JSON values.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Number, Value, json};

use super::wire::{self, Wire};
use super::{Envelope, MAGIC, ProtoError, decode_any, is_envelope};
use crate::schema::{Field, JSON_SCHEMA_PROPS, Message, Schema, Type, omitted};
use crate::time;

/// Messages in messages; upstream's deepest kind (a CRD's schema) is far above what this allows in practice.
const MAX_DEPTH: usize = 128;

pub(super) fn envelope(bytes: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    let mut rest = bytes.strip_prefix(MAGIC).ok_or(ProtoError::Magic)?;
    let mut envelope = Envelope::default();
    let text = |bytes, field| {
        std::str::from_utf8(bytes).map_err(|_| ProtoError::Utf8 { message: "runtime.Unknown".into(), field })
    };
    while let Some((number, value)) = wire::field(&mut rest)? {
        match (number, value) {
            (1, Wire::Bytes(mut type_meta)) => {
                while let Some((number, value)) = wire::field(&mut type_meta)? {
                    match (number, value) {
                        (1, Wire::Bytes(v)) => envelope.api_version = text(v, "apiVersion")?,
                        (2, Wire::Bytes(v)) => envelope.kind = text(v, "kind")?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => envelope.raw = raw,
            (3, Wire::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(ProtoError::ContentEncoding(text(encoding, "contentEncoding")?.to_owned()));
            }
            (4, Wire::Bytes(v)) => envelope.content_type = text(v, "contentType")?,
            _ => {}
        }
    }
    Ok(envelope)
}

pub(super) fn message(message: &'static Message, envelope: &Envelope<'_>) -> Result<Value, ProtoError> {
    if envelope.content_type.starts_with("application/json") {
        return serde_json::from_slice(envelope.raw).map_err(|e| ProtoError::Json {
            message: message.name.clone(),
            field: "raw",
            why: e.to_string(),
        });
    }
    let mut object = Map::new();
    Decoder { schema: Schema::get() }.fields(message, envelope.raw, &mut object, 0)?;
    Ok(Value::Object(object))
}

struct Decoder {
    schema: &'static Schema,
}

impl Decoder {
    fn fields(
        &self,
        message: &'static Message,
        mut bytes: &[u8],
        object: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<(), ProtoError> {
        if depth > MAX_DEPTH {
            return Err(ProtoError::Depth { message: message.name.clone() });
        }
        while let Some((number, wire)) = wire::field(&mut bytes)? {
            // Numbers are mostly in order and few: a scan is as fast as a table.
            let Some(field) = message.fields.iter().find(|f| f.number == number) else { continue };
            match (&field.ty, wire) {
                (Type::Message(id), Wire::Bytes(inner)) if field.inline => {
                    self.fields(self.schema.get_message(*id), inner, object, depth + 1)?;
                }
                (Type::List(item), wire) => {
                    let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                    let Value::Array(list) = list else { continue };
                    match (&**item, wire) {
                        (Type::Int32 | Type::Int64 | Type::Bool, Wire::Bytes(mut packed)) => {
                            while !packed.is_empty() {
                                let value = Wire::Varint(wire::varint(&mut packed)?);
                                list.push(self.value(message, field, item, value, depth)?);
                            }
                        }
                        (item, wire) => list.push(self.value(message, field, item, wire, depth)?),
                    }
                }
                (Type::Map(item), Wire::Bytes(entry)) => {
                    let (key, value) = self.entry(message, field, item, entry, depth)?;
                    let map = object.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                    if let Value::Object(map) = map {
                        map.insert(key, value);
                    }
                }
                (ty, wire) => {
                    let value = self.value(message, field, ty, wire, depth)?;
                    if value.is_null() || omitted(field, &value) {
                        object.remove(field.name);
                    } else {
                        object.insert(field.name.into(), value);
                    }
                }
            }
        }
        Ok(())
    }

    fn entry(
        &self,
        message: &'static Message,
        field: &'static Field,
        item: &Type,
        mut entry: &[u8],
        depth: usize,
    ) -> Result<(String, Value), ProtoError> {
        let (mut key, mut value) = (String::new(), None);
        while let Some((number, wire)) = wire::field(&mut entry)? {
            match (number, wire) {
                (1, Wire::Bytes(bytes)) => key = utf8(message, field, bytes)?,
                (2, wire) => value = Some(self.value(message, field, item, wire, depth)?),
                _ => {}
            }
        }
        let value = match value {
            Some(value) => value,
            None => match item {
                Type::String | Type::Bytes => json!(""),
                Type::Message(_) => json!({}),
                Type::Quantity => json!("0"),
                Type::ExtraValue => json!([]),
                _ => Value::Null,
            },
        };
        Ok((key, value))
    }

    fn value(
        &self,
        message: &'static Message,
        field: &'static Field,
        ty: &Type,
        wire: Wire<'_>,
        depth: usize,
    ) -> Result<Value, ProtoError> {
        let value = match (ty, wire) {
            (Type::String, Wire::Bytes(b)) => Value::String(utf8(message, field, b)?),
            (Type::Bool, Wire::Varint(v)) => Value::Bool(v != 0),
            (Type::Int32, Wire::Varint(v)) => json!(v as i32),
            (Type::Int64, Wire::Varint(v)) => json!(v as i64),
            (Type::Double, Wire::Fixed64(v)) => Number::from_f64(f64::from_bits(v)).map_or(json!(0), Value::Number),
            (Type::Bytes, Wire::Bytes(b)) => Value::String(STANDARD.encode(b)),
            (Type::Time | Type::MicroTime, Wire::Bytes(b)) => timestamp(ty, b)?,
            (Type::Quantity, Wire::Bytes(b)) => match single(b, 1)? {
                Some(Wire::Bytes(text)) if !text.is_empty() => Value::String(utf8(message, field, text)?),
                _ => json!("0"),
            },
            (Type::IntOrString, Wire::Bytes(b)) => match single(b, 1)? {
                Some(Wire::Varint(1)) => match single(b, 3)? {
                    Some(Wire::Bytes(text)) => Value::String(utf8(message, field, text)?),
                    _ => json!(""),
                },
                _ => match single(b, 2)? {
                    Some(Wire::Varint(v)) => json!(v as i32),
                    _ => json!(0),
                },
            },
            (Type::RawExtension | Type::FieldsV1 | Type::Json, Wire::Bytes(b)) => match single(b, 1)? {
                Some(Wire::Bytes(raw)) => embedded(message, field, raw, depth)?,
                _ => Value::Null,
            },
            (Type::ExtraValue, Wire::Bytes(b)) => Value::Array(strings(message, field, b, 1)?),
            (Type::SchemaOrBool, Wire::Bytes(b)) => match single(b, 2)? {
                Some(Wire::Bytes(schema)) => self.json_schema(schema, depth)?,
                _ => Value::Bool(matches!(single(b, 1)?, Some(Wire::Varint(1..)))),
            },
            (Type::SchemaOrArray, Wire::Bytes(mut b)) => {
                let (mut schemas, mut one) = (Vec::new(), None);
                while let Some((number, wire)) = wire::field(&mut b)? {
                    match (number, wire) {
                        (1, Wire::Bytes(schema)) => one = Some(self.json_schema(schema, depth)?),
                        (2, Wire::Bytes(schema)) => schemas.push(self.json_schema(schema, depth)?),
                        _ => {}
                    }
                }
                if schemas.is_empty() { one.unwrap_or(Value::Null) } else { Value::Array(schemas) }
            }
            (Type::SchemaOrStrings, Wire::Bytes(b)) => {
                let names = strings(message, field, b, 2)?;
                match single(b, 1)? {
                    Some(Wire::Bytes(schema)) if names.is_empty() => self.json_schema(schema, depth)?,
                    _ => Value::Array(names),
                }
            }
            (Type::Message(id), Wire::Bytes(b)) => {
                let mut inner = Map::new();
                self.fields(self.schema.get_message(*id), b, &mut inner, depth + 1)?;
                Value::Object(inner)
            }
            (_, wire) => {
                return Err(ProtoError::Mismatch {
                    message: message.name.clone(),
                    field: field.name,
                    wire_type: wire.number(),
                });
            }
        };
        Ok(value)
    }

    fn json_schema(&self, bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
        let mut object = Map::new();
        if let Some(props) = self.schema.message(JSON_SCHEMA_PROPS) {
            self.fields(props, bytes, &mut object, depth + 1)?;
        }
        Ok(Value::Object(object))
    }
}

fn utf8(message: &Message, field: &'static Field, bytes: &[u8]) -> Result<String, ProtoError> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(ProtoError::Utf8 { message: message.name.clone(), field: field.name }),
    }
}

/// The last value of one field of a message.
fn single(mut bytes: &[u8], wanted: u32) -> Result<Option<Wire<'_>>, ProtoError> {
    let mut found = None;
    while let Some((number, wire)) = wire::field(&mut bytes)? {
        if number == wanted {
            found = Some(wire);
        }
    }
    Ok(found)
}

fn strings(message: &Message, field: &'static Field, mut bytes: &[u8], wanted: u32) -> Result<Vec<Value>, ProtoError> {
    let mut found = Vec::new();
    while let Some((number, wire)) = wire::field(&mut bytes)? {
        if let (true, Wire::Bytes(text)) = (number == wanted, wire) {
            found.push(Value::String(utf8(message, field, text)?));
        }
    }
    Ok(found)
}

/// Go's zero time is an empty message, and null in JSON.
fn timestamp(ty: &Type, bytes: &[u8]) -> Result<Value, ProtoError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let number = |n| match single(bytes, n) {
        Ok(Some(Wire::Varint(v))) => Ok(v as i64),
        Ok(_) => Ok(0),
        Err(e) => Err(e),
    };
    let (seconds, nanos) = (number(1)?, number(2)? as i32);
    let Ok(t) = Timestamp::new(seconds, nanos) else {
        return Ok(Value::Null);
    };
    Ok(Value::String(if *ty == Type::Time { time::format_seconds(t) } else { time::format_micros(t) }))
}

/// JSON in bytes, or (RawExtension) another object with an envelope of its own.
fn embedded(message: &Message, field: &'static Field, raw: &[u8], depth: usize) -> Result<Value, ProtoError> {
    if raw.is_empty() {
        return Ok(Value::Null);
    }
    let failed = |why: String| ProtoError::Json { message: message.name.clone(), field: field.name, why };
    if is_envelope(raw) {
        // An envelope in an envelope: once is what Go writes.
        if depth > MAX_DEPTH / 2 || envelope(raw)?.raw.windows(MAGIC.len()).any(|w| w == MAGIC) {
            return Err(ProtoError::Depth { message: message.name.clone() });
        }
        return decode_any(raw).map_err(|e| failed(e.message));
    }
    serde_json::from_slice(raw).map_err(|e| failed(e.to_string()))
}
