//! Flags of a node, shared by `server` and `agent`, with defaults that fit a host of its own.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result};
use ipnetwork::IpNetwork;
use strake_agent::{
    Cidrs, Component, Config, Join, LbAlgorithm, LbMode, Listen, MapSizes, Maps, Sandboxes, Standalone, XdpMode,
};

#[derive(clap::Args, Clone)]
pub struct NodeArgs {
    #[command(flatten)]
    pub data: crate::DataDir,
    /// Name of this node [default: the host's name]
    #[arg(long)]
    pub node_name: Option<String>,
    /// This node's address, or one of each family, separated by a comma [default: the uplink's; with an IPv6 range of
    /// Pod addresses, its global or unique local IPv6 address too]
    #[arg(long, value_name = "IP[,IP]")]
    pub node_ip: Option<NodeIps>,
    /// Link towards the other nodes [default: the one with the default route]
    #[arg(long)]
    uplink: Option<String>,
    /// cgroup2 directory whose processes get the socket hooks [default: the root of the hierarchy]
    #[arg(long)]
    cgroup_root: Option<PathBuf>,
    /// Parent of the Pods' cgroups
    #[arg(long, default_value = "/strake/kubepods")]
    cgroup_parent: String,
    /// Directory on a bpffs for pins [default: /sys/fs/bpf/strake]
    #[arg(long, default_value = "/sys/fs/bpf/strake", hide_default_value = true)]
    bpf_root: PathBuf,
    /// Upstream resolvers for names outside the cluster
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
    /// Address of the cluster DNS, inside the Service range
    #[arg(long, default_value = "10.96.0.10")]
    pub cluster_dns: Ipv4Addr,
    /// Domain of the cluster's names
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Range of all Pod addresses; one of each family, separated by a comma, for dual stack
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR[,CIDR]")]
    pub cluster_cidr: Ranges,
    /// Range of Service addresses; one of each family, separated by a comma, for dual stack: the first one's is the
    /// default family of Services
    #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR[,CIDR]")]
    pub service_cidr: Ranges,
    /// Parts of the node to run; leave one out to put its stock counterpart in its place
    #[arg(long, value_delimiter = ',', default_value = "kubelet,proxy,network,dns")]
    components: Vec<Component>,
    /// How backends are chosen for connections from outside, unless a Service is annotated strake.io/lb-algorithm: at
    /// random, or by maglev, the same on every node
    #[arg(long, default_value = "random", value_name = "random|maglev")]
    lb_algorithm: LbAlgorithm,
    /// How connections from outside reach a Pod on another node: snat, translated to this node's address, through which the
    /// answers come back; or dsr, as the client's, inside IP packets, so that the Pod's node answers the client itself. The
    /// same on every node
    #[arg(long, default_value = "snat", value_name = "snat|dsr")]
    load_balancer_mode: LbMode,
    /// Part of the machine's memory for what is remembered of connections, sockets and clients in BPF maps; of a control
    /// group's memory limit that the agent runs under, no more than a quarter
    #[arg(long, default_value_t = strake_agent::MEMORY_RATIO, value_name = "RATIO", value_parser = ratio)]
    map_memory_ratio: f64,
    /// Rows of the map of tracked connections, two each; what is remembered beside them follows in proportion [default: by
    /// memory]
    #[arg(long, value_name = "ROWS", value_parser = clap::value_parser!(u32).range(1024..=1 << 24))]
    conntrack_rows: Option<u32>,
    /// Most rows of each BPF map that grows with the cluster (Services, backends, names ...); they do so by themselves
    #[arg(long, value_name = "ROWS", default_value_t = strake_agent::MAX_ROWS)]
    map_rows_max: u32,
    /// Whether packets for NodePorts and LoadBalancer addresses whose backend is on another node are sent on before the
    /// stack: in the driver of a device (auto), of anything that takes it, else generic (native), always generic, or never
    #[arg(long, default_value = "auto", value_name = "auto|native|generic|off")]
    xdp: XdpMode,
    /// Announce LoadBalancer addresses by ARP and neighbour discovery that somebody else gave to Services of class
    /// strake.io/lb or of none, too; what `strake server --load-balancer-pool` gives is announced without this, unless the
    /// proxy runs alone
    #[arg(long)]
    announce: bool,
    /// Handlers of RuntimeClasses whose Pods have sockets of their own, `*` for anything: the socket hooks leave these Pods
    /// alone, and their packets are served instead; empty: none
    #[arg(long, value_delimiter = ',', default_value = Sandboxes::USUAL)]
    sandboxed_runtimes: Vec<String>,
    /// Where the proxy answers /healthz and /livez; empty: nowhere
    #[arg(long, default_value = "0.0.0.0:10256", value_parser = |text: &str| bind_address(text, 10256))]
    healthz_bind_address: BindAddress,
    /// Where the proxy answers /metrics; empty: nowhere
    #[arg(long, default_value = "127.0.0.1:10249", value_parser = |text: &str| bind_address(text, 10249))]
    metrics_bind_address: BindAddress,
    /// Socket of a container runtime that is there already [default: start a containerd of our own]
    #[arg(long)]
    container_runtime_endpoint: Option<String>,
}

