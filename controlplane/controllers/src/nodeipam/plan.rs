//! Cutting the cluster's networks into one Pod CIDR a node, of each family.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Prefix length of one node's part of a network (stock's defaults).
pub fn node_cidr_mask(network: IpNetwork) -> u8 {
    if network.is_ipv4() { 24 } else { 64 }
}

/// A pool for each of the cluster's networks.
#[derive(Debug)]
pub struct Pools(Vec<Pool>);

impl Pools {
    /// The parts of each network, in this order.
    pub fn new(networks: impl IntoIterator<Item = IpNetwork>) -> Self {
        Pools(networks.into_iter().map(|network| Pool::new(network, node_cidr_mask(network))).collect())
    }

    /// Notes that `node` has `cidr`. A network outside the pools takes nothing from them.
    pub fn occupy(&mut self, node: &str, cidr: &str) {
        self.0.iter_mut().for_each(|pool| pool.occupy(node, cidr));
    }

    /// Gives back what `node` had.
    pub fn release(&mut self, node: &str) {
        self.0.iter_mut().for_each(|pool| pool.release(node));
    }

    /// The networks of `node`, those it has or the lowest free ones. None when those of a family are all taken: a node
    /// is never given the other alone.
    pub fn assign(&mut self, node: &str) -> Option<Vec<String>> {
        self.0.iter_mut().map(|pool| pool.assign(node)).collect()
    }
}

/// Pod CIDRs by number: which node has which. One node may be known before its number is (`assign`).
#[derive(Debug)]
struct Pool {
    network: IpNetwork,
    mask: u8,
    used: BTreeMap<u64, String>,
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

impl Pool {
    /// The /`mask` parts of `network`, which is not smaller than one.
    fn new(network: IpNetwork, mask: u8) -> Self {
        Pool { network, mask: mask.max(network.prefix()), used: BTreeMap::new() }
    }

    /// How many nodes fit.
    fn size(&self) -> u64 {
        1 << (self.mask - self.network.prefix()).min(63)
    }

    /// How many bits of an address come after a part's number.
    fn shift(&self) -> u8 {
        let width = if self.network.is_ipv4() { 32 } else { 128 };
        width - self.mask
    }

    /// `10.244.3.0/24` as a number of this pool; None if it is not one of its networks.
    fn number(&self, cidr: &str) -> Option<u64> {
        let cidr: IpNetwork = cidr.parse().ok()?;
        let fits = cidr.prefix() == self.mask && self.network.contains(cidr.ip()) && cidr.network() == cidr.ip();
        // /0 has one part, of number 0; a shift by the whole width would not do.
        let offset = bits(cidr.ip()) - bits(self.network.network()).min(bits(cidr.ip()));
        let number = offset.checked_shr(self.shift().into()).unwrap_or(0);
        u64::try_from(number).ok().filter(|number| fits && *number < self.size())
    }

    /// The part of a number.
    fn part(&self, number: u64) -> String {
        let offset = u128::from(number).checked_shl(self.shift().into()).unwrap_or(0);
        let address = bits(self.network.network()) + offset;
        let address: IpAddr = match self.network {
            // The number is below the size: the sum is below 2^32.
            IpNetwork::V4(_) => Ipv4Addr::from(u32::try_from(address).unwrap_or(u32::MAX)).into(),
            IpNetwork::V6(_) => Ipv6Addr::from(address).into(),
        };
        format!("{address}/{}", self.mask)
    }

    fn occupy(&mut self, node: &str, cidr: &str) {
        if let Some(n) = self.number(cidr) {
            self.used.entry(n).or_insert_with(|| node.to_string());
        }
    }

    fn release(&mut self, node: &str) {
        self.used.retain(|_, n| n != node);
    }

    fn assign(&mut self, node: &str) -> Option<String> {
        if let Some((number, _)) = self.used.iter().find(|(_, n)| *n == node) {
            return Some(self.part(*number));
        }
        // The first gap in the ordered numbers.
        let gap = self.used.keys().zip(0u64..).find(|(used, i)| *used != i).map(|(_, i)| i);
        let free = gap.unwrap_or(self.used.len() as u64);
        if free >= self.size() {
            return None;
        }
        self.used.insert(free, node.to_string());
        Some(self.part(free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(networks: &[&str]) -> Pools {
        Pools::new(networks.iter().map(|network| network.parse().unwrap()))
    }

    #[test]
    fn the_lowest_free_network_is_given_and_kept() {
        let mut p = pools(&["10.244.0.0/16"]);
        p.occupy("b", "10.244.1.0/24");
        p.occupy("x", "10.9.0.0/24");
        p.occupy("y", "10.244.0.0/25");
        assert_eq!(p.assign("a").unwrap(), ["10.244.0.0/24"]);
        assert_eq!(p.assign("a").unwrap(), ["10.244.0.0/24"]);
        assert_eq!(p.assign("c").unwrap(), ["10.244.2.0/24"]);
        p.release("b");
        assert_eq!(p.assign("d").unwrap(), ["10.244.1.0/24"]);
    }

    #[test]
    fn a_dual_stack_node_has_a_network_of_each_family() {
        let mut p = pools(&["10.244.0.0/16", "fd00:10:244::/56"]);
        assert_eq!(p.assign("a").unwrap(), ["10.244.0.0/24", "fd00:10:244::/64"]);
        p.occupy("b", "fd00:10:244:1::/64");
        assert_eq!(p.assign("c").unwrap(), ["10.244.1.0/24", "fd00:10:244:2::/64"]);
        p.occupy("d", "fd00:10:244:ff::/64");
        p.occupy("e", "fd00:10:245::/64");
        p.release("a");
        assert_eq!(p.assign("f").unwrap(), ["10.244.0.0/24", "fd00:10:244::/64"]);
    }

    #[test]
    fn an_exhausted_pool_says_so() {
        let mut p = pools(&["10.0.0.0/23"]);
        assert!(p.assign("a").is_some() && p.assign("b").is_some());
        assert_eq!(p.assign("c"), None);
        p.release("a");
        assert_eq!(p.assign("c").unwrap(), ["10.0.0.0/24"]);
        let mut p = pools(&["10.0.0.0/16", "fd00::/64"]);
        assert!(p.assign("a").is_some());
        assert_eq!(p.assign("b"), None, "the other family alone is not given");
    }
}
