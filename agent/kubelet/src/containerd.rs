//! A containerd of our own for one node: its configuration, its start (detached, so that it and its Pods
//! outlive a kill -9 of ours), its adoption by a later start, and its end on request.
//!
//! ```text
//! dir/config.toml   written at every ensure()
//! dir/root          images, snapshots                dir/containerd.log   its log, appended
//! dir/state         sockets, task bundles, runc      dir/containerd.pid   for stop()
//! ```
//! Knows nothing of Kubernetes objects.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;

use crate::cri::Cri;
use crate::error::{Error, Result};
use crate::sys::{PidFd, own_session};

/// How a node's containerd is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory of everything it owns on disk.
    pub dir: PathBuf,
    /// Socket it serves; paths over 100 bytes are refused by the kernel.
    pub socket: PathBuf,
    /// The containerd executable.
    pub executable: PathBuf,
    /// Image of the Pod sandboxes.
    pub sandbox_image: String,
    /// Directory with CNI plugins.
    pub cni_bin_dir: PathBuf,
    /// Directory with CNI network lists; the network is ready once one is there.
    pub cni_conf_dir: PathBuf,
    /// Directory with `HOST/hosts.toml`, registries' settings.
    pub registry_config_dir: PathBuf,
    /// cgroup path (in every hierarchy) the process is put in, e.g. `/strake/n1/runtime`. A leaf: on cgroup v2
    /// a group with children that use controllers may hold no process.
    pub cgroup: Option<String>,
    /// How long `ensure` waits for CRI to answer.
    pub start_timeout: Duration,
}

impl Options {
    /// Everything under `dir`, the stock executable.
    pub fn under(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            socket: dir.join("containerd.sock"),
            executable: "containerd".into(),
            sandbox_image: "strake.local/pause:latest".into(),
            cni_bin_dir: dir.join("cni/bin"),
            cni_conf_dir: dir.join("cni/net.d"),
            registry_config_dir: dir.join("certs.d"),
            cgroup: None,
            start_timeout: Duration::from_secs(20),
        }
    }

    fn config_file(&self) -> PathBuf {
        self.dir.join("config.toml")
    }
    /// Its log file.
    pub fn log_file(&self) -> PathBuf {
        self.dir.join("containerd.log")
    }
    /// File with the pid of the process, written by whoever started it.
    pub fn pid_file(&self) -> PathBuf {
        self.dir.join("containerd.pid")
    }
}

/// The two snapshotters that need no preparation of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshotter {
    /// overlayfs: wanted.
    Overlayfs,
    /// Copies of whole trees: where the directory's file system cannot carry overlay layers.
    Native,
}

impl Snapshotter {
    fn name(self) -> &'static str {
        match self {
            Self::Overlayfs => "overlayfs",
            Self::Native => "native",
        }
    }

    /// Tries an overlay mount below `dir` and says which snapshotter works there.
    pub fn probe(dir: &Path) -> Self {
        let base = dir.join(".overlay-probe");
        let mounted = (|| -> Result<()> {
            for d in ["lower", "upper", "work", "merged"] {
                let d = base.join(d);
                fs::create_dir_all(&d).map_err(Error::io("create directory", &d))?;
            }
            let options = format!("lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work", base.display());
            let target = base.join("merged");
            nix::mount::mount(
                Some("overlay"),
                &target,
                Some("overlay"),
                nix::mount::MsFlags::empty(),
                Some(options.as_str()),
            )
            .map_err(Error::os("mount overlay at", &target))?;
            nix::mount::umount2(&target, nix::mount::MntFlags::MNT_DETACH).map_err(Error::os("unmount", &target))
        })();
        let _ = fs::remove_dir_all(&base);
        match mounted {
            Ok(()) => Self::Overlayfs,
            Err(error) => {
                tracing::warn!(%error, "overlayfs does not work here, images are copied (native snapshotter)");
                Self::Native
            }
        }
    }
}

fn toml_string(path: &Path) -> String {
    toml_quote(&path.to_string_lossy())
}

fn toml_quote(text: &str) -> String {
    format!("{text:?}")
}

