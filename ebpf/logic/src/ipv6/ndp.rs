//! Neighbour discovery (RFC 4861) from a Pod: it may speak about itself only, and is no router.

use strake_abi::Addr6;

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
}
