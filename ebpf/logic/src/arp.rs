//! ARP (RFC 826): from a Pod, which may speak about itself only; and for addresses that the node announces.

use strake_abi::{Addr4, Mac};

use crate::packet::ethertype;

/// Bytes of an ARP packet for IPv4 over Ethernet, after the Ethernet header.
pub const ARP_LEN: usize = 28;

/// Bytes of a frame with it.
pub const ARP_FRAME: usize = 14 + ARP_LEN;

const REQUEST: u8 = 1;
const REPLY: u8 = 2;

/// Which address a frame asks for. Who announces an address of its own (both addresses are the same) asks nothing; who
/// only wants to know whether it is taken (a probe of RFC 5227) does.
#[inline(always)]
pub fn asked(frame: &[u8; ARP_FRAME]) -> Option<Addr4> {
    let [hi, lo] = ethertype::ARP.to_be_bytes();
    let form = frame[12] == hi && frame[13] == lo && frame[14] == 0 && frame[15] == 1 && frame[16] == 8;
    let form = form && frame[17] == 0 && frame[18] == 6 && frame[19] == 4;
    let sender = Addr4::new([frame[28], frame[29], frame[30], frame[31]]);
    let target = Addr4::new([frame[38], frame[39], frame[40], frame[41]]);
    if form && frame[20] == 0 && frame[21] == REQUEST && sender != target { Some(target) } else { None }
}

/// Turns a question into its answer: the address that was asked for is at `mac`.
#[inline(always)]
pub fn answer(frame: &mut [u8; ARP_FRAME], mac: &Mac) {
    let mut at = 0;
    while at < 6 {
        // To the asker, as who asked is named within the packet.
        frame[at] = frame[22 + at];
        frame[6 + at] = mac[at];
        frame[32 + at] = frame[22 + at];
        frame[22 + at] = mac[at];
        at += 1;
    }
    at = 0;
    while at < 4 {
        let asker = frame[28 + at];
        frame[28 + at] = frame[38 + at];
        frame[38 + at] = asker;
        at += 1;
    }
    frame[21] = REPLY;
}

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

    fn question(sender: [u8; 4], target: [u8; 4]) -> [u8; ARP_FRAME] {
        let mut frame = [0; ARP_FRAME];
        frame[..6].copy_from_slice(&[0xff; 6]);
        frame[6..12].copy_from_slice(&MAC);
        frame[12..14].copy_from_slice(&[8, 6]);
        frame[14..].copy_from_slice(&request(MAC, sender));
        frame[38..].copy_from_slice(&target);
        frame
    }

    #[test]
    fn a_question_becomes_its_answer() {
        let (asker, vip, ours) = ([192, 0, 2, 1], [192, 0, 2, 10], [2, 0, 0, 0, 0, 1]);
        let mut frame = question(asker, vip);
        assert_eq!(asked(&frame), Some(Addr4::new(vip)));
        answer(&mut frame, &ours);
        assert_eq!((&frame[..6], &frame[6..12], frame[21]), (&MAC[..], &ours[..], REPLY));
        assert_eq!((&frame[22..28], &frame[28..32]), (&ours[..], &vip[..]));
        assert_eq!((&frame[32..38], &frame[38..42]), (&MAC[..], &asker[..]));
        // An answer asks nothing, nor does who announces itself; a probe does.
        assert_eq!(asked(&frame), None);
        assert_eq!(asked(&question(vip, vip)), None);
        assert_eq!(asked(&question([0; 4], vip)), Some(Addr4::new(vip)));
        let mut odd = question(asker, vip);
        odd[16] = 0x86;
        assert_eq!(asked(&odd), None);
    }
}
