//! The Node object: registration, status, lease. Also the node's periodic duties, all on the lease's deadline.

mod housekeeping;
mod lease;
mod machine;
mod status;

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus};
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::events::Level;
use crate::pods::SharedRef;
use crate::pods::manager::Pods;

pub use machine::{Capacity, Machine};

/// The status is written at least this often.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// Lease renewal (stock: a quarter of the 40 s lease).
const RENEW: Duration = Duration::from_secs(10);

/// Sends whether Pod networks can be made.
pub type NetworkSender = watch::Sender<Result<(), String>>;

/// Keeps the Node object true until `stop`.
pub async fn run(
    shared: SharedRef,
    machine: Arc<Machine>,
    pods: Pods,
    network: NetworkSender,
    stop: CancellationToken,
) -> Result<()> {
    let work = async {
        register(&shared, &machine).await;
        shared.recorder.node(Level::Normal, "Starting", "Starting kubelet.");
        let mut lease = lease::Lease::new(shared.client.clone(), &shared.config.node_name);
        let mut duties = housekeeping::Housekeeping::new(shared.clone(), pods.clone());
        let mut written: Option<(NodeStatus, Instant)> = None;
        // What an earlier kubelet wrote: conditions that still hold keep their times.
        let nodes: Api<Node> = Api::all(shared.client.clone());
        let inherited = nodes.get(&shared.config.node_name).await.ok().and_then(|n| n.status);
        let mut renew_at = Instant::now();
        let begun = Instant::now();
        loop {
            let condition = status::runtime_condition(&shared.cri).await;
            network.send_if_modified(|n| {
                let changed = *n != condition.network;
                n.clone_from(&condition.network);
                changed
            });
            let ready = condition.ready();
            let previous = written.as_ref().map(|(s, _)| s).or(inherited.as_ref());
            let images = shared.cri.images().await.unwrap_or_default();
            let new = status::compute(&shared.config, &machine, &condition, &images, previous);
            let due = match &written {
                None => true,
                Some((old, at)) => !status::same(old, &new) || at.elapsed() >= HEARTBEAT,
            };
            if due {
                match write(&shared, &new).await {
                    Ok(()) => {
                        let turned = status::is_ready(&new) && !previous.is_some_and(status::is_ready);
                        if turned {
                            let name = &shared.config.node_name;
                            shared.recorder.node(
                                Level::Normal,
                                "NodeReady",
                                format!("Node {name} status is now: NodeReady"),
                            );
                            tracing::info!(node = name, "node is Ready");
                        }
                        written = Some((new, Instant::now()));
                    }
                    Err(error) if error.is_not_found() => {
                        tracing::warn!("the node was deleted, registering again");
                        register(&shared, &machine).await;
                        written = None;
                        continue;
                    }
                    Err(error) => tracing::warn!(%error, "node status not written"),
                }
            }
            if Instant::now() >= renew_at {
                lease.renew().await;
                duties.tick(begun).await;
                renew_at = Instant::now() + RENEW;
            }
            // Ready: nothing to look for before the lease is due. Not ready: soon, and less often after a while.
            let pause = match (ready, begun.elapsed()) {
                (true, _) => renew_at.saturating_duration_since(Instant::now()),
                (false, t) if t < Duration::from_secs(30) => Duration::from_millis(100),
                (false, _) => Duration::from_secs(1),
            };
            tokio::time::sleep(pause).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        r = work => r,
    }
}

async fn register(shared: &SharedRef, machine: &Machine) {
    let mut pause = Duration::from_millis(100);
    while let Err(error) = try_register(shared, machine).await {
        tracing::warn!(%error, "node not registered, trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(7));
    }
}

async fn try_register(shared: &SharedRef, machine: &Machine) -> Result<()> {
    let c = &shared.config;
    let api: Api<Node> = Api::all(shared.client.clone());
    let mut labels = c.labels.clone();
    for (k, v) in [
        ("kubernetes.io/hostname", c.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", machine.arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", machine.arch),
    ] {
        labels.insert(k.into(), v.into());
    }
    let mut annotations = c.annotations.clone();
    annotations.insert("volumes.kubernetes.io/controller-managed-attach-detach".into(), "true".into());
    match api.get_opt(&c.node_name).await.map_err(Error::api("get the node"))? {
        None => {
            let node = Node {
                metadata: ObjectMeta {
                    name: Some(c.node_name.clone()),
                    labels: Some(labels),
                    annotations: Some(annotations),
                    ..Default::default()
                },
                spec: Some(NodeSpec {
                    taints: (!c.taints.is_empty()).then(|| c.taints.clone()),
                    provider_id: (!c.provider_id.is_empty()).then(|| c.provider_id.clone()),
                    ..Default::default()
                }),
                status: None,
            };
            match api.create(&PostParams::default(), &node).await {
                Ok(_) => Ok(()),
                // Somebody was faster: the next attempt finds it.
                Err(e) => Err(Error::api("create the node")(e)),
            }
        }
        Some(node) => {
            let lacks = |have: Option<&std::collections::BTreeMap<String, String>>,
                         want: &std::collections::BTreeMap<String, String>| {
                want.iter().any(|(k, v)| have.and_then(|h| h.get(k)) != Some(v))
            };
            if lacks(node.metadata.labels.as_ref(), &labels) || lacks(node.metadata.annotations.as_ref(), &annotations)
            {
                let patch = json!({"metadata": {"labels": labels, "annotations": annotations}});
                api.patch(&c.node_name, &PatchParams::default(), &Patch::Strategic(patch))
                    .await
                    .map_err(Error::api("label the node"))?;
            }
            Ok(())
        }
    }
}

async fn write(shared: &SharedRef, new: &NodeStatus) -> Result<()> {
    let api: Api<Node> = Api::all(shared.client.clone());
    let mut patch = json!({"status": new});
    // The list is merged by type, of which two addresses may be: it is replaced as a whole.
    if let Some(addresses) = patch["status"]["addresses"].as_array_mut() {
        addresses.insert(0, json!({"$patch": "replace"}));
    }
    api.patch_status(&shared.config.node_name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map_err(Error::api("write the node's status"))
        .map(|_| ())
}
