//! Policy rules: what one rule of a Role allows, and whether rules cover other rules.

use crate::Attributes;
use serde_json::{Value, json};

/// One rule of a Role or ClusterRole (rbac.authorization.k8s.io/v1).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRule {
    pub verbs: Vec<String>,
    pub groups: Vec<String>,
    pub resources: Vec<String>,
    pub names: Vec<String>,
    pub urls: Vec<String>,
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == wanted)
}

fn has_or_star(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl PolicyRule {
    pub fn from_json(rule: &Value) -> Self {
        Self {
            verbs: strings(&rule["verbs"]),
            groups: strings(&rule["apiGroups"]),
            resources: strings(&rule["resources"]),
            names: strings(&rule["resourceNames"]),
            urls: strings(&rule["nonResourceURLs"]),
        }
    }

    /// The rules of a Role or ClusterRole object.
    pub fn all(role: &Value) -> Vec<Self> {
        role["rules"].as_array().into_iter().flatten().map(Self::from_json).collect()
    }

    pub fn to_json(&self) -> Value {
        let mut json = serde_json::Map::new();
        for (key, list) in [
            ("verbs", &self.verbs),
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ] {
            if !list.is_empty() {
                json.insert(key.into(), json!(list));
            }
        }
        json.into()
    }

    pub fn allows(&self, attributes: &Attributes<'_>) -> bool {
        if !has_or_star(&self.verbs, attributes.verb) {
            return false;
        }
        if !attributes.is_resource {
            return self.urls.iter().any(|rule| url_matches(rule, attributes.path));
        }
        has_or_star(&self.groups, attributes.group)
            && self.allows_resource(attributes.resource, attributes.subresource)
            && (self.names.is_empty() || has(&self.names, attributes.name))
    }

    fn allows_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|rule| match rule.split_once('/') {
            None => rule == "*" || (subresource.is_empty() && rule == resource),
            Some((head, tail)) => !subresource.is_empty() && tail == subresource && (head == "*" || head == resource),
        })
    }

    /// The rule as many rules of one verb and one resource, name or path each.
    fn atoms(&self) -> Vec<Self> {
        let mut atoms = Vec::new();
        for verb in &self.verbs {
            let one = || vec![verb.clone()];
            for group in &self.groups {
                for resource in &self.resources {
                    let atom = Self {
                        verbs: one(),
                        groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Self::default()
                    };
                    if self.names.is_empty() {
                        atoms.push(atom);
                    } else {
                        atoms.extend(self.names.iter().map(|n| Self { names: vec![n.clone()], ..atom.clone() }));
                    }
                }
            }
            atoms.extend(self.urls.iter().map(|url| Self { verbs: one(), urls: vec![url.clone()], ..Self::default() }));
        }
        atoms
    }

    /// Whether this rule alone allows all that an atom allows.
    fn covers(&self, atom: &Self) -> bool {
        let all = |own: &[String], wanted: &[String], covers: fn(&str, &str) -> bool| {
            wanted.iter().all(|w| own.iter().any(|o| covers(o, w)))
        };
        let equal: fn(&str, &str) -> bool = |own, wanted| own == "*" || own == wanted;
        let resource: fn(&str, &str) -> bool = |own, wanted| {
            own == "*"
                || own == wanted
                || own.strip_prefix("*/").is_some_and(|tail| wanted.split_once('/').is_some_and(|(_, t)| t == tail))
        };
        let names = self.names.is_empty() || (!atom.names.is_empty() && atom.names.iter().all(|n| has(&self.names, n)));
        all(&self.verbs, &atom.verbs, equal)
            && all(&self.groups, &atom.groups, equal)
            && all(&self.resources, &atom.resources, resource)
            && all(&self.urls, &atom.urls, |own, wanted| own == wanted || url_matches(own, wanted))
            && names
    }
}

/// `*` and a trailing `*` are wildcards.
fn url_matches(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || (rule.ends_with('*') && path.starts_with(rule.trim_end_matches('*')))
}

