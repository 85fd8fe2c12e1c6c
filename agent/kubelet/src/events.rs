//! Events about Pods and the node, as client-go's recorder writes them: core/v1 objects, repeated ones counted,
//! a chatty object slowed down. A task sends them; nobody waits for it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

use crate::pod;

/// Events that wait to be sent; more are dropped (and counted in the log).
const QUEUE: usize = 1024;
/// Distinct events remembered to be counted instead of repeated.
const REMEMBERED: usize = 1024;
/// An object may send so many at once, then one per `REFILL` (client-go's spam filter).
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);

/// `type` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Nothing to worry about.
    Normal,
    /// Something failed.
    Warning,
}

struct Item {
    object: ObjectReference,
    level: Level,
    reason: &'static str,
    message: String,
}

/// Sends events; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Item>,
    node: Arc<str>,
}

impl Recorder {
    /// A recorder and its task, which ends with the last recorder.
    pub fn start(client: kube::Client, node: &str) -> Self {
        let (queue, items) = mpsc::channel(QUEUE);
        tokio::spawn(
            Sender {
                client,
                node: node.to_owned(),
                known: HashMap::new(),
                order: VecDeque::new(),
                budget: HashMap::new(),
            }
            .run(items),
        );
        Self { queue, node: node.into() }
    }

    /// An event about a Pod.
    pub fn pod(&self, p: &Pod, level: Level, reason: &'static str, message: impl Into<String>) {
        self.send(reference(p, None), level, reason, message.into());
    }

    /// An event about one container of a Pod.
    pub fn container(&self, p: &Pod, container: &str, level: Level, reason: &'static str, message: impl Into<String>) {
        let list = if pod::init_containers(p).iter().any(|c| c.name == container) {
            "initContainers"
        } else if pod::ephemeral_containers(p).iter().any(|c| c.name == container) {
            "ephemeralContainers"
        } else {
            "containers"
        };
        self.send(reference(p, Some(format!("spec.{list}{{{container}}}"))), level, reason, message.into());
    }

    /// An event about the node.
    pub fn node(&self, level: Level, reason: &'static str, message: impl Into<String>) {
        let object = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.node.to_string()),
            uid: Some(self.node.to_string()),
            ..Default::default()
        };
        self.send(object, level, reason, message.into());
    }

    fn send(&self, object: ObjectReference, level: Level, reason: &'static str, message: String) {
        tracing::debug!(object = object.name, reason, message, "event");
        let mut message = message;
        message.truncate(message.floor_char_boundary(1024));
        if self.queue.try_send(Item { object, level, reason, message }).is_err() {
            tracing::warn!(reason, "an event was dropped: too many wait for the API server");
        }
    }
}

fn reference(p: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: p.metadata.namespace.clone(),
        name: p.metadata.name.clone(),
        uid: p.metadata.uid.clone(),
        resource_version: p.metadata.resource_version.clone(),
        field_path,
    }
}

struct Known {
    name: String,
    namespace: String,
    count: i32,
}

struct Sender {
    client: kube::Client,
    node: String,
    known: HashMap<String, Known>,
    order: VecDeque<String>,
    budget: HashMap<String, (f64, Instant)>,
}

impl Sender {
    async fn run(mut self, mut items: mpsc::Receiver<Item>) {
        while let Some(item) = items.recv().await {
            if !self.allowed(&item) {
                continue;
            }
            if let Err(error) = self.write(&item).await {
                tracing::debug!(%error, reason = item.reason, "event not written");
            }
        }
    }

    fn allowed(&mut self, item: &Item) -> bool {
        let now = Instant::now();
        if self.budget.len() > REMEMBERED {
            self.budget.retain(|_, (_, at)| now - *at < REFILL);
        }
        let key = item.object.uid.clone().unwrap_or_default();
        let (tokens, at) = self.budget.entry(key).or_insert((BURST, now));
        *tokens = (*tokens + (now - *at).as_secs_f64() / REFILL.as_secs_f64()).min(BURST);
        *at = now;
        if *tokens < 1.0 {
            return false;
        }
        *tokens -= 1.0;
        true
    }

    async fn write(&mut self, item: &Item) -> kube::Result<()> {
        let o = &item.object;
        let key =
            format!("{:?}/{:?}/{:?}/{:?}/{}/{}", o.uid, o.field_path, item.level, o.kind, item.reason, item.message);
        let now = Timestamp::now();
        let second = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
        if let Some(known) = self.known.get_mut(&key) {
            known.count += 1;
            let api: Api<Event> = Api::namespaced(self.client.clone(), &known.namespace);
            let patch = serde_json::json!({"count": known.count, "lastTimestamp": second});
            match api.patch(&known.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Err(kube::Error::Api(s)) if s.code == 404 => {
                    self.known.remove(&key);
                }
                other => return other.map(|_| ()),
            }
        }
        let namespace = o.namespace.clone().unwrap_or_else(|| "default".into());
        let name = format!("{}.{:x}", o.name.as_deref().unwrap_or("node"), now.as_nanosecond());
        let event = Event {
            metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace.clone()), ..Default::default() },
            involved_object: o.clone(),
            reason: Some(item.reason.into()),
            message: Some(item.message.clone()),
            type_: Some(if item.level == Level::Normal { "Normal" } else { "Warning" }.into()),
            first_timestamp: Some(second.clone()),
            last_timestamp: Some(second),
            count: Some(1),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some(self.node.clone()) }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(self.node.clone()),
            ..Default::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        api.create(&PostParams::default(), &event).await?;
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(key.clone());
        self.known.insert(key, Known { name, namespace, count: 1 });
        Ok(())
    }
}
