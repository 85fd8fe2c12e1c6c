//! What admission does to Pods, in upstream's order: LimitRanger, ServiceAccount, Priority, DefaultTolerationSeconds,
//! RuntimeClass. The decisions are strake-strategy's; here they get what they need to know of the cluster.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use strake_machinery::{ApiError, meta};
use strake_strategy::admission::{
    PriorityClassInfo, ServiceAccountInfo, apply_limit_ranges, apply_priority, apply_runtime_class,
    apply_service_account, check_limit_ranges, default_tolerations, service_account_name,
};

use super::Operation;
use crate::registry::Op;

/// A namespace that was just made gets its default ServiceAccount within this time, or Pods that need it are refused.
const DEFAULT_ACCOUNT_TIMEOUT: Duration = Duration::from_secs(2);

/// Pods stay on a node that is not ready or unreachable for this many seconds.
const TOLERATION_SECONDS: i64 = 300;

/// Changes a Pod before it is stored.
///
/// # Errors
/// 403 for a ServiceAccount, PriorityClass or RuntimeClass that does not exist.
pub async fn mutate(op: &Op<'_>, operation: Operation, pod: &mut Value) -> Result<(), ApiError> {
    if operation != Operation::Create {
        return Ok(());
    }
    apply_limit_ranges(pod, &limit_ranges(op));
    account(op, pod).await?;
    let named = meta::str_at(pod, &["spec", "priorityClassName"]);
    let named = if named.is_empty() {
        None
    } else {
        op.api.lookup_fresh("scheduling.k8s.io", "priorityclasses", "", named).await
    };
    let named = named.as_ref().map(PriorityClassInfo::of);
    apply_priority(pod, named.as_ref(), default_class(op).as_ref())?;
    default_tolerations(pod, TOLERATION_SECONDS);
    let class = meta::str_at(pod, &["spec", "runtimeClassName"]);
    if !class.is_empty() {
        let class = op.api.lookup_fresh("node.k8s.io", "runtimeclasses", "", class).await;
        apply_runtime_class(pod, class.as_ref())?;
    }
    Ok(())
}

/// Refuses a Pod or a claim that breaks a LimitRange.
///
/// # Errors
/// 403 with everything that is wrong.
pub fn validate_limits(op: &Op<'_>, object: &Value, is_claim: bool) -> Result<(), ApiError> {
    let complaints = check_limit_ranges(object, is_claim, &limit_ranges(op));
    match complaints.as_slice() {
        [] => Ok(()),
        [one] => Err(ApiError::forbidden(op.kind, op.name, one)),
        many => Err(ApiError::forbidden(op.kind, op.name, &format!("[{}]", many.join(", ")))),
    }
}

fn limit_ranges(op: &Op<'_>) -> Vec<Value> {
    let Some(cache) = op.api.cache("", "limitranges") else { return Vec::new() };
    if cache.is_empty() {
        return Vec::new();
    }
    cache.snapshot(op.namespace, 0).objects.iter().map(|object| object.value()).collect()
}

/// The PriorityClass that is the cluster's default.
fn default_class(op: &Op<'_>) -> Option<PriorityClassInfo> {
    let cache = op.api.cache("scheduling.k8s.io", "priorityclasses")?;
    let mut defaults: Vec<PriorityClassInfo> = cache
        .snapshot("", 0)
        .objects
        .iter()
        .map(|object| object.value())
        .filter(|class| meta::bool_at(class, &["globalDefault"]))
        .map(|class| PriorityClassInfo::of(&class))
        .collect();
    // Should there be several, upstream takes the smallest.
    defaults.sort_by_key(|class| class.value);
    defaults.into_iter().next()
}

async fn account(op: &Op<'_>, pod: &mut Value) -> Result<(), ApiError> {
    let Some(name) = service_account_name(pod).map(str::to_owned) else { return Ok(()) };
    let mut found = op.api.lookup_fresh("", "serviceaccounts", op.namespace, &name).await;
    if found.is_none() && name == "default" {
        found = wait_for_account(op, &name).await;
    }
    let Some(account) = found else {
        let why =
            format!("error looking up service account {}/{name}: serviceaccount {name:?} not found", op.namespace);
        return Err(ApiError::forbidden(op.kind, meta::name(pod), &why));
    };
    let suffix = strake_machinery::names::generate("", rand::random::<u32>);
    apply_service_account(pod, &ServiceAccountInfo::of(&account), &suffix);
    Ok(())
}

/// Waits for the controller that makes default accounts.
async fn wait_for_account(op: &Op<'_>, name: &str) -> Option<Value> {
    let cache = Arc::clone(op.api.cache("", "serviceaccounts")?);
    let mut changed = cache.subscribe();
    let key = format!("{}/{name}", op.namespace);
    let appeared = async {
        loop {
            changed.borrow_and_update();
            if let Some(object) = cache.get(&key) {
                return Some(object.value());
            }
            changed.changed().await.ok()?;
        }
    };
    tokio::time::timeout(DEFAULT_ACCOUNT_TIMEOUT, appeared).await.ok().flatten()
}
