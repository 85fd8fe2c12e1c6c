//! Events about objects: correlated (repeats become a count, floods are cut), then written by one task.
//!
//! Controllers write core/v1 Events and the scheduler events.k8s.io/v1, as their stock counterparts do; both
//! are one object in the API. An event is news, never state: a full channel or a failed write loses it.

use k8s_openapi::api::core::v1::{Event as CoreEvent, EventSource, ObjectReference};
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource};
use std::collections::{HashMap, HashSet};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Normal or Warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventType {
    /// Things as they should be.
    Normal,
    /// Something a person may want to look at.
    Warning,
}

impl EventType {
    /// The API's word.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

/// Which API the events are written through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// core/v1.
    Core,
    /// events.k8s.io/v1.
    Events,
}

/// One thing to say.
#[derive(Clone, Debug)]
struct Note {
    regarding: ObjectReference,
    related: Option<ObjectReference>,
    kind: EventType,
    reason: String,
    action: String,
    message: String,
}

/// Hands events to the writing task. Cheap to clone; recording never waits.
#[derive(Clone)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
}

/// A reference to an object of a known kind.
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..Default::default()
    }
}

impl Recorder {
    /// Starts the writing task of `component`.
    pub fn start(client: Client, component: &'static str, flavour: Flavour, cancel: CancellationToken) -> Self {
        let (notes, inbox) = mpsc::channel(1024);
        tokio::spawn(write_all(client, component, flavour, inbox, cancel));
        Recorder { notes }
    }

    /// Records an event about `object`.
    pub fn event<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        kind: EventType,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.about(reference(object), None, kind, reason, reason, message.into());
    }

    /// Records an event in full: `action` is what was being done (events.k8s.io only), `related` the other object.
    pub fn about(
        &self,
        regarding: ObjectReference,
        related: Option<ObjectReference>,
        kind: EventType,
        reason: &str,
        action: &str,
        message: String,
    ) {
        let (reason, action) = (reason.to_string(), action.to_string());
        if self.notes.try_send(Note { regarding, related, kind, reason, action, message }).is_err() {
            tracing::debug!("event dropped: the recorder is behind");
        }
    }
}

/// What to write for a note.
#[derive(Debug, PartialEq)]
enum Write {
    Create { message: String },
    Repeat { name: String, count: i32, first: Timestamp, message: String },
    Drop,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Same {
    namespace: String,
    uid: String,
    name: String,
    kind: EventType,
    reason: String,
    message: String,
}

struct Told {
    name: String,
    count: i32,
    first: Timestamp,
    last: Timestamp,
}

struct Similar {
    messages: HashSet<String>,
    last: Timestamp,
}

struct Bucket {
    tokens: f64,
    last: Timestamp,
}

/// Upstream's correlation: per object at most 25 events at once and one in five minutes afterwards; more than
/// ten different messages of one reason within ten minutes become one "(combined from similar events)".
#[derive(Default)]
struct Correlator {
    told: HashMap<Same, Told>,
    similar: HashMap<Same, Similar>,
    buckets: HashMap<(String, String), Bucket>,
}

const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
const SIMILAR: usize = 10;
const SIMILAR_WINDOW_SECONDS: f64 = 600.0;
const REMEMBERED: usize = 4096;

impl Correlator {
    fn decide(&mut self, note: &Note, now: Timestamp) -> (Same, Write) {
        let mut same = Same {
            namespace: note.regarding.namespace.clone().unwrap_or_default(),
            uid: note.regarding.uid.clone().unwrap_or_default(),
            name: note.regarding.name.clone().unwrap_or_default(),
            kind: note.kind,
            reason: note.reason.clone(),
            message: String::new(),
        };
        let age = |t: Timestamp| now.duration_since(t).as_secs_f64();
        let bucket =
            self.buckets.entry((same.uid.clone(), same.name.clone())).or_insert(Bucket { tokens: BURST, last: now });
        bucket.tokens = (bucket.tokens + age(bucket.last) * REFILL_PER_SECOND).min(BURST);
        bucket.last = now;
        if bucket.tokens < 1.0 {
            return (same, Write::Drop);
        }
        bucket.tokens -= 1.0;

        let similar =
            self.similar.entry(same.clone()).or_insert_with(|| Similar { messages: HashSet::new(), last: now });
        if age(similar.last) > SIMILAR_WINDOW_SECONDS {
            similar.messages.clear();
        }
        similar.last = now;
        let mut message = note.message.clone();
        if similar.messages.len() >= SIMILAR && !similar.messages.contains(&message) {
            message = format!("(combined from similar events): {message}");
            same.message = "(combined)".into();
        } else {
            similar.messages.insert(message.clone());
            same.message.clone_from(&message);
        }
        let write = match self.told.get_mut(&same) {
            Some(told) => {
                told.count += 1;
                told.last = now;
                Write::Repeat { name: told.name.clone(), count: told.count, first: told.first, message }
            }
            None => Write::Create { message },
        };
        self.shrink();
        (same, write)
    }