/// The configuration file (version 2, understood by containerd 1.6 to 2.x).
pub fn render_config(o: &Options, snapshotter: Snapshotter) -> String {
    let mut t = String::new();
    let dir = &o.dir;
    let _ = write!(
        t,
        r#"# Written by strake at every start; changes here are lost.
version = 2
root = {root}
state = {state}
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]

[grpc]
  address = {socket}

[ttrpc]
  address = {ttrpc}

[plugins."io.containerd.internal.v1.opt"]
  path = {opt}

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {sandbox}
  # Without CAP_SYS_RESOURCE a lower score than our own cannot be given to a container.
  restrict_oom_score_adj = true
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true
  disable_apparmor = {no_apparmor}

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = {cni_bin}
  conf_dir = {cni_conf}
  max_conf_num = 1

[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = {registry}

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{snapshotter}"
  default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
  Root = {runc}
"#,
        root = toml_string(&dir.join("root")),
        state = toml_string(&dir.join("state")),
        socket = toml_string(&o.socket),
        ttrpc = toml_quote(&format!("{}.ttrpc", o.socket.display())),
        opt = toml_string(&dir.join("opt")),
        sandbox = toml_quote(&o.sandbox_image),
        no_apparmor = !Path::new("/sys/kernel/security/apparmor").exists(),
        cni_bin = toml_string(&o.cni_bin_dir),
        cni_conf = toml_string(&o.cni_conf_dir),
        registry = toml_string(&o.registry_config_dir),
        snapshotter = snapshotter.name(),
        runc = toml_string(&dir.join("state/runc")),
    );
    t
}

/// A containerd that answers.
#[derive(Clone, Debug)]
pub struct Containerd {
    /// Its options.
    pub options: Options,
    /// Whether it ran already.
    pub adopted: bool,
}

