//! The small kinds of the core group: ConfigMap, Secret, Namespace, ServiceAccount, Endpoints, PodTemplate, Event.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, forbidden, immutable, invalid, invalid_each, one_of, required, too_long};
use crate::format;
use crate::ip;
use crate::meta;
use crate::walk::{Walk, default_text, drop_key, each, entries, is_empty, object_mut, put, same, with};

/// Bytes a ConfigMap or Secret may hold.
const DATA_LIMIT: usize = 1024 * 1024;
const ELSEWHERE: &str = "does not match event.namespace";
const FROZEN: &str = "field is immutable when `immutable` is set";

/// Drops empty maps, as the typed clients do.
pub(crate) fn default_config_map(obj: &mut Value) {
    for field in ["data", "binaryData"] {
        if is_empty(obj.at(field)) {
            drop_key(obj, field);
        }
    }
}

fn decoded_len(v: &Value) -> usize {
    v.as_str()
        .map_or(0, |s| s.len() / 4 * 3 - s.bytes().rev().take(2).filter(|b| *b == b'=').count().min(s.len() / 4 * 3))
}

/// Checks a ConfigMap, new or updated.
pub(crate) fn config_map(obj: &Value, e: &mut Errs) {
    let mut size = 0;
    for (k, v) in obj.entries("data") {
        let at = Path::new("data").key(k);
        invalid_each(e, &at, k, format::config_map_key(k));
        if obj.at("binaryData").has(k) {
            e.push(invalid(&at, k, "duplicate of key present in binaryData"));
        }
        size += v.as_str().map_or(0, str::len);
    }
    for (k, v) in obj.entries("binaryData") {
        invalid_each(e, &Path::new("binaryData").key(k), k, format::config_map_key(k));
        size += decoded_len(v);
    }
    if size > DATA_LIMIT {
        e.push(too_long(&Path::root(), DATA_LIMIT));
    }
}

/// What an immutable ConfigMap or Secret may not change.
pub(crate) fn frozen(new: &Value, old: &Value, fields: &[&str], e: &mut Errs) {
    if !old.is_true("immutable") {
        return;
    }
    if !new.is_true("immutable") {
        e.push(forbidden(&Path::new("immutable"), FROZEN));
    }
    for field in fields {
        let (a, b) = (new.at(field), old.at(field));
        if a != b && !(is_empty(a) && is_empty(b)) {
            e.push(forbidden(&Path::new(*field), FROZEN));
        }
    }
}

/// Fills a Secret; `stringData` becomes `data`.
pub(crate) fn default_secret(obj: &mut Value) {
    default_text(obj, "type", "Opaque");
    if let Some(texts) = obj.get("stringData").and_then(Value::as_object).cloned() {
        if let Some(data) = object_mut(obj, "data") {
            for (k, v) in texts {
                put(data, &k, BASE64_STANDARD.encode(v.as_str().unwrap_or("")).into());
            }
        }
        drop_key(obj, "stringData");
    }
    if is_empty(obj.at("data")) {
        drop_key(obj, "data");
    }
}

/// Checks a Secret, new or updated.
pub(crate) fn secret(obj: &Value, e: &mut Errs) {
    let (data, p) = (obj.at("data"), Path::new("data"));
    let mut size = 0;
    for (k, v) in entries(data) {
        invalid_each(e, &p.key(k), k, format::config_map_key(k));
        size += decoded_len(v);
    }
    if size > DATA_LIMIT {
        e.push(too_long(&p, DATA_LIMIT));
    }
    let need = |e: &mut Errs, key: &str| {
        if !data.has(key) {
            e.push(required(&p.key(key), ""));
        }
    };
    match obj.text("type") {
        "kubernetes.io/service-account-token" => {
            const OWNER: &str = "kubernetes.io/service-account.name";
            if obj.path(&["metadata", "annotations"]).text(OWNER).is_empty() {
                e.push(required(&Path::new("metadata").child("annotations").key(OWNER), ""));
            }
        }
        "kubernetes.io/dockercfg" => docker(data, ".dockercfg", &p, e),
        "kubernetes.io/dockerconfigjson" => docker(data, ".dockerconfigjson", &p, e),
        "kubernetes.io/basic-auth" if !data.has("username") && !data.has("password") => {
            need(e, "username");
            need(e, "password");
        }
        "kubernetes.io/ssh-auth" if data.text("ssh-privatekey").is_empty() => {
            e.push(required(&p.key("ssh-privatekey"), ""));
        }
        "kubernetes.io/tls" => {
            need(e, "tls.crt");
            need(e, "tls.key");
        }
        _ => {}
    }
}

