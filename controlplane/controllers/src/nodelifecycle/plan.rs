//! Node health: who has stopped reporting, which conditions and taints follow, who must leave and when.

use crate::runtime::{elapsed, seconds};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::time::Duration;

/// Conditions that turn Unknown when a node stops reporting.
const WATCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// When a node was last seen to report.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// The Lease's renewal and the Ready condition's heartbeat, whatever the node's clock says.
    report: (Option<Timestamp>, Option<Timestamp>),
    /// When this process saw that report.
    pub seen: Timestamp,
    /// Its Pods were marked not ready since it was last ready. Once is enough: a kubelet that still reports
    /// knows better about them afterwards.
    pub marked: bool,
}

/// A condition of a Node.
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// The Ready condition's status, `Unknown` when there is none.
pub fn ready(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |c| c.status.as_str())
}

/// Brings the health up to date: a new renewal or heartbeat counts as seen now.
pub fn observe(old: Option<&Health>, node: &Node, lease: Option<&Lease>, now: Timestamp) -> Health {
    let renewed = lease.and_then(|l| l.spec.as_ref()).and_then(|s| s.renew_time.as_ref()).map(|t| t.0);
    let beat = condition(node, "Ready").filter(|c| c.status != "Unknown").and_then(|c| c.last_heartbeat_time.as_ref());
    let report = (renewed, beat.map(|t| t.0));
    match old {
        Some(h) if report.0 <= h.report.0 && report.1 <= h.report.1 => h.clone(),
        _ => Health { report, seen: now, marked: old.is_some_and(|h| h.marked) },
    }
}

/// Whether the Pods of the node are to be marked not ready now; `health` remembers.
pub fn mark_now(health: &mut Health, node: &Node) -> bool {
    // A node that never reported has nothing to lose.
    let lost = condition(node, "Ready").is_some_and(|c| c.status != "True");
    let now = lost && !health.marked;
    health.marked = lost;
    now
}

/// Conditions to write because the node has been silent too long; empty if it has not, or they say so already.
pub fn silent(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    WATCHED
        .iter()
        .filter_map(|kind| {
            let current = condition(node, kind);
            if current.is_some_and(|c| c.status == "Unknown") {
                return None;
            }
            let never = current.is_none();
            let mut c = current.cloned().unwrap_or_else(|| NodeCondition {
                type_: (*kind).into(),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                ..Default::default()
            });
            c.status = "Unknown".into();
            c.last_transition_time = Some(Time(seconds(now)));
            c.reason = Some(if never { "NodeStatusNeverUpdated" } else { "NodeStatusUnknown" }.into());
            c.message = Some(
                if never { "Kubelet never posted node status." } else { "Kubelet stopped posting node status." }.into(),
            );
            Some(c)
        })
        .collect()
}

/// How long until the node counts as silent; zero when it does.
pub fn patience(health: &Health, grace: Duration, now: Timestamp) -> Duration {
    grace.saturating_sub(elapsed(health.seen, now))
}

/// The taints this controller wants the node to have, among all others. None when they are already so.
/// `isolated`: no node at all is ready, so it is us who cannot see; nobody is evicted then.
pub fn taints(node: &Node, isolated: bool, now: Timestamp) -> Option<Vec<Taint>> {
    let is = |kind: &str, status: &str| condition(node, kind).is_some_and(|c| c.status == status);
    let cordoned = node.spec.as_ref().and_then(|s| s.unschedulable) == Some(true);
    // A node that never reported keeps the not-ready taint that admission gave it.
    let new = condition(node, "Ready").is_none();
    let tainted = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == NOT_READY);
    let (down, lost) = (is("Ready", "False") || (new && tainted), is("Ready", "Unknown"));
    let wanted = [
        (NOT_READY, "NoSchedule", down),
        (UNREACHABLE, "NoSchedule", lost),
        ("node.kubernetes.io/memory-pressure", "NoSchedule", is("MemoryPressure", "True")),
        ("node.kubernetes.io/disk-pressure", "NoSchedule", is("DiskPressure", "True")),
        ("node.kubernetes.io/pid-pressure", "NoSchedule", is("PIDPressure", "True")),
        ("node.kubernetes.io/network-unavailable", "NoSchedule", is("NetworkUnavailable", "True")),
        ("node.kubernetes.io/unschedulable", "NoSchedule", cordoned),
        (NOT_READY, "NoExecute", is("Ready", "False") && !isolated),
        (UNREACHABLE, "NoExecute", lost && !isolated),
    ];
    let current = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    let mut new = current.clone();
    for (key, effect, want) in wanted {
        let there = new.iter().position(|t| t.key == key && t.effect == effect);
        match (there, want) {
            (None, true) => new.push(Taint {
                key: key.into(),
                effect: effect.into(),
                value: None,
                time_added: Some(Time(seconds(now))),
            }),
            (Some(i), false) => {
                new.remove(i);
            }
            _ => {}
        }
    }
    (new != current).then_some(new)
}

fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let set = |o: &Option<String>| o.as_deref().filter(|s| !s.is_empty()).map(String::from);
    if set(&t.effect).is_some_and(|e| e != taint.effect) || set(&t.key).is_some_and(|k| k != taint.key) {
        return false;
    }
    match t.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => set(&t.key).is_some() && set(&t.value) == set(&taint.value),
        _ => false,
    }
}

