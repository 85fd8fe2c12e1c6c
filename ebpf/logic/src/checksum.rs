//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are kept as the kernel keeps a `__wsum`: 32 bits, native byte order, not yet folded. One's complement addition
//! does not care about byte order as long as everybody uses the same (RFC 1071, 2.B), so nothing is ever swapped.

/// Adds with the carry brought around.
#[inline(always)]
pub const fn add(a: u32, b: u32) -> u32 {
    let sum = a as u64 + b as u64;
    (sum as u32) + ((sum >> 32) as u32)
}

/// The sum of 16-bit native words, one's complement, of a big enough array. `N` must be even.
#[inline(always)]
pub fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    let mut total: u64 = 0;
    for pair in bytes.chunks_exact(2) {
        if let [a, b] = pair {
            total += u64::from(u16::from_ne_bytes([*a, *b]));
        }
    }
    narrow(total)
}

/// The same sum, of 32-bit native words: IPv6 addresses.
#[inline(always)]
pub fn words<const N: usize>(words: &[u32; N]) -> u32 {
    let mut total: u64 = 0;
    for word in words {
        total += *word as u64;
    }
    narrow(total)
}

/// 64 bits of accumulated words to a 32-bit sum.
#[inline(always)]
pub const fn narrow(total: u64) -> u32 {
    let total = (total & 0xffff_ffff) + (total >> 32);
    let total = (total & 0xffff_ffff) + (total >> 32);
    total as u32
}

/// To 16 bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// What has to be added to the sum of a message in which `old` becomes `new`, in the form that
/// `bpf_l3_csum_replace` and `bpf_l4_csum_replace` take as a difference (size 0).
#[inline(always)]
pub fn difference<const N: usize>(old: &[u8; N], new: &[u8; N]) -> u32 {
    add(!sum(old), sum(new))
}

/// The checksum field after `difference` was applied (RFC 1624, equation 3: `HC' = ~(~HC + ~m + m')`).
#[inline(always)]
pub const fn update(field: u16, difference: u32) -> u16 {
    !fold(add(!field as u32 & 0xffff, difference))
}

/// Sum of the IPv4 pseudo header (RFC 9293, 3.1): `len` is the length of the transport segment in the host's order.
#[inline(always)]
pub const fn pseudo(src: u32, dst: u32, proto: u8, len: u16) -> u32 {
    // 16-bit fields in network order: the zero byte and the protocol are one of them.
    let proto = (proto as u16).to_be() as u32;
    add(add(src, dst), add(proto, len.to_be() as u32))
}

/// Sum of the IPv6 pseudo header (RFC 8200, 8.1).
#[inline(always)]
pub fn pseudo6(src: &[u32; 4], dst: &[u32; 4], proto: u8, len: u16) -> u32 {
    let proto = u32::from(proto).to_be();
    add(add(words(src), words(dst)), add(proto, u32::from(len).to_be()))
}

/// Whether a transport checksum field holds only the pseudo header's sum: the packet is from this machine and its
/// checksum is left to the device (`CHECKSUM_PARTIAL`). A finished checksum looks like this once in 65536 packets.
#[inline(always)]
pub const fn is_partial(field: u16, pseudo: u32) -> bool {
    field == fold(pseudo)
}

/// A finished checksum from the sum of pseudo header and segment. A UDP checksum of zero is sent as all ones (RFC 768).
#[inline(always)]
pub const fn finish(sum: u32, udp: bool) -> u16 {
    let field = !fold(sum);
    if udp && field == 0 { 0xffff } else { field }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full(bytes: &[u8]) -> u16 {
        let mut total = 0u64;
        for pair in bytes.chunks(2) {
            total += u64::from(u16::from_ne_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        }
        !fold(narrow(total))
    }

    /// One's complement has two zeros; they are the same checksum.
    fn same(a: u16, b: u16) -> bool {
        a == b || (a == 0 || a == 0xffff) && (b == 0 || b == 0xffff)
    }

    #[test]
    fn header_of_rfc_1071_style_example() {
        // A header whose checksum is known (the usual textbook one): b861.
        let header: [u8; 20] = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0x00, 0x00, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
            0x00, 0xc7,
        ];
        assert_eq!((!fold(sum(&header))).to_ne_bytes(), [0xb8, 0x61]);
    }

    proptest! {
        #[test]
        fn incremental_equals_full(mut message in proptest::array::uniform32(any::<u8>()), new in any::<[u8; 8]>(), at in 0usize..12) {
            let at = at * 2;
            let before = full(&message);
            let old: [u8; 8] = message[at..at + 8].try_into().unwrap();
            message[at..at + 8].copy_from_slice(&new);
            let after = full(&message);
            prop_assert!(same(update(before, difference(&old, &new)), after));
        }

        #[test]
        fn sum_of_array_is_sum_of_slice(bytes in any::<[u8; 20]>()) {
            prop_assert_eq!(!fold(sum(&bytes)), full(&bytes));
        }

        #[test]
        fn long_pseudo_header_is_its_bytes(src in any::<[u8; 16]>(), dst in any::<[u8; 16]>(), proto in any::<u8>(), len in any::<u16>()) {
            let mut bytes = [0u8; 40];
            bytes[..16].copy_from_slice(&src);
            bytes[16..32].copy_from_slice(&dst);
            bytes[34..36].copy_from_slice(&len.to_be_bytes());
            bytes[39] = proto;
            let addr = |octets: [u8; 16]| strake_abi::Addr6::from(core::net::Ipv6Addr::from(octets)).0;
            prop_assert!(same(!fold(pseudo6(&addr(src), &addr(dst), proto, len)), full(&bytes)));
        }

        #[test]
        fn pseudo_header_is_its_bytes(src in any::<[u8; 4]>(), dst in any::<[u8; 4]>(), proto in any::<u8>(), len in any::<u16>()) {
            let mut bytes = [0u8; 12];
            bytes[..4].copy_from_slice(&src);
            bytes[4..8].copy_from_slice(&dst);
            bytes[9] = proto;
            bytes[10..].copy_from_slice(&len.to_be_bytes());
            let sum = pseudo(u32::from_ne_bytes(src), u32::from_ne_bytes(dst), proto, len);
            prop_assert!(same(!fold(sum), full(&bytes)));
        }
    }
}
