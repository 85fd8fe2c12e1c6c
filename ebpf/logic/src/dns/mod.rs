//! DNS (RFC 1035) as far as the kernel speaks it: one question for an A (or, to say "no data", AAAA) record of a name
//! in the table. Everything else is left to the agent's server, unchanged.
//!
//! A reply is the query's own packet: the question stays where it is, letter for letter (its case is the client's
//! business, and some clients check it), the front is rewritten and parts are appended.
//!
//! ```text
//!  0      14    34    42           54                  54 + name + 4
//!  | Eth  | IP  | UDP | DNS header | question (kept)   | answer 16 | OPT 11 |
//!  |------ front: 54 bytes --------|                   |---- parts ---------|
//! ```
//!
//! [`scan`] finds the end of the name, lower-cases and hashes it in one pass, eight bytes at a time. It does not walk
//! the labels: the name is compared, length bytes included, with one that is known to be well formed, and a length byte
//! (at most 63) is below every letter, so equality of the lower-cased bytes is equality of the names. The words are
//! read in native order and the arithmetic assumes a little-endian machine, like the target `bpfel`.

pub mod reply;
pub mod table;

use strake_abi::dns::{DnsKey, DnsZone, NAME_MAX, NAME_WORDS, ZONE_MAX};

/// Words of the buffer for a message; its first half word is empty so that the name begins at a word.
pub const MESSAGE_WORDS: usize = 40;
/// Longest query the kernel looks at.
pub const MESSAGE_MAX: usize = MESSAGE_WORDS * 8 - MESSAGE_AT;
/// Where the message begins in the buffer.
pub const MESSAGE_AT: usize = 4;
/// Shortest query: header, root, type and class.
pub const MESSAGE_MIN: usize = 12 + 1 + 4;
/// Bytes of a DNS header.
pub const HEADER_LEN: usize = 12;
/// First word of the name.
const NAME_AT: usize = (MESSAGE_AT + HEADER_LEN) / 8;

/// Working memory of one question. Lives in a per-CPU map in the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    /// The message, from byte [`MESSAGE_AT`]. What is behind its end is left from other packets.
    pub message: [u64; MESSAGE_WORDS],
    /// The name in lower case, zero to the end of its last word.
    pub lower: [u64; NAME_WORDS],
    /// Its key.
    pub key: DnsKey,
    /// Its length, root included.
    pub name_len: u32,
    /// One's complement sum of its bytes as they were asked.
    pub name_sum: u32,
}

impl Scratch {
    /// Empty.
    pub const fn new() -> Self {
        Self {
            message: [0; MESSAGE_WORDS],
            lower: [0; NAME_WORDS],
            key: DnsKey { hash: [0; 2] },
            name_len: 0,
            name_sum: 0,
        }
    }

