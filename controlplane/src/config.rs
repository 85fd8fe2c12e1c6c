//! What a control plane must be told.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use ipnetwork::Ipv4Network;
use strake_apiserver::Config as ApiConfig;

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
    pub cluster_cidr: Ipv4Network,
    /// ClusterIPs come from here.
    pub service_cidr: Ipv4Network,
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
        let pods = Ipv4Addr::new(10, 244, 0, 0);
        Self {
            data_dir: data_dir.into(),
            bind: api.bind,
            advertise,
            names: Vec::new(),
            cluster_cidr: Ipv4Network::new(pods, 16).unwrap_or_else(|_| Ipv4Network::from(pods)),
            service_cidr: api.service_cidr,
            cluster_dns: api.cluster_dns,
            cluster_domain: api.cluster_domain,
            disabled: BTreeSet::new(),
        }
    }

    /// The API server's part.
    pub(crate) fn api(&self) -> ApiConfig {
        ApiConfig {
            service_cidr: self.service_cidr,
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
