//! A real server on a port of its own, over the embedded store, driven by kube-rs and by raw HTTP.

#![expect(clippy::unwrap_used, reason = "a panic in a test is its report")]

mod dual_stack;
mod objects;
mod server;
mod streams;
mod watches;
mod wire;
