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
//! kubelet, CNI plugin or proxy can take their place. `standalone` is the proxy alone, on a node of somebody else's
//! cluster.
#![forbid(unsafe_code)]

mod announce;
mod api;
mod config;
pub mod containers;
mod error;
#[doc(hidden)]
pub mod fuzz;
mod health;
mod http;
mod join;
pub mod leftovers;
mod metrics;
mod proxy;
mod run;
mod service_health;
mod standalone;

pub use config::{Cidrs, Component, Config, Join, LbAlgorithm, LbMode, MapSizes, Maps, XdpMode};
pub use error::Error;
pub use proxy::Listen;
pub use run::run;
pub use standalone::{Standalone, run as run_standalone};
pub use strake_datapath::{MAX_ROWS, MEMORY_RATIO, Memory, memory};
pub use strake_state::Sandboxes;
