//! The Service proxy of a node: snapshots go into the datapath, and monitors and load balancers are told how it goes.
//!
//! The same in a node of ours and in somebody else's cluster. Knows neither how the snapshots come nor what is
//! programmed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strake_datapath::{ApplyOutcome, Datapath};
use strake_state::{EndpointSlice, World};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::health::Health;
use crate::metrics::{self, Metrics};
use crate::{Error, api, http, service_health};

type Worlds = watch::Receiver<Arc<World>>;

/// A snapshot that could not be applied is tried again after this long, if none comes before.
const RETRY: Duration = Duration::from_secs(10);

/// Where the proxy tells how it is doing; none: nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// `/healthz` and `/livez`.
    pub healthz: Option<SocketAddr>,
    /// `/metrics`.
    pub metrics: Option<SocketAddr>,
}

/// Starts the proxy's tasks, which run until `token` is cancelled.
pub fn start(
    parts: &mut JoinSet<Result<(), Error>>,
    datapath: &Datapath,
    flows: &strake_flow::Metrics,
    worlds: &Worlds,
    listen: Listen,
    token: &CancellationToken,
) {
    let health = Arc::new(Health::new(worlds.clone()));
    let metrics = Arc::new(Metrics::new(datapath.clone(), flows));
    if let Some(address) = listen.healthz {
        let (health, metrics, token) = (health.clone(), metrics.clone(), token.clone());
        parts.spawn(async move {
            let handler = move |request| {
                let (answer, endpoint) = health.handle(&request);
                if let Some(endpoint) = endpoint {
                    metrics.health_answered(endpoint, answer.status());
                }
                std::future::ready(answer)
            };
            http::serve("health", address, handler, token).await;
            Ok(())
        });
    }
    if let Some(address) = listen.metrics {
        let (metrics, token) = (metrics.clone(), token.clone());
        parts.spawn(async move {
            let handler =
                move |request: ::http::Request<_>| metrics::handle(metrics.clone(), request.uri().path().to_owned());
            http::serve("metrics", address, handler, token).await;
            Ok(())
        });
    }
    parts.spawn(service_health::run(worlds.clone(), health.clone(), token.clone()));
    parts.spawn(sync(datapath.clone(), worlds.clone(), Some((health, metrics)), token.clone()));
}

/// Applies every snapshot that comes, until `token` is cancelled or the sender is gone. Errors are logged, counted and
/// shown by [`Datapath::status`].
pub async fn sync(
    datapath: Datapath,
    mut worlds: Worlds,
    told: Option<(Arc<Health>, Arc<Metrics>)>,
    token: CancellationToken,
) -> Result<(), Error> {
    let mut before: Option<Arc<World>> = None;
    loop {
        let world = worlds.borrow_and_update().clone();
        if let Some((health, metrics)) = told.as_ref().filter(|_| world.synced) {
            health.begin();
            metrics.queued();
        }
        let started = Instant::now();
        let (apply, snapshot) = (datapath.clone(), world.clone());
        let done = match tokio::task::spawn_blocking(move || apply.apply(&snapshot)).await {
            Ok(Ok(ApplyOutcome::Applied(applied))) => {
                tracing::debug!(?applied, "snapshot applied");
                true
            }
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::error!(error = api::chain(&error), "snapshot not applied");
                false
            }
            Err(error) => {
                tracing::error!(%error, "applying a snapshot panicked");
                false
            }
        };
        if let Some((health, metrics)) = told.as_ref().filter(|_| done && world.synced) {
            health.done();
            metrics.synced(started.elapsed());
            if let Some(before) = &before {
                changes(before, &world).for_each(|triggered| metrics.programmed(triggered));
            }
            before = Some(world);
        }
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            changed = worlds.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(RETRY), if !done => {}
        }
    }
}

/// When the changes happened that `after` has and `before` had not. The first snapshot has none: what it says may have
/// happened long ago.
fn changes<'a>(before: &'a World, after: &'a World) -> impl Iterator<Item = u64> + 'a {
    let triggered = |(old, new): (Option<&Arc<EndpointSlice>>, &Arc<EndpointSlice>)| {
        if old.is_some_and(|old| old.triggered_ms == new.triggered_ms) { None } else { new.triggered_ms }
    };
    after.changed_slices(before).filter_map(triggered)
}
