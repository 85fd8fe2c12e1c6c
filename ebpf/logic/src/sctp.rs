//! SCTP (RFC 9260): its checksum when ports change, and what its chunks say of an association.
//!
//! ```text
//!  0        4     8          12
//!  | ports  | tag | checksum | chunk: type, flags, length, ... | chunk ... |
//! ```
//!
//! The checksum is a CRC-32c of the packet, with zeros in its own place, and without a pseudo header: addresses may change
//! freely. A CRC is linear, so a change of ports makes the same difference whatever the rest of the packet is:
//!
//! ```text
//!  crc(new) = crc(old) ^ (old ports ^ new ports) * x^(8 * bytes of the packet) mod P        over GF(2)
//! ```
//!
//! A field of zero is a checksum that was left to the device (`CHECKSUM_PARTIAL`: between veths nobody computes it) or to
//! another layer (RFC 9653), and stays zero; the device computes it from what the packet says then. A computed one is zero
//! once in 2^32 packets; if such a packet's ports are changed its receiver discards it.

use crate::packet::tcp_flag::{ACK, FIN, RST, SYN};

/// Bytes of the common header, after which chunks begin.
pub const HEADER_LEN: u16 = 12;
/// Bytes of the shortest packet: a header and a chunk without a value.
pub const SHORTEST: u16 = HEADER_LEN + CHUNK_LEN;
/// Offset of the checksum.
pub const CHECKSUM: usize = 8;
/// Chunks of a packet that are looked at. What opens or ends an association comes before any data (6.10), and most of it
/// alone.
pub const MAX_CHUNKS: usize = 4;

/// Bytes of the header of a chunk.
const CHUNK_LEN: u16 = 4;
/// The polynomial of Castagnoli, lowest power in the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// A chunk of data.
const DATA: u8 = 0;

/// What a chunk says, by its type (3.2), in the flags of TCP: see [`flags`]. For all types, so that nothing branches.
static MEANING: [u8; 256] = {
    let mut meaning = [0; 256];
    meaning[1] = SYN; // INIT
    meaning[2] = SYN | ACK; // INIT ACK
    meaning[6] = RST; // ABORT
    meaning[7] = FIN; // SHUTDOWN
    meaning[8] = FIN; // SHUTDOWN ACK
    meaning[11] = ACK; // COOKIE ACK
    meaning[14] = RST; // SHUTDOWN COMPLETE
    meaning
};

/// `x^(8 * i)`.
static BYTES: [u32; 256] = powers(8);
/// `x^(8 * 256 * i)`.
static PAGES: [u32; 256] = powers(8 * 256);

/// The product of two polynomials modulo P. No branch depends on a value: the verifier walks it once.
#[inline(always)]
const fn times(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut bit = 32;
    while bit > 0 {
        bit -= 1;
        product ^= b & ((a >> bit) & 1).wrapping_neg();
        b = (b >> 1) ^ (POLYNOMIAL & (b & 1).wrapping_neg());
    }
    product
}

/// `(x^step)^i`.
const fn powers(step: u32) -> [u32; 256] {
    const ONE: u32 = 1 << 31;
    let mut base = ONE;
    let mut i = 0;
    while i < step {
        base = times(base, ONE >> 1);
        i += 1;
    }
    let mut table = [ONE; 256];
    let mut i = 1;
    while i < 256 {
        table[i] = times(table[i - 1], base);
        i += 1;
    }
    table
}

/// The checksum field of a packet of `len` bytes, header included, after its first four bytes became `new`.
#[inline(always)]
pub fn update(field: [u8; 4], old: [u8; 4], new: [u8; 4], len: u16) -> [u8; 4] {
    let change = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
    let [low, high] = len.to_le_bytes();
    let moved = times(times(change, BYTES[low as usize]), PAGES[high as usize]);
    (u32::from_le_bytes(field) ^ moved).to_le_bytes()
}

