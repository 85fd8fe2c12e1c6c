//! Checks of a Job's status: what has ended stays ended, and the numbers agree.

use std::collections::BTreeSet;

use serde_json::Value;
use strake_machinery::field::Path;

use crate::errs::{Errs, duplicate, invalid, non_negative, required};
use crate::walk::Walk;

/// Indexes counted in `1,3-5`; they must rise and stay below `completions`.
pub(crate) fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let (mut total, mut last) = (0, None::<i64>);
    for part in text.split(',') {
        let parse = |s: &str| -> Result<i64, String> {
            let n: i64 = s.parse().map_err(|_| format!("cannot convert string to integer for index: {s:?}"))?;
            if n >= completions { Err(format!("too large index: {s:?}")) } else { Ok(n) }
        };
        if part.matches('-').count() > 1 {
            return Err(format!(
                "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
            ));
        }
        let (a, b) = part.split_once('-').map_or((part, None), |(a, b)| (a, Some(b)));
        let first = parse(a)?;
        if let Some(l) = last
            && l >= first
        {
            return Err(format!("non-increasing order, previous: {l}, current: {first}"));
        }
        let end = match b {
            None => first,
            Some(b) => {
                let end = parse(b)?;
                if first >= end {
                    return Err(format!("non-increasing order, previous: {first}, current: {end}"));
                }
                end
            }
        };
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

fn is(job: &Value, kind: &str) -> bool {
    job.at("status").list("conditions").iter().any(|c| c.text("type") == kind && c.text("status") == "True")
}

/// Checks an update of a Job's status.
pub(crate) fn validate(new: &Value, old: &Value, e: &mut Errs) {
    let (s, o, p) = (new.at("status"), old.at("status"), Path::new("status"));
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        non_negative(e, &p.child(field), s.num(field));
    }
    let mut seen = BTreeSet::new();
    for list in ["succeeded", "failed"] {
        for (i, uid) in s.at("uncountedTerminatedPods").texts(list).into_iter().enumerate() {
            let at = p.child("uncountedTerminatedPods").child(list).index(i);
            if uid.is_empty() {
                e.push(invalid(&at, uid, "must not be empty"));
            } else if !seen.insert(uid) {
                e.push(duplicate(&at, uid));
            }
        }
    }
    let told = |e: &mut Errs, field: &str, why: String| {
        let mut error = invalid(&p.child(field), Value::Null, why);
        error.value = None;
        e.push(error);
    };
    let (complete, failed) = (is(new, "Complete"), is(new, "Failed"));
    let finished = complete || failed;
    for (both, why) in [
        (complete && failed, "cannot set Complete=True and Failed=true conditions"),
        (complete && is(new, "FailureTarget"), "cannot set Complete=True and FailureTarget=true conditions"),
        (
            failed && !is(new, "FailureTarget"),
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            complete && !is(new, "SuccessCriteriaMet"),
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
        (is(new, "SuccessCriteriaMet") && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions"),
        (
            is(new, "SuccessCriteriaMet") && is(new, "FailureTarget"),
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
    ] {
        if both {
            told(e, "conditions", why.to_owned());
        }
    }
    if s.has("completionTime") && !complete {
        let why = "cannot set completionTime when there is no Complete=True condition";
        e.push(invalid(&p.child("completionTime"), s.at("completionTime").clone(), why));
    }
    if !s.has("completionTime") && complete {
        e.push(required(&p.child("completionTime"), "completionTime is required for Complete jobs"));
    }
    if finished {
        if s.num("active") > 0 {
            e.push(invalid(&p.child("active"), s.num("active"), "active>0 is invalid for finished job"));
        }
        if s.num("terminating") > 0 {
            let why = "terminating>0 is invalid for finished job";
            e.push(invalid(&p.child("terminating"), s.num("terminating"), why));
        }
        if !s.has("startTime") {
            e.push(required(&p.child("startTime"), "startTime is required for finished job"));
        }
        if !seen.is_empty() {
            let at = p.child("uncountedTerminatedPods");
            let why = "uncountedTerminatedPods needs to be empty for finished job";
            e.push(invalid(&at, s.at("uncountedTerminatedPods").clone(), why));
        }
    }
    if s.num("ready") > s.num("active") {
        e.push(invalid(&p.child("ready"), s.num("ready"), "cannot set more ready pods than active"));
    }
    let spec = new.at("spec");
    for (field, why) in [("completedIndexes", "completedIndexes"), ("failedIndexes", "failedIndexes")] {
        if let (Some(n), false) = (spec.int("completions"), s.text(field).is_empty())
            && let Err(broken) = count_indexes(s.text(field), n)
        {
            e.push(invalid(&p.child(field), s.text(field), format!("error parsing {why}: {broken}")));
        }
    }
    if !s.text("completedIndexes").is_empty() && spec.text("completionMode") != "Indexed" {
        let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
        e.push(invalid(&p.child("completedIndexes"), s.text("completedIndexes"), why));
    }
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is(old, kind) && !is(new, kind) {
            told(e, "conditions", format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    for field in ["failed", "succeeded"] {
        if s.num(field) < o.num(field) {
            e.push(invalid(&p.child(field), s.num(field), format!("cannot decrease the {field} counter")));
        }
    }
    if s.has("completionTime") && o.has("completionTime") && s.at("completionTime") != o.at("completionTime") {
        let why = "completionTime cannot be mutated";
        e.push(invalid(&p.child("completionTime"), s.at("completionTime").clone(), why));
    }
    if o.has("startTime") && o.at("startTime") != s.at("startTime") && !spec.is_true("suspend") {
        e.push(required(&p.child("startTime"), "startTime cannot be removed for unsuspended job"));
    }
}
