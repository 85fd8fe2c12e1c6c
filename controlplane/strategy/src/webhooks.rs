//! Admission webhooks and policies, and APIServices. Expressions (CEL) are compiled by the part that evaluates them.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use strake_machinery::field::Path;

use crate::errs::{Errs, duplicate, forbidden, invalid, invalid_each, need_text, not_supported, one_of, required};
use crate::format;
use crate::selector::label_selector;
use crate::walk::{Walk, default_text, default_to, each, object_mut, with};

fn default_rules(v: &mut Value, field: &str) {
    each(v, field, |r| default_to(r, "scope", "*"));
}

/// Fills a webhook configuration.
pub(crate) fn default_configuration(obj: &mut Value, mutating: bool) {
    each(obj, "webhooks", |w| {
        default_text(w, "failurePolicy", "Fail");
        default_text(w, "matchPolicy", "Equivalent");
        default_to(w, "namespaceSelector", json!({}));
        default_to(w, "objectSelector", json!({}));
        default_to(w, "timeoutSeconds", 10);
        if mutating {
            default_text(w, "reinvocationPolicy", "Never");
        }
        default_rules(w, "rules");
        with(w, "clientConfig", |c| with(c, "service", |s| default_to(s, "port", 443)));
    });
}

fn default_match(m: &mut Value) {
    default_text(m, "matchPolicy", "Equivalent");
    default_to(m, "namespaceSelector", json!({}));
    default_to(m, "objectSelector", json!({}));
    default_rules(m, "resourceRules");
    default_rules(m, "excludeResourceRules");
}

/// Fills an admission policy.
pub(crate) fn default_policy(obj: &mut Value) {
    if let Some(s) = object_mut(obj, "spec") {
        default_text(s, "failurePolicy", "Fail");
        with(s, "matchConstraints", default_match);
    }
}

/// Fills an admission policy's binding.
pub(crate) fn default_binding(obj: &mut Value) {
    with(obj, "spec", |s| {
        with(s, "matchResources", default_match);
        with(s, "paramRef", |p| {
            if p.has("selector") {
                default_to(p, "parameterNotFoundAction", "Deny");
            }
        });
    });
}

/// Where a webhook is: a URL or a Service, not both.
pub(crate) fn client_config(v: &Value, p: &Path, e: &mut Errs) {
    match (v.has("url"), v.has("service")) {
        (true, true) | (false, false) => e.push(required(p, "exactly one of url or service is required")),
        (true, false) => url(v.text("url"), &p.child("url"), e),
        (false, true) => service(v.at("service"), &p.child("service"), e),
    }
}

fn url(text: &str, p: &Path, e: &mut Errs) {
    let shape = "desired format: https://host[/path]";
    let Ok(u) = url::Url::parse(text) else {
        e.push(required(p, format!("url must be a valid URL: {text}; {shape}")));
        return;
    };
    if u.scheme() != "https" {
        let why = format!("'https' is the only allowed URL scheme; {shape}");
        e.push(invalid(p, u.scheme(), why));
    }
    if u.host_str().is_none_or(str::is_empty) {
        e.push(invalid(p, "", format!("host must be specified; {shape}")));
    }
    if !u.username().is_empty() || u.password().is_some() {
        e.push(invalid(p, u.username(), "user information is not permitted in the URL"));
    }
    if let Some(f) = u.fragment() {
        e.push(invalid(p, f, "fragments are not permitted in the URL"));
    }
    if let Some(q) = u.query() {
        e.push(invalid(p, q, "query parameters are not permitted in the URL"));
    }
}

fn service(s: &Value, p: &Path, e: &mut Errs) {
    for (field, what) in [("name", "service name is required"), ("namespace", "service namespace is required")] {
        if s.text(field).is_empty() {
            e.push(required(&p.child(field), what));
        }
    }
    crate::pod::container::port_number(s.num("port"), &p.child("port"), e);
    let path = s.text("path");
    if path.is_empty() || path == "/" {
        return;
    }
    let at = p.child("path");
    if !path.starts_with('/') {
        e.push(invalid(&at, path, "must start with a '/'"));
    }
    let inner = path.trim_start_matches('/');
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    for (i, segment) in inner.split('/').enumerate() {
        if segment.is_empty() {
            e.push(invalid(&at, path, format!("segment[{i}] may not be empty")));
            continue;
        }
        for m in format::dns_subdomain(segment) {
            e.push(invalid(&at, path, format!("segment[{i}]: {m}")));
        }
    }
}

