//! What every controller stands on: informers, queues, the event recorder, ownership and Pod helpers.
//!
//! ```text
//!  API server --watch--> Informer (indexed store) --Change--> handler --key--> WorkQueue --key--> sync --writes--> API server
//!                           ^                                                                        |
//!                           +------------------- the answer to a write ("wrote") --------------------+
//! ```
//!
//! Nothing here knows a particular controller. Nothing here polls: a task wakes for a watch event, an
//! added key or a deadline.

pub mod error;
pub mod informer;
pub mod labels;
pub mod ownership;
pub mod pods;
pub mod queue;
pub mod recorder;

pub use error::{Doing, Error, Result};
pub use informer::{Change, Informer, Key};
pub use queue::{Outcome, WorkQueue, run_workers};
pub use recorder::{EventType, Flavour, Recorder};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use k8s_openapi::jiff::Timestamp;

/// Now, as Kubernetes stores it: whole seconds.
pub fn now() -> Time {
    Time(seconds(Timestamp::now()))
}

/// Now with microseconds, as Leases and events.k8s.io/v1 store it.
pub fn now_micro() -> MicroTime {
    MicroTime(Timestamp::now())
}

/// `t` cut to whole seconds, so that what was computed equals what the API returns.
pub fn seconds(t: Timestamp) -> Timestamp {
    Timestamp::from_second(t.as_second()).unwrap_or(t)
}

/// How long after `earlier` the instant `later` is; zero when it is not after it.
pub fn elapsed(earlier: Timestamp, later: Timestamp) -> std::time::Duration {
    std::time::Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}
