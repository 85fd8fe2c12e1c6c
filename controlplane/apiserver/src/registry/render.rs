//! Objects as the client wants to see them: whole, as metadata, as a table row; one, a list, or one after another.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use strake_machinery::{
    ApiError, Kind, meta,
    table::{self, IncludeObject},
};
use strake_store::Revision;

use super::{convert, list::Page, op::Op};
use crate::{
    cache::Object,
    http::{
        body::Body,
        negotiate::{Accepted, Encoding, Shape},
        respond::{self, Format},
    },
    query::Query,
};

/// Turns objects of one kind into one client's shape.
pub struct Renderer {
    kind: Arc<Kind>,
    stored: Arc<Kind>,
    accepted: Accepted,
    include: IncludeObject,
    headed: bool,
}

fn partial(object: &Value, api_version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": api_version, "metadata": object["metadata"]})
}

/// Tables of meta.k8s.io/v1 are those of v1beta1 under another name.
fn set_version(table: &mut Value, api_version: &str) {
    table["apiVersion"] = api_version.into();
}

impl Renderer {
    /// A renderer for the answers to an operation.
    pub fn new(op: &Op<'_>, accepted: Accepted, query: &Query) -> Self {
        let include =
            IncludeObject::parse(query.get("includeObject").unwrap_or_default()).unwrap_or(IncludeObject::Metadata);
        Self { kind: Arc::clone(op.kind), stored: Arc::clone(op.stored), accepted, include, headed: false }
    }

    fn same_version(&self) -> bool {
        self.kind.group == self.stored.group && self.kind.version == self.stored.version
    }

    fn requested(&self, value: Value) -> Value {
        convert::convert(&self.stored, &self.kind, value)
    }

    fn bytes(&self, value: &Value) -> Result<Bytes, ApiError> {
        let written = match self.accepted.encoding {
            Encoding::Json => serde_json::to_vec(value).map_err(ApiError::internal)?,
            Encoding::Yaml => serde_saphyr::to_string(value).map_err(ApiError::internal)?.into_bytes(),
        };
        Ok(written.into())
    }

    fn table(&self, objects: &[&Value], metadata: &Value, api_version: &str) -> Value {
        let mut table = table::table(&self.kind, objects, Some(metadata), self.include, jiff::Timestamp::now());
        set_version(&mut table, api_version);
        table
    }

    /// One object of a watch. Tables carry their column definitions in the first one only.
    ///
    /// # Errors
    /// 500 when the object cannot be written.
    pub fn one(&mut self, object: &Object) -> Result<Bytes, ApiError> {
        let shape = self.accepted.shape;
        if shape == Shape::Object && self.same_version() && self.accepted.encoding == Encoding::Json {
            return Ok(object.json.clone());
        }
        let value = self.requested(object.value());
        match shape {
            Shape::Object => self.bytes(&value),
            Shape::Metadata { api_version } => self.bytes(&partial(&value, api_version)),
            Shape::Table { api_version } => {
                let headers = !std::mem::replace(&mut self.headed, true);
                let mut table = table::event_table(&self.kind, &value, headers, self.include, jiff::Timestamp::now());
                set_version(&mut table, api_version);
                self.bytes(&table)
            }
        }
    }

    /// The object of a bookmark.
    ///
    /// # Errors
    /// 500 when it cannot be written.
    pub fn bookmark(&self, revision: Revision, initial_events_end: bool) -> Result<Bytes, ApiError> {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_events_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata});
        match self.accepted.shape {
            Shape::Object => self.bytes(&object),
            Shape::Metadata { api_version } => self.bytes(&partial(&object, api_version)),
            Shape::Table { api_version } => {
                let mut table = table::event_table(&self.kind, &object, false, self.include, jiff::Timestamp::now());
                set_version(&mut table, api_version);
                self.bytes(&table)
            }
        }
    }

    /// The media type of a watch's stream.
    pub fn watch_content_type(&self) -> &'static str {
        match self.accepted.encoding {
            Encoding::Json => "application/json",
            Encoding::Yaml => "application/yaml",
        }
    }

    /// An answer with one object given in the requested version.
    pub fn object(&self, status: StatusCode, value: &Value, format: Format) -> Response<Body> {
        match self.accepted.shape {
            Shape::Object => respond::object(status, value, format),
            // Statuses and other kinds are answered as they are.
            _ if meta::kind(value) != self.kind.kind => respond::object(status, value, format),
            Shape::Metadata { api_version } => respond::object(status, &partial(value, api_version), format),
            Shape::Table { api_version } => {
                let version = json!({"resourceVersion": meta::resource_version(value)});
                respond::object(status, &self.table(&[value], &version, api_version), format)
            }
        }
    }

    /// An answer with one object of the cache.
    pub fn cached(&self, object: &Object, format: Format) -> Response<Body> {
        if self.accepted.shape == Shape::Object && self.same_version() {
            let mut json = BytesMut::with_capacity(object.json.len() + 1);
            json.put_slice(&object.json);
            json.put_u8(b'\n');
            return respond::serialised(StatusCode::OK, json.freeze(), format);
        }
        self.object(StatusCode::OK, &self.requested(object.value()), format)
    }

    /// An answer with a page of objects.
    pub fn page(&self, page: &Page, format: Format) -> Response<Body> {
        let mut metadata = json!({"resourceVersion": page.revision.to_string()});
        if let Some(next) = &page.next {
            metadata["continue"] = next.as_str().into();
        }
        if let Some(remaining) = page.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        match self.accepted.shape {
            Shape::Object => {
                let head =
                    json!({"kind": self.kind.list_kind(), "apiVersion": self.kind.api_version(), "metadata": metadata});
                let mut head = head.to_string();
                head.pop();
                let size: usize = page.objects.iter().map(|object| object.json.len() + 1).sum();
                let mut json = BytesMut::with_capacity(head.len() + size + 16);
                json.put_slice(head.as_bytes());
                json.put_slice(b",\"items\":[");
                for (index, object) in page.objects.iter().enumerate() {
                    if index > 0 {
                        json.put_u8(b',');
                    }
                    if self.same_version() {
                        json.put_slice(&object.json);
                    } else {
                        json.put_slice(self.requested(object.value()).to_string().as_bytes());
                    }
                }
                json.put_slice(b"]}\n");
                respond::serialised(StatusCode::OK, json.freeze(), format)
            }
            Shape::Metadata { api_version } => {
                let items: Vec<Value> =
                    page.objects.iter().map(|object| partial(&self.requested(object.value()), api_version)).collect();
                let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": api_version, "metadata": metadata, "items": items});
                respond::object(StatusCode::OK, &list, format)
            }
            Shape::Table { api_version } => {
                let values: Vec<Value> = page.objects.iter().map(|object| self.requested(object.value())).collect();
                let values: Vec<&Value> = values.iter().collect();
                respond::object(StatusCode::OK, &self.table(&values, &metadata, api_version), format)
            }
        }
    }
}
