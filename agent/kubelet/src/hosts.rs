//! The Pod's /etc/hosts and its host name. Pure but for nothing: text in, text out.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::Pod;

use crate::pod;

/// Longest host name the kernel takes.
const HOST_NAME_MAX: usize = 63;

/// Host name and, with a subdomain, the fully qualified name.
pub fn names(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let spec = pod.spec.as_ref();
    let mut host = spec.and_then(|s| s.hostname.clone()).filter(|h| !h.is_empty()).unwrap_or_else(|| {
        let mut n = pod::name(pod).to_owned();
        n.truncate(HOST_NAME_MAX);
        n.trim_end_matches(['-', '.']).to_owned()
    });
    if let Some(h) = spec.and_then(|s| s.hostname_override.clone()).filter(|h| !h.is_empty()) {
        host = h;
        return (host, None);
    }
    let sub = spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty());
    let full = sub.map(|s| format!("{host}.{s}.{}.svc.{cluster_domain}", pod::namespace(pod)));
    (host, full)
}

/// The file for a Pod with its own network.
pub fn file(pod: &Pod, ips: &[String], cluster_domain: &str) -> String {
    let mut out = String::from("# Kubernetes-managed hosts file.\n");
    out.push_str("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    out.push_str("fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n");
    let (host, full) = names(pod, cluster_domain);
    for ip in ips {
        let _ = match &full {
            Some(full) => writeln!(out, "{ip}\t{full}\t{host}"),
            None => writeln!(out, "{ip}\t{host}"),
        };
    }
    out + &aliases(pod)
}

/// The file for a Pod on the node's network: the node's own, then the aliases.
pub fn node_file(pod: &Pod, node: &str) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node}{}", aliases(pod))
}

fn aliases(pod: &Pod) -> String {
    let mut out = String::new();
    for alias in pod.spec.iter().flat_map(|s| s.host_aliases.iter().flatten()) {
        if out.is_empty() {
            out.push_str("\n# Entries added by HostAliases.\n");
        }
        let names: Vec<&str> = alias.hostnames.iter().flatten().map(String::as_str).collect();
        let _ = writeln!(out, "{}\t{}", alias.ip, names.join("\t"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subdomain_aliases_and_long_names() {
        let p: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "a".repeat(62) + "-bc", "namespace": "ns"},
            "spec": {"containers": [], "subdomain": "sub", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["x", "y"]}]}}))
        .unwrap();
        let host = "a".repeat(62);
        assert_eq!(names(&p, "cluster.local"), (host.clone(), Some(format!("{host}.sub.ns.svc.cluster.local"))));
        let f = file(&p, &["10.0.0.1".into()], "cluster.local");
        assert!(f.contains(&format!("10.0.0.1\t{host}.sub.ns.svc.cluster.local\t{host}\n")));
        assert!(f.ends_with("1.2.3.4\tx\ty\n"));
    }
}
