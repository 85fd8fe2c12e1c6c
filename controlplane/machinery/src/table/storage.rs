//! Volumes, claims, classes and drivers; devices.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::text::{NONE, UNSET, age, count, name, strings, text, text_or};
use crate::meta;

/// `RWO,ROX`: the short names of access modes, each once.
fn access_modes(o: &Value, path: &[&str]) -> String {
    let listed: Vec<&str> = meta::list_at(o, path).iter().filter_map(Value::as_str).collect();
    let names =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let short: Vec<&str> = names.iter().filter(|(long, _)| listed.contains(long)).map(|(_, s)| *s).collect();
    short.join(",")
}

/// The class of a volume or claim: the beta annotation, else the field.
fn class(o: &Value) -> &str {
    match meta::annotation(o, "volume.beta.kubernetes.io/storage-class") {
        Some(class) => class,
        None => meta::str_at(o, &["spec", "storageClassName"]),
    }
}

fn phase(o: &Value) -> &str {
    if meta::is_being_deleted(o) { "Terminating" } else { meta::str_at(o, &["status", "phase"]) }
}

pub(super) fn volume(o: &Value, now: Timestamp) -> Vec<Value> {
    let claim = match meta::map_at(o, &["spec", "claimRef"]) {
        None => String::new(),
        Some(_) => {
            let part = |field| meta::str_at(o, &["spec", "claimRef", field]);
            format!("{}/{}", part("namespace"), part("name"))
        }
    };
    vec![
        name(o),
        text(o, &["spec", "capacity", "storage"]),
        json!(access_modes(o, &["spec", "accessModes"])),
        text(o, &["spec", "persistentVolumeReclaimPolicy"]),
        json!(phase(o)),
        json!(claim),
        json!(class(o)),
        json!(text_or(o, &["spec", "volumeAttributesClassName"], UNSET)),
        text(o, &["status", "reason"]),
        age(o, now),
        json!(text_or(o, &["spec", "volumeMode"], UNSET)),
    ]
}

pub(super) fn claim(o: &Value, now: Timestamp) -> Vec<Value> {
    let bound = !meta::str_at(o, &["spec", "volumeName"]).is_empty();
    let (capacity, modes) = if bound {
        (meta::str_at(o, &["status", "capacity", "storage"]), access_modes(o, &["status", "accessModes"]))
    } else {
        ("", String::new())
    };
    vec![
        name(o),
        json!(phase(o)),
        text(o, &["spec", "volumeName"]),
        json!(capacity),
        json!(modes),
        json!(class(o)),
        json!(text_or(o, &["spec", "volumeAttributesClassName"], UNSET)),
        age(o, now),
        json!(text_or(o, &["spec", "volumeMode"], UNSET)),
    ]
}

pub(super) fn storage_class(o: &Value, now: Timestamp) -> Vec<Value> {
    let is_default = |key| meta::annotation(o, key) == Some("true");
    let default = is_default("storageclass.kubernetes.io/is-default-class")
        || is_default("storageclass.beta.kubernetes.io/is-default-class");
    let shown = format!("{}{}", meta::name(o), if default { " (default)" } else { "" });
    vec![
        json!(shown),
        text(o, &["provisioner"]),
        json!(text_or(o, &["reclaimPolicy"], "Delete")),
        json!(text_or(o, &["volumeBindingMode"], "Immediate")),
        json!(meta::bool_at(o, &["allowVolumeExpansion"])),
        age(o, now),
    ]
}

pub(super) fn attributes_class(o: &Value, now: Timestamp) -> Vec<Value> {
    let default = meta::annotation(o, "storageclass.kubernetes.io/is-default-class") == Some("true");
    let shown = format!("{}{}", meta::name(o), if default { " (default)" } else { "" });
    vec![json!(shown), text(o, &["driverName"]), age(o, now)]
}

pub(super) fn attachment(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(o),
        text(o, &["spec", "attacher"]),
        text(o, &["spec", "source", "persistentVolumeName"]),
        text(o, &["spec", "nodeName"]),
        json!(meta::bool_at(o, &["status", "attached"])),
        age(o, now),
    ]
}

pub(super) fn csi_node(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), json!(count(o, &["spec", "drivers"])), age(o, now)]
}

pub(super) fn csi_driver(o: &Value, now: Timestamp) -> Vec<Value> {
    let flag = |field, unset| meta::at(o, &["spec", field]).and_then(Value::as_bool).unwrap_or(unset);
    let tokens = match meta::list_at(o, &["spec", "tokenRequests"]) {
        [] => UNSET.to_owned(),
        requests => requests.iter().map(|r| meta::str_at(r, &["audience"])).collect::<Vec<_>>().join(","),
    };
    let modes = strings(o, &["spec", "volumeLifecycleModes"]);
    vec![
        name(o),
        json!(flag("attachRequired", true)),
        json!(flag("podInfoOnMount", false)),
        json!(flag("storageCapacity", false)),
        json!(tokens),
        json!(flag("requiresRepublish", false)),
        json!(if modes.is_empty() { NONE.to_owned() } else { modes }),
        age(o, now),
    ]
}

pub(super) fn resource_claim(o: &Value, now: Timestamp) -> Vec<Value> {
    let mut states = Vec::new();
    if meta::is_being_deleted(o) {
        states.push("deleted");
    }
    if meta::map_at(o, &["status", "allocation"]).is_none() {
        if states.is_empty() {
            states.push("pending");
        }
    } else {
        states.push("allocated");
        if count(o, &["status", "reservedFor"]) > 0 {
            states.push("reserved");
        }
    }
    vec![name(o), json!(states.join(",")), age(o, now)]
}

pub(super) fn resource_slice(o: &Value, now: Timestamp) -> Vec<Value> {
    let node = if meta::bool_at(o, &["spec", "allNodes"]) { "<all>" } else { meta::str_at(o, &["spec", "nodeName"]) };
    vec![name(o), json!(node), text(o, &["spec", "driver"]), text(o, &["spec", "pool", "name"]), age(o, now)]
}
