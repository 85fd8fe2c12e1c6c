//! Probes, lifecycle hooks and the handlers both use.

use serde_json::Value;
use strake_machinery::field::Path;

use crate::errs::{Errs, forbidden, invalid, invalid_each, non_negative, not_supported, required};
use crate::format;
use crate::walk::Walk;

/// Which probe it is: their thresholds and grace periods differ.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Use {
    Liveness,
    Readiness,
    Startup,
}

const TOO_MANY: &str = "may not specify more than 1 handler type";

/// Checks one probe; nothing if it is not given.
pub(crate) fn probe(v: &Value, kind: Use, p: &Path, e: &mut Errs) {
    if v.is_null() {
        return;
    }
    handler(v, &["exec", "httpGet", "tcpSocket", "grpc"], None, p, e);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        non_negative(e, &p.child(field), v.num(field));
    }
    let grace = v.int("terminationGracePeriodSeconds");
    if let Some(n) = grace
        && n <= 0
    {
        e.push(invalid(&p.child("terminationGracePeriodSeconds"), n, "must be greater than 0"));
    }
    if kind == Use::Readiness {
        if let Some(n) = grace {
            let at = p.child("terminationGracePeriodSeconds");
            e.push(invalid(&at, n, "must not be set for readinessProbes"));
        }
    } else if v.num("successThreshold") != 1 {
        e.push(invalid(&p.child("successThreshold"), v.num("successThreshold"), "must be 1"));
    }
}

/// Checks `lifecycle`; nothing if it is not given. `grace` is the Pod's grace period in seconds.
pub(crate) fn lifecycle(v: &Value, grace: Option<i64>, p: &Path, e: &mut Errs) {
    for field in ["postStart", "preStop"] {
        if v.has(field) {
            handler(v.at(field), &["exec", "httpGet", "tcpSocket", "sleep"], grace, &p.child(field), e);
        }
    }
    let signal = v.text("stopSignal");
    if v.has("stopSignal") && !signal.starts_with("SIG") {
        e.push(invalid(&p.child("stopSignal"), signal, "must be the name of a signal"));
    }
}

fn handler(v: &Value, allowed: &[&str], grace: Option<i64>, p: &Path, e: &mut Errs) {
    let mut seen = 0;
    for field in allowed {
        if !v.has(field) {
            continue;
        }
        let (h, at) = (v.at(field), p.child(field));
        if seen > 0 {
            e.push(forbidden(&at, TOO_MANY));
            continue;
        }
        seen += 1;
        match *field {
            "exec" => {
                if h.list("command").is_empty() {
                    e.push(required(&at.child("command"), ""));
                }
            }
            "httpGet" => http_get(h, &at, e),
            "grpc" => super::container::port_number(h.num("port"), &at.child("port"), e),
            "sleep" => sleep(h.num("seconds"), grace, &at, e),
            _ => port_or_name(h.at("port"), &at.child("port"), e),
        }
    }
    if seen == 0 {
        e.push(required(p, "must specify a handler type"));
    }
}

fn http_get(v: &Value, p: &Path, e: &mut Errs) {
    if v.text("path").is_empty() {
        e.push(required(&p.child("path"), ""));
    }
    port_or_name(v.at("port"), &p.child("port"), e);
    if !["HTTP", "HTTPS"].contains(&v.text("scheme")) {
        e.push(not_supported(&p.child("scheme"), v.text("scheme"), &["HTTP", "HTTPS"]));
    }
    for header in v.list("httpHeaders") {
        let name = header.text("name");
        invalid_each(e, &p.child("httpHeaders"), name, format::http_header_name(name));
    }
}

fn sleep(seconds: i64, grace: Option<i64>, p: &Path, e: &mut Errs) {
    if let Some(g) = grace
        && (seconds < 0 || seconds > g)
    {
        let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({g})");
        e.push(invalid(p, seconds, why));
    }
}

/// A port by number or by name; a missing one is number 0.
pub(crate) fn port_or_name(v: &Value, p: &Path, e: &mut Errs) {
    match v {
        Value::String(name) => invalid_each(e, p, name, format::port_name(name)),
        _ => super::container::port_number(crate::walk::as_int(v).unwrap_or(0), p, e),
    }
}
