//! Watches, and writes: bindings, conditions, events, evictions.

use crate::Config;
use crate::podinfo::PodInfo;
use crate::state::{State, Step, Workloads};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::sync::Arc;
use strake_controllers::runtime::error::describe;
use strake_controllers::runtime::recorder::reference;
use strake_controllers::runtime::{EventType, Flavour, Informer, Recorder, now, pods};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

/// Decisions made before other tasks get a turn.
const STEPS_PER_TURN: usize = 16;

struct Scheduler {
    config: Config,
    client: Client,
    recorder: Recorder,
    state: Mutex<State>,
    workloads: Workloads,
    /// Something happened.
    wake: Notify,
    bindings: Semaphore,
}

fn start<K>(client: &Client, config: watcher::Config, trim: fn(&mut K), cancel: &CancellationToken) -> Arc<Informer<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let informer = Informer::new(trim, &[]);
    let stream = watcher(Api::<K>::all(client.clone()), config.streaming_lists()).default_backoff().boxed();
    tokio::spawn(informer.clone().run(stream, cancel.clone()));
    informer
}

/// Runs the scheduler until cancelled. The API server may come up later: everything retries.
pub async fn run(config: Config, client: Client, cancel: CancellationToken) {
    let any = watcher::Config::default;
    let unfinished = any().fields("status.phase!=Succeeded,status.phase!=Failed");
    let pods = start::<Pod>(&client, unfinished, pods::trim, &cancel);
    let nodes = start::<Node>(&client, any(), |_| {}, &cancel);
    let namespaces = start::<Namespace>(&client, any(), |_| {}, &cancel);
    let workloads = Workloads {
        services: start(&client, any(), |_| {}, &cancel),
        replica_sets: start(
            &client,
            any(),
            |r: &mut k8s_openapi::api::apps::v1::ReplicaSet| {
                r.status = None;
                if let Some(s) = &mut r.spec {
                    s.template = None;
                }
            },
            &cancel,
        ),
        stateful_sets: start(&client, any(), |_| {}, &cancel),
        replication_controllers: start(&client, any(), |_| {}, &cancel),
    };
    let scheduler = Arc::new(Scheduler {
        recorder: Recorder::start(client.clone(), "default-scheduler", Flavour::Events, cancel.clone()),
        bindings: Semaphore::new(config.concurrent_bindings.max(1)),
        state: Mutex::new(State::default()),
        wake: Notify::new(),
        workloads,
        client,
        config,
    });
    let s = scheduler.clone();
    nodes.on_change(move |c| {
        s.state.lock().node(c);
        s.wake.notify_one();
    });
    let s = scheduler.clone();
    namespaces.on_change(move |c| {
        s.state.lock().namespace(c);
        s.wake.notify_one();
    });
    let s = scheduler.clone();
    pods.on_change(move |c| {
        s.state.lock().pod(c, &s.config.scheduler_name);
        s.wake.notify_one();
    });
    let ready = async {
        nodes.synced().await;
        pods.synced().await;
        namespaces.synced().await;
        scheduler.workloads.services.synced().await;
        scheduler.workloads.replica_sets.synced().await;
        scheduler.workloads.stateful_sets.synced().await;
        scheduler.workloads.replication_controllers.synced().await;
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => return,
        () = ready => {}
    }
    tracing::info!("scheduler: caches are complete");
    tokio::select! {
        biased;
        () = cancel.cancelled() => {}
        () = schedule(scheduler) => {}
    }
}

async fn schedule(s: Arc<Scheduler>) {
    let mut steps = 0;
    loop {
        let step = s.state.lock().step(&s.config, &s.workloads);
        match step {
            Step::Bind(pod, node) => {
                tokio::spawn(bind(s.clone(), pod, node));
            }
            Step::Nowhere { pod, message, nominated, victims } => {
                tokio::spawn(nowhere(s.clone(), pod, message, nominated, victims));
            }
            Step::Idle(deadline) => {
                steps = 0;
                match deadline {
                    Some(at) => {
                        tokio::select! {
                            () = s.wake.notified() => {}
                            () = tokio::time::sleep_until(at.into()) => {}
                        }
                    }
                    None => s.wake.notified().await,
                }
            }
        }
        steps += 1;
        if steps % STEPS_PER_TURN == 0 {
            tokio::task::yield_now().await;
        }
    }
}

