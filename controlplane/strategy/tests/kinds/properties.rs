//! What holds for every object, however odd: nothing panics, filling twice is filling once, and what is stored stays
//! valid.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use strake_machinery::Registry;

use crate::{created, kind, pod};

/// Field names that kinds look at, so that arbitrary objects reach deep.
const FIELDS: &[&str] = &[
    "metadata",
    "name",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "spec",
    "status",
    "template",
    "containers",
    "initContainers",
    "ephemeralContainers",
    "volumes",
    "image",
    "ports",
    "containerPort",
    "hostPort",
    "env",
    "valueFrom",
    "fieldRef",
    "fieldPath",
    "resources",
    "limits",
    "requests",
    "cpu",
    "memory",
    "volumeMounts",
    "mountPath",
    "livenessProbe",
    "httpGet",
    "port",
    "securityContext",
    "affinity",
    "nodeAffinity",
    "podAffinity",
    "tolerations",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "nodeSelectorTerms",
    "matchExpressions",
    "key",
    "operator",
    "values",
    "selector",
    "matchLabels",
    "strategy",
    "rollingUpdate",
    "maxSurge",
    "type",
    "clusterIP",
    "clusterIPs",
    "ipFamilies",
    "nodePort",
    "data",
    "stringData",
    "subsets",
    "addresses",
    "endpoints",
    "addressType",
    "rules",
    "verbs",
    "subjects",
    "roleRef",
    "schedule",
    "jobTemplate",
    "completions",
    "successPolicy",
    "succeededIndexes",
    "hard",
    "max",
    "min",
    "default",
    "webhooks",
    "clientConfig",
    "url",
    "versions",
    "schema",
    "openAPIV3Schema",
    "names",
    "projected",
    "sources",
    "secret",
    "conditions",
    "taints",
    "podCIDR",
    "podCIDRs",
    "hostPath",
    "path",
    "iscsi",
    "iqn",
    "topologySpreadConstraints",
    "matchLabelKeys",
    "labelSelector",
    "dnsConfig",
    "searches",
    "os",
    "runAsUserName",
    "windowsOptions",
    "metrics",
    "target",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "",
            "a",
            "A_b",
            "10.0.0.1",
            "::1",
            "10.0.0.0/8",
            "None",
            "IPv4",
            "25%",
            "1Gi",
            "-1",
            "1e400",
            "é.ü",
            "..",
            "a/../b",
            "Localhost",
            "Indexed",
            "1-2-3",
            "5-1",
            "iqn.2001-04.com.é:x",
            "metadata.labels['é']",
            "*.a",
            "naaé",
            "eui.é",
            "d\\u\\x",
            "https://[",
            "a:b:c",
            "localhost:é",
            "@every é",
            "* * * * é",
            "é/é",
            "9223372036854775807Ei",
        ])
        .prop_map(str::to_owned),
        "\\PC{0,12}",
    ]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop::sample::select(vec![0i64, 1, -1, 80, 70000, i64::MAX, i64::MIN]).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(7, 96, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(FIELDS), inner), 0..7).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>())
            }),
        ]
    })
}

/// Lays arbitrary values over a sensible object, so that checks are reached.
fn laid_over(base: &Value, odd: Value) -> Value {
    match (base, odd) {
        (Value::Object(b), Value::Object(o)) => {
            let mut out = b.clone();
            for (k, v) in o {
                let v = match b.get(&k) {
                    Some(below) => laid_over(below, v),
                    None => v,
                };
                out.insert(k, v);
            }
            Value::Object(out)
        }
        (_, odd) => odd,
    }
}

fn everything(kind: &strake_machinery::Kind, obj: &Value) {
    let mut o = obj.clone();
    let _ = strake_strategy::decode::check(kind, &o);
    strake_strategy::default(kind, &mut o);
    let once = o.clone();
    strake_strategy::default(kind, &mut o);
    assert_eq!(once, o, "filling {} twice", kind.kind);
    strake_strategy::prepare_create(kind, &mut o);
    strake_strategy::default(kind, &mut o);
    let _ = strake_strategy::validate_create(kind, &o);
    for part in ["", "status", "resize", "ephemeralcontainers", "finalize", "approval"] {
        let mut new = obj.clone();
        strake_strategy::prepare_update(kind, &mut new, &o, part);
        let _ = strake_strategy::validate_update(kind, &new, &o, part);
        let _ = strake_strategy::validate_update(kind, &o, &new, part);
    }
    let _ = strake_strategy::scale::read(kind, &o);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_json_never_panics(odd in value()) {
        for kind in Registry::builtin().kinds() {
            everything(kind, &odd);
            everything(kind, &laid_over(&json!({ "metadata": {}, "spec": {} }), odd.clone()));
        }
    }

    #[test]
    fn odd_pods_and_workloads_never_panic(odd in value()) {
        let container = json!({ "name": "c", "image": "i:1", "resources": { "limits": { "cpu": "1" } } });
        let spec = json!({ "containers": [container], "volumes": [{ "name": "v", "emptyDir": {} }] });
        everything(&kind("v1", "Pod"), &laid_over(&json!({ "spec": spec }), json!({ "spec": odd.clone() })));
        let template = json!({ "metadata": { "labels": { "a": "b" } }, "spec": spec });
        let work = json!({ "spec": { "selector": { "matchLabels": { "a": "b" } }, "template": template } });
        for name in ["Deployment", "DaemonSet", "StatefulSet", "ReplicaSet"] {
            everything(&kind("apps/v1", name), &laid_over(&work, json!({ "spec": odd.clone() })));
        }
        everything(&kind("batch/v1", "Job"), &laid_over(&work, json!({ "spec": odd.clone() })));
        let service = json!({ "spec": { "ports": [{ "port": 80 }] } });
        let mut svc = laid_over(&service, json!({ "spec": odd }));
        everything(&kind("v1", "Service"), &svc);
        let _ = strake_strategy::service_alloc::init_families(&mut svc, None, &[strake_strategy::service_alloc::Family::V4]);
        let _ = strake_strategy::service_alloc::wanted(&svc);
        let _ = strake_strategy::service_alloc::released(&svc, None);
    }

    #[test]
    fn a_stored_pod_applied_again_changes_nothing(labels in prop::collection::btree_map("[a-z]{1,5}", "[a-z]{0,5}", 0..4), cpu in 1u32..8) {
        let k = kind("v1", "Pod");
        let mut p = pod(json!({ "containers": [{ "name": "c", "image": "i", "resources": { "limits": { "cpu": cpu } } }] }));
        p["metadata"] = json!({ "labels": labels });
        let mut stored = created(&k, p);
        stored["metadata"]["resourceVersion"] = "1".into();
        let mut again = stored.clone();
        strake_strategy::prepare_update(&k, &mut again, &stored, "");
        prop_assert!(strake_strategy::is_no_op(&again, &stored));
        prop_assert!(strake_strategy::validate_update(&k, &again, &stored, "").is_empty());
    }
}
