//! Follows the API server and publishes snapshots. One task; woken by watch events and by the debounce deadline only.
//!
//! May not know: what a snapshot is used for.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::node::v1 as node;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cache::{Cache, Change};
use crate::extract::{Extract, HEADLESS, SERVICE_PROXY_NAME};
use crate::intern::intern;
use crate::world::{Kind, ObjectName, SourceState, World};

/// Changes that follow a snapshot within this time become one with the next.
pub const DEBOUNCE: Duration = Duration::from_millis(5);

/// Which objects are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All there are: names, flows and routes need them.
    Cluster,
    /// Those that kube-proxy follows: Services that no other proxy answers, their EndpointSlices, this Node.
    Proxy,
    /// The same and every Node, which kube-proxy's role allows too: what another node sends is to be told from anybody's.
    ProxyAndNodes,
}

/// What is asked for of each kind.
struct Selectors {
    /// Of Services and EndpointSlices.
    services: watcher::Config,
    nodes: watcher::Config,
    others: watcher::Config,
}

impl Selectors {
    fn of(scope: Scope, node_name: &str) -> Self {
        let all = watcher::Config::default;
        match scope {
            Scope::Cluster => Self { services: all(), nodes: all(), others: all() },
            Scope::Proxy | Scope::ProxyAndNodes => Self {
                services: all().labels(&format!("!{SERVICE_PROXY_NAME},!{HEADLESS}")),
                nodes: match scope {
                    Scope::Proxy => all().fields(&format!("metadata.name={node_name}")),
                    _ => all(),
                },
                others: all(),
            },
        }
    }
}

/// Starts following the API. The receiver first holds the empty world (generation 0, not synced). Ends when `token` is
/// cancelled or when every receiver is gone. Must be called within a tokio runtime.
///
/// A cut-off watch is retried with backoff and keeps what is known; a kind that is denied is reported in
/// [`World::sources`] and, if optional, does not hold up [`World::synced`].
pub fn watch(client: Client, node_name: &str, scope: Scope, token: CancellationToken) -> watch::Receiver<Arc<World>> {
    let empty = World { node_name: node_name.into(), ..World::default() };
    let (sender, receiver) = watch::channel(Arc::new(empty));
    let cache = Cache::new(node_name);
    let selectors = Selectors::of(scope, node_name);
    tokio::spawn(async move {
        tokio::select! {
            () = run(client, selectors, cache, &sender) => {}
            () = token.cancelled() => {}
            () = sender.closed() => {}
        }
        debug!("no longer following the API");
    });
    receiver
}

async fn run(client: Client, selectors: Selectors, mut cache: Cache, sender: &watch::Sender<Arc<World>>) {
    let mut changes = stream::select_all([
        follow::<core::Service>(&client, Kind::Service, selectors.services.clone(), |key, kept| {
            Change::Service(key, kept.map(Arc::new))
        }),
        follow::<discovery::EndpointSlice>(&client, Kind::EndpointSlice, selectors.services, |key, kept| {
            Change::Slice(key, kept.map(Arc::new))
        }),
        follow::<core::Node>(&client, Kind::Node, selectors.nodes, |key, kept| {
            Change::Node(key.name, kept.map(Arc::new))
        }),
        follow::<core::Pod>(&client, Kind::Pod, selectors.others.clone(), |key, kept| {
            Change::Pod(key, kept.map(Arc::new))
        }),
        follow::<core::Namespace>(&client, Kind::Namespace, selectors.others.clone(), |key, kept| {
            Change::Namespace(key.name, kept.map(Arc::new))
        }),
        follow::<node::RuntimeClass>(&client, Kind::RuntimeClass, selectors.others, |key, kept| {
            Change::RuntimeClass(key.name, kept.map(Arc::new))
        }),
    ]);
    let mut was_synced = false;
    let mut last = Instant::now();
    while let Some(change) = changes.next().await {
        if !cache.apply(change) {
            continue;
        }
        // The first change after a pause is not kept waiting, the ones that follow at once come together. Lists always do.
        let from = if was_synced { last } else { Instant::now() };
        let deadline = sleep_until(from + DEBOUNCE);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                biased;
                () = &mut deadline => break,
                change = changes.next() => match change {
                    Some(change) => { cache.apply(change); }
                    None => break,
                },
            }
        }
        last = Instant::now();
        let world = cache.snapshot();
        if world.synced && !was_synced {
            was_synced = true;
            info!(
                services = world.services.len(),
                nodes = world.nodes.len(),
                pods = world.pods.len(),
                "first complete view of the cluster"
            );
        }
        sender.send_replace(Arc::new(world));
    }
}

