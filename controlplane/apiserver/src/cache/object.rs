//! One version of one object as the cache keeps it, and one change of it.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Map, Value};
use strake_store::Revision;

/// The fields of a kind that field selectors may name besides `metadata.name` and `metadata.namespace`.
#[derive(Debug, Clone, Default)]
pub struct Selectable(Arc<[Arc<str>]>);

impl Selectable {
    /// Fields by their dotted paths.
    pub fn new<S: AsRef<str>>(paths: &[S]) -> Self {
        Self(paths.iter().map(|path| Arc::from(path.as_ref())).collect())
    }

    /// The fields' values in an object, as selectors compare them: absent strings are empty, absent booleans `false`.
    pub fn of(&self, object: &Value) -> Vec<(Arc<str>, String)> {
        self.0.iter().map(|path| (Arc::clone(path), field(object, path))).collect()
    }
}

fn field(object: &Value, path: &str) -> String {
    // Names that are no paths of their own (upstream's conversions of labels to fields).
    match path {
        "status.successful" => return object["status"]["succeeded"].as_i64().unwrap_or(0).to_string(),
        "status.podIPs" => return object["status"]["podIP"].as_str().unwrap_or_default().to_owned(),
        _ => {}
    }
    if path == "source" {
        let component = object["source"]["component"].as_str().unwrap_or_default();
        let controller = object["reportingComponent"].as_str().unwrap_or_default();
        return if component.is_empty() { controller } else { component }.to_owned();
    }
    let found = path.split('.').try_fold(object, |value, step| value.get(step));
    match found {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        Some(_) => String::new(),
        None => match path {
            "spec.unschedulable" | "spec.hostNetwork" => "false".to_owned(),
            "status.replicas" => "0".to_owned(),
            "spec.schedulerName" => "default-scheduler".to_owned(),
            _ => String::new(),
        },
    }
}

/// One version of one object.
#[derive(Debug)]
pub struct Object {
    /// `namespace/name`, or `name` for cluster-scoped kinds.
    pub key: Arc<str>,
    /// The revision of its last change.
    pub revision: Revision,
    /// The object in its stored API version, `metadata.resourceVersion` included, without a newline.
    pub json: Bytes,
    /// Labels.
    pub labels: Map<String, Value>,
    /// Selectable fields besides name and namespace.
    pub fields: Vec<(Arc<str>, String)>,
}

impl Object {
    /// Takes a stored value in. `None` if the bytes are no JSON object.
    pub fn from_stored(key: Arc<str>, stored: &[u8], revision: Revision, fields: &Selectable) -> Option<Self> {
        let mut value: Value = serde_json::from_slice(stored).ok()?;
        let metadata = value.as_object_mut()?.entry("metadata").or_insert_with(|| Value::Object(Default::default()));
        metadata.as_object_mut()?.insert("resourceVersion".into(), Value::String(revision.to_string()));
        Some(Self::from_value(key, &value, revision, fields))
    }

    /// Takes a value in that already has its resourceVersion.
    pub fn from_value(key: Arc<str>, value: &Value, revision: Revision, fields: &Selectable) -> Self {
        let labels = value["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        // A Value always serialises.
        let json = Bytes::from(serde_json::to_vec(value).unwrap_or_default());
        Self { key, revision, json, labels, fields: fields.of(value) }
    }

    /// The same object at the revision of its deletion.
    pub fn deleted_at(&self, revision: Revision) -> Self {
        let mut value = self.value();
        value["metadata"]["resourceVersion"] = Value::String(revision.to_string());
        Self {
            key: Arc::clone(&self.key),
            revision,
            json: Bytes::from(serde_json::to_vec(&value).unwrap_or_default()),
            labels: self.labels.clone(),
            fields: self.fields.clone(),
        }
    }

    /// The parsed object.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or(Value::Null)
    }

    /// Its namespace; "" for cluster-scoped kinds.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&*self.key, |(_, name)| name)
    }

    /// A selectable field; `None` when the kind has no such field.
    pub fn field(&self, path: &str) -> Option<&str> {
        match path {
            "metadata.name" => Some(self.name()),
            "metadata.namespace" => Some(self.namespace()),
            _ => self.fields.iter().find(|(name, _)| &**name == path).map(|(_, value)| value.as_str()),
        }
    }
}

/// One change of one object.
#[derive(Debug)]
pub struct Change {
    /// The revision of the change.
    pub revision: Revision,
    /// Before; `None` for a creation.
    pub previous: Option<Arc<Object>>,
    /// After; for a deletion the last state, carrying the deletion's revision.
    pub object: Arc<Object>,
    /// Whether the object is gone.
    pub deleted: bool,
}
