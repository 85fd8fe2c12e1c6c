//! Startup, liveness and readiness probes: one task a container and kind, on its own timer; verdicts feed plan and status.

mod attempt;
mod grpc;
pub mod http;
mod worker;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

pub use attempt::{Attempt, port};
pub use worker::Probes;

/// Which probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Until it passes, the others do not run.
    Startup,
    /// Its failure restarts the container.
    Liveness,
    /// Its result is the container's readiness.
    Readiness,
}

impl Kind {
    /// As it begins an event's message.
    pub fn title(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Liveness => "Liveness",
            Self::Readiness => "Readiness",
        }
    }
}

/// What the probes say of a container, by CRI id.
pub trait Verdicts: Send + Sync {
    /// Its startup probe has passed.
    fn startup_passed(&self, id: &str) -> bool;
    /// Its startup probe has failed for good.
    fn failed_startup(&self, id: &str) -> bool;
    /// Its liveness probe has failed.
    fn failed_liveness(&self, id: &str) -> bool;
    /// The readiness probe's last verdict.
    fn ready(&self, id: &str) -> Option<bool>;
}

/// The verdicts of one Pod's probes.
pub struct Results {
    verdicts: Mutex<HashMap<(String, Kind), bool>>,
    changed: watch::Sender<()>,
}

impl Default for Results {
    fn default() -> Self {
        Self { verdicts: Mutex::default(), changed: watch::channel(()).0 }
    }
}

impl Results {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, Kind), bool>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The verdict, if there is one.
    pub fn get(&self, id: &str, kind: Kind) -> Option<bool> {
        self.lock().get(&(id.to_owned(), kind)).copied()
    }
    /// Sets a verdict and wakes whoever waits for changes.
    pub fn set(&self, id: &str, kind: Kind, ok: bool) {
        if self.lock().insert((id.to_owned(), kind), ok) != Some(ok) {
            self.changed.send_replace(());
        }
    }
    /// Forgets a container.
    pub fn forget(&self, id: &str) {
        self.lock().retain(|(i, _), _| i != id);
    }
    /// Told of every change from now on.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Verdicts for Results {
    fn startup_passed(&self, id: &str) -> bool {
        self.get(id, Kind::Startup) == Some(true)
    }
    fn failed_startup(&self, id: &str) -> bool {
        self.get(id, Kind::Startup) == Some(false)
    }
    fn failed_liveness(&self, id: &str) -> bool {
        self.get(id, Kind::Liveness) == Some(false)
    }
    fn ready(&self, id: &str) -> Option<bool> {
        self.get(id, Kind::Readiness)
    }
}

/// Shared by the Pod's worker and its probe tasks.
pub type SharedResults = Arc<Results>;
