//! The Lease of one Service's announcement: its name, what was seen of it and when, and what is written.
//!
//! Whether a Lease has ended is told by when this node last saw it change, never by the times written in it: clocks of
//! nodes differ.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use strake_state::ObjectName;
use tokio::time::Instant;

/// Where the Leases are.
pub const NAMESPACE: &str = "kube-system";
/// How long an announcement lasts without a renewal.
pub const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed.
pub const RENEWAL: Duration = Duration::from_secs(5);
/// What the Leases are found by.
pub const SELECTOR: &str = "strake.io/announcement=layer2";
const LABEL: (&str, &str) = ("strake.io/announcement", "layer2");
const SERVICE: &str = "strake.io/service";

/// The Lease of a Service. Neither of its names has a dot, so no two Services share one; it is never longer than a name
/// may be.
pub fn name(service: &ObjectName) -> String {
    format!("strake-l2-{}.{}", service.namespace, service.name)
}

/// Which Service a Lease is for; none if it is not one of these.
pub fn service(lease: &Lease) -> Option<ObjectName> {
    let of = lease.metadata.annotations.as_ref()?.get(SERVICE)?;
    let (namespace, service) = of.split_once('/')?;
    let service = ObjectName::new(namespace, service);
    (lease.metadata.name.as_deref() == Some(&name(&service))).then_some(service)
}

fn version(lease: &Lease) -> u64 {
    lease.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// What is known of a Lease.
#[derive(Clone, Debug)]
pub struct Observed {
    /// As it is; none if there is none.
    pub lease: Option<Lease>,
    version: u64,
    /// When nobody has it any more, if nothing more is heard of it.
    pub free_at: Instant,
}

impl Observed {
    /// No Lease was seen by now.
    pub fn nothing(now: Instant) -> Self {
        Self { lease: None, version: 0, free_at: now }
    }

    /// After a Lease was seen now, there or deleted. What is older than what is known tells nothing.
    pub fn then(&self, lease: &Lease, there: bool, now: Instant) -> Self {
        let version = version(lease);
        if version <= self.version {
            return self.clone();
        }
        if !there {
            return Self { version, ..self.gone() };
        }
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or_default();
        let duration = u64::try_from(seconds).map_or(DURATION, Duration::from_secs);
        let free_at = if holder(lease).is_some() { now + duration } else { now };
        Self { lease: Some(lease.clone()), version, free_at }
    }

    /// After it was missing from a list. Its holder answers until what it had runs out.
    pub fn gone(&self) -> Self {
        Self { lease: None, ..self.clone() }
    }

    /// Who has it, ended or not.
    pub fn holder(&self) -> Option<&str> {
        holder(self.lease.as_ref()?)
    }

    /// Which of two is newer.
    pub fn is_newer(&self, other: &Self) -> bool {
        self.version > other.version || (self.version == other.version && self.lease.is_none())
    }
}

/// The Lease with this node as its holder, or without one, from what is there.
pub fn held(service: &ObjectName, known: Option<&Lease>, node: Option<&str>) -> Lease {
    let now = MicroTime(Timestamp::now());
    let mut lease = known.cloned().unwrap_or_else(|| Lease {
        metadata: ObjectMeta {
            name: Some(name(service)),
            namespace: Some(NAMESPACE.into()),
            labels: Some([(LABEL.0.into(), LABEL.1.into())].into()),
            annotations: Some([(SERVICE.into(), service.to_string())].into()),
            ..ObjectMeta::default()
        },
        spec: None,
    });
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    if spec.holder_identity.as_deref() != Some(node.unwrap_or_default()) {
        spec.acquire_time = node.map(|_| now.clone());
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + i32::from(node.is_some()));
    }
    spec.holder_identity = Some(node.unwrap_or_default().to_owned());
    spec.lease_duration_seconds = Some(DURATION.as_secs() as i32);
    spec.renew_time = Some(now);
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> ObjectName {
        ObjectName::new("default", "web")
    }

    fn at(version: u64, node: Option<&str>) -> Lease {
        let mut lease = held(&web(), None, node);
        lease.metadata.resource_version = Some(version.to_string());
        lease
    }

    #[test]
    fn a_lease_tells_its_service_and_no_two_services_share_one() {
        assert_eq!(service(&at(1, None)), Some(web()));
        assert_ne!(name(&ObjectName::new("a-b", "c")), name(&ObjectName::new("a", "b-c")));
        let mut foreign = at(1, None);
        foreign.metadata.name = Some("kube-scheduler".into());
        assert_eq!(service(&foreign), None);
        let long = "x".repeat(63);
        assert!(name(&ObjectName::new(long.as_str(), long.as_str())).len() <= 253);
    }

    #[test]
    fn a_holder_is_believed_for_as_long_as_it_asked_from_when_it_was_seen() {
        let start = Instant::now();
        let later = start + Duration::from_secs(4);
        let seen = Observed::nothing(start).then(&at(5, Some("b")), true, start);
        assert_eq!((seen.holder(), seen.free_at), (Some("b"), start + DURATION));
        // What is known already, or older, is no news.
        assert_eq!(seen.then(&at(5, Some("b")), true, later).free_at, seen.free_at);
        assert_eq!(seen.then(&at(4, None), true, later).holder(), Some("b"));
        let renewed = seen.then(&at(6, Some("b")), true, later);
        assert_eq!(renewed.free_at, later + DURATION);
        // Deleted under its holder: the holder goes on answering until it would have ended.
        let deleted = renewed.then(&at(7, Some("b")), false, later);
        assert_eq!((deleted.holder(), deleted.free_at), (None, renewed.free_at));
        // Given up: free at once.
        assert_eq!(renewed.then(&at(7, None), true, later).free_at, later);
        assert!(renewed.is_newer(&seen) && renewed.gone().is_newer(&renewed) && !seen.is_newer(&renewed));
    }

    #[test]
    fn a_takeover_is_counted_and_a_renewal_is_not() {
        let first = held(&web(), None, Some("a"));
        let renewed = held(&web(), Some(&first), Some("a"));
        let taken = held(&web(), Some(&renewed), Some("b"));
        let transitions = |lease: &Lease| lease.spec.as_ref().unwrap().lease_transitions;
        assert_eq!((transitions(&first), transitions(&renewed), transitions(&taken)), (Some(1), Some(1), Some(2)));
        assert_eq!(first.spec.unwrap().acquire_time, renewed.spec.unwrap().acquire_time);
    }
}
