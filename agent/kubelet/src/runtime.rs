//! What the runtime knows of one Pod, in the form the plan and the status are computed from.
//! Reads; changes nothing.

use std::path::{Path, PathBuf};

use k8s_cri::v1 as cri;
use k8s_openapi::jiff::Timestamp;

use crate::cri::Cri;
use crate::error::Result;
use crate::labels;
use crate::logs::format::last_lines;

/// Most of a termination message that is read, bytes (stock).
const MESSAGE_MAX: usize = 4096;
/// Most of a log used as a message, bytes and lines (stock).
const LOG_MESSAGE_MAX: usize = 2048;
const LOG_MESSAGE_LINES: u64 = 80;

/// A Pod sandbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sandbox {
    /// CRI id.
    pub id: String,
    /// How many came before it.
    pub attempt: u32,
    /// Whether its pause process and network live.
    pub ready: bool,
    /// Creation time, ns since the epoch.
    pub created_at: i64,
    /// Its addresses, primary first; empty on the node's network.
    pub ips: Vec<String>,
    /// Whether it was made on the node's network.
    pub host_network: bool,
}

/// A container's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Created, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime cannot tell.
    #[default]
    Unknown,
}

/// A container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record {
    /// CRI id, without scheme.
    pub id: String,
    /// Name in the Pod.
    pub name: String,
    /// Its sandbox.
    pub sandbox: String,
    /// State.
    pub state: State,
    /// How many ran before it.
    pub restarts: i32,
    /// Hash of its spec when it was made.
    pub hash: String,
    /// Image as asked for.
    pub image: String,
    /// Image as the runtime names it.
    pub image_ref: String,
    /// Creation, start and end, ns since the epoch, 0 for never.
    pub created_at: i64,
    /// See `created_at`.
    pub started_at: i64,
    /// See `created_at`.
    pub finished_at: i64,
    /// Exit code, of an ended one.
    pub exit_code: i32,
    /// The runtime's reason, `OOMKilled` and the like.
    pub reason: String,
    /// Termination message or the runtime's own.
    pub message: String,
    /// Log file.
    pub log_path: PathBuf,
    /// Grace period it was made with, seconds.
    pub grace: i64,
    /// preStop handler it was made with, JSON.
    pub pre_stop: Option<String>,
}

/// All sandboxes and containers of a Pod, newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodRuntime {
    /// Sandboxes, newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Containers, newest first.
    pub containers: Vec<Record>,
}

impl PodRuntime {
    /// Newest container of a name.
    pub fn latest(&self, name: &str) -> Option<&Record> {
        self.containers.iter().find(|c| c.name == name)
    }
    /// The sandbox containers run in now.
    pub fn active_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|s| s.ready)
    }
    /// Newest container of a name in the active sandbox.
    pub fn active(&self, name: &str) -> Option<&Record> {
        let sandbox = &self.active_sandbox()?.id;
        self.containers.iter().find(|c| c.name == name && c.sandbox == *sandbox)
    }
    /// Running containers.
    pub fn running(&self) -> impl Iterator<Item = &Record> {
        self.containers.iter().filter(|c| c.state == State::Running)
    }
    /// Pod addresses, of the newest sandbox that is ready.
    pub fn ips(&self) -> &[String] {
        self.active_sandbox().map_or(&[], |s| &s.ips)
    }
}

/// Nanoseconds since the epoch as a timestamp in whole seconds, as the API stores it.
pub fn timestamp(ns: i64) -> Option<Timestamp> {
    if ns <= 0 { None } else { Timestamp::from_second(ns.div_euclid(1_000_000_000)).ok() }
}

