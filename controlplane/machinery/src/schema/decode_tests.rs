//! Decoding JSON bodies by schema: what is refused, dropped and filled in.

use std::sync::Arc;

use super::*;

fn pod() -> &'static Arc<Kind> {
    Registry::builtin().by_type("v1", "Pod").unwrap()
}

fn secret() -> &'static Arc<Kind> {
    Registry::builtin().by_type("v1", "Secret").unwrap()
}

fn refused(kind: &Kind, body: &str) -> String {
    let e = decode_json(kind, body.as_bytes()).unwrap_err();
    assert_eq!(e.code, 400);
    e.message
}

#[test]
fn unknown_and_duplicate_fields_are_reported_with_their_paths() {
    let body = br#"{"metadata":{"name":"x"},"spec":{"containers":[{"name":"c","image":"i","imagee":"j"}],
        "foo":1,"restartPolicy":"Always","restartPolicy":"Never"}}"#;
    let decoded = decode_json(pod(), body).unwrap();
    assert_eq!(
        decoded.strict_errors,
        [
            "unknown field \"spec.containers[0].imagee\"",
            "unknown field \"spec.foo\"",
            "duplicate field \"spec.restartPolicy\""
        ]
    );
    assert_eq!(decoded.object["spec"]["restartPolicy"], "Never");
    assert_eq!(decoded.object["spec"].get("foo"), None);
    assert_eq!(
        strict_error(pod(), &decoded.strict_errors).message,
        "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: unknown field \
         \"spec.containers[0].imagee\", unknown field \"spec.foo\", duplicate field \"spec.restartPolicy\""
    );
}

