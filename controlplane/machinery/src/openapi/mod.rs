//! OpenAPI documents made from the registry and the schema: v3, one a group and version (KEP-2896), and the old v2 of
//! everything, as JSON and as protobuf.
//!
//! Clients use them to explain fields, to validate before they send, and to find out whether the server knows
//! `fieldValidation`.

mod descriptions;
mod gnostic;
mod paths;
mod schemas;

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use crate::registry::{Kind, Registry};

pub use gnostic::v2_protobuf;

/// `Content-Type` of the v2 document as protobuf.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// The same as clients ask for it.
pub const V2_PROTOBUF_ACCEPT: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// Which of the two notations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> Value {
        match self {
            Dialect::V2 => json!({"$ref": format!("#/definitions/{name}")}),
            Dialect::V3 => json!({"$ref": format!("#/components/schemas/{name}")}),
        }
    }
}

/// `/openapi/v3`: where the document of each group and version is. The URL changes when the document does, so that
/// clients may keep it for ever.
pub fn v3_index(registry: &Registry) -> Value {
    let mut paths = Map::new();
    for group in registry.groups() {
        for version in &group.versions {
            let path = v3_path(&group.name, version);
            let hash = hash(registry, &group.name, version);
            paths.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}));
        }
    }
    json!({"paths": paths})
}

/// The document's name in the index and in its path: `api/v1`, `apis/apps/v1`.
pub fn v3_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// What the document of a group and version is made from, as 16 hexadecimal digits; serves as its ETag too.
pub fn hash(registry: &Registry, group: &str, version: &str) -> String {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    include_str!("../schema/kinds.txt").hash(&mut hasher);
    for kind in registry.in_group_version(group, version) {
        format!("{kind:?}").hash(&mut hasher);
    }
    format!("{:016x}", hasher.finish())
}

/// The v3 document of a group and version; none if there is no such group and version.
pub fn v3(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    if !registry.has_group_version(group, version) {
        return None;
    }
    let kinds: Vec<&Kind> = registry.in_group_version(group, version).map(|k| &**k).collect();
    let mut wanted = BTreeSet::new();
    let mut all_paths = Map::new();
    for kind in &kinds {
        paths::of_kind(kind, Dialect::V3, &mut all_paths, &mut wanted);
    }
    paths::resource_list(group, version, Dialect::V3, &mut all_paths);
    let schemas = schemas::closure(registry, &kinds, wanted, Dialect::V3);
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": all_paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"BearerToken": {
                "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header",
            }},
        },
    }))
}

/// The v2 document of everything.
pub fn v2(registry: &Registry) -> Value {
    let mut wanted = BTreeSet::new();
    let mut all_paths = Map::new();
    let kinds: Vec<&Kind> = registry.kinds().iter().map(|k| &**k).collect();
    for kind in &kinds {
        paths::of_kind(kind, Dialect::V2, &mut all_paths, &mut wanted);
    }
    for group in registry.groups() {
        for version in &group.versions {
            paths::resource_list(&group.name, version, Dialect::V2, &mut all_paths);
        }
    }
    let definitions = schemas::closure(registry, &kinds, wanted, Dialect::V2);
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": all_paths,
        "definitions": definitions,
        "securityDefinitions": {"BearerToken": {
            "description": "Bearer Token authentication", "type": "apiKey", "name": "authorization", "in": "header",
        }},
        "security": [{"BearerToken": []}],
    })
}

#[cfg(test)]
mod tests;