/// Checks a webhook configuration.
pub(crate) fn configuration(obj: &Value, mutating: bool, e: &mut Errs) {
    let mut names = BTreeSet::new();
    for (i, w) in obj.list("webhooks").iter().enumerate() {
        let p = Path::new("webhooks").index(i);
        format::fully_qualified(w.text("name"), 3, &p.child("name"), e);
        rules(w.list("rules"), &p.child("rules"), e);
        one_of(e, &p.child("failurePolicy"), w.text("failurePolicy"), &["Fail", "Ignore"]);
        one_of(e, &p.child("matchPolicy"), w.text("matchPolicy"), &["Equivalent", "Exact"]);
        effects(w, &p, e);
        if let Some(n) = w.int("timeoutSeconds")
            && !(1..=30).contains(&n)
        {
            e.push(invalid(&p.child("timeoutSeconds"), n, "the timeout value must be between 1 and 30 seconds"));
        }
        for field in ["namespaceSelector", "objectSelector"] {
            label_selector(w.at(field), &p.child(field), e);
        }
        client_config(w.at("clientConfig"), &p.child("clientConfig"), e);
        if mutating && w.has("reinvocationPolicy") {
            const POLICIES: &[&str] = &["IfNeeded", "Never"];
            if !POLICIES.contains(&w.text("reinvocationPolicy")) {
                e.push(not_supported(&p.child("reinvocationPolicy"), w.text("reinvocationPolicy"), POLICIES));
            }
        }
        review_versions(w, &p.child("admissionReviewVersions"), e);
        match_conditions(w.list("matchConditions"), &p.child("matchConditions"), e);
        if !names.insert(w.text("name")) {
            e.push(duplicate(&p.child("name"), w.text("name")));
        }
    }
}

fn effects(w: &Value, p: &Path, e: &mut Errs) {
    const EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
    if !w.has("sideEffects") {
        e.push(required(&p.child("sideEffects"), format!("must specify one of {}", EFFECTS.join(", "))));
    } else if !EFFECTS.contains(&w.text("sideEffects")) {
        e.push(not_supported(&p.child("sideEffects"), w.text("sideEffects"), EFFECTS));
    }
}

fn review_versions(w: &Value, p: &Path, e: &mut Errs) {
    let versions = w.texts("admissionReviewVersions");
    if versions.is_empty() {
        e.push(required(p, "must specify one of v1, v1beta1"));
        return;
    }
    for (i, v) in versions.iter().enumerate() {
        if versions[..i].contains(v) {
            e.push(invalid(&p.index(i), *v, "duplicate version"));
        }
        invalid_each(e, &p.index(i), v, format::dns1035_label(v));
    }
    if !versions.iter().any(|v| ["v1", "v1beta1"].contains(v)) {
        e.push(invalid(p, w.at("admissionReviewVersions").clone(), "must include at least one of v1, v1beta1"));
    }
}

