//! ARP (RFC 826) from a Pod: it may speak about itself only.

use strake_abi::{Addr4, Mac};

/// Bytes of an ARP packet for IPv4 over Ethernet, after the Ethernet header.
pub const ARP_LEN: usize = 28;

/// Whether the packet is IPv4 over Ethernet and its sender is the Pod (or, in a probe of RFC 5227, nobody yet).
#[inline(always)]
pub fn is_sane(arp: &[u8; ARP_LEN], mac: &Mac, ip: Addr4) -> bool {
    let form = arp[0] == 0 && arp[1] == 1 && arp[2] == 8 && arp[3] == 0 && arp[4] == 6 && arp[5] == 4;
    let hardware = [arp[8], arp[9], arp[10], arp[11], arp[12], arp[13]];
    let sender = Addr4::new([arp[14], arp[15], arp[16], arp[17]]);
    form && hardware == *mac && (sender == ip || sender == Addr4::ANY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    fn request(mac: Mac, ip: [u8; 4]) -> [u8; ARP_LEN] {
        let mut arp = [0; ARP_LEN];
        arp[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, 1]);
        arp[8..14].copy_from_slice(&mac);
        arp[14..18].copy_from_slice(&ip);
        arp
    }

    #[test]
    fn a_pod_speaks_about_itself_only() {
        let ip = Addr4::new([10, 244, 0, 5]);
        assert!(is_sane(&request(MAC, [10, 244, 0, 5]), &MAC, ip));
        assert!(is_sane(&request(MAC, [0, 0, 0, 0]), &MAC, ip));
        assert!(!is_sane(&request(MAC, [10, 244, 0, 6]), &MAC, ip));
        assert!(!is_sane(&request([2, 0, 0, 0, 0, 8], [10, 244, 0, 5]), &MAC, ip));
        let mut odd = request(MAC, [10, 244, 0, 5]);
        odd[4] = 8;
        assert!(!is_sane(&odd, &MAC, ip));
    }
}
