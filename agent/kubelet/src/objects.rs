//! ConfigMaps and Secrets that Pods of this node use: one watch an object, as the Node authorizer allows, kept only
//! while some Pod uses it. A change wakes the Pods that do.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use kube::Api;
use kube::runtime::watcher;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::error::{Error, Result};

/// How long a Pod waits for the first answer about an object.
const FIRST_ANSWER: Duration = Duration::from_secs(20);

/// Who uses an object: a Pod's UID and what wakes its worker.
#[derive(Clone)]
pub struct User {
    /// Pod UID.
    pub uid: String,
    /// Wakes the Pod's worker.
    pub wake: Arc<Notify>,
}

enum Slot<K> {
    Pending(Option<String>),
    Known(Option<Arc<K>>),
}

struct Entry<K> {
    users: Arc<Mutex<HashMap<String, Arc<Notify>>>>,
    value: watch::Receiver<Slot<K>>,
    _task: AbortOnDropHandle<()>,
}

/// The objects of one kind in use.
pub struct Objects<K> {
    client: kube::Client,
    entries: Mutex<HashMap<(String, String), Entry<K>>>,
}

impl<K> Objects<K>
where
    K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    /// None yet.
    pub fn new(client: kube::Client) -> Self {
        Self { client, entries: Mutex::default() }
    }

    /// The object now, `None` if it does not exist; from now on `user` is woken when it changes.
    pub async fn get(&self, namespace: &str, name: &str, user: &User) -> Result<Option<Arc<K>>> {
        let mut value = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            let key = (namespace.to_owned(), name.to_owned());
            let entry = entries.entry(key).or_insert_with(|| self.start(namespace, name));
            let mut users = entry.users.lock().unwrap_or_else(PoisonError::into_inner);
            users.insert(user.uid.clone(), user.wake.clone());
            entry.value.clone()
        };
        let wait = async {
            loop {
                if let Slot::Known(found) = &*value.borrow_and_update() {
                    return Some(found.clone());
                }
                value.changed().await.ok()?;
            }
        };
        if let Ok(Some(found)) = tokio::time::timeout(FIRST_ANSWER, wait).await {
            return Ok(found);
        }
        let kind = K::kind(&()).to_lowercase();
        let why = match &*value.borrow() {
            Slot::Pending(Some(e)) => e.clone(),
            _ => "timed out waiting for the API server".to_owned(),
        };
        Err(Error::Pod(format!("failed to sync {kind} \"{namespace}/{name}\": {why}")))
    }

    /// A Pod is gone: objects nobody else uses are watched no more.
    pub fn release(&self, uid: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|_, e| {
            let mut users = e.users.lock().unwrap_or_else(PoisonError::into_inner);
            users.remove(uid);
            !users.is_empty()
        });
    }

    fn start(&self, namespace: &str, name: &str) -> Entry<K> {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let (tx, value) = watch::channel(Slot::Pending(None));
        let users: Arc<Mutex<HashMap<String, Arc<Notify>>>> = Arc::default();
        let task = tokio::spawn(follow(api, name.to_owned(), tx, users.clone()));
        Entry { users, value, _task: AbortOnDropHandle::new(task) }
    }
}

async fn follow<K>(
    api: Api<K>,
    name: String,
    value: watch::Sender<Slot<K>>,
    users: Arc<Mutex<HashMap<String, Arc<Notify>>>>,
) where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(api, config).boxed();
    let mut listed: Option<Arc<K>> = None;
    let mut pause = Duration::from_millis(100);
    loop {
        let new = match events.try_next().await {
            Ok(None) => return,
            Ok(Some(event)) => {
                pause = Duration::from_millis(100);
                match event {
                    watcher::Event::Init => {
                        listed = None;
                        continue;
                    }
                    watcher::Event::InitApply(o) => {
                        listed = Some(Arc::new(o));
                        continue;
                    }
                    watcher::Event::InitDone => listed.take(),
                    watcher::Event::Apply(o) => Some(Arc::new(o)),
                    watcher::Event::Delete(_) => None,
                }
            }
            Err(error) => {
                value.send_if_modified(|v| {
                    let pending = matches!(v, Slot::Pending(_));
                    if pending {
                        *v = Slot::Pending(Some(error.to_string()));
                    }
                    pending
                });
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
                continue;
            }
        };
        let version = |o: &Option<Arc<K>>| o.as_ref().map(|o| o.meta().resource_version.clone());
        let changed = value.send_if_modified(|v| {
            let same = matches!(v, Slot::Known(old) if version(old) == version(&new));
            if !same {
                *v = Slot::Known(new);
            }
            !same
        });
        if changed {
            for wake in users.lock().unwrap_or_else(PoisonError::into_inner).values() {
                wake.notify_one();
            }
        }
    }
}
