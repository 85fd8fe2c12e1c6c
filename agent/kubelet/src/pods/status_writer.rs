//! Writes a Pod's status to the API server when it changed, the newest only, again and again until it is there.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::pod;

/// The conditions the kubelet owns; others are left alone.
const OWN: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready", "PodScheduled"];

#[derive(Clone)]
struct Wanted {
    version: u64,
    status: Arc<PodStatus>,
}

/// The writer of one Pod's status.
pub struct StatusWriter {
    wanted: watch::Sender<Option<Wanted>>,
    written: watch::Receiver<u64>,
    _task: AbortOnDropHandle<()>,
}

impl StatusWriter {
    /// A writer; what `p` shows is taken as written.
    pub fn start(client: kube::Client, p: &Pod) -> Self {
        let (wanted, rx) = watch::channel(None);
        let (done, written) = watch::channel(0);
        let api: Api<Pod> = Api::namespaced(client, pod::namespace(p));
        let task = Task {
            api,
            name: pod::name(p).to_owned(),
            uid: pod::uid(p).to_owned(),
            last: p.status.clone().unwrap_or_default(),
        };
        Self { wanted, written, _task: AbortOnDropHandle::new(tokio::spawn(task.run(rx, done))) }
    }

    /// Has a status written, soon.
    pub fn set(&self, status: PodStatus) {
        self.wanted.send_if_modified(|w| {
            if w.as_ref().is_some_and(|w| *w.status == status) {
                return false;
            }
            let version = w.as_ref().map_or(0, |w| w.version) + 1;
            *w = Some(Wanted { version, status: Arc::new(status) });
            true
        });
    }

    /// Waits until what was set last is written, or cannot be (the Pod is gone).
    pub async fn flush(&mut self) {
        let version = self.wanted.borrow().as_ref().map_or(0, |w| w.version);
        let _ = self.written.wait_for(|v| *v >= version).await;
    }
}

struct Task {
    api: Api<Pod>,
    name: String,
    uid: String,
    last: PodStatus,
}

impl Task {
    async fn run(mut self, mut wanted: watch::Receiver<Option<Wanted>>, done: watch::Sender<u64>) {
        let mut pause = Duration::from_millis(100);
        while wanted.changed().await.is_ok() {
            loop {
                let Some(next) = wanted.borrow_and_update().clone() else { break };
                let Some(patch) = patch(&self.uid, &self.last, &next.status) else {
                    done.send_replace(next.version);
                    break;
                };
                match self.api.patch_status(&self.name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                    Ok(_) => {
                        pause = Duration::from_millis(100);
                        self.last = (*next.status).clone();
                        done.send_replace(next.version);
                        break;
                    }
                    Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => {
                        // Gone, or replaced by another Pod of the name (the uid in the patch guards that).
                        tracing::debug!(
                            pod = self.name,
                            uid = self.uid,
                            code = s.code,
                            "status not written: {}",
                            s.message
                        );
                        done.send_replace(u64::MAX);
                        return;
                    }
                    Err(error) => {
                        tracing::warn!(%error, pod = self.name, "status not written, trying again");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(Duration::from_secs(10));
                    }
                }
            }
        }
    }
}

/// The strategic merge patch from one status to another; `None` when the kubelet's part is the same.
fn patch(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) = (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return None;
    };
    let mut out = serde_json::Map::new();
    for key in [
        "phase",
        "reason",
        "message",
        "hostIP",
        "podIP",
        "startTime",
        "qosClass",
        "observedGeneration",
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ] {
        match (old.get(key), new.get(key)) {
            (a, Some(b)) if a != Some(b) => {
                out.insert(key.into(), b.clone());
            }
            // What the API server set and we do not compute stays; what we set and no longer have goes.
            (Some(_), None) if !matches!(key, "qosClass" | "startTime" | "observedGeneration") => {
                out.insert(key.into(), Value::Null);
            }
            _ => {}
        }
    }
    for key in ["hostIPs", "podIPs"] {
        let (a, b) = (old.get(key), new.get(key));
        if a == b {
            continue;
        }
        let mut list = b.and_then(Value::as_array).cloned().unwrap_or_default();
        if a.and_then(Value::as_array).is_some_and(|a| !a.is_empty()) {
            list.insert(0, json!({"$patch": "replace"}));
        }
        out.insert(key.into(), Value::Array(list));
    }
    let list =
        |m: &serde_json::Map<String, Value>| m.get("conditions").and_then(Value::as_array).cloned().unwrap_or_default();
    let before = list(&old);
    let changed: Vec<Value> = list(&new)
        .into_iter()
        .filter(|c| {
            let own = c["type"].as_str().is_some_and(|t| OWN.contains(&t));
            own && !before.iter().any(|b| b == c)
        })
        .map(|mut c| {
            // A reason or message that is no more must be taken away by name.
            let was = before.iter().find(|b| b["type"] == c["type"]).cloned().unwrap_or_default();
            for key in ["reason", "message"] {
                if c.get(key).is_none() && was.get(key).is_some() {
                    c[key] = Value::Null;
                }
            }
            c
        })
        .collect();
    if !changed.is_empty() {
        out.insert("conditions".into(), Value::Array(changed));
    }
    if out.is_empty() {
        return None;
    }
    Some(json!({"metadata": {"uid": uid}, "status": out}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(v: Value) -> PodStatus {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn only_what_changed_is_sent_and_foreign_conditions_are_left_alone() {
        let old = status(json!({"phase": "Pending", "qosClass": "BestEffort", "reason": "x", "podIPs": [{"ip": "1"}],
            "conditions": [{"type": "Ready", "status": "False", "reason": "r"}, {"type": "Gate", "status": "True"}]}));
        let new = status(json!({"phase": "Running", "qosClass": "BestEffort", "podIPs": [{"ip": "2"}],
            "conditions": [{"type": "Ready", "status": "True"}]}));
        let p = patch("u", &old, &new).unwrap();
        assert_eq!(p["metadata"]["uid"], "u");
        assert_eq!(p["status"]["phase"], "Running");
        assert_eq!(p["status"]["reason"], Value::Null);
        assert_eq!(p["status"]["podIPs"], json!([{"$patch": "replace"}, {"ip": "2"}]));
        assert_eq!(p["status"]["conditions"], json!([{"type": "Ready", "status": "True", "reason": null}]));
        assert!(p["status"].get("qosClass").is_none());
        assert!(patch("u", &new, &new).is_none());
    }
}
