//! Jobs and CronJobs.

use serde_json::{Value, json};

use crate::{created, kind, refused, updated};

fn template() -> Value {
    json!({ "spec": { "restartPolicy": "Never", "containers": [{ "name": "c", "image": "i:1" }] } })
}

fn job(more: Value) -> Value {
    let mut spec = json!({ "template": template() });
    for (k, v) in more.as_object().unwrap() {
        spec[k] = v.clone();
    }
    json!({ "spec": spec })
}

fn cron(more: Value) -> Value {
    let mut spec = json!({ "schedule": "*/5 * * * *", "jobTemplate": { "spec": { "template": template() } } });
    for (k, v) in more.as_object().unwrap() {
        spec[k] = v.clone();
    }
    json!({ "spec": spec })
}

#[test]
fn a_job_selects_its_pods_by_its_own_uid() {
    let j = created(&kind("batch/v1", "Job"), job(json!({})));
    assert_eq!(j["spec"]["selector"], json!({ "matchLabels": { "batch.kubernetes.io/controller-uid": "0a1b" } }));
    assert_eq!(j["spec"]["template"]["metadata"]["labels"]["job-name"], "x");
    assert!(refused(&kind("batch/v1", "Job"), job(json!({}))).is_empty());
}

#[test]
fn labels_that_pretend_to_be_generated_are_refused() {
    let mut t = template();
    t["metadata"] = json!({ "labels": { "job-name": "other" } });
    let errors = refused(&kind("batch/v1", "Job"), job(json!({ "template": t })));
    assert!(errors[0].starts_with("spec.template.metadata.labels[job-name]: Invalid value: {"), "{errors:?}");
    assert!(errors[0].ends_with("must be 'x'"));
}

#[test]
fn parallelism_decides_whether_completions_are_counted() {
    let k = kind("batch/v1", "Job");
    assert_eq!(created(&k, job(json!({})))["spec"]["completions"], 1);
    assert!(created(&k, job(json!({ "parallelism": 3 })))["spec"].get("completions").is_none());
}

#[test]
fn indexed_jobs_need_completions_and_only_they_have_policies_by_index() {
    let k = kind("batch/v1", "Job");
    assert_eq!(
        refused(&k, job(json!({ "completionMode": "Indexed", "parallelism": 1 }))),
        ["spec.completions: Required value: when completion mode is Indexed"]
    );
    assert_eq!(
        refused(&k, job(json!({ "backoffLimitPerIndex": 1 }))),
        ["spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode"]
    );
}

#[test]
fn failure_rules_are_complete() {
    let rules = json!([
        { "action": "Ignore" },
        { "action": "FailJob", "onExitCodes": { "operator": "In", "values": [2, 1, 0] } },
        { "action": "FailIndex", "onPodConditions": [{ "type": "DisruptionTarget" }] },
    ]);
    assert_eq!(
        refused(&kind("batch/v1", "Job"), job(json!({ "podFailurePolicy": { "rules": rules } }))),
        [
            "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required",
            "spec.podFailurePolicy.rules[1].onExitCodes.values[2]: Invalid value: 0: must not be 0 for the In operator",
            "spec.podFailurePolicy.rules[1].onExitCodes.values: Invalid value: [2,1,0]: must be ordered",
            "spec.podFailurePolicy.rules[2].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
        ]
    );
}

#[test]
fn a_jobs_template_stays_unless_it_never_started() {
    let k = kind("batch/v1", "Job");
    let change = |j: &mut Value| j["spec"]["template"]["spec"]["nodeSelector"] = json!({ "a": "b" });
    let (_, errors) = updated(&k, &created(&k, job(json!({}))), "", change);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("spec.template: Invalid value: {") && errors[0].ends_with("field is immutable"));
    let (_, errors) = updated(&k, &created(&k, job(json!({ "suspend": true }))), "", change);
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_jobs_end_is_final_and_consistent() {
    let k = kind("batch/v1", "Job");
    let j = created(&k, job(json!({})));
    let done = json!({
        "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:01:00Z", "succeeded": 1,
        "conditions": [{ "type": "SuccessCriteriaMet", "status": "True" }, { "type": "Complete", "status": "True" }],
    });
    let (finished, errors) = updated(&k, &j, "status", |x| x["status"] = done.clone());
    assert!(errors.is_empty(), "{errors:?}");
    let (_, errors) = updated(&k, &finished, "status", |x| {
        x["status"] = json!({ "startTime": "2026-01-01T00:00:00Z", "succeeded": 0 })
    });
    assert_eq!(
        errors,
        [
            "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
            "status.succeeded: Invalid value: 0: cannot decrease the succeeded counter",
        ]
    );
}

#[test]
fn cron_jobs_leave_the_jobs_defaults_to_the_job() {
    let c = created(&kind("batch/v1", "CronJob"), cron(json!({})));
    assert!(c["spec"]["jobTemplate"]["spec"].get("backoffLimit").is_none());
    assert_eq!(c["spec"]["concurrencyPolicy"], "Allow");
}

#[test]
fn schedules_and_zones_are_checked() {
    let k = kind("batch/v1", "CronJob");
    assert!(refused(&k, cron(json!({ "timeZone": "Europe/Paris" }))).is_empty());
    assert_eq!(
        refused(&k, cron(json!({ "timeZone": "Mars/Base" }))),
        ["spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base"]
    );
    assert_eq!(
        refused(&k, cron(json!({ "schedule": "TZ=UTC * * * * *" }))),
        [
            "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
        ]
    );
    let mut long = cron(json!({}));
    long["metadata"] = json!({ "name": "x".repeat(53) });
    assert!(refused(&k, long)[0].ends_with("must be no more than 52 characters"));
}
