//! The review APIs of authorization.k8s.io and authentication.k8s.io as functions from a spec to a status.

use crate::{Attributes, Authenticator, Authorizer, Decision, UserInfo};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Authorizer {
    /// The status of a SubjectAccessReview or LocalSubjectAccessReview with this spec.
    pub fn subject_access_review(&self, spec: &Value) -> Value {
        let extra: BTreeMap<_, _> =
            spec["extra"].as_object().into_iter().flatten().map(|(k, v)| (k.to_lowercase(), strings(v))).collect();
        let user = UserInfo {
            name: text(spec, "user").to_owned(),
            uid: text(spec, "uid").to_owned(),
            groups: strings(&spec["groups"]),
            extra,
        };
        self.self_subject_access_review(&user, spec)
    }

    /// The status of a SelfSubjectAccessReview with this spec.
    pub fn self_subject_access_review(&self, user: &UserInfo, spec: &Value) -> Value {
        let about = &spec["resourceAttributes"];
        let attributes = if about.is_object() {
            let requirements = about["fieldSelector"]["requirements"].as_array();
            let fields = requirements
                .into_iter()
                .flatten()
                .filter(|r| r["operator"] == "In" && r["values"].as_array().is_some_and(|v| v.len() == 1))
                .filter_map(|r| Some((r["key"].as_str()?, r["values"][0].as_str()?)))
                .collect();
            Attributes::resource(user, text(about, "verb"), text(about, "group"), text(about, "resource"))
                .version(text(about, "version"))
                .subresource(text(about, "subresource"))
                .namespace(text(about, "namespace"))
                .name(text(about, "name"))
                .fields(fields)
        } else {
            let about = &spec["nonResourceAttributes"];
            Attributes::non_resource(user, text(about, "verb"), text(about, "path"))
        };
        let decision = self.authorize(&attributes);
        let mut status = json!({ "allowed": decision.allowed() });
        if !decision.reason().is_empty() {
            status["reason"] = decision.reason().into();
        }
        if let Decision::Denied { reason } = &decision
            && reason.contains("not found")
        {
            status["evaluationError"] = reason.clone().into();
        }
        status
    }

    /// The status of a SelfSubjectRulesReview.
    pub fn self_subject_rules_review(&self, user: &UserInfo, namespace: &str) -> Value {
        let resolved = self.rules_for(user, namespace);
        let (mut resource_rules, mut non_resource_rules) = (Vec::new(), Vec::new());
        for rule in &resolved.rules {
            if rule.urls.is_empty() {
                resource_rules.push(rule.to_json());
            } else {
                non_resource_rules.push(rule.to_json());
            }
        }
        let mut status = json!({
            "resourceRules": resource_rules,
            "nonResourceRules": non_resource_rules,
            "incomplete": !resolved.errors.is_empty(),
        });
        if !resolved.errors.is_empty() {
            status["evaluationError"] = resolved.errors.join(", ").into();
        }
        status
    }
}

impl Authenticator {
    /// The status of a TokenReview with this spec.
    pub fn token_review(&self, spec: &Value) -> Value {
        let token = text(spec, "token");
        if token.is_empty() {
            return json!({ "user": {}, "error": "no token was sent" });
        }
        match self.authenticate_token(token, &strings(&spec["audiences"])) {
            Ok(found) => {
                json!({ "authenticated": true, "user": found.user.to_json(), "audiences": found.audiences })
            }
            Err(error) => json!({ "user": {}, "error": error.to_string() }),
        }
    }
}