    fn created(&mut self, same: Same, name: String, now: Timestamp) {
        self.told.insert(same, Told { name, count: 1, first: now, last: now });
    }

    /// Keeps the newer half when a table is full.
    fn shrink(&mut self) {
        fn halve<K: Clone + Eq + std::hash::Hash, V>(map: &mut HashMap<K, V>, last: impl Fn(&V) -> Timestamp) {
            if map.len() > REMEMBERED {
                let mut times: Vec<Timestamp> = map.values().map(&last).collect();
                times.sort();
                let middle = times[times.len() / 2];
                map.retain(|_, v| last(v) > middle);
            }
        }
        halve(&mut self.told, |t| t.last);
        halve(&mut self.similar, |t| t.last);
        halve(&mut self.buckets, |t| t.last);
    }
}

async fn write_all(
    client: Client,
    component: &'static str,
    flavour: Flavour,
    mut inbox: mpsc::Receiver<Note>,
    cancel: CancellationToken,
) {
    let mut correlator = Correlator::default();
    loop {
        let note = tokio::select! {
            () = cancel.cancelled() => return,
            n = inbox.recv() => match n { Some(n) => n, None => return },
        };
        let now = Timestamp::now();
        let (same, write) = correlator.decide(&note, now);
        let namespace = note.regarding.namespace.clone().filter(|n| !n.is_empty()).unwrap_or("default".into());
        let result = match write {
            Write::Drop => continue,
            Write::Repeat { name, count, first, message } => {
                let body = match flavour {
                    Flavour::Core => serde_json::json!({
                        "count": count, "message": message, "firstTimestamp": Time(first), "lastTimestamp": Time(now)}),
                    Flavour::Events => serde_json::json!({
                        "series": EventSeries { count, last_observed_time: MicroTime(now) }}),
                };
                let (params, patch) = (PatchParams::default(), Patch::Strategic(body));
                let answer = match flavour {
                    Flavour::Core => Api::<CoreEvent>::namespaced(client.clone(), &namespace)
                        .patch(&name, &params, &patch)
                        .await
                        .map(|_| ()),
                    Flavour::Events => Api::<Event>::namespaced(client.clone(), &namespace)
                        .patch(&name, &params, &patch)
                        .await
                        .map(|_| ()),
                };
                if let Err(kube::Error::Api(s)) = &answer
                    && s.code == 404
                {
                    // Expired: the next one begins anew.
                    correlator.told.remove(&same);
                    create(&client, component, flavour, &namespace, &note, &message, now).await.map(|name| {
                        correlator.created(same, name, now);
                    })
                } else {
                    answer
                }
            }
            Write::Create { message } => {
                create(&client, component, flavour, &namespace, &note, &message, now).await.map(|name| {
                    correlator.created(same, name, now);
                })
            }
        };
        if let Err(e) = result {
            tracing::debug!(component, reason = note.reason, error = %e, "an event could not be written");
        }
    }
}

async fn create(
    client: &Client,
    component: &'static str,
    flavour: Flavour,
    namespace: &str,
    note: &Note,
    message: &str,
    now: Timestamp,
) -> Result<String, kube::Error> {
    let object = note.regarding.name.clone().unwrap_or_default();
    let name = format!("{object}.{:x}", now.as_nanosecond());
    let metadata =
        ObjectMeta { name: Some(name.clone()), namespace: Some(namespace.to_string()), ..Default::default() };
    let instance = || format!("{component}-{}", hostname());
    match flavour {
        Flavour::Core => {
            let event = CoreEvent {
                metadata,
                involved_object: note.regarding.clone(),
                related: note.related.clone(),
                reason: Some(note.reason.clone()),
                message: Some(message.to_string()),
                type_: Some(note.kind.as_str().into()),
                count: Some(1),
                first_timestamp: Some(Time(now)),
                last_timestamp: Some(Time(now)),
                source: Some(EventSource { component: Some(component.into()), host: None }),
                reporting_component: Some(component.into()),
                ..Default::default()
            };
            Api::<CoreEvent>::namespaced(client.clone(), namespace).create(&PostParams::default(), &event).await?;
        }
        Flavour::Events => {
            let event = Event {
                metadata,
                regarding: Some(note.regarding.clone()),
                related: note.related.clone(),
                reason: Some(note.reason.clone()),
                note: Some(message.chars().take(1024).collect()),
                type_: Some(note.kind.as_str().into()),
                action: Some(note.action.clone()),
                event_time: Some(MicroTime(now)),
                reporting_controller: Some(component.into()),
                reporting_instance: Some(instance()),
                ..Default::default()
            };
            Api::<Event>::namespaced(client.clone(), namespace).create(&PostParams::default(), &event).await?;
        }
    }
    Ok(name)
}

/// This host's name, for `reportingInstance`.
fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map(|s| s.trim().to_string()).unwrap_or("unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(message: &str) -> Note {
        Note {
            regarding: ObjectReference { uid: Some("u".into()), name: Some("p".into()), ..Default::default() },
            related: None,
            kind: EventType::Normal,
            reason: "R".into(),
            action: "A".into(),
            message: message.into(),
        }
    }

