//! Putting a Pod on a node: `POST pods/NAME/binding`.

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, not_supported, required};
use crate::walk::{Walk, list_mut, object_mut, put};

/// Why a well-formed Binding cannot be applied to a Pod: a conflict (409), told as upstream tells it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BindingError {
    /// The Pod is being deleted.
    #[error("pod {pod} is being deleted, cannot be assigned to a host")]
    Deleting {
        /// Name of the Pod.
        pod: String,
    },
    /// The Pod has a node.
    #[error("pod {pod} is already assigned to node {node:?}")]
    AlreadyAssigned {
        /// Name of the Pod.
        pod: String,
        /// The node it has.
        node: String,
    },
    /// The Pod may not be scheduled yet.
    #[error("pod {pod} has non-empty .spec.schedulingGates")]
    Gated {
        /// Name of the Pod.
        pod: String,
    },
}

/// Checks a Binding.
pub fn validate(binding: &Value) -> Errs {
    let mut e = Errs::new();
    let (target, p) = (binding.at("target"), Path::new("target"));
    let kind = target.text("kind");
    if !kind.is_empty() && kind != "Node" {
        e.push(not_supported(&p.child("kind"), kind, &["Node", "<empty>"]));
    }
    if target.text("name").is_empty() {
        e.push(required(&p.child("name"), ""));
    }
    e
}

/// Applies a valid Binding: the node's name, the Binding's annotations and labels, the condition PodScheduled.
/// `now` is the time of the transition, RFC 3339 with whole seconds.
pub fn apply(pod: &mut Value, binding: &Value, now: &str) -> Result<(), BindingError> {
    let name = pod.at("metadata").text("name").to_owned();
    if pod.at("metadata").has("deletionTimestamp") {
        return Err(BindingError::Deleting { pod: name });
    }
    let node = pod.at("spec").text("nodeName");
    if !node.is_empty() {
        return Err(BindingError::AlreadyAssigned { pod: name, node: node.to_owned() });
    }
    if !pod.at("spec").list("schedulingGates").is_empty() {
        return Err(BindingError::Gated { pod: name });
    }
    if let Some(spec) = object_mut(pod, "spec") {
        put(spec, "nodeName", binding.at("target").text("name").into());
    }
    for field in ["annotations", "labels"] {
        for (k, v) in binding.at("metadata").entries(field) {
            if let Some(map) = object_mut(pod, "metadata").and_then(|m| object_mut(m, field)) {
                put(map, k, v.clone());
            }
        }
    }
    if let Some(status) = object_mut(pod, "status") {
        // The scheduler's nomination is spent.
        if status.has("nominatedNodeName") {
            put(status, "nominatedNodeName", Value::Null);
        }
        set_condition(status, "PodScheduled", "True", None, now);
    }
    Ok(())
}

/// Sets a condition of a Pod's status; the transition time moves only if the condition's status does.
pub(crate) fn set_condition(status: &mut Value, kind: &str, is: &str, why: Option<(&str, &str)>, now: &str) {
    let Some(all) = list_mut(status, "conditions") else { return };
    let at = all.iter().position(|c| c.text("type") == kind);
    let since = at.map(|i| &all[i]).filter(|c| c.text("status") == is).map(|c| c.text("lastTransitionTime").to_owned());
    let mut condition = json!({ "type": kind, "status": is, "lastProbeTime": null });
    put(&mut condition, "lastTransitionTime", since.unwrap_or_else(|| now.to_owned()).into());
    if let Some((reason, message)) = why {
        put(&mut condition, "reason", reason.into());
        put(&mut condition, "message", message.into());
    }
    match at {
        Some(i) => all[i] = condition,
        None => all.push(condition),
    }
}