fn rules(list: &[Value], p: &Path, e: &mut Errs) {
    for (i, r) in list.iter().enumerate() {
        let at = p.index(i);
        let operations = r.texts("operations");
        if operations.is_empty() {
            e.push(required(&at.child("operations"), ""));
        }
        const OPERATIONS: &[&str] = &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
        for (n, o) in operations.iter().enumerate() {
            if !OPERATIONS.contains(o) {
                e.push(not_supported(&at.child("operations").index(n), *o, OPERATIONS));
            }
        }
        if operations.len() > 1 && operations.contains(&"*") {
            let why = "if '*' is present, must not specify other operations";
            e.push(invalid(&at.child("operations"), r.at("operations").clone(), why));
        }
        for (field, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
            let values = r.texts(field);
            if values.is_empty() {
                e.push(required(&at.child(field), ""));
            }
            if values.len() > 1 && values.contains(&"*") {
                let why = format!("if '*' is present, must not specify other {what}");
                e.push(invalid(&at.child(field), r.at(field).clone(), why));
            }
            if field == "apiVersions" {
                for (n, _) in values.iter().enumerate().filter(|(_, v)| v.is_empty()) {
                    e.push(required(&at.child(field).index(n), ""));
                }
            }
        }
        let resources = r.texts("resources");
        if resources.is_empty() {
            e.push(required(&at.child("resources"), ""));
        }
        for (n, x) in resources.iter().enumerate() {
            if x.is_empty() {
                e.push(required(&at.child("resources").index(n), ""));
            }
            if *x == "*/*" && resources.len() > 1 {
                let why = "if '*/*' is present, must not specify other resources";
                e.push(invalid(&at.child("resources"), r.at("resources").clone(), why));
            }
        }
        const SCOPES: &[&str] = &["*", "Cluster", "Namespaced"];
        if r.has("scope") && !SCOPES.contains(&r.text("scope")) {
            e.push(not_supported(&at.child("scope"), r.text("scope"), SCOPES));
        }
    }
}

fn match_conditions(list: &[Value], p: &Path, e: &mut Errs) {
    if list.len() > 64 {
        e.push(crate::errs::too_many(p, list.len(), 64));
    }
    let mut names = BTreeSet::new();
    for (i, c) in list.iter().enumerate() {
        let (at, name) = (p.index(i), c.text("name"));
        need_text(e, &at, c, "expression");
        if name.is_empty() {
            e.push(required(&at.child("name"), ""));
        } else {
            invalid_each(e, &at.child("name"), name, format::qualified_name(name));
            if !names.insert(name) {
                e.push(duplicate(&at.child("name"), name));
            }
        }
    }
}

fn match_resources(m: &Value, need_rules: bool, p: &Path, e: &mut Errs) {
    if need_rules && m.list("resourceRules").is_empty() {
        e.push(required(&p.child("resourceRules"), ""));
    }
    one_of(e, &p.child("matchPolicy"), m.text("matchPolicy"), &["Equivalent", "Exact"]);
    for field in ["namespaceSelector", "objectSelector"] {
        label_selector(m.at(field), &p.child(field), e);
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        rules(m.list(field), &p.child(field), e);
    }
}

/// Checks an admission policy.
pub(crate) fn policy(obj: &Value, mutating: bool, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    if s.has("failurePolicy") && !["Fail", "Ignore"].contains(&s.text("failurePolicy")) {
        e.push(not_supported(&p.child("failurePolicy"), s.text("failurePolicy"), &["Fail", "Ignore"]));
    }
    if s.has("paramKind") {
        for field in ["apiVersion", "kind"] {
            need_text(e, &p.child("paramKind"), s.at("paramKind"), field);
        }
    }
    if s.has("matchConstraints") {
        match_resources(s.at("matchConstraints"), true, &p.child("matchConstraints"), e);
    } else {
        e.push(required(&p.child("matchConstraints"), ""));
    }
    match_conditions(s.list("matchConditions"), &p.child("matchConditions"), e);
    let mut variables = BTreeSet::new();
    for (i, v) in s.list("variables").iter().enumerate() {
        let at = p.child("variables").index(i);
        need_text(e, &at, v, "name");
        need_text(e, &at, v, "expression");
        if !v.text("name").is_empty() && !variables.insert(v.text("name")) {
            e.push(duplicate(&at.child("name"), v.text("name")));
        }
    }
    if mutating {
        if s.list("mutations").is_empty() {
            e.push(required(&p.child("mutations"), "mutations must contain at least one item"));
        }
        return;
    }
    if s.list("validations").is_empty() && s.list("auditAnnotations").is_empty() {
        let why = "validations or auditAnnotations must be non-empty";
        e.push(required(&p.child("validations"), why));
        e.push(required(&p.child("auditAnnotations"), why));
    }
    for (i, v) in s.list("validations").iter().enumerate() {
        let at = p.child("validations").index(i);
        if v.text("expression").trim().is_empty() {
            e.push(required(&at.child("expression"), "expression is not specified"));
        }
        if v.has("message") && v.text("message").trim().is_empty() {
            e.push(invalid(&at.child("message"), v.text("message"), "message must be non-empty if specified"));
        }
    }
}

