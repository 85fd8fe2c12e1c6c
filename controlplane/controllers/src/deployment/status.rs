//! A Deployment's status: counts, and the conditions Available, Progressing and ReplicaFailure with their reasons.

use super::sets::{self, available, fenceposts, size, sum, wanted};
use crate::runtime::{elapsed, seconds};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;

/// Reasons of the Progressing condition, as kubectl and people know them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A ReplicaSet was created for the template.
    NewReplicaSetCreated,
    /// One was found, as after a rollback.
    FoundNewReplicaSet,
    /// Pods are being replaced.
    ReplicaSetUpdated,
    /// All done.
    NewReplicaSetAvailable,
    /// The ReplicaSet could not be created.
    ReplicaSetCreateError,
    /// Nothing moved for `progressDeadlineSeconds`.
    ProgressDeadlineExceeded,
    /// `spec.paused`.
    DeploymentPaused,
    /// No longer paused.
    DeploymentResumed,
}

impl Reason {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::NewReplicaSetCreated => "NewReplicaSetCreated",
            Reason::FoundNewReplicaSet => "FoundNewReplicaSet",
            Reason::ReplicaSetUpdated => "ReplicaSetUpdated",
            Reason::NewReplicaSetAvailable => "NewReplicaSetAvailable",
            Reason::ReplicaSetCreateError => "ReplicaSetCreateError",
            Reason::ProgressDeadlineExceeded => "ProgressDeadlineExceeded",
            Reason::DeploymentPaused => "DeploymentPaused",
            Reason::DeploymentResumed => "DeploymentResumed",
        }
    }
}

/// A condition by type.
pub fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// A condition that changed now.
pub fn new_condition(kind: &str, value: &str, reason: &str, message: String, now: Timestamp) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(seconds(now))),
        last_transition_time: Some(Time(seconds(now))),
    }
}

/// Sets a condition unless one of the same status and reason is there; a same status keeps its transition time.
pub fn set_condition(status: &mut DeploymentStatus, mut c: DeploymentCondition) {
    if let Some(current) = condition(status, &c.type_) {
        if current.status == c.status && current.reason == c.reason {
            return;
        }
        if current.status == c.status {
            c.last_transition_time.clone_from(&current.last_transition_time);
        }
    }
    remove_condition(status, &c.type_);
    status.conditions.get_or_insert_default().push(c);
}

/// Drops a condition.
pub fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|c| c.type_ != kind);
    }
}

/// `progressDeadlineSeconds`, None when there is no deadline (unset, or the largest integer).
pub fn deadline(d: &Deployment) -> Option<Duration> {
    let s = d.spec.as_ref()?.progress_deadline_seconds?;
    (s != i32::MAX).then(|| Duration::from_secs(s.max(0) as u64))
}

/// The Progressing condition, unless there is no deadline (upstream keeps none then).
pub fn progress(d: &Deployment, status: &mut DeploymentStatus, reason: Reason, message: String, now: Timestamp) {
    if deadline(d).is_some() {
        let value = match reason {
            Reason::ReplicaSetCreateError | Reason::ProgressDeadlineExceeded => "False",
            Reason::DeploymentPaused | Reason::DeploymentResumed => "Unknown",
            _ => "True",
        };
        set_condition(status, new_condition("Progressing", value, reason.as_str(), message, now));
    }
}

/// Counts and the Available condition.
pub fn calculate(d: &Deployment, sets_: &[ReplicaSet], new: Option<&ReplicaSet>, now: Timestamp) -> DeploymentStatus {
    let mut status = d.status.clone().unwrap_or_default();
    let count = |f: fn(&ReplicaSet) -> i32| {
        let n = sum(sets_, f);
        (n != 0).then_some(n)
    };
    let available = sum(sets_, available);
    let total = sum(sets_, size);
    let observed = |rs: &ReplicaSet| rs.status.as_ref().map_or(0, |s| s.replicas);
    status.observed_generation = d.metadata.generation;
    status.replicas = count(|r| r.status.as_ref().map_or(0, |s| s.replicas));
    status.updated_replicas = new.map(observed).filter(|n| *n != 0);
    status.ready_replicas = count(|r| r.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0));
    status.available_replicas = (available != 0).then_some(available);
    let missing = (total - available).max(0);
    status.unavailable_replicas = (missing != 0).then_some(missing);
    status.terminating_replicas =
        Some(sum(sets_, |r| r.status.as_ref().and_then(|s| s.terminating_replicas).unwrap_or(0)));

    let condition = if available >= wanted(d) - fenceposts(d).1 {
        let message = "Deployment has minimum availability.".to_string();
        new_condition("Available", "True", "MinimumReplicasAvailable", message, now)
    } else {
        let message = "Deployment does not have minimum availability.".to_string();
        new_condition("Available", "False", "MinimumReplicasUnavailable", message, now)
    };
    set_condition(&mut status, condition);
    status
}