impl NodeArgs {
    /// The node's name, as Kubernetes wants it: lower case.
    pub fn name(&self) -> Result<String> {
        match &self.node_name {
            Some(name) => Ok(name.clone()),
            None => {
                let name = nix::unistd::gethostname().context("reading the host's name")?;
                Ok(name.to_string_lossy().to_lowercase())
            }
        }
    }

    fn uplink(&self) -> Result<String> {
        if let Some(link) = &self.uplink {
            return Ok(link.clone());
        }
        default_uplink()
    }

    /// The parts to run.
    pub fn components(&self) -> BTreeSet<Component> {
        self.components.iter().copied().collect()
    }

    fn sandboxes(&self) -> Sandboxes {
        Sandboxes::new(self.sandboxed_runtimes.iter().map(String::as_str))
    }

    fn maps(&self) -> Result<Maps> {
        let sizes = match self.conntrack_rows {
            Some(rows) => MapSizes::for_conntrack(rows),
            None => {
                MapSizes::for_memory(strake_agent::memory().context("asking for the memory")?, self.map_memory_ratio)
            }
        };
        Ok(Maps { sizes, max_rows: self.map_rows_max })
    }

    fn listen(&self) -> Listen {
        Listen { healthz: self.healthz_bind_address.0, metrics: self.metrics_bind_address.0 }
    }

    /// The node's IPv4 address, which it needs unless the proxy runs alone.
    pub fn ip(&self) -> Result<Ipv4Addr> {
        if let Some(ips) = self.node_ip {
            return ips.ip.context("--node-ip has no IPv4 address, which every node needs whose Pod network is ours");
        }
        let uplink = self.uplink()?;
        let found = first_ip4(&uplink)?;
        found.with_context(|| format!("link {uplink} has no IPv4 address; name the node's with --node-ip"))
    }

    /// The addresses of a node that has Pods of somebody else's: those named, else the first of each family.
    fn ips(&self) -> Result<Vec<IpAddr>> {
        let uplink = self.uplink()?;
        let (four, six) = match self.node_ip {
            Some(ips) => (ips.ip, ips.ip6),
            None => (first_ip4(&uplink)?, first_ip6(&uplink)),
        };
        let ips: Vec<IpAddr> = [four.map(IpAddr::V4), six.map(IpAddr::V6)].into_iter().flatten().collect();
        anyhow::ensure!(!ips.is_empty(), "link {uplink} has no address; name the node's with --node-ip");
        Ok(ips)
    }

    /// The node's IPv6 address, which it needs where its Pods have one.
    fn ip6(&self) -> Result<Option<Ipv6Addr>> {
        let named = self.node_ip.and_then(|ips| ips.ip6);
        if named.is_some() || Cidrs::from(self.cluster_cidr).v6.is_none() {
            return Ok(named);
        }
        let uplink = self.uplink()?;
        let found = first_ip6(&uplink);
        if found.is_none() {
            tracing::warn!(uplink, "no lasting IPv6 address: other nodes cannot reach this one's Pods over IPv6");
        }
        Ok(found)
    }

