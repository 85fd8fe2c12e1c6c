//! One range of ClusterIPs, counted: which address has which number, and in what order numbers are tried.
//!
//! ```text
//!   10.96.0.0/16   .1 ─ static band (256 at most) ─┤├──────────── dynamic band ───────────┤
//!                       asked for by name               chosen here, then the static band
//! ```
//!
//! Knows numbers; not what is taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use strake_strategy::service_alloc::Family;

/// The addresses of a network that Services may have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    network: IpNetwork,
    first: u128,
    count: u64,
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

impl Range {
    pub(super) fn new(network: IpNetwork) -> Self {
        let (bits, kept) = match network {
            // The broadcast address is left out, and the network's own in both families.
            IpNetwork::V4(_) => (32, 2),
            IpNetwork::V6(_) => (128, 1),
        };
        // More than 2^63 are never counted, as upstream: nobody has so many Services.
        let size = 1_u64 << (bits - network.prefix()).min(63);
        Self { network, first: number(network.network()) + 1, count: size.saturating_sub(kept) }
    }

    pub(super) fn family(&self) -> Family {
        if self.network.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    fn address(&self, offset: u64) -> IpAddr {
        let number = self.first + u128::from(offset);
        match self.network {
            // The offset is below the count: the sum is below 2^32.
            IpNetwork::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            IpNetwork::V6(_) => Ipv6Addr::from(number).into(),
        }
    }

    /// True if a Service may have the address.
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        self.network.contains(address)
            && number(address).checked_sub(self.first).is_some_and(|offset| offset < u128::from(self.count))
    }

    /// Every address once: the dynamic band from a random place on, then the static band.
    pub(super) fn candidates(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let (range, count) = (*self, self.count);
        let size = count.saturating_add(2);
        let band = if size < 16 { 0 } else { (size / 16).clamp(16, 256) }.min(count);
        let dynamic = count - band;
        let start = if dynamic > 0 { rand::random_range(0..dynamic) } else { 0 };
        let chosen = (start..dynamic).chain(0..start).map(move |offset| band + offset);
        chosen.chain(0..band).map(move |offset| range.address(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Range {
        Range::new(text.parse().unwrap())
    }

    #[test]
    fn every_address_of_a_small_range_comes_up_once() {
        let texts = |text: &str| {
            let mut all: Vec<IpAddr> = range(text).candidates().collect();
            all.sort();
            all.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(texts("10.0.0.0/29"), ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        // IPv6 has no broadcast address.
        assert_eq!(texts("fd00::/126"), ["fd00::1", "fd00::2", "fd00::3"]);
        assert_eq!(texts("10.96.0.0/20").len(), 4094);
    }

    #[test]
    fn the_static_band_comes_last() {
        for (text, band_ends) in [("10.96.0.0/16", "10.96.1.0"), ("fd00:10:96::/112", "fd00:10:96::100")] {
            let end: IpAddr = band_ends.parse().unwrap();
            for _ in 0..200 {
                let address = range(text).candidates().next().unwrap();
                assert!(address > end, "{address}");
            }
        }
    }

    #[test]
    fn the_largest_range_is_counted_too() {
        let large = range("fd00::/64");
        let some = large.candidates().next().unwrap();
        assert!(large.holds(some), "{some}");
        let holds = |text: &str| large.holds(text.parse().unwrap());
        assert!(holds("fd00::1") && !holds("fd00::") && !holds("fd00:0:0:1::1") && !holds("10.0.0.1"));
        let v4 = range("10.96.0.0/16");
        let holds = |text: &str| v4.holds(text.parse().unwrap());
        assert!(holds("10.96.255.254") && !holds("10.96.255.255") && !holds("10.96.0.0") && !holds("::1"));
    }
}
