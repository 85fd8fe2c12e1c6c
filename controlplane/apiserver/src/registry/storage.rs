//! Objects in the store: JSON without its resourceVersion, under the keys of the kind's row.
//!
//! The only place that talks to the store's [`Backend`]; store errors become Status errors here.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use strake_machinery::{ApiError, meta};
use strake_store::{Backend, KeyValue, Revision, Txn, TxnOutcome};

/// An object with the revision of its last change.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The object in its storage version, `metadata.resourceVersion` set.
    pub value: Value,
    /// The revision of its last change.
    pub revision: Revision,
}

/// What became of a conditional write.
#[derive(Debug)]
pub enum Written {
    /// Done, at this revision.
    At(Revision),
    /// The object is not what the writer thought it was: what it is now, if it exists.
    Conflict(Option<Stored>),
}

/// Objects in the store.
pub struct Storage {
    backend: Arc<dyn Backend>,
}

/// The Status for a store that does not do what was asked.
pub fn store_error(error: &strake_store::Error) -> ApiError {
    use strake_store::Error;
    match error {
        Error::Full { .. } => {
            let mut status = ApiError::internal(error);
            status.code = 507;
            status
        }
        Error::Compacted { .. } => ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter.",
        ),
        Error::FutureRevision { requested, current } => ApiError::too_large_resource_version(*requested, *current),
        Error::TooLarge { .. } => ApiError::too_large(&error.to_string()),
        Error::Closed => ApiError::service_unavailable(error.to_string()),
        _ => ApiError::internal(error),
    }
}

fn decode(kv: &KeyValue) -> Result<Stored, ApiError> {
    let mut value: Value = serde_json::from_slice(&kv.value).map_err(|error| {
        ApiError::internal(format!("the store's value of {} is no JSON: {error}", String::from_utf8_lossy(&kv.key)))
    })?;
    meta::set_resource_version(&mut value, &kv.mod_revision.to_string());
    Ok(Stored { value, revision: kv.mod_revision })
}

/// The bytes that are stored for an object.
fn encode(value: &Value) -> Result<Vec<u8>, ApiError> {
    let mut value = value.clone();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
        metadata.remove("selfLink");
    }
    serde_json::to_vec(&value).map_err(ApiError::internal)
}

impl Storage {
    /// Objects in `backend`.
    pub fn new(backend: Arc<dyn Backend>) -> Self {
        Self { backend }
    }

    /// The backend, for ranges at past revisions.
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.backend
    }

    /// The newest state of one object.
    ///
    /// # Errors
    /// The store's.
    pub async fn get(&self, key: &str) -> Result<Option<Stored>, ApiError> {
        let answer = self.backend.get(key.as_bytes(), 0).await.map_err(|error| store_error(&error))?;
        answer.kv.as_ref().map(decode).transpose()
    }

    /// Writes a new object. It expires by itself after `ttl`.
    ///
    /// # Errors
    /// The store's.
    pub async fn create(&self, key: &str, value: &Value, ttl: Option<Duration>) -> Result<Written, ApiError> {
        self.write(Txn::create(key.to_owned(), encode(value)?, ttl)).await
    }

    /// Replaces what was last changed at `revision`.
    ///
    /// # Errors
    /// The store's.
    pub async fn update(
        &self,
        key: &str,
        value: &Value,
        revision: Revision,
        ttl: Option<Duration>,
    ) -> Result<Written, ApiError> {
        self.write(Txn::update(key.to_owned(), encode(value)?, revision, ttl)).await
    }

    /// Removes what was last changed at `revision`.
    ///
    /// # Errors
    /// The store's.
    pub async fn delete(&self, key: &str, revision: Revision) -> Result<Written, ApiError> {
        self.write(Txn::delete(key.to_owned(), revision)).await
    }

    async fn write(&self, txn: Txn) -> Result<Written, ApiError> {
        match self.backend.txn(txn).await.map_err(|error| store_error(&error))? {
            TxnOutcome::Committed { revision, .. } => Ok(Written::At(revision)),
            TxnOutcome::Conflict { current, .. } => {
                let current = current.into_iter().next().flatten();
                Ok(Written::Conflict(current.as_ref().map(decode).transpose()?))
            }
        }
    }
}
