//! The kinds that make Pods, and what they leave behind.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::text::{
    NONE, UNSET, age, bool_or_unset, containers, count, is_true, labels, name, number, selector, text, text_or,
};
use crate::registry::split_api_version;
use crate::{meta, time};

const TEMPLATE: [&str; 4] = ["spec", "template", "spec", "containers"];

pub(super) fn deployment(o: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(o, &TEMPLATE);
    vec![
        name(o),
        json!(format!("{}/{}", number(o, &["status", "readyReplicas"]), number(o, &["spec", "replicas"]))),
        json!(number(o, &["status", "updatedReplicas"])),
        json!(number(o, &["status", "availableReplicas"])),
        age(o, now),
        names,
        images,
        json!(selector(o, &["spec", "selector"])),
    ]
}

pub(super) fn replica_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = replicas(o, now);
    cells.push(json!(selector(o, &["spec", "selector"])));
    cells
}

pub(super) fn replication_controller(o: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = replicas(o, now);
    cells.push(json!(labels(meta::map_at(o, &["spec", "selector"]))));
    cells
}

fn replicas(o: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(o, &TEMPLATE);
    vec![
        name(o),
        json!(number(o, &["spec", "replicas"])),
        json!(number(o, &["status", "replicas"])),
        json!(number(o, &["status", "readyReplicas"])),
        age(o, now),
        names,
        images,
    ]
}

pub(super) fn daemon_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(o, &TEMPLATE);
    vec![
        name(o),
        json!(number(o, &["status", "desiredNumberScheduled"])),
        json!(number(o, &["status", "currentNumberScheduled"])),
        json!(number(o, &["status", "numberReady"])),
        json!(number(o, &["status", "updatedNumberScheduled"])),
        json!(number(o, &["status", "numberAvailable"])),
        json!(labels(meta::map_at(o, &["spec", "template", "spec", "nodeSelector"]))),
        age(o, now),
        names,
        images,
        json!(selector(o, &["spec", "selector"])),
    ]
}

pub(super) fn stateful_set(o: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(o, &TEMPLATE);
    vec![
        name(o),
        json!(format!("{}/{}", number(o, &["status", "readyReplicas"]), number(o, &["spec", "replicas"]))),
        age(o, now),
        names,
        images,
    ]
}

