//! pods/eviction: a deletion that asks the PodDisruptionBudgets first.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use strake_machinery::{
    ApiError, meta,
    selector::LabelSelector,
    status::{self, Cause},
};

use crate::{
    http::{body::Body, respond},
    registry::{
        Op, Warnings,
        decode::{self, Expected},
        delete::{self, DeleteOptions},
        handlers::Call,
        op::{dry_run, now},
        update::{self, OnRace},
    },
};

const SCHEMA: &str = "io.k8s.api.policy.v1.Eviction";

/// Answers POST pods/NAME/eviction.
///
/// # Errors
/// 429 when a budget does not allow the disruption, 500 when several budgets cover the Pod.
pub async fn create(call: &Call<'_>, op: &Op<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let validation = op.options.field_validation;
    let eviction = decode::object(Expected::Message(SCHEMA), call.headers, body, validation, call.warnings)?;
    if !meta::name(&eviction).is_empty() && meta::name(&eviction) != op.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let asked = &eviction["deleteOptions"];
    let mut errors = Vec::new();
    let dry = dry_run(meta::list_at(asked, &["dryRun"]).iter().filter_map(Value::as_str), &mut errors);
    let text =
        |field: &str| Some(meta::str_at(asked, &["preconditions", field]).to_owned()).filter(|text| !text.is_empty());
    let options = DeleteOptions {
        grace: meta::i64_at(asked, &["gracePeriodSeconds"]),
        propagation: None,
        uid: text("uid"),
        resource_version: text("resourceVersion"),
        dry_run: dry || op.options.dry_run,
    };
    let pod = op.api.storage.get(&op.key()).await?.ok_or_else(|| op.not_found())?.value;
    if !can_ignore_budget(&pod) {
        spend(op, &pod, options.dry_run).await?;
    }
    delete::delete(&op.subresource(""), &options).await?;
    Ok(respond::object(StatusCode::CREATED, &status::success(None), call.format))
}

/// Pods that are finished, not started or going already disturb nobody.
fn can_ignore_budget(pod: &Value) -> bool {
    matches!(meta::str_at(pod, &["status", "phase"]), "Succeeded" | "Failed" | "Pending") || meta::is_being_deleted(pod)
}

fn is_ready(pod: &Value) -> bool {
    meta::list_at(pod, &["status", "conditions"]).iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

/// Takes one allowed disruption from the budget that covers the Pod, if there is one.
async fn spend(op: &Op<'_>, pod: &Value, dry: bool) -> Result<(), ApiError> {
    let Some(budgets) = op.api.cache("policy", "poddisruptionbudgets") else { return Ok(()) };
    let covering: Vec<String> = budgets
        .snapshot(op.namespace, op.api.cacher.applied())
        .objects
        .iter()
        .filter(|budget| {
            let selector = &budget.value()["spec"]["selector"];
            LabelSelector::from_object(selector).is_ok_and(|selector| selector.matches(meta::labels(pod)))
        })
        .map(|budget| budget.name().to_owned())
        .collect();
    let name = match covering.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        _ => {
            return Err(ApiError::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let warnings = Warnings::default();
    let mut on_budget = Op::internal(op.api, "policy", "poddisruptionbudgets", op.namespace, &name, &warnings)?;
    on_budget.options.dry_run = dry;
    let on_budget = on_budget.subresource("status");
    update::update(&on_budget, OnRace::Retry, |old| {
        let mut budget = old.cloned().ok_or_else(|| on_budget.not_found())?;
        let number = |field: &str| meta::i64_at(&budget, &["status", field]).unwrap_or(0);
        let healthy_enough = number("currentHealthy") >= number("desiredHealthy");
        let always = meta::str_at(&budget, &["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow";
        if !is_ready(pod) && (always || healthy_enough) {
            return Ok(budget);
        }
        let allowed = number("disruptionsAllowed");
        if allowed <= 0 || number("observedGeneration") < meta::generation(&budget) {
            return Err(refused(&name, &budget));
        }
        meta::set_at(&mut budget, &["status", "disruptionsAllowed"], allowed - 1);
        meta::map_at_mut(&mut budget, &["status", "disruptedPods"]).insert(op.name.to_owned(), json!(now()));
        Ok(budget)
    })
    .await?;
    Ok(())
}

fn refused(name: &str, budget: &Value) -> ApiError {
    let mut error = ApiError::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", 0);
    let number = |field: &str| meta::i64_at(budget, &["status", field]).unwrap_or(0);
    error.details_mut().causes.push(Cause {
        reason: "DisruptionBudget".to_owned(),
        message: format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number("desiredHealthy"),
            number("currentHealthy")
        ),
        field: String::new(),
    });
    error
}
