//! Gives LoadBalancer Services addresses of the operator's pool: `status.loadBalancer.ingress`, one of each family.
//!
//! For clusters without a cloud. Nothing is kept here: what stands in the statuses is what was given. One worker plans
//! for all Services at once, whenever one of them, or a node's address, changes; so an address that becomes free goes to
//! whoever waits for it longest. Without a pool the controller does nothing, as a stock cluster without a cloud.
//!
//! May not know: how an address is announced (the agents do that, for Services whose condition [`CONDITION`] is true).

mod plan;
pub mod pool;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Node, Service, ServiceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

pub use plan::{CLASS, CONDITION, WANTED};
pub use pool::{AddressPool, InvalidPool};

use crate::Context;
use crate::runtime::{Change, Doing, Error, EventType, Key, Outcome, Result, WorkQueue, now, run_workers};
use crate::shared::LOAD_BALANCERS;
use plan::{Verdict, ingress, is_load_balancer, is_marked, plan};

const NAME: &str = "load-balancer-ipam-controller";

/// What the shared informer of Services keeps an index of: those this controller has to look at.
pub(crate) fn concerns(service: &Service) -> bool {
    is_load_balancer(service) || is_marked(service)
}

/// Runs the controller until cancelled; without a pool it ends at once.
pub(crate) async fn run(ctx: Context) {
    let Some(pool) = ctx.config.load_balancer_pool.clone() else { return };
    // One key: the plan is for all.
    let queue = WorkQueue::new();
    let q = queue.clone();
    ctx.shared.services.on_change(move |change| {
        if concerns(change.object()) || change.old().is_some_and(|old| concerns(old)) {
            q.add(());
        }
    });
    let q = queue.clone();
    ctx.shared.nodes.on_change(move |change| {
        let same = matches!(change, Change::Updated(old, new) if addresses(old).eq(addresses(new)));
        if !same {
            q.add(());
        }
    });
    // Every address in use must be known before the first one is given.
    ctx.shared.services.synced().await;
    ctx.shared.nodes.synced().await;
    tracing::info!(%pool, "LoadBalancer Services get addresses of the pool");
    let cancel = ctx.cancel.clone();
    let (ctx, pool) = (Arc::new(ctx), Arc::new(pool));
    run_workers(NAME, queue, 1, cancel, move |()| {
        let (ctx, pool) = (ctx.clone(), pool.clone());
        async move { sync(&ctx, &pool).await }
    })
    .await;
}

fn addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    all.filter_map(|address| address.address.parse().ok())
}

async fn sync(ctx: &Context, pool: &AddressPool) -> Result<Outcome> {
    let mut nodes = BTreeMap::new();
    for node in ctx.shared.nodes.list() {
        let name = node.metadata.name.clone().unwrap_or_default();
        nodes.extend(addresses(&node).map(|ip| (ip, name.clone())));
    }
    let services = ctx.shared.services.by_index(LOAD_BALANCERS, "");
    let verdicts = plan(services.iter().map(|service| &**service), pool, &nodes);
    let mut results = Vec::new();
    for (key, verdict) in verdicts {
        if let Some(service) = ctx.shared.services.get(&key)
            && let Some(status) = status(&service, &verdict)
        {
            results.push(write(ctx, &key, &service, status, &verdict).await);
        }
    }
    Error::collect(results).map(|_| Outcome::Done)
}

/// The status that the verdict asks for; none if it is the one there is.
fn status(service: &Service, verdict: &Verdict) -> Option<ServiceStatus> {
    let before = service.status.clone().unwrap_or_default();
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let known = conditions.iter().position(|condition| condition.type_ == CONDITION);
    let addresses = match verdict {
        Verdict::NotOurs => {
            known.map(|at| conditions.remove(at));
            &Vec::new()
        }
        Verdict::Has { addresses, problem } => {
            let (met, reason, message) = match problem {
                Some(problem) => ("False", problem.reason, problem.message.clone()),
                None => ("True", "Allocated", String::new()),
            };
            let mut condition = Condition {
                type_: CONDITION.into(),
                status: met.into(),
                reason: reason.into(),
                message,
                observed_generation: None,
                last_transition_time: now(),
            };
            match known {
                Some(at) => {
                    if conditions[at].status == condition.status {
                        condition.last_transition_time = conditions[at].last_transition_time.clone();
                    }
                    conditions[at] = condition;
                }
                None => conditions.push(condition),
            }
            addresses
        }
    };
    let given: Vec<LoadBalancerIngress> = addresses
        .iter()
        .map(|ip| LoadBalancerIngress {
            ip: Some(ip.to_string()),
            ip_mode: Some("VIP".into()),
            ..LoadBalancerIngress::default()
        })
        .collect();
    if given == ingress(service) && conditions == before.conditions.unwrap_or_default() {
        return None;
    }
    Some(ServiceStatus {
        conditions: Some(conditions),
        load_balancer: Some(LoadBalancerStatus { ingress: Some(given) }),
    })
}

async fn write(ctx: &Context, key: &Key, service: &Service, status: ServiceStatus, verdict: &Verdict) -> Result<()> {
    let given: Vec<IpAddr> = match verdict {
        Verdict::Has { addresses, .. } => addresses.clone(),
        Verdict::NotOurs => Vec::new(),
    };
    let text = given.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    // Of the state that was planned for, or not at all.
    let body = json!({
        "metadata": {"uid": service.metadata.uid, "resourceVersion": service.metadata.resource_version},
        "status": {
            "conditions": status.conditions,
            "loadBalancer": {"ingress": status.load_balancer.and_then(|balancer| balancer.ingress)},
        },
    });
    let api: Api<Service> = Api::namespaced(ctx.client.clone(), &key.namespace);
    match api
        .patch_status(&key.name, &PatchParams::default(), &Patch::Merge(body))
        .await
        .doing(|| format!("writing the load balancer addresses of Service {key} ({text})"))
    {
        Ok(new) => {
            let new_ones = !given.is_empty()
                && !ingress(service).iter().map(|i| i.ip.as_deref()).eq(ingress(&new).iter().map(|i| i.ip.as_deref()));
            if new_ones {
                ctx.recorder.event(&new, EventType::Normal, "AddressAllocated", format!("Assigned {text}"));
            }
            if let Verdict::Has { problem: Some(problem), .. } = verdict {
                ctx.recorder.event(&new, EventType::Warning, problem.reason, problem.message.clone());
            }
            ctx.shared.services.wrote(new);
            Ok(())
        }
        Err(e) if e.is_not_found() => Ok(()),
        Err(e) => Err(e),
    }
}
