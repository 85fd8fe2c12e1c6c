//! Packet in, packet out: each program run by the kernel (`BPF_PROG_TEST_RUN`) on packets made here, and every checksum
//! of what comes out verified by an independent parser. Nothing is attached; root is needed to load programs.

#![expect(clippy::unwrap_used, reason = "a panic in a test is its report, in its helpers too")]

use strake_tests::{harness, six_harness, uplink};

mod announce;
mod dns;
mod dsr;
mod fragments;
mod live;
mod load;
mod maglev;
mod network;
mod room;
mod sctp;
mod sctp_harness;
mod service;
mod six;
mod six_network;
mod sources;
mod spoof;
mod sums;
mod xdp;