async fn bind(s: Arc<Scheduler>, pod: Arc<PodInfo>, node: String) {
    let Ok(_permit) = s.bindings.acquire().await else { return };
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..Default::default()
        },
        target: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.clone()),
            ..Default::default()
        },
    };
    let api: Api<Pod> = Api::namespaced(s.client.clone(), &pod.namespace);
    let answer: Result<serde_json::Value, kube::Error> =
        api.create_subresource("binding", &pod.name, &PostParams::default(), &binding).await;
    match answer {
        Ok(_) => {
            let message = format!("Successfully assigned {} to {node}", pod.key());
            s.recorder.about(reference(&*pod.pod), None, EventType::Normal, "Scheduled", "Binding", message);
        }
        Err(e) => {
            let gone = matches!(&e, kube::Error::Api(status) if status.code == 404);
            tracing::info!(pod = pod.key(), node, error = %describe(&e), "binding failed");
            if !gone {
                let message = format!("binding rejected: {}", describe(&e));
                s.recorder.about(
                    reference(&*pod.pod),
                    None,
                    EventType::Warning,
                    "FailedScheduling",
                    "Scheduling",
                    message,
                );
            }
            s.state.lock().forget(&pod.uid, !gone);
            s.wake.notify_one();
        }
    }
}

async fn nowhere(
    s: Arc<Scheduler>,
    pod: Arc<PodInfo>,
    message: String,
    nominated: Option<String>,
    victims: Vec<Arc<PodInfo>>,
) {
    let object = reference(&*pod.pod);
    s.recorder.about(object.clone(), None, EventType::Warning, "FailedScheduling", "Scheduling", message.clone());
    evict(&s, &pod, nominated.as_deref(), victims).await;

    let status = pod.pod.status.as_ref();
    let current = pods::condition(&pod.pod, "PodScheduled");
    let told = current.is_some_and(|c| c.status == "False" && c.message.as_deref() == Some(&message));
    if told && status.and_then(|s| s.nominated_node_name.clone()) == nominated {
        return;
    }
    let since =
        current.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone()).unwrap_or_else(now);
    let body = serde_json::json!({"metadata": {"uid": pod.uid}, "status": {
        "nominatedNodeName": nominated,
        "conditions": [{
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": since,
            "observedGeneration": pod.pod.metadata.generation,
        }],
    }});
    let api: Api<Pod> = Api::namespaced(s.client.clone(), &pod.namespace);
    if let Err(e) = api.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(body)).await {
        tracing::debug!(pod = pod.key(), error = %describe(&e), "the PodScheduled condition could not be written");
    }
}

/// Says on each victim why it goes, and deletes it.
async fn evict(s: &Scheduler, pod: &PodInfo, node: Option<&str>, victims: Vec<Arc<PodInfo>>) {
    for victim in victims {
        let api: Api<Pod> = Api::namespaced(s.client.clone(), &victim.namespace);
        let message = format!("{}: preempting to accommodate a higher priority pod", s.config.scheduler_name);
        let body = serde_json::json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": message,
            "lastTransitionTime": now(),
        }]}});
        let params = DeleteParams::default()
            .preconditions(Preconditions { uid: Some(victim.uid.clone()), resource_version: None });
        let patched = api.patch_status(&victim.name, &PatchParams::default(), &Patch::Strategic(body)).await;
        let deleted = match patched {
            Ok(_) => api.delete(&victim.name, &params).await.map(|_| ()),
            Err(e) => Err(e),
        };
        match deleted {
            Ok(()) => {
                let text = format!("Preempted by pod {} on node {}", pod.uid, node.unwrap_or_default());
                let (about, by) = (reference(&*victim.pod), reference(&*pod.pod));
                s.recorder.about(about, Some(by), EventType::Normal, "Preempted", "Preempting", text);
            }
            Err(e) => {
                tracing::info!(victim = victim.key(), error = %describe(&e), "preemption failed; tried again later");
            }
        }
    }
}
