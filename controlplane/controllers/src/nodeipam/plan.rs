//! Cutting the cluster's network into one Pod CIDR a node.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Pod CIDRs by number: which node has which. One node may be known before its number is (`assign`).
#[derive(Debug)]
pub struct Pool {
    base: u32,
    prefix: u8,
    mask: u8,
    used: BTreeMap<u32, String>,
}

impl Pool {
    /// The /`mask` networks of `network`/`prefix`; `mask` is not shorter than `prefix` and at most 30.
    pub fn new(network: Ipv4Addr, prefix: u8, mask: u8) -> Self {
        let (prefix, mask) = (prefix.min(30), mask.clamp(prefix.min(30), 30));
        let keep = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Pool { base: u32::from(network) & keep, prefix, mask, used: BTreeMap::new() }
    }

    /// How many nodes fit.
    pub fn size(&self) -> u64 {
        1 << (self.mask - self.prefix)
    }

    /// `10.244.3.0/24` as a number of this pool; None if it is not one of its networks.
    fn number(&self, cidr: &str) -> Option<u32> {
        let (address, mask) = cidr.split_once('/')?;
        let address = u32::from(address.parse::<Ipv4Addr>().ok()?);
        let offset = address.checked_sub(self.base)?;
        let step = 1u32 << (32 - self.mask);
        let fits = mask.parse() == Ok(self.mask) && offset % step == 0 && u64::from(offset / step) < self.size();
        fits.then_some(offset / step)
    }

    /// Notes that `node` has `cidr`. A network outside the pool takes nothing from it.
    pub fn occupy(&mut self, node: &str, cidr: &str) {
        if let Some(n) = self.number(cidr) {
            self.used.entry(n).or_insert_with(|| node.to_string());
        }
    }

    /// Gives back what `node` had.
    pub fn release(&mut self, node: &str) {
        self.used.retain(|_, n| n != node);
    }

    /// The network of `node`: the one it has, or the lowest free one. None when all are taken.
    pub fn assign(&mut self, node: &str) -> Option<String> {
        let number = match self.used.iter().find(|(_, n)| *n == node) {
            Some((n, _)) => *n,
            None => {
                // The first gap in the ordered numbers.
                let gap = self.used.keys().zip(0u32..).find(|(used, i)| *used != i).map(|(_, i)| i);
                let free = gap.unwrap_or(self.used.len() as u32);
                if u64::from(free) >= self.size() {
                    return None;
                }
                self.used.insert(free, node.to_string());
                free
            }
        };
        let address = Ipv4Addr::from(self.base + number * (1 << (32 - self.mask)));
        Some(format!("{address}/{}", self.mask))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_free_network_is_given_and_kept() {
        let mut p = Pool::new(Ipv4Addr::new(10, 244, 0, 0), 16, 24);
        p.occupy("b", "10.244.1.0/24");
        p.occupy("x", "10.9.0.0/24");
        p.occupy("y", "10.244.0.0/25");
        assert_eq!(p.assign("a").unwrap(), "10.244.0.0/24");
        assert_eq!(p.assign("a").unwrap(), "10.244.0.0/24");
        assert_eq!(p.assign("c").unwrap(), "10.244.2.0/24");
        p.release("b");
        assert_eq!(p.assign("d").unwrap(), "10.244.1.0/24");
    }

    #[test]
    fn an_exhausted_pool_says_so() {
        let mut p = Pool::new(Ipv4Addr::new(10, 0, 0, 0), 23, 24);
        assert!(p.assign("a").is_some() && p.assign("b").is_some());
        assert_eq!(p.assign("c"), None);
        p.release("a");
        assert_eq!(p.assign("c").unwrap(), "10.0.0.0/24");
    }
}
