//! Neighbour discovery (RFC 4861): from a Pod, which may speak about itself only and is no router; and for addresses that
//! the node announces.

use strake_abi::{Addr6, Mac, proto};

use super::reply::{Frame, put, sum};
use super::{HEAD_LEN, Head};
use crate::checksum;

/// Bytes of a message up to the end of its target address.
pub const NDP_LEN: usize = 24;

/// Whether an ICMPv6 type is one of neighbour discovery's.
#[inline(always)]
pub const fn is_ndp(kind: u8) -> bool {
    kind >= 133 && kind <= 137
}

/// Whether a Pod with this address may send the message. What it asks is its own affair; what it announces must be its
/// address or one of its link, on which it is alone with the node.
#[inline(always)]
pub fn is_sane(kind: u8, target: Addr6, own: Addr6) -> bool {
    match kind {
        // Router solicitation, neighbour solicitation.
        133 | 135 => true,
        136 => target == own || target.is_link_local(),
        // Router advertisement, redirect.
        _ => false,
    }
}

/// The target address of a neighbour message.
#[inline(always)]
pub const fn target(message: &[u8; NDP_LEN]) -> Addr6 {
    super::address::<8, NDP_LEN>(message)
}

/// Bytes of a frame with an answer, which has one option.
pub const ADVERTISEMENT_LEN: usize = HEAD_LEN + ADVERTISEMENT;
const ADVERTISEMENT: usize = NDP_LEN + 8;

/// It was asked for.
const SOLICITED: u8 = 0x40;
/// What is known of the address is to be replaced.
const OVERRIDE: u8 = 0x20;
/// `ff02::1`
const ALL_NODES: Addr6 = Addr6([u32::from_ne_bytes([0xff, 2, 0, 0]), 0, 0, u32::from_ne_bytes([0, 0, 0, 1])]);

/// Which address an ICMPv6 message right behind `head` asks for (7.1.1): its hop limit shows that it is of this link.
#[inline(always)]
pub fn asked(head: &Head, message: &[u8; NDP_LEN]) -> Option<Addr6> {
    let form = head[21] == 255 && message[0] == 135 && message[1] == 0;
    let asked = target(message);
    if form && !asked.is_multicast() { Some(asked) } else { None }
}

/// Writes the answer to who asked, as the first [`ADVERTISEMENT_LEN`] bytes of `out`: `target` is at `mac`. Who has no
/// address yet (it wants to know whether this one is free) is told with everybody else (7.2.4).
#[inline(always)]
pub fn answer(out: &mut Frame, head: &Head, target: Addr6, mac: &Mac) {
    let asker = super::address::<22, HEAD_LEN>(head);
    let (to, flags) = if asker == Addr6::ANY { (ALL_NODES, OVERRIDE) } else { (asker, SOLICITED | OVERRIDE) };
    if asker == Addr6::ANY {
        put::<0, 6>(out, &[0x33, 0x33, 0, 0, 0, 1]);
    } else {
        put::<0, 6>(out, &[head[6], head[7], head[8], head[9], head[10], head[11]]);
    }
    put::<6, 6>(out, mac);
    put::<12, 10>(out, &[head[12], head[13], 0x60, 0, 0, 0, 0, ADVERTISEMENT as u8, proto::ICMPV6, 255]);
    put::<22, 16>(out, &target.octets());
    put::<38, 16>(out, &to.octets());
    put::<54, 8>(out, &[136, 0, 0, 0, flags, 0, 0, 0]);
    put::<62, 16>(out, &target.octets());
    // Option: the target's link address, in units of eight bytes.
    put::<78, 2>(out, &[2, 1]);
    put::<80, 6>(out, mac);
    let pseudo = checksum::pseudo6(&target.0, &to.0, proto::ICMPV6, ADVERTISEMENT as u16);
    let field = checksum::finish(checksum::add(pseudo, sum::<ADVERTISEMENT>(out)), false);
    put::<56, 2>(out, &field.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv6Addr;

    #[test]
    fn a_pod_speaks_about_itself_only() {
        let addr = |text: &str| Addr6::from(text.parse::<Ipv6Addr>().unwrap());
        let own = addr("fd00:244::5");
        assert!(is_sane(136, own, own) && is_sane(136, addr("fe80::5"), own));
        assert!(!is_sane(136, addr("fd00:244::6"), own));
        assert!(is_sane(135, addr("fd00:244::6"), own) && is_sane(133, Addr6::ANY, own));
        assert!(!is_sane(134, Addr6::ANY, own) && !is_sane(137, own, own));
        let mut message = [0; NDP_LEN];
        message[8..].copy_from_slice(&own.octets());
        assert_eq!(target(&message), own);
    }

    #[test]
    fn a_question_for_an_address_is_answered_to_who_asked_or_to_all() {
        let addr = |text: &str| Addr6::from(text.parse::<Ipv6Addr>().unwrap());
        let (asker, vip) = (addr("2001:db8::1"), addr("2001:db8::200"));
        let (theirs, ours) = ([2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 1]);
        let mut head = [0; HEAD_LEN];
        head[6..12].copy_from_slice(&theirs);
        (head[12], head[13], head[21]) = (0x86, 0xdd, 255);
        head[22..38].copy_from_slice(&asker.octets());
        let mut message = [0; NDP_LEN];
        message[0] = 135;
        message[8..].copy_from_slice(&vip.octets());
        assert_eq!(asked(&head, &message), Some(vip));
        let mut out: Frame = [0xaa; _];
        answer(&mut out, &head, vip, &ours);
        assert_eq!((&out[..6], &out[6..12], &out[12..14]), (&theirs[..], &ours[..], &[0x86, 0xdd][..]));
        assert_eq!((&out[22..38], &out[38..54]), (&vip.octets()[..], &asker.octets()[..]));
        assert_eq!((out[54], out[58], &out[62..78]), (136, 0x60, &vip.octets()[..]));
        assert_eq!(out[78..86], [2, 1, 2, 0, 0, 0, 0, 1]);
        head[22..38].fill(0);
        answer(&mut out, &head, vip, &ours);
        assert_eq!((&out[..6], out[58], &out[38..54]), (&[0x33, 0x33, 0, 0, 0, 1][..], 0x20, &ALL_NODES.octets()[..]));
        for (at, wrong) in [(0, 136), (1, 1), (8, 0xff)] {
            let mut odd = message;
            odd[at] = wrong;
            assert_eq!(asked(&head, &odd), None, "{at}");
        }
        head[21] = 64;
        assert_eq!(asked(&head, &message), None);
    }
}
