//! Pods: readiness, the one word that says how a Pod is, restarts.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::text::{NONE, age, is_true, name, text_or};
use crate::{meta, time};

/// What `conditions` a finished Pod's row carries, so that clients can hide it.
pub(super) fn row_conditions(pod: &Value) -> Option<Value> {
    let (reason, message) = match meta::str_at(pod, &["status", "phase"]) {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": reason, "message": message}]))
}

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let state = state(pod);
    let restarts = match state.last_restart {
        Some(t) if state.restarts != 0 => {
            format!("{} ({} ago)", state.restarts, time::human_duration(now.as_second() - t.as_second()))
        }
        _ => state.restarts.to_string(),
    };
    vec![
        name(pod),
        json!(format!("{}/{}", state.ready, state.total)),
        json!(state.reason),
        json!(restarts),
        age(pod, now),
        json!(pod_ip(pod)),
        json!(text_or(pod, &["spec", "nodeName"], NONE)),
        json!(text_or(pod, &["status", "nominatedNodeName"], NONE)),
        json!(readiness_gates(pod)),
    ]
}

fn pod_ip(pod: &Value) -> &str {
    let first = meta::list_at(pod, &["status", "podIPs"]).first();
    match first.map(|ip| meta::str_at(ip, &["ip"])) {
        Some(ip) if !ip.is_empty() => ip,
        _ => NONE,
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = meta::list_at(pod, &["spec", "readinessGates"]);
    if gates.is_empty() {
        return NONE.into();
    }
    let open = gates.iter().filter(|g| is_true(pod, meta::str_at(g, &["conditionType"]))).count();
    format!("{open}/{}", gates.len())
}

struct State {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// Restarts of some containers, and when the last one ended.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, status: &Value) {
        self.count += meta::i64_at(status, &["restartCount"]).unwrap_or(0);
        let ended = time::parse(meta::str_at(status, &["lastState", "terminated", "finishedAt"]));
        self.last = self.last.max(ended);
    }
}

fn state(pod: &Value) -> State {
    let phase = meta::str_at(pod, &["status", "phase"]);
    let status_reason = meta::str_at(pod, &["status", "reason"]);
    let mut reason = if status_reason.is_empty() { phase.to_owned() } else { status_reason.to_owned() };
    let gated = |c: &Value| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated";
    if meta::list_at(pod, &["status", "conditions"]).iter().any(gated) {
        reason = "SchedulingGated".into();
    }
    let init = meta::list_at(pod, &["spec", "initContainers"]);
    let is_sidecar = |name: &str| init.iter().any(|c| c["name"] == name && c["restartPolicy"] == "Always");
    let sidecars = init.iter().filter(|c| c["restartPolicy"] == "Always").count();
    let total = meta::list_at(pod, &["spec", "containers"]).len() + sidecars;
    let mut ready = 0;
    let (mut all, mut sidecar_restarts) = (Restarts::default(), Restarts::default());
    let mut initializing = false;
    for (i, status) in meta::list_at(pod, &["status", "initContainerStatuses"]).iter().enumerate() {
        all.add(status);
        let sidecar = is_sidecar(meta::str_at(status, &["name"]));
        if sidecar {
            sidecar_restarts.add(status);
        }
        let terminated = meta::at(status, &["state", "terminated"]).filter(|t| !t.is_null());
        if terminated.is_some_and(|t| meta::i64_at(t, &["exitCode"]).unwrap_or(0) == 0) {
            continue;
        }
        if sidecar && meta::bool_at(status, &["started"]) {
            ready += usize::from(meta::bool_at(status, &["ready"]));
            continue;
        }
        reason = match (terminated, meta::str_at(status, &["state", "waiting", "reason"])) {
            (Some(t), _) => format!("Init:{}", terminated_reason(t)),
            (None, waiting) if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
            _ => format!("Init:{i}/{}", init.len()),
        };
        initializing = true;
        break;
    }
    let mut restarts = all;
    if !initializing || is_true(pod, "Initialized") {
        restarts = sidecar_restarts;
        let mut running = false;
        for status in meta::list_at(pod, &["status", "containerStatuses"]).iter().rev() {
            restarts.add(status);
            let waiting = meta::str_at(status, &["state", "waiting", "reason"]);
            let terminated = meta::at(status, &["state", "terminated"]).filter(|t| !t.is_null());
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if let Some(t) = terminated {
                reason = terminated_reason(t);
            } else if meta::bool_at(status, &["ready"]) && meta::at(status, &["state", "running"]).is_some() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            reason = if is_true(pod, "Ready") { "Running" } else { "NotReady" }.into();
        }
    }
    if meta::is_being_deleted(pod) {
        if status_reason == "NodeLost" {
            reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            reason = "Terminating".into();
        }
    }
    State { ready, total, reason, restarts: restarts.count, last_restart: restarts.last }
}

fn terminated_reason(terminated: &Value) -> String {
    let reason = meta::str_at(terminated, &["reason"]);
    let number = |field| meta::i64_at(terminated, &[field]).unwrap_or(0);
    if !reason.is_empty() {
        reason.to_owned()
    } else if number("signal") != 0 {
        format!("Signal:{}", number("signal"))
    } else {
        format!("ExitCode:{}", number("exitCode"))
    }
}