/// Everything is of the new template, available, and seen.
pub fn is_complete(d: &Deployment, s: &DeploymentStatus) -> bool {
    let n = Some(wanted(d)).filter(|n| *n != 0);
    s.updated_replicas.filter(|u| *u != 0) == n
        && s.replicas.filter(|u| *u != 0) == n
        && s.available_replicas.filter(|u| *u != 0) == n
        && s.observed_generation >= d.metadata.generation
}

/// Something moved since the last status.
fn is_progressing(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let old_old = old.replicas.unwrap_or(0) - old.updated_replicas.unwrap_or(0);
    let new_old = new.replicas.unwrap_or(0) - new.updated_replicas.unwrap_or(0);
    new.updated_replicas.unwrap_or(0) > old.updated_replicas.unwrap_or(0)
        || new_old < old_old
        || new.ready_replicas.unwrap_or(0) > old.ready_replicas.unwrap_or(0)
        || new.available_replicas.unwrap_or(0) > old.available_replicas.unwrap_or(0)
}

/// How long until the progress deadline; zero when it has passed. None when it does not apply.
pub fn time_left(d: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let deadline = deadline(d)?;
    let c = condition(status, "Progressing")?;
    // A finished rollout has no deadline; an expired one stays expired.
    match c.reason.as_deref() {
        Some("NewReplicaSetAvailable" | "DeploymentPaused") => return None,
        Some("ProgressDeadlineExceeded") => return Some(Duration::ZERO),
        _ => {}
    }
    let from = c.last_update_time.as_ref()?.0;
    Some(deadline.saturating_sub(elapsed(from, now)))
}

/// The status during a rollout (upstream's syncRolloutStatus).
pub fn rollout(d: &Deployment, sets_: &[ReplicaSet], new: Option<&ReplicaSet>, now: Timestamp) -> DeploymentStatus {
    let old = d.status.clone().unwrap_or_default();
    let mut status = calculate(d, sets_, new, now);
    if deadline(d).is_none() {
        remove_condition(&mut status, "Progressing");
    }
    let name = d.metadata.name.as_deref().unwrap_or_default();
    let new_name = new.and_then(|r| r.metadata.name.as_deref());
    let about = |what: &str| match new_name {
        Some(rs) => format!("ReplicaSet \"{rs}\" {what}."),
        None => format!("Deployment \"{name}\" {what}."),
    };
    let current = condition(&old, "Progressing").cloned();
    // A complete rollout that only scales stays as it is.
    let steady = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
    if deadline(d).is_some() && !steady {
        if is_complete(d, &status) {
            let message = match new_name {
                Some(rs) => format!("ReplicaSet \"{rs}\" has successfully progressed."),
                None => format!("Deployment \"{name}\" has successfully progressed."),
            };
            progress(d, &mut status, Reason::NewReplicaSetAvailable, message, now);
        } else if is_progressing(&old, &status) {
            let c =
                new_condition("Progressing", "True", Reason::ReplicaSetUpdated.as_str(), about("is progressing"), now);
            // Each move restarts the deadline, so the update time moves even if the reason stays.
            match &current {
                Some(cur) => {
                    let mut c = c;
                    if cur.status == "True" {
                        c.last_transition_time.clone_from(&cur.last_transition_time);
                    }
                    remove_condition(&mut status, "Progressing");
                    status.conditions.get_or_insert_default().push(c);
                }
                None => set_condition(&mut status, c),
            }
        } else if time_left(d, &status, now) == Some(Duration::ZERO) {
            progress(d, &mut status, Reason::ProgressDeadlineExceeded, about("has timed out progressing"), now);
        }
    }
    carry_failure(&mut status, sets_, new);
    status
}

/// A ReplicaSet's ReplicaFailure shows on the Deployment: the new one's before any old one's.
pub fn carry_failure(status: &mut DeploymentStatus, sets_: &[ReplicaSet], new: Option<&ReplicaSet>) {
    let failure = |rs: &ReplicaSet| {
        rs.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "ReplicaFailure").cloned()
    };
    match new.and_then(failure).or_else(|| sets_.iter().find_map(failure)) {
        Some(c) => set_condition(
            status,
            DeploymentCondition {
                type_: "ReplicaFailure".into(),
                status: c.status,
                reason: c.reason,
                message: c.message,
                last_update_time: c.last_transition_time.clone(),
                last_transition_time: c.last_transition_time,
            },
        ),
        None => remove_condition(status, "ReplicaFailure"),
    }
}

/// Whether a ReplicaSet is as large and as available as the Deployment wants, and knows it.
pub fn is_saturated(d: &Deployment, rs: &ReplicaSet) -> bool {
    let n = wanted(d);
    size(rs) == n && sets::number(&rs.metadata, sets::DESIRED_REPLICAS) == Some(i64::from(n)) && available(rs) == n
}
