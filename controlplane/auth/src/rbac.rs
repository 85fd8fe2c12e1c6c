//! Role-based access control: bindings and roles of the cluster as an index by subject.
//!
//! The index is built again when a Role, ClusterRole, RoleBinding or ClusterRoleBinding changed, and then answers
//! without looking at an object: a question costs one hash lookup per group of the user.

use crate::{Attributes, Lookup, PolicyRule, UserInfo, names};
use serde_json::Value;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

pub(crate) const GROUP: &str = "rbac.authorization.k8s.io";
const RESOURCES: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];

/// A subject as it is looked up: `u` or `g`, a colon, the name.
type Key = String;

fn user_key(name: &str) -> Key {
    format!("u:{name}")
}

fn group_key(name: &str) -> Key {
    format!("g:{name}")
}

/// The rules that one binding grants, and why they are missing if its role is.
#[derive(Clone)]
struct Grant {
    rules: Arc<[PolicyRule]>,
    /// For the reason of a decision: `ClusterRoleBinding "x" of ClusterRole "y" to Group "z"`.
    description: Arc<str>,
    missing: Option<Arc<str>>,
}

type Grants = HashMap<Key, Vec<Grant>>;

/// All RBAC objects of the cluster, ready to answer.
#[derive(Default)]
pub(crate) struct Policy {
    /// The versions of the four resources this was built from.
    versions: [u64; 4],
    cluster: Grants,
    namespaces: HashMap<String, Grants>,
    cluster_roles: HashMap<String, Arc<[PolicyRule]>>,
    roles: HashMap<(String, String), Arc<[PolicyRule]>>,
}

/// The answer of RBAC.
pub(crate) enum Verdict {
    Allowed(String),
    /// Why not, as far as there is something to say: roles that bindings name and that do not exist.
    NoOpinion(String),
}

/// What a user may do in a namespace, for SelfSubjectRulesReview.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvedRules {
    pub rules: Vec<PolicyRule>,
    /// Some binding's role does not exist: the list may be incomplete.
    pub errors: Vec<String>,
}

