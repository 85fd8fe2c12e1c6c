//! The ways a PATCH changes an object: JSON patch (RFC 6902), JSON merge patch (RFC 7386), strategic merge patch.

mod json;
mod merge;
mod strategic;

pub use json::json;
pub use merge::merge;
pub use strategic::{StrategicError, strategic};

/// The media types a PATCH may come as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchType {
    pub const JSON: &'static str = "application/json-patch+json";
    pub const MERGE: &'static str = "application/merge-patch+json";
    pub const STRATEGIC: &'static str = "application/strategic-merge-patch+json";
    pub const APPLY_YAML: &'static str = "application/apply-patch+yaml";
    pub const APPLY_CBOR: &'static str = "application/apply-patch+cbor";

    /// The type of a `Content-Type`, parameters ignored. CBOR is not taken.
    pub fn from_content_type(content_type: &str) -> Option<Self> {
        match content_type.split(';').next().unwrap_or_default().trim() {
            Self::JSON => Some(PatchType::Json),
            Self::MERGE => Some(PatchType::Merge),
            Self::STRATEGIC => Some(PatchType::Strategic),
            Self::APPLY_YAML => Some(PatchType::Apply),
            _ => None,
        }
    }
}
