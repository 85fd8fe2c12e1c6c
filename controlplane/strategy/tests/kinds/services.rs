//! Services: defaults, allocation, updates, refusals.

use serde_json::{Value, json};
use strake_strategy::service_alloc::{self as alloc, Family, NodePort};

use crate::{created, kind, told, updated};

fn service(spec: Value) -> Value {
    json!({ "spec": spec })
}

/// A stored Service: 10.96.0.7, node ports from 30001, health port 30100.
fn stored(spec: Value) -> Value {
    let mut s = created(&kind("v1", "Service"), service(spec));
    allocate(&mut s);
    s
}

fn allocate(s: &mut Value) {
    alloc::init_families(s, None, &[Family::V4]).unwrap();
    let w = alloc::wanted(s);
    let ips: Vec<String> =
        w.cluster_ips.iter().map(|(_, ip)| ip.clone().unwrap_or_else(|| "10.96.0.7".into())).collect();
    alloc::set_cluster_ips(s, &ips);
    for (i, p) in w.node_ports.iter().enumerate() {
        alloc::set_node_port(s, p.index, p.port.map_or(30001 + i as u16, |n| n as u16));
    }
    if let Some(h) = w.health_port {
        alloc::set_health_port(s, h.unwrap_or(30100));
    }
}

fn refused(spec: Value) -> Vec<String> {
    told(strake_strategy::validate_create(&kind("v1", "Service"), &stored(spec)))
}

const PORT: &str = r#"[{"port":80}]"#;

fn ports() -> Value {
    serde_json::from_str(PORT).unwrap()
}

#[test]
fn ordinary_services_of_every_type_are_accepted() {
    for spec in [
        json!({ "ports": ports(), "selector": { "a": "b" } }),
        json!({ "type": "NodePort", "ports": ports() }),
        json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": ports(), "loadBalancerSourceRanges": ["10.0.0.0/8"] }),
        json!({ "clusterIP": "None", "selector": { "a": "b" } }),
        json!({ "type": "ExternalName", "externalName": "db.example." }),
        json!({ "ports": ports(), "externalIPs": ["192.0.2.1"], "sessionAffinity": "ClientIP" }),
    ] {
        assert!(refused(spec.clone()).is_empty(), "{spec}: {:?}", refused(spec.clone()));
    }
}

#[test]
fn a_service_may_begin_with_a_digit() {
    let mut s = stored(json!({ "ports": ports() }));
    s["metadata"]["name"] = "1st".into();
    assert!(strake_strategy::validate_create(&kind("v1", "Service"), &s).is_empty());
}

#[test]
fn wanted_tells_what_to_allocate() {
    let k = kind("v1", "Service");
    let want = |spec| {
        let mut s = created(&k, service(spec));
        alloc::init_families(&mut s, None, &[Family::V4]).unwrap();
        alloc::wanted(&s)
    };
    let w = want(
        json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{ "port": 80, "nodePort": 31000, "name": "a" }, { "port": 81, "name": "b" }] }),
    );
    assert_eq!(w.cluster_ips, [(Family::V4, None)]);
    let tcp = |index, port| NodePort { index, protocol: "TCP".into(), port };
    assert_eq!(w.node_ports, [tcp(0, Some(31000)), tcp(1, None)]);
    assert_eq!(w.health_port, Some(None));
    assert_eq!(
        want(json!({ "clusterIP": "10.96.1.1", "ports": ports() })).cluster_ips,
        [(Family::V4, Some("10.96.1.1".into()))]
    );
    assert_eq!(want(json!({ "clusterIP": "None", "selector": { "a": "b" } })), alloc::Wanted::default());
    assert_eq!(want(json!({ "type": "ExternalName", "externalName": "a.b" })), alloc::Wanted::default());
    let none = json!({ "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": ports() });
    assert!(want(none).node_ports.is_empty());
}

