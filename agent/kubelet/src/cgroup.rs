//! Pod and QoS cgroups on both kinds of machine: cgroup v1 (and hybrid) and v2 only.
//!
//! A cgroup is named by one path, `/strake/n1/kubepods/burstable/podUID`, that is made in every hierarchy. The runtime
//! puts the containers' own groups below it. Knows no Kubernetes object.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};

/// Period of the CPU bandwidth controller, microseconds.
pub const CPU_PERIOD: u64 = 100_000;
/// Fewest CPU shares the kernel takes.
pub const MIN_SHARES: u64 = 2;
/// Most CPU shares.
pub const MAX_SHARES: u64 = 262_144;

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    mount: PathBuf,
    /// Empty for cgroup2.
    controllers: BTreeSet<String>,
    v2: bool,
}

/// The cgroup hierarchies mounted in our mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies(Vec<Hierarchy>);

/// What a group is limited to; `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// CPU shares, 2 to 262,144 (1,024 a core).
    pub cpu_shares: Option<u64>,
    /// CPU time a period of [`CPU_PERIOD`], microseconds; -1 takes a limit away.
    pub cpu_quota: Option<i64>,
    /// Memory, bytes; -1 takes a limit away.
    pub memory: Option<i64>,
    /// Number of tasks; -1 takes a limit away.
    pub pids: Option<i64>,
}

/// CPU shares of a request in thousandths of a core.
pub fn shares(milli_cpu: i64) -> u64 {
    if milli_cpu <= 0 {
        return MIN_SHARES;
    }
    (milli_cpu as u64 * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// CPU quota in microseconds a period of a limit in thousandths of a core; 0 is no limit.
pub fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu <= 0 {
        return 0;
    }
    (milli_cpu * CPU_PERIOD as i64 / 1000).max(1000)
}

/// cpu.weight of cgroup v2 for CPU shares (KEP-2254's line from 2..262144 to 1..10000).
pub fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(MIN_SHARES, MAX_SHARES);
    1 + ((shares - 2) * 9999) / 262_142
}

impl Hierarchies {
    /// Reads /proc/thread-self/mounts.
    pub fn discover() -> Result<Self> {
        let path = "/proc/thread-self/mounts";
        let text = fs::read_to_string(path).map_err(Error::io("read", path))?;
        let found = Self::parse(&text);
        if found.0.is_empty() {
            return Err(Error::Pod("no cgroup hierarchy is mounted".into()));
        }
        Ok(found)
    }

    fn parse(mounts: &str) -> Self {
        const V1: [&str; 9] = ["cpu", "cpuacct", "cpuset", "memory", "pids", "blkio", "devices", "freezer", "net_cls"];
        let mut found: Vec<Hierarchy> = Vec::new();
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(mount), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            let v2 = kind == "cgroup2";
            if !v2 && kind != "cgroup" {
                continue;
            }
            let mut controllers: BTreeSet<String> = BTreeSet::new();
            if !v2 {
                controllers = options
                    .split(',')
                    .filter(|o| V1.contains(o) || o.starts_with("name="))
                    .map(str::to_owned)
                    .collect();
                if controllers.is_empty() {
                    continue; // a controller we set nothing in: the runtime makes its own group there
                }
            }
            if found.iter().any(|h| h.v2 == v2 && h.controllers == controllers) {
                continue;
            }
            found.push(Hierarchy { mount: PathBuf::from(mount.replace("\\040", " ")), controllers, v2 });
        }
        Self(found)
    }

    /// Whether only cgroup v2 is there.
    pub fn unified(&self) -> bool {
        self.0.iter().all(|h| h.v2)
    }

    /// The directories of a cgroup path, one a hierarchy.
    pub fn directories(&self, cgroup: &str) -> Vec<PathBuf> {
        self.0.iter().map(|h| below(&h.mount, cgroup)).collect()
    }

    /// Makes the group in every hierarchy and sets its limits.
    pub fn create(&self, cgroup: &str, limits: &Limits) -> Result<()> {
        for h in &self.0 {
            h.create(cgroup)?;
            h.set(cgroup, limits)?;
        }
        Ok(())
    }

    /// Puts a process into the group in every hierarchy, which is made first.
    pub fn enter(&self, cgroup: &str, pid: u32) -> Result<()> {
        for h in &self.0 {
            h.create(cgroup)?;
            let procs = below(&h.mount, cgroup).join("cgroup.procs");
            fs::write(&procs, pid.to_string()).map_err(Error::io("write", &procs))?;
        }
        Ok(())
    }

    /// Removes the group and all below it, in every hierarchy. Waits a moment for exiting processes.
    pub async fn remove(&self, cgroup: &str) -> Result<()> {
        for dir in self.directories(cgroup) {
            let mut tries = 0;
            loop {
                match remove_tree(&dir) {
                    Ok(()) => break,
                    Err(_) if tries < 6 => {
                        tries += 1;
                        tokio::time::sleep(Duration::from_millis(20 << tries)).await;
                    }
                    Err(e) => return Err(Error::io("remove cgroup", &dir)(e)),
                }
            }
        }
        Ok(())
    }

    /// Names of the groups directly below `cgroup`, over all hierarchies.
    pub fn children(&self, cgroup: &str) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for dir in self.directories(cgroup) {
            let Ok(entries) = fs::read_dir(dir) else { continue };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    names.insert(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        names
    }

    /// Memory in use by the group, bytes, where the memory controller tells.
    pub fn memory_usage(&self, cgroup: &str) -> Option<u64> {
        self.read(cgroup, "memory", "memory.usage_in_bytes", "memory.current")?.trim().parse().ok()
    }

    /// A file of the group in the hierarchy that has `controller`.
    fn read(&self, cgroup: &str, controller: &str, v1: &str, v2: &str) -> Option<String> {
        let h = self.0.iter().find(|h| h.controllers.contains(controller)).or(self.0.iter().find(|h| h.v2))?;
        fs::read_to_string(below(&h.mount, cgroup).join(if h.v2 { v2 } else { v1 })).ok()
    }
}