#[test]
fn a_value_of_the_wrong_type_is_refused_as_go_refuses_it() {
    assert_eq!(
        refused(pod(), r#"{"spec":{"containers":"x"}}"#),
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field \
         PodSpec.spec.containers of type []v1.Container"
    );
    assert_eq!(
        refused(pod(), r#"{"spec":{"containers":[{"ports":[{"containerPort":"80"}]}]}}"#),
        "Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal string into Go struct field \
         ContainerPort.spec.containers.ports.containerPort of type int32"
    );
    assert!(refused(pod(), r#"{"spec":{"priority":1.5}}"#).contains("cannot unmarshal number 1.5 into"));
    assert!(refused(pod(), r#"{"metadata":{"labels":{"a":1}}}"#).contains("number into Go struct field ObjectMeta"));
    assert_eq!(
        refused(pod(), r#"{"spec":{"containers":[{"resources":{"limits":{"cpu":"1x"}}}]}}"#),
        "Pod in version \"v1\" cannot be handled as a Pod: quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    );
    assert_eq!(
        refused(secret(), r#"{"data":{"a":"!!"}}"#),
        "Secret in version \"v1\" cannot be handled as a Secret: illegal base64 data at input byte 0"
    );
}

#[test]
fn what_is_no_object_of_the_kind_is_refused() {
    let cm = Registry::builtin().by_type("v1", "ConfigMap").unwrap();
    assert_eq!(
        refused(cm, "{nope"),
        "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: \
         invalid character 'n' looking for beginning of object key string ({nope)"
    );
    assert_eq!(
        refused(pod(), r#"{"kind":"Service","apiVersion":"v1"}"#),
        "Service in version \"v1\" cannot be handled as a Pod: converting (v1.Service) to (core.Pod): unknown conversion"
    );
    assert!(refused(pod(), r#"{"kind":"Pode","apiVersion":"v1"}"#).contains("no kind \"Pode\" is registered"));
    let hpa = Registry::builtin().by_type("autoscaling/v2", "HorizontalPodAutoscaler").unwrap();
    assert_eq!(
        refused(hpa, r#"{"kind":"HorizontalPodAutoscaler","apiVersion":"autoscaling/v1"}"#),
        "the API version in the data (autoscaling/v1) does not match the expected API version (autoscaling/v2)"
    );
    assert!(refused(cm, "[]").contains("cannot unmarshal array into Go value"));
    assert!(refused(cm, "").ends_with("unexpected end of JSON input (<empty>)"));
}

#[test]
fn objects_take_the_form_go_would_write() {
    let body = json!({
        "metadata": {"name": "x", "labels": {}, "creationTimestamp": null, "namespace": ""},
        "spec": {
            "hostNetwork": false, "nodeName": "", "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false,
            "containers": [{"name": "c", "command": [], "tty": false,
                "resources": {"limits": {"cpu": 0.5, "memory": "1024Ki"}},
                "securityContext": {"privileged": false, "runAsUser": 0}}],
            "volumes": [{"name": "v", "emptyDir": {}}]
        }
    });
    let decoded = decode_json(pod(), body.to_string().as_bytes()).unwrap();
    assert_eq!(decoded.strict_errors, [""; 0]);
    assert_eq!(
        decoded.object,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "x"},
            "spec": {
                "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
                "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Mi"}},
                    "securityContext": {"privileged": false, "runAsUser": 0}}],
                "volumes": [{"name": "v", "emptyDir": {}}]
            },
            "status": {}
        })
    );
    let mut again = decoded.object.clone();
    normalize(pod(), &mut again).unwrap();
    assert_eq!(again, decoded.object);
}

#[test]
fn structs_that_are_no_pointers_are_always_there() {
    let service = Registry::builtin().by_type("v1", "Service").unwrap();
    let decoded = decode_json(service, b"{}").unwrap();
    assert_eq!(
        decoded.object,
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": {}, "status": {"loadBalancer": {}}})
    );
}

#[test]
fn times_are_brought_to_utc() {
    let lease = Registry::builtin().by_type("coordination.k8s.io/v1", "Lease").unwrap();
    let decoded =
        decode_json(lease, br#"{"spec":{"renewTime":"2026-01-01T02:00:00.5+01:00","holderIdentity":"n"}}"#).unwrap();
    assert_eq!(decoded.object["spec"]["renewTime"], "2026-01-01T01:00:00.500000Z");
    assert!(refused(lease, r#"{"spec":{"renewTime":"soon"}}"#).contains("parsing time \"soon\""));
}

#[test]
fn pruning_drops_only_what_is_unknown() {
    let mut o = json!({"spec": {"foo": 1, "nodeName": "", "containers": [{"bar": 1, "name": "c"}]}, "x": {}});
    assert_eq!(
        unknown_fields(pod(), &o),
        ["unknown field \"spec.containers[0].bar\"", "unknown field \"spec.foo\"", "unknown field \"x\""]
    );
    prune(pod(), &mut o);
    assert_eq!(o, json!({"spec": {"nodeName": "", "containers": [{"name": "c"}]}}));
}

#[test]
fn schemas_in_schemas_are_walked() {
    let crd = Registry::builtin().by_type("apiextensions.k8s.io/v1", "CustomResourceDefinition").unwrap();
    let body = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {
        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"a": {"type": "array", "items": {"type": "string", "nope": 1}},
            "b": {"additionalProperties": true, "default": {"any": [1, null]}}}}}}]}});
    let decoded = decode_json(crd, body.to_string().as_bytes()).unwrap();
    assert_eq!(
        decoded.strict_errors,
        ["unknown field \"spec.versions[0].schema.openAPIV3Schema.properties.a.items.nope\""]
    );
    let props = &decoded.object["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    assert_eq!(props["b"], json!({"additionalProperties": true, "default": {"any": [1, null]}}));
}

#[test]
fn messages_that_are_no_kinds_decode_by_name() {
    let options = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
    let d =
        decode_json_as(options, br#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0,"x":1}"#).unwrap();
    assert_eq!(d.object["gracePeriodSeconds"], 0);
    assert_eq!(d.strict_errors, ["unknown field \"x\""]);
    assert!(decode_json_as(options, b"3").is_err());
}
