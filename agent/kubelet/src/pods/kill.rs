//! Ending containers: preStop hook, stop signal, the rest of the grace period, SIGKILL. Sidecars end after the others.

use std::time::{Duration, Instant};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};

use super::Shared;
use crate::error::Result;
use crate::events::Level;
use crate::lifecycle;
use crate::pod;
use crate::runtime::{PodRuntime, Record, State};

/// What a container is left of its grace period at least, seconds (stock).
const LEAST: i64 = 2;

/// Stops one container. `message` is the event's text.
pub async fn container(s: &Shared, p: &Pod, r: &Record, ip: Option<&str>, grace: i64, message: String) -> Result<()> {
    let begun = Instant::now();
    s.recorder.container(p, &r.name, Level::Normal, "Killing", message);
    let spec = pod::container(p, &r.name);
    let hook: Option<LifecycleHandler> = match &spec {
        Some(c) => c.lifecycle.as_ref().and_then(|l| l.pre_stop.clone()),
        // The Pod's object is gone: what the container was made with tells.
        None => r.pre_stop.as_deref().and_then(|j| serde_json::from_str(j).ok()),
    };
    if let Some(hook) = hook.filter(|_| r.state == State::Running && grace > 0) {
        let fallback = Container { name: r.name.clone(), ..Default::default() };
        let run = lifecycle::run(&s.cri, &hook, spec.as_ref().unwrap_or(&fallback), &r.id, ip);
        match tokio::time::timeout(Duration::from_secs(grace as u64), run).await {
            Ok(Ok(())) => {}
            Ok(Err(text)) => s.recorder.container(
                p,
                &r.name,
                Level::Warning,
                "FailedPreStopHook",
                format!("PreStopHook failed: {text}"),
            ),
            Err(_) => tracing::info!(
                pod = pod::formatted(p),
                container = r.name,
                grace,
                "the preStop hook took the whole grace period"
            ),
        }
    }
    let left = if grace <= 1 { grace } else { (grace - begun.elapsed().as_secs() as i64).max(LEAST.min(grace)) };
    s.cri.stop_container(&r.id, left).await
}

/// Stops every container of the Pod within `grace` seconds, sidecars last and in reverse order.
/// The first failure is returned, after all were tried.
pub async fn all(s: &Shared, p: &Pod, rt: &PodRuntime, grace: i64) -> Result<()> {
    let begun = Instant::now();
    let ip = rt.ips().first().map(String::as_str);
    let live = || rt.containers.iter().filter(|r| matches!(r.state, State::Running | State::Unknown));
    let sidecar = |name: &str| pod::init_containers(p).iter().any(|c| c.name == name && pod::is_sidecar(c));
    let stop = |r: &Record, grace: i64| {
        let (r, message) = (r.clone(), format!("Stopping container {}", r.name));
        async move { container(s, p, &r, ip, grace, message).await }
    };
    let mut failure = None;
    for outcome in join_all(live().filter(|r| !sidecar(&r.name)).map(|r| stop(r, grace))).await {
        failure = failure.or(outcome.err());
    }
    for c in pod::init_containers(p).iter().rev().filter(|c| pod::is_sidecar(c)) {
        for r in live().filter(|r| r.name == c.name) {
            let left = (grace - begun.elapsed().as_secs() as i64).max(LEAST.min(grace));
            failure = failure.or(stop(r, left).await.err());
        }
    }
    failure.map_or(Ok(()), Err)
}