impl Hierarchy {
    fn create(&self, cgroup: &str) -> Result<()> {
        let mut dir = self.mount.clone();
        for part in cgroup.split('/').filter(|p| !p.is_empty()) {
            if self.v2 {
                enable_controllers(&dir);
            }
            let parent = dir.clone();
            dir.push(part);
            match fs::create_dir(&dir) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("create cgroup", &dir)(e)),
            }
            if self.controllers.contains("cpuset") {
                // A v1 cpuset starts empty and refuses processes until it has CPUs and memory nodes.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let own = dir.join(file);
                    if fs::read_to_string(&own).map_err(Error::io("read", &own))?.trim().is_empty() {
                        let theirs = parent.join(file);
                        let value = fs::read_to_string(&theirs).map_err(Error::io("read", &theirs))?;
                        fs::write(&own, value.trim()).map_err(Error::io("write", &own))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn set(&self, cgroup: &str, limits: &Limits) -> Result<()> {
        let dir = below(&self.mount, cgroup);
        let write = |file: &str, value: String| {
            let path = dir.join(file);
            fs::write(&path, value).map_err(Error::io("write", &path))
        };
        if self.v2 {
            let there = |file: &str| dir.join(file).exists();
            let or_max = |v: i64| if v < 0 { "max".to_owned() } else { v.to_string() };
            if let Some(shares) = limits.cpu_shares.filter(|_| there("cpu.weight")) {
                write("cpu.weight", weight(shares).to_string())?;
            }
            if let Some(quota) = limits.cpu_quota.filter(|_| there("cpu.max")) {
                write("cpu.max", format!("{} {CPU_PERIOD}", or_max(quota)))?;
            }
            if let Some(memory) = limits.memory.filter(|_| there("memory.max")) {
                write("memory.max", or_max(memory))?;
            }
            if let Some(pids) = limits.pids.filter(|_| there("pids.max")) {
                write("pids.max", or_max(pids))?;
            }
            return Ok(());
        }
        let has = |c: &str| self.controllers.contains(c);
        if has("cpu") {
            if let Some(shares) = limits.cpu_shares {
                write("cpu.shares", shares.to_string())?;
            }
            if let Some(quota) = limits.cpu_quota.filter(|_| dir.join("cpu.cfs_quota_us").exists()) {
                write("cpu.cfs_period_us", CPU_PERIOD.to_string())?;
                write("cpu.cfs_quota_us", quota.to_string())?;
            }
        }
        if has("memory")
            && let Some(memory) = limits.memory
        {
            write("memory.limit_in_bytes", memory.to_string())?;
        }
        if has("pids")
            && let Some(pids) = limits.pids
        {
            write("pids.max", if pids < 0 { "max".into() } else { pids.to_string() })?;
        }
        Ok(())
    }
}

/// Lets children of a v2 group use the controllers the kubelet sets. What cannot be enabled is not there to be set.
fn enable_controllers(dir: &Path) {
    let Ok(available) = fs::read_to_string(dir.join("cgroup.controllers")) else { return };
    let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in ["cpu", "memory", "pids", "cpuset", "io"] {
        let listed = |s: &str| s.split_whitespace().any(|c| c == controller);
        if listed(&available)
            && !listed(&enabled)
            && let Err(error) = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"))
        {
            tracing::debug!(%error, controller, dir = %dir.display(), "controller not delegated");
        }
    }
}

fn below(mount: &Path, cgroup: &str) -> PathBuf {
    mount.join(cgroup.trim_start_matches('/'))
}

fn remove_tree(dir: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Any table of mounts.
pub(crate) fn read_any(mounts: &str) {
    let found = Hierarchies::parse(mounts);
    let _ = found.unified();
    assert!(found.directories("/a").iter().all(|directory| directory.ends_with("a")));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_values_follow_the_kernel_units() {
        assert_eq!(shares(0), 2);
        assert_eq!(shares(1), 2);
        assert_eq!(shares(250), 256);
        assert_eq!(shares(1000), 1024);
        assert_eq!(shares(10_000_000), MAX_SHARES);
        assert_eq!(quota(0), 0);
        assert_eq!(quota(1), 1000);
        assert_eq!(quota(500), 50_000);
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 39);
        assert_eq!(weight(MAX_SHARES), 10_000);
    }

    #[test]
    fn hybrid_and_unified_machines_are_told_apart() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
             cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
             cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n\
             cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n\
             proc /proc proc rw 0 0\n";
        let h = Hierarchies::parse(hybrid);
        assert!(!h.unified());
        assert_eq!(h.directories("/strake/n1").len(), 4);
        assert!(h.directories("/strake/n1").contains(&PathBuf::from("/sys/fs/cgroup/cpu/strake/n1")));
        let unified = Hierarchies::parse("cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n");
        assert!(unified.unified());
        assert_eq!(unified.directories("/a"), [PathBuf::from("/sys/fs/cgroup/a")]);
    }
}