/// Asks the runtime for everything it has of a Pod. What was exited in `previous` is not asked again.
pub async fn read(cri: &Cri, uid: &str, previous: &PodRuntime) -> Result<PodRuntime> {
    let (sandboxes, containers) = tokio::try_join!(cri.sandboxes(Some(uid)), cri.containers(Some(uid)))?;
    let mut out = PodRuntime::default();
    for s in sandboxes {
        let known = previous.sandboxes.iter().find(|p| p.id == s.id);
        let ready = s.state == cri::PodSandboxState::SandboxReady as i32;
        if let Some(known) = known.filter(|k| k.ready == ready && (k.host_network || !k.ips.is_empty() || !ready)) {
            out.sandboxes.push(known.clone());
            continue;
        }
        match cri.sandbox_status(&s.id).await {
            Ok(status) => out.sandboxes.push(sandbox(status)),
            Err(e) if e.is_cri_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    for c in containers {
        let exited = c.state == cri::ContainerState::ContainerExited as i32;
        if exited && let Some(known) = previous.containers.iter().find(|p| p.id == c.id && p.state == State::Exited) {
            out.containers.push(known.clone());
            continue;
        }
        match cri.container_status(&c.id).await {
            Ok(status) => out.containers.push(record(status, c.pod_sandbox_id)),
            Err(e) if e.is_cri_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    out.sandboxes.sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
    out.containers.sort_by_key(|c| std::cmp::Reverse(c.created_at));
    Ok(out)
}

fn sandbox(s: cri::PodSandboxStatus) -> Sandbox {
    let network = s.network.unwrap_or_default();
    let ips = std::iter::once(network.ip)
        .chain(network.additional_ips.into_iter().map(|i| i.ip))
        .filter(|i| !i.is_empty())
        .collect();
    let mode = s.linux.and_then(|l| l.namespaces).and_then(|n| n.options).map_or(0, |o| o.network);
    Sandbox {
        ready: s.state == cri::PodSandboxState::SandboxReady as i32,
        id: s.id,
        attempt: s.metadata.unwrap_or_default().attempt,
        created_at: s.created_at,
        ips,
        host_network: mode == cri::NamespaceMode::Node as i32,
    }
}

fn record(s: cri::ContainerStatus, sandbox: String) -> Record {
    let state = match cri::ContainerState::try_from(s.state) {
        Ok(cri::ContainerState::ContainerCreated) => State::Created,
        Ok(cri::ContainerState::ContainerRunning) => State::Running,
        Ok(cri::ContainerState::ContainerExited) => State::Exited,
        _ => State::Unknown,
    };
    let metadata = s.metadata.clone().unwrap_or_default();
    let annotation = |k: &str| s.annotations.get(k).map(String::as_str);
    let message = if state == State::Exited { termination_message(&s) } else { String::new() };
    Record {
        name: s.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or(metadata.name),
        sandbox,
        state,
        restarts: annotation(labels::RESTART_COUNT)
            .and_then(|v| v.parse().ok())
            .unwrap_or_else(|| i32::try_from(metadata.attempt).unwrap_or(i32::MAX)),
        hash: annotation(labels::HASH).unwrap_or_default().to_owned(),
        grace: annotation(labels::GRACE_PERIOD).and_then(|v| v.parse().ok()).unwrap_or(crate::pod::DEFAULT_GRACE),
        pre_stop: annotation(labels::PRE_STOP).map(str::to_owned),
        message,
        image: s.image.map(|i| i.image).unwrap_or_default(),
        image_ref: s.image_ref,
        created_at: s.created_at,
        started_at: s.started_at,
        finished_at: s.finished_at,
        exit_code: s.exit_code,
        reason: s.reason,
        log_path: PathBuf::from(s.log_path),
        id: s.id,
    }
}

fn termination_message(s: &cri::ContainerStatus) -> String {
    let annotation = |k: &str| s.annotations.get(k).map(String::as_str).unwrap_or_default();
    let path = annotation(labels::TERMINATION_PATH);
    let file = s.mounts.iter().find(|m| !path.is_empty() && m.container_path == path).map(|m| Path::new(&m.host_path));
    let mut message = file.and_then(|f| read_at_most(f, MESSAGE_MAX)).unwrap_or_default();
    let fallback = annotation(labels::TERMINATION_POLICY) == "FallbackToLogsOnError";
    if message.is_empty() && fallback && s.exit_code != 0 {
        message = last_lines(Path::new(&s.log_path), LOG_MESSAGE_LINES, LOG_MESSAGE_MAX).unwrap_or_default();
    }
    if message.is_empty() { s.message.clone() } else { message }
}

fn read_at_most(path: &Path, most: usize) -> Option<String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(most as u64).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Log directory of a Pod.
pub fn pod_log_dir(root: &Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    root.join(format!("{namespace}_{name}_{uid}"))
}

/// The restart count to give a container no record is left of: one more than its newest log file.
pub fn restarts_by_logs(dir: &Path) -> i32 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let newest = entries.flatten().filter_map(|e| {
        let name = e.file_name();
        name.to_string_lossy().split('.').next().and_then(|n| n.parse::<i32>().ok())
    });
    newest.max().map_or(0, |n| n + 1)
}
