//! What the agent tells the datapath about its node. Everything that is a path, a name or a size is here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnetwork::{Ipv4Network, Ipv6Network};
use strake_state::Sandboxes;

use crate::cidrs::Cidrs;
use crate::sizes::{MAX_ROWS, MapSizes};
use crate::xdp::XdpMode;

/// How a node's datapath is set up. Paths and names are those of the network and mount namespace that the calling
/// process is in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// cgroup2 folder whose processes get the socket hooks.
    pub cgroup_root: PathBuf,
    /// Folder on a bpffs for pinned maps and links; made if missing. One folder a node.
    pub bpf_root: PathBuf,
    /// Interface towards the network. None: no NodePort from outside and no masquerade.
    pub uplink: Option<String>,
    /// The node's addresses on the uplink, one of each family. Of a family that is missing: the first InternalIP of its
    /// Node object.
    pub node_ips: Vec<IpAddr>,
    /// The node's Pod prefix. None: that of its Node object.
    pub pod_cidr: Option<Ipv4Network>,
    /// Of all Pods. The node's own IPv6 address and Pod prefix are those of its Node object.
    pub cluster_cidr: Cidrs,
    /// Of Services: what no Service has in it is refused.
    pub service_cidr: Cidrs,
    /// Address of the cluster DNS Service. With `dns` it is never load-balanced: from_pod or the agent answers.
    pub cluster_dns: Ipv4Addr,
    /// The cluster's domain, no dot at either end.
    pub cluster_domain: String,
    /// The Pods' default gateway (link-local, the same on every veth).
    pub pod_gateway: Ipv4Addr,
    /// The same of IPv6, on Pods that have it.
    pub pod_gateway6: Ipv6Addr,
    /// First and last NodePort.
    pub node_ports: (u16, u16),
    /// First and last port of source translation; must not overlap with `ip_local_port_range` or NodePorts.
    pub snat_ports: (u16, u16),
    /// Masquerade what Pods send out of the cluster.
    pub masquerade: bool,
    /// Serve the hostPorts of this node's Pods, whose network is ours.
    pub host_ports: bool,
    /// Answer Services. Without, their addresses are left alone for another proxy.
    pub services: bool,
    /// Runtimes whose Pods the socket hooks leave alone: their sockets are not this kernel's.
    pub sandboxes: Sandboxes,
    /// Answer Service names in the kernel.
    pub dns: bool,
    /// How backends are chosen for what comes from outside, where the Service does not say.
    pub lb_algorithm: LbAlgorithm,
    /// How what comes from outside reaches a Pod on another node, and its answers the client.
    pub lb_mode: LbMode,
    /// Whether and how packets for backends on other nodes are sent on before the stack.
    pub xdp: XdpMode,
    /// Report flows through the ring buffer.
    pub events: bool,
    /// Also report connections that no Service is part of.
    pub track_all: bool,
    /// Entries of the maps when they are first made, or, where that is more, from now on.
    pub sizes: MapSizes,
    /// No map that the agent fills is made larger than this, however many Services there are.
    pub max_rows: u32,
    /// Pinned state of another ABI_VERSION is removed (flows of the packet path are cut) instead of refused.
    pub discard_incompatible: bool,
    /// Attach with clsact even where tcx exists (for tests of older kernels' way).
    pub force_clsact: bool,
}

impl Config {
    /// A node named `node_name` with the addresses of the stock cluster.
    pub fn new(node_name: &str, cgroup_root: impl Into<PathBuf>, bpf_root: impl Into<PathBuf>) -> Self {
        let net = |a, b, len| Ipv4Network::new(Ipv4Addr::new(a, b, 0, 0), len).ok();
        let net6 = |c, len| Ipv6Network::new(Ipv6Addr::new(0xfd00, 0x10, c, 0, 0, 0, 0, 0), len).ok();
        Self {
            node_name: node_name.into(),
            cgroup_root: cgroup_root.into(),
            bpf_root: bpf_root.into(),
            uplink: None,
            node_ips: Vec::new(),
            pod_cidr: None,
            cluster_cidr: Cidrs { v4: net(10, 244, 16), v6: net6(0x244, 56) },
            service_cidr: Cidrs { v4: net(10, 96, 16), v6: net6(0x96, 112) },
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
            cluster_domain: "cluster.local".into(),
            pod_gateway: Ipv4Addr::new(169, 254, 1, 1),
            pod_gateway6: Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
            node_ports: (30_000, 32_767),
            snat_ports: (61_000, 65_535),
            masquerade: true,
            host_ports: true,
            services: true,
            sandboxes: Sandboxes::default(),
            dns: true,
            lb_algorithm: LbAlgorithm::Random,
            lb_mode: LbMode::Snat,
            xdp: XdpMode::Auto,
            events: true,
            track_all: true,
            sizes: MapSizes::default(),
            max_rows: MAX_ROWS,
            discard_incompatible: false,
            force_clsact: false,
        }
    }
}

impl Config {
    /// Whether names are answered on this address.
    pub(crate) fn is_dns(&self, ip: Ipv4Addr) -> bool {
        self.dns && ip == self.cluster_dns
    }
}

/// How a backend is chosen for a new flow from outside. Sockets of the node and its Pods always choose at random: no other
/// node sees their flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LbAlgorithm {
    /// Each node for itself, as kube-proxy does it. The default: it takes no memory, and without DSR a TCP connection that
    /// comes to another node on its way is translated anew there and ends, whichever backend is chosen.
    #[default]
    Random,
    /// Every node chooses the same for the same client address and port, VIP and port, and protocol.
    Maglev,
}

impl LbAlgorithm {
    pub const ALL: [Self; 2] = [Self::Random, Self::Maglev];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Maglev => "maglev",
        }
    }
}

impl std::str::FromStr for LbAlgorithm {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text);
        found.ok_or_else(|| format!("{text} is no algorithm; there are {}", Self::ALL.map(Self::as_str).join(" and ")))
    }
}

/// How a flow from outside reaches a Pod on another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LbMode {
    /// As the node's own: the answers come back through it.
    #[default]
    Snat,
    /// As the client's, inside an IP packet: the Pod's node answers the client itself (direct server return).
    Dsr,
}

impl LbMode {
    pub const ALL: [Self; 2] = [Self::Snat, Self::Dsr];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Snat => "snat",
            Self::Dsr => "dsr",
        }
    }
}

impl std::str::FromStr for LbMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        found.ok_or_else(|| {
            format!("{text} is no mode of load balancing; there are {}", Self::ALL.map(Self::as_str).join(" and "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_of_load_balancing_are_named_as_they_are_written() {
        for mode in LbMode::ALL {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
        assert!("ipip".parse::<LbMode>().unwrap_err().contains("snat and dsr"));
        assert_eq!(Config::new("n", "/c", "/p").lb_mode, LbMode::Snat);
    }
}
