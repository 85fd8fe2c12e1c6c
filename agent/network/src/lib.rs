//! Pod plumbing: the CNI plugin, the addresses it hands out, and the node's links and routes.
//!
//! ```text
//!   Pod netns                      node netns
//!   eth0  10.244.1.7/32  <-veth->  veth1f2e3d4c      route 10.244.1.7/32 dev veth1f2e3d4c
//!   default via 169.254.1.1        (from_pod here)   route 10.244.2.0/24 via <node 2>
//! ```
//!
//! A Pod sees one link and one neighbour, 169.254.1.1, whose hardware address is pinned to the host side of its veth:
//! nothing is learnt by ARP in either direction, so nothing can be poisoned. On a node with an IPv6 Pod CIDR the same holds
//! for IPv6: an address /128, the neighbour fe80::1, and no router advertisement believed.
//!
//! Knows links, addresses and routes. It knows neither Services nor BPF: an interface that is ready is reported to the
//! agent over its local API, which attaches the datapath.
#![forbid(unsafe_code)]

pub mod cni;
pub mod endpoint;
#[doc(hidden)]
pub mod fuzz;
pub mod ipam;
pub mod link;
pub mod node;
pub mod routes;

use std::{io, path::PathBuf};

/// What can go wrong below Kubernetes. Each names the thing it was done to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Netlink { what: String, source: rtnetlink::Error },
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("{path} is not JSON of an endpoint: {source}")]
    EndpointFile { path: PathBuf, source: serde_json::Error },
    #[error("{what}: {why}")]
    Route { what: String, why: String },
    #[error("no link named {0} in this network namespace")]
    NoLink(String),
    #[error("all {capacity} addresses of the node's Pod CIDR {cidr} are taken")]
    Exhausted { cidr: ipnetwork::IpNetwork, capacity: u128 },
    #[error("Pod CIDR {cidr} is smaller than a /{narrowest} and leaves no address for a Pod")]
    CidrTooSmall { cidr: ipnetwork::IpNetwork, narrowest: u8 },
    #[error("opening network namespace {path}: {source}")]
    Netns { path: PathBuf, source: io::Error },
    #[error("entering network namespace {path}: {source}")]
    Enter { path: PathBuf, source: nix::Error },
    #[error(transparent)]
    Agent(#[from] strake_agent_api::Error),
    #[error("the agent refused the endpoint: {}", .0.message())]
    Refused(Box<tonic::Status>),
}

impl Error {
    pub(crate) fn netlink(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Self {
        let what = what.into();
        move |source| Self::Netlink { what, source }
    }

    /// Of a route that cannot be, such as one to IPv6 through an IPv4 gateway.
    pub(crate) fn route<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |why| Self::Route { what, why: why.to_string() }
    }

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
