//! Who may use a Service's LoadBalancer IPs (`loadBalancerSourceRanges`), as kube-proxy has it.
//!
//! * ClusterIPs, NodePorts and external IPs are not restricted.
//! * Each family for itself: ranges of one restrict the LoadBalancer IPs of that one only.
//! * A range of all addresses, or no range at all (of the family, that can be read), restricts nothing.
//! * A restriction is for new connections, of clients outside, Pods and the node alike.
//!
//! May not know: how a client's address is compared.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use strake_abi::service::{SERVICE_ADMITS_NODE, SERVICE_ADMITS_PODS};
use strake_state::Service;

use super::{Compiler, Family};

/// What a Service's LoadBalancer IPs of one family are restricted to.
#[derive(Clone, Copy, Default)]
pub(super) struct Sources {
    /// Index into `Desired::source_lists`; None if they are not.
    pub list: Option<usize>,
    /// `SERVICE_*` of these frontends.
    pub flags: u32,
}

impl Compiler<'_> {
    pub(super) fn sources(&mut self, object: &str, service: &Service, family: Family) -> Sources {
        let asked = &service.load_balancer_source_ranges;
        let restricts = !asked.is_empty() || !service.invalid_source_ranges.is_empty();
        if !restricts || !service.load_balancer_ips.iter().any(|ip| Family::of(ip) == family) {
            return Sources::default();
        }
        for text in &service.invalid_source_ranges {
            self.warn(object, format!("{text:?} in its loadBalancerSourceRanges is no range and is left out"));
        }
        let of_family = |range: &&IpNetwork| Family::of(&range.ip()) == family;
        let mut ranges: Vec<IpNetwork> = asked.iter().filter(of_family).copied().collect();
        if ranges.is_empty() {
            let message = format!(
                "none of its loadBalancerSourceRanges is one of {}, so its LoadBalancer IPs of that family are open to \
                 all, as kube-proxy has it",
                family.as_str()
            );
            self.warn(object, message);
            return Sources::default();
        }
        if ranges.iter().any(|range| range.prefix() == 0) {
            return Sources::default();
        }
        ranges.sort();
        ranges.dedup();
        let node = self.node.addresses.iter().find(|ip| Family::of(ip) == family);
        let node = node.is_some_and(|ip: &IpAddr| ranges.iter().any(|range| range.contains(*ip)));
        let holds = |pods: &IpNetwork| ranges.iter().any(|r| r.prefix() <= pods.prefix() && r.contains(pods.network()));
        let mut pod_cidrs = self.node.pod_cidrs.iter().filter(|cidr| Family::of(&cidr.ip()) == family).peekable();
        let mut pods = pod_cidrs.peek().is_some() && pod_cidrs.all(holds);
        if !pods && !self.config.host_ports {
            let message = "Pods of this node are refused at its LoadBalancer IPs: another plugin gives them addresses, \
                           so that their sockets do not show which one, and its loadBalancerSourceRanges do not hold \
                           the node's whole podCIDR";
            self.warn(object, message.into());
        }
        // Without cookies of namespaces the node's own processes are not told from Pods.
        pods &= node || self.desired.config.host_netns_cookie != 0;
        let flag = |on: bool, bit: u32| if on { bit } else { 0 };
        let flags = flag(node, SERVICE_ADMITS_NODE) | flag(pods, SERVICE_ADMITS_PODS);
        let desired = &mut self.desired.source_lists;
        let list = *self.source_lists.entry(ranges).or_insert_with_key(|ranges| {
            desired.push(ranges.clone());
            desired.len() - 1
        });
        Sources { list: Some(list), flags }
    }
}
