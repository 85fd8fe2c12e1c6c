//! What a control plane must be told.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use ipnetwork::IpNetwork;
use strake_apiserver::Config as ApiConfig;
use strake_controllers::lbipam::AddressPool;

/// A part that can be left to its stock counterpart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The controllers.
    Controllers,
    /// The scheduler.
    Scheduler,
}

/// A name that is no [`Component`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no component that can be disabled; there are: controllers, scheduler")]
pub struct UnknownComponent(pub String);

impl FromStr for Component {
    type Err = UnknownComponent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "controllers" | "controller-manager" | "kube-controller-manager" => Ok(Self::Controllers),
            "scheduler" | "kube-scheduler" => Ok(Self::Scheduler),
            other => Err(UnknownComponent(other.to_owned())),
        }
    }
}

/// Why a cluster cannot have the ranges it is told to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRange {
    /// Two of one family.
    #[error("{flag} has two ranges of one family; give one, or one of each family")]
    OneFamily { flag: &'static str },
    /// No room for a node, or for more than are counted.
    #[error(
        "--cluster-cidr {range} cannot be cut into a /{node} for each node; give a prefix from /{widest} to /{node}"
    )]
    Nodes { range: IpNetwork, node: u8, widest: u8 },
    /// Too few addresses, or more than are counted.
    #[error("--service-cidr {range} has too many or too few addresses; give a prefix from /{widest} to /{narrowest}")]
    Services { range: IpNetwork, widest: u8, narrowest: u8 },
    /// The `kubernetes` Service could not lead to the server.
    #[error(
        "the first range of --service-cidr, {range}, is not of the family of the advertised address {advertise}; give \
         the other range first, or another --advertise-address"
    )]
    Advertised { range: IpNetwork, advertise: IpAddr },
    /// An address would be a Pod's or a Service's already.
    #[error(
        "--load-balancer-pool has {part}, and {flag} {range} has addresses of that too; give addresses of the nodes' own \
         network that nobody uses"
    )]
    PoolOverlaps { part: String, flag: &'static str, range: IpNetwork },
}

/// Configuration of [`crate::start`].
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Everything is kept below this directory.
    pub data_dir: PathBuf,
    /// Where the API listens.
    pub bind: SocketAddr,
    /// The address under which nodes reach the API.
    pub advertise: IpAddr,
    /// Further names and addresses of the API server, for its certificate.
    pub names: Vec<String>,
    /// Pod CIDRs are cut from here.
    pub cluster_cidr: IpNetwork,
    /// And from here those of the other family.
    pub secondary_cluster_cidr: Option<IpNetwork>,
    /// ClusterIPs come from here; its family is the default one of Services.
    pub service_cidr: IpNetwork,
    /// And from here those of the other family.
    pub secondary_service_cidr: Option<IpNetwork>,
    /// LoadBalancer Services get addresses of this pool; none: they wait for somebody else's.
    pub load_balancer_pool: Option<AddressPool>,
    /// The ClusterIP of the cluster's DNS.
    pub cluster_dns: Ipv4Addr,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// Parts that are not started.
    pub disabled: BTreeSet<Component>,
}

impl ServerConfig {
    /// The cluster's usual values: port 6443 on all addresses, 10.244.0.0/16 for Pods, 10.96.0.0/16 for Services.
    pub fn new(data_dir: impl Into<PathBuf>, advertise: IpAddr) -> Self {
        let api = ApiConfig::new(SocketAddr::from(([0, 0, 0, 0], 6443)), advertise);
        // 10.244.0.0/16 is a valid network.
        let pods = IpAddr::from([10, 244, 0, 0]);
        Self {
            data_dir: data_dir.into(),
            bind: api.bind,
            advertise,
            names: Vec::new(),
            cluster_cidr: IpNetwork::new(pods, 16).unwrap_or_else(|_| IpNetwork::from(pods)),
            secondary_cluster_cidr: None,
            service_cidr: api.service_cidr,
            secondary_service_cidr: None,
            load_balancer_pool: None,
            cluster_dns: api.cluster_dns,
            cluster_domain: api.cluster_domain,
            disabled: BTreeSet::new(),
        }
    }

