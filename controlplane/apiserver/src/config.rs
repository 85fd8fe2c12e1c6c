//! What an API server must be told.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use ipnetwork::IpNetwork;

/// Configuration of [`crate::serve`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen; port 0 for any.
    pub bind: SocketAddr,
    /// The address under which others reach this server: the endpoint of the `kubernetes` Service.
    pub advertise: IpAddr,
    /// ClusterIPs come from here; the first one is the `kubernetes` Service.
    pub service_cidr: IpNetwork,
    /// And from here those of the other family, in a dual-stack cluster.
    pub secondary_service_cidr: Option<IpNetwork>,
    /// NodePorts come from here.
    pub node_ports: RangeInclusive<u16>,
    /// The ClusterIP of kube-system/kube-dns.
    pub cluster_dns: Ipv4Addr,
    /// The cluster's DNS domain, `cluster.local`.
    pub cluster_domain: String,
    /// Events are forgotten after this time.
    pub event_ttl: Duration,
    /// The port of every kubelet's HTTPS server, unless its Node says otherwise.
    pub kubelet_port: u16,
    /// Reading requests served at once; more are answered 429.
    pub max_reads: usize,
    /// Changing requests served at once; more are answered 429.
    pub max_writes: usize,
}

impl Config {
    /// Stock's numbers, listening on `bind` and advertised as `advertise`.
    pub fn new(bind: SocketAddr, advertise: IpAddr) -> Self {
        // 10.96.0.0/16 is a valid network.
        let first = IpAddr::from([10, 96, 0, 0]);
        let service_cidr = IpNetwork::new(first, 16).unwrap_or_else(|_| IpNetwork::from(first));
        Self {
            bind,
            advertise,
            service_cidr,
            secondary_service_cidr: None,
            node_ports: 30_000..=32_767,
            cluster_dns: Ipv4Addr::new(10, 96, 0, 10),
            cluster_domain: "cluster.local".to_owned(),
            event_ttl: Duration::from_secs(3600),
            kubelet_port: 10_250,
            max_reads: 400,
            max_writes: 200,
        }
    }

    /// Where ClusterIPs come from: the cluster's default family first.
    pub fn service_cidrs(&self) -> impl Iterator<Item = IpNetwork> + use<> {
        std::iter::once(self.service_cidr).chain(self.secondary_service_cidr)
    }

    /// The ClusterIP of the `kubernetes` Service: the first of the default family.
    pub fn kubernetes_ip(&self) -> IpAddr {
        match self.service_cidr.network() {
            IpAddr::V4(network) => Ipv4Addr::from(u32::from(network) | 1).into(),
            IpAddr::V6(network) => Ipv6Addr::from(u128::from(network) | 1).into(),
        }
    }
}
