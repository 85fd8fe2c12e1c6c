//! Flows: what the programs report, with both ends named, remembered, counted and streamed.
//!
//! ```text
//!   EVENTS (ring buffer) ──► reader ──► enrich (World) ──► History ──► gRPC stream, `strake flows`
//!   EVENTS_LOST (counters) ──┘                     └─────► Metrics
//! ```
//!
//! Knows the events' layout and the cluster's snapshot. It does not know how programs are loaded: it opens the pinned
//! maps.
#![forbid(unsafe_code)]

mod enrich;
mod filter;
mod history;
mod metrics;
mod reader;
mod service;
mod time;

/// Generated from `proto/flow.proto`.
#[allow(clippy::all, reason = "generated code")]
pub mod proto {
    tonic::include_proto!("strake.flow.v1");
}

pub use enrich::Enricher;
pub use filter::matches;
pub use history::{History, Item};
pub use metrics::Metrics;
pub use reader::{Config, FlowLog, ReaderError};
pub use service::{FlowService, ServiceError, connect, serve};
