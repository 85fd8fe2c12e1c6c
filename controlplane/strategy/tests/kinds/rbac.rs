//! Roles and bindings.

use serde_json::json;

use crate::{created, kind, refused, updated};

const GROUP: &str = "rbac.authorization.k8s.io/v1";

#[test]
fn urls_are_for_cluster_roles_and_stand_alone() {
    let rules = json!([{ "verbs": ["get"], "nonResourceURLs": ["/healthz"] }]);
    assert!(refused(&kind(GROUP, "ClusterRole"), json!({ "rules": rules })).is_empty());
    assert_eq!(
        refused(&kind(GROUP, "Role"), json!({ "rules": rules })),
        ["rules[0].nonResourceURLs: Invalid value: [\"/healthz\"]: namespaced rules cannot apply to non-resource URLs"]
    );
}

#[test]
fn names_of_roles_are_path_segments() {
    assert!(refused(&kind(GROUP, "ClusterRole"), json!({ "metadata": { "name": "system:Node:x" } })).is_empty());
    assert_eq!(
        refused(&kind(GROUP, "ClusterRole"), json!({ "metadata": { "name": "a/b" } })),
        ["metadata.name: Invalid value: \"a/b\": may not contain '/'"]
    );
}

#[test]
fn a_binding_keeps_its_role() {
    let k = kind(GROUP, "ClusterRoleBinding");
    let b = created(
        &k,
        json!({ "roleRef": { "kind": "ClusterRole", "name": "view" }, "subjects": [{ "kind": "User", "name": "u" }] }),
    );
    assert_eq!(b["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    let (_, errors) = updated(&k, &b, "", |b| b["roleRef"]["name"] = "admin".into());
    assert_eq!(errors.len(), 1);
    assert!(errors[0].ends_with("cannot change roleRef"));
}

#[test]
fn subjects_are_of_known_kinds() {
    let subjects = json!([{ "kind": "ServiceAccount", "name": "a" }, { "kind": "Robot", "name": "r" }, { "kind": "Group", "name": "" }]);
    let b = json!({ "roleRef": { "kind": "ClusterRole", "name": "view" }, "subjects": subjects });
    assert_eq!(
        refused(&kind(GROUP, "ClusterRoleBinding"), b),
        [
            "subjects[0].namespace: Required value",
            "subjects[1].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
            "subjects[2].name: Required value",
        ]
    );
}
