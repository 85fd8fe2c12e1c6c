//! Services in clusters of one family and of two: which addresses they get, keep and give back, and what is refused.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kube::Client;
use serde_json::{Value, json};

use crate::server::{TestServer, send};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const CIDR: &str = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";
const V6: &str = "fd00:10:96::/112";

async fn dual() -> TestServer {
    dual_in(tempfile::tempdir().unwrap()).await
}

async fn dual_in(dir: tempfile::TempDir) -> TestServer {
    TestServer::start_with(dir, |config| config.secondary_service_cidr = Some(V6.parse().unwrap())).await
}

async fn post(client: &Client, name: &str, spec: Value) -> (u16, Value) {
    let mut spec = spec;
    if spec["type"] != "ExternalName" {
        spec["ports"] = json!([{"port": 80}]);
    }
    send(client, "POST", SERVICES, Some(json!({"metadata": {"name": name}, "spec": spec}))).await
}

async fn made(client: &Client, name: &str, spec: Value) -> Value {
    let (code, answer) = post(client, name, spec).await;
    assert_eq!(code, 201, "{answer}");
    answer["spec"].clone()
}

async fn patched(client: &Client, name: &str, spec: Value) -> Value {
    let (code, answer) = send(client, "PATCH", &format!("{SERVICES}/{name}"), Some(json!({"spec": spec}))).await;
    assert_eq!(code, 200, "{answer}");
    answer["spec"].clone()
}

/// What follows `Service "NAME" is invalid: `.
async fn refused(client: &Client, spec: Value) -> String {
    let (code, answer) = post(client, "x", spec).await;
    assert_eq!(code, 422, "{answer}");
    told(&answer)
}

fn told(answer: &Value) -> String {
    let message = answer["message"].as_str().unwrap();
    message.split_once(" is invalid: ").unwrap_or_else(|| panic!("{message}")).1.to_owned()
}

/// Policy, families, and whose range each address is in; the first address must be `clusterIP`.
fn shape(spec: &Value) -> (String, Vec<String>, Vec<&'static str>) {
    let ips: Vec<&str> = spec["clusterIPs"].as_array().into_iter().flatten().map(|ip| ip.as_str().unwrap()).collect();
    assert_eq!(spec["clusterIP"].as_str(), ips.first().copied(), "{spec}");
    let range = |ip: &&str| {
        let Ok(ip) = ip.parse::<IpAddr>() else { return "no address" };
        let of = |range: &str| range.parse::<IpNetwork>().unwrap().contains(ip);
        if of("10.96.0.0/16") {
            "v4"
        } else if of(V6) {
            "v6"
        } else {
            "outside"
        }
    };
    let families =
        spec["ipFamilies"].as_array().into_iter().flatten().map(|f| f.as_str().unwrap().to_owned()).collect();
    (spec["ipFamilyPolicy"].as_str().unwrap_or_default().to_owned(), families, ips.iter().map(range).collect())
}

