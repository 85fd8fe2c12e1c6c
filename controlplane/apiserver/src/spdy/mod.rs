//! The client side of SPDY/3.1 as container runtimes speak it for exec, attach and port-forward.
//!
//! Only what `moby/spdystream` peers use: streams with headers, data, half-close, reset, ping, goaway. Flow control is
//! not part of that dialect; backpressure is TCP's. Source: SPDY Protocol draft 3.1.
//!
//! ```text
//!   control frame  |1| version 15 | type 16 | flags 8 | length 24 | payload      big endian
//!   data frame     |0| stream id 31         | flags 8 | length 24 | data
//! ```

pub mod frame;
pub mod headers;
#[cfg(test)]
pub mod peer;
pub mod session;

pub use session::{Session, SessionError, Stream};
