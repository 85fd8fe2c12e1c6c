//! The node's lease in kube-node-lease: the proof of life the node lifecycle controller looks at.

use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};

use crate::error::{Error, Result};

/// Seconds a lease is good for (stock).
const DURATION: i32 = 40;

/// Renews the lease of one node.
pub struct Lease {
    client: kube::Client,
    node: String,
    last: Option<Object>,
}

impl Lease {
    /// Not written yet.
    pub fn new(client: kube::Client, node: &str) -> Self {
        Self { client, node: node.to_owned(), last: None }
    }

    /// Renews it; a failure is told and the next renewal tries again.
    pub async fn renew(&mut self) {
        // A second attempt right away: the object we knew may be an old version.
        for attempt in 0..2 {
            match self.try_renew().await {
                Ok(()) => return,
                Err(error) => {
                    self.last = None;
                    if attempt == 1 {
                        tracing::warn!(%error, "node lease not renewed");
                    }
                }
            }
        }
    }

    async fn try_renew(&mut self) -> Result<()> {
        let api: Api<Object> = Api::namespaced(self.client.clone(), "kube-node-lease");
        let now = MicroTime(Timestamp::now());
        if self.last.is_none() {
            self.last = api.get_opt(&self.node).await.map_err(Error::api("get the node lease"))?;
        }
        let written = match self.last.take() {
            Some(mut lease) => {
                let spec = lease.spec.get_or_insert_default();
                spec.renew_time = Some(now);
                spec.holder_identity = Some(self.node.clone());
                spec.lease_duration_seconds = Some(DURATION);
                api.replace(&self.node, &PostParams::default(), &lease)
                    .await
                    .map_err(Error::api("renew the node lease"))?
            }
            None => {
                let nodes: Api<Node> = Api::all(self.client.clone());
                let node = nodes.get(&self.node).await.map_err(Error::api("get the node for its lease"))?;
                let lease = Object {
                    metadata: ObjectMeta {
                        name: Some(self.node.clone()),
                        namespace: Some("kube-node-lease".into()),
                        owner_references: Some(vec![OwnerReference {
                            api_version: "v1".into(),
                            kind: "Node".into(),
                            name: self.node.clone(),
                            uid: node.metadata.uid.unwrap_or_default(),
                            ..Default::default()
                        }]),
                        ..Default::default()
                    },
                    spec: Some(LeaseSpec {
                        holder_identity: Some(self.node.clone()),
                        lease_duration_seconds: Some(DURATION),
                        renew_time: Some(now),
                        ..Default::default()
                    }),
                };
                api.create(&PostParams::default(), &lease).await.map_err(Error::api("create the node lease"))?
            }
        };
        self.last = Some(written);
        Ok(())
    }
}
