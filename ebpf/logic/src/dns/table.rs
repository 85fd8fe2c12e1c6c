//! Rows of the table of names, made on the host by the agent with the very hash that the kernel uses.

use strake_abi::Addr4;
use strake_abi::dns::{DnsKey, DnsName, DnsZone, NAME_MAX, NAME_WORDS, SOA_MAX, ZONE_MAX};

use super::{Hash, lower};

/// A name in lower-case wire form, at most [`NAME_MAX`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireName {
    words: [u64; NAME_WORDS],
    len: u32,
}

impl WireName {
    /// From the usual dotted form, with or without the final dot. `None` if a label is empty or longer than 63 bytes,
    /// or the whole is longer than the kernel answers; escapes are not known.
    pub fn from_dotted(name: &str) -> Option<Self> {
        let name = name.strip_suffix('.').unwrap_or(name);
        let mut bytes = [0u8; NAME_MAX];
        let mut at = 0;
        for label in name.split('.') {
            let label = label.as_bytes();
            // A zero byte in a label would end the name for the kernel.
            if label.is_empty() || label.len() > 63 || label.contains(&0) {
                return None;
            }
            let end = at + 1 + label.len();
            *bytes.get_mut(at)? = label.len() as u8;
            bytes.get_mut(at + 1..end)?.copy_from_slice(label);
            at = end;
        }
        if at >= NAME_MAX {
            return None;
        }
        let mut words = [0; NAME_WORDS];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = lower(u64::from_ne_bytes(chunk.try_into().ok()?));
        }
        Some(Self { words, len: at as u32 + 1 })
    }

    /// Bytes, root included.
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Never: the root alone has a byte too.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The wire form.
    pub fn bytes(&self) -> [u8; NAME_MAX] {
        let mut out = [0; NAME_MAX];
        for (chunk, word) in out.chunks_exact_mut(8).zip(&self.words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        out
    }

    /// The key under which the kernel looks.
    pub fn key(&self) -> DnsKey {
        let mut hash = Hash::new();
        let mut i = 0;
        // One word past the last full one: `scan` hashes the word that holds the root's zero too.
        while i * 8 < self.len() {
            hash = hash.word(self.words[i]);
            i += 1;
        }
        hash.finish(self.len)
    }

    /// The row for this name. `ttl` in seconds; `flags` of `strake_abi::dns::DNS_*`.
    pub fn row(&self, addr: Addr4, ttl: u32, flags: u16, service_id: u32) -> (DnsKey, DnsName) {
        (self.key(), DnsName { name: self.words, name_len: self.len as u16, flags, addr, ttl, service_id })
    }
}

/// Times of a SOA record, in seconds (RFC 1035, 3.3.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Soa {
    /// Version of the zone.
    pub serial: u32,
    /// Until a secondary looks again.
    pub refresh: u32,
    /// Until it tries again.
    pub retry: u32,
    /// Until it gives up.
    pub expire: u32,
    /// Upper bound of negative caching (RFC 2308, 4).
    pub minimum: u32,
}

/// The row of `DNS_ZONE`. `None` if the names make the rdata longer than [`SOA_MAX`].
pub fn zone(name: &WireName, mname: &WireName, rname: &WireName, soa: &Soa, ttl: u32) -> Option<DnsZone> {
    let mut rdata = [0u8; SOA_MAX];
    let mut at = 0;
    for name in [mname, rname] {
        rdata.get_mut(at..at + name.len())?.copy_from_slice(name.bytes().get(..name.len())?);
        at += name.len();
    }
    for time in [soa.serial, soa.refresh, soa.retry, soa.expire, soa.minimum] {
        rdata.get_mut(at..at + 4)?.copy_from_slice(&time.to_be_bytes());
        at += 4;
    }
    let mut out = DnsZone { zone_len: name.len() as u16, soa_len: at as u16, ttl, ..DnsZone::default() };
    if name.len() <= ZONE_MAX {
        out.name.copy_from_slice(name.words.get(..ZONE_MAX / 8)?);
    }
    for (to, from) in out.soa_rdata.iter_mut().zip(rdata.chunks_exact(8)) {
        to.copy_from_slice(from);
    }
    Some(out)
}
