//! Services and what they lead to.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::text::{NONE, UNSET, age, labels, name, number, selector, strings, text, text_or, with_more};
use crate::meta;

pub(super) fn service(o: &Value, now: Timestamp) -> Vec<Value> {
    let first_ip = meta::list_at(o, &["spec", "clusterIPs"]).first().and_then(Value::as_str);
    let internal = first_ip.unwrap_or_else(|| text_or(o, &["spec", "clusterIP"], NONE));
    vec![
        name(o),
        text(o, &["spec", "type"]),
        json!(internal),
        json!(external_ip(o)),
        json!(ports(o)),
        age(o, now),
        json!(labels(meta::map_at(o, &["spec", "selector"]))),
    ]
}

fn external_ip(o: &Value) -> String {
    let own = strings(o, &["spec", "externalIPs"]);
    match meta::str_at(o, &["spec", "type"]) {
        "LoadBalancer" => match (load_balancer(o), own) {
            (lb, own) if lb.is_empty() && own.is_empty() => "<pending>".into(),
            (lb, own) if own.is_empty() => lb,
            (lb, own) if lb.is_empty() => own,
            (lb, own) => format!("{lb},{own}"),
        },
        "ExternalName" => meta::str_at(o, &["spec", "externalName"]).into(),
        _ if own.is_empty() => NONE.into(),
        _ => own,
    }
}

/// Addresses or names in `status.loadBalancer`, sorted.
fn load_balancer(o: &Value) -> String {
    let mut found: Vec<&str> = meta::list_at(o, &["status", "loadBalancer", "ingress"])
        .iter()
        .map(|i| text_or(i, &["ip"], meta::str_at(i, &["hostname"])))
        .filter(|s| !s.is_empty())
        .collect();
    found.sort_unstable();
    found.dedup();
    found.join(",")
}

fn ports(o: &Value) -> String {
    let list: Vec<String> = meta::list_at(o, &["spec", "ports"])
        .iter()
        .map(|p| {
            let (port, protocol) = (number(p, &["port"]), meta::str_at(p, &["protocol"]));
            match number(p, &["nodePort"]) {
                0 => format!("{port}/{protocol}"),
                node_port => format!("{port}:{node_port}/{protocol}"),
            }
        })
        .collect();
    if list.is_empty() { NONE.into() } else { list.join(",") }
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub(super) fn endpoints(o: &Value, now: Timestamp) -> Vec<Value> {
    let subsets = meta::list_at(o, &["subsets"]);
    let mut all = Vec::new();
    for subset in subsets {
        let addresses = || meta::list_at(subset, &["addresses"]).iter().map(|a| meta::str_at(a, &["ip"]));
        let ports = meta::list_at(subset, &["ports"]);
        if ports.is_empty() {
            all.extend(addresses().map(str::to_owned));
        }
        for port in ports {
            all.extend(addresses().map(|ip| host_port(ip, number(port, &["port"]))));
        }
    }
    let shown = if subsets.is_empty() { NONE.to_owned() } else { with_more(all, 3) };
    vec![name(o), json!(shown), age(o, now)]
}

pub(super) fn endpoint_slice(o: &Value, now: Timestamp) -> Vec<Value> {
    let unset = |s: String| if s.is_empty() { UNSET.to_owned() } else { s };
    let ports = meta::list_at(o, &["ports"])
        .iter()
        .map(|p| match (meta::i64_at(p, &["port"]), meta::str_at(p, &["name"])) {
            (Some(n), _) => n.to_string(),
            (None, "") => "*".into(),
            (None, name) => name.to_owned(),
        })
        .collect();
    let addresses = meta::list_at(o, &["endpoints"])
        .iter()
        .flat_map(|e| meta::list_at(e, &["addresses"]))
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    vec![
        name(o),
        text(o, &["addressType"]),
        json!(unset(with_more(ports, 3))),
        json!(unset(with_more(addresses, 3))),
        age(o, now),
    ]
}

pub(super) fn ingress(o: &Value, now: Timestamp) -> Vec<Value> {
    let hosts: Vec<String> = meta::list_at(o, &["spec", "rules"])
        .iter()
        .map(|r| meta::str_at(r, &["host"]).to_owned())
        .filter(|h| !h.is_empty())
        .collect();
    let hosts = if hosts.is_empty() { "*".to_owned() } else { with_more(hosts, 3) };
    let ports = if meta::list_at(o, &["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    vec![
        name(o),
        json!(text_or(o, &["spec", "ingressClassName"], NONE)),
        json!(hosts),
        json!(load_balancer(o)),
        json!(ports),
        age(o, now),
    ]
}

pub(super) fn ingress_class(o: &Value, now: Timestamp) -> Vec<Value> {
    let parameters = match meta::map_at(o, &["spec", "parameters"]) {
        None => NONE.to_owned(),
        Some(_) => {
            let part = |field| meta::str_at(o, &["spec", "parameters", field]);
            match part("apiGroup") {
                "" => format!("{}/{}", part("kind"), part("name")),
                group => format!("{}.{group}/{}", part("kind"), part("name")),
            }
        }
    };
    vec![name(o), text(o, &["spec", "controller"]), json!(parameters), age(o, now)]
}

pub(super) fn network_policy(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), json!(selector(o, &["spec", "podSelector"])), age(o, now)]
}

pub(super) fn service_cidr(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), json!(strings(o, &["spec", "cidrs"])), age(o, now)]
}

pub(super) fn ip_address(o: &Value, _now: Timestamp) -> Vec<Value> {
    let part = |field| meta::str_at(o, &["spec", "parentRef", field]);
    let reference = if meta::map_at(o, &["spec", "parentRef"]).is_none() {
        NONE.to_owned()
    } else {
        let resource = match part("group") {
            "" => part("resource").to_lowercase(),
            group => format!("{}.{group}", part("resource")).to_lowercase(),
        };
        match part("namespace") {
            "" => format!("{resource}/{}", part("name")),
            namespace => format!("{resource}/{namespace}/{}", part("name")),
        }
    };
    vec![name(o), json!(reference)]
}

pub(super) fn lease(o: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(o), text(o, &["spec", "holderIdentity"]), age(o, now)]
}
