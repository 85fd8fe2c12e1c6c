//! The rig's subtree in every cgroup hierarchy: v1, v2 and the hybrid of both.
//!
//! A node's processes live in `NAME/NODE/system` and its Pods in `NAME/NODE/kubepods`, because in v2 a group that
//! hands controllers to its children may hold no process itself.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Error;

/// Where the machine's hierarchies are mounted.
#[derive(Debug, Clone)]
pub struct Hierarchies {
    pub v2: PathBuf,
    pub v1: Vec<PathBuf>,
}

impl Hierarchies {
    pub fn detect() -> Result<Self, Error> {
        let text = fs::read_to_string("/proc/self/mountinfo").map_err(Error::io("reading /proc/self/mountinfo"))?;
        Self::parse(&text).ok_or(Error::NoCgroup2)
    }

    fn parse(mountinfo: &str) -> Option<Self> {
        let (mut v1, mut v2) = (Vec::new(), None);
        for line in mountinfo.lines() {
            let (left, right) = line.split_once(" - ")?;
            let at = PathBuf::from(left.split(' ').nth(4)?);
            match right.split(' ').next()? {
                "cgroup" => v1.push(at),
                "cgroup2" => v2 = v2.or(Some(at)),
                _ => {}
            }
        }
        v2.map(|v2| Self { v2, v1 })
    }

    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        self.v1.iter().chain([&self.v2])
    }

    /// `cgroup.procs` of `group` in every hierarchy.
    pub fn procs_files(&self, group: &str) -> Vec<PathBuf> {
        self.all().map(|root| root.join(group).join("cgroup.procs")).collect()
    }

    /// Makes `group` and its parents everywhere, ready to hold processes.
    pub fn make(&self, group: &str) -> Result<(), Error> {
        for root in self.all() {
            let mut at = root.clone();
            for part in Path::new(group) {
                if *root == self.v2 {
                    delegate(&at)?;
                }
                let parent = at.clone();
                at.push(part);
                match fs::create_dir(&at) {
                    Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                        return Err(Error::Io { what: format!("making cgroup {}", at.display()), source: e });
                    }
                    _ => {}
                }
                // A v1 cpuset starts empty and refuses processes until it is told what it may use.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    if root != &self.v2 && at.join(file).exists() {
                        let have = fs::read_to_string(at.join(file)).unwrap_or_default();
                        if have.trim().is_empty() {
                            fs::read(parent.join(file))
                                .and_then(|value| fs::write(at.join(file), value))
                                .map_err(Error::io(format!("setting {} of {}", file, at.display())))?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Every process below `name`, in any hierarchy.
    pub fn processes(&self, name: &str) -> Vec<i32> {
        let mut pids: Vec<i32> = Vec::new();
        for root in self.all() {
            for group in subtree(&root.join(name)) {
                let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|pid| *pid > 0));
            }
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Ends every process below `name`: SIGTERM to `strake` processes first, so that they leave in order, then
    /// SIGKILL. Returns how many there were.
    pub fn end_all(&self, name: &str) -> Result<usize, Error> {
        let first = self.processes(name);
        for pid in &first {
            let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if comm.trim() == "strake" {
                // Gone in the meantime is as good as ended.
                let _ = kill(Pid::from_raw(*pid), Signal::SIGTERM);
            }
        }
        let named = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "strake");
        let grace = Instant::now() + Duration::from_secs(3);
        while Instant::now() < grace && self.processes(name).iter().any(named) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left = self.processes(name);
            if left.is_empty() {
                return Ok(first.len());
            }
            if Instant::now() > deadline {
                return Err(Error::Unkillable(left, name.into()));
            }
            for pid in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Removes the groups below and including `name`, everywhere, and ends whoever was still on the way into one of them.
    /// Returns how many groups there were.
    pub fn remove(&self, name: &str) -> Result<usize, Error> {
        let mut removed = 0;
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut busy = None;
            for group in self.all().flat_map(|root| subtree(&root.join(name))) {
                match fs::remove_dir(&group) {
                    Ok(()) => removed += 1,
                    Err(e) if e.kind() == ErrorKind::NotFound => {}
                    // Groups above a busy one are busy too; the first is the reason.
                    Err(e) if e.raw_os_error() == Some(nix::libc::EBUSY) => {
                        busy.get_or_insert((group, e));
                    }
                    Err(source) => {
                        return Err(Error::Io { what: format!("removing cgroup {}", group.display()), source });
                    }
                }
            }
            let Some((group, source)) = busy else { return Ok(removed) };
            if Instant::now() > deadline {
                return Err(Error::Io { what: format!("removing cgroup {}", group.display()), source });
            }
            // Either somebody has come in, or the last to leave cgroup.procs is not done with yet.
            self.end_all(name)?;
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Hands every controller this v2 group has to its children.
fn delegate(group: &Path) -> Result<(), Error> {
    let have = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    let given = fs::read_to_string(group.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in have.split_whitespace().filter(|c| !given.split_whitespace().any(|g| g == *c)) {
        fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"))
            .map_err(Error::io(format!("giving controller {controller} to the children of {}", group.display())))?;
    }
    Ok(())
}

/// `group` and all below it, deepest first.
fn subtree(group: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(entries) = fs::read_dir(group) {
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                found.extend(subtree(&entry.path()));
            }
        }
        found.push(group.into());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hybrid_layout_is_told_from_the_unified_one() {
        let hybrid = "30 20 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n31 20 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = Hierarchies::parse(hybrid).unwrap();
        assert_eq!(found.v2, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(found.v1, [Path::new("/sys/fs/cgroup/cpu")]);
        let unified = "31 20 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert!(Hierarchies::parse(unified).unwrap().v1.is_empty());
        assert!(Hierarchies::parse("31 20 0:27 / / rw - ext4 /dev/vda rw\n").is_none());
    }

    #[test]
    fn only_processes_of_the_rig_are_ended() {
        let groups = Hierarchies::detect().unwrap();
        let name = format!("strake-unit-{}", std::process::id());
        groups.make(&format!("{name}/a/b")).unwrap();
        let mut inside = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut outside = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        for file in groups.procs_files(&format!("{name}/a/b")) {
            fs::write(file, inside.id().to_string()).unwrap();
        }
        assert_eq!(groups.end_all(&name).unwrap(), 1);
        assert!(!inside.wait().unwrap().success());
        assert!(outside.try_wait().unwrap().is_none());
        assert!(groups.remove(&name).unwrap() > 0);
        assert!(!groups.v2.join(&name).exists());
        outside.kill().unwrap();
        outside.wait().unwrap();
    }
}
