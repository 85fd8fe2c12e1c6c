//! Which objects a list or a watch is about: namespace, labels, fields.

use strake_machinery::{
    ApiError,
    selector::{FieldSelector, LabelSelector},
};

use super::{convert, op::Op};
use crate::{cache::Object, query::Query};

/// A parsed selection.
#[derive(Debug, Clone)]
pub struct Selection {
    namespace: String,
    labels: LabelSelector,
    fields: Vec<(String, String, bool)>,
}

impl Selection {
    /// Reads labelSelector and fieldSelector; a name in the path is one more field.
    ///
    /// # Errors
    /// 400 for selectors that cannot be parsed or name fields the kind has not.
    pub fn parse(op: &Op<'_>, query: &Query) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(query.get("labelSelector").unwrap_or_default())
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let text = query.get("fieldSelector").unwrap_or_default();
        let parsed =
            if op.same_version() { FieldSelector::parse(op.stored, text) } else { FieldSelector::parse_any(text) };
        let parsed = parsed.map_err(|error| ApiError::bad_request(error.to_string()))?;
        let mut fields: Vec<(String, String, bool)> = parsed
            .requirements()
            .iter()
            .map(|one| {
                let field = if op.same_version() { one.field.clone() } else { convert::event_field(&one.field) };
                (field, one.value.clone(), one.negated)
            })
            .collect();
        if !op.name.is_empty() {
            fields.push(("metadata.name".to_owned(), op.name.to_owned(), false));
        }
        Ok(Self { namespace: op.namespace.to_owned(), labels, fields })
    }

    /// Whether everything in the namespace is meant.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_empty()
    }

    /// Whether an object is meant.
    pub fn matches(&self, object: &Object) -> bool {
        (self.namespace.is_empty() || object.namespace() == self.namespace)
            && self
                .fields
                .iter()
                .all(|(field, value, negated)| (object.field(field).unwrap_or_default() == value) != *negated)
            && self.labels.matches(Some(&object.labels))
    }
}
