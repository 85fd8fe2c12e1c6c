//! The v2 document as protobuf: `openapi.v2.Document` of google/gnostic-models, the form client-go asks for.
//!
//! Only what the document has is written; the numbers are those of openapiv2/OpenAPIv2.proto.

use serde_json::{Map, Value};

/// A message under construction.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.0.push(v as u8 | 0x80);
            v >>= 7;
        }
        self.0.push(v as u8);
    }

    fn bytes(&mut self, field: u32, b: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(b.len() as u64);
        self.0.extend_from_slice(b);
    }

    fn message(&mut self, field: u32, m: Bytes) {
        self.bytes(field, &m.0);
    }

    fn text(&mut self, field: u32, v: &Value) {
        if let Some(s) = v.as_str().filter(|s| !s.is_empty()) {
            self.bytes(field, s.as_bytes());
        }
    }

    fn texts(&mut self, field: u32, v: &Value) {
        for s in v.as_array().into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(field, s.as_bytes());
        }
    }

    fn flag(&mut self, field: u32, v: &Value) {
        if v == true {
            self.varint(u64::from(field) << 3);
            self.varint(1);
        }
    }

    /// `{1: name, 2: value}`, the shape of every named thing.
    fn named(&mut self, field: u32, name: &str, value: Bytes) {
        let mut pair = Bytes::default();
        pair.bytes(1, name.as_bytes());
        pair.message(2, value);
        self.message(field, pair);
    }

    /// Vendor extensions, the `x-` keys: named Any values as YAML (JSON is YAML).
    fn extensions(&mut self, field: u32, of: &Map<String, Value>) {
        for (key, value) in of.iter().filter(|(k, _)| k.starts_with("x-")) {
            self.named(field, key, any(value));
        }
    }
}

/// `openapi.v2.Any` with the YAML text only.
fn any(value: &Value) -> Bytes {
    let mut m = Bytes::default();
    m.bytes(2, format!("{value}\n").as_bytes());
    m
}

fn entries(v: &Value) -> impl Iterator<Item = (&String, &Value)> {
    v.as_object().into_iter().flatten()
}

/// Encode a v2 document (as [`super::v2`] makes it).
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    let mut out = Bytes::default();
    out.text(1, &document["swagger"]);
    let mut info = Bytes::default();
    info.text(1, &document["info"]["title"]);
    info.text(2, &document["info"]["version"]);
    out.message(2, info);
    let mut paths = Bytes::default();
    for (name, item) in entries(&document["paths"]) {
        paths.named(2, name, path_item(item));
    }
    out.message(8, paths);
    let mut definitions = Bytes::default();
    for (name, schema) in entries(&document["definitions"]) {
        definitions.named(1, name, self::schema(schema));
    }
    out.message(9, definitions);
    for requirement in document["security"].as_array().into_iter().flatten() {
        let mut m = Bytes::default();
        for (name, scopes) in entries(requirement) {
            let mut list = Bytes::default();
            list.texts(1, scopes);
            m.named(1, name, list);
        }
        out.message(12, m);
    }
    let mut security = Bytes::default();
    for (name, definition) in entries(&document["securityDefinitions"]) {
        let mut key = Bytes::default();
        key.text(1, &definition["type"]);
        key.text(2, &definition["name"]);
        key.text(3, &definition["in"]);
        key.text(4, &definition["description"]);
        let mut item = Bytes::default();
        item.message(2, key);
        security.named(1, name, item);
    }
    out.message(13, security);
    out.0
}

