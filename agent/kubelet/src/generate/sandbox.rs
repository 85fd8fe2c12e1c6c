//! The sandbox configuration of a Pod.

use std::collections::HashMap;

use k8s_cri::v1 as cri;
use k8s_openapi::api::core::v1::Pod;

use super::security::{namespaces, profile};
use crate::config::Config;
use crate::labels;
use crate::resolv::{self, ResolvConf};
use crate::runtime::pod_log_dir;
use crate::{cgroup, hosts, pod};

/// Builds it. `attempt` counts the sandboxes before.
pub fn config(c: &Config, p: &Pod, attempt: u32, node: &ResolvConf) -> Result<cri::PodSandboxConfig, String> {
    let spec = p.spec.as_ref();
    let (namespace, name, uid) = (pod::namespace(p), pod::name(p), pod::uid(p));
    let (short, full) = hosts::names(p, &c.cluster_domain);
    let as_fqdn = spec.and_then(|s| s.set_hostname_as_fqdn) == Some(true);
    let hostname = match full {
        _ if pod::host_network(p) => String::new(), // the node's own
        Some(full) if as_fqdn && full.len() > 64 => {
            return Err(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long (64 characters is the max, {} characters requested)",
                full.len()
            ));
        }
        Some(full) if as_fqdn => full,
        _ => short,
    };
    let mut own_labels: HashMap<String, String> =
        p.metadata.labels.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    for (k, v) in [(labels::POD_NAME, name), (labels::POD_NAMESPACE, namespace), (labels::POD_UID, uid)] {
        own_labels.insert(k.into(), v.into());
    }
    let mut annotations: HashMap<String, String> =
        p.metadata.annotations.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    annotations.insert(labels::CONFIG_SOURCE.into(), "api".into());
    let seen = p.metadata.creation_timestamp.as_ref().map(|t| t.0.to_string());
    annotations.insert(labels::CONFIG_SEEN.into(), seen.unwrap_or_default());

    let sc = spec.and_then(|s| s.security_context.as_ref());
    let privileged = pod::containers(p)
        .iter()
        .chain(pod::init_containers(p))
        .any(|c| c.security_context.as_ref().and_then(|s| s.privileged) == Some(true));
    let int = |v: Option<i64>| v.map(|value| cri::Int64Value { value });
    let mut groups: Vec<i64> = sc.and_then(|s| s.supplemental_groups.clone()).unwrap_or_default();
    groups.extend(sc.and_then(|s| s.fs_group));
    let cpu = pod::pod_request(p, "cpu");
    let resources = cri::LinuxContainerResources {
        cpu_shares: cgroup::shares(cpu) as i64,
        cpu_period: cgroup::CPU_PERIOD as i64,
        cpu_quota: cgroup::quota(pod::pod_limit(p, "cpu")),
        memory_limit_in_bytes: pod::pod_limit(p, "memory"),
        ..Default::default()
    };
    let sysctls = sc.iter().flat_map(|s| s.sysctls.iter().flatten()).map(|s| (s.name.clone(), s.value.clone()));
    let linux = cri::LinuxPodSandboxConfig {
        cgroup_parent: pod::cgroup(&c.cgroup_parent, p),
        security_context: Some(cri::LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces(p, None)),
            run_as_user: int(sc.and_then(|s| s.run_as_user)),
            // The runtime refuses a group without a user.
            run_as_group: int(sc.filter(|s| s.run_as_user.is_some()).and_then(|s| s.run_as_group)),
            supplemental_groups: groups,
            privileged,
            seccomp: Some(profile(
                None,
                sc.and_then(|s| s.seccomp_profile.as_ref()),
                privileged,
                &c.seccomp_dir,
                true,
            )?),
            ..Default::default()
        }),
        sysctls: sysctls.collect(),
        overhead: None,
        resources: Some(resources),
    };
    Ok(cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            uid: uid.into(),
            namespace: namespace.into(),
            attempt,
        }),
        hostname,
        log_directory: pod_log_dir(&c.pod_logs_dir, namespace, name, uid).to_string_lossy().into_owned(),
        dns_config: Some(resolv::for_pod(p, &c.cluster_dns, &c.cluster_domain, node)),
        port_mappings: ports(p),
        labels: own_labels,
        annotations,
        linux: Some(linux),
        windows: None,
    })
}

fn ports(p: &Pod) -> Vec<cri::PortMapping> {
    if pod::host_network(p) {
        return Vec::new();
    }
    let sidecars = pod::init_containers(p).iter().filter(|c| pod::is_sidecar(c));
    let all = pod::containers(p).iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    all.filter(|port| port.host_port.is_some_and(|h| h > 0))
        .map(|port| cri::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => cri::Protocol::Udp,
                Some("SCTP") => cri::Protocol::Sctp,
                _ => cri::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or_default(),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cgroup_and_log_directory_are_the_stock_ones() {
        let p: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1", "labels": {"app": "web"}},
            "spec": {"hostPID": true, "containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 8080}]}]}}))
        .unwrap();
        let mut c = Config::under(std::path::Path::new("/d"), "n1", [192, 0, 2, 1].into(), "/s".into());
        c.cluster_dns = vec![[10, 96, 0, 10].into()];
        let s = config(&c, &p, 2, &ResolvConf::default()).unwrap();
        assert_eq!(s.labels["io.kubernetes.pod.uid"], "u-1");
        assert_eq!(s.labels["app"], "web");
        assert_eq!(s.log_directory, "/d/logs/shop_web_u-1");
        assert_eq!(s.metadata.unwrap().attempt, 2);
        let linux = s.linux.unwrap();
        assert_eq!(linux.cgroup_parent, "/strake/n1/kubepods/besteffort/podu-1");
        let ns = linux.security_context.unwrap().namespace_options.unwrap();
        assert_eq!((ns.pid, ns.network), (cri::NamespaceMode::Node as i32, cri::NamespaceMode::Pod as i32));
        assert_eq!(s.port_mappings[0].host_port, 8080);
    }
}