    /// What the agent is told.
    pub fn config(&self, join: Join) -> Result<Config> {
        Ok(Config {
            node_name: self.name()?,
            node_ip: self.ip()?,
            node_ip6: self.ip6()?,
            data_dir: std::path::absolute(&self.data.data_dir)?,
            join,
            uplink: self.uplink()?,
            cgroup_root: self.cgroup_root.clone().map_or_else(cgroup2, Ok)?,
            cgroup_parent: self.cgroup_parent.clone(),
            bpf_root: self.bpf_root.clone(),
            resolv_conf: self.resolv_conf.clone(),
            cluster_dns: self.cluster_dns,
            cluster_domain: self.cluster_domain.clone(),
            cluster_cidr: self.cluster_cidr.into(),
            service_cidr: self.service_cidr.into(),
            components: self.components(),
            lb_algorithm: self.lb_algorithm,
            lb_mode: self.load_balancer_mode,
            maps: self.maps()?,
            xdp: self.xdp,
            sandboxes: self.sandboxes(),
            announce_everyones: self.announce,
            listen: self.listen(),
            container_runtime: self
                .container_runtime_endpoint
                .as_ref()
                .map(|e| PathBuf::from(e.trim_start_matches("unix://"))),
            executable: std::env::current_exe().context("finding this executable")?,
        })
    }

    /// What a proxy on its own is told.
    pub fn standalone(&self, kubeconfig: PathBuf) -> Result<Standalone> {
        let node_ips = self.ips()?;
        let mut listen = self.listen();
        // "Everywhere" of a family that the node does not have is nowhere.
        if let Some(address) = listen.healthz.as_mut().filter(|address| address.ip() == Ipv4Addr::UNSPECIFIED)
            && !node_ips.iter().any(IpAddr::is_ipv4)
        {
            address.set_ip(Ipv6Addr::UNSPECIFIED.into());
        }
        Ok(Standalone {
            node_name: self.name()?,
            node_ips,
            kubeconfig,
            data_dir: std::path::absolute(&self.data.data_dir)?,
            uplink: self.uplink()?,
            cgroup_root: self.cgroup_root.clone().map_or_else(cgroup2, Ok)?,
            bpf_root: self.bpf_root.clone(),
            cluster_cidr: self.cluster_cidr.into(),
            lb_algorithm: self.lb_algorithm,
            lb_mode: self.load_balancer_mode,
            maps: self.maps()?,
            xdp: self.xdp,
            sandboxes: self.sandboxes(),
            listen,
            announce: self.announce,
        })
    }
}

/// A node's addresses, at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeIps {
    ip: Option<Ipv4Addr>,
    ip6: Option<Ipv6Addr>,
}

impl std::str::FromStr for NodeIps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut four, mut six) = (None, None);
        for part in text.split(',') {
            let twice = match part.trim().parse() {
                Ok(IpAddr::V4(ip)) => four.replace(ip).is_some(),
                Ok(IpAddr::V6(ip)) => six.replace(ip).is_some(),
                Err(_) => return Err(format!("{part:?} is not an address")),
            };
            if twice {
                return Err(format!("{text} has two addresses of one family"));
            }
        }
        Ok(Self { ip: four, ip6: six })
    }
}

fn first_ip4(link: &str) -> Result<Option<Ipv4Addr>> {
    let mut all = nix::ifaddrs::getifaddrs().context("listing this host's addresses")?;
    Ok(all.find_map(|a| a.address.filter(|_| a.interface_name == link)?.as_sockaddr_in().map(|ip| ip.ip())))
}

/// None on a kernel without IPv6 too: it has no such file.
fn first_ip6(link: &str) -> Option<Ipv6Addr> {
    std::fs::read_to_string("/proc/net/if_inet6").ok().and_then(|table| lasting_ip6(&table, link))
}

