//! The resolver configuration of a Pod by its dnsPolicy and dnsConfig. Pure.

use std::net::IpAddr;

use k8s_cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::Pod;

use crate::pod;

/// Most nameservers a resolver takes.
const MOST_SERVERS: usize = 3;
/// Most search domains, and characters in all of them.
const MOST_SEARCHES: usize = 32;
const MOST_SEARCH_CHARS: usize = 2048;

/// A parsed resolv.conf(5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// Nameserver addresses as written.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

/// Reads a resolver file; the last `search` or `domain` line wins.
pub fn parse(text: &str) -> ResolvConf {
    let mut c = ResolvConf::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => c.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => c.searches = words.filter(|s| *s != ".").map(str::to_owned).collect(),
            Some("options") => c.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    c
}

/// The Pod's resolver configuration.
pub fn for_pod(pod: &Pod, cluster_dns: &[IpAddr], domain: &str, node: &ResolvConf) -> DnsConfig {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !pod::host_network(pod),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut c = if policy == "None" {
        ResolvConf::default()
    } else if cluster && !cluster_dns.is_empty() {
        let ns = pod::namespace(pod);
        let mut searches = vec![format!("{ns}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        searches.extend(node.searches.iter().cloned());
        ResolvConf {
            servers: cluster_dns.iter().map(IpAddr::to_string).collect(),
            searches,
            options: vec!["ndots:5".into()],
        }
    } else {
        let mut c = node.clone();
        if c.servers.is_empty() {
            c.servers.push("127.0.0.1".into());
        }
        c
    };
    if let Some(own) = spec.and_then(|s| s.dns_config.as_ref()) {
        c.servers.extend(own.nameservers.iter().flatten().cloned());
        c.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            let prefix = format!("{name}:");
            c.options.retain(|o| o != name && !o.starts_with(&prefix));
            c.options.push(match option.value.as_deref() {
                Some(v) if !v.is_empty() => format!("{name}:{v}"),
                _ => name.clone(),
            });
        }
    }
    dedup(&mut c.servers);
    dedup(&mut c.searches);
    c.servers.truncate(MOST_SERVERS);
    c.searches.truncate(MOST_SEARCHES);
    while c.searches.join(" ").len() > MOST_SEARCH_CHARS {
        c.searches.pop();
    }
    DnsConfig { servers: c.servers, searches: c.searches, options: c.options }
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|x| seen.insert(x.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"namespace": "shop"}, "spec": spec})).unwrap()
    }
    fn dns(p: &Pod) -> DnsConfig {
        let node = parse("# x\nnameserver 192.0.2.1\nsearch corp.example .\noptions ndots:2 rotate\n");
        for_pod(p, &["10.96.0.10".parse().unwrap()], "cluster.local", &node)
    }

    #[test]
    fn cluster_first_asks_the_cluster_and_searches_its_domains() {
        let d = dns(&pod(serde_json::json!({"containers": []})));
        assert_eq!(d.servers, ["10.96.0.10"]);
        assert_eq!(d.searches, ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example"]);
        assert_eq!(d.options, ["ndots:5"]);
    }

    #[test]
    fn host_network_falls_back_to_the_node_unless_it_says_with_host_net() {
        let d = dns(&pod(serde_json::json!({"containers": [], "hostNetwork": true})));
        assert_eq!(d.servers, ["192.0.2.1"]);
        assert_eq!(d.options, ["ndots:2", "rotate"]);
        let p = serde_json::json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"});
        assert_eq!(dns(&pod(p)).servers, ["10.96.0.10"]);
    }

    #[test]
    fn dns_config_adds_and_replaces() {
        let p = serde_json::json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.1.1.1", "1.1.1.1"], "searches": ["a"], "options": [{"name": "ndots", "value": "1"}]}});
        let d = dns(&pod(p));
        assert_eq!((d.servers.len(), d.options), (1, vec!["ndots:1".to_owned()]));
        let p = serde_json::json!({"containers": [], "dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}});
        assert_eq!(dns(&pod(p)).options, ["ndots:1"]);
    }
}
