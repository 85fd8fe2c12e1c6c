//! What must hold of any bytes that a runtime may pass to the CNI plugin, or that its own files may have after a crash. Run
//! by `agent/tests/corpus.rs` and `cargo xtask fuzz`.
//!
//! May not know: links, files.
#![allow(clippy::expect_used, clippy::missing_panics_doc, reason = "a panic is what a fuzzer looks for")]

use crate::cni;
use crate::endpoint::{self, Endpoint};

/// The first line is CNI_ARGS, the rest the network configuration.
pub fn cni(bytes: &[u8]) {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (arguments, input) = bytes.split_at(at);
    cni::read_any(&String::from_utf8_lossy(arguments), input);
}

/// A record of a Pod's interface.
pub fn record(bytes: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Endpoint>(bytes) else { return };
    let text = serde_json::to_vec(&record).expect("a record can be written");
    let again: Endpoint = serde_json::from_slice(&text).expect("and read");
    assert_eq!(again, record);
    assert_eq!(endpoint::parse_mac(&endpoint::mac_text(record.mac)), Some(record.mac));
}