pub(crate) fn versions(lookup: &dyn Lookup) -> [u64; 4] {
    RESOURCES.map(|resource| lookup.version(GROUP, resource))
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

impl Policy {
    pub fn is_current(&self, lookup: &dyn Lookup) -> bool {
        self.versions == versions(lookup)
    }

    pub fn build(lookup: &dyn Lookup) -> Self {
        // Versions first: if something changes while it is built, the next question builds it again.
        let mut policy = Self { versions: versions(lookup), ..Self::default() };
        let cluster_roles = lookup.list(GROUP, "clusterroles", None);
        for role in &cluster_roles {
            policy.cluster_roles.insert(name(role).to_owned(), cluster_role_rules(role, &cluster_roles).into());
        }
        for role in lookup.list(GROUP, "roles", None) {
            let key = (namespace(&role).to_owned(), name(&role).to_owned());
            policy.roles.insert(key, PolicyRule::all(&role).into());
        }
        for binding in lookup.list(GROUP, "clusterrolebindings", None) {
            for (key, grant) in policy.grants(&binding, "ClusterRoleBinding") {
                policy.cluster.entry(key).or_default().push(grant);
            }
        }
        for binding in lookup.list(GROUP, "rolebindings", None) {
            for (key, grant) in policy.grants(&binding, "RoleBinding") {
                let grants = policy.namespaces.entry(namespace(&binding).to_owned()).or_default();
                grants.entry(key).or_default().push(grant);
            }
        }
        policy
    }

    /// The rules of a `roleRef`, seen from a namespace (empty: from a ClusterRoleBinding).
    pub fn role(&self, role_ref: &Value, namespace: &str) -> Result<Arc<[PolicyRule]>, String> {
        let (kind, role) =
            (role_ref["kind"].as_str().unwrap_or_default(), role_ref["name"].as_str().unwrap_or_default());
        let (found, resource) = match kind {
            "ClusterRole" => (self.cluster_roles.get(role), "clusterrole"),
            _ => (self.roles.get(&(namespace.to_owned(), role.to_owned())), "role"),
        };
        found.cloned().ok_or_else(|| format!("{resource}.{GROUP} \"{role}\" not found"))
    }

    fn grants(&self, binding: &Value, kind: &str) -> Vec<(Key, Grant)> {
        let own = namespace(binding);
        let role_ref = &binding["roleRef"];
        let (rules, missing) = match self.role(role_ref, own) {
            Ok(rules) => (rules, None),
            Err(missing) => (Arc::from([]), Some(Arc::from(missing))),
        };
        let of = format!(
            "{kind} {:?} of {} {:?}",
            if own.is_empty() { name(binding).to_owned() } else { format!("{}/{own}", name(binding)) },
            role_ref["kind"].as_str().unwrap_or_default(),
            role_ref["name"].as_str().unwrap_or_default()
        );
        let subjects = binding["subjects"].as_array().into_iter().flatten();
        subjects
            .filter_map(|subject| {
                let subject_name = subject["name"].as_str()?;
                let (key, shown) = match subject["kind"].as_str()? {
                    "User" => (user_key(subject_name), subject_name.to_owned()),
                    "Group" => (group_key(subject_name), subject_name.to_owned()),
                    "ServiceAccount" => {
                        let of = subject["namespace"].as_str().filter(|n| !n.is_empty()).unwrap_or(own);
                        if of.is_empty() {
                            return None;
                        }
                        let user = format!("{}{of}:{subject_name}", names::SERVICE_ACCOUNT_PREFIX);
                        (user_key(&user), format!("{subject_name}/{of}"))
                    }
                    _ => return None,
                };
                let kind = subject["kind"].as_str().unwrap_or_default();
                let description = format!("{of} to {kind} {shown:?}").into();
                Some((key, Grant { rules: rules.clone(), description, missing: missing.clone() }))
            })
            .collect()
    }

    /// The grants to a user: those of the cluster first, then those of the namespace.
    fn of<'a>(&'a self, user: &'a UserInfo, namespace: &str) -> impl Iterator<Item = &'a Grant> {
        let keys: Vec<Key> =
            std::iter::once(user_key(&user.name)).chain(user.groups.iter().map(|g| group_key(g))).collect();
        let scopes = [Some(&self.cluster), self.namespaces.get(namespace).filter(|_| !namespace.is_empty())];
        let found: Vec<&Grant> = scopes
            .into_iter()
            .flatten()
            .flat_map(|grants| keys.iter().filter_map(|key| grants.get(key)).flatten())
            .collect();
        found.into_iter()
    }

    pub fn authorize(&self, attributes: &Attributes<'_>) -> Verdict {
        let namespace = if attributes.is_resource { attributes.namespace } else { "" };
        let mut missing = Vec::new();
        for grant in self.of(attributes.user, namespace) {
            if grant.rules.iter().any(|rule| rule.allows(attributes)) {
                return Verdict::Allowed(format!("RBAC: allowed by {}", grant.description));
            }
            if let Some(text) = grant.missing.as_deref()
                && !missing.contains(&text)
            {
                missing.push(text);
            }
        }
        Verdict::NoOpinion(match missing.len() {
            0 => String::new(),
            1 => format!("RBAC: {}", missing[0]),
            _ => format!("RBAC: [{}]", missing.join(", ")),
        })
    }

    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> ResolvedRules {
        let mut resolved = ResolvedRules::default();
        for grant in self.of(user, namespace) {
            resolved.rules.extend(grant.rules.iter().cloned());
            resolved.errors.extend(grant.missing.iter().map(|m| m.to_string()));
        }
        resolved
    }
}

/// The rules of a ClusterRole: its own, or, with an aggregationRule, those of all ClusterRoles it selects.
fn cluster_role_rules(role: &Value, all: &[Arc<Value>]) -> Vec<PolicyRule> {
    let mut seen = Vec::new();
    let mut rules = Vec::new();
    collect(role, all, &mut seen, &mut rules);
    rules
}

fn collect<'a>(role: &'a Value, all: &'a [Arc<Value>], seen: &mut Vec<&'a str>, rules: &mut Vec<PolicyRule>) {
    if seen.contains(&name(role)) {
        return;
    }
    seen.push(name(role));
    let Some(selectors) = role["aggregationRule"]["clusterRoleSelectors"].as_array() else {
        for rule in PolicyRule::all(role) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
        return;
    };
    let mut selected: BTreeMap<&str, &Value> = BTreeMap::new();
    for other in all {
        if selectors.iter().any(|selector| selects(selector, &other["metadata"]["labels"])) {
            selected.insert(name(other), other);
        }
    }
    for other in selected.into_values() {
        collect(other, all, seen, rules);
    }
}

/// A label selector (meta/v1) on an object's labels.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    let label = |key: &str| labels[key].as_str();
    let all_equal = selector["matchLabels"].as_object().into_iter().flatten().all(|(k, v)| label(k) == v.as_str());
    let all_hold = selector["matchExpressions"].as_array().into_iter().flatten().all(|e| {
        let value = label(e["key"].as_str().unwrap_or_default());
        let listed = value.is_some_and(|value| e["values"].as_array().is_some_and(|l| l.iter().any(|v| v == value)));
        match e["operator"].as_str() {
            Some("In") => listed,
            Some("NotIn") => !listed,
            Some("Exists") => value.is_some(),
            Some("DoesNotExist") => value.is_none(),
            _ => false,
        }
    });
    all_equal && all_hold
}
