//! PersistentVolumes, claims, StorageClasses, CSIDrivers.

use serde_json::{Value, json};

use crate::{created, kind, refused, updated};

fn claim(more: Value) -> Value {
    let mut spec = json!({ "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } });
    for (k, v) in more.as_object().unwrap() {
        spec[k] = v.clone();
    }
    json!({ "spec": spec })
}

#[test]
fn a_claim_asks_for_something() {
    let k = kind("v1", "PersistentVolumeClaim");
    assert!(refused(&k, claim(json!({}))).is_empty());
    assert_eq!(
        refused(&k, json!({ "spec": { "accessModes": ["ReadWriteTwice"] } })),
        [
            "spec.accessModes: Unsupported value: \"ReadWriteTwice\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
            "spec.resources[storage]: Required value",
        ]
    );
}

#[test]
fn a_bound_claim_may_grow_and_nothing_else() {
    let k = kind("v1", "PersistentVolumeClaim");
    let mut old = created(&k, claim(json!({ "volumeName": "pv1" })));
    old["status"] = json!({ "phase": "Bound", "capacity": { "storage": "1Gi" } });
    let (_, errors) = updated(&k, &old, "", |c| c["spec"]["resources"]["requests"]["storage"] = "2Gi".into());
    assert!(errors.is_empty(), "{errors:?}");
    let (_, errors) = updated(&k, &old, "", |c| c["spec"]["resources"]["requests"]["storage"] = "512Mi".into());
    assert_eq!(errors, ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]);
    let (_, errors) = updated(&k, &old, "", |c| c["spec"]["volumeName"] = "pv2".into());
    assert!(
        errors[0].starts_with("spec: Forbidden: spec is immutable after creation except resources.requests"),
        "{errors:?}"
    );
}

#[test]
fn an_unbound_claim_may_be_given_its_volume() {
    let k = kind("v1", "PersistentVolumeClaim");
    let (_, errors) = updated(&k, &created(&k, claim(json!({}))), "", |c| c["spec"]["volumeName"] = "pv1".into());
    assert!(errors.is_empty(), "{errors:?}");
}

#[test]
fn a_volume_has_one_source_for_good() {
    let k = kind("v1", "PersistentVolume");
    let base = json!({ "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"] });
    assert_eq!(refused(&k, json!({ "spec": base })), ["spec: Required value: must specify a volume type"]);
    let mut local = base.clone();
    local["local"] = json!({ "path": "/mnt" });
    assert_eq!(
        refused(&k, json!({ "spec": local })),
        ["spec.nodeAffinity: Required value: Local volume requires node affinity"]
    );
    let mut host = base.clone();
    host["hostPath"] = json!({ "path": "/mnt" });
    let (_, errors) =
        updated(&k, &created(&k, json!({ "spec": host })), "", |v| v["spec"]["hostPath"]["path"] = "/other".into());
    assert!(
        errors[0].starts_with(
            "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"
        ),
        "{errors:?}"
    );
}

#[test]
fn a_volumes_phase_records_when_it_changed() {
    let k = kind("v1", "PersistentVolume");
    let spec = json!({ "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "nfs": { "server": "s", "path": "/p" } });
    let old = created(&k, json!({ "spec": spec }));
    assert_eq!(old["status"]["lastPhaseTransitionTime"], "2026-01-02T03:04:05Z");
    let (new, _) = updated(&k, &old, "status", |v| v["status"]["phase"] = "Bound".into());
    assert_ne!(new["status"]["lastPhaseTransitionTime"], old["status"]["lastPhaseTransitionTime"]);
}

#[test]
fn a_storage_class_stays_what_it_was() {
    let k = kind("storage.k8s.io/v1", "StorageClass");
    assert_eq!(
        refused(&k, json!({ "volumeBindingMode": "Later", "provisioner": "p" })),
        ["volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \"WaitForFirstConsumer\""]
    );
    let (_, errors) = updated(&k, &created(&k, json!({ "provisioner": "p" })), "", |c| c["provisioner"] = "q".into());
    assert_eq!(errors, ["provisioner: Forbidden: updates to provisioner are forbidden."]);
}

#[test]
fn the_two_spellings_of_a_claims_source_mirror_each_other() {
    let source = json!({ "kind": "PersistentVolumeClaim", "name": "a" });
    let c = created(&kind("v1", "PersistentVolumeClaim"), claim(json!({ "dataSource": source })));
    assert_eq!(c["spec"]["dataSourceRef"], source);
}
