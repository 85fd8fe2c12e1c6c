//! What must hold of any bytes that containers, clients of the kubelet's server and files of the node may have. Run by
//! `agent/tests/corpus.rs` and `cargo xtask fuzz`.
//!
//! May not know: where the bytes come from.
#![allow(clippy::missing_panics_doc, reason = "a panic is what a fuzzer looks for")]

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::logs::format;
use crate::{cgroup, expand, image_ref, quantity, resolv, server};

/// A log file, line by line: no line is longer than what was read, and a line that is read is where it was.
pub fn log(bytes: &[u8]) {
    for raw in bytes.split_inclusive(|byte| *byte == b'\n') {
        if let Some(line) = format::parse(raw) {
            let _ = line.timestamp();
            assert!(line.text.len() + line.time.len() < raw.len());
            assert!(raw.strip_suffix(b"\n").unwrap_or(raw).ends_with(line.text));
        }
    }
}

/// What users write into a Pod: names of images, quantities, references to variables.
pub fn text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(image) = image_ref::parse(&text) {
        assert!(!image.registry.is_empty() && !image.path.is_empty(), "{text:?}");
        let _ = (image.repository(), image_ref::policy(None, &image));
    }
    let quantity = Quantity(text.clone().into_owned());
    let _ = (quantity::milli(&quantity), quantity::value(&quantity));
    let known = |name: &str| (name == "HOME").then_some("/root");
    let _ = (expand::expand(&text, known), expand::expand_strict(&text, known));
}

/// Tables of the node: mounts, resolv.conf.
pub fn node(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    cgroup::read_any(&text);
    let found = resolv::parse(&text);
    assert!(found.servers.iter().chain(&found.searches).all(|word| text.contains(word.as_str())));
}

/// A request to the kubelet's server: its path with the query, or a client's certificate.
pub fn request(bytes: &[u8]) {
    server::read_any(bytes);
}