/// What `wanted` allows and `held` does not, compactly; empty if all is covered.
pub(crate) fn uncovered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let mut missing: Vec<PolicyRule> = Vec::new();
    for atom in wanted.iter().flat_map(PolicyRule::atoms) {
        if held.iter().any(|rule| rule.covers(&atom)) {
            continue;
        }
        let same = |m: &PolicyRule| {
            m.groups == atom.groups && m.resources == atom.resources && m.names == atom.names && m.urls == atom.urls
        };
        match missing.iter_mut().find(|m| same(m)) {
            Some(found) if has(&found.verbs, &atom.verbs[0]) => {}
            Some(found) => found.verbs.extend(atom.verbs),
            None => missing.push(atom),
        }
    }
    missing.sort();
    missing
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`
pub(crate) fn compact(rule: &PolicyRule) -> String {
    let list = |label: &str, items: &[String]| {
        let items: Vec<_> = items.iter().map(|i| crate::attributes::go_quoted(i)).collect();
        (!items.is_empty()).then(|| format!("{label}:[{}]", items.join(" ")))
    };
    let parts: Vec<_> = [
        list("APIGroups", &rule.groups),
        list("Resources", &rule.resources),
        list("NonResourceURLs", &rule.urls),
        list("ResourceNames", &rule.names),
        list("Verbs", &rule.verbs),
    ]
    .into_iter()
    .flatten()
    .collect();
    format!("{{{}}}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UserInfo;
    use proptest::prelude::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str], names: &[&str]) -> PolicyRule {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        PolicyRule {
            verbs: own(verbs),
            groups: own(groups),
            resources: own(resources),
            names: own(names),
            urls: vec![],
        }
    }

    fn asks(rule: &PolicyRule, verb: &str, group: &str, resource: &str, subresource: &str, name: &str) -> bool {
        let user = UserInfo::default();
        rule.allows(&Attributes::resource(&user, verb, group, resource).subresource(subresource).name(name))
    }

    #[test]
    fn a_resource_does_not_include_its_subresources() {
        let pods = rule(&["get"], &[""], &["pods"], &[]);
        assert!(asks(&pods, "get", "", "pods", "", "x"));
        assert!(!asks(&pods, "get", "", "pods", "log", "x"));
        assert!(!asks(&pods, "list", "", "pods", "", ""));
        assert!(!asks(&pods, "get", "apps", "pods", "", "x"));
        let star = rule(&["*"], &["*"], &["*"], &[]);
        assert!(asks(&star, "frobnicate", "x", "y", "z", ""));
        let scale = rule(&["get"], &["*"], &["*/scale"], &[]);
        assert!(asks(&scale, "get", "apps", "deployments", "scale", "x"));
        assert!(!asks(&scale, "get", "apps", "deployments", "", "x"));
        assert!(!asks(&rule(&["get"], &[""], &["pods/*"], &[]), "get", "", "pods", "log", "x"));
    }

    #[test]
    fn names_restrict_and_never_match_a_request_without_one() {
        let named = rule(&["*"], &[""], &["configmaps"], &["a"]);
        assert!(asks(&named, "get", "", "configmaps", "", "a"));
        assert!(!asks(&named, "get", "", "configmaps", "", "b"));
        assert!(!asks(&named, "create", "", "configmaps", "", ""));
    }

    #[test]
    fn paths_match_exactly_or_by_a_trailing_star() {
        let user = UserInfo::default();
        let rule = PolicyRule {
            verbs: vec!["get".into()],
            urls: vec!["/healthz/*".into(), "/version".into()],
            ..PolicyRule::default()
        };
        let may = |path| rule.allows(&Attributes::non_resource(&user, "get", path));
        assert!(may("/healthz/ping") && may("/version"));
        assert!(!may("/healthz") && !may("/version/x") && !may("/"));
    }

    #[test]
    fn what_is_not_covered_is_said_compactly() {
        let held = [rule(&["get"], &[""], &["pods"], &[]), rule(&["*"], &["apps"], &["*/scale"], &[])];
        let wanted = [
            rule(&["get", "list", "watch"], &[""], &["pods"], &[]),
            rule(&["update"], &["apps"], &["deployments/scale"], &["x"]),
        ];
        let missing = uncovered(&held, &wanted);
        assert_eq!(
            missing.iter().map(compact).collect::<Vec<_>>(),
            [r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#]
        );
        let named = [rule(&["get"], &[""], &["pods"], &["a"])];
        assert!(!uncovered(&named, &held[..1]).is_empty(), "one name does not cover all");
        assert!(uncovered(&held[..1], &named).is_empty());
    }

    fn some_rule() -> impl Strategy<Value = PolicyRule> {
        let pick = |from: &'static [&'static str]| {
            prop::collection::vec(prop::sample::select(from).prop_map(str::to_owned), 0..3)
        };
        (
            pick(&["get", "list", "*"]),
            pick(&["", "apps", "*"]),
            pick(&["pods", "pods/log", "*/log", "*"]),
            pick(&["a", "b"]),
            pick(&["/a", "/a/*", "*"]),
        )
            .prop_map(|(verbs, groups, resources, names, urls)| PolicyRule {
                verbs,
                groups,
                resources,
                names,
                urls,
            })
    }

    proptest! {
        #[test]
        fn more_rules_never_allow_less_and_covered_rules_allow_no_more(
            held in prop::collection::vec(some_rule(), 0..4),
            more in prop::collection::vec(some_rule(), 0..4),
            verb in prop::sample::select(&["get", "list", "create"][..]),
            group in prop::sample::select(&["", "apps", "batch"][..]),
            resource in prop::sample::select(&["pods", "jobs"][..]),
            subresource in prop::sample::select(&["", "log", "exec"][..]),
            name in prop::sample::select(&["", "a", "c"][..]),
            path in prop::sample::select(&["/a", "/a/b", "/c"][..]),
        ) {
            let user = UserInfo::default();
            let questions = [
                Attributes::resource(&user, verb, group, resource).subresource(subresource).name(name),
                Attributes::non_resource(&user, verb, path),
            ];
            let both: Vec<_> = held.iter().chain(&more).cloned().collect();
            for question in questions {
                let allows = |rules: &[PolicyRule]| rules.iter().any(|r| r.allows(&question));
                prop_assert!(!allows(&held) || allows(&both), "rules were added and permission was lost");
                prop_assert!(!uncovered(&held, &more).is_empty() || !allows(&more) || allows(&held),
                    "covered, and yet it allows more");
            }
        }
    }
}