    #[test]
    fn a_repeat_becomes_a_count() {
        let mut c = Correlator::default();
        let t = Timestamp::from_second(100).unwrap();
        let (same, write) = c.decide(&note("m"), t);
        assert_eq!(write, Write::Create { message: "m".into() });
        c.created(same, "p.1".into(), t);
        let (_, write) = c.decide(&note("m"), t);
        assert_eq!(write, Write::Repeat { name: "p.1".into(), count: 2, first: t, message: "m".into() });
    }

    #[test]
    fn different_messages_are_combined_after_ten_and_floods_are_cut() {
        let mut c = Correlator::default();
        let t = Timestamp::from_second(100).unwrap();
        for i in 0..10 {
            let (same, write) = c.decide(&note(&format!("m{i}")), t);
            assert_eq!(write, Write::Create { message: format!("m{i}") });
            c.created(same, format!("p.{i}"), t);
        }
        let (same, write) = c.decide(&note("m10"), t);
        assert_eq!(write, Write::Create { message: "(combined from similar events): m10".into() });
        c.created(same, "p.c".into(), t);
        assert!(matches!(c.decide(&note("m11"), t).1, Write::Repeat { count: 2, .. }));
        for _ in 0..13 {
            assert_ne!(c.decide(&note("m"), t).1, Write::Drop);
        }
        assert_eq!(c.decide(&note("m"), t).1, Write::Drop);
        let later = Timestamp::from_second(100 + 301).unwrap();
        assert_ne!(c.decide(&note("m"), later).1, Write::Drop);
    }
}
