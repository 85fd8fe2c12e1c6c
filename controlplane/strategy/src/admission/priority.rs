//! Priority: a Pod's priority class becomes a number and a preemption policy.

use serde_json::Value;
use strake_machinery::{ApiError, GroupResource};

use crate::walk::{Walk, put, with};

/// What the plugin needs of a PriorityClass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriorityClassInfo {
    /// Its name.
    pub name: String,
    /// Its number; larger goes first.
    pub value: i64,
    /// `PreemptLowerPriority` or `Never`; empty means the former.
    pub preemption_policy: String,
}

impl PriorityClassInfo {
    /// Reads it from the object.
    pub fn of(class: &Value) -> Self {
        PriorityClassInfo {
            name: class.at("metadata").text("name").to_owned(),
            value: class.num("value"),
            preemption_policy: class.text("preemptionPolicy").to_owned(),
        }
    }
}

const PODS: GroupResource<'_> = GroupResource { group: "", resource: "pods" };

/// Sets `priority`, `preemptionPolicy` and, for the cluster's default, `priorityClassName`.
///
/// `named` is the class the Pod names (absent: there is none of that name); `default` is the cluster's global default.
/// Errors (403): the named class does not exist, or the client wrote a number that is not the class's.
pub fn apply_priority(
    pod: &mut Value,
    named: Option<&PriorityClassInfo>,
    default: Option<&PriorityClassInfo>,
) -> Result<(), ApiError> {
    let name = pod.at("metadata").text("name").to_owned();
    let wanted = pod.at("spec").text("priorityClassName").to_owned();
    let class = if wanted.is_empty() { default } else { named };
    if !wanted.is_empty() && class.is_none() {
        let why = format!("no PriorityClass with name {wanted} was found");
        return Err(ApiError::forbidden(PODS, &name, &why));
    }
    let value = class.map_or(0, |c| c.value);
    let policy = class.map_or("", |c| c.preemption_policy.as_str());
    let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
    let spec = pod.at("spec");
    if let Some(given) = spec.int("priority")
        && given != value
    {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden(PODS, &name, &why));
    }
    let given = spec.text("preemptionPolicy");
    if !given.is_empty() && given != policy {
        let why = format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        );
        return Err(ApiError::forbidden(PODS, &name, &why));
    }
    with(pod, "spec", |s| {
        if let (true, Some(c)) = (wanted.is_empty(), class) {
            put(s, "priorityClassName", c.name.as_str().into());
        }
        put(s, "priority", value.into());
        put(s, "preemptionPolicy", policy.into());
    });
    Ok(())
}

/// Only the system's own classes may be global, or above a billion. `other_default` is the name of another class that
/// is the global default. Error: 403.
pub fn check_system_class(class: &Value, other_default: Option<&str>) -> Result<(), ApiError> {
    let name = class.at("metadata").text("name");
    match other_default {
        Some(other) if class.is_true("globalDefault") && other != name => {
            let resource = GroupResource { group: "scheduling.k8s.io", resource: "priorityclasses" };
            let why = format!("PriorityClass {other} is already marked as default. Only one default can exist");
            Err(ApiError::forbidden(resource, name, &why))
        }
        _ => Ok(()),
    }
}