fn docker(data: &Value, key: &str, p: &Path, e: &mut Errs) {
    if !data.has(key) {
        e.push(required(&p.key(key), ""));
        return;
    }
    let bytes = BASE64_STANDARD.decode(data.text(key)).unwrap_or_default();
    if let Err(why) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes) {
        let why = if bytes.is_empty() { "unexpected end of JSON input".to_owned() } else { why.to_string() };
        e.push(invalid(&p.key(key), "<secret contents redacted>", why));
    }
}

/// Checks an update of a Secret.
pub(crate) fn secret_update(new: &Value, old: &Value, e: &mut Errs) {
    immutable(e, &Path::new("type"), new.at("type"), old.at("type"));
    frozen(new, old, &["data"], e);
    secret(new, e);
}

/// Labels a Namespace with its own name.
pub(crate) fn default_namespace(obj: &mut Value) {
    let name = obj.at("metadata").text("name").to_owned();
    if !name.is_empty()
        && let Some(labels) = object_mut(obj, "metadata").and_then(|m| object_mut(m, "labels"))
    {
        put(labels, "kubernetes.io/metadata.name", name.into());
    }
    with(obj, "status", |s| default_text(s, "phase", "Active"));
}

/// A new Namespace waits for its contents to be cleared when it goes.
pub(crate) fn create_namespace(obj: &mut Value) {
    if let Some(spec) = object_mut(obj, "spec") {
        let mut all: Vec<String> = spec.texts("finalizers").into_iter().map(str::to_owned).collect();
        if !all.iter().any(|f| f == "kubernetes") {
            all.push("kubernetes".into());
        }
        put(spec, "finalizers", json!(all));
    }
}

/// Checks a new Namespace.
pub(crate) fn namespace(obj: &Value, e: &mut Errs) {
    let p = Path::new("spec").child("finalizers");
    for f in obj.at("spec").texts("finalizers") {
        meta::finalizer_name(f, &p, e);
        meta::standard_or_qualified(f, &p, e);
    }
}

/// Checks `namespaces/NAME/finalize`.
pub(crate) fn namespace_finalize(new: &Value, e: &mut Errs) {
    let p = Path::new("spec").child("finalizers");
    for (i, f) in new.at("spec").texts("finalizers").into_iter().enumerate() {
        meta::finalizer_name(f, &p.index(i), e);
        meta::standard_or_qualified(f, &p.index(i), e);
    }
}

/// Checks an update of a Namespace's status.
pub(crate) fn namespace_status(new: &Value, e: &mut Errs) {
    let (phase, at) = (new.at("status").text("phase"), Path::new("status").child("Phase"));
    if new.at("metadata").has("deletionTimestamp") {
        if phase != "Terminating" {
            let why = "may only be 'Terminating' if `deletionTimestamp` is not empty";
            e.push(invalid(&at, phase, why));
        }
    } else if phase != "Active" {
        e.push(invalid(&at, phase, "may only be 'Active' if `deletionTimestamp` is empty"));
    }
}

/// Fills Endpoints.
pub(crate) fn default_endpoints(obj: &mut Value) {
    each(obj, "subsets", |s| each(s, "ports", |p| default_text(p, "protocol", "TCP")));
}

/// Checks Endpoints.
pub(crate) fn endpoints(obj: &Value, e: &mut Errs) {
    for (i, s) in obj.list("subsets").iter().enumerate() {
        let p = Path::new("subsets").index(i);
        if s.list("addresses").is_empty() && s.list("notReadyAddresses").is_empty() {
            e.push(required(&p, "must specify `addresses` or `notReadyAddresses`"));
        }
        for field in ["addresses", "notReadyAddresses"] {
            for (n, a) in s.list(field).iter().enumerate() {
                let at = p.child(field).index(n);
                let (addr, host) = (a.text("ip"), a.text("hostname"));
                ip::address(addr, &at.child("ip"), e);
                if !host.is_empty() {
                    invalid_each(e, &at.child("hostname"), host, format::dns_label(host));
                }
                if a.has("nodeName") {
                    let node = a.text("nodeName");
                    invalid_each(e, &at.child("nodeName"), node, format::dns_subdomain(node));
                }
                ip::non_special(addr, &at.child("ip"), e);
            }
        }
        let ports = s.list("ports");
        for (n, port) in ports.iter().enumerate() {
            let (at, name) = (p.child("ports").index(n), port.text("name"));
            if !name.is_empty() {
                invalid_each(e, &at.child("name"), name, format::dns_label(name));
            } else if ports.len() > 1 {
                e.push(required(&at.child("name"), ""));
            }
            crate::pod::container::port_number(port.num("port"), &at.child("port"), e);
            one_of(e, &at.child("protocol"), port.text("protocol"), &["SCTP", "TCP", "UDP"]);
            if port.has("appProtocol") {
                let app = port.text("appProtocol");
                invalid_each(e, &at.child("appProtocol"), app, format::qualified_name(app));
            }
        }
    }
}

