//! Discovery documents: which groups, versions, resources and verbs there are, in the aggregated form (KEP-3352) and in
//! the legacy one.

use serde_json::{Map, Value, json};

use crate::registry::{Group, Kind, Registry, Subresource, Verbs, api_version};

/// `Content-Type` of the aggregated documents.
pub const AGGREGATED_V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
/// The older name of the same document.
pub const AGGREGATED_V2BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// `/api`, aggregated: the core group.
pub fn aggregated_core(registry: &Registry) -> Value {
    aggregated(registry, |g| g.name.is_empty())
}

/// `/apis`, aggregated: every other group.
pub fn aggregated_groups(registry: &Registry) -> Value {
    aggregated(registry, |g| !g.name.is_empty())
}

fn aggregated(registry: &Registry, wanted: impl Fn(&Group) -> bool) -> Value {
    let items: Vec<Value> =
        registry.groups().iter().filter(|g| wanted(g)).map(|g| group_discovery(registry, g)).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn group_discovery(registry: &Registry, group: &Group) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| {
            let resources: Vec<Value> =
                registry.in_group_version(&group.name, version).map(|k| resource_discovery(k)).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.name.is_empty() { json!({}) } else { json!({"name": group.name}) };
    json!({"metadata": metadata, "versions": versions})
}

fn resource_discovery(kind: &Kind) -> Value {
    let mut out = Map::new();
    out.insert("resource".into(), json!(kind.plural));
    out.insert("responseKind".into(), json!({"group": "", "version": "", "kind": kind.kind}));
    out.insert("scope".into(), json!(if kind.namespaced { "Namespaced" } else { "Cluster" }));
    out.insert("singularResource".into(), json!(kind.singular));
    out.insert("verbs".into(), verbs(kind.verbs));
    names(&mut out, kind);
    if !kind.subresources.is_empty() {
        let subresources: Vec<Value> = kind
            .subresources
            .iter()
            .map(|s| {
                let (group, version) = foreign_type(kind, s).unwrap_or_default();
                json!({
                    "subresource": s.name,
                    "responseKind": {"group": group, "version": version, "kind": s.kind},
                    "verbs": verbs(s.verbs),
                })
            })
            .collect();
        out.insert("subresources".into(), json!(subresources));
    }
    Value::Object(out)
}

fn names(out: &mut Map<String, Value>, kind: &Kind) {
    if !kind.short_names.is_empty() {
        out.insert("shortNames".into(), json!(kind.short_names));
    }
    if !kind.categories.is_empty() {
        out.insert("categories".into(), json!(kind.categories));
    }
}

fn verbs(verbs: Verbs) -> Value {
    verbs.names().collect()
}

/// Group and version of a subresource's type, where they are not the kind's own.
fn foreign_type<'a>(kind: &Kind, sub: &'a Subresource) -> Option<(&'a str, &'a str)> {
    (sub.group != kind.group || sub.version != kind.version).then_some((&sub.group, &sub.version))
}

/// `/api`, legacy. `server_address` is `host:port` as clients reach it.
pub fn api_versions(registry: &Registry, server_address: &str) -> Value {
    let versions = registry.group("").map(|g| g.versions.clone()).unwrap_or_default();
    json!({
        "kind": "APIVersions",
        "versions": versions,
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}],
    })
}

/// `/apis`, legacy.
pub fn api_group_list(registry: &Registry) -> Value {
    let groups: Vec<Value> = registry.groups().iter().filter(|g| !g.name.is_empty()).map(group_fields).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`, legacy; none if there is no such group.
pub fn api_group(registry: &Registry, name: &str) -> Option<Value> {
    let mut group = group_fields(registry.group(name).filter(|g| !g.name.is_empty())?);
    group["kind"] = json!("APIGroup");
    group["apiVersion"] = json!("v1");
    Some(group)
}

fn group_fields(group: &Group) -> Value {
    let versions: Vec<Value> =
        group.versions.iter().map(|v| json!({"groupVersion": api_version(&group.name, v), "version": v})).collect();
    json!({"name": group.name, "preferredVersion": versions.first(), "versions": versions})
}

/// `/api/v1` or `/apis/GROUP/VERSION`, legacy; none if there is no such group and version.
pub fn api_resource_list(registry: &Registry, group: &str, version: &str) -> Option<Value> {
    if !registry.has_group_version(group, version) {
        return None;
    }
    let mut resources = Vec::new();
    for kind in registry.in_group_version(group, version) {
        let mut out = Map::new();
        out.insert("name".into(), json!(kind.plural));
        out.insert("singularName".into(), json!(kind.singular));
        out.insert("namespaced".into(), json!(kind.namespaced));
        out.insert("kind".into(), json!(kind.kind));
        out.insert("verbs".into(), verbs(kind.verbs));
        names(&mut out, kind);
        resources.push(Value::Object(out));
        for sub in &kind.subresources {
            let mut out = Map::new();
            out.insert("name".into(), json!(format!("{}/{}", kind.plural, sub.name)));
            out.insert("singularName".into(), json!(""));
            out.insert("namespaced".into(), json!(kind.namespaced));
            if let Some((group, version)) = foreign_type(kind, sub) {
                out.insert("group".into(), json!(group));
                out.insert("version".into(), json!(version));
            }
            out.insert("kind".into(), json!(sub.kind));
            out.insert("verbs".into(), verbs(sub.verbs));
            resources.push(Value::Object(out));
        }
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": api_version(group, version),
        "resources": resources,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_group_stands_alone() {
        let core = aggregated_core(Registry::builtin());
        assert_eq!(core["items"].as_array().unwrap().len(), 1);
        assert_eq!(core["items"][0]["metadata"], json!({}));
        let groups = aggregated_groups(Registry::builtin());
        assert_eq!(groups["items"][1]["metadata"]["name"], "apps");
        let resources = groups["items"][1]["versions"][0]["resources"].as_array().unwrap();
        let deployments = resources.iter().find(|r| r["resource"] == "deployments").unwrap();
        assert_eq!(deployments["shortNames"], json!(["deploy"]));
        assert_eq!(
            deployments["subresources"][0],
            json!({"subresource": "scale", "verbs": ["get", "patch", "update"],
                "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}})
        );
    }

    #[test]
    fn legacy_lists_name_subresources_beside_resources() {
        let list = api_resource_list(Registry::builtin(), "", "v1").unwrap();
        let eviction = list["resources"].as_array().unwrap().iter().find(|r| r["name"] == "pods/eviction").unwrap();
        assert_eq!(
            *eviction,
            json!({"name": "pods/eviction", "singularName": "", "namespaced": true, "group": "policy",
                "version": "v1", "kind": "Eviction", "verbs": ["create"]})
        );
        assert_eq!(api_resource_list(Registry::builtin(), "apps", "v2"), None);
    }

    #[test]
    fn a_group_says_which_version_it_prefers() {
        let group = api_group(Registry::builtin(), "autoscaling").unwrap();
        assert_eq!(group["preferredVersion"], json!({"groupVersion": "autoscaling/v2", "version": "v2"}));
        assert_eq!(group["versions"][1]["groupVersion"], "autoscaling/v1");
        assert_eq!(api_group(Registry::builtin(), "nope.example"), None);
        assert_eq!(api_versions(Registry::builtin(), "h:1")["versions"], json!(["v1"]));
        assert!(api_group_list(Registry::builtin())["groups"].as_array().unwrap().len() > 15);
    }
}
