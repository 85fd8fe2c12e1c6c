//! One node's room: a process that holds its namespaces open, and commands run inside.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::cgroup::Hierarchies;
use crate::{Error, Spec, process, run};

/// A node.
#[derive(Debug, Clone)]
pub struct Room {
    pub name: String,
    pub ip: Ipv4Addr,
    /// Where the machine has IPv6.
    pub ip6: Ipv6Addr,
    /// The node's directory in the data dir.
    pub dir: PathBuf,
    /// Where the node's socket hooks go: its subtree of the cgroup2 hierarchy.
    pub cgroup_root: PathBuf,
    /// The parent of its Pods' cgroups, as CRI wants it.
    pub cgroup_parent: String,
    /// A bpffs of its own, visible in the room only.
    pub bpf_root: PathBuf,
    pub holder: process::Id,
    procs: Vec<PathBuf>,
}

impl Room {
    pub(crate) fn new(spec: &Spec, groups: &Hierarchies, name: &str, holder: process::Id, ip: Ipv4Addr) -> Self {
        let dir = spec.data_dir.join("nodes").join(name);
        Self {
            name: name.into(),
            ip,
            ip6: address6(ip),
            cgroup_root: groups.v2.join(&spec.name).join(name),
            cgroup_parent: format!("/{}/{name}/kubepods", spec.name),
            bpf_root: dir.join("bpf"),
            holder,
            procs: groups.procs_files(&format!("{}/{name}/system", spec.name)),
            dir,
        }
    }

    /// A command that runs in the room's namespaces and cgroup. Its pid is the program's own: every wrapper execs.
    pub fn command(&self, program: &str) -> Command {
        let mut command = enter(&self.procs);
        command.args(["nsenter", "--net", "--mount", "--target", &self.holder.pid.to_string(), "--", program]);
        command
    }

    /// Starts a program in the background, in a session of its own, its output appended to `log`.
    pub fn spawn(&self, program: &str, args: &[String], log: &Path) -> Result<process::Id, Error> {
        let file = || fs::OpenOptions::new().create(true).append(true).open(log);
        let what = || format!("opening {}", log.display());
        let mut command = enter(&self.procs);
        command
            .args(["setsid", "nsenter", "--net", "--mount", "--target", &self.holder.pid.to_string(), "--", program])
            .args(args)
            .stdin(Stdio::null())
            .stdout(file().map_err(Error::io(what()))?)
            .stderr(file().map_err(Error::io(what()))?);
        let child = command.spawn().map_err(|source| Error::Spawn { command: program.into(), source })?;
        let pid = child.id() as i32;
        process::Id::of(pid).ok_or_else(|| Error::RoomEnded(program.into()))
    }
}

/// `sh` that joins the cgroups and then becomes what follows.
fn enter(procs: &[PathBuf]) -> Command {
    let join: String = procs.iter().map(|f| format!("echo $$ > '{}' && ", f.display())).collect();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{join}exec \"$@\""), "sh"]);
    command
}

