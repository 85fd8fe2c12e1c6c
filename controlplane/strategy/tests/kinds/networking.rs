//! EndpointSlices, NetworkPolicies, Ingresses, ServiceCIDRs.

use serde_json::{Value, json};

use crate::{created, kind, refused, updated};

fn slice(more: Value) -> Value {
    let mut s =
        json!({ "addressType": "IPv4", "endpoints": [{ "addresses": ["10.0.0.1"] }], "ports": [{ "port": 80 }] });
    for (k, v) in more.as_object().unwrap() {
        s[k] = v.clone();
    }
    s
}

#[test]
fn an_endpoint_slices_addresses_are_of_its_type() {
    let k = kind("discovery.k8s.io/v1", "EndpointSlice");
    assert!(refused(&k, slice(json!({}))).is_empty());
    assert_eq!(
        refused(&k, slice(json!({ "addressType": "IPv6" }))),
        ["endpoints[0].addresses: Invalid value: \"10.0.0.1\": must be an IPv6 address"]
    );
    assert_eq!(
        refused(&k, slice(json!({ "addressType": "IP", "endpoints": [{ "addresses": [] }] }))),
        [
            "addressType: Unsupported value: \"IP\": supported values: \"FQDN\", \"IPv4\", \"IPv6\"",
            "endpoints[0].addresses: Required value: must contain at least 1 address",
        ]
    );
    let many: Vec<Value> =
        (0..1001).map(|i| json!({ "addresses": [format!("10.0.{}.{}", i / 250, i % 250 + 1)] })).collect();
    assert_eq!(
        refused(&k, slice(json!({ "endpoints": many }))),
        ["endpoints: Too many: 1001: must have at most 1000 items"]
    );
}

#[test]
fn an_endpoint_slices_ports_are_named_apart() {
    let k = kind("discovery.k8s.io/v1", "EndpointSlice");
    assert_eq!(
        refused(&k, slice(json!({ "ports": [{ "port": 80 }, { "port": 81, "protocol": "ICMP" }] }))),
        [
            "ports[1].name: Duplicate value: \"\"",
            "ports[1].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ]
    );
}

#[test]
fn an_endpoint_slices_type_stays_and_its_generation_follows_its_content() {
    let k = kind("discovery.k8s.io/v1", "EndpointSlice");
    let old = created(&k, slice(json!({})));
    let (_, errors) = updated(&k, &old, "", |s| {
        s["addressType"] = "FQDN".into();
        s["endpoints"][0]["addresses"] = json!(["a.example"]);
    });
    assert_eq!(errors, ["addressType: Invalid value: \"FQDN\": field is immutable"]);
    let generation = |change: fn(&mut Value)| updated(&k, &old, "", change).0["metadata"]["generation"].as_i64();
    assert_eq!(generation(|s| s["endpoints"][0]["conditions"]["ready"] = true.into()), Some(2));
    assert_eq!(generation(|s| s["metadata"]["labels"] = json!({ "a": "b" })), Some(2));
    assert_eq!(generation(|s| s["metadata"]["annotations"] = json!({ "a": "b" })), Some(1));
}

#[test]
fn a_policy_is_about_egress_if_it_has_rules_for_it() {
    let k = kind("networking.k8s.io/v1", "NetworkPolicy");
    let types = |spec: Value| created(&k, json!({ "spec": spec }))["spec"]["policyTypes"].clone();
    assert_eq!(types(json!({})), json!(["Ingress"]));
    assert_eq!(types(json!({ "egress": [{}] })), json!(["Ingress", "Egress"]));
    assert_eq!(types(json!({ "egress": [], "policyTypes": ["Egress"] })), json!(["Egress"]));
}

#[test]
fn policy_peers_and_ports_are_complete() {
    let k = kind("networking.k8s.io/v1", "NetworkPolicy");
    let ingress = json!([{
        "from": [{}, { "ipBlock": { "cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"] }, "podSelector": {} }],
        "ports": [{ "endPort": 5 }, { "port": 10, "endPort": 5 }, { "port": "http", "endPort": 5 }],
    }]);
    assert_eq!(
        refused(&k, json!({ "spec": { "ingress": ingress } })),
        [
            "spec.ingress[0].ports[0].endPort: Invalid value: 5: may not be specified when `port` is not specified",
            "spec.ingress[0].ports[1].endPort: Invalid value: 5: must be greater than or equal to `port`",
            "spec.ingress[0].ports[2].endPort: Invalid value: 5: may not be specified when `port` is non-numeric",
            "spec.ingress[0].from[0]: Required value: must specify a peer",
            "spec.ingress[0].from[1].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
            "spec.ingress[0].from[1]: Forbidden: may not specify both ipBlock and another peer",
        ]
    );
}

#[test]
fn an_ingress_leads_somewhere() {
    let k = kind("networking.k8s.io/v1", "Ingress");
    let backend = json!({ "service": { "name": "web", "port": { "name": "http" } } });
    let path = |p: &str, t: &str| json!({ "path": p, "pathType": t, "backend": backend });
    let rules =
        |paths: Value, host: &str| json!({ "spec": { "rules": [{ "host": host, "http": { "paths": paths } }] } });
    assert!(refused(&k, rules(json!([path("/", "Prefix")]), "*.example.com")).is_empty());
    assert_eq!(
        refused(&k, json!({ "spec": {} })),
        ["spec: Invalid value: \"null\": either `defaultBackend` or `rules` must be specified"]
    );
    assert_eq!(
        refused(&k, rules(json!([path("a//b", "Exact"), { "path": "/", "backend": {} }]), "10.0.0.1")),
        [
            "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
            "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must be an absolute path",
            "spec.rules[0].http.paths[0].path: Invalid value: \"a//b\": must not contain '//'",
            "spec.rules[0].http.paths[1].pathType: Required value: pathType must be specified",
        ]
    );
}

#[test]
fn an_ingress_class_is_for_one_controller() {
    let k = kind("networking.k8s.io/v1", "IngressClass");
    let class = json!({ "spec": { "controller": "example.com/ingress" } });
    assert!(refused(&k, class.clone()).is_empty());
    let (_, errors) = updated(&k, &created(&k, class), "", |c| c["spec"]["controller"] = "example.com/other".into());
    assert_eq!(errors, ["spec.controller: Invalid value: \"example.com/other\": field is immutable"]);
}

#[test]
fn a_service_cidr_only_grows_by_the_other_family() {
    let k = kind("networking.k8s.io/v1", "ServiceCIDR");
    let old = created(&k, json!({ "spec": { "cidrs": ["10.96.0.0/16"] } }));
    let (_, errors) = updated(&k, &old, "", |c| c["spec"]["cidrs"] = json!(["10.96.0.0/16", "2001:db8::/112"]));
    assert!(errors.is_empty(), "{errors:?}");
    let (_, errors) = updated(&k, &old, "", |c| c["spec"]["cidrs"] = json!(["10.97.0.0/16"]));
    assert_eq!(errors, ["spec.cidrs[0]: Invalid value: \"10.97.0.0/16\": field is immutable"]);
}
