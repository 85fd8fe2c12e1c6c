//! JSON values to bytes. Fields the schema does not know are left out; they have no number.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::wire::{put_bytes, put_fixed64, put_number};
use super::{MAGIC, ProtoError};
use crate::schema::{Field, JSON_SCHEMA_PROPS, Message, Schema, Type};
use crate::time;

pub(super) fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut type_meta = Vec::new();
    put_bytes(&mut type_meta, 1, api_version.as_bytes());
    put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(raw.len() + type_meta.len() + 16);
    out.extend_from_slice(MAGIC);
    put_bytes(&mut out, 1, &type_meta);
    put_bytes(&mut out, 2, raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out
}

pub(super) fn message(message: &'static Message, object: &Value) -> Result<Vec<u8>, ProtoError> {
    let mut out = Vec::new();
    for field in &message.fields {
        if let (Type::Message(id), true) = (&field.ty, field.inline) {
            let inner = self::message(Schema::get().get_message(*id), object)?;
            put_bytes(&mut out, field.number, &inner);
            continue;
        }
        let Some(value) = object.get(field.name).filter(|v| !v.is_null()) else { continue };
        match (&field.ty, value) {
            (Type::List(item), Value::Array(items)) => {
                for v in items {
                    put(&mut out, message, field, item, field.number, v)?;
                }
            }
            (Type::Map(item), Value::Object(entries)) => {
                for (key, v) in entries {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, key.as_bytes());
                    put(&mut entry, message, field, item, 2, v)?;
                    put_bytes(&mut out, field.number, &entry);
                }
            }
            (ty, value) => put(&mut out, message, field, ty, field.number, value)?,
        }
    }
    Ok(out)
}

fn put(
    out: &mut Vec<u8>,
    message: &Message,
    field: &'static Field,
    ty: &Type,
    number: u32,
    value: &Value,
) -> Result<(), ProtoError> {
    let unwritable = || ProtoError::Unwritable {
        message: message.name.clone(),
        field: field.name,
        why: format!("{value} does not fit its type"),
    };
    match ty {
        Type::String => put_bytes(out, number, value.as_str().ok_or_else(unwritable)?.as_bytes()),
        Type::Bool => put_number(out, number, value.as_bool().ok_or_else(unwritable)?.into()),
        Type::Int32 | Type::Int64 => put_number(out, number, value.as_i64().ok_or_else(unwritable)? as u64),
        Type::Double => put_fixed64(out, number, value.as_f64().ok_or_else(unwritable)?.to_bits()),
        Type::Bytes => {
            let bytes = value.as_str().and_then(|s| STANDARD.decode(s).ok()).ok_or_else(unwritable)?;
            put_bytes(out, number, &bytes);
        }
        Type::Time | Type::MicroTime => {
            let t = value.as_str().and_then(time::parse).ok_or_else(unwritable)?;
            let mut inner = Vec::new();
            put_number(&mut inner, 1, t.as_second() as u64);
            put_number(&mut inner, 2, t.subsec_nanosecond() as u64);
            put_bytes(out, number, &inner);
        }
        Type::Quantity => {
            let text = crate::quantity::canonical(value).map_err(|_| unwritable())?;
            let mut inner = Vec::new();
            put_bytes(&mut inner, 1, text.as_bytes());
            put_bytes(out, number, &inner);
        }
        Type::IntOrString => {
            let mut inner = Vec::new();
            match value {
                Value::String(s) => {
                    put_number(&mut inner, 1, 1);
                    put_number(&mut inner, 2, 0);
                    put_bytes(&mut inner, 3, s.as_bytes());
                }
                other => {
                    put_number(&mut inner, 1, 0);
                    put_number(&mut inner, 2, other.as_i64().ok_or_else(unwritable)? as u64);
                    put_bytes(&mut inner, 3, b"");
                }
            }
            put_bytes(out, number, &inner);
        }
        Type::RawExtension | Type::FieldsV1 | Type::Json => {
            let mut inner = Vec::new();
            put_bytes(&mut inner, 1, value.to_string().as_bytes());
            put_bytes(out, number, &inner);
        }
        Type::ExtraValue => {
            let mut inner = Vec::new();
            for s in value.as_array().into_iter().flatten() {
                put_bytes(&mut inner, 1, s.as_str().ok_or_else(unwritable)?.as_bytes());
            }
            put_bytes(out, number, &inner);
        }
        Type::SchemaOrBool | Type::SchemaOrArray | Type::SchemaOrStrings => {
            put_bytes(out, number, &schema_or(ty, value)?);
        }
        Type::Message(id) => {
            if !value.is_object() {
                return Err(unwritable());
            }
            put_bytes(out, number, &self::message(Schema::get().get_message(*id), value)?);
        }
        Type::List(_) | Type::Map(_) => return Err(unwritable()),
    }
    Ok(())
}

fn schema_or(ty: &Type, value: &Value) -> Result<Vec<u8>, ProtoError> {
    let schema = |v: &Value| match Schema::get().message(JSON_SCHEMA_PROPS) {
        Some(props) => message(props, v),
        None => Ok(Vec::new()),
    };
    let mut inner = Vec::new();
    match (ty, value) {
        (Type::SchemaOrBool, Value::Bool(allows)) => put_number(&mut inner, 1, (*allows).into()),
        (Type::SchemaOrBool, v) => {
            put_number(&mut inner, 1, 1);
            put_bytes(&mut inner, 2, &schema(v)?);
        }
        (Type::SchemaOrArray, Value::Array(items)) => {
            for v in items {
                put_bytes(&mut inner, 2, &schema(v)?);
            }
        }
        (Type::SchemaOrStrings, Value::Array(items)) => {
            for v in items {
                put_bytes(&mut inner, 2, v.as_str().unwrap_or_default().as_bytes());
            }
        }
        (_, v) => put_bytes(&mut inner, 1, &schema(v)?),
    }
    Ok(inner)
}
