//! The addresses that may be given to LoadBalancer Services: ranges of both families, as the operator wrote them.
//!
//! May not know: who has which address.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::IpNetwork;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// That of an address.
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As `spec.ipFamilies` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn address(self, bits: u128) -> IpAddr {
        match self {
            // A span of this family ends at 2^32 - 1.
            Self::V4 => Ipv4Addr::from(u32::try_from(bits).unwrap_or(u32::MAX)).into(),
            Self::V6 => Ipv6Addr::from(bits).into(),
        }
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// Addresses in a row, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    family: Family,
    first: u128,
    last: u128,
}

impl Span {
    fn new(first: IpAddr, last: IpAddr) -> Self {
        Self { family: Family::of(first), first: bits(first), last: bits(last) }
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.family == other.family && self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.family.address(self.first))?;
        if self.first == self.last { Ok(()) } else { write!(f, "-{}", self.family.address(self.last)) }
    }
}

/// A text that is no pool.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPool {
    /// Neither form.
    #[error("{0:?} is neither a network (192.0.2.0/28) nor a range (192.0.2.10-192.0.2.40)")]
    Form(String),
    /// A network with bits of a host.
    #[error("{text} has bits set beyond its prefix; is {meant} meant?")]
    HostBits { text: String, meant: IpNetwork },
    /// A range that ends before it begins, or in the other family.
    #[error("{0}: the second address must not be below the first, and of the same family")]
    Backwards(String),
    /// Two parts with an address in common.
    #[error("{one} and {other} have addresses in common; name each once")]
    Overlap { one: String, other: String },
    /// Addresses that no Service can have.
    #[error("{0} has addresses that no host can have (unspecified, loopback, multicast or broadcast)")]
    NotUnicast(String),
}

/// The pool. Two of the same addresses are equal, however they were written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPool(Vec<Span>);

impl AddressPool {
    /// Whether it has no address.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an address is of the pool.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let (family, ip) = (Family::of(ip), bits(ip));
        self.0.iter().any(|span| span.family == family && (span.first..=span.last).contains(&ip))
    }

    /// How many addresses of a family there are.
    pub fn size(&self, family: Family) -> u128 {
        let spans = self.0.iter().filter(|span| span.family == family);
        spans.fold(0, |sum, span| sum.saturating_add((span.last - span.first).saturating_add(1)))
    }

    /// The part that has addresses of `network`, if one does.
    pub fn overlap(&self, network: IpNetwork) -> Option<String> {
        let (first, last) = match network {
            IpNetwork::V4(v4) => (v4.network().into(), v4.broadcast().into()),
            IpNetwork::V6(v6) => (v6.network().into(), v6.broadcast().into()),
        };
        let network = Span::new(first, last);
        self.0.iter().find(|span| span.overlaps(&network)).map(Span::to_string)
    }

    /// The lowest address of a family, not below `from`, that is not `taken`.
    pub fn free(&self, family: Family, from: Option<IpAddr>, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        let from = from.filter(|from| Family::of(*from) == family).map_or(0, bits);
        for span in self.0.iter().filter(|span| span.family == family && span.last >= from) {
            let mut next = span.first.max(from);
            let (low, high) = (family.address(next), family.address(span.last));
            // The first gap in the ordered addresses.
            for used in taken.range(low..=high) {
                if bits(*used) != next {
                    return Some(family.address(next));
                }
                match next.checked_add(1) {
                    Some(after) => next = after,
                    None => return None,
                }
            }
            if next <= span.last {
                return Some(family.address(next));
            }
        }
        None
    }
}

impl fmt::Display for AddressPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, span) in self.0.iter().enumerate() {
            write!(f, "{}{span}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

fn span(text: &str) -> Result<Span, InvalidPool> {
    let form = || InvalidPool::Form(text.to_owned());
    let span = if let Some((first, last)) = text.split_once('-') {
        let first: IpAddr = first.trim().parse().map_err(|_| form())?;
        let last: IpAddr = last.trim().parse().map_err(|_| form())?;
        if first.is_ipv4() != last.is_ipv4() || last < first {
            return Err(InvalidPool::Backwards(text.to_owned()));
        }
        Span::new(first, last)
    } else {
        // A network needs its prefix: an address alone is taken for one by mistake as often as on purpose.
        let network: IpNetwork = text.contains('/').then(|| text.parse().ok()).flatten().ok_or_else(form)?;
        if network.ip() != network.network() {
            let meant = IpNetwork::new(network.network(), network.prefix()).unwrap_or(network);
            return Err(InvalidPool::HostBits { text: text.to_owned(), meant });
        }
        match network {
            IpNetwork::V4(v4) => Span::new(v4.network().into(), v4.broadcast().into()),
            IpNetwork::V6(v6) => Span::new(v6.network().into(), v6.broadcast().into()),
        }
    };
    let nobodys: &[(IpAddr, IpAddr)] = &[
        (Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(0, 255, 255, 255).into()),
        (Ipv4Addr::new(127, 0, 0, 0).into(), Ipv4Addr::new(127, 255, 255, 255).into()),
        // Multicast, reserved, broadcast.
        (Ipv4Addr::new(224, 0, 0, 0).into(), Ipv4Addr::BROADCAST.into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()),
        (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), Ipv6Addr::from(u128::MAX).into()),
    ];
    if nobodys.iter().any(|(first, last)| span.overlaps(&Span::new(*first, *last))) {
        return Err(InvalidPool::NotUnicast(text.to_owned()));
    }
    Ok(span)
}

impl FromStr for AddressPool {
    type Err = InvalidPool;

