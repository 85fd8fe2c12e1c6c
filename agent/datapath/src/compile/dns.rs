//! The names that the kernel answers: `NAME.NS.svc.DOMAIN` of every Service with a ClusterIP
//! (Kubernetes DNS specification 1.1.0, 2.3).

use std::net::{IpAddr, Ipv4Addr};

use strake_abi::dns::{DNS_HAS_A, DNS_NODATA_AAAA, DnsZone};
use strake_logic::dns::table::{Soa, WireName};
use strake_state::Service;

use crate::config::Config;
use crate::desired::Name;

/// Seconds, positive and negative: what CoreDNS's kubernetes plugin uses.
const TTL: u32 = 5;

/// The full name of a Service, without the final dot.
pub(crate) fn service_name(service: &strake_state::ObjectName, config: &Config) -> String {
    format!("{}.{}.svc.{}", service.name, service.namespace, config.cluster_domain)
}

/// The row of a Service's name; None when the name is longer than the kernel answers.
pub(super) fn name(service: &Service, ip: Ipv4Addr, set: Option<usize>, config: &Config) -> Option<Name> {
    let wire = WireName::from_dotted(&service_name(&service.name, config))?;
    let has_v6 = service.cluster_ips.iter().any(IpAddr::is_ipv6);
    let flags = DNS_HAS_A | if has_v6 { 0 } else { DNS_NODATA_AAAA };
    let (key, value) = wire.row(ip.into(), TTL, flags, 0);
    Some(Name { key, value, set })
}

/// The zone's SOA, with the names and times that CoreDNS's kubernetes plugin gives it. The serial is fixed: nobody
/// transfers the zone, and an answer must not depend on when it was compiled. A domain too long for the row gives a
/// zone without SOA, which leaves negative answers to the agent.
pub(super) fn zone(config: &Config) -> DnsZone {
    let domain = &config.cluster_domain;
    let soa = Soa { serial: 1, refresh: 7_200, retry: 1_800, expire: 86_400, minimum: TTL };
    let wire = |name: &str| WireName::from_dotted(name);
    let zone = (|| {
        let (mname, rname) = (wire(&format!("ns.dns.{domain}"))?, wire(&format!("hostmaster.{domain}"))?);
        strake_logic::dns::table::zone(&wire(domain)?, &mname, &rname, &soa, TTL)
    })();
    zone.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stock_domain_has_a_soa() {
        let zone = zone(&Config::new("n", "/c", "/b"));
        assert_eq!(zone.zone_len, 15);
        assert_eq!(usize::from(zone.soa_len), 22 + 26 + 20);
    }

    #[test]
    fn a_domain_too_long_for_the_row_has_none() {
        let config = Config { cluster_domain: "x".repeat(60), ..Config::new("n", "/c", "/b") };
        assert_eq!(zone(&config).soa_len, 0);
    }
}
