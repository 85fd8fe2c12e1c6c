//! How much memory there is for maps: the machine's, and what the agent's own control group may have.
//!
//! The kernel charges maps to the memory cgroup of the process that makes them (since Linux 5.11): in a container with a
//! limit, maps sized for the whole machine would have the agent killed. May not know: what maps there are.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What a limit may be, at most; above, it is how cgroup v1 writes that there is none.
const NO_LIMIT: u64 = 1 << 60;

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub machine: u64,
    /// The least that the cgroup of this process, or one above it, is limited to.
    pub limit: Option<u64>,
}

/// The memory of this machine and the limit of this process.
pub fn memory() -> io::Result<Memory> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let machine = total(&meminfo).ok_or_else(|| io::Error::other("/proc/meminfo says no MemTotal"))?;
    // Not there in a kernel without control groups.
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let limit = limit(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
    Ok(Memory { machine, limit: limit.filter(|limit| *limit < machine) })
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// A hierarchy that can limit memory, as it is mounted.
#[derive(Debug, PartialEq, Eq)]
struct Mount<'a> {
    /// The group that is seen at `point`.
    root: &'a Path,
    point: &'a Path,
    v2: bool,
}

/// `36 35 98:0 /root /point rw,noatime shared:1 - cgroup2 cgroup2 rw,nsdelegate`
fn mount(line: &str) -> Option<Mount<'_>> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(3);
    let (root, point) = (Path::new(front.next()?), Path::new(front.next()?));
    let mut back = back.split(' ');
    let v2 = match back.next()? {
        "cgroup2" => true,
        "cgroup" if back.nth(1)?.split(',').any(|option| option == "memory") => false,
        _ => return None,
    };
    Some(Mount { root, point, v2 })
}

/// The group of the process in the hierarchy of v2, or that of v1 that counts memory: `4:cpu,memory:/a/b`, `0::/a/b`.
fn group(groups: &str, v2: bool) -> Option<&str> {
    groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let is_it = if v2 { controllers.is_empty() } else { controllers.split(',').any(|one| one == "memory") };
        is_it.then_some(path)
    })
}

/// The least limit of the groups that the process is in, by `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn limit(groups: &str, mounts: &str) -> Option<u64> {
    mounts.lines().filter_map(mount).filter_map(|mount| least(&mount, group(groups, mount.v2)?)).min()
}

fn least(mount: &Mount<'_>, group: &str) -> Option<u64> {
    let file = if mount.v2 { "memory.max" } else { "memory.limit_in_bytes" };
    folders(mount, group).iter().filter_map(|folder| number(&fs::read_to_string(folder.join(file)).ok()?)).min()
}

/// The folder of the group and those above it, up to where the hierarchy is mounted.
fn folders(mount: &Mount<'_>, group: &str) -> Vec<PathBuf> {
    // In a namespace of its own a container may see a group that is not below what is mounted: `/../other`.
    let inner = Path::new(group).strip_prefix(mount.root).ok().filter(|inner| !inner.starts_with(".."));
    let folder = mount.point.join(inner.unwrap_or(Path::new("")));
    folder.ancestors().take_while(|folder| folder.starts_with(mount.point)).map(Path::to_path_buf).collect()
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < NO_LIMIT)
}

/// All that is read of texts that the kernel did not write, with no file opened.
pub(crate) fn read_any(groups: &str, mounts: &str) {
    for mount in mounts.lines().filter_map(mount) {
        let folders = group(groups, mount.v2).map(|group| folders(&mount, group)).unwrap_or_default();
        assert!(folders.iter().all(|folder| folder.starts_with(mount.point)), "{folders:?} is not below {mount:?}");
    }
    let _ = (total(mounts), number(groups));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_as_the_kernel_tells_it() {
        assert_eq!(total("MemTotal:       24622508 kB\nMemFree:  1 kB\n"), Some(24_622_508 * 1024));
        assert_eq!(total("MemFree:  1 kB\n"), None);
        assert!(memory().unwrap().machine > 1 << 20);
    }

    #[test]
    fn numbers_are_limits_and_words_and_the_largest_are_none() {
        assert_eq!(number("536870912\n"), Some(512 << 20));
        assert_eq!((number("max\n"), number("9223372036854771712\n"), number("")), (None, None, None));
    }

    /// A folder with the files of a hierarchy, removed with the guard.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root = std::env::temp_dir().join(format!("strake-memory-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(root)
        }

        fn mounted(&self, root: &str, kind: &str) -> String {
            format!("22 1 0:21 / /proc rw - proc proc rw\n31 22 0:28 {root} {} rw - {kind}\n", self.0.display())
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_least_limit_of_a_group_and_those_above_it_counts() {
        let tree = Tree::new(
            "v2",
            &[("kubepods/memory.max", "300\n"), ("kubepods/pod1/memory.max", "max\n"), ("other/memory.max", "7\n")],
        );
        let mounts = tree.mounted("/", "cgroup2 cgroup2 rw,nsdelegate");
        assert_eq!(limit("0::/kubepods/pod1\n", &mounts), Some(300));
        assert_eq!(limit("0::/\n", &mounts), None);
        // Of v1 the one that counts memory is asked alone.
        assert_eq!(limit("3:cpu:/other\n", &mounts), None);
    }

    #[test]
    fn a_container_finds_its_own_group_where_that_is_mounted() {
        let tree = Tree::new("own", &[("memory.max", "500\n"), ("memory.limit_in_bytes", "400\n")]);
        // With a namespace of its own, with another's, and without one.
        for (group, root) in [("/", "/"), ("/../abc", "/"), ("/docker/abc", "/docker/abc"), ("/x", "/docker/abc")] {
            let mounts = tree.mounted(root, "cgroup2 cgroup2 rw");
            assert_eq!(limit(&format!("0::{group}\n"), &mounts), Some(500), "{group} {root}");
            let mounts = tree.mounted(root, "cgroup cgroup rw,memory");
            assert_eq!(limit(&format!("4:memory:{group}\n0::/\n"), &mounts), Some(400), "{group} {root}");
            let mounts = tree.mounted(root, "cgroup cgroup rw,cpuset");
            assert_eq!(limit(&format!("4:memory:{group}\n"), &mounts), None);
        }
    }
}
