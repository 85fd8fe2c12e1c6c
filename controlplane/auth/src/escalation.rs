//! Nobody grants what he does not have: the checks on writes of roles and bindings
//! (the API server's RBAC storage does the same; verbs `escalate` and `bind` lift them).

use crate::{
    Attributes, Authorizer, Denied, PolicyRule, UserInfo, groups,
    rbac::GROUP,
    rules::{compact, uncovered},
};
use serde_json::Value;

impl Authorizer {
    /// Before a Role (`resource` "roles") or ClusterRole ("clusterroles") is written. `old` is `None` on create.
    pub fn check_role_write(
        &self,
        user: &UserInfo,
        resource: &str,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), Denied> {
        let unchanged = |key: &str| old.is_some_and(|old| old[key] == new[key]);
        if user.in_group(groups::MASTERS) || (unchanged("rules") && unchanged("aggregationRule")) {
            return Ok(());
        }
        let (namespace, name) = location(new);
        let verb = Attributes::resource(user, "escalate", GROUP, resource).namespace(namespace).name(name);
        if self.authorize(&verb).allowed() {
            return Ok(());
        }
        if new["aggregationRule"].is_object() && !unchanged("aggregationRule") {
            // It may come to hold anything.
            let star = vec!["*".to_owned()];
            let everything = [
                PolicyRule {
                    verbs: star.clone(),
                    groups: star.clone(),
                    resources: star.clone(),
                    ..PolicyRule::default()
                },
                PolicyRule { verbs: star.clone(), urls: star, ..PolicyRule::default() },
            ];
            self.confirm(user, namespace, &everything).map_err(|cause| {
                Denied::new(
                    GROUP,
                    resource,
                    name,
                    format!("must have cluster-admin privileges to use the aggregationRule: {cause}"),
                )
            })?;
        }
        self.confirm(user, namespace, &PolicyRule::all(new)).map_err(|cause| Denied::new(GROUP, resource, name, cause))
    }

    /// Before a RoleBinding ("rolebindings") or ClusterRoleBinding ("clusterrolebindings") is written.
    pub fn check_binding_write(
        &self,
        user: &UserInfo,
        resource: &str,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), Denied> {
        let unchanged = |key: &str| old.is_some_and(|old| old[key] == new[key]);
        if user.in_group(groups::MASTERS) || (unchanged("subjects") && unchanged("roleRef")) {
            return Ok(());
        }
        let (namespace, name) = location(new);
        let role_ref = &new["roleRef"];
        let role_resource = if role_ref["kind"] == "ClusterRole" { "clusterroles" } else { "roles" };
        let verb = Attributes::resource(user, "bind", GROUP, role_resource)
            .namespace(namespace)
            .name(role_ref["name"].as_str().unwrap_or_default());
        if self.authorize(&verb).allowed() {
            return Ok(());
        }
        let denied = |cause: String| Denied::new(GROUP, resource, name, cause);
        let rules = self.policy().role(role_ref, namespace).map_err(denied)?;
        self.confirm(user, namespace, &rules).map_err(denied)
    }

    fn confirm(&self, user: &UserInfo, namespace: &str, wanted: &[PolicyRule]) -> Result<(), String> {
        let held = self.rules_for(user, namespace);
        let missing = uncovered(&held.rules, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let groups: Vec<_> = user.groups.iter().map(|g| crate::attributes::go_quoted(g)).collect();
        let missing: Vec<_> = missing.iter().map(compact).collect();
        let mut cause = format!(
            "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            crate::attributes::go_quoted(&user.name),
            groups.join(" "),
            missing.join("\n")
        );
        if !held.errors.is_empty() {
            cause = format!("{cause}; resolution errors: [{}]", held.errors.join(", "));
        }
        Err(cause)
    }
}

fn location(object: &Value) -> (&str, &str) {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    (text("namespace"), text("name"))
}
