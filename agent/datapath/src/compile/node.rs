//! The node itself: its row in `CONFIG` and its addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnetwork::IpNetwork;
use strake_abi::addr::{Addr6, Cidr4, Cidr6};
use strake_abi::config as abi_config;
use strake_abi::endpoint::{NODE_LOCAL, NODE_REMOTE};
use strake_state::World;

use super::v4;
use crate::cidrs::Cidrs;
use crate::config::{Config, LbMode};
use crate::hash::HashMap;

/// Idle seconds of flows in the packet path, as nf_conntrack has them by default.
const UDP_TIMEOUT_S: u32 = 120;
const TCP_TIMEOUT_S: u32 = 86_400;
const TCP_CLOSING_TIMEOUT_S: u32 = 120;

/// What is known of the running node beside its configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runtime {
    /// 0 if there is no uplink.
    pub uplink_ifindex: u32,
    /// Longest IP packet that it takes; 0 if unknown.
    pub uplink_mtu: u32,
    /// 0 if unknown.
    pub host_netns_cookie: u64,
}

/// This node's addresses, from the configuration or the Node object.
#[derive(Default)]
pub(super) struct NodeView {
    pub name: Arc<str>,
    pub ip: Option<Ipv4Addr>,
    pub addresses: Vec<IpAddr>,
    pub ip6: Option<Ipv6Addr>,
    pub pod_cidr: Option<ipnetwork::Ipv4Network>,
    pub pod_cidr6: Option<ipnetwork::Ipv6Network>,
    /// `pod_cidr` and those of the Node object.
    pub pod_cidrs: Vec<IpNetwork>,
    pub zone: Option<Arc<str>>,
}

impl NodeView {
    pub(super) fn of(world: &World, config: &Config) -> Self {
        let object = world.nodes.get(config.node_name.as_str());
        let mut addresses = config.node_ips.clone();
        for ip in object.iter().flat_map(|node| node.internal_ips.iter().chain(&node.external_ips)) {
            if !addresses.contains(ip) {
                addresses.push(*ip);
            }
        }
        let assigned = object.iter().flat_map(|node| &node.pod_cidrs);
        let mut pod_cidrs: Vec<IpNetwork> = config.pod_cidr.into_iter().map(IpNetwork::V4).collect();
        pod_cidrs.extend(assigned.filter(|cidr| cidr.is_ipv6() || config.pod_cidr.is_none()));
        let pod_cidr = pod_cidrs.iter().find_map(|cidr| match cidr {
            IpNetwork::V4(cidr) => Some(*cidr),
            IpNetwork::V6(_) => None,
        });
        Self {
            name: config.node_name.as_str().into(),
            ip: addresses.iter().find_map(v4),
            ip6: addresses.iter().find_map(v6),
            addresses,
            pod_cidr,
            pod_cidr6: pod_cidrs.iter().find_map(|cidr| match cidr {
                IpNetwork::V4(_) => None,
                IpNetwork::V6(cidr) => Some(*cidr),
            }),
            pod_cidrs,
            zone: object.and_then(|node| node.zone.clone()),
        }
    }
}

fn cidr(network: ipnetwork::Ipv4Network) -> Cidr4 {
    Cidr4::new(network.ip(), network.prefix())
}

fn cidr6(network: ipnetwork::Ipv6Network) -> Cidr6 {
    Cidr6::new(network.ip(), network.prefix())
}

fn v6(ip: &IpAddr) -> Option<Ipv6Addr> {
    match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => Some(*ip),
    }
}

pub(super) fn node_config(config: &Config, node: &NodeView, runtime: Runtime) -> abi_config::Config {
    let flag = |on: bool, bit: u32| if on { bit } else { 0 };
    // Another proxy's Services are not ours to refuse.
    let services = if config.services { config.service_cidr } else { Cidrs::default() };
    abi_config::Config {
        abi_version: strake_abi::ABI_VERSION,
        flags: flag(config.masquerade && runtime.uplink_ifindex != 0 && node.ip.is_some(), abi_config::MASQUERADE)
            | flag(config.dns, abi_config::DNS)
            | flag(config.track_all, abi_config::TRACK_ALL)
            | flag(config.events, abi_config::EVENTS)
            // Another proxy's translation sits between the Pods, in the node's own stack.
            | flag(config.services, abi_config::DIRECT)
            | flag(config.services && config.lb_mode == LbMode::Dsr, abi_config::DSR),
        node_ip: node.ip.unwrap_or(Ipv4Addr::UNSPECIFIED).into(),
        cluster_dns: if config.dns { config.cluster_dns } else { Ipv4Addr::UNSPECIFIED }.into(),
        pod_gateway: config.pod_gateway.into(),
        uplink_ifindex: runtime.uplink_ifindex,
        uplink_mtu: runtime.uplink_mtu,
        pod_cidr: node.pod_cidr.map(cidr).unwrap_or_default(),
        cluster_cidr: config.cluster_cidr.v4.map(cidr).unwrap_or_default(),
        service_cidr: services.v4.map(cidr).unwrap_or_default(),
        snat_port_min: config.snat_ports.0,
        snat_port_max: config.snat_ports.1,
        node_port_min: config.node_ports.0,
        node_port_max: config.node_ports.1,
        host_netns_cookie: runtime.host_netns_cookie,
        event_quiet_us: strake_abi::flow::EVENT_QUIET_US,
        udp_timeout_s: UDP_TIMEOUT_S,
        tcp_timeout_s: TCP_TIMEOUT_S,
        tcp_closing_timeout_s: TCP_CLOSING_TIMEOUT_S,
        node_ip6: node.ip6.map_or(Addr6::ANY, Addr6::from),
        pod_gateway6: config.pod_gateway6.into(),
        pod_cidr6: node.pod_cidr6.map(cidr6).unwrap_or_default(),
        cluster_cidr6: config.cluster_cidr.v6.map(cidr6).unwrap_or_default(),
        service_cidr6: services.v6.map(cidr6).unwrap_or_default(),
        ..abi_config::Config::default()
    }
}

/// Of this node and of the others: masquerade asks for them.
pub(super) fn nodes(world: &World, this: &NodeView) -> Vec<(Addr6, u32)> {
    let mut rows: HashMap<Addr6, u32> = HashMap::default();
    for node in world.nodes.values().filter(|node| node.name != this.name) {
        for ip in node.internal_ips.iter().chain(&node.external_ips) {
            rows.insert((*ip).into(), NODE_REMOTE);
        }
    }
    let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for ip in this.addresses.iter().copied().chain(loopback) {
        rows.insert(ip.into(), NODE_LOCAL);
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort();
    rows
}