    fn from_str(text: &str) -> Result<Self, InvalidPool> {
        let mut spans: Vec<Span> = Vec::new();
        for part in text.split(',').map(str::trim) {
            let span = span(part)?;
            if let Some(other) = spans.iter().find(|other| other.overlaps(&span)) {
                return Err(InvalidPool::Overlap { one: part.to_owned(), other: other.to_string() });
            }
            spans.push(span);
        }
        spans.sort_by_key(|span| (span.family, span.first));
        Ok(Self(spans))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(text: &str) -> AddressPool {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_and_ranges_of_both_families_are_read() {
        let pool = pool("192.0.2.10-192.0.2.12, 198.51.100.0/30,fd00:10::/126,203.0.113.7/32");
        assert_eq!(
            pool.to_string(),
            "192.0.2.10-192.0.2.12,198.51.100.0-198.51.100.3,203.0.113.7,fd00:10::-fd00:10::3"
        );
        assert_eq!((pool.size(Family::V4), pool.size(Family::V6)), (8, 4));
        for there in ["192.0.2.10", "192.0.2.12", "198.51.100.3", "203.0.113.7", "fd00:10::3"] {
            assert!(pool.contains(ip(there)), "{there}");
        }
        for not in ["192.0.2.9", "192.0.2.13", "203.0.113.8", "fd00:10::4", "::192.0.2.10"] {
            assert!(!pool.contains(ip(not)), "{not}");
        }
        assert_eq!(pool.overlap("192.0.2.12/30".parse().unwrap()).unwrap(), "192.0.2.10-192.0.2.12");
        assert_eq!(pool.overlap("192.0.2.16/28".parse().unwrap()), None);
    }

    #[test]
    fn what_is_no_pool_is_refused_by_its_part() {
        let why = |text: &str| text.parse::<AddressPool>().unwrap_err().to_string();
        assert!(why("192.0.2.10").starts_with("\"192.0.2.10\" is neither"));
        assert!(why("192.0.2.0/28,").starts_with("\"\" is neither"));
        assert!(why("192.0.2.0/33").contains("neither"));
        assert!(why("192.0.2.5/28").contains("is 192.0.2.0/28 meant?"));
        assert!(why("192.0.2.9-192.0.2.1").contains("must not be below"));
        assert!(why("192.0.2.9-fd00::1").contains("same family"));
        let both = why("192.0.2.0/28,192.0.2.15-192.0.2.20");
        assert_eq!(both, "192.0.2.15-192.0.2.20 and 192.0.2.0-192.0.2.15 have addresses in common; name each once");
        assert!(why("224.0.0.0/24").contains("no host can have") && why("0.0.0.0/0").contains("no host"));
        assert!(why("::/120").contains("no host") && why("ff02::/120").contains("no host"));
    }

    #[test]
    fn the_lowest_free_address_is_found_across_ranges() {
        let pool = pool("192.0.2.2-192.0.2.4,192.0.2.8/31,fd00::/127");
        let mut taken = BTreeSet::new();
        let mut order = Vec::new();
        while let Some(free) = pool.free(Family::V4, None, &taken) {
            assert!(pool.contains(free) && taken.insert(free), "{free}");
            order.push(free.to_string());
        }
        assert_eq!(order, ["192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.8", "192.0.2.9"]);
        taken.remove(&ip("192.0.2.4"));
        assert_eq!(pool.free(Family::V4, Some(ip("192.0.2.3")), &taken), Some(ip("192.0.2.4")));
        assert_eq!(pool.free(Family::V4, Some(ip("192.0.2.5")), &taken), None);
        assert_eq!(pool.free(Family::V6, None, &taken), Some(ip("fd00::")));
    }
}
