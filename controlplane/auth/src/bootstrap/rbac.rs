//! The roles and bindings of `stock.rbac` and `strake.rbac` as objects. The form of these files is told in the first.

use serde_json::{Map, Value, json};

const API: &str = "rbac.authorization.k8s.io/v1";
const GROUP: &str = "rbac.authorization.k8s.io";
const SOURCES: [&str; 2] = [include_str!("stock.rbac"), include_str!("strake.rbac")];

/// One block of the files.
#[derive(Default)]
struct Block<'a> {
    /// `clusterrole`, `role`, `clusterbinding` or `binding`.
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    /// Of a binding of its own: the role.
    role: &'a str,
    label: Option<&'a str>,
    aggregates: Option<&'a str>,
    rules: Vec<Value>,
    subjects: Option<Vec<Value>>,
}

fn list(text: &str) -> Vec<&str> {
    text.split(',').map(|item| if item == "core" { "" } else { item }).collect()
}

fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("group", name)) => json!({ "kind": "Group", "apiGroup": GROUP, "name": name }),
        Some(("user", name)) => json!({ "kind": "User", "apiGroup": GROUP, "name": name }),
        Some((_, account)) => {
            let (namespace, name) = account.split_once('/').unwrap_or_default();
            json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name })
        }
        None => Value::Null,
    }
}

fn blocks() -> Vec<Block<'static>> {
    let mut blocks: Vec<Block<'static>> = Vec::new();
    for line in SOURCES.iter().flat_map(|source| source.lines()).filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let block = blocks.last_mut();
        match (&words[..], block) {
            ([kind @ ("clusterrole" | "role" | "clusterbinding" | "binding"), full, rest @ ..], _) => {
                let (namespace, name) = match *kind {
                    "clusterrole" | "clusterbinding" => ("", *full),
                    _ => full.split_once('/').unwrap_or_default(),
                };
                let role = rest.first().copied().unwrap_or_default();
                blocks.push(Block { kind, namespace, name, role, ..Block::default() });
            }
            (["label", label], Some(block)) => block.label = Some(label),
            (["aggregates", label], Some(block)) => block.aggregates = Some(label),
            (["rule", groups, resources, verbs, names @ ..], Some(block)) => {
                let mut rule = json!({ "verbs": list(verbs), "apiGroups": list(groups), "resources": list(resources) });
                if let [names] = names {
                    rule["resourceNames"] = json!(list(names));
                }
                block.rules.push(rule);
            }
            (["url", urls, verbs], Some(block)) => {
                block.rules.push(json!({ "verbs": list(verbs), "nonResourceURLs": list(urls) }));
            }
            (["for", subjects @ ..], Some(block)) => {
                block.subjects = Some(subjects.iter().map(|s| subject(s)).collect());
            }
            _ => {}
        }
    }
    blocks
}

fn aggregate_label(to: &str) -> String {
    format!("{GROUP}/aggregate-to-{to}")
}

fn metadata(block: &Block<'_>, with_label: bool) -> Value {
    let mut labels = Map::new();
    labels.insert("kubernetes.io/bootstrapping".into(), "rbac-defaults".into());
    if let Some(label) = block.label.filter(|_| with_label) {
        labels.insert(aggregate_label(label), "true".into());
    }
    let mut metadata = json!({
        "name": block.name,
        "labels": labels,
        "annotations": { "rbac.authorization.kubernetes.io/autoupdate": "true" },
    });
    if !block.namespace.is_empty() {
        metadata["namespace"] = block.namespace.into();
    }
    metadata
}

fn role(block: &Block<'_>, all: &[Block<'_>]) -> Value {
    let kind = if block.kind == "clusterrole" { "ClusterRole" } else { "Role" };
    let mut role =
        json!({ "apiVersion": API, "kind": kind, "metadata": metadata(block, true), "rules": rules(block, all) });
    if let Some(label) = block.aggregates {
        role["aggregationRule"] =
            json!({ "clusterRoleSelectors": [{ "matchLabels": { aggregate_label(label): "true" } }] });
    }
    role
}

/// A role's own rules or, if it aggregates, those of the roles with its label, which may aggregate themselves.
fn rules(block: &Block<'_>, all: &[Block<'_>]) -> Vec<Value> {
    let Some(label) = block.aggregates else { return block.rules.clone() };
    let mut found = Vec::new();
    for other in all.iter().filter(|other| other.label == Some(label)) {
        for rule in rules(other, all) {
            if !found.contains(&rule) {
                found.push(rule);
            }
        }
    }
    found
}

fn binding(block: &Block<'_>) -> Option<Value> {
    let subjects = block.subjects.as_ref()?;
    let cluster = block.namespace.is_empty();
    let (kind, role_kind) = if cluster { ("ClusterRoleBinding", "ClusterRole") } else { ("RoleBinding", "Role") };
    let role = if block.role.is_empty() { block.name } else { block.role };
    let mut binding = json!({
        "apiVersion": API, "kind": kind, "metadata": metadata(block, false),
        "roleRef": { "apiGroup": GROUP, "kind": role_kind, "name": role },
    });
    if !subjects.is_empty() {
        binding["subjects"] = subjects.clone().into();
    }
    Some(binding)
}

fn built(kinds: &[&str], build: impl Fn(&Block<'_>, &[Block<'_>]) -> Option<Value>) -> Vec<Value> {
    let all = blocks();
    all.iter().filter(|block| kinds.contains(&block.kind)).filter_map(|block| build(block, &all)).collect()
}

/// The ClusterRoles, aggregated ones with their rules.
pub fn cluster_roles() -> Vec<Value> {
    built(&["clusterrole"], |block, all| Some(role(block, all)))
}

pub fn cluster_role_bindings() -> Vec<Value> {
    built(&["clusterrole", "clusterbinding"], |block, _| binding(block))
}

pub fn roles() -> Vec<Value> {
    built(&["role"], |block, all| Some(role(block, all)))
}

pub fn role_bindings() -> Vec<Value> {
    built(&["role", "binding"], |block, _| binding(block))
}
