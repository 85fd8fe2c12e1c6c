//! The watches that feed the graph: one over the metadata of each kind that can be listed, watched and deleted.
//! Kinds that are watched for other controllers anyway are taken from those informers.

use super::Collector;
use super::graph::Identity;
use crate::discovered::{AnyMeta, Kind};
use crate::runtime::{Change, Informer};
use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Kinds that never own or are owned, and change all the time.
const IGNORED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

/// Whether objects of this kind are collected.
pub fn is_collected(kind: &Kind) -> bool {
    let named = (kind.resource.group.as_str(), kind.resource.plural.as_str());
    !IGNORED.contains(&named) && ["delete", "list", "watch"].iter().all(|v| kind.can(v))
}

fn identity(api_version: &str, kind: &str, meta: &ObjectMeta) -> Identity {
    Identity {
        api_version: api_version.to_string(),
        kind: kind.to_string(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    }
}

impl Collector {
    /// Takes a kind from a shared informer; the key says which kind.
    fn share<K>(self: &Arc<Self>, informer: &Informer<K>) -> (String, String)
    where
        K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
    {
        let this = self.clone();
        informer.on_change(move |c| {
            let meta = c.object().meta();
            let work = match c {
                Change::Deleted(_) => this.graph.lock().gone(meta.uid.as_deref().unwrap_or_default()),
                _ => this.graph.lock().seen(identity(&K::api_version(&()), &K::kind(&()), meta), meta),
            };
            this.submit(work);
        });
        (K::group(&()).into_owned(), K::plural(&()).into_owned())
    }

    /// The kinds that come from shared informers, now wired.
    pub fn share_all(self: &Arc<Self>) -> HashSet<(String, String)> {
        let s = &self.ctx.shared;
        [
            self.share(&s.pods),
            self.share(&s.replica_sets),
            self.share(&s.deployments),
            self.share(&s.services),
            self.share(&s.endpoint_slices),
            self.share(&s.endpoints),
            self.share(&s.nodes),
            self.share(&s.namespaces),
            self.share(&s.service_accounts),
            self.share(&s.csrs),
            self.share(&s.cluster_roles),
        ]
        .into()
    }

    /// Returns when the shared informers have their first complete lists.
    pub async fn shared_synced(&self) {
        let s = &self.ctx.shared;
        s.pods.synced().await;
        s.replica_sets.synced().await;
        s.deployments.synced().await;
        s.services.synced().await;
        s.endpoint_slices.synced().await;
        s.endpoints.synced().await;
        s.nodes.synced().await;
        s.namespaces.synced().await;
        s.service_accounts.synced().await;
        s.csrs.synced().await;
        s.cluster_roles.synced().await;
    }

    /// Watches one kind until cancelled; `synced` turns true after the first complete list.
    pub async fn monitor(self: Arc<Self>, kind: Kind, synced: watch::Sender<bool>, cancel: CancellationToken) {
        let api = kind.everywhere(&self.ctx.informers);
        let stream = watcher(api, watcher::Config::default().streaming_lists()).default_backoff().boxed();
        let mut stream = stream;
        let (api_version, name) = (kind.resource.api_version.clone(), kind.resource.kind.clone());
        let changes_kinds = matches!(kind.resource.plural.as_str(), "customresourcedefinitions" | "apiservices");
        let mut known: HashSet<String> = HashSet::new();
        let mut listed: HashSet<String> = HashSet::new();
        let mut failing = false;
        loop {
            let event = tokio::select! {
                () = cancel.cancelled() => break,
                e = stream.next() => e,
            };
            let seen = |o: &AnyMeta| {
                let work = self.graph.lock().seen(identity(&api_version, &name, &o.metadata), &o.metadata);
                self.submit(work);
                o.metadata.uid.clone().unwrap_or_default()
            };
            let gone = |uid: &str| {
                let work = self.graph.lock().gone(uid);
                self.submit(work);
            };
            match event {
                None => break,
                Some(Err(e)) => {
                    if !failing {
                        tracing::info!(kind = kind.name(), error = %e, "metadata watch failed; retrying with backoff");
                    }
                    failing = true;
                    continue;
                }
                Some(Ok(Event::Init)) => listed.clear(),
                Some(Ok(Event::InitApply(o))) => {
                    listed.insert(seen(&o));
                }
                Some(Ok(Event::InitDone)) => {
                    known.difference(&listed).for_each(|uid| gone(uid));
                    known = std::mem::take(&mut listed);
                    synced.send_replace(true);
                }
                Some(Ok(Event::Apply(o))) => {
                    known.insert(seen(&o));
                    if changes_kinds {
                        self.kinds_changed.notify_one();
                    }
                }
                Some(Ok(Event::Delete(o))) => {
                    let uid = o.metadata.uid.clone().unwrap_or_default();
                    known.remove(&uid);
                    gone(&uid);
                    if changes_kinds {
                        self.kinds_changed.notify_one();
                    }
                }
            }
            failing = false;
        }
        // The kind is no longer served: nothing of it exists any more. (On shutdown nobody listens.)
        for uid in known {
            let work = self.graph.lock().gone(&uid);
            self.submit(work);
        }
    }
}
