//! Services: defaults, and what an update carries over or releases. Which addresses and ports are free is the API
//! server's to know (`service_alloc` says which are wanted).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::walk::{Walk, default_text, default_to, drop_key, each, is_empty, object_mut, put, same, with};

/// Fills a Service.
pub(crate) fn default(svc: &mut Value) {
    with(svc, "spec", |s| {
        default_text(s, "sessionAffinity", "None");
        match s.text("sessionAffinity") {
            "None" => drop_key(s, "sessionAffinityConfig"),
            "ClientIP" if s.path(&["sessionAffinityConfig", "clientIP"]).int("timeoutSeconds").is_none() => {
                put(s, "sessionAffinityConfig", json!({ "clientIP": { "timeoutSeconds": 10800 } }));
            }
            _ => {}
        }
        default_text(s, "type", "ClusterIP");
        each(s, "ports", |p| {
            default_text(p, "protocol", "TCP");
            let target = p.at("targetPort");
            if is_empty(target) || crate::walk::as_int(target) == Some(0) {
                let port = p.at("port").clone();
                put(p, "targetPort", port);
            }
            if p.int("nodePort") == Some(0) {
                drop_key(p, "nodePort");
            }
        });
        if externally_accessible(s) {
            default_text(s, "externalTrafficPolicy", "Cluster");
        }
        let kind = s.text("type").to_owned();
        if ["ClusterIP", "NodePort", "LoadBalancer"].contains(&kind.as_str()) {
            default_to(s, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            default_to(s, "allocateLoadBalancerNodePorts", true);
        }
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "externalName", "externalIPs", "selector"] {
            if is_empty(s.at(field)) {
                drop_key(s, field);
            }
        }
    });
    if svc.at("spec").text("type") == "LoadBalancer" {
        with(svc, "status", |st| {
            with(st, "loadBalancer", |lb| {
                each(lb, "ingress", |i| {
                    if !i.text("ip").is_empty() {
                        default_to(i, "ipMode", "VIP");
                    }
                });
            });
        });
    }
}

/// A new Service has no load balancer yet; `clusterIPs` follows `clusterIP`.
pub(crate) fn prepare_create(svc: &mut Value) {
    put(svc, "status", json!({ "loadBalancer": {} }));
    with(svc, "spec", |s| {
        if !s.text("clusterIP").is_empty() && s.list("clusterIPs").is_empty() {
            put(s, "clusterIPs", json!([s.text("clusterIP")]));
        }
    });
}

/// Carries over what was allocated, so that the manifest which made the Service still applies; drops what the new type
/// has no use for, if the client left it as it was.
pub(crate) fn prepare_update(new: &mut Value, old: &Value) {
    put(new, "status", old.at("status").clone());
    let old_status = old;
    let old = old.at("spec");
    if object_mut(new, "spec").is_none() {
        return;
    }
    with(new, "spec", |s| {
        normalize_cluster_ips(s, old);
        carry_over(s, old);
        drop_unused(s, old);
    });
    if new.at("spec").text("type") != "LoadBalancer" {
        let keep = old.text("type") != "LoadBalancer";
        if !keep {
            put(new, "status", with_empty_balancer(old_status.at("status")));
        }
    }
}

fn with_empty_balancer(status: &Value) -> Value {
    let mut status = status.clone();
    put(&mut status, "loadBalancer", json!({}));
    status
}

fn normalize_cluster_ips(s: &mut Value, old: &Value) {
    let (now, was) = (s.text("clusterIP").to_owned(), old.text("clusterIP"));
    let many = s.at("clusterIPs").clone();
    if !old.list("clusterIPs").is_empty() && is_empty(&many) && now == was {
        put(s, "clusterIPs", old.at("clusterIPs").clone());
    }
    if now != was && same(&many, old.at("clusterIPs")) {
        if now.is_empty() && !was.is_empty() {
            drop_key(s, "clusterIPs");
        } else {
            put(s, "clusterIPs", json!([now]));
        }
    }
}

