//! Whether a Pod fits what the node has left. The scheduler decides first; this is the last word.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;

use crate::node::Capacity;
use crate::pod::{self, Qos};

/// The resources compared, by the name in the reason `OutOfNAME`.
const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

#[derive(Clone, Copy, Debug)]
struct Share {
    amounts: [i64; 3],
    qos: Qos,
}

/// Resources given to the Pods of the node.
#[derive(Default)]
pub struct Admission(Mutex<HashMap<String, Share>>);

/// Why a Pod was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `OutOfcpu` and the like.
    pub reason: String,
    /// The stock message.
    pub message: String,
}

fn share(p: &Pod) -> Share {
    Share { amounts: RESOURCES.map(|r| pod::pod_request(p, r)), qos: pod::qos(p) }
}

impl Admission {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Share>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a Pod that runs already.
    pub fn adopt(&self, p: &Pod) {
        self.lock().insert(pod::uid(p).to_owned(), share(p));
    }

    /// Admits a Pod, or says what there is too little of.
    pub fn admit(&self, p: &Pod, node: &Capacity) -> Result<(), Refusal> {
        let mut given = self.lock();
        let refuse = |resource: &str, requested: i64, used: i64, capacity: i64| Refusal {
            reason: format!("OutOf{resource}"),
            message: format!(
                "Pod was rejected: Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
            ),
        };
        let uid = pod::uid(p);
        let others = || given.iter().filter(|(u, _)| *u != uid).map(|(_, s)| s);
        let pods = others().count() as i64;
        if pods >= i64::from(node.pods) {
            return Err(refuse("pods", 1, pods, node.pods.into()));
        }
        let wanted = share(p);
        for (i, resource) in RESOURCES.iter().enumerate() {
            let used: i64 = others().map(|s| s.amounts[i]).sum();
            let has = [node.cpu_milli, node.memory, node.storage][i];
            if wanted.amounts[i] > 0 && used + wanted.amounts[i] > has {
                return Err(refuse(resource, wanted.amounts[i], used, has));
            }
        }
        given.insert(uid.to_owned(), wanted);
        Ok(())
    }

    /// A Pod needs nothing any more.
    pub fn release(&self, uid: &str) {
        self.lock().remove(uid);
    }

    /// CPU the burstable Pods asked for together, thousandths.
    pub fn burstable_cpu(&self) -> i64 {
        self.lock().values().filter(|s| s.qos == Qos::Burstable).map(|s| s.amounts[0]).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, cpu: &str) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"uid": uid}, "spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": cpu}}}]}}))
        .unwrap()
    }

    #[test]
    fn a_pod_that_does_not_fit_is_told_what_is_missing() {
        let node = Capacity { cpu_milli: 2000, memory: 1 << 30, storage: 1 << 30, pods: 2 };
        let a = Admission::default();
        a.admit(&pod("1", "1900m"), &node).unwrap();
        a.admit(&pod("1", "1900m"), &node).unwrap();
        let no = a.admit(&pod("2", "200m"), &node).unwrap_err();
        assert_eq!(no.reason, "OutOfcpu");
        assert!(no.message.ends_with("cpu, requested: 200, used: 1900, capacity: 2000"), "{}", no.message);
        a.admit(&pod("3", "0"), &node).unwrap();
        assert_eq!(a.admit(&pod("4", "0"), &node).unwrap_err().reason, "OutOfpods");
        a.release("1");
        a.admit(&pod("2", "200m"), &node).unwrap();
        assert_eq!(a.burstable_cpu(), 200);
    }
}