#[test]
fn families_must_be_the_clusters() {
    let k = kind("v1", "Service");
    let why = |spec| {
        let mut s = created(&k, service(spec));
        told(alloc::init_families(&mut s, None, &[Family::V4]).unwrap_err())
    };
    assert_eq!(
        why(json!({ "ipFamilies": ["IPv6"], "ports": ports() })),
        ["spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster"]
    );
    assert_eq!(
        why(json!({ "ipFamilyPolicy": "RequireDualStack", "ports": ports() })),
        [
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services"
        ]
    );
    let mut s = created(&k, service(json!({ "ipFamilyPolicy": "PreferDualStack", "ports": ports() })));
    alloc::init_families(&mut s, None, &[Family::V4, Family::V6]).unwrap();
    assert_eq!(s["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
}

#[test]
fn families_change_only_when_the_policy_says_so() {
    let k = kind("v1", "Service");
    let both = [Family::V4, Family::V6];
    let dual = |mut s: Value| {
        alloc::init_families(&mut s, None, &both).unwrap();
        alloc::set_cluster_ips(&mut s, &["10.96.0.7".into(), "fd00::7".into()]);
        s
    };
    let old = dual(created(&k, service(json!({ "ipFamilyPolicy": "PreferDualStack", "ports": ports() }))));
    let after = |change: &dyn Fn(&mut Value), cluster: &[Family]| {
        let (mut new, errors) = updated(&k, &old, "", change);
        assert!(errors.is_empty() || !new["spec"]["clusterIPs"].is_null(), "{errors:?}");
        alloc::init_families(&mut new, Some(&old), cluster).map(|()| new["spec"].clone()).map_err(told)
    };
    // Nothing asked for: nothing changes, not even where the cluster has lost a family.
    let same = after(&|s| s["spec"]["selector"] = json!({ "a": "b" }), &[Family::V4]).unwrap();
    assert_eq!(same["clusterIPs"], json!(["10.96.0.7", "fd00::7"]));
    // One family asked for: the second goes.
    let single = after(&|s| s["spec"]["ipFamilyPolicy"] = "SingleStack".into(), &both).unwrap();
    assert_eq!((&single["clusterIPs"], &single["ipFamilies"]), (&json!(["10.96.0.7"]), &json!(["IPv4"])));
    // The second merely left out.
    let why = |field: &str, first: &str| after(&|s| s["spec"][field] = json!([first]), &both).unwrap_err();
    let says =
        "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be 'SingleStack' to release the secondary";
    assert_eq!(why("clusterIPs", "10.96.0.7"), [format!("{says} cluster IP")]);
    assert_eq!(why("ipFamilies", "IPv4"), [format!("{says} IP family")]);
}

#[test]
fn the_manifest_that_made_a_service_applies_again() {
    let k = kind("v1", "Service");
    let old = stored(json!({ "type": "NodePort", "ports": ports(), "selector": { "a": "b" } }));
    let (new, errors) = updated(&k, &old, "", |s| {
        s["spec"] = json!({ "type": "NodePort", "ports": ports(), "selector": { "a": "c" } });
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(new["spec"]["clusterIP"], "10.96.0.7");
    assert_eq!(new["spec"]["clusterIPs"], json!(["10.96.0.7"]));
    assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
    assert_eq!(new["spec"]["selector"]["a"], "c");
}

#[test]
fn a_cluster_ip_may_not_change() {
    let k = kind("v1", "Service");
    let (_, errors) = updated(&k, &stored(json!({ "ports": ports() })), "", |s| {
        s["spec"]["clusterIP"] = "10.96.0.8".into();
    });
    assert_eq!(errors, ["spec.clusterIPs[0]: Invalid value: [\"10.96.0.8\"]: may not change once set"]);
}

#[test]
fn a_changed_type_releases_what_it_no_longer_needs() {
    let k = kind("v1", "Service");
    let old = stored(json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": ports() }));
    let (new, errors) = updated(&k, &old, "", |s| s["spec"]["type"] = "ClusterIP".into());
    assert!(errors.is_empty(), "{errors:?}");
    for field in ["healthCheckNodePort", "externalTrafficPolicy", "allocateLoadBalancerNodePorts"] {
        assert!(new["spec"].get(field).is_none(), "{field}");
    }
    assert!(new["spec"]["ports"][0].get("nodePort").is_none());
    let (ips, freed) = alloc::released(&old, Some(&new));
    assert!(ips.is_empty());
    assert_eq!(freed.into_iter().collect::<Vec<_>>(), [("TCP".to_owned(), 30001), ("TCP".to_owned(), 30100)]);

    let (named, errors) = updated(&k, &new, "", |s| {
        s["spec"]["type"] = "ExternalName".into();
        s["spec"]["externalName"] = "a.example".into();
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert!(named["spec"].get("clusterIP").is_none() && named["spec"].get("ipFamilies").is_none());
    assert_eq!(alloc::released(&new, Some(&named)).0.into_iter().collect::<Vec<_>>(), ["10.96.0.7"]);
    assert_eq!(alloc::released(&new, None).0.len(), 1);
}

#[test]
fn what_is_allocated_may_still_be_missing_when_checked() {
    let k = kind("v1", "Service");
    for kind_of in ["ClusterIP", "NodePort", "LoadBalancer"] {
        let mut spec = json!({ "type": kind_of, "ports": ports() });
        if kind_of != "ClusterIP" {
            spec["externalTrafficPolicy"] = "Local".into();
        }
        assert_eq!(crate::refused(&k, json!({ "spec": spec })), Vec::<String>::new(), "{kind_of}");
    }
    let plain = stored(json!({ "ports": ports() }));
    let (_, errors) = updated(&k, &plain, "", |s| {
        s["spec"]["type"] = "LoadBalancer".into();
        s["spec"]["externalTrafficPolicy"] = "Local".into();
    });
    assert_eq!(errors, Vec::<String>::new());
    let (_, errors) = updated(&k, &stored(json!({ "type": "ExternalName", "externalName": "a.example" })), "", |s| {
        s["spec"] = json!({ "type": "ClusterIP", "ports": ports() });
    });
    assert_eq!(errors, Vec::<String>::new());
}

#[test]
fn no_spec_is_an_empty_one() {
    assert_eq!(crate::refused(&kind("v1", "Service"), json!({})), ["spec.ports: Required value"]);
    for (version, name, has) in [("v1", "ConfigMap", false), ("v1", "Node", true), ("apps/v1", "Deployment", true)] {
        let mut obj = json!({ "metadata": { "name": "x" } });
        strake_strategy::default(&kind(version, name), &mut obj);
        assert_eq!(obj.get("spec").is_some(), has, "{name}");
    }
}

#[test]
fn contradictions_are_refused() {
    for (spec, expected) in [
        (
            json!({ "ports": [{ "port": 0, "targetPort": "Not_A_Name" }] }),
            vec![
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: \"Not_A_Name\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            ],
        ),
        (
            json!({ "ports": [{ "port": 80, "name": "a" }, { "port": 81, "name": "a" }] }),
            vec!["spec.ports[1].name: Duplicate value: \"a\""],
        ),
        (
            json!({ "ports": [{ "port": 80, "nodePort": 30000 }] }),
            vec!["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
        ),
        (
            json!({ "ports": ports(), "externalIPs": ["127.0.0.1"] }),
            vec![
                "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ],
        ),
        (
            json!({ "ports": ports(), "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 0 } } }),
            vec![
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 0: must be greater than 0 and less than 86400",
            ],
        ),
        (
            json!({ "ports": ports(), "loadBalancerSourceRanges": ["10.0.0.1/8"] }),
            vec![
                "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.LoadBalancerSourceRanges[0]: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length",
            ],
        ),
        (
            json!({ "type": "NodePort", "clusterIP": "None", "ports": ports(), "selector": { "a": "b" } }),
            vec!["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"],
        ),
        (
            json!({ "ports": ports(), "trafficDistribution": "Nearest" }),
            vec![
                "spec.trafficDistribution: Unsupported value: \"Nearest\": supported values: \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\"",
            ],
        ),
    ] {
        assert_eq!(refused(spec), expected);
    }
}

#[test]
fn a_load_balancer_reports_addresses_only_for_its_type() {
    let k = kind("v1", "Service");
    let ingress = json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.1", "ipMode": "VIP" }] } });
    let (_, errors) = updated(&k, &stored(json!({ "ports": ports() })), "status", |s| s["status"] = ingress.clone());
    assert_eq!(errors, ["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]);
    let (new, errors) = updated(&k, &stored(json!({ "type": "LoadBalancer", "ports": ports() })), "status", |s| {
        s["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } });
        s["spec"]["type"] = "ClusterIP".into();
    });
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(new["status"], ingress);
    assert_eq!(new["spec"]["type"], "LoadBalancer");
}

#[test]
fn allocation_failures_are_told_at_their_field() {
    let s = stored(json!({ "ports": ports() }));
    assert_eq!(
        alloc::node_port_refused(1, 80, (30000, 32767)).to_string(),
        "spec.ports[1].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
    );
    assert_eq!(
        alloc::ip_refused(&s, "10.96.0.7", "provided IP is already allocated").to_string(),
        "spec.clusterIPs: Invalid value: [\"10.96.0.7\"]: failed to allocate IP 10.96.0.7: provided IP is already allocated"
    );
}