/// The first address of a link in /proc/net/if_inet6 that others can reach and that will stay.
fn lasting_ip6(table: &str, link: &str) -> Option<Ipv6Addr> {
    // linux/if_addr.h: of a while (IFA_F_TEMPORARY, _DEPRECATED), not known to be ours alone (_DADFAILED, _TENTATIVE).
    const PASSING: u8 = 0x01 | 0x20 | 0x08 | 0x40;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, scope, flags, name] = fields[..] else { return None };
        let global = scope == "00" && name == link;
        let passes = u8::from_str_radix(flags, 16).ok()? & PASSING != 0;
        (global && !passes).then(|| u128::from_str_radix(address, 16).ok().map(Ipv6Addr::from))?
    })
}

/// One range of addresses, or one of each family, in the order they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    pub primary: IpNetwork,
    pub secondary: Option<IpNetwork>,
}

impl From<Ranges> for Cidrs {
    fn from(ranges: Ranges) -> Self {
        let mut cidrs = Self::default();
        for range in [Some(ranges.primary), ranges.secondary].into_iter().flatten() {
            match range {
                IpNetwork::V4(v4) => cidrs.v4 = Some(v4),
                IpNetwork::V6(v6) => cidrs.v6 = Some(v6),
            }
        }
        cidrs
    }
}

impl std::str::FromStr for Ranges {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = |text: &str| match text.trim().parse::<IpNetwork>() {
            Ok(range) if range.network() == range.ip() => Ok(range),
            Ok(range) => {
                Err(format!("{text} has bits set beyond its prefix; is {}/{} meant?", range.network(), range.prefix()))
            }
            Err(_) => Err(format!("{text:?} is not ADDRESS/LENGTH")),
        };
        let mut ranges = text.split(',').map(range).collect::<Result<Vec<_>, _>>()?.into_iter();
        match (ranges.next(), ranges.next(), ranges.next()) {
            (Some(primary), secondary, None) if secondary.is_none_or(|s| s.is_ipv4() != primary.is_ipv4()) => {
                Ok(Self { primary, secondary })
            }
            _ => Err(format!("{text} is not one range, or one of each family")),
        }
    }
}

/// A part of the whole.
fn ratio(text: &str) -> Result<f64, String> {
    let read = text.parse::<f64>().ok().filter(|ratio| *ratio > 0.0 && *ratio <= 0.5);
    read.ok_or_else(|| format!("{text} is not above 0 and at most 0.5"))
}

/// An address to listen on, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BindAddress(Option<SocketAddr>);

/// `ADDRESS:PORT`, an address alone (with the usual port), or nothing, as kube-proxy takes them.
fn bind_address(text: &str, port: u16) -> Result<BindAddress, String> {
    if text.is_empty() {
        return Ok(BindAddress(None));
    }
    let alone = |_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port));
    let address = text.parse().or_else(alone).map_err(|_| format!("{text} is not ADDRESS:PORT"))?;
    Ok(BindAddress(Some(address)))
}

/// The link with the default route: that of IPv4, else that of IPv6.
pub fn default_uplink() -> Result<String> {
    let table = std::fs::read_to_string("/proc/net/route").context("reading /proc/net/route")?;
    // Without IPv6 the kernel has no such file.
    let table6 = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    uplink_in(&table)
        .or_else(|| uplink6_in(&table6))
        .context("this host has no default route to tell its uplink by; name it with --uplink")
}

fn uplink_in(table: &str) -> Option<String> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        (fields.len() > 7 && fields[1] == "00000000" && fields[7] == "00000000").then(|| fields[0].to_owned())
    })
}

fn uplink6_in(table: &str) -> Option<String> {
    /// linux/route.h: the route refuses (as the one that stands where there is none does).
    const RTF_REJECT: u32 = 0x0200;
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [destination, length, _, _, _, _, _, _, flags, link] = fields[..] else { return None };
        let refuses = u32::from_str_radix(flags, 16).ok()? & RTF_REJECT != 0;
        (destination.bytes().all(|b| b == b'0') && length == "00" && !refuses).then(|| link.to_owned())
    })
}

