//! The table of the built-in kinds: look-ups and storage keys.

use std::collections::HashMap;

use super::*;

#[test]
fn every_stored_row_has_a_place_of_its_own_in_the_store() {
    let mut seen: HashMap<&str, &Kind> = HashMap::new();
    for kind in Registry::builtin().kinds() {
        assert_eq!(kind.stored, !kind.storage_prefix.is_empty(), "{}", kind.plural);
        if !kind.stored {
            continue;
        }
        if let Some(other) = seen.insert(&kind.storage_prefix, kind) {
            assert_eq!(
                (&other.storage_group, &other.storage_version, &other.kind),
                (&kind.storage_group, &kind.storage_version, &kind.kind),
                "{} is shared",
                kind.storage_prefix
            );
        }
        assert!(Registry::builtin().storage_kind(kind).is_some(), "{}", kind.plural);
    }
}

#[test]
fn rows_are_found_by_path_and_by_type() {
    let registry = Registry::builtin();
    let deployment = registry.resource("apps", "v1", "deployments").unwrap();
    assert_eq!(deployment.kind, "Deployment");
    assert_eq!(deployment.schema, "io.k8s.api.apps.v1.Deployment");
    assert!(Arc::ptr_eq(deployment, registry.by_type("apps/v1", "Deployment").unwrap()));
    assert_eq!(registry.by_type("v1", "Pod").unwrap().plural, "pods");
    assert!(registry.by_type("apps/v2", "Deployment").is_none());
    assert_eq!(registry.group("autoscaling").unwrap().versions, ["v2", "v1"]);
    assert_eq!(registry.preferred_kind("autoscaling", "HorizontalPodAutoscaler").unwrap().version, "v2");
}

#[test]
fn keys_and_paths_are_upstreams() {
    let registry = Registry::builtin();
    let pod = registry.by_type("v1", "Pod").unwrap();
    assert_eq!(pod.storage_key("default", "x"), "/registry/pods/default/x");
    assert_eq!(pod.storage_list_prefix(""), "/registry/pods/");
    assert_eq!(pod.parse_storage_key("/registry/pods/default/x"), Some(("default", "x")));
    assert_eq!(pod.path("default"), "/api/v1/namespaces/default/pods");
    let node = registry.by_type("v1", "Node").unwrap();
    assert_eq!(node.storage_key("ignored", "n"), "/registry/minions/n");
    assert_eq!(node.parse_storage_key("/registry/minions/n"), Some(("", "n")));
    let event = registry.by_type("events.k8s.io/v1", "Event").unwrap();
    assert_eq!(event.storage_prefix, "/registry/events/");
    assert_eq!(registry.storage_kind(event).unwrap().group, "");
}

#[test]
fn subresources_say_what_they_take() {
    let pod = Registry::builtin().by_type("v1", "Pod").unwrap();
    assert_eq!(pod.subresource("eviction").map(|s| (s.group.as_str(), s.kind.as_str())), Some(("policy", "Eviction")));
    assert!(pod.has_subresource("log") && !pod.has_subresource("scale"));
    let deployment = Registry::builtin().by_type("apps/v1", "Deployment").unwrap();
    assert_eq!(deployment.subresource("scale").unwrap().scale.as_ref().unwrap().spec, ["spec", "replicas"]);
}

#[test]
fn verbs_are_named() {
    assert!(Verbs::ALL.has("deletecollection") && !Verbs::READ_WRITE.has("create"));
    assert_eq!(Verbs::READ_WRITE.names().collect::<Vec<_>>(), ["get", "patch", "update"]);
    assert!(!Verbs::ALL.has("nope"));
}