/// How long the Pod may stay on a node with these taints: None for ever, zero not at all. Only NoExecute evicts.
pub fn may_stay(pod: &Pod, taints: &[Taint], now: Timestamp) -> Option<Duration> {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut least: Option<Duration> = None;
    for taint in taints.iter().filter(|t| t.effect == "NoExecute") {
        let tolerating: Vec<&Toleration> = tolerations.iter().filter(|t| tolerates(t, taint)).collect();
        if tolerating.is_empty() {
            return Some(Duration::ZERO);
        }
        let allowed = tolerating.iter().filter_map(|t| t.toleration_seconds).min();
        if let Some(allowed) = allowed {
            let since = taint.time_added.as_ref().map_or(now, |t| t.0);
            let left = Duration::from_secs(allowed.max(0) as u64).saturating_sub(elapsed(since, now));
            least = Some(least.map_or(left, |l| l.min(left)));
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus, PodSpec};

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).unwrap()
    }

    fn node(ready: &str) -> Node {
        Node {
            status: Some(NodeStatus {
                conditions: Some(vec![NodeCondition {
                    type_: "Ready".into(),
                    status: ready.into(),
                    last_heartbeat_time: Some(Time(at(100))),
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn silence_is_measured_from_what_was_seen_not_from_the_nodes_clock() {
        let lease = |t| Lease {
            spec: Some(k8s_openapi::api::coordination::v1::LeaseSpec {
                renew_time: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(at(t))),
                ..Default::default()
            }),
            ..Default::default()
        };
        let n = node("True");
        let h = observe(None, &n, Some(&lease(5)), at(1000));
        let h = observe(Some(&h), &n, Some(&lease(5)), at(1030));
        let grace = Duration::from_secs(40);
        assert_eq!(patience(&h, grace, at(1030)).as_secs(), 10);
        let h = observe(Some(&h), &n, Some(&lease(6)), at(1035));
        assert_eq!(patience(&h, grace, at(1035)).as_secs(), 40);
        assert_eq!(patience(&h, grace, at(1075)), Duration::ZERO);
    }

    #[test]
    fn pods_are_marked_once_each_time_their_node_is_lost() {
        let mut h = observe(None, &node("True"), None, at(1));
        let marks = ["True", "False", "Unknown", "True", "Unknown"].map(|r| mark_now(&mut h, &node(r)));
        assert_eq!(marks, [false, true, false, false, true]);
    }

    #[test]
    fn a_silent_node_becomes_unknown_once() {
        let mut n = node("True");
        let c = silent(&n, at(2000));
        assert_eq!(c.len(), 4);
        assert_eq!(c[0].reason.as_deref(), Some("NodeStatusUnknown"));
        assert_eq!(c[1].reason.as_deref(), Some("NodeStatusNeverUpdated"));
        n.status.as_mut().unwrap().conditions = Some(c);
        assert!(silent(&n, at(2001)).is_empty());
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let mut n = node("Unknown");
        n.spec = Some(NodeSpec {
            taints: Some(vec![Taint { key: "mine".into(), effect: "NoSchedule".into(), ..Default::default() }]),
            unschedulable: Some(true),
            ..Default::default()
        });
        let names = |t: &[Taint]| t.iter().map(|t| format!("{}:{}", t.key, t.effect)).collect::<Vec<_>>();
        let t = taints(&n, false, at(1)).unwrap();
        assert_eq!(
            names(&t),
            [
                "mine:NoSchedule",
                "node.kubernetes.io/unreachable:NoSchedule",
                "node.kubernetes.io/unschedulable:NoSchedule",
                "node.kubernetes.io/unreachable:NoExecute"
            ]
        );
        assert!(!names(&taints(&n, true, at(1)).unwrap()).iter().any(|t| t.contains("NoExecute")));
        n.spec.as_mut().unwrap().taints = Some(t);
        assert_eq!(taints(&n, false, at(2)), None);
        n.status = node("True").status;
        n.spec.as_mut().unwrap().unschedulable = None;
        assert_eq!(names(&taints(&n, false, at(3)).unwrap()), ["mine:NoSchedule"]);
    }

    #[test]
    fn tolerations_say_how_long_a_pod_may_stay() {
        let taint = Taint {
            key: UNREACHABLE.into(),
            effect: "NoExecute".into(),
            time_added: Some(Time(at(100))),
            ..Default::default()
        };
        let pod = |seconds: Option<i64>| Pod {
            spec: Some(PodSpec {
                tolerations: Some(vec![Toleration {
                    key: Some(UNREACHABLE.into()),
                    operator: Some("Exists".into()),
                    effect: Some("NoExecute".into()),
                    toleration_seconds: seconds,
                    ..Default::default()
                }]),
                ..Default::default()
            }),
            ..Default::default()
        };
        let taints = [taint];
        assert_eq!(may_stay(&pod(Some(300)), &taints, at(150)), Some(Duration::from_secs(250)));
        assert_eq!(may_stay(&pod(Some(300)), &taints, at(500)), Some(Duration::ZERO));
        assert_eq!(may_stay(&pod(None), &taints, at(500)), None);
        assert_eq!(may_stay(&Pod::default(), &taints, at(500)), Some(Duration::ZERO));
        assert_eq!(may_stay(&Pod::default(), &[], at(500)), None);
    }
}