/// Adopts the containerd that serves the socket, or starts one, and returns once CRI answers.
pub async fn ensure(options: Options) -> Result<Containerd> {
    let fail =
        |message: String| Error::Containerd { socket: options.socket.clone(), message: with_log(&options, message) };
    if answers(&options.socket).await.is_ok() {
        return Ok(Containerd { options, adopted: true });
    }
    for d in [&options.dir, &options.cni_bin_dir, &options.cni_conf_dir, &options.registry_config_dir] {
        fs::create_dir_all(d).map_err(Error::io("create directory", d))?;
    }
    // One that is just starting (or hung) is given its time rather than a rival on the same root.
    let running = running_pid(&options);
    let mut child = None;
    if running.is_none() {
        let config = options.config_file();
        let text = render_config(&options, Snapshotter::probe(&options.dir));
        fs::write(&config, text).map_err(Error::io("write", &config))?;
        let log = options.log_file();
        let out = fs::OpenOptions::new().create(true).append(true).open(&log).map_err(Error::io("open", &log))?;
        let err = out.try_clone().map_err(Error::io("duplicate the descriptor of", &log))?;
        let mut command = Command::new(&options.executable);
        command.arg("--config").arg(&config).stdin(Stdio::null()).stdout(out).stderr(err).current_dir("/");
        let spawned = own_session(&mut command)
            .spawn()
            .map_err(|e| fail(format!("cannot start {}: {e}", options.executable.display())))?;
        let pid = spawned.id();
        let pid_file = options.pid_file();
        fs::write(&pid_file, pid.to_string()).map_err(Error::io("write", &pid_file))?;
        if let Some(cgroup) = &options.cgroup {
            crate::cgroup::Hierarchies::discover()?.enter(cgroup, pid)?;
        }
        child = Some(spawned);
    }
    let deadline = Instant::now() + options.start_timeout;
    let mut pause = Duration::from_millis(20);
    loop {
        match answers(&options.socket).await {
            Ok(()) => break,
            Err(error) => {
                if let Some(Ok(Some(status))) = child.as_mut().map(std::process::Child::try_wait) {
                    return Err(fail(format!("it exited at once ({status})")));
                }
                if Instant::now() > deadline {
                    return Err(fail(format!("it does not answer after {:?}: {error}", options.start_timeout)));
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 3 / 2).min(Duration::from_millis(200));
    }
    if let Some(mut child) = child {
        // Reaped when it ends while we are its parent; init does it otherwise.
        std::thread::Builder::new()
            .name("containerd-reaper".into())
            .stack_size(64 * 1024)
            .spawn(move || child.wait())
            .map_err(Error::io("start the reaper thread of", &options.executable))?;
    }
    Ok(Containerd { options, adopted: running.is_some() })
}

impl Containerd {
    /// Starts it again whenever it ends, until `stop` is cancelled (which leaves it running). Containers live on under
    /// their shims meanwhile. Only the process's end wakes this; a failed start is tried again, ever more slowly.
    pub async fn keep(&self, stop: CancellationToken) {
        let mut pause = Duration::from_millis(100);
        loop {
            let ended = async {
                if let Some(Ok(process)) = running_pid(&self.options).map(PidFd::open) {
                    let begun = Instant::now();
                    let _ = process.exited().await;
                    return begun.elapsed() > Duration::from_secs(60);
                }
                false
            };
            let lived = tokio::select! {
                () = stop.cancelled() => return,
                lived = ended => lived,
            };
            pause = if lived { Duration::from_millis(100) } else { (pause * 2).min(Duration::from_secs(10)) };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            tracing::warn!(socket = %self.options.socket.display(), "containerd has ended, starting it again");
            if let Err(error) = Box::pin(ensure(self.options.clone())).await {
                tracing::error!(%error, "containerd not started, trying again");
            }
        }
    }

    /// Ends it: SIGTERM, then SIGKILL after 10 s. Containers go on under their shims; remove the Pods first
    /// (`teardown`) when they should not.
    pub async fn stop(&self) -> Result<()> {
        stop(&self.options).await
    }
}

/// Ends the containerd of these options if it runs (also one started by an earlier process).
pub async fn stop(options: &Options) -> Result<()> {
    if let Some(pid) = running_pid(options) {
        let name = options.pid_file();
        match PidFd::open(pid) {
            Ok(process) => {
                process.signal(Signal::SIGTERM).map_err(Error::io("signal the process of", &name))?;
                if tokio::time::timeout(Duration::from_secs(10), process.exited()).await.is_err() {
                    process.signal(Signal::SIGKILL).map_err(Error::io("kill the process of", &name))?;
                    process.exited().await.map_err(Error::io("wait for the process of", &name))?;
                }
            }
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            Err(e) => return Err(Error::io("open the process of", &name)(e)),
        }
    }
    let _ = fs::remove_file(options.pid_file());
    let _ = fs::remove_file(&options.socket);
    Ok(())
}

/// The pid in the pid file, if that process still is a containerd with our configuration.
pub fn running_pid(options: &Options) -> Option<i32> {
    let pid: i32 = fs::read_to_string(options.pid_file()).ok()?.trim().parse().ok()?;
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let config = options.config_file();
    cmdline.split(|b| *b == 0).any(|a| a == config.as_os_str().as_encoded_bytes()).then_some(pid)
}

async fn answers(socket: &Path) -> Result<()> {
    if !socket.exists() {
        return Err(Error::Containerd { socket: socket.to_owned(), message: "no socket yet".into() });
    }
    Cri::connect(socket).version().await.map(|_| ())
}

fn with_log(options: &Options, message: String) -> String {
    let log = fs::read_to_string(options.log_file()).unwrap_or_default();
    let tail: Vec<&str> = log.lines().rev().filter(|l| !l.contains("level=info")).take(3).collect();
    if tail.is_empty() {
        return message;
    }
    format!("{message}; its log ends: {}", tail.into_iter().rev().collect::<Vec<_>>().join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_keeps_everything_under_its_directory() {
        let o = Options::under(Path::new("/d/containerd"));
        let t = render_config(&o, Snapshotter::Overlayfs);
        for line in [
            "version = 2",
            "root = \"/d/containerd/root\"",
            "state = \"/d/containerd/state\"",
            "address = \"/d/containerd/containerd.sock\"",
            "stream_server_port = \"0\"",
            "SystemdCgroup = false",
            "snapshotter = \"overlayfs\"",
            "restrict_oom_score_adj = true",
        ] {
            assert!(t.contains(line), "{line} is missing in\n{t}");
        }
    }
}
