//! Whether this node's proxy keeps up, as kube-proxy says it: `/healthz` for load balancers (is this node to get
//! traffic?), `/livez` for the kubelet (is this process to be restarted?).
//!
//! Knows when snapshots were begun and done; not what is in them, but for this node's being on its way out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use hyper::body::Incoming;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use strake_state::World;
use tokio::sync::watch;

use crate::http::{Answer, answer, not_found};

/// A snapshot that is not in the kernel after this long makes the proxy unhealthy; twice kube-proxy's sync period.
const TOO_LONG: Duration = Duration::from_secs(60);

/// Shared by who applies and who answers.
pub struct Health {
    state: Mutex<State>,
    worlds: watch::Receiver<Arc<World>>,
}

#[derive(Default)]
struct State {
    /// The last time the kernel held what the cluster says.
    updated: Option<Timestamp>,
    /// Since when a snapshot waits to be applied.
    waiting: Option<Instant>,
}

impl Health {
    pub fn new(worlds: watch::Receiver<Arc<World>>) -> Self {
        Self { state: Mutex::default(), worlds }
    }

    /// A complete snapshot is about to be applied.
    pub fn begin(&self) {
        self.state.lock().waiting.get_or_insert_with(Instant::now);
    }

    /// The kernel holds the newest snapshot.
    pub fn done(&self) {
        *self.state.lock() = State { updated: Some(Timestamp::now()), waiting: None };
    }

    /// Whether what Services say is what packets meet.
    pub fn is_healthy(&self) -> bool {
        let state = self.state.lock();
        state.updated.is_some() && state.waiting.is_none_or(|since| since.elapsed() < TOO_LONG)
    }

    fn is_eligible(&self) -> bool {
        let world = self.worlds.borrow();
        world.this_node().is_none_or(|node| !node.leaving)
    }

    /// Answers a request; the second value is the endpoint that it was for, which the counters go by.
    pub fn handle(&self, request: &Request<Incoming>) -> (Answer, Option<Endpoint>) {
        let eligible = self.is_eligible();
        let (ok, endpoint) = match request.uri().path() {
            "/healthz" => (self.is_healthy() && eligible, Endpoint::Healthz),
            "/livez" => (self.is_healthy(), Endpoint::Livez),
            _ => return (not_found(), None),
        };
        let now = Timestamp::now();
        // An idle cluster makes no updates: healthy means that nothing is missing as of now.
        let updated = if ok { Some(now) } else { self.state.lock().updated };
        let body = json!({
            "lastUpdated": updated.map_or_else(|| "0001-01-01T00:00:00Z".into(), |at| at.to_string()),
            "currentTime": now.to_string(),
            "nodeEligible": eligible,
        });
        let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (answer(status, "application/json", body.to_string()), Some(endpoint))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Healthz,
    Livez,
}

#[cfg(test)]
mod tests {

    use strake_state::Node;

    use super::*;

    fn health(leaving: bool) -> Health {
        let node = Node {
            name: "n1".into(),
            internal_ips: Vec::new(),
            external_ips: Vec::new(),
            pod_cidrs: Vec::new(),
            zone: None,
            ready: true,
            leaving,
            excluded_from_lb: false,
        };
        let nodes = [(Box::from("n1"), Arc::new(node))].into_iter().collect();
        let world = World { node_name: "n1".into(), nodes, ..World::default() };
        Health::new(watch::channel(Arc::new(world)).1)
    }

    #[test]
    fn a_proxy_is_unhealthy_until_its_first_update_and_when_one_takes_too_long() {
        let health = health(false);
        assert!(!health.is_healthy());
        health.begin();
        assert!(!health.is_healthy());
        health.done();
        assert!(health.is_healthy());
        health.begin();
        assert!(health.is_healthy());
        health.state.lock().waiting = Instant::now().checked_sub(TOO_LONG);
        assert!(!health.is_healthy());
        // A later attempt does not hide how long the first has waited.
        health.begin();
        assert!(!health.is_healthy());
        health.done();
        assert!(health.is_healthy());
    }

    #[test]
    fn a_node_that_is_leaving_is_not_eligible() {
        assert!(health(false).is_eligible());
        assert!(!health(true).is_eligible());
    }
}
