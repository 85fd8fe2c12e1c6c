//! What is in the file: the tables, the bytes of a record, and how the engine's errors are told.
//!
//! ```text
//!   versions  (key, mod revision)  -> record          every version of every key, deletions included
//!   log       revision             -> keys it changed  what a watch replays; the last entry is the current revision
//!   expiry    (unix ms, key)       -> ()              keys that delete themselves, soonest first
//!   meta      name                 -> u64             "format", "compacted"
//!
//!   record    kind u8 (0 deletion, 1 value) | create u64 | version u64 | expires u64 (0 never) | value    little-endian
//!   log entry (length u16 | key)*                                                                         little-endian
//! ```
//!
//! It must not know how transactions are batched or who watches.

use crate::{Error, KeyValue, Revision};
use bytes::Bytes;
use redb::TableDefinition;
use std::{io, path::Path, sync::Arc};

pub(super) const FORMAT: u64 = 1;
/// The revision of an empty store.
pub(super) const FIRST_REVISION: Revision = 1;
pub(super) const MAX_KEY: usize = 2048;

pub(super) type VersionKey = (&'static [u8], u64);
pub(super) const VERSIONS: TableDefinition<'static, VersionKey, &'static [u8]> = TableDefinition::new("versions");
pub(super) const LOG: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("log");
pub(super) const EXPIRY: TableDefinition<'static, (u64, &'static [u8]), ()> = TableDefinition::new("expiry");
pub(super) const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");
pub(super) const META_FORMAT: &str = "format";
pub(super) const META_COMPACTED: &str = "compacted";

const HEAD: usize = 25;
const DELETION: u8 = 0;
const VALUE: u8 = 1;

/// One version of a key, borrowed from a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    pub create_revision: Revision,
    pub version: u64,
    pub expires_at_ms: Option<u64>,
    /// `None`: the key was deleted at this revision.
    pub value: Option<&'a [u8]>,
}

impl<'a> Record<'a> {
    pub fn decode(bytes: &'a [u8]) -> Result<Self, String> {
        let word = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
        let (Some(&kind), Some(create_revision), Some(version), Some(expires)) =
            (bytes.first(), word(1), word(9), word(17))
        else {
            return Err(format!("a record has {} bytes, fewer than its head", bytes.len()));
        };
        let value = match kind {
            DELETION => None,
            VALUE => Some(&bytes[HEAD..]),
            other => return Err(format!("a record has the unknown kind {other}")),
        };
        Ok(Self { create_revision, version, expires_at_ms: (expires != 0).then_some(expires), value })
    }

    pub fn encode(&self, into: &mut Vec<u8>) {
        into.clear();
        into.push(if self.value.is_some() { VALUE } else { DELETION });
        into.extend_from_slice(&self.create_revision.to_le_bytes());
        into.extend_from_slice(&self.version.to_le_bytes());
        into.extend_from_slice(&self.expires_at_ms.unwrap_or(0).to_le_bytes());
        into.extend_from_slice(self.value.unwrap_or_default());
    }

    /// The live key this version is, if it is one.
    pub fn to_kv(self, key: Bytes, mod_revision: Revision) -> Option<KeyValue> {
        Some(KeyValue {
            key,
            value: Bytes::copy_from_slice(self.value?),
            create_revision: self.create_revision,
            mod_revision,
            version: self.version,
            expires_at_ms: self.expires_at_ms,
        })
    }
}

/// What a deletion's event shows.
pub(super) fn deleted(key: Bytes, revision: Revision) -> KeyValue {
    KeyValue { key, value: Bytes::new(), create_revision: 0, mod_revision: revision, version: 0, expires_at_ms: None }
}

pub(super) fn encode_log<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for key in keys {
        // Keys are at most MAX_KEY bytes long: checked before a transaction is queued.
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(key);
    }
    out
}

pub(super) fn decode_log(mut entry: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut keys = Vec::with_capacity(1);
    while !entry.is_empty() {
        let (key, rest) = entry
            .split_first_chunk::<2>()
            .and_then(|(len, rest)| rest.split_at_checked(u16::from_le_bytes(*len).into()))
            .ok_or_else(|| "a log entry ends inside a key".to_owned())?;
        keys.push(key);
        entry = rest;
    }
    Ok(keys)
}

/// Why the engine refused, in the store's words. `doing` completes "... the store PATH".
pub(super) fn explain(doing: &'static str, path: &Path, error: impl Into<redb::Error>) -> Error {
    let path = path.to_owned();
    match error.into() {
        redb::Error::Io(source) => match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Error::Full { path, source: Arc::new(source) }
            }
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Error::Corrupt { path, detail: source.to_string() }
            }
            _ => Error::Io { doing, path, source: Arc::new(source) },
        },
        redb::Error::Corrupted(detail) => Error::Corrupt { path, detail },
        redb::Error::DatabaseAlreadyOpen => Error::InUse { path },
        redb::Error::DatabaseClosed => Error::Closed,
        redb::Error::UpgradeRequired(found) => Error::Format { path, found: found.into(), supported: FORMAT },
        other @ (redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }) => Error::Corrupt { path, detail: other.to_string() },
        other => Error::Io { doing, path, source: Arc::new(io::Error::other(other.to_string())) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_encoding() {
        let mut bytes = Vec::new();
        for value in [None, Some(&b""[..]), Some(&b"x"[..])] {
            let record = Record { create_revision: 7, version: 3, expires_at_ms: Some(9), value };
            record.encode(&mut bytes);
            let back = Record::decode(&bytes).unwrap();
            assert_eq!((back.create_revision, back.version, back.expires_at_ms, back.value), (7, 3, Some(9), value));
        }
    }

    #[test]
    fn damaged_bytes_are_named_and_do_not_panic() {
        assert!(Record::decode(b"\x01short").is_err());
        assert!(Record::decode(&[7; 40]).is_err());
        assert!(decode_log(&[9, 0, b'a']).is_err());
        assert!(decode_log(&[9]).is_err());
    }
}