/// Checks an admission policy's binding.
pub(crate) fn policy_binding(obj: &Value, mutating: bool, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    if s.text("policyName").is_empty() {
        e.push(required(&p.child("policyName"), ""));
    } else {
        invalid_each(e, &p.child("policyName"), s.text("policyName"), format::dns_subdomain(s.text("policyName")));
    }
    if s.has("paramRef") {
        let (r, at) = (s.at("paramRef"), p.child("paramRef"));
        match (r.text("name").is_empty(), r.has("selector")) {
            (false, true) => e.push(forbidden(&at.child("name"), "name and selector are mutually exclusive")),
            (true, false) => e.push(required(&at, "one of name or selector must be specified")),
            _ => {}
        }
        if !r.has("parameterNotFoundAction") {
            e.push(required(&at.child("parameterNotFoundAction"), ""));
        }
    }
    if s.has("matchResources") {
        match_resources(s.at("matchResources"), false, &p.child("matchResources"), e);
    }
    if mutating {
        return;
    }
    let (actions, at) = (s.texts("validationActions"), p.child("validationActions"));
    const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];
    if actions.is_empty() {
        e.push(required(&at, "at least one validation action is required"));
    }
    for (i, a) in actions.iter().enumerate() {
        if !ACTIONS.contains(a) {
            e.push(not_supported(&at.index(i), *a, ACTIONS));
        }
        if actions[..i].contains(a) {
            e.push(duplicate(&at.index(i), *a));
        }
    }
    if actions.contains(&"Deny") && actions.contains(&"Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        e.push(invalid(&at, s.at("validationActions").clone(), why));
    }
}

/// Fills an APIService.
pub(crate) fn default_api_service(obj: &mut Value) {
    with(obj, "spec", |s| with(s, "service", |x| default_to(x, "port", 443)));
}

/// Checks an APIService.
pub(crate) fn api_service(obj: &Value, e: &mut Errs) {
    let (s, p) = (obj.at("spec"), Path::new("spec"));
    let (name, group, version) = (obj.at("metadata").text("name"), s.text("group"), s.text("version"));
    let wanted = format!("{version}.{group}");
    if name != wanted {
        let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        e.push(invalid(&Path::new("metadata").child("name"), name, why));
    }
    if group.is_empty() {
        if version != "v1" {
            e.push(required(&p.child("group"), "only v1 may have an empty group and it better be legacy kube"));
        }
    } else {
        invalid_each(e, &p.child("group"), group, format::dns_subdomain(group));
    }
    if version.is_empty() {
        e.push(required(&p.child("version"), ""));
    } else {
        invalid_each(e, &p.child("version"), version, format::dns1035_label(version));
    }
    for (field, most) in [("groupPriorityMinimum", 20000), ("versionPriority", 1000)] {
        let n = s.num(field);
        if n <= 0 || n > most {
            e.push(invalid(&p.child(field), n, format!("must be positive and less than {most}")));
        }
    }
    let (x, at) = (s.at("service"), p.child("service"));
    if x.is_null() {
        if !s.text("caBundle").is_empty() {
            e.push(invalid(&p.child("caBundle"), "0 bytes", "local APIServices may not have a caBundle"));
        }
        if s.is_true("insecureSkipTLSVerify") {
            let why = "local APIServices may not have insecureSkipTLSVerify";
            e.push(invalid(&p.child("insecureSkipTLSVerify"), true, why));
        }
        return;
    }
    need_text(e, &at, x, "namespace");
    need_text(e, &at, x, "name");
    crate::pod::container::port_number(x.num("port"), &at.child("port"), e);
    if s.is_true("insecureSkipTLSVerify") && !s.text("caBundle").is_empty() {
        e.push(invalid(&p.child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present"));
    }
}
