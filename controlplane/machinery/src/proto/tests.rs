//! Protobuf bodies to JSON and back.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::Registry;

fn kind(api_version: &str, kind: &str) -> &'static Kind {
    Registry::builtin().by_type(api_version, kind).unwrap()
}

/// Encode, decode, and compare with what JSON decoding makes of the same object.
fn round_trip(api_version: &str, name: &str, object: Value) {
    let kind = kind(api_version, name);
    let expected = schema::decode_value(kind, object).unwrap().object;
    let bytes = encode(&expected).unwrap();
    assert!(is_envelope(&bytes));
    assert_eq!(decode(kind, &bytes).unwrap(), expected);
    assert_eq!(decode_any(&bytes).unwrap(), expected);
}

#[test]
fn objects_survive_the_way_to_protobuf_and_back() {
    round_trip(
        "v1",
        "Pod",
        json!({
            "metadata": {"name": "x", "labels": {"a": "b", "c": ""}, "creationTimestamp": "2026-01-02T03:04:05Z",
                "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {".": {}}}}]},
            "spec": {
                "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80, "protocol": "UDP"}],
                    "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}},
                    "livenessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 3},
                    "readinessProbe": {"tcpSocket": {"port": 80}},
                    "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}],
                "volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "s", "secret": {"secretName": "t",
                    "defaultMode": 0}}],
                "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "hostNetwork": true,
                "tolerations": [{"key": "k", "tolerationSeconds": -1}]
            }
        }),
    );
    round_trip(
        "v1",
        "Secret",
        json!({"metadata": {"name": "x"}, "data": {"a": "AAEC", "empty": ""}, "immutable": false, "type": "Opaque"}),
    );
    round_trip(
        "apps/v1",
        "Deployment",
        json!({"spec": {"replicas": 0, "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
            "selector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}}}),
    );
    round_trip("apps/v1", "ControllerRevision", json!({"data": {"spec": {"any": [1, "x", null]}}, "revision": 3}));
    round_trip(
        "coordination.k8s.io/v1",
        "Lease",
        json!({"spec": {"renewTime": "2026-01-02T03:04:05.000006Z", "leaseDurationSeconds": 40}}),
    );
    round_trip(
        "authorization.k8s.io/v1",
        "SubjectAccessReview",
        json!({"spec": {"user": "u", "extra": {"k": ["a", "b"], "none": []}}}),
    );
    round_trip("v1", "Endpoints", json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}]}));
}

#[test]
fn schemas_in_schemas_survive() {
    let props = json!({"type": "object", "properties": {
        "a": {"type": "array", "items": {"type": "string", "maxLength": 0}},
        "b": {"type": "object", "additionalProperties": {"type": "number", "minimum": -0.5}},
        "c": {"type": "object", "additionalProperties": true, "x-kubernetes-preserve-unknown-fields": true},
        "d": {"default": {"x": [1]}, "enum": ["a", 1], "dependencies": {"e": ["f"]}},
    }});
    round_trip(
        "apiextensions.k8s.io/v1",
        "CustomResourceDefinition",
        json!({"spec": {"group": "g", "versions": [{"name": "v1", "schema": {"openAPIV3Schema": props}}]}}),
    );
}

/// `kubectl create deployment web --image=nginx --replicas=3 --port=80`, as kubectl 1.37 sends it.
const CREATE_DEPLOYMENT: &[&[u8]] = &[
    b"k8s\x00\x0a\x15\x0a\x07apps/v1\x12\x0aDeployment\x12\xb8\x01\x0a\x1f\x0a\x03web\x12\x00\x1a\x00",
    b"\"\x00*\x002\x008\x00B\x00Z\x0a\x0a\x03app\x12\x03web\x12\x86\x01\x08\x03\x12\x0c\x0a\x0a\x0a",
    b"\x03app\x12\x03web\x1al\x0a\x1c\x0a\x00\x12\x00\x1a\x00\"\x00*\x002\x008\x00B\x00Z\x0a\x0a\x03ap",
    b"p\x12\x03web\x12L\x12.\x0a\x05nginx\x12\x05nginx*\x002\x0a\x0a\x00\x10\x00\x18P\"\x00*\x00B\x00j",
    b"\x00r\x00\x80\x01\x00\x88\x01\x00\x90\x01\x00\xa2\x01\x00\x1a\x002\x00B\x00J\x00R\x00X\x00`\x00h",
    b"\x00\x82\x01\x00\x8a\x01\x00\x9a\x01\x00\xc2\x01\x00\"\x02\x0a\x00(\x008\x00\x1a\x0c\x08\x00\x10",
    b"\x00\x18\x00 \x00(\x008\x00\x1a\x00\"\x00",
];

