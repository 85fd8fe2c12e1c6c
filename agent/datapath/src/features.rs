//! What this kernel and this host can do, probed, and what follows from it.
//!
//! May not know: programs and maps of ours.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::maps::MapType;
use aya::programs::{ProgramError, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported};
use aya::util::KernelVersion;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

use crate::clsact::{self, Clsact};
use crate::sys;

/// bpffs, by `statfs`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// A feature without which nothing works here.
#[derive(Debug, thiserror::Error)]
pub enum FeatureError {
    #[error("this kernel ({kernel}) lacks {feature}, which {needed_for} needs: {remedy}")]
    Missing { kernel: String, feature: &'static str, needed_for: &'static str, remedy: &'static str },
    #[error("probing the kernel for {feature} (are we root, with CAP_BPF and CAP_NET_ADMIN?)")]
    Probe { feature: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(
        "{path} is not a folder of a cgroup2 file system, where the socket hooks are attached: mount one (mount -t cgroup2 none /sys/fs/cgroup) or name one that is"
    )]
    NotCgroup2 { path: PathBuf },
    #[error(
        "{path} is not on a bpf file system, where maps outlive the agent: mount one (mount -t bpf bpf /sys/fs/bpf) or name a folder on one that is mounted"
    )]
    NotBpffs { path: PathBuf },
    #[error("looking at {path}")]
    Look { path: PathBuf, source: nix::Error },
}

/// What the kernel has of what is used when it is there.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Features {
    pub kernel: String,
    /// tcx links (6.6); else clsact filters.
    pub tcx: bool,
    /// `bpf_set_retval` in cgroup hooks (5.18): ECONNREFUSED for a Service without endpoints; else EPERM.
    pub set_retval: bool,
    /// SO_NETNS_COOKIE (5.14): Pods' sockets are told from the node's.
    pub netns_cookie: bool,
}

fn probe(feature: &'static str, result: Result<bool, ProgramError>) -> Result<bool, FeatureError> {
    result.map_err(|source| FeatureError::Probe { feature, source: source.into() })
}

fn version() -> Result<KernelVersion, FeatureError> {
    KernelVersion::current()
        .map_err(|source| FeatureError::Probe { feature: "its version", source: source.to_string().into() })
}

/// Whether programs are attached to interfaces by links, which are pinned, or by filters.
pub fn has_tcx() -> Result<bool, FeatureError> {
    Ok(version()? >= KernelVersion::new(6, 6, 0))
}

/// Probes the kernel; refuses one that lacks what is needed in any case.
pub fn probe_kernel() -> Result<Features, FeatureError> {
    let kernel = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let kernel = kernel.unwrap_or_else(|_| "unknown".into());
    let missing = |feature, needed_for, remedy| {
        Err(FeatureError::Missing { kernel: kernel.clone(), feature, needed_for, remedy })
    };
    const NEWER: &str = "boot Linux 5.10 or newer, with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF";
    if !is_map_supported(MapType::RingBuf)
        .map_err(|source| FeatureError::Probe { feature: "ring buffer maps", source: source.into() })?
    {
        return missing("ring buffer maps", "the flow log", NEWER);
    }
    if !probe("socket address hooks", is_program_supported(ProgramType::CgroupSockAddr))? {
        return missing("cgroup socket address hooks", "Service translation", NEWER);
    }
    if !probe("packet hooks", is_program_supported(ProgramType::SchedClassifier))? {
        return missing("traffic control classifiers", "the packet path", NEWER);
    }
    let version = version()?;
    if version < KernelVersion::new(5, 9, 0) {
        return missing("the cgroup/sock_release hook", "forgetting closed sockets", NEWER);
    }
    let tcx = has_tcx()?;
    if !tcx {
        const WITHOUT_TCX: &str = "the packet path below Linux 6.6";
        match clsact::probe()
            .map_err(|source| FeatureError::Probe { feature: "the clsact qdisc", source: source.into() })?
        {
            Clsact::Complete => {}
            Clsact::NoQdisc => {
                return missing(
                    "the clsact qdisc",
                    WITHOUT_TCX,
                    "load its module (modprobe sch_ingress), boot a kernel with CONFIG_NET_SCH_INGRESS, or boot Linux 6.6 or newer",
                );
            }
            Clsact::NoClassifier => {
                return missing(
                    "the BPF classifier",
                    WITHOUT_TCX,
                    "load its module (modprobe cls_bpf), boot a kernel with CONFIG_NET_CLS_BPF, or boot Linux 6.6 or newer",
                );
            }
        }
    }
    Ok(Features {
        tcx,
        set_retval: probe(
            "bpf_set_retval",
            is_helper_supported(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval),
        )?,
        netns_cookie: own_netns_cookie().is_ok(),
        kernel,
    })
}

/// The cookie of the network namespace that the calling thread is in.
pub fn own_netns_cookie() -> io::Result<u64> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))?;
    sys::netns_cookie(socket.as_fd())
}

/// Opens the folder the socket hooks are attached to.
pub fn open_cgroup(path: &Path) -> Result<File, FeatureError> {
    let stat = statfs(path).map_err(|source| FeatureError::Look { path: path.into(), source })?;
    let folder = File::open(path).map_err(|_| FeatureError::NotCgroup2 { path: path.into() })?;
    if stat.filesystem_type() != CGROUP2_SUPER_MAGIC {
        return Err(FeatureError::NotCgroup2 { path: path.into() });
    }
    Ok(folder)
}

/// Whether `path`, which need not exist yet, is on a bpf file system.
pub fn check_bpffs(path: &Path) -> Result<(), FeatureError> {
    let existing = path.ancestors().find(|folder| folder.exists()).unwrap_or(path);
    let stat = statfs(existing).map_err(|source| FeatureError::Look { path: existing.into(), source })?;
    if stat.filesystem_type().0 as i64 != BPF_FS_MAGIC {
        return Err(FeatureError::NotBpffs { path: path.into() });
    }
    Ok(())
}
