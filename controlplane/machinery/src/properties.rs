//! What must hold for any input: nothing panics, and what is written can be read.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::quantity::Quantity;
use crate::registry::Kind;
use crate::selector::{FieldSelector, LabelSelector};
use crate::table::IncludeObject;
use crate::{Registry, apply, convert, patch, proto, scale, schema, table, time};

/// Keys that mean something to some kind or to a patch, so that random objects reach the interesting places.
const KEYS: &[&str] = &[
    "metadata",
    "spec",
    "status",
    "name",
    "labels",
    "finalizers",
    "managedFields",
    "template",
    "containers",
    "ports",
    "containerPort",
    "protocol",
    "conditions",
    "type",
    "items",
    "data",
    "volumes",
    "emptyDir",
    "env",
    "replicas",
    "selector",
    "matchLabels",
    "fieldsV1",
    "f:a",
    "k:{",
    "rules",
    "subsets",
    "endpoints",
    "addresses",
    "metrics",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$setElementOrder/finalizers",
    "$deleteFromPrimitiveList/finalizers",
    "apiVersion",
    "kind",
    "creationTimestamp",
    "phase",
    "containerStatuses",
    "state",
    "terminated",
    "x",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (0i64..3).prop_map(Value::from),
        prop_oneof![
            "[a-z]{0,3}",
            Just("delete".to_owned()),
            Just("replace".to_owned()),
            Just("1Gi".to_owned()),
            Just("2026-01-01T00:00:00Z".to_owned()),
            "\\PC{0,4}"
        ]
        .prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 48, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((0..KEYS.len(), inner), 0..6).prop_map(|pairs| {
                Value::Object(pairs.into_iter().map(|(k, v)| (KEYS[k].to_owned(), v)).collect::<Map<_, _>>())
            }),
        ]
    })
}

fn any_kind() -> impl Strategy<Value = &'static Kind> {
    let kinds = Registry::builtin().kinds();
    (0..kinds.len()).prop_map(move |i| &*kinds[i])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_object_and_no_patch_makes_anything_panic(kind in any_kind(), a in any_json(), b in any_json()) {
        let now = time::parse("2026-01-01T00:00:00Z").unwrap();
        let manager = apply::Manager { name: "m", subresource: "", now };
        let _any_outcome = patch::strategic(&kind.schema, &a, &b);
        let _any_outcome = patch::json(&a, &b);
        let _any_outcome = apply::apply(kind, Some(&a), &b, &manager, false);
        let _any_outcome = scale::from_object(kind, &a);
        let mut tracked = b.clone();
        apply::track(kind, Some(&a), &mut tracked, &manager);
        let mut merged = a.clone();
        patch::merge(&mut merged, &b);
        let mut converted = a.clone();
        let _any_outcome = convert::to_version(&mut converted, kind);
        table::table(kind, &[&a], Some(&b), IncludeObject::Metadata, now);
        let _any_outcome = LabelSelector::from_object(&a);
        let _any_outcome = Quantity::from_value(&a);
    }

    #[test]
    fn a_decoded_object_is_canonical_and_survives_protobuf(kind in any_kind(), a in any_json()) {
        let mut object = if a.is_object() { a } else { json!({"spec": a}) };
        for key in ["apiVersion", "kind"] {
            object.as_object_mut().unwrap().remove(key);
        }
        if let Ok(decoded) = schema::decode_value(kind, object) {
            let once = decoded.object;
            let twice = schema::decode_value(kind, once.clone()).unwrap();
            prop_assert_eq!(&twice.object, &once);
            prop_assert_eq!(twice.strict_errors, Vec::<String>::new());
            if let Ok(bytes) = proto::encode(&once) {
                proto::decode(kind, &bytes).unwrap();
            }
        }
    }

    #[test]
    fn applying_twice_is_applying_once(a in any_json(), b in any_json()) {
        let pod = Registry::builtin().by_type("v1", "Pod").unwrap();
        let now = time::parse("2026-01-01T00:00:00Z").unwrap();
        let manager = apply::Manager { name: "m", subresource: "", now };
        if let (Ok(live), Ok(config)) = (schema::decode_value(pod, a), schema::decode_value(pod, b))
            && let Ok(once) = apply::apply(pod, Some(&live.object), &config.object, &manager, true)
        {
            let twice = apply::apply(pod, Some(&once), &config.object, &manager, false).unwrap();
            prop_assert_eq!(twice, once);
        }
    }

    #[test]
    fn texts_are_read_or_refused(text in "\\PC{0,30}") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
        }
        if let Ok(selector) = FieldSelector::parse_any(&text) {
            prop_assert_eq!(FieldSelector::parse_any(&selector.to_string()).unwrap(), selector);
        }
        if let Ok(quantity) = text.parse::<Quantity>() {
            prop_assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity);
        }
        let _any_outcome = schema::parse_json(text.as_bytes());
    }

    #[test]
    fn selectors_survive_being_printed(text in "!?[a-c]{1,2}(=|==|!=| in | notin |>|<)?\\(?[a-c1,]{0,4}\\)?(,[a-c])?") {
        // A set of only the empty value prints as upstream prints it, which upstream does not read either.
        let printable = |s: &LabelSelector| s.requirements().iter().all(|r| r.values != [""] || r.to_string().ends_with('='));
        if let Some(selector) = LabelSelector::parse(&text).ok().filter(printable) {
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()).unwrap(), selector);
        }
    }

    #[test]
    fn quantities_survive_being_printed(text in "[+-]?[0-9]{0,12}(\\.[0-9]{0,10})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[0-9]|E-[0-9])?") {
        // Past 2^63 upstream keeps what is short, and cuts the same number written out.
        if let Some(quantity) = text.parse::<Quantity>().ok().filter(|q| q.as_f64().abs() < 9.2e18) {
            prop_assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity, "{}", text);
        }
    }
}
