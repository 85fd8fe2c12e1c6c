//! A node: the kubelet, the datapath, the Pod network and the userspace half of DNS, composed.
//!
//! ```text
//!   join      token -> certificates (CSR)                        <node dir>/pki
//!   run       containerd -> datapath -> agent.sock -> CNI conf -> kubelet
//!                             ^
//!             state::World ---+--> routes, DNS, flows' names
//! ```
//!
//! Each part is a crate of its own that knows nothing of the others; this one starts them in the order that a Pod
//! needs them, hands the World around, and serves the local API. `--components` leaves parts out, so that a stock
//! kubelet, CNI plugin or proxy can take their place.
#![forbid(unsafe_code)]

mod api;
mod config;
pub mod containers;
mod error;
mod join;
mod run;

pub use config::{Component, Config, Join};
pub use error::Error;
pub use run::run;
