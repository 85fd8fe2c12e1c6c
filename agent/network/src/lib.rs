//! Pod plumbing: the CNI plugin, the addresses it hands out, and the node's links and routes.
//!
//! ```text
//!   Pod netns                      node netns
//!   eth0  10.244.1.7/32  <-veth->  veth1f2e3d4c      route 10.244.1.7/32 dev veth1f2e3d4c
//!   default via 169.254.1.1        (from_pod here)   route 10.244.2.0/24 via <node 2>
//! ```
//!
//! A Pod sees one link and one neighbour, 169.254.1.1, whose hardware address is pinned to the host side of its veth:
//! nothing is learnt by ARP in either direction, so nothing can be poisoned.
//!
//! Knows links, addresses and routes. It knows neither Services nor BPF: an interface that is ready is reported to the
//! agent over its local API, which attaches the datapath.
#![forbid(unsafe_code)]

pub mod cni;
pub mod endpoint;
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
    #[error("no link named {0} in this network namespace")]
    NoLink(String),
    #[error("all {capacity} addresses of the node's Pod CIDR {cidr} are taken")]
    Exhausted { cidr: ipnetwork::Ipv4Network, capacity: u32 },
    #[error("Pod CIDR {0} is smaller than a /30 and leaves no address for a Pod")]
    CidrTooSmall(ipnetwork::Ipv4Network),
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

    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