    /// Eight bytes of the message, at any offset up to 296.
    #[inline(always)]
    fn read(&self, offset: usize) -> u64 {
        let at = offset + MESSAGE_AT;
        let (word, shift) = (at / 8, (at % 8) as u32 * 8);
        match (self.message.get(word), self.message.get(word + 1)) {
            (Some(low), Some(high)) => (low >> shift) | ((high << 1) << (63 - shift)),
            _ => 0,
        }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// ASCII letters to lower case, eight at a time (RFC 4343).
#[inline(always)]
const fn lower(word: u64) -> u64 {
    let sevens = word & !HIGHS;
    let at_least_a = sevens + ONES * (0x80 - b'A' as u64);
    let above_z = sevens + ONES * (0x7f - b'Z' as u64);
    word | (((at_least_a ^ above_z) & !word & HIGHS) >> 2)
}

/// Ones in the bytes before the first zero byte; all ones if there is none.
#[inline(always)]
const fn before_zero(word: u64) -> u64 {
    let zeros = word.wrapping_sub(ONES) & !word & HIGHS;
    let first = zeros & zeros.wrapping_neg();
    (first >> 7).wrapping_sub(1)
}

/// Two independent lanes over the words of a name. Not keyed: who can choose names can make two of them collide, and
/// gains that one of the two is answered by the agent instead.
#[derive(Clone, Copy)]
struct Hash {
    a: u64,
    b: u64,
}

impl Hash {
    #[inline(always)]
    const fn new() -> Self {
        Self { a: 0x9e37_79b9_7f4a_7c15, b: 0xc2b2_ae3d_27d4_eb4f }
    }

    #[inline(always)]
    const fn word(self, word: u64) -> Self {
        let a = (self.a ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        let b = (self.b ^ word).wrapping_mul(0xa076_1d64_78bd_642f).wrapping_add(word >> 32);
        Self { a: a ^ (a >> 32), b: b ^ (b >> 29) }
    }

    #[inline(always)]
    const fn finish(self, len: u32) -> DnsKey {
        let end = self.word(len as u64);
        DnsKey { hash: [end.a, end.b] }
    }
}

/// Finds the name of the question: fills `lower`, `key`, `name_len` and `name_sum`. False if the name is longer than
/// the table's names can be.
#[inline(always)]
pub fn scan(scratch: &mut Scratch) -> bool {
    let mut hash = Hash::new();
    let mut sum: u64 = 0;
    let mut i = 0;
    while i < NAME_WORDS {
        let raw = scratch.message[NAME_AT + i];
        let mask = before_zero(raw);
        let kept = raw & mask;
        sum += (kept & 0xffff_ffff) + (kept >> 32);
        let word = lower(kept);
        scratch.lower[i] = word;
        hash = hash.word(word);
        if mask != u64::MAX {
            // Bytes before the zero, and the zero itself: the root.
            let bytes = ((mask & ONES).wrapping_mul(ONES) >> 56) as u32;
            let len = i as u32 * 8 + bytes + 1;
            scratch.key = hash.finish(len);
            scratch.name_len = len;
            scratch.name_sum = crate::checksum::narrow(sum);
            return true;
        }
        i += 1;
    }
    false
}

/// Whether the scanned name is this one (lengths included in the comparison by the caller).
#[inline(always)]
pub fn is_name(scratch: &Scratch, name: &[u64; NAME_WORDS], len: u32) -> bool {
    let words = len.div_ceil(8) as usize;
    // Without indices: a check of one that cannot fail would call what no verifier takes.
    for (i, (have, want)) in scratch.lower.iter().zip(name).enumerate() {
        if i >= words {
            break;
        }
        if have != want {
            return false;
        }
    }
    true
}

/// Labels that stand before the cluster's zone in the longest name that can exist: `_port._proto.service.namespace.svc`.
const LABELS_MAX: usize = 5;

/// Whether the scanned name is below the zone and cannot exist in any cluster, whatever its Services are: too many
/// labels, or a type label that is neither `svc` nor `pod` (the DNS specification of Kubernetes, 1.1.0, knows
/// `service.namespace.svc`, `host.service.namespace.svc`, `_port._proto.service.namespace.svc` and `ip.namespace.pod`).
/// That is what search paths make of a name with dots: `web.ns.svc.cluster.local.ns.svc.cluster.local`. Names that might
/// exist are the agent's to deny.
#[inline(always)]
pub fn is_impossible(scratch: &Scratch, zone: &DnsZone) -> bool {
    let (name_len, zone_len) = (scratch.name_len as usize, usize::from(zone.zone_len));
    if zone.name[0] == 0 || zone_len > ZONE_MAX || zone_len >= name_len || name_len > NAME_MAX {
        return false;
    }
    let boundary = name_len - zone_len;
    // The last bytes are the zone's.
    let mut i = 0;
    while i < ZONE_MAX / 8 {
        let left = zone_len.saturating_sub(i * 8);
        if left == 0 {
            break;
        }
        let mask = if left >= 8 { u64::MAX } else { (1 << (left * 8)) - 1 };
        if read_lower(scratch, boundary + i * 8) & mask != zone.name[i] {
            return false;
        }
        i += 1;
    }
    // And a label begins where the zone begins.
    let (mut at, mut last, mut labels) = (0, 0, 0);
    let first = read_lower(scratch, 0);
    while labels <= LABELS_MAX {
        if at >= boundary {
            break;
        }
        last = read_lower(scratch, at);
        let len = (last & 0xff) as usize;
        if len == 0 || len > 63 {
            return false;
        }
        at += len + 1;
        labels += 1;
    }
    if labels > LABELS_MAX {
        return true;
    }
    if at != boundary || labels < 3 {
        return false;
    }
    // Length and text of a label of three letters.
    let kind = last & 0xffff_ffff;
    let underscore = (first >> 8) & 0xff == b'_' as u64;
    match kind {
        SVC => labels == LABELS_MAX && !underscore,
        POD => labels > 3,
        _ => true,
    }
}

const SVC: u64 = u32::from_le_bytes([3, b's', b'v', b'c']) as u64;
const POD: u64 = u32::from_le_bytes([3, b'p', b'o', b'd']) as u64;

/// Eight bytes of the lower-case name, at any offset. Behind the name's last word they are those of another name, zero
/// behind the buffer.
#[inline(always)]
fn read_lower(scratch: &Scratch, at: usize) -> u64 {
    // The compiler can prove that the index is within the buffer and would not check it; the verifier cannot follow the
    // proof.
    let (word, shift) = (core::hint::black_box(at / 8), (at % 8) as u32 * 8);
    if word >= NAME_WORDS {
        return 0;
    }
    let low = scratch.lower[word];
    let high = if word + 1 < NAME_WORDS { scratch.lower[word + 1] } else { 0 };
    (low >> shift) | ((high << 1) << (63 - shift))
}

/// Why a message is left to the agent's server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Not one plain question: another opcode, several questions, records, an EDNS version, lengths that disagree.
    Form,
    /// Another type or class.
    Type,
    /// Not in the table.
    Name,
}

/// Record types that the kernel knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// IPv4 address (1).
    A,
    /// IPv6 address (28).
    Aaaa,
}

/// A question the kernel may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// What was asked for.
    pub kind: Type,
    /// Offset in the message of the byte after the question.
    pub end: usize,
    /// Whether there is an OPT record (RFC 6891), and its DO bit (RFC 3225).
    pub edns: Option<bool>,
}

