//! Resources over HTTP: from a parsed request to an operation on objects and back.
//!
//! ```text
//!   handle ─► decode ─► create / update / patch / delete ─► admission, strategy, allocation ─► storage
//!          └► get / list / watch ─► cache                                    └► render ─► answer
//! ```
//!
//! One code path for every kind: what differs is in the kind's row and its strategy.

pub mod convert;
pub mod create;
pub mod decode;
pub mod delete;
pub mod handlers;
pub mod list;
mod notyet;
pub mod op;
pub mod patch;
pub mod render;
pub mod scale;
pub mod select;
pub mod storage;
pub mod update;
pub mod watch;

pub use handlers::{handle, resolve};
pub use op::{Op, Warnings, WriteOptions};