fn carry_over(s: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(s) {
        if s.text("clusterIP").is_empty() {
            put(s, "clusterIP", old.at("clusterIP").clone());
        }
        if s.list("clusterIPs").is_empty() && !old.list("clusterIPs").is_empty() {
            put(s, "clusterIPs", old.at("clusterIPs").clone());
        }
        if !s.has("ipFamilyPolicy") && old.has("ipFamilyPolicy") {
            put(s, "ipFamilyPolicy", old.at("ipFamilyPolicy").clone());
        }
        if s.list("ipFamilies").is_empty() && !old.list("ipFamilies").is_empty() {
            put(s, "ipFamilies", old.at("ipFamilies").clone());
        }
    }
    if needs_node_ports(old) && needs_node_ports(s) {
        let in_both: BTreeSet<i64> = node_ports(old).intersection(&node_ports(s)).copied().collect();
        let by_name: Vec<(String, i64)> =
            old.list("ports").iter().map(|p| (p.text("name").to_owned(), p.num("nodePort"))).collect();
        each(s, "ports", |p| {
            if p.num("nodePort") == 0
                && let Some((_, n)) = by_name.iter().rev().find(|(name, _)| name == p.text("name"))
                && *n != 0
                && !in_both.contains(n)
            {
                put(p, "nodePort", (*n).into());
            }
        });
    }
    if needs_health_port(old) && needs_health_port(s) && s.num("healthCheckNodePort") == 0 {
        put(s, "healthCheckNodePort", old.at("healthCheckNodePort").clone());
    }
}

fn drop_unused(s: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && !needs_cluster_ip(s) {
        if s.text("clusterIP") == old.text("clusterIP") && same(s.at("clusterIPs"), old.at("clusterIPs")) {
            drop_key(s, "clusterIP");
            drop_key(s, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            if same(s.at(field), old.at(field)) {
                drop_key(s, field);
            }
        }
    }
    if needs_node_ports(old) && !needs_node_ports(s) && node_ports(s).is_subset(&node_ports(old)) {
        each(s, "ports", |p| drop_key(p, "nodePort"));
    }
    if needs_health_port(old) && !needs_health_port(s) && s.num("healthCheckNodePort") == old.num("healthCheckNodePort")
    {
        drop_key(s, "healthCheckNodePort");
    }
    if old.text("type") == "LoadBalancer" && s.text("type") != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(s.at(field), old.at(field)) {
                drop_key(s, field);
            }
        }
    }
    if externally_accessible(old)
        && !externally_accessible(s)
        && s.text("externalTrafficPolicy") == old.text("externalTrafficPolicy")
    {
        drop_key(s, "externalTrafficPolicy");
    }
}

fn node_ports(spec: &Value) -> BTreeSet<i64> {
    spec.list("ports").iter().map(|p| p.num("nodePort")).filter(|n| *n != 0).collect()
}

/// True unless the Service is a mere name.
pub(crate) fn needs_cluster_ip(spec: &Value) -> bool {
    spec.text("type") != "ExternalName"
}

/// True if the type opens ports on nodes.
pub(crate) fn needs_node_ports(spec: &Value) -> bool {
    ["NodePort", "LoadBalancer"].contains(&spec.text("type"))
}

/// True if a load balancer asks each node whether it has endpoints.
pub(crate) fn needs_health_port(spec: &Value) -> bool {
    spec.text("type") == "LoadBalancer" && spec.text("externalTrafficPolicy") == "Local"
}

/// True if traffic from outside the cluster can reach the Service.
pub(crate) fn externally_accessible(spec: &Value) -> bool {
    needs_node_ports(spec) || (spec.text("type") == "ClusterIP" && !spec.list("externalIPs").is_empty())
}

/// True for `clusterIP: None`.
pub(crate) fn is_headless(spec: &Value) -> bool {
    spec.texts("clusterIPs") == ["None"]
}
