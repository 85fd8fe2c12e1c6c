//! The Service proxy alone, in place of kube-proxy on a node of any Kubernetes cluster.
//!
//! It asks the API for no more than kube-proxy does and touches nothing that belongs to the node's CNI plugin, kubelet
//! or DNS: programs on the uplink and on the cgroup, pinned maps, the local socket. Pods' interfaces are not ours, so
//! what Pods call is answered where they call connect().

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnetwork::Ipv4Network;
use strake_datapath::{Cidrs, Datapath, LbAlgorithm, LbMode, XdpMode};
use strake_state::{Sandboxes, Scope};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::announce;
use crate::api::{self, Questions};
use crate::config::Maps;
use crate::proxy::{self, Listen};
use crate::run::{flows, until_all_end};
use crate::{Error, join};

/// What a proxy on its own is told.
#[derive(Debug, Clone)]
pub struct Standalone {
    pub node_name: String,
    /// One of each family that it has.
    pub node_ips: Vec<IpAddr>,
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
    pub cluster_cidr: Cidrs,
    /// How backends are chosen for what comes from outside, where a Service does not say.
    pub lb_algorithm: LbAlgorithm,
    /// How what comes from outside reaches a Pod on another node.
    pub lb_mode: LbMode,
    pub maps: Maps,
    pub xdp: XdpMode,
    /// Runtimes whose sockets are not this kernel's; their Pods are named in the status.
    pub sandboxes: Sandboxes,
    pub listen: Listen,
    /// LoadBalancer addresses are announced; needs the right to write Leases in kube-system.
    pub announce: bool,
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

    let routes = std::fs::read_to_string("/proc/net/route").map_err(Error::io("reading /proc/net/route"))?;
    if let Some(overlay) = config.cluster_cidr.v4.and_then(|cidr| overlay(&routes, &config.uplink, cidr)) {
        tracing::warn!(
            overlay,
            uplink = config.uplink,
            "Pods of other nodes are reached through an overlay: from outside, this node's NodePorts reach its own Pods \
             only; give such Services externalTrafficPolicy: Local"
        );
    }

    let scope = match config.lb_mode {
        LbMode::Snat => Scope::Proxy,
        LbMode::Dsr => Scope::ProxyAndNodes,
    };
    let worlds = strake_state::watch(client.clone(), &config.node_name, scope, token.clone());
    let flows = flows(&datapath, worlds.clone(), &token)?;
    let mut parts = JoinSet::new();
    let listener = api::bind(&dir.join("agent.sock"))?;
    let board = announce::Board::default();
    if config.announce {
        let announcer = datapath.announcer().map_err(|e| Error::Datapath(api::chain(&e)))?;
        let (uplink, board) = (config.uplink.clone(), board.clone());
        let setup = announce::Setup { client, uplink, everyones: true, announcer, board };
        parts.spawn(announce::run(setup, worlds.clone(), token.clone()));
    }
    let questions = Questions { datapath: datapath.clone(), node_name: config.node_name.clone(), board };
    parts.spawn(api::serve(listener, questions, None, flows.history(), token.clone()));
    proxy::start(&mut parts, &datapath, &flows.metrics(), &worlds, config.listen, &token);
    until_all_end(parts, &token).await
}

fn datapath(config: &Standalone) -> strake_datapath::Config {
    let mut datapath = strake_datapath::Config::new(&config.node_name, &config.cgroup_root, &config.bpf_root);
    datapath.uplink = Some(config.uplink.clone());
    datapath.node_ips.clone_from(&config.node_ips);
    datapath.cluster_cidr = config.cluster_cidr;
    // kube-proxy knows no Service range either: an address of no Service is somebody else's to judge.
    datapath.service_cidr = Cidrs::default();
    datapath.sandboxes.clone_from(&config.sandboxes);
    datapath.masquerade = false;
    datapath.host_ports = false;
    datapath.dns = false;
    datapath.lb_algorithm = config.lb_algorithm;
    datapath.lb_mode = config.lb_mode;
    datapath.sizes = config.maps.sizes;
    datapath.max_rows = config.maps.max_rows;
    datapath.xdp = config.xdp;
    datapath
}

/// The link that the routing has for Pods of other nodes, if that is not the uplink. `routes` is `/proc/net/route`.
fn overlay(routes: &str, uplink: &str, cluster_cidr: Ipv4Network) -> Option<String> {
    /// The route leads to another node, not to a Pod of this one.
    const GATEWAY: u32 = 2;
    routes.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |n: usize| u32::from_str_radix(fields.get(n)?, 16).ok();
        let (link, destination) = (*fields.first()?, Ipv4Addr::from(u32::from_be(number(1)?)));
        let remote = number(3)? & GATEWAY != 0 && cluster_cidr.contains(destination);
        (remote && link != uplink).then(|| link.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The default route, a local Pod, and 10.244.1.0/24 by way of `link`.
    fn routes(link: &str) -> String {
        format!(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
             eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n\
             veth1\t0500F40A\t00000000\t0005\t0\t0\t0\tFFFFFFFF\n\
             {link}\t0001F40A\t0001F40A\t0003\t0\t0\t0\t00FFFFFF\n"
        )
    }

    #[test]
    fn an_overlay_is_told_by_the_routes_to_other_nodes() {
        let cidr = "10.244.0.0/16".parse().unwrap();
        assert_eq!(overlay(&routes("flannel.1"), "eth0", cidr).as_deref(), Some("flannel.1"));
        assert_eq!(overlay(&routes("eth0"), "eth0", cidr), None);
    }
}
