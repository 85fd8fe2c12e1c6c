//! Versions of one kind over HTTP: what strake-machinery converts, applied where an answer or a body needs it.

use serde_json::Value;
use strake_machinery::{Kind, convert};

/// An object of a kind's storage version as another version writes it, or the other way round. The same versions: the
/// object as it is.
pub fn convert(from: &Kind, to: &Kind, mut object: Value) -> Value {
    if from.group == to.group && from.version == to.version {
        return object;
    }
    // Rows that share their storage are related by construction; anything else would be a mistake in the table.
    if let Err(error) = convert::to_version(&mut object, to) {
        tracing::error!(kind = %to.kind, from = %from.api_version(), to = %to.api_version(), %error, "conversion failed");
    }
    object
}

/// The field selectors of events.k8s.io in core's terms.
pub fn event_field(field: &str) -> String {
    match field.strip_prefix("regarding.") {
        Some(rest) => format!("involvedObject.{rest}"),
        None if field == "reportingController" => "reportingComponent".to_owned(),
        None => field.to_owned(),
    }
}