fn path_item(item: &Value) -> Bytes {
    let mut m = Bytes::default();
    for (field, method) in
        [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")]
    {
        if let Some(o) = item.get(method).and_then(Value::as_object) {
            m.message(field, operation(o));
        }
    }
    for p in item["parameters"].as_array().into_iter().flatten() {
        m.message(9, parameter(p));
    }
    m
}

fn operation(o: &Map<String, Value>) -> Bytes {
    let get = |key: &str| o.get(key).unwrap_or(&Value::Null);
    let mut m = Bytes::default();
    m.texts(1, get("tags"));
    m.text(3, get("description"));
    m.text(5, get("operationId"));
    m.texts(6, get("produces"));
    m.texts(7, get("consumes"));
    for p in get("parameters").as_array().into_iter().flatten() {
        m.message(8, parameter(p));
    }
    let mut responses = Bytes::default();
    for (code, response) in entries(get("responses")) {
        let mut r = Bytes::default();
        r.text(1, &response["description"]);
        if response["schema"].is_object() {
            let mut item = Bytes::default();
            item.message(1, schema(&response["schema"]));
            r.message(2, item);
        }
        let mut value = Bytes::default();
        value.message(1, r);
        responses.named(1, code, value);
    }
    m.message(9, responses);
    m.texts(10, get("schemes"));
    m.extensions(13, o);
    m
}

/// A `ParametersItem` that holds a body, query or path parameter.
fn parameter(p: &Value) -> Bytes {
    let mut inner = Bytes::default();
    let mut parameter = Bytes::default();
    if p["in"] == "body" {
        inner.text(1, &p["description"]);
        inner.text(2, &p["name"]);
        inner.text(3, &p["in"]);
        inner.flag(4, &p["required"]);
        inner.message(5, schema(&p["schema"]));
        parameter.message(1, inner);
    } else {
        inner.flag(1, &p["required"]);
        inner.text(2, &p["in"]);
        inner.text(3, &p["description"]);
        inner.text(4, &p["name"]);
        // Query parameters have allowEmptyValue in between, which moves the type by one.
        let path = p["in"] == "path";
        inner.text(if path { 5 } else { 6 }, &p["type"]);
        inner.flag(if path { 19 } else { 20 }, &p["uniqueItems"]);
        let mut non_body = Bytes::default();
        non_body.message(if path { 4 } else { 3 }, inner);
        parameter.message(2, non_body);
    }
    let mut item = Bytes::default();
    item.message(1, parameter);
    item
}

fn schema(s: &Value) -> Bytes {
    let mut m = Bytes::default();
    m.text(1, &s["$ref"]);
    m.text(2, &s["format"]);
    m.text(4, &s["description"]);
    if let Some(default) = s.get("default") {
        m.message(5, any(default));
    }
    m.texts(19, &s["required"]);
    match &s["additionalProperties"] {
        Value::Object(_) => {
            let mut item = Bytes::default();
            item.message(1, schema(&s["additionalProperties"]));
            m.message(21, item);
        }
        Value::Bool(allowed) => {
            let mut item = Bytes::default();
            item.varint(2 << 3);
            item.varint((*allowed).into());
            m.message(21, item);
        }
        _ => {}
    }
    if s["type"].is_string() {
        let mut ty = Bytes::default();
        ty.text(1, &s["type"]);
        m.message(22, ty);
    }
    if s["items"].is_object() {
        let mut items = Bytes::default();
        items.message(1, schema(&s["items"]));
        m.message(23, items);
    }
    if s["properties"].is_object() {
        let mut properties = Bytes::default();
        for (name, property) in entries(&s["properties"]) {
            properties.named(1, name, schema(property));
        }
        m.message(25, properties);
    }
    if let Some(map) = s.as_object() {
        m.extensions(31, map);
    }
    m
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_document_begins_with_its_version() {
        let bytes = v2_protobuf(&json!({"swagger": "2.0", "info": {"title": "t", "version": "v"}}));
        assert_eq!(&bytes[..5], b"\x0a\x032.0");
        assert_eq!(&bytes[5..13], b"\x12\x06\x0a\x01t\x12\x01v");
    }

    #[test]
    fn a_property_is_a_named_schema() {
        let bytes = schema(&json!({"type": "object", "properties": {"a": {"type": "string"}}})).0;
        let ty = |t: &[u8]| [&[0xb2, 0x01, t.len() as u8 + 2, 0x0a, t.len() as u8], t].concat();
        let property = [b"\x0a\x01a\x12\x0b".as_slice(), &ty(b"string")].concat();
        let properties = [&[0x0a, property.len() as u8], property.as_slice()].concat();
        let expected = [ty(b"object"), vec![0xca, 0x01, properties.len() as u8], properties].concat();
        assert_eq!(bytes, expected);
    }
}
