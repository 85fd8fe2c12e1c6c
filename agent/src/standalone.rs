//! The Service proxy alone, in place of kube-proxy on a node of any Kubernetes cluster.
//!
//! It asks the API for no more than kube-proxy does and touches nothing that belongs to the node's CNI plugin, kubelet
//! or DNS: programs on the uplink and on the cgroup, pinned maps, the local socket. Pods' interfaces are not ours, so
//! what Pods call is answered where they call connect().

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnetwork::Ipv4Network;
use strake_datapath::Datapath;
use strake_state::Scope;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Questions};
use crate::proxy::{self, Listen};
use crate::run::{flows, until_all_end};
use crate::{Error, join};

/// What a proxy on its own is told.
#[derive(Debug, Clone)]
pub struct Standalone {
    pub node_name: String,
    pub node_ip: Ipv4Addr,
    /// Who it is to the API server, and where that is.
    pub kubeconfig: PathBuf,
    /// Holds the local API's socket, `nodes/NAME/agent.sock`.
    pub data_dir: PathBuf,
    /// Link that NodePort traffic comes by.
    pub uplink: String,
    /// cgroup2 directory whose processes get the socket hooks.
    pub cgroup_root: PathBuf,
    /// Directory on a bpffs for pins.
    pub bpf_root: PathBuf,
    /// Range of all Pod addresses.
    pub cluster_cidr: Ipv4Network,
    pub listen: Listen,
}

/// Runs the proxy until `token` is cancelled or a part fails.
///
/// What is attached and pinned stays: Services are answered while the agent is away.
pub async fn run(config: Standalone, token: CancellationToken) -> Result<(), Error> {
    let dir = config.data_dir.join("nodes").join(&config.node_name);
    std::fs::create_dir_all(&dir).map_err(Error::io(format!("making {}", dir.display())))?;
    let client = join::client(&config.kubeconfig).await?;
    let started = datapath(&config);
    let datapath = tokio::task::spawn_blocking(move || Datapath::start(started))
        .await
        .map_err(|e| Error::Datapath(e.to_string()))?
        .map_err(|e| Error::Datapath(api::chain(&e)))?;

    let worlds = strake_state::watch(client, &config.node_name, Scope::Proxy, token.clone());
    let flows = flows(&datapath, worlds.clone(), &token)?;
    let mut parts = JoinSet::new();
    let listener = api::bind(&dir.join("agent.sock"))?;
    let questions = Questions { datapath: datapath.clone(), node_name: config.node_name.clone() };
    parts.spawn(api::serve(listener, questions, None, flows.history(), token.clone()));
    proxy::start(&mut parts, &datapath, &flows.metrics(), &worlds, config.listen, &token);
    until_all_end(parts, &token).await
}

fn datapath(config: &Standalone) -> strake_datapath::Config {
    let mut datapath = strake_datapath::Config::new(&config.node_name, &config.cgroup_root, &config.bpf_root);
    datapath.uplink = Some(config.uplink.clone());
    datapath.node_ip = Some(config.node_ip);
    datapath.cluster_cidr = config.cluster_cidr;
    // kube-proxy knows no Service range either: an address of no Service is somebody else's to judge.
    datapath.service_cidr = Ipv4Network::from(Ipv4Addr::UNSPECIFIED);
    datapath.masquerade = false;
    datapath.dns = false;
    datapath
}
