//! What the machine is and has. Reads /proc, /sys and file systems.

use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// What Pods can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu_milli: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub storage: i64,
    /// Number of Pods.
    pub pods: u32,
}

/// Memory held back from Pods, the stock hard eviction threshold, bytes.
const RESERVED_MEMORY: i64 = 100 << 20;

/// The machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Everything there is.
    pub total: Capacity,
    /// `amd64`, `arm64`.
    pub arch: &'static str,
    /// /etc/machine-id.
    pub machine_id: String,
    /// From the firmware, else the machine id.
    pub system_uuid: String,
    /// Of this boot.
    pub boot_id: String,
    /// uname -r.
    pub kernel: String,
    /// PRETTY_NAME of /etc/os-release.
    pub os_image: String,
}

fn line(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty())
}

/// A line of /proc/meminfo, in bytes.
pub fn meminfo(key: &str) -> Option<i64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: i64 =
        text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// Size, free bytes and the free share of inodes (percent) of the file system of `path`.
pub fn filesystem(path: &Path) -> Option<(i64, i64, u8)> {
    let s = nix::sys::statvfs::statvfs(path).ok()?;
    let unit = i64::try_from(s.fragment_size()).ok()?;
    let inodes = s.files();
    let free = (s.files_available() * 100).checked_div(inodes).unwrap_or(100) as u8;
    Some((i64::try_from(s.blocks()).ok()? * unit, i64::try_from(s.blocks_available()).ok()? * unit, free))
}

impl Machine {
    /// Looks at the machine; `dir` is on the file system of Pods.
    pub fn read(dir: &Path, max_pods: u32) -> Result<Self> {
        let cpus = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN).ok().flatten().unwrap_or(1);
        let memory = meminfo("MemTotal")
            .ok_or_else(|| Error::Pod("/proc/meminfo does not tell the size of the memory".into()))?;
        let (storage, _, _) = filesystem(dir)
            .ok_or_else(|| Error::Pod(format!("the file system of {} cannot be read", dir.display())))?;
        let machine_id = line("/etc/machine-id").unwrap_or_default();
        let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let pretty = os.lines().find_map(|l| l.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux");
        Ok(Self {
            total: Capacity { cpu_milli: cpus * 1000, memory, storage, pods: max_pods },
            arch: match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            },
            system_uuid: line("/sys/class/dmi/id/product_uuid").unwrap_or_else(|| machine_id.clone()),
            machine_id,
            boot_id: line("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            kernel: line("/proc/sys/kernel/osrelease").unwrap_or_default(),
            os_image: pretty.trim_matches('"').to_owned(),
        })
    }

    /// What is left for Pods: without the memory and disk that stock eviction thresholds keep free.
    pub fn allocatable(&self) -> Capacity {
        Capacity {
            memory: (self.total.memory - RESERVED_MEMORY).max(0),
            storage: self.total.storage / 10 * 9,
            ..self.total
        }
    }
}
