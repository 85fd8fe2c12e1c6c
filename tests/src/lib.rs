//! What tests of whole clusters share: a cluster of one's own, the unmodified clients, and waiting for conditions.
//!
//! A [`Cluster`] lives in a rig of its own (namespaces, cgroups, data dir) and is gone when it is dropped, whichever
//! way the test ends; on failure its logs are printed first.
#![deny(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a panic is a test's report")]

pub mod bare;
pub mod cluster;
pub mod command;
pub mod harness;
pub mod lab;
pub mod lan;
pub mod net_helper;
pub mod peers;
pub mod six_harness;
pub mod uplink;

pub use cluster::Cluster;
pub use command::{Outcome, eventually, run};
