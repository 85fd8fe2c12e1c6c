//! Roles and their bindings.

use serde_json::Value;
use strake_machinery::field::Path;

use crate::errs::{Errs, invalid, invalid_each, not_supported, required};
use crate::format;
use crate::selector::label_selector;
use crate::walk::{Walk, default_text, each, object_mut};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Fills a binding.
pub(crate) fn default_binding(obj: &mut Value) {
    if let Some(r) = object_mut(obj, "roleRef") {
        default_text(r, "apiGroup", GROUP);
    }
    each(obj, "subjects", |s| {
        if ["User", "Group"].contains(&s.text("kind")) {
            default_text(s, "apiGroup", GROUP);
        }
    });
}

/// Checks a Role or ClusterRole.
pub(crate) fn role(obj: &Value, namespaced: bool, e: &mut Errs) {
    for (i, r) in obj.list("rules").iter().enumerate() {
        let p = Path::new("rules").index(i);
        let urls = r.list("nonResourceURLs");
        if r.list("verbs").is_empty() {
            e.push(required(&p.child("verbs"), "verbs must contain at least one value"));
        }
        if !urls.is_empty() {
            let at = p.child("nonResourceURLs");
            if namespaced {
                e.push(invalid(&at, urls.to_vec(), "namespaced rules cannot apply to non-resource URLs"));
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|f| !r.list(f).is_empty()) {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                e.push(invalid(&at, urls.to_vec(), why));
            }
            continue;
        }
        if r.list("apiGroups").is_empty() {
            e.push(required(&p.child("apiGroups"), "resource rules must supply at least one api group"));
        }
        if r.list("resources").is_empty() {
            e.push(required(&p.child("resources"), "resource rules must supply at least one resource"));
        }
    }
    if obj.has("aggregationRule") {
        let at = Path::new("aggregationRule").child("clusterRoleSelectors");
        let selectors = obj.at("aggregationRule").list("clusterRoleSelectors");
        if selectors.is_empty() {
            e.push(required(&at, "at least one clusterRoleSelector required if aggregationRule is non-nil"));
        }
        for (i, s) in selectors.iter().enumerate() {
            label_selector(s, &at.index(i), e);
        }
    }
}

/// Checks a RoleBinding or ClusterRoleBinding; the role it refers to stays.
pub(crate) fn binding(obj: &Value, namespaced: bool, old: Option<&Value>, e: &mut Errs) {
    let (r, p) = (obj.at("roleRef"), Path::new("roleRef"));
    if let Some(old) = old
        && old.at("roleRef") != r
    {
        e.push(invalid(&p, r.clone(), "cannot change roleRef"));
    }
    if r.text("apiGroup") != GROUP {
        e.push(not_supported(&p.child("apiGroup"), r.text("apiGroup"), &[GROUP]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&r.text("kind")) {
        e.push(not_supported(&p.child("kind"), r.text("kind"), kinds));
    }
    if r.text("name").is_empty() {
        e.push(required(&p.child("name"), ""));
    } else {
        invalid_each(e, &p.child("name"), r.text("name"), format::path_segment(r.text("name")));
    }
    for (i, s) in obj.list("subjects").iter().enumerate() {
        let (at, name, group) = (Path::new("subjects").index(i), s.text("name"), s.text("apiGroup"));
        if name.is_empty() {
            e.push(required(&at.child("name"), ""));
        }
        match s.text("kind") {
            "ServiceAccount" => {
                if !name.is_empty() {
                    invalid_each(e, &at.child("name"), name, format::dns_subdomain(name));
                }
                if !group.is_empty() {
                    e.push(not_supported(&at.child("apiGroup"), group, &[""]));
                }
                if !namespaced && s.text("namespace").is_empty() {
                    e.push(required(&at.child("namespace"), ""));
                }
            }
            "User" | "Group" => {
                if group != GROUP {
                    e.push(not_supported(&at.child("apiGroup"), group, &[GROUP]));
                }
            }
            other => e.push(not_supported(&at.child("kind"), other, &["ServiceAccount", "User", "Group"])),
        }
    }
}
