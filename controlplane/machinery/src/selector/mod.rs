//! Label and field selectors: parsing, matching, printing (k8s.io/apimachinery/pkg/labels and fields).

mod field;
mod label;

pub use field::{FieldRequirement, FieldSelector};
pub use label::{LabelSelector, Operator, Requirement};

/// A selector that cannot be read; the message is upstream's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

impl From<SelectorError> for crate::ApiError {
    fn from(e: SelectorError) -> Self {
        crate::ApiError::bad_request(e.0)
    }
}
