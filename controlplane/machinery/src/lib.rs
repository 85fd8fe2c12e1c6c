//! Kubernetes API semantics with no I/O: what the kinds are, how their bytes become values, how a patch changes them,
//! how they are selected, shown and described, and how an error is worded.
//!
//! Objects are `serde_json::Value`s everywhere, so that unknown and future fields survive. Nothing here may know of
//! sockets, files, clocks (callers pass `now`) or the store.
#![forbid(unsafe_code)]

pub mod apply;
pub mod convert;
pub mod discovery;
pub mod field;
pub mod intorstring;
pub mod meta;
pub mod names;
pub mod openapi;
pub mod patch;
pub mod proto;
pub mod quantity;
pub mod registry;
pub mod scale;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod time;

pub use registry::{GroupKind, GroupResource, Kind, Registry, Subresource, Verbs};
pub use status::ApiError;

#[cfg(test)]
mod properties;
