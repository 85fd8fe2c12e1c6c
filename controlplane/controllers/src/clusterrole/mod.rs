//! Aggregated ClusterRoles: the rules of a role with an `aggregationRule` are those of the roles it selects.

use crate::Context;
use crate::runtime::{Doing, Key, Outcome, Result, WorkQueue, labels, run_workers};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Api;
use kube::api::{Patch, PatchParams};
use std::sync::Arc;

const NAME: &str = "clusterrole-aggregation-controller";

/// Runs the controller until cancelled.
pub(crate) async fn run(ctx: Context) {
    let queue = WorkQueue::new();
    let (q, roles) = (queue.clone(), ctx.shared.cluster_roles.clone());
    ctx.shared.cluster_roles.on_change(move |c| {
        // Any role may be part of any aggregate: there are few of those, and roles seldom change.
        for role in roles.list().iter().filter(|r| r.aggregation_rule.is_some()) {
            q.add(role.metadata.name.clone().unwrap_or_default());
        }
        q.add(c.object().metadata.name.clone().unwrap_or_default());
    });
    ctx.shared.cluster_roles.synced().await;
    let cancel = ctx.cancel.clone();
    let ctx = Arc::new(ctx);
    run_workers(NAME, queue, 1, cancel, move |name| {
        let ctx = ctx.clone();
        async move { sync(&ctx, name).await }
    })
    .await;
}

/// The union of the selected roles' rules, in the order of their names, each rule once.
fn aggregate(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let selectors = role.aggregation_rule.iter().flat_map(|a| a.cluster_role_selectors.iter().flatten());
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors {
        let mut selected: Vec<_> = all
            .iter()
            .filter(|r| r.metadata.name != role.metadata.name && labels::matches(selector, r.metadata.labels.as_ref()))
            .collect();
        selected.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        for rule in selected.into_iter().flat_map(|r| r.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}

async fn sync(ctx: &Context, name: String) -> Result<Outcome> {
    let Some(role) = ctx.shared.cluster_roles.get(&Key::new("", &name)) else { return Ok(Outcome::Done) };
    if role.aggregation_rule.is_none() {
        return Ok(Outcome::Done);
    }
    let rules = aggregate(&role, &ctx.shared.cluster_roles.list());
    if role.rules.as_deref().unwrap_or_default() == rules {
        return Ok(Outcome::Done);
    }
    let body = serde_json::json!({"metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules});
    let new = Api::<ClusterRole>::all(ctx.client.clone())
        .patch(&name, &PatchParams::default(), &Patch::Merge(body))
        .await
        .doing(|| format!("aggregating ClusterRole {name}"))?;
    ctx.shared.cluster_roles.wrote(new);
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::rbac::v1::AggregationRule;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

    #[test]
    fn rules_come_in_order_of_names_and_once() {
        let rule = |v: &str| PolicyRule { verbs: vec![v.into()], ..Default::default() };
        let role = |name: &str, rules: Vec<PolicyRule>| {
            Arc::new(ClusterRole {
                metadata: ObjectMeta {
                    name: Some(name.into()),
                    labels: Some([("to".to_string(), "view".to_string())].into()),
                    ..Default::default()
                },
                rules: Some(rules),
                ..Default::default()
            })
        };
        let mut view = (*role("view", vec![rule("old")])).clone();
        view.aggregation_rule = Some(AggregationRule {
            cluster_role_selectors: Some(vec![LabelSelector {
                match_labels: Some([("to".to_string(), "view".to_string())].into()),
                ..Default::default()
            }]),
        });
        let all = [role("b", vec![rule("list"), rule("get")]), role("a", vec![rule("get")]), Arc::new(view.clone())];
        assert_eq!(aggregate(&view, &all), [rule("get"), rule("list")]);
    }
}