    /// Refuses ranges that nothing could be given from.
    pub(crate) fn check(&self) -> Result<(), InvalidRange> {
        let pairs = [
            ("--cluster-cidr", self.cluster_cidr, self.secondary_cluster_cidr),
            ("--service-cidr", self.service_cidr, self.secondary_service_cidr),
        ];
        for (flag, primary, secondary) in pairs {
            if secondary.is_some_and(|secondary| secondary.is_ipv4() == primary.is_ipv4()) {
                return Err(InvalidRange::OneFamily { flag });
            }
        }
        for range in std::iter::once(self.cluster_cidr).chain(self.secondary_cluster_cidr) {
            // Upstream counts 2^16 nodes at most.
            let node = strake_controllers::node_cidr_mask(range);
            if range.prefix() > node || node - range.prefix() > 16 {
                return Err(InvalidRange::Nodes { range, node, widest: node - 16 });
            }
        }
        for range in std::iter::once(self.service_cidr).chain(self.secondary_service_cidr) {
            let (widest, narrowest) = if range.is_ipv4() { (8, 29) } else { (64, 125) };
            if !(widest..=narrowest).contains(&range.prefix()) {
                return Err(InvalidRange::Services { range, widest, narrowest });
            }
        }
        for (flag, primary, secondary) in pairs {
            for range in std::iter::once(primary).chain(secondary) {
                if let Some(part) = self.load_balancer_pool.as_ref().and_then(|pool| pool.overlap(range)) {
                    return Err(InvalidRange::PoolOverlaps { part, flag, range });
                }
            }
        }
        if self.service_cidr.is_ipv4() != self.advertise.is_ipv4() {
            return Err(InvalidRange::Advertised { range: self.service_cidr, advertise: self.advertise });
        }
        Ok(())
    }

    /// The API server's part.
    pub(crate) fn api(&self) -> ApiConfig {
        ApiConfig {
            service_cidr: self.service_cidr,
            secondary_service_cidr: self.secondary_service_cidr,
            cluster_dns: self.cluster_dns,
            cluster_domain: self.cluster_domain.clone(),
            ..ApiConfig::new(self.bind, self.advertise)
        }
    }

    /// Where clients in this process reach the API.
    pub(crate) fn local_address(&self) -> IpAddr {
        if self.bind.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { self.bind.ip() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_cannot_be_are_refused_by_name() {
        let with = |change: &dyn Fn(&mut ServerConfig)| {
            let mut config = ServerConfig::new("/nowhere", IpAddr::from([192, 0, 2, 1]));
            change(&mut config);
            config.check().map_err(|error| error.to_string())
        };
        let net = |text: &str| text.parse::<IpNetwork>().unwrap();
        assert_eq!(with(&|_| ()), Ok(()));
        assert_eq!(
            with(&|c| {
                c.secondary_cluster_cidr = Some(net("fd00:10:244::/56"));
                c.secondary_service_cidr = Some(net("fd00:10:96::/112"));
            }),
            Ok(())
        );
        let refused = |change: &dyn Fn(&mut ServerConfig)| with(change).unwrap_err();
        assert!(
            refused(&|c| c.secondary_service_cidr = Some(net("10.97.0.0/16"))).starts_with("--service-cidr has two")
        );
        assert!(refused(&|c| c.secondary_cluster_cidr = Some(net("fd00::/96"))).contains("a prefix from /48 to /64"));
        assert!(refused(&|c| c.secondary_cluster_cidr = Some(net("fd00::/40"))).contains("a prefix from /48 to /64"));
        assert!(refused(&|c| c.cluster_cidr = net("10.244.0.0/25")).contains("a prefix from /8 to /24"));
        assert!(refused(&|c| c.secondary_service_cidr = Some(net("fd00::/48"))).contains("from /64 to /125"));
        let pool = |text: &str| Some(text.parse::<AddressPool>().unwrap());
        assert_eq!(with(&|c| c.load_balancer_pool = pool("192.0.2.10-192.0.2.40,fd00:192::/120")), Ok(()));
        let both = refused(&|c| c.load_balancer_pool = pool("192.0.2.0/28,10.96.255.0-10.97.0.9"));
        assert!(both.contains("has 10.96.255.0-10.97.0.9, and --service-cidr 10.96.0.0/16 has"), "{both}");
        assert!(refused(&|c| c.load_balancer_pool = pool("10.0.0.0/8")).contains("--cluster-cidr 10.244.0.0/16"));
        assert!(refused(&|c| c.service_cidr = net("fd00::/112")).contains("give the other range first"));
    }
}