/// The counts of one question and no record, or one record in the additional section.
const PLAIN: u64 = u64::from_ne_bytes([0, 1, 0, 0, 0, 0, 0, 0]);
const WITH_OPT: u64 = u64::from_ne_bytes([0, 1, 0, 0, 0, 0, 0, 1]);

/// Whether the header is that of a standard query with one question and, at most, an OPT record. For use before
/// [`scan`], on the first 12 bytes.
#[inline(always)]
pub const fn is_query(scratch: &Scratch) -> bool {
    let flags = (scratch.message[0] >> 48) as u16;
    let [high, _] = flags.to_ne_bytes();
    let counts = scratch.message[1];
    // QR, opcode, AA and TC are clear (RFC 1035, 4.1.1); RD, AD and CD are the client's choice.
    high & 0xfe == 0 && (counts == PLAIN || counts == WITH_OPT)
}

/// Reads what stands behind the name, after [`is_query`] and [`scan`] said yes. `len` is the length of the message.
///
/// # Errors
/// [`Pass`] says what is not for the kernel.
#[inline(always)]
pub fn question(scratch: &Scratch, name_len: u32, len: usize) -> Result<Question, Pass> {
    let name_len = name_len as usize;
    if name_len > NAME_MAX {
        return Err(Pass::Form);
    }
    let end = HEADER_LEN + name_len + 4;
    let rest = scratch.read(end - 4);
    let [t0, t1, c0, c1, _, _, _, _] = rest.to_ne_bytes();
    let edns = if scratch.message[1] == WITH_OPT {
        let [root, o0, o1, _, _, _, version, flags] = scratch.read(end).to_ne_bytes();
        let [_, r0, r1, _, _, _, _, _] = scratch.read(end + 8).to_ne_bytes();
        let rdlen = u16::from_be_bytes([r0, r1]) as usize;
        // Options that a server does not know are ignored (RFC 6891, 6.1.2); what remains must be exactly the OPT.
        if root != 0 || o0 != 0 || o1 != 41 || version != 0 || len != end + 11 + rdlen {
            return Err(Pass::Form);
        }
        Some(flags & 0x80 != 0)
    } else {
        if len != end {
            return Err(Pass::Form);
        }
        None
    };
    if c0 != 0 || c1 != 1 {
        return Err(Pass::Type);
    }
    let kind = match (t0, t1) {
        (0, 1) => Type::A,
        (0, 28) => Type::Aaaa,
        _ => return Err(Pass::Type),
    };
    Ok(Question { kind, end, edns })
}

#[cfg(test)]
mod tests;