#[test]
fn what_kubectl_sends_is_understood() {
    let kind = kind("apps/v1", "Deployment");
    let labels = json!({"app": "web"});
    assert_eq!(
        decode(kind, &CREATE_DEPLOYMENT.concat()).unwrap(),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "labels": labels},
            "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "strategy": {}, "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "nginx", "image": "nginx", "ports": [{"containerPort": 80}],
                    "resources": {}}]}}}, "status": {}})
    );
}

#[test]
fn what_go_writes_for_unset_fields_is_left_out() {
    // ObjectMeta as Go's generated code writes it: every string, and an empty creationTimestamp.
    let mut object_meta = Vec::new();
    wire::put_bytes(&mut object_meta, 1, b"cm");
    for number in [2, 3, 4, 5, 6] {
        wire::put_bytes(&mut object_meta, number, b"");
    }
    wire::put_number(&mut object_meta, 7, 0);
    wire::put_bytes(&mut object_meta, 8, b"");
    let mut raw = Vec::new();
    wire::put_bytes(&mut raw, 1, &object_meta);
    let mut entry = Vec::new();
    wire::put_bytes(&mut entry, 1, b"a");
    wire::put_bytes(&mut entry, 2, b"b");
    wire::put_bytes(&mut raw, 2, &entry);
    let bytes = encode::envelope("v1", "ConfigMap", &raw);
    assert_eq!(
        decode(kind("v1", "ConfigMap"), &bytes).unwrap(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "b"}})
    );
}

#[test]
fn meta_kinds_decode_by_name() {
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u"}, "propagationPolicy": "Background", "dryRun": ["All"]});
    let bytes = encode(&options).unwrap();
    assert_eq!(decode_as("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", &bytes).unwrap(), options);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "x"}});
    assert_eq!(decode_any(&encode(&eviction).unwrap()).unwrap(), eviction);
}

#[test]
fn an_object_of_another_kind_is_refused() {
    let bytes = encode(&json!({"apiVersion": "v1", "kind": "Service", "spec": {}})).unwrap();
    let e = decode(kind("v1", "Pod"), &bytes).unwrap_err();
    assert!(e.message.contains("converting (v1.Service) to (core.Pod)"), "{e}");
    assert_eq!(decode(kind("v1", "Pod"), b"{}").unwrap_err().code, 400);
}

#[test]
fn an_object_in_an_object_is_decoded_too() {
    let inner = encode(&json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}})).unwrap();
    let mut extension = Vec::new();
    wire::put_bytes(&mut extension, 1, &inner);
    let mut raw = Vec::new();
    wire::put_bytes(&mut raw, 2, &extension);
    wire::put_number(&mut raw, 3, 1);
    let bytes = encode::envelope("apps/v1", "ControllerRevision", &raw);
    let decoded = decode(kind("apps/v1", "ControllerRevision"), &bytes).unwrap();
    assert_eq!(decoded["data"]["data"], json!({"a": "b"}));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn garbage_is_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..80) {
        let kinds = Registry::builtin().kinds();
        let kind = &kinds[at % kinds.len()];
        let _any_outcome = decode(kind, &bytes);
        let sealed = encode::envelope(&kind.api_version(), &kind.kind, &bytes);
        let _any_outcome = decode(kind, &sealed);
    }

    #[test]
    fn a_damaged_message_is_an_error_and_never_a_panic(at in 0usize..400, to in any::<u8>()) {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "ports": [{"containerPort": 80}], "resources": {"limits": {"cpu": "1"}},
                "livenessProbe": {"httpGet": {"port": "x"}}}], "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}});
        let mut bytes = encode(&object).unwrap();
        let at = at % bytes.len();
        bytes[at] = to;
        let _any_outcome = decode(kind("v1", "Pod"), &bytes);
        bytes.truncate(at);
        let _any_outcome = decode(kind("v1", "Pod"), &bytes);
    }
}
