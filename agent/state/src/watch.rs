//! Follows the API server and publishes snapshots. One task; woken by watch events and by the debounce deadline only.
//!
//! May not know: what a snapshot is used for.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::cache::{Cache, Change};
use crate::extract::Extract;
use crate::world::{Kind, ObjectName, SourceState, World};

/// Changes that come this close together become one snapshot.
pub const DEBOUNCE: Duration = Duration::from_millis(5);

/// Starts following the API. The receiver first holds the empty world (generation 0, not synced). Ends when `token` is
/// cancelled or when every receiver is gone. Must be called within a tokio runtime.
///
/// A cut-off watch is retried with backoff and keeps what is known; a kind that is denied is reported in
/// [`World::sources`] and, if optional, does not hold up [`World::synced`].
pub fn watch(client: Client, node_name: &str, token: CancellationToken) -> watch::Receiver<Arc<World>> {
    let empty = World { node_name: node_name.into(), ..World::default() };
    let (sender, receiver) = watch::channel(Arc::new(empty));
    let cache = Cache::new(node_name);
    tokio::spawn(async move {
        tokio::select! {
            () = run(client, cache, &sender) => {}
            () = token.cancelled() => {}
            () = sender.closed() => {}
        }
        debug!("no longer following the API");
    });
    receiver
}

async fn run(client: Client, mut cache: Cache, sender: &watch::Sender<Arc<World>>) {
    let mut changes = stream::select_all([
        follow::<core::Service>(client.clone(), Kind::Service, |key, kept| Change::Service(key, kept.map(Arc::new))),
        follow::<discovery::EndpointSlice>(client.clone(), Kind::EndpointSlice, |key, kept| {
            Change::Slice(key, kept.map(Arc::new))
        }),
        follow::<core::Node>(client.clone(), Kind::Node, |key, kept| Change::Node(key.name, kept.map(Arc::new))),
        follow::<core::Pod>(client.clone(), Kind::Pod, |key, kept| Change::Pod(key, kept.map(Arc::new))),
        follow::<core::Namespace>(client, Kind::Namespace, |key, kept| Change::Namespace(key.name, kept.map(Arc::new))),
    ]);
    let mut was_synced = false;
    while let Some(change) = changes.next().await {
        if !cache.apply(change) {
            continue;
        }
        let deadline = sleep_until(Instant::now() + DEBOUNCE);
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
fn follow<K>(
    client: Client,
    kind: Kind,
    change: fn(ObjectName, Option<K::Kept>) -> Change,
) -> BoxStream<'static, Change>
where
    K: Resource<DynamicType = ()> + Extract + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let name = |object: &K| {
        let meta = object.meta();
        ObjectName::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    };
    watcher::watcher(Api::<K>::all(client), watcher::Config::default())
        .default_backoff()
        .map(move |event| match event {
            Ok(Event::Init) => Change::Init(kind),
            Ok(Event::InitDone) => Change::InitDone(kind),
            Ok(Event::InitApply(object) | Event::Apply(object)) => change(name(&object), object.extract()),
            Ok(Event::Delete(object)) => change(name(&object), None),
            Err(error) => {
                let message = error.to_string();
                if denied(&error) {
                    warn!(resource = kind.resource(), message, "the API server denies list or watch");
                    Change::Trouble(kind, SourceState::Denied { message })
                } else {
                    debug!(resource = kind.resource(), message, "watch interrupted");
                    Change::Trouble(kind, SourceState::Failing { message })
                }
            }
        })
        .boxed()
}

fn denied(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) => status.code == 403,
        watcher::Error::WatchError(status) => status.code == 403,
        _ => false,
    }
}
