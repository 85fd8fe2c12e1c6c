//! StatefulSets.

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, forbidden, invalid, non_negative, not_supported, required};
use crate::format::{at_most_100_percent, int_or_percent, positive_int_or_percent};
use crate::pod::spec as pod_spec;
use crate::walk::{Walk, default_text, default_to, object_mut, put, same};

/// Fields of the spec that may change.
const CHANGEABLE: &[&str] = &[
    "replicas",
    "template",
    "updateStrategy",
    "minReadySeconds",
    "ordinals",
    "persistentVolumeClaimRetentionPolicy",
    "revisionHistoryLimit",
];
const CHANGE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

/// Fills a StatefulSet.
pub(crate) fn default(obj: &mut Value) {
    let Some(s) = object_mut(obj, "spec") else { return };
    crate::pod::defaults::template(s, "template");
    crate::volumes::default_claim_templates(s);
    default_text(s, "podManagementPolicy", "OrderedReady");
    if let Some(strategy) = object_mut(s, "updateStrategy") {
        default_text(strategy, "type", "RollingUpdate");
        if strategy.text("type") == "RollingUpdate"
            && let Some(rolling) = object_mut(strategy, "rollingUpdate")
        {
            default_to(rolling, "partition", 0);
        }
    }
    if let Some(policy) = object_mut(s, "persistentVolumeClaimRetentionPolicy") {
        default_text(policy, "whenDeleted", "Retain");
        default_text(policy, "whenScaled", "Retain");
    }
    default_to(s, "replicas", 1);
    default_to(s, "revisionHistoryLimit", 10);
    if let Some(status) = object_mut(obj, "status") {
        default_to(status, "replicas", json!(0));
        default_to(status, "availableReplicas", json!(0));
    }
}

/// Checks a StatefulSet.
pub(crate) fn validate(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    match s.text("podManagementPolicy") {
        "" => e.push(required(&p.child("podManagementPolicy"), "")),
        "OrderedReady" | "Parallel" => {}
        other => e.push(invalid(&p.child("podManagementPolicy"), other, "must be 'OrderedReady' or 'Parallel'")),
    }
    strategy(s.at("updateStrategy"), &p.child("updateStrategy"), e);
    if s.has("persistentVolumeClaimRetentionPolicy") {
        for field in ["whenDeleted", "whenScaled"] {
            let value = s.at("persistentVolumeClaimRetentionPolicy").text(field);
            if !["Retain", "Delete"].contains(&value) {
                let at = p.child("persistentVolumeClaimRetentionPolicy").child(field);
                e.push(not_supported(&at, value, &["Retain", "Delete"]));
            }
        }
    }
    non_negative(e, &p.child("replicas"), s.num("replicas"));
    non_negative(e, &p.child("minReadySeconds"), s.num("minReadySeconds"));
    if s.has("ordinals") {
        non_negative(e, &p.child("ordinals.start"), s.at("ordinals").num("start"));
    }
    super::selected_template(s, "empty selector is invalid for statefulset", &p, e);
    let template = p.child("template");
    if super::labels_selected(s, &p, e) {
        // Its volumes also come from the claim templates, so the spec is not checked against its own volumes here.
        pod_spec::template_metadata(s.at("template"), &template, e);
    } else {
        e.push(invalid(&p.child("selector"), s.at("selector").clone(), ""));
    }
    pod_spec::always_restarting(s.at("template"), "StatefulSet", &template, e);
    if let Some(n) = s.int("revisionHistoryLimit") {
        non_negative(e, &p.child("revisionHistoryLimit"), n);
    }
    if let Some(old) = old {
        let mut rest = s.clone();
        for field in CHANGEABLE {
            put(&mut rest, field, old.at("spec").at(field).clone());
        }
        if !same(&rest, old.at("spec")) {
            e.push(forbidden(&p, CHANGE));
        }
    }
}

fn strategy(v: &Value, p: &Path, e: &mut Errs) {
    let (rolling, at) = (v.at("rollingUpdate"), p.child("rollingUpdate"));
    match v.text("type") {
        "" => e.push(required(p, "")),
        "OnDelete" => {
            if !rolling.is_null() {
                e.push(invalid(&at, rolling.clone(), "only allowed for updateStrategy 'RollingUpdate'"));
            }
        }
        "RollingUpdate" => {
            if rolling.is_null() {
                return;
            }
            non_negative(e, &at.child("partition"), rolling.num("partition"));
            if rolling.has("maxUnavailable") {
                let (down, dp) = (rolling.at("maxUnavailable"), at.child("maxUnavailable"));
                positive_int_or_percent(down, &dp, e);
                if int_or_percent(down).0 == 0 {
                    e.push(invalid(&dp, down.clone(), "cannot be 0"));
                }
                at_most_100_percent(down, &dp, e);
            }
        }
        _ => e.push(invalid(p, v.clone(), "must be 'RollingUpdate' or 'OnDelete'")),
    }
}
