//! The datapath with real sockets and real packets, in namespaces of its own. Needs root; runs one test at a time.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a panic is a test's report")]

mod change;
mod outside;
mod paths;
mod restart;

use std::sync::{Mutex, MutexGuard};

use strake_tests::lab::Lab;

/// Labs share the machine's CPUs and memory for BPF: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn lab() -> Lab {
    Lab::new(&[env!("CARGO_BIN_EXE_strake-net-helper")])
}

const VIP: &str = "10.96.0.7";
