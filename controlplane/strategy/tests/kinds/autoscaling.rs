//! HorizontalPodAutoscalers and PodDisruptionBudgets.

use serde_json::{Value, json};

use crate::{created, kind, refused};

fn autoscaler(more: Value) -> Value {
    let mut spec =
        json!({ "maxReplicas": 5, "scaleTargetRef": { "apiVersion": "apps/v1", "kind": "Deployment", "name": "web" } });
    for (k, v) in more.as_object().unwrap() {
        spec[k] = v.clone();
    }
    json!({ "spec": spec })
}

#[test]
fn a_behaviour_is_completed_in_both_directions() {
    let h = created(
        &kind("autoscaling/v2", "HorizontalPodAutoscaler"),
        autoscaler(json!({ "behavior": { "scaleUp": { "selectPolicy": "Min" } } })),
    );
    let b = &h["spec"]["behavior"];
    assert_eq!(b["scaleUp"]["selectPolicy"], "Min");
    assert_eq!(b["scaleUp"]["policies"].as_array().unwrap().len(), 2);
    assert_eq!(
        b["scaleDown"],
        json!({ "selectPolicy": "Max", "policies": [{ "type": "Percent", "value": 100, "periodSeconds": 15 }] })
    );
}

#[test]
fn bounds_and_metrics_make_sense() {
    let k = kind("autoscaling/v2", "HorizontalPodAutoscaler");
    assert!(refused(&k, autoscaler(json!({}))).is_empty());
    assert_eq!(
        refused(&k, autoscaler(json!({ "minReplicas": 6 }))),
        ["spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`"]
    );
    let metrics = json!([{ "type": "Resource", "pods": {} }, { "type": "Resource", "resource": { "name": "cpu", "target": { "type": "Utilization" } } }]);
    let errors = refused(&k, autoscaler(json!({ "metrics": metrics })));
    assert!(
        errors.contains(
            &"spec.metrics[0].resource: Required value: must populate information for the given metric source"
                .to_owned()
        ),
        "{errors:?}"
    );
    assert_eq!(
        errors.last().map(String::as_str),
        Some(
            "spec.metrics[1].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization"
        )
    );
}

#[test]
fn a_budget_has_one_bound() {
    let k = kind("policy/v1", "PodDisruptionBudget");
    let spec = json!({ "minAvailable": 1, "maxUnavailable": "150%" });
    let errors = refused(&k, json!({ "spec": spec }));
    assert!(errors[0].ends_with("minAvailable and maxUnavailable cannot be both set"), "{errors:?}");
    assert_eq!(errors[1], "spec.maxUnavailable: Invalid value: \"150%\": must not be greater than 100%");
}