pub(super) fn job(o: &Value, now: Timestamp) -> Vec<Value> {
    let succeeded = number(o, &["status", "succeeded"]);
    let completions = match (meta::i64_at(o, &["spec", "completions"]), number(o, &["spec", "parallelism"])) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let at = |field| time::parse(meta::str_at(o, &["status", field]));
    let duration = match at("startTime") {
        None => String::new(),
        Some(start) => time::human_duration(at("completionTime").unwrap_or(now).as_second() - start.as_second()),
    };
    let status = if is_true(o, "Complete") {
        "Complete"
    } else if is_true(o, "Failed") {
        "Failed"
    } else if meta::is_being_deleted(o) {
        "Terminating"
    } else if is_true(o, "Suspended") {
        "Suspended"
    } else if is_true(o, "FailureTarget") {
        "FailureTarget"
    } else if is_true(o, "SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    };
    let [names, images] = containers(o, &TEMPLATE);
    vec![
        name(o),
        json!(status),
        json!(completions),
        json!(duration),
        age(o, now),
        names,
        images,
        json!(selector(o, &["spec", "selector"])),
    ]
}

pub(super) fn cron_job(o: &Value, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(o, &["spec", "jobTemplate", "spec", "template", "spec", "containers"]);
    let last = match meta::str_at(o, &["status", "lastScheduleTime"]) {
        "" => NONE.to_owned(),
        t => time::age(t, now),
    };
    vec![
        name(o),
        text(o, &["spec", "schedule"]),
        json!(text_or(o, &["spec", "timeZone"], NONE)),
        json!(bool_or_unset(o, &["spec", "suspend"])),
        json!(count(o, &["status", "active"])),
        json!(last),
        age(o, now),
        names,
        images,
        json!(selector(o, &["spec", "jobTemplate", "spec", "selector"])),
    ]
}

pub(super) fn controller_revision(o: &Value, now: Timestamp) -> Vec<Value> {
    let controller = match meta::controller_of(o) {
        None => NONE.to_owned(),
        Some(owner) => {
            let kind = meta::kind(owner).to_lowercase();
            let name = meta::str_at(owner, &["name"]);
            match split_api_version(meta::api_version(owner)).0 {
                "" => format!("{kind}/{name}"),
                group => format!("{kind}.{group}/{name}"),
            }
        }
    };
    vec![name(o), json!(controller), json!(number(o, &["revision"])), age(o, now)]
}

pub(super) fn disruption_budget(o: &Value, now: Timestamp) -> Vec<Value> {
    let amount = |field| match meta::at(o, &["spec", field]) {
        None => json!("N/A"),
        Some(v) => json!(crate::intorstring::display(v)),
    };
    vec![
        name(o),
        amount("minAvailable"),
        amount("maxUnavailable"),
        json!(number(o, &["status", "disruptionsAllowed"])),
        age(o, now),
    ]
}

pub(super) fn autoscaler(o: &Value, now: Timestamp) -> Vec<Value> {
    let reference = format!(
        "{}/{}",
        text_or(o, &["spec", "scaleTargetRef", "kind"], ""),
        meta::str_at(o, &["spec", "scaleTargetRef", "name"])
    );
    let min = match meta::i64_at(o, &["spec", "minReplicas"]) {
        Some(n) => n.to_string(),
        None => UNSET.into(),
    };
    vec![
        name(o),
        json!(reference),
        json!(metrics(o)),
        json!(min),
        json!(number(o, &["spec", "maxReplicas"])),
        json!(number(o, &["status", "currentReplicas"])),
        age(o, now),
    ]
}

/// `cpu: 12%/50%, <unknown>/10 (avg)`: at most two, then how many more.
fn metrics(o: &Value) -> String {
    let specs = meta::list_at(o, &["spec", "metrics"]);
    if specs.is_empty() {
        // autoscaling/v1 has one percentage.
        return match meta::i64_at(o, &["spec", "targetCPUUtilizationPercentage"]) {
            None => NONE.into(),
            Some(target) => {
                let current = meta::i64_at(o, &["status", "currentCPUUtilizationPercentage"]);
                format!("cpu: {}/{target}%", current.map_or("<unknown>".into(), |c| format!("{c}%")))
            }
        };
    }
    let statuses = meta::list_at(o, &["status", "currentMetrics"]);
    let mut texts: Vec<String> = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let ty = meta::str_at(spec, &["type"]);
        let section = match ty {
            "External" => "external",
            "Pods" => "pods",
            "Object" => "object",
            "Resource" => "resource",
            "ContainerResource" => "containerResource",
            _ => {
                texts.push("<unknown type>".into());
                continue;
            }
        };
        let target = &spec[section]["target"];
        let current = |field: &str| match statuses.get(i).and_then(|s| meta::at(s, &[section, "current", field])) {
            Some(Value::String(s)) => s.clone(),
            Some(Value::Number(n)) => format!("{n}%"),
            _ => "<unknown>".into(),
        };
        let resource = matches!(section, "resource" | "containerResource");
        let label = if resource { format!("{}: ", meta::str_at(spec, &[section, "name"])) } else { String::new() };
        texts.push(if let Some(average) = target["averageValue"].as_str() {
            let marker = if matches!(section, "external" | "object") { " (avg)" } else { "" };
            format!("{label}{}/{average}{marker}", current("averageValue"))
        } else if resource {
            let wanted = match target["averageUtilization"].as_i64() {
                Some(n) => format!("{n}%"),
                None => "<auto>".into(),
            };
            format!("{label}{}/{wanted}", current("averageUtilization"))
        } else {
            format!("{}/{}", current("value"), meta::str_at(target, &["value"]))
        });
    }
    let shown = texts[..texts.len().min(2)].join(", ");
    if texts.len() > 2 { format!("{shown} + {} more...", texts.len() - 2) } else { shown }
}