fn is(policy: &str, families: &[&str], ranges: &[&'static str]) -> (String, Vec<String>, Vec<&'static str>) {
    (policy.to_owned(), families.iter().map(|f| (*f).to_owned()).collect(), ranges.to_vec())
}

#[tokio::test]
async fn a_dual_stack_cluster_gives_what_the_policy_asks_for() {
    let server = dual().await;
    let admin = server.admin();
    let (both, turned) = (["IPv4", "IPv6"], ["IPv6", "IPv4"]);
    for (name, spec, expected) in [
        ("a", json!({}), is("SingleStack", &["IPv4"], &["v4"])),
        ("b", json!({"ipFamilies": ["IPv6"]}), is("SingleStack", &["IPv6"], &["v6"])),
        ("c", json!({"ipFamilyPolicy": "PreferDualStack"}), is("PreferDualStack", &both, &["v4", "v6"])),
        ("d", json!({"ipFamilyPolicy": "RequireDualStack"}), is("RequireDualStack", &both, &["v4", "v6"])),
        (
            "e",
            json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"], "type": "NodePort"}),
            is("PreferDualStack", &turned, &["v6", "v4"]),
        ),
        (
            "f",
            json!({"ipFamilyPolicy": "RequireDualStack", "clusterIP": "fd00:10:96::f", "clusterIPs": ["fd00:10:96::f", "10.96.0.15"]}),
            is("RequireDualStack", &turned, &["v6", "v4"]),
        ),
        (
            "g",
            json!({"ipFamilyPolicy": "PreferDualStack", "clusterIP": "fd00:10:96::0:1f"}),
            is("PreferDualStack", &turned, &["v6", "v4"]),
        ),
        (
            "h",
            json!({"clusterIP": "None", "ipFamilyPolicy": "PreferDualStack", "selector": {"a": "b"}}),
            is("PreferDualStack", &both, &["no address"]),
        ),
        ("i", json!({"clusterIP": "None", "selector": {"a": "b"}}), is("SingleStack", &["IPv4"], &["no address"])),
        ("j", json!({"clusterIP": "None"}), is("RequireDualStack", &both, &["no address"])),
    ] {
        let spec = made(&admin, name, spec).await;
        assert_eq!(shape(&spec), expected, "{name}: {spec}");
    }
    let (_, g) = send(&admin, "GET", &format!("{SERVICES}/g"), None).await;
    assert_eq!(g["spec"]["clusterIPs"][0], "fd00:10:96::1f", "stored as it is written canonically");
    let (_, cidr) = send(&admin, "GET", CIDR, None).await;
    assert_eq!(cidr["spec"]["cidrs"], json!(["10.96.0.0/16", V6]));
    let (_, kubernetes) = send(&admin, "GET", &format!("{SERVICES}/kubernetes"), None).await;
    assert_eq!(shape(&kubernetes["spec"]), is("SingleStack", &["IPv4"], &["v4"]), "as stock keeps it");
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_the_stock_words() {
    let server = TestServer::start().await;
    let admin = server.admin();
    for (spec, expected) in [
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (
            json!({"clusterIP": "fd00:10:96::1"}),
            "spec.clusterIPs[0]: Invalid value: [\"fd00:10:96::1\"]: IPv6 is not configured on this cluster",
        ),
        (
            json!({"clusterIP": "1.2.3.4"}),
            "spec.clusterIPs: Invalid value: [\"1.2.3.4\"]: failed to allocate IP 1.2.3.4: the provided network does not match the current range",
        ),
    ] {
        assert_eq!(refused(&admin, spec).await, expected);
    }
    // What asks for both if it can be, and endpoints given by hand, need no second range.
    let both = ["IPv4", "IPv6"];
    let preferred = made(&admin, "p", json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    assert_eq!(shape(&preferred), is("PreferDualStack", &["IPv4"], &["v4"]));
    let by_hand = made(&admin, "h", json!({"clusterIP": "None"})).await;
    assert_eq!(shape(&by_hand), is("RequireDualStack", &both, &["no address"]));
    let (_, cidr) = send(&admin, "GET", CIDR, None).await;
    assert_eq!(cidr["spec"]["cidrs"], json!(["10.96.0.0/16"]));

    let server = dual().await;
    let admin = server.admin();
    made(&admin, "first", json!({"ipFamilies": ["IPv6"], "clusterIP": "fd00:10:96::9"})).await;
    for (spec, expected) in [
        (
            json!({"clusterIP": "fd00:10:96::9"}),
            "spec.clusterIPs: Invalid value: [\"fd00:10:96::9\"]: failed to allocate IP fd00:10:96::9: provided IP is already allocated",
        ),
        (
            json!({"clusterIP": "fd00:10:97::9"}),
            "spec.clusterIPs: Invalid value: [\"fd00:10:97::9\"]: failed to allocate IP fd00:10:97::9: the provided network does not match the current range",
        ),
        (
            json!({"ipFamilies": ["IPv4", "IPv6"]}),
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
        ),
        (
            json!({"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20", "fd00:10:96::20"]}),
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified",
        ),
        (
            json!({"clusterIP": "10.96.0.20", "ipFamilies": ["IPv6"]}),
            "spec.clusterIPs[0]: Invalid value: \"10.96.0.20\": expected an IPv6 value as indicated by `ipFamilies[0]`",
        ),
        (
            json!({"ipFamilyPolicy": "Both"}),
            "spec.ipFamilyPolicy: Unsupported value: \"Both\": supported values: \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
        ),
    ] {
        assert_eq!(refused(&admin, spec).await, expected);
    }
    // A refused Service has taken nothing.
    made(&admin, "free", json!({"clusterIP": "10.96.0.20"})).await;
}

#[tokio::test]
async fn a_service_gains_and_releases_its_second_address() {
    let server = dual().await;
    let admin = server.admin();
    let single = made(&admin, "web", json!({})).await;
    let grown = patched(&admin, "web", json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    assert_eq!(shape(&grown), is("PreferDualStack", &["IPv4", "IPv6"], &["v4", "v6"]));
    assert_eq!(grown["clusterIP"], single["clusterIP"], "the first address stays");

    // The second is not given up by leaving it out, only by asking for one family.
    let path = format!("{SERVICES}/web");
    let (code, answer) = send(&admin, "PATCH", &path, Some(json!({"spec": {"ipFamilies": ["IPv4"]}}))).await;
    assert_eq!(code, 422);
    assert_eq!(
        told(&answer),
        "spec.ipFamilyPolicy: Invalid value: \"PreferDualStack\": must be 'SingleStack' to release the secondary IP family"
    );
    // Nor is either changed for another.
    let other = json!({"spec": {"clusterIPs": [grown["clusterIP"], "fd00:10:96::77"]}});
    let (code, answer) = send(&admin, "PATCH", &path, Some(other)).await;
    assert_eq!((code, told(&answer).ends_with("may not change once set")), (422, true), "{answer}");
    made(&admin, "seven", json!({"clusterIP": "fd00:10:96::77"})).await;

    let second = grown["clusterIPs"][1].clone();
    let shrunk = patched(&admin, "web", json!({"ipFamilyPolicy": "SingleStack"})).await;
    assert_eq!(shape(&shrunk), is("SingleStack", &["IPv4"], &["v4"]));
    assert_eq!(shrunk["clusterIP"], single["clusterIP"]);
    let taken_over = made(&admin, "next", json!({"clusterIP": second})).await;
    assert_eq!(taken_over["clusterIPs"], json!([second]), "the released address is free");

    // And the whole way to a mere name and back.
    let named = json!({"type": "ExternalName", "externalName": "a.example", "ports": null});
    patched(&admin, "web", json!({"ipFamilyPolicy": "RequireDualStack"})).await;
    let named = patched(&admin, "web", named).await;
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert!(named.get(field).is_none(), "{field}: {named}");
    }
    made(&admin, "heir", json!({"clusterIP": single["clusterIP"]})).await;
    let back = json!({"type": "ClusterIP", "externalName": null, "ports": [{"port": 80}]});
    assert_eq!(shape(&patched(&admin, "web", back).await), is("SingleStack", &["IPv4"], &["v4"]));
}

#[tokio::test]
async fn a_deleted_service_gives_back_both_addresses_and_a_restart_knows_them() {
    let server = dual().await;
    let ips = json!(["10.96.0.40", "fd00:10:96::40"]);
    let spec = json!({"ipFamilyPolicy": "RequireDualStack", "clusterIP": "10.96.0.40", "clusterIPs": ips});
    made(&server.admin(), "web", spec.clone()).await;
    let server = dual_in(server.end().await).await;
    let admin = server.admin();
    for ip in ["10.96.0.40", "fd00:10:96::40"] {
        assert!(refused(&admin, json!({"clusterIP": ip})).await.ends_with("provided IP is already allocated"));
    }
    let (code, _) = send(&admin, "DELETE", &format!("{SERVICES}/web"), None).await;
    assert_eq!(code, 200);
    assert_eq!(made(&admin, "again", spec).await["clusterIPs"], ips);
}

#[tokio::test]
async fn a_cluster_gains_a_family_while_its_services_live() {
    let server = TestServer::start().await;
    let old = made(&server.admin(), "web", json!({"ipFamilyPolicy": "PreferDualStack"})).await;
    let server = dual_in(server.end().await).await;
    let admin = server.admin();
    let (_, cidr) = send(&admin, "GET", CIDR, None).await;
    assert_eq!(cidr["spec"]["cidrs"], json!(["10.96.0.0/16", V6]), "the ServiceCIDR has grown");
    // A change of something else does not make the Service dual-stack behind its owner's back.
    let same = patched(&admin, "web", json!({"selector": {"a": "b"}})).await;
    assert_eq!(shape(&same), is("PreferDualStack", &["IPv4"], &["v4"]));
    let grown = patched(&admin, "web", json!({"ipFamilyPolicy": "RequireDualStack"})).await;
    assert_eq!(shape(&grown), is("RequireDualStack", &["IPv4", "IPv6"], &["v4", "v6"]));
    assert_eq!(grown["clusterIP"], old["clusterIP"]);

    // Back to one family: what has two keeps them.
    let server = TestServer::start_in(server.end().await).await;
    let admin = server.admin();
    let (_, kept) = send(&admin, "GET", &format!("{SERVICES}/web"), None).await;
    assert_eq!(kept["spec"]["clusterIPs"], grown["clusterIPs"]);
    let (_, cidr) = send(&admin, "GET", CIDR, None).await;
    assert_eq!(cidr["spec"]["cidrs"], json!(["10.96.0.0/16", V6]));
}
