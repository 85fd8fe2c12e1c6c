//! What an agent is told. Every path of a node lies under [`Config::node_dir`].

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

pub use strake_datapath::{Cidrs, LbAlgorithm, LbMode, MapSizes, XdpMode};

use strake_state::Sandboxes;

use crate::proxy::Listen;

/// The parts of a node that can be left out, each for its stock counterpart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    Kubelet,
    Proxy,
    Network,
    Dns,
}

impl Component {
    pub const ALL: [Self; 4] = [Self::Kubelet, Self::Proxy, Self::Network, Self::Dns];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet",
            Self::Proxy => "proxy",
            Self::Network => "network",
            Self::Dns => "dns",
        }
    }
}

impl std::str::FromStr for Component {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|c| c.as_str() == text)
            .ok_or_else(|| format!("{text} is not a component; there are {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// How a node without certificates gets them.
#[derive(Debug, Clone)]
pub struct Join {
    /// `https://HOST:PORT` of an API server.
    pub server: String,
    /// Bootstrap token, `id.secret`.
    pub token: String,
    /// `sha256:` and the hex of the CA's public key hash; the server is believed only if its CA has it.
    pub ca_pin: String,
}

/// How large the datapath's maps may be.
#[derive(Debug, Clone, Copy)]
pub struct Maps {
    pub sizes: MapSizes,
    /// Most rows of a map that grows with the cluster.
    pub max_rows: u32,
}

#[derive(Debug, Clone)]
pub struct Config {
    pub node_name: String,
    pub node_ip: Ipv4Addr,
    /// Its IPv6 address, by which the others reach its Pods' IPv6 addresses.
    pub node_ip6: Option<Ipv6Addr>,
    /// The cluster's data dir; the node's own is `nodes/NAME` below it.
    pub data_dir: PathBuf,
    pub join: Join,
    /// Link towards the other nodes.
    pub uplink: String,
    /// cgroup2 directory whose processes get the socket hooks.
    pub cgroup_root: PathBuf,
    /// Parent of the Pods' cgroups, as a cgroup path.
    pub cgroup_parent: String,
    /// Directory on a bpffs for pins.
    pub bpf_root: PathBuf,
    /// Upstream resolvers.
    pub resolv_conf: PathBuf,
    pub cluster_dns: Ipv4Addr,
    pub cluster_domain: String,
    pub cluster_cidr: Cidrs,
    pub service_cidr: Cidrs,
    pub components: BTreeSet<Component>,
    /// How backends are chosen for what comes from outside, where a Service does not say.
    pub lb_algorithm: LbAlgorithm,
    /// How what comes from outside reaches a Pod on another node.
    pub lb_mode: LbMode,
    pub maps: Maps,
    /// Whether and how packets for backends on other nodes are sent on before the stack.
    pub xdp: XdpMode,
    /// Runtimes whose Pods the socket hooks leave alone.
    pub sandboxes: Sandboxes,
    /// LoadBalancer addresses that somebody else gave are announced too, where no class says whose they are.
    pub announce_everyones: bool,
    /// Where the proxy component tells how it is doing.
    pub listen: Listen,
    /// A CRI runtime that is there already; none: the agent starts a containerd of its own.
    pub container_runtime: Option<PathBuf>,
    /// The executable the CNI plugin is a link to.
    pub executable: PathBuf,
}

impl Config {
    /// `<data dir>/nodes/<node>`.
    pub fn node_dir(&self) -> PathBuf {
        self.data_dir.join("nodes").join(&self.node_name)
    }

    /// The local API's socket.
    pub fn socket(&self) -> PathBuf {
        self.node_dir().join("agent.sock")
    }

    pub fn has(&self, component: Component) -> bool {
        self.components.contains(&component)
    }
}
