//! Whole clusters: the real binary, containerd, kernel and clients.
#![expect(clippy::unwrap_used, reason = "a panic is a test's report")]

mod announce;
mod clients;
mod dual_stack;
mod explain;
mod node;
mod proxy;
mod refusals;
mod services;
mod trouble;
