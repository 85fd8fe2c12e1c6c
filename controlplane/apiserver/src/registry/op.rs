//! What an operation on objects is about: kind, place, who asks, and the options every write has.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use strake_auth::UserInfo;
use strake_machinery::{ApiError, Kind, apply::Manager, meta};

use super::convert;
use crate::{api::Api, cache::ResourceCache, query::Query};

/// Texts for the client's Warning headers.
#[derive(Debug, Default)]
pub struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    /// Adds a warning once.
    pub fn add(&self, text: impl Into<String>) {
        let (mut list, text) = (self.0.lock(), text.into());
        if !list.contains(&text) {
            list.push(text);
        }
    }

    /// The warnings so far.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock())
    }
}

/// What to do about unknown and duplicate fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Say nothing.
    Ignore,
    /// Warning headers (the server's default).
    #[default]
    Warn,
    /// 400.
    Strict,
}

/// The options of create, update and patch.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions {
    /// Do everything but store.
    pub dry_run: bool,
    /// What to do about unknown and duplicate fields.
    pub field_validation: FieldValidation,
    /// The object is the outcome of a server-side apply: it says itself who owns which field.
    pub applied: bool,
}

impl WriteOptions {
    /// Reads the query parameters.
    ///
    /// # Errors
    /// 422 as upstream for values it does not know.
    pub fn parse(query: &Query, options_kind: &str) -> Result<Self, ApiError> {
        use strake_machinery::{
            GroupKind,
            field::{FieldError, Path},
        };
        let mut errors = Vec::new();
        let dry_run = dry_run(query.all("dryRun"), &mut errors);
        let field_validation = match query.get("fieldValidation").unwrap_or_default() {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                errors.push(FieldError::not_supported(
                    &Path::new("fieldValidation"),
                    other,
                    &["Ignore", "Strict", "Warn"],
                ));
                FieldValidation::Warn
            }
        };
        if query.get("fieldManager").is_some_and(|manager| manager.len() > 128) {
            errors.push(FieldError::too_long(&Path::new("fieldManager"), 128));
        }
        if errors.is_empty() {
            Ok(Self { dry_run, field_validation, applied: false })
        } else {
            Err(ApiError::invalid(GroupKind::new("meta.k8s.io", options_kind), "", errors))
        }
    }
}

/// Whether `dryRun` values ask for a dry run; unknown ones become errors.
pub fn dry_run<'a>(
    values: impl Iterator<Item = &'a str>,
    errors: &mut Vec<strake_machinery::field::FieldError>,
) -> bool {
    use strake_machinery::field::{FieldError, Path};
    let mut dry = false;
    for value in values {
        match value {
            "All" => dry = true,
            "" => {}
            other => errors.push(FieldError::not_supported(&Path::new("dryRun"), other, &["All"])),
        }
    }
    dry
}

/// One operation on one object or collection.
#[derive(Clone, Copy)]
pub struct Op<'a> {
    /// The server.
    pub api: &'a Api,
    /// The kind in the requested version.
    pub kind: &'a Arc<Kind>,
    /// The kind in the version its objects are stored in.
    pub stored: &'a Arc<Kind>,
    /// Namespace; "" for cluster scope and for all namespaces.
    pub namespace: &'a str,
    /// Name; "" for collections.
    pub name: &'a str,
    /// Subresource; "" for the object itself.
    pub subresource: &'a str,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Under which name the writer owns fields.
    pub manager: &'a str,
    /// Options of writes.
    pub options: WriteOptions,
    /// Where warnings go.
    pub warnings: &'a Warnings,
}

impl<'a> Op<'a> {
    /// The operation of a component of the server itself on a built-in kind.
    ///
    /// # Errors
    /// 500 when the registry has no such kind.
    pub fn internal(
        api: &'a Api,
        group: &str,
        resource: &str,
        namespace: &'a str,
        name: &'a str,
        warnings: &'a Warnings,
    ) -> Result<Self, ApiError> {
        let kind = api
            .kinds
            .preferred_resource(group, resource)
            .ok_or_else(|| ApiError::internal(format!("no kind is registered for {resource}.{group}")))?;
        Ok(Self {
            api,
            kind,
            stored: api.kinds.storage_kind(kind).unwrap_or(kind),
            namespace,
            name,
            subresource: "",
            user: &api.system_user,
            manager: "kube-apiserver",
            options: WriteOptions::default(),
            warnings,
        })
    }

    /// The same for another object.
    pub fn on(self, namespace: &'a str, name: &'a str) -> Self {
        Self { namespace, name, ..self }
    }

    /// The same for a subresource.
    pub fn subresource(self, subresource: &'a str) -> Self {
        Self { subresource, ..self }
    }

    /// The key of the object in the store.
    pub fn key(&self) -> String {
        self.stored.storage_key(self.namespace, self.name)
    }

    /// The cache of the kind.
    ///
    /// # Errors
    /// 500 when the kind is not stored.
    pub fn cache(&self) -> Result<&'a Arc<ResourceCache>, ApiError> {
        self.api
            .cache_of(self.stored)
            .ok_or_else(|| ApiError::internal(format!("{} is not a stored kind", self.kind.plural)))
    }

    /// A value in the storage version, from one in the requested version.
    pub fn to_storage(self, value: Value) -> Value {
        convert::convert(self.kind, self.stored, value)
    }

    /// A value in the requested version, from one in the storage version.
    pub fn to_requested(self, value: Value) -> Value {
        convert::convert(self.stored, self.kind, value)
    }

    /// Whether stored bytes can be answered as they are.
    pub fn same_version(&self) -> bool {
        self.kind.group == self.stored.group && self.kind.version == self.stored.version
    }

    /// 404 for the operation's object.
    pub fn not_found(&self) -> ApiError {
        ApiError::not_found(self.kind, self.name)
    }

    /// The writer, as field ownership knows it.
    pub fn field_manager(&self) -> Manager<'a> {
        Manager { name: self.manager, subresource: self.subresource, now: jiff::Timestamp::now() }
    }

    /// The event TTL, for kinds that expire.
    pub fn ttl(&self) -> Option<std::time::Duration> {
        (self.stored.plural == "events").then_some(self.api.config.event_ttl)
    }
}

/// Now, as `metav1.Time` writes it.
pub fn now() -> String {
    strake_machinery::time::format_seconds(jiff::Timestamp::now())
}

/// Whether an object is being deleted and nothing holds it any more.
pub fn may_vanish(kind: &Kind, object: &Value) -> bool {
    if !meta::is_being_deleted(object) || meta::finalizers(object).next().is_some() {
        return false;
    }
    if kind.is("", "Namespace") && !meta::list_at(object, &["spec", "finalizers"]).is_empty() {
        return false;
    }
    meta::deletion_grace_period_seconds(object).unwrap_or(0) == 0
}
