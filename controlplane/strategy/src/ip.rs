//! IP addresses and CIDRs as fields hold them. Older fields tolerate spellings that are not canonical; none tolerates
//! leading zeros, IPv4-mapped IPv6 addresses or host bits in a network (StrictIPCIDRValidation).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use strake_machinery::field::Path;

use crate::errs::{Errs, invalid};

const NO_IP: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
const NO_CIDR: &str = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Parses an address, tolerating leading zeros in IPv4 octets; the flag tells whether there were any.
fn parse_sloppy(s: &str) -> Option<(IpAddr, bool)> {
    if let Ok(ip) = s.parse::<IpAddr>() {
        return Some((ip, false));
    }
    let parts: Vec<&str> = s.split('.').collect();
    if parts.len() != 4 {
        return None;
    }
    let mut octets = [0u8; 4];
    for (o, part) in octets.iter_mut().zip(parts) {
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = part.trim_start_matches('0');
        *o = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    Some((IpAddr::V4(Ipv4Addr::from(octets)), true))
}

/// The address in a field, however it is spelled.
pub(crate) fn parse(s: &str) -> Option<IpAddr> {
    parse_sloppy(s).map(|(ip, _)| ip)
}

/// True if the text is an address in its one canonical spelling.
pub(crate) fn is_canonical(s: &str) -> bool {
    s.parse::<IpAddr>().is_ok_and(|ip| ip.to_string() == s && !is_mapped(ip))
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// True for IPv6 text.
pub(crate) fn is_v6(s: &str) -> bool {
    matches!(parse(s), Some(ip @ IpAddr::V6(_)) if !is_mapped(ip))
}

/// Checks an address in a field that predates canonical spelling.
pub(crate) fn address(s: &str, p: &Path, e: &mut Errs) {
    match parse_sloppy(s) {
        None => e.push(invalid(p, s, NO_IP)),
        Some((_, true)) => e.push(invalid(p, s, "must not have leading 0s")),
        Some((ip, false)) if is_mapped(ip) => {
            e.push(invalid(p, s, "must not be an IPv4-mapped IPv6 address"));
        }
        Some(_) => {}
    }
}

/// A network: base address and prefix length in bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Network {
    pub base: IpAddr,
    pub bits: u8,
}

impl Network {
    fn width(self) -> u8 {
        if self.base.is_ipv4() { 32 } else { 128 }
    }

    /// True if `ip` lies in the network.
    pub(crate) fn contains(self, ip: IpAddr) -> bool {
        self.base.is_ipv4() == ip.is_ipv4() && masked(ip, self.bits) == masked(self.base, self.bits)
    }
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

/// The network in a field; the flag tells whether it has leading zeros.
pub(crate) fn parse_cidr(s: &str) -> Option<(Network, bool)> {
    let (addr, bits) = s.split_once('/')?;
    let (ip, zeros) = parse_sloppy(addr)?;
    if bits.is_empty() || !bits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n = Network { base: ip, bits: bits.parse().ok()? };
    (n.bits <= n.width()).then_some((n, zeros || (bits.len() > 1 && bits.starts_with('0'))))
}

/// Checks a network in a field that predates canonical spelling.
pub(crate) fn cidr(s: &str, p: &Path, e: &mut Errs) {
    let why = match parse_cidr(s) {
        None => NO_CIDR,
        Some((_, true)) => "must not have leading 0s in IP or prefix length",
        Some((n, _)) if is_mapped(n.base) => "must not have an IPv4-mapped IPv6 address",
        Some((n, _)) if masked(n.base, n.bits) != n.base => "must not have bits set beyond the prefix length",
        Some(_) => return,
    };
    e.push(invalid(p, s, why));
}

/// Checks a network that must also be spelled canonically.
pub(crate) fn canonical_cidr(s: &str, p: &Path, e: &mut Errs) {
    let before = e.len();
    cidr(s, p, e);
    if e.len() == before
        && let Some((n, _)) = parse_cidr(s)
    {
        let canonical = format!("{}/{}", n.base, n.bits);
        if canonical != s {
            e.push(invalid(p, s, format!("must be in canonical form (\"{canonical}\")")));
        }
    }
}

/// Refuses addresses that are no endpoint's: unspecified, loopback, link-local.
pub(crate) fn non_special(s: &str, p: &Path, e: &mut Errs) {
    let Some(ip) = parse(s) else {
        e.push(invalid(p, s, "must be a valid IP address"));
        return;
    };
    let (local, multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => ((v6.segments()[0] & 0xffc0) == 0xfe80, (v6.segments()[0] & 0xff0f) == 0xff02),
    };
    if ip.is_unspecified() {
        e.push(invalid(p, s, format!("may not be unspecified ({s})")));
    }
    if ip.is_loopback() {
        e.push(invalid(p, s, "may not be in the loopback range (127.0.0.0/8, ::1/128)"));
    }
    if local {
        e.push(invalid(p, s, "may not be in the link-local range (169.254.0.0/16, fe80::/10)"));
    }
    if multicast {
        e.push(invalid(p, s, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"));
    }
}

/// True if there are two values of different families; `None` if one is no address.
pub(crate) fn is_dual_stack(all: &[&str]) -> Option<bool> {
    let families: Option<Vec<bool>> = all.iter().map(|s| parse(s).map(|_| is_v6(s))).collect();
    families.map(|f| f.contains(&true) && f.contains(&false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(check: fn(&str, &Path, &mut Errs), s: &str) -> Vec<String> {
        let mut e = Errs::new();
        check(s, &Path::new("f"), &mut e);
        e.iter().map(|x| x.detail.clone()).collect()
    }

    #[test]
    fn old_fields_tolerate_spelling_but_not_ambiguity() {
        assert!(told(address, "FE80:0:0:0:0:0:0:abc").is_empty());
        assert_eq!(told(address, "010.0.0.1"), ["must not have leading 0s"]);
        assert_eq!(told(address, "::ffff:1.2.3.4"), ["must not be an IPv4-mapped IPv6 address"]);
        assert_eq!(told(address, "nope"), [NO_IP]);
        assert_eq!(told(cidr, "10.0.0.1/8"), ["must not have bits set beyond the prefix length"]);
        assert_eq!(told(cidr, "10.0.0.0/08"), ["must not have leading 0s in IP or prefix length"]);
        assert_eq!(told(cidr, "10.0.0.0/33"), [NO_CIDR]);
        assert!(
            told(cidr, "10.0.0.0/8").is_empty() && told(cidr, "0.0.0.0/0").is_empty() && told(cidr, "::/0").is_empty()
        );
    }

    #[test]
    fn special_addresses_are_no_endpoints() {
        assert!(told(non_special, "10.0.0.1").is_empty());
        assert_eq!(told(non_special, "169.254.1.1").len(), 1);
        assert_eq!(told(non_special, "127.0.0.1").len(), 1);
        assert_eq!(told(non_special, "::").len(), 1);
    }
}
