//! What must hold of any text that `iptables-save` may print. Run by `agent/tests/corpus.rs` and `cargo xtask fuzz`.
#![allow(clippy::missing_panics_doc, reason = "a panic is what a fuzzer looks for")]

/// Rules that others made: only kube-proxy's are removed.
pub fn rules(bytes: &[u8]) {
    crate::leftovers::read_any(&String::from_utf8_lossy(bytes));
}
