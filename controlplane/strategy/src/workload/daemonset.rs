//! DaemonSets. Their template generation lives in an annotation since apps/v1.

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, immutable, invalid, non_negative, not_supported, required};
use crate::format::{at_most_100_percent, int_or_percent, positive_int_or_percent};
use crate::pod::spec as pod_spec;
use crate::selector;
use crate::walk::{Walk, default_text, default_to, object_mut, put, same};

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Fills a DaemonSet.
pub(crate) fn default(obj: &mut Value) {
    let Some(s) = object_mut(obj, "spec") else { return };
    crate::pod::defaults::template(s, "template");
    if let Some(strategy) = object_mut(s, "updateStrategy") {
        default_text(strategy, "type", "RollingUpdate");
        if strategy.text("type") == "RollingUpdate"
            && let Some(rolling) = object_mut(strategy, "rollingUpdate")
        {
            default_to(rolling, "maxUnavailable", 1);
            default_to(rolling, "maxSurge", 0);
        }
    }
    default_to(s, "revisionHistoryLimit", 10);
    if let Some(status) = object_mut(obj, "status") {
        for field in ["currentNumberScheduled", "numberMisscheduled", "desiredNumberScheduled", "numberReady"] {
            default_to(status, field, json!(0));
        }
    }
}

/// Writes the annotation.
pub(crate) fn set_template_generation(obj: &mut Value, n: i64) {
    if let Some(all) = object_mut(obj, "metadata").and_then(|m| object_mut(m, "annotations")) {
        put(all, TEMPLATE_GENERATION, n.to_string().into());
    }
}

/// The template generation moves with the template, whatever the client wrote.
pub(crate) fn prepare_update(new: &mut Value, old: &Value) {
    let was = old.path(&["metadata", "annotations"]).text(TEMPLATE_GENERATION).parse().unwrap_or(0);
    let changed = !same(new.at("spec").at("template"), old.at("spec").at("template"));
    set_template_generation(new, was + i64::from(changed));
}

/// Checks a DaemonSet.
pub(crate) fn validate(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    let sel = s.at("selector");
    selector::label_selector(sel, &p.child("selector"), e);
    let labels = s.path(&["template", "metadata", "labels"]);
    if selector::matches(sel, labels) == Some(false) {
        let at = p.child("template").child("metadata").child("labels");
        e.push(invalid(&at, labels.clone(), "`selector` does not match template `labels`"));
    }
    if !sel.is_null() && selector::is_empty(sel) {
        e.push(invalid(&p.child("selector"), sel.clone(), "empty selector is invalid for daemonset"));
    }
    pod_spec::template(s.at("template"), &p.child("template"), e);
    pod_spec::always_restarting(s.at("template"), "DaemonSet", &p.child("template"), e);
    non_negative(e, &p.child("minReadySeconds"), s.num("minReadySeconds"));
    strategy(s.at("updateStrategy"), &p.child("updateStrategy"), e);
    if let Some(n) = s.int("revisionHistoryLimit") {
        non_negative(e, &p.child("revisionHistoryLimit"), n);
    }
    if let Some(old) = old {
        immutable(e, &p.child("selector"), sel, old.at("spec").at("selector"));
    }
}

fn strategy(v: &Value, p: &Path, e: &mut Errs) {
    let (rolling, at) = (v.at("rollingUpdate"), p.child("rollingUpdate"));
    match v.text("type") {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => e.push(required(&at, "")),
        "RollingUpdate" => {
            let (down, up) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            let (dp, sp) = (at.child("maxUnavailable"), at.child("maxSurge"));
            positive_int_or_percent(down, &dp, e);
            positive_int_or_percent(up, &sp, e);
            at_most_100_percent(down, &dp, e);
            at_most_100_percent(up, &sp, e);
            match (int_or_percent(down).0 != 0, int_or_percent(up).0 != 0) {
                (true, true) => {
                    e.push(invalid(&sp, up.clone(), "may not be set when maxUnavailable is non-zero"));
                }
                (false, false) => e.push(required(&dp, "cannot be 0 when maxSurge is 0")),
                _ => {}
            }
        }
        _ => e.push(not_supported(p, v.clone(), &["RollingUpdate", "OnDelete"])),
    }
}
