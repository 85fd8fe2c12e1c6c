//! The datapath with real sockets and real packets, in namespaces of its own. Needs root; runs one test at a time.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a panic is a test's report")]

mod announce;
mod change;
mod connections;
mod dsr;
mod explain;
mod full;
mod growth;
mod holdings;
mod maglev;
mod outside;
mod paths;
mod restart;
mod sctp;
mod six;
mod six_told;
mod sources;
mod upgrade;
mod xdp;

use std::fs::File;

use nix::fcntl::{Flock, FlockArg};
use strake_tests::lab::Lab;

/// Labs share the machine's CPUs and its memory for BPF: one at a time, also where each test is a process of its own.
fn alone() -> Flock<File> {
    let path = std::env::temp_dir().join("strake-netns.lock");
    Flock::lock(File::create(path).unwrap(), FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap()
}

fn lab() -> Lab {
    Lab::new(&[env!("CARGO_BIN_EXE_strake-net-helper")])
}

const VIP: &str = "10.96.0.7";