/// One kind's watch as a stream of changes.
///
/// The watcher tries again after every error with pauses of up to half a minute. Without a right it will not have it a
/// minute later either: an optional kind is asked for ever more seldom.
fn follow<K>(
    client: &Client,
    kind: Kind,
    config: watcher::Config,
    change: fn(ObjectName, Option<K::Kept>) -> Change,
) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()> + Extract + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let name = |object: &K| {
        let meta = object.meta();
        let part = |part: &Option<String>| intern(part.as_deref().unwrap_or_default());
        ObjectName::new(part(&meta.namespace), part(&meta.name))
    };
    let events = watcher::watcher(Api::<K>::all(client.clone()), config).default_backoff();
    let changes = events
        .map(move |event| match event {
            Ok(Event::Init) => Change::Init(kind),
            Ok(Event::InitDone) => Change::InitDone(kind),
            Ok(Event::InitApply(object) | Event::Apply(object)) => change(name(&object), object.extract()),
            Ok(Event::Delete(object)) => change(name(&object), None),
            Err(error) => {
                let message = said(&error);
                if denied(&error) {
                    Change::Trouble(kind, SourceState::Denied { message })
                } else {
                    debug!(resource = kind.resource(), why = message, "watch interrupted");
                    Change::Trouble(kind, SourceState::Failing { message })
                }
            }
        })
        .boxed();
    let patient = Patient { changes, refusals: 0, pause: None };
    stream::unfold(patient, |mut patient| async move { patient.next().await.map(|change| (change, patient)) }).boxed()
}

/// A kind's changes, with pauses while they are denied.
struct Patient {
    changes: BoxStream<'static, Change>,
    /// In a row.
    refusals: u32,
    /// Before the next question.
    pause: Option<Duration>,
}

impl Patient {
    async fn next(&mut self) -> Option<Change> {
        if let Some(pause) = self.pause.take() {
            tokio::time::sleep(pause).await;
        }
        let change = self.changes.next().await?;
        match &change {
            Change::Trouble(kind, SourceState::Denied { message }) => {
                if self.refusals == 0 {
                    let without = kind.without();
                    warn!(resource = kind.resource(), why = message, without, "the API server denies list or watch");
                }
                self.refusals += 1;
                self.pause = (!kind.required()).then(|| pause(self.refusals));
            }
            // The watcher announces a list before it asks for it.
            Change::Init(_) => {}
            _ => self.refusals = 0,
        }
        Some(change)
    }
}

/// Before asking again for an optional kind that was denied: soon at first, since roles may be in the making, and
/// every ten minutes in the end.
fn pause(refusals: u32) -> Duration {
    Duration::from_secs(1 << refusals.min(9)).min(Duration::from_secs(600))
}

/// What the API server answered, if it did.
fn status(error: &watcher::Error) -> Option<&kube::core::Status> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status),
        _ => None,
    }
}

/// It will not have it the next time either: forbidden, or a resource that this API server does not know.
fn denied(error: &watcher::Error) -> bool {
    status(error).is_some_and(|status| matches!(status.code, 403 | 404))
}

/// The server's own words where there are any.
fn said(error: &watcher::Error) -> String {
    status(error).map_or_else(|| error.to_string(), |status| status.message.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_asks_for_its_node_alone_unless_it_must_know_the_others() {
        let asked = |scope| Selectors::of(scope, "n1");
        assert_eq!(asked(Scope::Cluster).services.label_selector, None);
        let (alone, all) = (asked(Scope::Proxy), asked(Scope::ProxyAndNodes));
        assert_eq!(alone.services.label_selector, all.services.label_selector);
        assert!(all.services.label_selector.is_some());
        assert_eq!(alone.nodes.field_selector.as_deref(), Some("metadata.name=n1"));
        assert_eq!(all.nodes.field_selector, None);
    }
}
