//! What a Namespace's status says while it is emptied, and how long to wait for the rest.

use crate::discovered::Kind;
use crate::runtime::now;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::time::Duration;

/// The namespace's own finalizer, in `spec.finalizers`.
pub const FINALIZER: &str = "kubernetes";

/// Objects of one kind that are still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// `pods`, `deployments.apps`.
    pub kind: String,
    /// How many.
    pub count: usize,
    /// How many wait for each finalizer.
    pub finalizers: BTreeMap<String, usize>,
    /// The longest grace period among them, in seconds.
    pub grace: i64,
}

impl Remaining {
    /// None when there is nothing left.
    pub fn of<'a>(kind: String, objects: impl Iterator<Item = &'a ObjectMeta>) -> Option<Self> {
        let mut r = Remaining { kind, count: 0, finalizers: BTreeMap::new(), grace: 0 };
        for o in objects {
            r.count += 1;
            r.grace = r.grace.max(o.deletion_grace_period_seconds.unwrap_or(0));
            for f in o.finalizers.iter().flatten() {
                *r.finalizers.entry(f.clone()).or_insert(0) += 1;
            }
        }
        (r.count > 0).then_some(r)
    }
}

/// Events are deleted last: deleting makes new ones.
pub fn is_event(kind: &Kind) -> bool {
    kind.resource.kind == "Event" && matches!(kind.resource.group.as_str(), "" | "events.k8s.io")
}

/// When to look again: half the longest grace period, or soon if finalizers hold things.
pub fn wait(remaining: &[Remaining], finalizer_wait: Duration) -> Option<Duration> {
    let longest = remaining.iter().map(|r| r.grace).max()?;
    let grace = Duration::from_secs(longest.max(0) as u64 / 2 + 1);
    let held = remaining.iter().any(|r| !r.finalizers.is_empty());
    Some(if held { grace.max(finalizer_wait) } else { grace })
}

/// The five conditions upstream reports.
pub fn status(
    ns: &Namespace,
    remaining: &[Remaining],
    failure: Option<String>,
    discovery: Option<String>,
) -> NamespaceStatus {
    let mut status = ns.status.clone().unwrap_or_default();
    status.phase = Some("Terminating".into());
    let instances = remaining.iter().map(|r| format!("{} has {} resource instances", r.kind, r.count));
    let instances: Vec<String> = instances.collect();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for (f, n) in remaining.iter().flat_map(|r| &r.finalizers) {
        *finalizers.entry(f).or_insert(0) += n;
    }
    let finalizers: Vec<String> = finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    let pick = |bad: Option<String>, reasons: (&str, &str), good: &str| match bad {
        Some(message) => ("True", reasons.0.to_string(), message),
        None => ("False", reasons.1.to_string(), good.to_string()),
    };
    let some = |list: Vec<String>, head: &str| (!list.is_empty()).then(|| format!("{head}: {}", list.join(", ")));
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            pick(discovery, ("DiscoveryFailed", "ResourcesDiscovered"), "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            pick(None, ("", "ParsedGroupVersions"), "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            pick(
                failure,
                ("ContentDeletionFailed", "ContentDeleted"),
                "All content successfully deleted, may be waiting on finalization",
            ),
        ),
        (
            "NamespaceContentRemaining",
            pick(
                some(instances, "Some resources are remaining"),
                ("SomeResourcesRemain", "ContentRemoved"),
                "All content successfully removed",
            ),
        ),
        (
            "NamespaceFinalizersRemaining",
            pick(
                some(finalizers, "Some content in the namespace has finalizers remaining"),
                ("SomeFinalizersRemain", "ContentHasNoFinalizers"),
                "All content-preserving finalizers finished",
            ),
        ),
    ];
    let conditions = status.conditions.get_or_insert_default();
    for (kind, (value, reason, message)) in rows {
        let fresh = NamespaceCondition {
            type_: kind.into(),
            status: value.into(),
            reason: Some(reason),
            message: Some(message),
            last_transition_time: Some(now()),
        };
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            Some(c) if c.status == fresh.status && c.reason == fresh.reason && c.message == fresh.message => {}
            Some(c) => {
                let since = if c.status == fresh.status { c.last_transition_time.clone() } else { None };
                *c = fresh;
                if since.is_some() {
                    c.last_transition_time = since;
                }
            }
            None => conditions.push(fresh),
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_said_and_waited_for() {
        let meta = |f: Option<&str>, grace| ObjectMeta {
            finalizers: f.map(|f| vec![f.to_string()]),
            deletion_grace_period_seconds: Some(grace),
            ..Default::default()
        };
        let pods = Remaining::of("pods".into(), [meta(None, 30), meta(Some("x.io/y"), 5)].iter()).unwrap();
        assert_eq!(wait(std::slice::from_ref(&pods), Duration::from_secs(8)), Some(Duration::from_secs(16)));
        assert_eq!(Remaining::of("pods".into(), [].iter()), None);
        assert_eq!(wait(&[], Duration::from_secs(8)), None);
        let s = status(&Namespace::default(), &[pods], None, None);
        let text = |kind: &str| {
            let c = s.conditions.as_ref().unwrap().iter().find(|c| c.type_ == kind).unwrap();
            (c.status.clone(), c.message.clone().unwrap())
        };
        assert_eq!(
            text("NamespaceContentRemaining"),
            ("True".into(), "Some resources are remaining: pods has 2 resource instances".into())
        );
        assert_eq!(text("NamespaceFinalizersRemaining").0, "True");
        let again = Namespace { status: Some(s.clone()), ..Default::default() };
        let pods = Remaining::of("pods".into(), [meta(None, 30), meta(Some("x.io/y"), 5)].iter()).unwrap();
        assert_eq!(status(&again, &[pods], None, None), s);
    }
}
