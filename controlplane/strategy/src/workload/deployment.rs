//! Deployments.

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, forbidden, immutable, invalid, non_negative, not_supported, required};
use crate::format::{at_most_100_percent, int_or_percent, positive_int_or_percent};
use crate::walk::{Walk, default_text, default_to, object_mut};

/// Fills a Deployment.
pub(crate) fn default(obj: &mut Value) {
    let Some(s) = object_mut(obj, "spec") else { return };
    crate::pod::defaults::template(s, "template");
    default_to(s, "replicas", 1);
    if let Some(strategy) = object_mut(s, "strategy") {
        default_text(strategy, "type", "RollingUpdate");
        if strategy.text("type") == "RollingUpdate"
            && let Some(rolling) = object_mut(strategy, "rollingUpdate")
        {
            default_to(rolling, "maxUnavailable", "25%");
            default_to(rolling, "maxSurge", "25%");
        }
    }
    default_to(s, "revisionHistoryLimit", 10);
    default_to(s, "progressDeadlineSeconds", 600);
    default_to(obj, "status", json!({}));
}

/// Checks a Deployment.
pub(crate) fn validate(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    non_negative(e, &p.child("replicas"), s.num("replicas"));
    super::selected_template(s, "empty selector is invalid for deployment", &p, e);
    super::running_template(s, "ReplicaSet", &p, e);
    strategy(s.at("strategy"), &p.child("strategy"), e);
    non_negative(e, &p.child("minReadySeconds"), s.num("minReadySeconds"));
    if let Some(n) = s.int("revisionHistoryLimit") {
        non_negative(e, &p.child("revisionHistoryLimit"), n);
    }
    if let Some(n) = s.int("progressDeadlineSeconds") {
        let at = p.child("progressDeadlineSeconds");
        non_negative(e, &at, n);
        if n <= s.num("minReadySeconds") {
            e.push(invalid(&at, n, "must be greater than minReadySeconds"));
        }
    }
    if let Some(old) = old {
        immutable(e, &p.child("selector"), s.at("selector"), old.at("spec").at("selector"));
    }
}

fn strategy(v: &Value, p: &Path, e: &mut Errs) {
    let (rolling, at) = (v.at("rollingUpdate"), p.child("rollingUpdate"));
    match v.text("type") {
        "Recreate" => {
            if !rolling.is_null() {
                e.push(forbidden(&at, "may not be specified when strategy `type` is 'Recreate'"));
            }
        }
        "RollingUpdate" if rolling.is_null() => {
            e.push(required(&at, "this should be defaulted and never be nil"));
        }
        "RollingUpdate" => {
            let (down, up) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            let dp = at.child("maxUnavailable");
            positive_int_or_percent(down, &dp, e);
            positive_int_or_percent(up, &at.child("maxSurge"), e);
            if int_or_percent(down).0 == 0 && int_or_percent(up).0 == 0 {
                e.push(invalid(&dp, down.clone(), "may not be 0 when `maxSurge` is 0"));
            }
            at_most_100_percent(down, &dp, e);
        }
        _ => e.push(not_supported(p, v.clone(), &["Recreate", "RollingUpdate"])),
    }
}
