//! The OpenAPI documents as clients read them.

use super::*;

fn document(group: &str) -> Value {
    v3(Registry::builtin(), group, "v1").unwrap()
}

/// Every `$ref` in a document.
fn references<'a>(v: &'a Value, out: &mut Vec<&'a str>) {
    match v {
        Value::Object(map) => {
            out.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|v| references(v, out));
        }
        Value::Array(list) => list.iter().for_each(|v| references(v, out)),
        _ => {}
    }
}

#[test]
fn every_reference_leads_somewhere() {
    for group in Registry::builtin().groups() {
        for version in &group.versions {
            let document = v3(Registry::builtin(), &group.name, version).unwrap();
            let mut found = Vec::new();
            references(&document, &mut found);
            for reference in found {
                let name = reference.strip_prefix("#/components/schemas/").unwrap();
                assert!(document["components"]["schemas"].get(name).is_some(), "{} in {}", name, group.name);
            }
        }
    }
    let document = v2(Registry::builtin());
    let mut found = Vec::new();
    references(&document, &mut found);
    for reference in found {
        let name = reference.strip_prefix("#/definitions/").unwrap();
        assert!(document["definitions"].get(name).is_some(), "{name} in v2");
    }
    assert!(v2_protobuf(&document).len() > 100_000);
}

#[test]
fn the_patch_of_a_kind_declares_field_validation() {
    let document = document("apps");
    let item = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    assert_eq!(
        item["patch"]["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Deployment"})
    );
    for method in ["patch", "put"] {
        let parameters = item[method]["parameters"].as_array().unwrap();
        assert!(parameters.iter().any(|p| p["name"] == "fieldValidation" && p["in"] == "query"), "{method}");
    }
    assert_eq!(item["get"]["operationId"], "readAppsV1NamespacedDeployment");
    let scale = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}/scale"];
    assert_eq!(scale["patch"]["operationId"], "patchAppsV1NamespacedDeploymentScale");
    assert_eq!(scale["get"]["x-kubernetes-group-version-kind"]["kind"], "Scale");
    assert!(document["paths"]["/apis/apps/v1/deployments"]["get"].is_object());
}

#[test]
fn schemas_say_how_their_lists_merge() {
    let document = document("");
    let schemas = &document["components"]["schemas"];
    let container = &schemas["io.k8s.api.core.v1.Container"];
    assert_eq!(container["required"], json!(["name"]));
    let ports = &container["properties"]["ports"];
    assert_eq!(ports["x-kubernetes-patch-merge-key"], "containerPort");
    assert_eq!(ports["x-kubernetes-list-map-keys"], json!(["containerPort", "protocol"]));
    assert_eq!(schemas["io.k8s.api.core.v1.ContainerPort"]["properties"]["protocol"]["default"], "TCP");
    let volumes = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
    assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
    assert_eq!(
        schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"],
        json!([{"group": "", "version": "v1", "kind": "Pod"}])
    );
    let exec = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}/exec"]["post"];
    assert!(exec["parameters"].as_array().unwrap().iter().any(|p| p["name"] == "container"));
}

#[test]
fn the_index_changes_with_the_kinds() {
    let index = v3_index(Registry::builtin());
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert!(url.starts_with("/openapi/v3/apis/apps/v1?hash="), "{url}");
    assert!(index["paths"]["api/v1"].is_object());
    let mut kind = Kind::clone(Registry::builtin().by_type("apps/v1", "Deployment").unwrap());
    kind.plural = "others".into();
    let more = Registry::builtin().with([std::sync::Arc::new(kind)]);
    assert_ne!(hash(&more, "apps", "v1"), hash(Registry::builtin(), "apps", "v1"));
    assert_eq!(hash(&more, "batch", "v1"), hash(Registry::builtin(), "batch", "v1"));
    assert_eq!(v3(&more, "nope", "v1"), None);
}