/// Names in core of Event fields, and in events.k8s.io. Objects of either form are understood.
const EVENT_NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The field with this name in core.
fn of_event<'a>(obj: &'a Value, name: &str) -> &'a Value {
    let other = EVENT_NAMES.iter().find(|(core, _)| *core == name).map(|(_, new)| *new);
    match other {
        Some(other) if !obj.has(name) => obj.at(other),
        _ => obj.at(name),
    }
}

/// Checks an Event sent through either group.
pub(crate) fn event(obj: &Value, e: &mut Errs) {
    let (mine, theirs) = (obj.at("metadata").text("namespace"), of_event(obj, "involvedObject").text("namespace"));
    let at = Path::new("involvedObject").child("namespace");
    let homeless = theirs.is_empty();
    if is_empty(obj.at("eventTime")) {
        if mine != theirs && !(homeless && mine == "default") {
            e.push(invalid(&at, theirs, ELSEWHERE));
        }
        return;
    }
    if homeless && !["default", "kube-system"].contains(&mine) {
        e.push(invalid(&at, theirs, ELSEWHERE));
    }
    let text = |name: &str| of_event(obj, name).as_str().unwrap_or("");
    let controller = text("reportingComponent");
    let at = Path::new("reportingController");
    if controller.is_empty() {
        e.push(required(&at, ""));
    }
    invalid_each(e, &at, controller, format::qualified_name(controller));
    for (name, limit) in [("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)] {
        if text(name).is_empty() && name != "message" {
            e.push(required(&Path::new(name), ""));
        }
        if text(name).len() > limit {
            e.push(invalid(&Path::new(name), "", format!("can have at most {limit} characters")));
        }
    }
}

/// What events.k8s.io asks of a new Event beyond that.
pub(crate) fn event_strict(obj: &Value, e: &mut Errs) {
    let name = obj.at("metadata").text("name");
    invalid_each(e, &Path::new("metadata").child("name"), name, crate::format::NameRule::Subdomain.errors(name, false));
    event_series(obj, e);
    if is_empty(obj.at("eventTime")) {
        e.push(required(&Path::new("eventTime"), ""));
    }
    let kind = obj.text("type");
    if !["Normal", "Warning"].contains(&kind) {
        e.push(invalid(&Path::new("type"), "", format!("has invalid value: {kind}")));
    }
    for name in ["firstTimestamp", "lastTimestamp", "count"] {
        let v = of_event(obj, name);
        if !is_empty(v) && v != 0 {
            e.push(invalid(&Path::new(name), "", "needs to be unset"));
        }
    }
    let source = of_event(obj, "source");
    if !source.text("component").is_empty() || !source.text("host").is_empty() {
        e.push(invalid(&Path::new("source"), "", "needs to be unset"));
    }
}

/// What events.k8s.io lets change: metadata and the series.
pub(crate) fn event_strict_update(new: &Value, old: &Value, e: &mut Errs) {
    if !same(new.at("series"), old.at("series")) {
        event_series(new, e);
    }
    for name in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "reason",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
    ] {
        let (a, b) = (of_event(new, name), of_event(old, name));
        if !(same(a, b) || is_empty(a) && is_empty(b)) {
            let path = if name == "reportingComponent" { "reportingController" } else { name };
            immutable(e, &Path::new(path), a, b);
        }
    }
}

fn event_series(obj: &Value, e: &mut Errs) {
    let series = obj.at("series");
    if series.is_null() {
        return;
    }
    if series.at("count").as_i64().unwrap_or(0) < 2 {
        e.push(invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    if is_empty(series.at("lastObservedTime")) {
        e.push(required(&Path::new("series.lastObservedTime"), ""));
    }
}

/// True if two Services accounts' or other objects' spec-less contents are the same; for callers that compare whole
/// objects without metadata.
pub(crate) fn same_content(a: &Value, b: &Value) -> bool {
    let strip = |v: &Value| {
        let mut v = v.clone();
        drop_key(&mut v, "metadata");
        v
    };
    same(&strip(a), &strip(b))
}