/// What the chunks of a packet of `len` bytes say, in the flags of TCP: SYN for INIT (with ACK: its acknowledgment), ACK
/// for an association that is made (COOKIE ACK), FIN for one that is being shut down, RST for one that is no more (ABORT,
/// SHUTDOWN COMPLETE). `chunk` reads four bytes at an offset.
#[inline(always)]
pub fn flags(len: u16, chunk: impl Fn(u32) -> Option<[u8; 4]>) -> u8 {
    let (mut at, mut flags, mut walked) = (HEADER_LEN as u32, 0, 0);
    while walked < MAX_CHUNKS {
        if at + CHUNK_LEN as u32 > len as u32 {
            break;
        }
        let Some([kind, _, high, low]) = chunk(at) else { break };
        let length = u16::from_be_bytes([high, low]) as u32;
        if kind == DATA || length < CHUNK_LEN as u32 || at + length > len as u32 {
            break;
        }
        flags |= MEANING[kind as usize];
        // The next begins at a multiple of four.
        at += (length + 3) & !3;
        walked += 1;
    }
    flags
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// Bit by bit, as the definition has it (RFC 3720, B.4).
    fn crc(bytes: &[u8]) -> u32 {
        let mut register = u32::MAX;
        for byte in bytes {
            register ^= u32::from(*byte);
            for _ in 0..8 {
                register = if register & 1 == 1 { (register >> 1) ^ 0x82f6_3b78 } else { register >> 1 };
            }
        }
        !register
    }

    fn finished(mut packet: Vec<u8>) -> Vec<u8> {
        packet[8..12].fill(0);
        let sum = crc(&packet).to_le_bytes();
        packet[8..12].copy_from_slice(&sum);
        packet
    }

    fn read(packet: &[u8]) -> u8 {
        flags(packet.len() as u16, |at| packet.get(at as usize..at as usize + 4)?.try_into().ok())
    }

    /// A packet of chunks: types, and bytes of their values.
    fn packet(chunks: &[(u8, usize)]) -> Vec<u8> {
        let mut packet = std::vec![0; 12];
        for (kind, value) in chunks {
            packet.extend([*kind, 0]);
            packet.extend((*value as u16 + 4).to_be_bytes());
            packet.resize((packet.len() + value).next_multiple_of(4), 0x55);
        }
        packet
    }

    #[test]
    fn the_crc_of_the_tests_is_the_one_of_the_standard() {
        assert_eq!(crc(b"123456789"), 0xe306_9283);
        // RFC 3720, B.4: 32 bytes of zeros.
        assert_eq!(crc(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn the_longest_packet_is_updated_too() {
        let before = finished((0..u16::MAX).map(|i| (i % 251) as u8).collect());
        let mut after = before.clone();
        after[..4].copy_from_slice(&[0x12, 0x34, 0x56, 0x78]);
        let field = before[8..12].try_into().unwrap();
        let new = update(field, before[..4].try_into().unwrap(), [0x12, 0x34, 0x56, 0x78], u16::MAX);
        assert_eq!(finished(after)[8..12], new);
    }

    #[test]
    fn chunks_say_what_becomes_of_an_association() {
        assert_eq!(read(&packet(&[(1, 16)])), SYN);
        assert_eq!(read(&packet(&[(2, 30)])), SYN | ACK);
        assert_eq!(read(&packet(&[(10, 80)])), 0, "COOKIE ECHO");
        assert_eq!(read(&packet(&[(11, 0), (0, 9)])), ACK);
        assert_eq!(read(&packet(&[(3, 12), (7, 4)])), FIN, "behind an acknowledgment of data");
        assert_eq!(read(&packet(&[(8, 0)])), FIN);
        assert_eq!(read(&packet(&[(14, 0)])), RST);
        assert_eq!(read(&packet(&[(9, 3), (6, 0)])), RST, "behind an error whose length is odd");
        assert_eq!(read(&packet(&[(0, 5), (6, 0)])), 0, "nothing that counts comes after data");
        assert_eq!(read(&packet(&[(0xc1, 4), (4, 9), (6, 0)])), RST, "types that nobody knows");
        let many: Vec<_> = (0..9).map(|_| (3, 0)).chain([(6, 0)]).collect();
        assert_eq!(read(&packet(&many)), 0, "as many are not looked at");
    }

    #[test]
    fn a_chunk_that_lies_about_its_length_ends_the_walk() {
        let mut short = packet(&[(4, 0), (6, 0)]);
        short[15] = 3;
        assert_eq!(read(&short), 0);
        let mut long = packet(&[(4, 0), (6, 0)]);
        long[14] = 0xff;
        assert_eq!(read(&long), 0);
        assert_eq!(read(&packet(&[(6, 0)])[..15]), 0);
    }

    proptest! {
        #[test]
        fn updated_equals_computed(bytes in proptest::collection::vec(any::<u8>(), 12..1600), new in any::<[u8; 4]>()) {
            let before = finished(bytes);
            let mut after = before.clone();
            after[..4].copy_from_slice(&new);
            let field = before[8..12].try_into().unwrap();
            let updated = update(field, before[..4].try_into().unwrap(), new, before.len() as u16);
            prop_assert_eq!(&finished(after)[8..12], &updated[..]);
        }
    }
}