/// Starts the process that holds a room's namespaces, after `setup` has run in them.
pub(crate) fn hold(groups: &Hierarchies, group: &str, name: &str, setup: &str) -> Result<process::Id, Error> {
    let script = format!("{setup} && exec sleep infinity");
    let mut command = enter(&groups.procs_files(group));
    command
        .args(["setsid", "unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", &script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child =
        command.spawn().map_err(|source| Error::Spawn { command: format!("the room of {name}"), source })?;
    let pid = child.id() as i32;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(status) = child.try_wait().map_err(Error::io(format!("waiting for the room of {name}")))? {
            let mut stderr = String::new();
            if let Some(mut pipe) = child.stderr.take() {
                std::io::Read::read_to_string(&mut pipe, &mut stderr).map_err(Error::io("reading why a room ended"))?;
            }
            return Err(Error::Command { command: format!("making the room of {name}"), status, stderr });
        }
        // The setup is done when the shell has become `sleep`.
        if fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "sleep") {
            return process::Id::of(pid).ok_or_else(|| Error::RoomEnded(name.into()));
        }
        if Instant::now() > deadline {
            // Nothing to lose: it never became a room.
            let _ = child.kill();
            return Err(Error::RoomEnded(name.into()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The mounts of a node's room: a `/run` of its own (containerd's shims and the Pods' namespaces live there), a bpffs,
/// and propagation that lets Pods ask for shared mounts.
pub(crate) fn mounts(dir: &Path) -> String {
    let bpf = dir.join("bpf");
    format!(
        "mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/netns && mount -t bpf bpf '{}' && \
         mount --make-rshared / && ip link set lo up",
        bpf.display()
    )
}

/// Joins the host's shell to the bridge. `is_new` says that the fabric was made just now: a link that is there then leads
/// to the one before it. The kernel takes apart a dead namespace in the background, so such a link may be seen for long
/// after the last process of the namespace.
pub(crate) fn join_host(fabric: i32, link: &str, ip: Ipv4Addr, is_new: bool) -> Result<(), Error> {
    let exists = || Path::new("/sys/class/net").join(link).exists();
    if is_new && exists() {
        // It may vanish by itself between the two lines.
        match run("ip", &["link", "delete", link]) {
            Err(error) if exists() => return Err(error),
            _ => {}
        }
    }
    if !exists() {
        let fabric = fabric.to_string();
        run("ip", &["link", "add", link, "type", "veth", "peer", "name", "host", "netns", &fabric])?;
        in_net(&fabric, &["ip", "link", "set", "host", "master", "br0", "up"])?;
    }
    run("ip", &["address", "replace", &format!("{ip}/24"), "dev", link])?;
    run("ip", &["link", "set", link, "up"]).map(drop)
}

/// The IPv6 address of the room that has an IPv4 one: unique local (RFC 4193), of a /64 as the other is of a /24.
pub(crate) fn address6(ip: Ipv4Addr) -> Ipv6Addr {
    let [_, b, c, d] = ip.octets().map(u16::from);
    Ipv6Addr::new(0xfd5b, 0x7261, b, c, 0, 0, 0, d)
}

/// Joins a node to the bridge as its `eth0`. `is_new` says that the room or the fabric was made just now: either end of a
/// link to the one before it goes first, as in [`join_host`].
pub(crate) fn join_node(fabric: i32, room: i32, name: &str, ip: Ipv4Addr, is_new: bool) -> Result<(), Error> {
    let (fabric, room) = (fabric.to_string(), room.to_string());
    if is_new {
        for (pid, link) in [(&fabric, name), (&room, "eth0")] {
            match in_net(pid, &["ip", "link", "delete", link]) {
                Err(error) if in_net(pid, &["ip", "link", "show", link]).is_ok() => return Err(error),
                _ => {}
            }
        }
    }
    if in_net(&room, &["ip", "link", "show", "eth0"]).is_err() {
        let peer = ["peer", "name", "eth0", "netns", &room];
        let add = ["ip", "link", "add", name, "type", "veth"];
        in_net(&fabric, &[&add[..], &peer[..]].concat())?;
        in_net(&fabric, &["ip", "link", "set", name, "master", "br0", "up"])?;
    }
    in_net(&room, &["ip", "address", "replace", &format!("{ip}/24"), "dev", "eth0"])?;
    in_net(&room, &["ip", "link", "set", "eth0", "up"])?;
    if Path::new("/proc/sys/net/ipv6").exists() {
        in_net(&room, &["ip", "address", "replace", &format!("{}/64", address6(ip)), "dev", "eth0", "nodad"])?;
    }
    Ok(())
}

fn in_net(pid: &str, words: &[&str]) -> Result<String, Error> {
    run("nsenter", &[&["--net", "--target", pid, "--"], words].concat())
}
