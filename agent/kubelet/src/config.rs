//! Everything the kubelet is told by whoever composes it: names, paths, addresses, credentials.
//! No defaults that depend on the machine are decided here, and nothing is read from disk.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::Taint;

/// Configuration of one kubelet. Paths are absolute.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object (also the `kubernetes.io/hostname` label).
    pub node_name: String,
    /// Addresses of the node, the first is the primary InternalIP and `status.hostIP`.
    pub node_ips: Vec<IpAddr>,
    /// Directory of the kubelet's own state (checkpoints of nothing but what CRI cannot tell).
    pub root_dir: PathBuf,
    /// Directory with one directory a Pod UID: volumes, etc-hosts, termination logs.
    pub pods_dir: PathBuf,
    /// Directory of container logs, `NS_NAME_UID/CONTAINER/N.log` below it.
    pub pod_logs_dir: PathBuf,
    /// Unix socket of the CRI runtime, without scheme.
    pub cri_socket: PathBuf,
    /// Parent of every Pod's cgroup in each hierarchy, e.g. `/strake/n1/kubepods` (a cgroup path, not a file path).
    pub cgroup_parent: String,
    /// Where the HTTPS server listens (10250 on the node's address in a cluster).
    pub listen: SocketAddr,
    /// PEM file with the certificate chain served.
    pub serving_cert: PathBuf,
    /// PEM file with the key of `serving_cert`.
    pub serving_key: PathBuf,
    /// PEM file with the CA that signs the clients' certificates.
    pub client_ca: PathBuf,
    /// Addresses of the cluster DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// Cluster domain, `cluster.local`.
    pub cluster_domain: String,
    /// The node's resolver file, for `Default` Pods and the upstream searches of `ClusterFirst` ones.
    pub resolv_conf: PathBuf,
    /// Version told in `nodeInfo.kubeletVersion` and the server's `/metrics`, e.g. `v1.36.0+strake`.
    pub version: String,
    /// Extra labels of the Node.
    pub labels: BTreeMap<String, String>,
    /// Taints set when the Node is first registered.
    pub taints: Vec<Taint>,
    /// Image of the Pod sandbox; never collected.
    pub sandbox_image: String,
    /// Most Pods the node admits.
    pub max_pods: u32,
    /// Annotations of the Node.
    pub annotations: BTreeMap<String, String>,
    /// Seccomp profiles of type Localhost are resolved below this directory.
    pub seccomp_dir: PathBuf,
    /// Free share of the image file system, in percent, under which unused images are collected (stock: 15).
    pub image_gc_free_percent: u8,
    /// `spec.providerID` of the Node, empty for none.
    pub provider_id: String,
}

impl Config {
    /// A configuration for `node` with every path under `dir`, the node's directory (`D/nodes/NODE`).
    pub fn under(dir: &std::path::Path, node: &str, node_ip: IpAddr, cri_socket: PathBuf) -> Self {
        let kubelet = dir.join("kubelet");
        Self {
            node_name: node.to_owned(),
            node_ips: vec![node_ip],
            pods_dir: dir.join("pods"),
            pod_logs_dir: dir.join("logs"),
            cri_socket,
            cgroup_parent: format!("/strake/{node}/kubepods"),
            listen: SocketAddr::new(node_ip, 10250),
            serving_cert: kubelet.join("serving.crt"),
            serving_key: kubelet.join("serving.key"),
            client_ca: kubelet.join("client-ca.crt"),
            cluster_dns: vec![IpAddr::from([10, 96, 0, 10])],
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            version: concat!("v1.36.0+strake.", env!("CARGO_PKG_VERSION")).into(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            sandbox_image: "strake.local/pause:latest".into(),
            max_pods: 110,
            annotations: BTreeMap::new(),
            seccomp_dir: kubelet.join("seccomp"),
            image_gc_free_percent: 15,
            provider_id: String::new(),
            root_dir: kubelet,
        }
    }
}
