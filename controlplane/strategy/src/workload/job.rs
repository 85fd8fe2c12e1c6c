//! Jobs: defaults, the selector generated from the uid, and checks.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{
    Errs, duplicate, immutable, invalid, invalid_each, non_negative, not_supported, required, too_long, too_many,
};
use crate::format;
use crate::pod::spec as pod_spec;
use crate::selector;
use crate::walk::{Walk, as_int, default_text, default_to, drop_key, each, is_empty, object_mut, put, same, with};

const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];

/// Fills a Job.
pub(crate) fn default(obj: &mut Value) {
    let Some(s) = object_mut(obj, "spec") else { return };
    crate::pod::defaults::template(s, "template");
    if s.int("completions").is_none() && s.int("parallelism").is_none() {
        default_to(s, "completions", 1);
    }
    default_to(s, "parallelism", 1);
    default_to(s, "backoffLimit", if s.has("backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 });
    default_to(s, "completionMode", "NonIndexed");
    default_to(s, "suspend", false);
    default_to(s, "manualSelector", false);
    default_conditions(s);
    let policy = if s.has("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    default_to(s, "podReplacementPolicy", policy);
    default_to(obj, "status", json!({}));
    label_from_template(obj);
}

/// A Job without labels has its template's.
fn label_from_template(obj: &mut Value) {
    let labels = obj.path(&["spec", "template", "metadata", "labels"]).clone();
    if is_empty(obj.at("metadata").at("labels"))
        && !is_empty(&labels)
        && let Some(m) = object_mut(obj, "metadata")
    {
        put(m, "labels", labels);
    }
}

/// A pattern of Pod conditions means `True` unless it says otherwise.
pub(crate) fn default_conditions(s: &mut Value) {
    with(s, "podFailurePolicy", |f| {
        each(f, "rules", |r| each(r, "onPodConditions", |c| default_text(c, "status", "True")));
    });
}

/// Generates selector and labels from uid and name, unless the selector is the user's own.
pub(crate) fn prepare_create(obj: &mut Value) {
    let (uid, name) = (obj.at("metadata").text("uid").to_owned(), obj.at("metadata").text("name").to_owned());
    if obj.at("spec").is_true("manualSelector") || uid.is_empty() {
        return;
    }
    with(obj, "spec", |s| {
        let labels =
            object_mut(s, "template").and_then(|t| object_mut(t, "metadata")).and_then(|m| object_mut(m, "labels"));
        if let Some(labels) = labels {
            for key in NAME_LABELS {
                default_to(labels, key, name.as_str());
            }
            for key in UID_LABELS {
                default_to(labels, key, uid.as_str());
            }
        }
        if let Some(picked) = object_mut(s, "selector").and_then(|x| object_mut(x, "matchLabels")) {
            default_to(picked, UID_LABELS[1], uid.as_str());
        }
    });
    label_from_template(obj);
}

/// Checks a Job.
pub(crate) fn validate(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    if old.is_none() {
        generated(obj, e);
    }
    job_spec(s, &p, e);
    let sel = s.at("selector");
    if sel.is_null() {
        e.push(required(&p.child("selector"), ""));
    } else {
        selector::label_selector(sel, &p.child("selector"), e);
    }
    let labels = s.path(&["template", "metadata", "labels"]);
    if selector::matches(sel, labels) == Some(false) {
        let at = p.child("template").child("metadata").child("labels");
        e.push(invalid(&at, labels.clone(), "`selector` does not match template `labels`"));
    }
    match old {
        Some(old) => update(obj, old, &p, e),
        None => {
            let n = s.num("completions");
            if s.text("completionMode") == "Indexed" && n > 0 {
                let name = obj.at("metadata").text("name");
                let host = format!("{name}-{}", n - 1);
                if !format::dns_label(&host).is_empty() {
                    let why = format!("will not able to create pod with invalid DNS label: {host}");
                    e.push(invalid(&Path::new("metadata").child("name"), name, why));
                }
            }
        }
    }
}

fn generated(obj: &Value, e: &mut Errs) {
    let (s, m) = (obj.at("spec"), obj.at("metadata"));
    if s.is_true("manualSelector") || !s.has("selector") {
        return;
    }
    if m.text("uid").is_empty() {
        e.push(required(&Path::new("metadata").child("uid"), ""));
    }
    let p = Path::new("spec").child("template").child("metadata").child("labels");
    let labels = s.path(&["template", "metadata", "labels"]);
    let mut expected = json!({});
    for i in 0..2 {
        for (key, want) in [(UID_LABELS[i], m.text("uid")), (NAME_LABELS[i], m.text("name"))] {
            put(&mut expected, key, want.into());
            let why = format!("must be '{want}'");
            if !labels.has(key) {
                e.push(required(&p.key(key), why));
            } else if labels.text(key) != want {
                e.push(invalid(&p.key(key), labels.clone(), why));
            }
        }
    }
    if selector::matches(s.at("selector"), &expected) == Some(false) {
        e.push(invalid(
            &Path::new("spec").child("selector"),
            s.at("selector").clone(),
            "`selector` not auto-generated",
        ));
    }
}

/// Checks a JobSpec, in a Job or in a CronJob's template.
pub(crate) fn job_spec(s: &Value, p: &Path, e: &mut Errs) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        if let Some(n) = s.int(field) {
            non_negative(e, &p.child(field), n);
        }
    }
    if s.has("maxFailedIndexes") && !s.has("backoffLimitPerIndex") {
        e.push(required(&p.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    if s.has("managedBy") {
        format::domain_prefixed_path(s.text("managedBy"), &p.child("managedBy"), e);
        if s.text("managedBy").len() > 63 {
            e.push(too_long(&p.child("managedBy"), 63));
        }
    }
    let mode = s.text("completionMode");
    if s.has("completionMode") && !["NonIndexed", "Indexed"].contains(&mode) {
        e.push(not_supported(&p.child("completionMode"), mode, &["NonIndexed", "Indexed"]));
    }
    if mode == "Indexed" {
        indexed(s, p, e);
    } else if ["", "NonIndexed"].contains(&mode) {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(n) = s.int(field) {
                e.push(invalid(&p.child(field), n, "requires indexed completion mode"));
            }
        }
    }
    if s.has("podFailurePolicy") {
        failure_policy(s, &p.child("podFailurePolicy").child("rules"), e);
    }
    if s.has("successPolicy") {
        if mode == "Indexed" {
            success_policy(s, &p.child("successPolicy").child("rules"), e);
        } else {
            let why = "requires indexed completion mode";
            e.push(invalid(&p.child("successPolicy"), s.at("successPolicy").clone(), why));
        }
    }
    if s.has("podReplacementPolicy") {
        let policy = s.text("podReplacementPolicy");
        let allowed: &[&str] = if s.has("podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        if !allowed.contains(&policy) {
            e.push(not_supported(&p.child("podReplacementPolicy"), policy, allowed));
        }
    }
    pod_spec::template(s.at("template"), &p.child("template"), e);
    let at = p.child("template").child("spec").child("restartPolicy");
    match s.path(&["template", "spec"]).text("restartPolicy") {
        "" | "Always" => e.push(required(&at, "valid values: \"OnFailure\", \"Never\"")),
        "Never" => {}
        "OnFailure" => {
            if s.has("podFailurePolicy") {
                e.push(invalid(&at, "OnFailure", "only \"Never\" is supported when podFailurePolicy is specified"));
            }
        }
        other => e.push(not_supported(&at, other, &["OnFailure", "Never"])),
    }
}

fn indexed(s: &Value, p: &Path, e: &mut Errs) {
    const MANY: i64 = 100_000;
    const FEW: i64 = 10_000;
    let (completions, parallelism, failed) = (s.int("completions"), s.num("parallelism"), s.int("maxFailedIndexes"));
    if completions.is_none() {
        e.push(required(&p.child("completions"), "when completion mode is Indexed"));
    }
    if parallelism > MANY {
        let why = format!("must be less than or equal to {MANY} when completion mode is Indexed");
        e.push(invalid(&p.child("parallelism"), parallelism, why));
    }
    if let Some(f) = failed {
        let at = p.child("maxFailedIndexes");
        if completions.is_some_and(|c| f > c) {
            e.push(invalid(&at, f, "must be less than or equal to completions"));
        }
        if f > MANY {
            e.push(invalid(&at, f, format!("must be less than or equal to {MANY}")));
        }
    }
    if completions.is_some_and(|c| c > MANY) && s.has("backoffLimitPerIndex") {
        let why = format!(
            "must be less than or equal to {FEW} when completions are above {MANY} and used with backoff limit per index"
        );
        if failed.is_none() {
            let need = format!("must be specified when completions is above {MANY}");
            e.push(required(&p.child("maxFailedIndexes"), need));
        }
        if parallelism > FEW {
            e.push(invalid(&p.child("parallelism"), parallelism, why.clone()));
        }
        if let Some(f) = failed
            && f > FEW
        {
            e.push(invalid(&p.child("maxFailedIndexes"), f, why));
        }
    }
}

fn failure_policy(s: &Value, p: &Path, e: &mut Errs) {
    const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
    let rules = s.at("podFailurePolicy").list("rules");
    if rules.len() > 20 {
        e.push(too_many(p, rules.len(), 20));
    }
    let spec = s.path(&["template", "spec"]);
    let names: BTreeSet<&str> =
        spec.list("containers").iter().chain(spec.list("initContainers")).map(|c| c.text("name")).collect();
    for (i, rule) in rules.iter().enumerate() {
        let at = p.index(i);
        match rule.text("action") {
            "" => {
                e.push(required(&at.child("action"), format!("valid values: {}", quoted(ACTIONS))));
            }
            "FailIndex" if !s.has("backoffLimitPerIndex") => {
                let why = "requires the backoffLimitPerIndex to be set";
                e.push(invalid(&at.child("action"), "FailIndex", why));
            }
            a if !ACTIONS.contains(&a) => e.push(not_supported(&at.child("action"), a, ACTIONS)),
            _ => {}
        }
        if rule.has("onExitCodes") {
            exit_codes(rule.at("onExitCodes"), &names, &at.child("onExitCodes"), e);
        }
        let conditions = rule.list("onPodConditions");
        if conditions.len() > 20 {
            e.push(too_many(&at.child("onPodConditions"), conditions.len(), 20));
        }
        for (n, c) in conditions.iter().enumerate() {
            let cp = at.child("onPodConditions").index(n);
            invalid_each(e, &cp.child("type"), c.text("type"), format::qualified_name(c.text("type")));
            let allowed = &["False", "True", "Unknown"];
            match c.text("status") {
                "" => e.push(required(&cp.child("status"), format!("valid values: {}", quoted(allowed)))),
                x if !allowed.contains(&x) => e.push(not_supported(&cp.child("status"), x, allowed)),
                _ => {}
            }
        }
        let why = match (rule.has("onExitCodes"), conditions.is_empty()) {
            (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        let mut error = invalid(&at, Value::Null, why);
        error.value = None;
        e.push(error);
    }
}

fn quoted(names: &[&str]) -> String {
    let all: Vec<String> = names.iter().map(|n| format!("{n:?}")).collect();
    format!("[{}]", all.join(" "))
}

fn exit_codes(v: &Value, names: &BTreeSet<&str>, p: &Path, e: &mut Errs) {
    match v.text("operator") {
        "" => e.push(required(&p.child("operator"), format!("valid values: {}", quoted(&["In", "NotIn"])))),
        o if !["In", "NotIn"].contains(&o) => e.push(not_supported(&p.child("operator"), o, &["In", "NotIn"])),
        _ => {}
    }
    if v.has("containerName") && !names.contains(v.text("containerName")) {
        let why = "must be one of the container or initContainer names in the pod template";
        e.push(invalid(&p.child("containerName"), v.text("containerName"), why));
    }
    let (at, values) = (p.child("values"), v.list("values"));
    if values.is_empty() {
        e.push(invalid(&at, values.to_vec(), "at least one value is required"));
    } else if values.len() > 255 {
        e.push(too_many(&at, values.len(), 255));
    }
    let codes: Vec<i64> = values.iter().filter_map(as_int).collect();
    for (i, code) in codes.iter().enumerate() {
        if v.text("operator") == "In" && *code == 0 {
            e.push(invalid(&at.index(i), 0, "must not be 0 for the In operator"));
        }
        if codes[..i].contains(code) {
            e.push(duplicate(&at.index(i), *code));
        }
    }
    if codes.windows(2).any(|w| w[0] > w[1]) {
        e.push(invalid(&at, values.to_vec(), "must be ordered"));
    }
}

fn success_policy(s: &Value, p: &Path, e: &mut Errs) {
    let rules = s.at("successPolicy").list("rules");
    if rules.is_empty() {
        let why = "at least one rules must be specified when the successPolicy is specified";
        e.push(required(p, why));
    }
    if rules.len() > 20 {
        e.push(too_many(p, rules.len(), 20));
    }
    let completions = s.num("completions");
    for (i, rule) in rules.iter().enumerate() {
        let at = p.index(i);
        if !rule.has("succeededCount") && !rule.has("succeededIndexes") {
            e.push(required(&at, "at least one of succeededCount or succeededIndexes must be specified"));
        }
        let mut total = 0;
        if rule.has("succeededIndexes") {
            let (text, ip) = (rule.text("succeededIndexes"), at.child("succeededIndexes"));
            if text.len() > 64 * 1024 {
                e.push(too_long(&ip, 64 * 1024));
            }
            match super::job_status::count_indexes(text, completions) {
                Ok(n) => total = n,
                Err(why) => e.push(invalid(&ip, text, format!("error parsing succeededIndexes: {why}"))),
            }
        }
        if let Some(n) = rule.int("succeededCount") {
            let cp = at.child("succeededCount");
            non_negative(e, &cp, n);
            if n > completions {
                let why = format!("must be less than or equal to {completions} (the number of specified completions)");
                e.push(invalid(&cp, n, why));
            }
            if rule.has("succeededIndexes") && n > total {
                let why = format!(
                    "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
                );
                e.push(invalid(&cp, n, why));
            }
        }
    }
}

fn update(obj: &Value, old: &Value, p: &Path, e: &mut Errs) {
    let (n, o) = (obj.at("spec"), old.at("spec"));
    if n.text("completionMode") == "Indexed" {
        if !same(n.at("completions"), o.at("completions"))
            && n.has("completions")
            && n.int("completions") != n.int("parallelism")
        {
            let why = format!("can only be modified in tandem with {}", p.child("parallelism"));
            e.push(invalid(&p.child("completions"), n.at("completions").clone(), why));
        }
    } else {
        immutable(e, &p.child("completions"), n.at("completions"), o.at("completions"));
    }
    immutable(e, &p.child("selector"), n.at("selector"), o.at("selector"));
    // Until it first starts, a suspended Job may be given another place to run.
    let movable = o.is_true("suspend") && !old.at("status").has("startTime");
    let mut was = o.at("template").clone();
    if movable {
        let now = n.at("template");
        with(&mut was, "spec", |s| {
            for field in ["nodeSelector", "tolerations", "schedulingGates"] {
                put(s, field, now.at("spec").at(field).clone());
            }
            let mut affinity = s.at("affinity").clone();
            let wanted = now.path(&["spec", "affinity", "nodeAffinity"]).clone();
            if affinity.is_null() && now.at("spec").has("affinity") {
                affinity = json!({});
            }
            put(&mut affinity, "nodeAffinity", wanted);
            put(s, "affinity", affinity);
            if is_empty(s.at("affinity")) {
                drop_key(s, "affinity");
            }
        });
        with(&mut was, "metadata", |m| {
            for field in ["labels", "annotations"] {
                put(m, field, now.at("metadata").at(field).clone());
            }
        });
    }
    immutable(e, &p.child("template"), n.at("template"), &was);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        immutable(e, &p.child(field), n.at(field), o.at(field));
    }
}
