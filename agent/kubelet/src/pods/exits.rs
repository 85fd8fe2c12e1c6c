//! Waking when a container or sandbox ends. A pidfd of its first process wakes without polling; where the runtime
//! does not tell pids, a relist every second stands in while something runs (stock's generic PLEG does that always).

use std::collections::HashSet;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::cri::Cri;
use crate::runtime::{PodRuntime, State};
use crate::sys::PidFd;

/// Relist period without pids.
const RELIST: Duration = Duration::from_secs(1);
/// How long the runtime may take to notice an exit the kernel has told us of.
const NOTICE: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Container,
    Sandbox,
}

/// Waits for the ends of one Pod's processes.
pub struct Exits {
    cri: Cri,
    watched: HashSet<String>,
    waiting: JoinSet<String>,
}

impl Exits {
    /// Watches nothing yet.
    pub fn new(cri: Cri) -> Self {
        Self { cri, watched: HashSet::new(), waiting: JoinSet::new() }
    }

    /// Watches what runs.
    pub async fn follow(&mut self, rt: &PodRuntime) {
        let containers = rt.containers.iter().filter(|c| c.state == State::Running).map(|c| (&c.id, What::Container));
        let sandboxes = rt.sandboxes.iter().filter(|s| s.ready).map(|s| (&s.id, What::Sandbox));
        let alive: Vec<(String, What)> = containers.chain(sandboxes).map(|(id, w)| (id.clone(), w)).collect();
        self.watched.retain(|id| alive.iter().any(|(a, _)| a == id));
        for (id, what) in alive {
            if self.watched.contains(&id) {
                continue;
            }
            let process = self.open(&id, what).await;
            let (cri, own) = (self.cri.clone(), id.clone());
            self.waiting.spawn(async move {
                match process {
                    Some(fd) => {
                        if fd.exited().await.is_ok() {
                            noticed(&cri, &own, what).await;
                        }
                    }
                    None => until_gone(&cri, &own, what, RELIST).await,
                }
                own
            });
            self.watched.insert(id);
        }
    }

    /// A pidfd of the process, if the runtime tells the pid and still says it runs once the pidfd is open (so that
    /// it is the right process, not a later one of the same number).
    async fn open(&self, id: &str, what: What) -> Option<PidFd> {
        let pid = match what {
            What::Container => self.cri.container_pid(id).await,
            What::Sandbox => self.cri.sandbox_pid(id).await,
        };
        let fd = PidFd::open(pid.ok().flatten()?).ok()?;
        alive(&self.cri, id, what).await.then_some(fd)
    }

    /// Returns when something ended. Pends for ever while nothing runs.
    pub async fn next(&mut self) {
        match self.waiting.join_next().await {
            Some(Ok(id)) => {
                self.watched.remove(&id);
            }
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }
}

async fn alive(cri: &Cri, id: &str, what: What) -> bool {
    match what {
        What::Container => match cri.container_status(id).await {
            Ok(s) => s.state == k8s_cri::v1::ContainerState::ContainerRunning as i32,
            Err(e) => !e.is_cri_not_found(),
        },
        What::Sandbox => match cri.sandbox_status(id).await {
            Ok(s) => s.state == k8s_cri::v1::PodSandboxState::SandboxReady as i32,
            Err(e) => !e.is_cri_not_found(),
        },
    }
}

async fn until_gone(cri: &Cri, id: &str, what: What, every: Duration) {
    while alive(cri, id, what).await {
        tokio::time::sleep(every).await;
    }
}

/// The process is gone: the runtime's own state follows within milliseconds.
async fn noticed(cri: &Cri, id: &str, what: What) {
    let wait = async {
        let mut pause = Duration::from_millis(4);
        while alive(cri, id, what).await {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    };
    if tokio::time::timeout(NOTICE, wait).await.is_err() {
        tracing::warn!(id, "the runtime has not noticed that the first process ended");
    }
}
