//! What neighbours are told unasked: gratuitous ARP (RFC 5227, section 3) and unsolicited neighbour advertisements
//! (RFC 4861, section 7.2.6). Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

/// ARP operation: a question.
pub const REQUEST: u16 = 1;
/// ARP operation: an answer.
pub const REPLY: u16 = 2;

const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ICMPV6: u8 = 58;
const ADVERTISEMENT: u8 = 136;
/// What is known of the address is to be replaced.
const OVERRIDE: u8 = 0x20;

/// An Ethernet frame that says, as a question or as an answer, that `ip` is at `mac`.
pub fn gratuitous_arp(mac: [u8; 6], ip: Ipv4Addr, operation: u16) -> Vec<u8> {
    let target = if operation == REPLY { mac } else { [0; 6] };
    [
        &BROADCAST[..],
        &mac,
        &[0x08, 0x06, 0, 1, 0x08, 0, 6, 4],
        &operation.to_be_bytes(),
        &mac,
        &ip.octets(),
        &target,
        &ip.octets(),
    ]
    .concat()
}

/// The group at which neighbours ask for an address.
pub fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// An Ethernet frame that says to all nodes of the link that `ip` is at `mac`.
pub fn neighbour_advertisement(mac: [u8; 6], ip: Ipv6Addr) -> Vec<u8> {
    let mut message = [&[ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0][..], &ip.octets(), &[2, 1], &mac].concat();
    let length = (message.len() as u32).to_be_bytes();
    let pseudo = [&ip.octets()[..], &ALL_NODES.octets(), &length, &[0, 0, 0, ICMPV6]].concat();
    let sum = !checksum([&pseudo[..], &message].concat().as_slice());
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let payload = (message.len() as u16).to_be_bytes();
    [
        &[0x33, 0x33, 0, 0, 0, 1][..],
        &mac,
        &[0x86, 0xdd, 0x60, 0, 0, 0],
        &payload,
        &[ICMPV6, 255],
        &ip.octets(),
        &ALL_NODES.octets(),
        &message,
    ]
    .concat()
}

/// The ones' complement sum of 16-bit words (RFC 1071), not inverted.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    #[test]
    fn both_forms_of_gratuitous_arp_name_one_address_twice() {
        let ip = Ipv4Addr::new(192, 0, 2, 10);
        for operation in [REQUEST, REPLY] {
            let frame = gratuitous_arp(MAC, ip, operation);
            assert_eq!((frame.len(), &frame[..6], &frame[12..14]), (42, &BROADCAST[..], &[8, 6][..]));
            assert_eq!(frame[20..22], operation.to_be_bytes());
            assert_eq!(
                (&frame[22..28], &frame[28..32], &frame[38..42]),
                (&MAC[..], &ip.octets()[..], &ip.octets()[..])
            );
        }
    }

    #[test]
    fn an_advertisement_is_whole_and_its_checksum_right() {
        let ip: Ipv6Addr = "2001:db8::12:3456".parse().unwrap();
        assert_eq!(solicited_node(ip), "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        let frame = neighbour_advertisement(MAC, ip);
        assert_eq!((frame.len(), frame[20], frame[21]), (14 + 40 + 32, ICMPV6, 255));
        let message = &frame[54..];
        assert_eq!((message[0], &message[8..24], &message[26..32]), (ADVERTISEMENT, &ip.octets()[..], &MAC[..]));
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, ICMPV6]].concat();
        assert_eq!(checksum(&[&pseudo[..], message].concat()), 0xffff);
    }
}
