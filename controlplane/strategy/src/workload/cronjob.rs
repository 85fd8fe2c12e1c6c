//! CronJobs.

use serde_json::{Value, json};
use strake_machinery::field::Path;

use super::{job, schedule};
use crate::errs::{Errs, invalid, non_negative, not_supported, one_of, required};
use crate::walk::{Walk, default_text, default_to, object_mut};

/// Fills a CronJob. The Job inside gets its own defaults when it is created.
pub(crate) fn default(obj: &mut Value) {
    let Some(s) = object_mut(obj, "spec") else { return };
    default_text(s, "concurrencyPolicy", "Allow");
    default_to(s, "suspend", false);
    default_to(s, "successfulJobsHistoryLimit", 3);
    default_to(s, "failedJobsHistoryLimit", 1);
    if let Some(t) = object_mut(s, "jobTemplate") {
        object_mut(t, "metadata");
        if let Some(inner) = object_mut(t, "spec") {
            crate::pod::defaults::template(inner, "template");
            job::default_conditions(inner);
        }
    }
    default_to(obj, "status", json!({}));
}

/// Checks a CronJob.
pub(crate) fn validate(obj: &Value, old: Option<&Value>, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    let (text, at) = (s.text("schedule"), p.child("schedule"));
    if text.is_empty() {
        e.push(required(&at, ""));
    } else {
        if let Err(why) = schedule::check(text) {
            e.push(invalid(&at, text, why));
        }
        let had = old.is_some_and(|o| o.at("spec").text("schedule").contains("TZ"));
        if text.contains("TZ") {
            if !had {
                let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
                e.push(invalid(&at, text, why));
            } else if s.has("timeZone") {
                let why = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
                e.push(invalid(&at, text, why));
            }
        }
    }
    if let Some(n) = s.int("startingDeadlineSeconds") {
        non_negative(e, &p.child("startingDeadlineSeconds"), n);
    }
    if old.is_none_or(|o| o.at("spec").at("timeZone") != s.at("timeZone")) && s.has("timeZone") {
        time_zone(s.text("timeZone"), &p.child("timeZone"), e);
    }
    one_of(e, &p.child("concurrencyPolicy"), s.text("concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    let (inner, ip) = (s.at("jobTemplate").at("spec"), p.child("jobTemplate").child("spec"));
    job::job_spec(inner, &ip, e);
    if inner.has("selector") {
        e.push(invalid(&ip.child("selector"), inner.at("selector").clone(), "`selector` will be auto-generated"));
    }
    if inner.is_true("manualSelector") {
        e.push(not_supported(&ip.child("manualSelector"), true, &["nil", "false"]));
    }
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        if let Some(n) = s.int(field) {
            non_negative(e, &p.child(field), n);
        }
    }
    // The time appended to a Job's name takes 11 bytes of its 63.
    let name = obj.at("metadata").text("name");
    if old.is_none() && name.len() > 52 {
        let at = Path::new("metadata").child("name");
        e.push(invalid(&at, name, "must be no more than 52 characters"));
    }
}

fn time_zone(zone: &str, p: &Path, e: &mut Errs) {
    if zone.is_empty() {
        e.push(invalid(p, zone, "timeZone must be nil or non-empty string"));
        return;
    }
    let part_ok = |part: &str| {
        part != "."
            && part != ".."
            && !part.starts_with('-')
            && (1..=14).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'+'))
    };
    if !zone.split('/').all(part_ok) {
        e.push(invalid(p, zone, format!("unknown time zone {zone}")));
        return;
    }
    if zone.eq_ignore_ascii_case("Local") {
        let why = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        e.push(invalid(p, zone, why));
    }
    if jiff::tz::TimeZone::get(zone).is_err() {
        e.push(invalid(p, zone, format!("unknown time zone {zone}")));
    }
}