/// Where cgroup2 is mounted.
fn cgroup2() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    mounts
        .lines()
        .map(|l| l.split(' ').collect::<Vec<_>>())
        .find(|f| f.len() > 2 && f[2] == "cgroup2")
        .map(|f| PathBuf::from(f[1]))
        .context("no cgroup2 file system is mounted; the socket hooks need one (mount -t cgroup2 none /sys/fs/cgroup)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_one_or_one_of_each_family() {
        let read = |text: &str| text.parse::<Ranges>();
        let net = |text: &str| text.parse::<IpNetwork>().unwrap();
        let one = Ranges { primary: net("10.244.0.0/16"), secondary: None };
        assert_eq!(read("10.244.0.0/16"), Ok(one));
        let two = Ranges { primary: net("fd00::/56"), secondary: Some(net("10.244.0.0/16")) };
        assert_eq!(read("fd00::/56, 10.244.0.0/16"), Ok(two));
        assert_eq!(Cidrs::from(two).to_string(), "10.244.0.0/16,fd00::/56");
        assert!(read("10.244.0.0/16,10.245.0.0/16").unwrap_err().contains("one of each family"));
        assert!(read("10.244.0.0/16,fd00::/56,fd01::/56").is_err());
        assert!(read("10.244.1.0/16").unwrap_err().contains("10.244.0.0/16"));
        assert!(read("10.244.0.0/16,").unwrap_err().contains("ADDRESS/LENGTH"));
    }

    #[test]
    fn a_node_has_an_address_of_each_family_at_most() {
        let read = |text: &str| text.parse::<NodeIps>();
        let (ip, ip6) = (Some(Ipv4Addr::new(192, 0, 2, 1)), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(read("192.0.2.1"), Ok(NodeIps { ip, ip6: None }));
        assert_eq!(read("2001:db8::1,192.0.2.1"), Ok(NodeIps { ip, ip6 }));
        assert_eq!(read("2001:db8::1"), Ok(NodeIps { ip: None, ip6 }));
        assert!(read("192.0.2.1,192.0.2.2").unwrap_err().contains("two addresses of one family"));
    }

    #[test]
    fn the_uplink_has_the_default_route_of_ipv4_or_of_ipv6() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     eth1\t0001F40A\t00000000\t0001\t0\t0\t0\t00FFFFFF\n\
                     eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\n";
        assert_eq!(uplink_in(table).as_deref(), Some("eth0"));
        let (any, none) = ("0".repeat(32), "0".repeat(32));
        let refusing = format!("{any} 00 {none} 00 {none} ffffffff 00000001 00000000 00200200 lo\n");
        assert_eq!(uplink6_in(&refusing), None);
        let via = "fd5b7261020100000000000000000001";
        let route = format!("{refusing}{any} 00 {none} 00 {via} 00000400 00000001 00000000 00000003 eth2\n");
        assert_eq!(uplink6_in(&route).as_deref(), Some("eth2"));
    }

    #[test]
    fn a_nodes_ipv6_address_is_one_that_lasts() {
        let table = "\
            fe800000000000000000000000000001 02 40 20 80     eth0\n\
            fd000000000000000000000000000009 03 40 00 80     eth1\n\
            fd000000000000000000000000000002 02 40 00 01     eth0\n\
            fd000000000000000000000000000003 02 40 00 a0     eth0\n\
            fd000000000000000000000000000004 02 40 00 80     eth0\n";
        assert_eq!(lasting_ip6(table, "eth0").unwrap().to_string(), "fd00::4");
        assert_eq!(lasting_ip6(table, "eth2"), None);
    }

    #[test]
    fn bind_addresses_are_read_as_kube_proxy_reads_them() {
        let address = |text: &str| bind_address(text, 10256).map(|address| address.0);
        assert_eq!(address("127.0.0.1:80"), Ok(Some("127.0.0.1:80".parse().unwrap())));
        assert_eq!(address("::"), Ok(Some("[::]:10256".parse().unwrap())));
        assert_eq!(address(""), Ok(None));
        assert!(address("nowhere").is_err());
    }
}
