//! What must hold of any bytes that the kernel, a mount table or another version's book may have. Run by
//! `agent/tests/corpus.rs` and `cargo xtask fuzz`.
//!
//! May not know: how the bytes are got.
#![allow(clippy::missing_panics_doc, reason = "a panic is what a fuzzer looks for")]

use strake_abi::layout::MAPS;

use crate::upgrade::layout::{Conversion, Layout};
use crate::{memory, sockdiag};

/// Answers of `NETLINK_SOCK_DIAG`.
pub fn netlink(bytes: &[u8]) {
    sockdiag::read_any(bytes);
}

/// `/proc/self/cgroup` and `/proc/self/mountinfo`, one behind the other, with an empty line between.
pub fn groups(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (groups, mounts) = text.split_once("\n\n").unwrap_or((&text, ""));
    memory::read_any(groups, mounts);
}

/// A description of a map, and rows carried from such a one to ours.
pub fn layout(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(layout) = text.trim().parse::<Layout>() else { return };
    assert_eq!(layout.to_string().parse(), Ok(layout.clone()));
    for map in &MAPS {
        let own = Layout::from(map);
        let end = |leaves: &[crate::Leaf]| leaves.iter().map(|leaf| leaf.offset + leaf.size).max().unwrap_or(0);
        let (key, value) = (end(&own.key), end(&own.value));
        if let Some(conversion) = Conversion::new(&layout, &own, key, value) {
            assert_eq!((conversion.key(bytes).len(), conversion.value(bytes).len()), (key, value));
        }
    }
}
