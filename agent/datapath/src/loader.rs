//! Loads the programs, pins maps and links, and attaches; over what an agent before us left, in place.
//!
//! ```text
//!   bpf_root/maps/NAME          every map of the object
//!   bpf_root/links/NAME         socket hooks, uplink
//!   bpf_root/links/pods/IF-NAME host sides of veths
//! ```
//!
//! A pinned map of ours is used as it is, a pinned link gets the new program by one atomic exchange: there is no instant
//! without a program, and no entry is lost. Maps of another version: see [`crate::upgrade`]. May not know: Services, what
//! the maps hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::programs::{CgroupSock, CgroupSockAddr, Program, ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfError, EbpfLoader};
use strake_abi::config::HAVE_SET_RETVAL;
use strake_abi::program;
use tracing::{info, warn};

use crate::config::{Config, LbMode};
use crate::features::{FeatureError, Features, check_bpffs, open_cgroup, probe_kernel};
use crate::sizes::MapSizes;
use crate::sys::{self, LinkTarget};
use crate::upgrade::{
    self, Ground, Object, Stage, Step, UpgradeError, attach_type, classifier, detach, detach_clsact, links_folder,
    maps_folder, remove_file,
};
use crate::xdp::{self, XdpStatus};

/// Why the programs are not in place.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Feature(#[from] FeatureError),
    #[error("making folder {path}")]
    Folder { path: PathBuf, source: io::Error },
    #[error("taking over from the agent before")]
    Upgrade(#[from] UpgradeError),
    #[error("loading the BPF object")]
    Object(#[source] Box<EbpfError>),
    #[error("the BPF object has no program {name} of the expected type")]
    NoProgram { name: &'static str },
    #[error("the kernel's verifier refuses program {name}")]
    Program { name: &'static str, source: Box<ProgramError> },
    #[error("attaching {name} to {target}")]
    Attach { name: &'static str, target: String, source: io::Error },
    #[error("attaching {name} to {target} with clsact")]
    Clsact { name: &'static str, target: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("direct server return (--load-balancer-mode=dsr) sends packets by the uplink, and no uplink is named")]
    DsrWithoutUplink,
    #[error("the uplink {name} does not tell its MTU, which direct server return needs")]
    NoMtu { name: String, source: std::io::Error },
    #[error("the uplink {name} does not exist in this network namespace")]
    NoUplink { name: String, source: nix::Error },
    #[error("removing {path}")]
    Remove { path: PathBuf, source: io::Error },
}

/// How a program came to be where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Attachment {
    /// Newly attached.
    Fresh,
    /// The program behind a link of an agent before us was exchanged.
    Replaced,
    /// With a clsact filter (no tcx).
    Clsact,
    /// The program of an agent before us is still there: its maps look different, and ours are not filled yet.
    Waiting,
}

/// The loaded object and what is attached.
pub struct Loaded {
    // Programs must live as long as new veths come. Maps and links live by their pins.
    ebpf: Ebpf,
    pub features: Features,
    pub uplink_ifindex: u32,
    /// Its MTU, where that is asked for ([`LbMode::Dsr`]); else 0.
    pub uplink_mtu: u32,
    /// By link name: where, and how.
    pub attached: BTreeMap<String, (String, Attachment)>,
    links: PathBuf,
    clsact: bool,
    ground: Ground,
    /// As long as the programs of an agent before us are in place.
    stage: Option<Stage>,
    /// Interfaces that they serve.
    served: BTreeSet<String>,
}

fn make(path: &Path) -> Result<(), LoadError> {
    fs::create_dir_all(path).map_err(|source| LoadError::Folder { path: path.into(), source })
}

/// Whether kernel and host have what is needed, in a few milliseconds; changes nothing.
pub fn preflight(config: &Config) -> Result<Features, FeatureError> {
    let features = probe_kernel()?;
    open_cgroup(&config.cgroup_root)?;
    check_bpffs(&config.bpf_root)?;
    Ok(features)
}

/// Probes the kernel, loads the object and verifies every program. Attaches nothing yet, but puts in place what an agent
/// before us had begun to put there.
pub fn load(config: &Config, object: &Object) -> Result<Loaded, LoadError> {
    let features = preflight(config)?;
    make(&config.bpf_root)?;
    let links = links_folder(&config.bpf_root);
    make(&links.join("pods"))?;
    let uplink_ifindex = match &config.uplink {
        None => 0,
        Some(name) => nix::net::if_::if_nametoindex(name.as_str())
            .map_err(|source| LoadError::NoUplink { name: name.clone(), source })?,
    };
    let uplink_mtu = match (&config.uplink, config.lb_mode) {
        (_, LbMode::Snat) => 0,
        (None, LbMode::Dsr) => return Err(LoadError::DsrWithoutUplink),
        (Some(name), LbMode::Dsr) => {
            sys::mtu(name).map_err(|source| LoadError::NoMtu { name: name.clone(), source })?
        }
    };
    let clsact = config.force_clsact || !features.tcx;
    let (root, cgroup) = (config.bpf_root.clone(), config.cgroup_root.clone());
    let ground = Ground { root, cgroup, uplink_ifindex, clsact };
    if upgrade::finish(&ground, None)? {
        info!("went on with an upgrade that an agent before us had begun");
    }
    let wanted = sizes(&config.sizes).map(|(name, size)| (name.to_owned(), size)).into();
    let stage = match upgrade::plan(&config.bpf_root, object, &wanted) {
        Err(error @ UpgradeError::AbiVersion { .. }) if config.discard_incompatible => {
            warn!(%error, "removing it");
            cleanup(&config.bpf_root)?;
            make(&links.join("pods"))?;
            upgrade::plan(&config.bpf_root, object, &wanted)?
        }
        planned => planned?,
    };

    let set_retval = u8::from(features.set_retval);
    let mut loader = EbpfLoader::new();
    loader.override_global(HAVE_SET_RETVAL, &set_retval, false);
    for (name, _) in &object.layouts {
        loader.map_pin_path(name.as_str(), stage.folder.join(name));
    }
    for (name, size) in &stage.capacities {
        loader.map_max_entries(name.as_str(), *size);
    }
    let mut ebpf = loader.load(object.bytes).map_err(|source| LoadError::Object(Box::new(source)))?;
    stage.fill(object)?;
    for name in program::SOCK_ADDR {
        let program: &mut CgroupSockAddr = find(&mut ebpf, name)?;
        program.load().map_err(|source| LoadError::Program { name, source: Box::new(source) })?;
    }
    let release: &mut CgroupSock = find(&mut ebpf, program::SOCK_RELEASE)?;
    let refused = |source| LoadError::Program { name: program::SOCK_RELEASE, source: Box::new(source) };
    release.load().map_err(refused)?;
    for name in program::CLASSIFIERS {
        let program: &mut SchedClassifier = find(&mut ebpf, name)?;
        program.load().map_err(|source| LoadError::Program { name, source: Box::new(source) })?;
    }
    xdp::load_over(&mut ebpf, &links);
    let mut loaded = Loaded {
        ebpf,
        features,
        uplink_ifindex,
        uplink_mtu,
        attached: BTreeMap::new(),
        links,
        clsact,
        ground,
        stage: None,
        served: BTreeSet::new(),
    };
    if stage.is_beside() {
        loaded.pin_programs(&stage.programs())?;
        loaded.served = upgrade::served(&loaded.ground)?;
        loaded.stage = Some(stage);
    }
    Ok(loaded)
}

fn sizes(sizes: &MapSizes) -> [(&'static str, u32); 24] {
    use strake_abi::{conntrack, dns, endpoint, flow, service, sock};
    [
        (service::SERVICES, sizes.services),
        (service::SERVICES_V6, sizes.services_v6),
        (service::BACKENDS, sizes.backends),
        (service::MEMBERS, sizes.members),
        (service::AFFINITY, sizes.affinity),
        (service::AFFINITY_V6, sizes.affinity_v6),
        (service::SOURCE_RANGES, sizes.source_ranges),
        (service::MAGLEV, sizes.maglev),
        (sock::SOCK_FLOWS, sizes.sock_flows),
        (sock::SOCK_NAT, sizes.sock_nat),
        (sock::SOCK_FLOWS_V6, sizes.sock_flows_v6),
        (sock::SOCK_NAT_V6, sizes.sock_nat_v6),
        (conntrack::CONNTRACK, sizes.conntrack),
        (conntrack::CONNTRACK_V6, sizes.conntrack_v6),
        (conntrack::FRAGMENTS, sizes.fragments),
        (conntrack::FRAGMENTS_V6, sizes.fragments_v6),
        (endpoint::ENDPOINTS, sizes.endpoints),
        (endpoint::ENDPOINTS_BY_IP, sizes.endpoints),
        (endpoint::ENDPOINTS_IP_V6, sizes.endpoints),
        (endpoint::PODS_BY_NETNS, sizes.endpoints),
        (endpoint::NODES, sizes.nodes),
        (endpoint::NODES_V6, sizes.nodes),
        (dns::DNS_NAMES, sizes.dns_names),
        (flow::EVENTS, sizes.events),
    ]
}

pub(crate) fn find<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    let program = ebpf.program_mut(name).ok_or(LoadError::NoProgram { name })?;
    program.try_into().map_err(|_| LoadError::NoProgram { name })
}

impl Loaded {
    /// The folder with the pins of the maps that these programs use.
    pub fn maps_folder(&self) -> PathBuf {
        self.stage.as_ref().map_or_else(|| maps_folder(&self.ground.root), |stage| stage.folder.clone())
    }

    /// Whether the programs of an agent before us are in place, and these have maps of their own.
    pub fn is_beside(&self) -> bool {
        self.stage.is_some()
    }

    /// Whether these programs are not to be put in place before their maps hold a whole view of the cluster.
    pub fn waits(&self) -> bool {
        self.stage.as_ref().is_some_and(Stage::waits)
    }

    /// Exchanges the programs of an agent before us for these, whose maps are filled. Stops after `until`, as a crash
    /// would, for tests.
    pub fn take_over(&mut self, until: Option<Step>) -> Result<(), LoadError> {
        let Some(stage) = &self.stage else { return Ok(()) };
        stage.go()?;
        upgrade::finish(&self.ground, until)?;
        self.stage = None;
        Ok(())
    }

    /// Attaches what has waited until the programs were exchanged.
    pub fn attach_all(&mut self, config: &Config) -> Result<(), LoadError> {
        self.attach_uplink(config.uplink.as_deref())?;
        self.attach_sockets(&config.cgroup_root)?;
        let waiting = self.attached.values().filter(|(_, how)| *how == Attachment::Waiting);
        let pods: BTreeSet<String> = waiting.map(|(interface, _)| interface.clone()).collect();
        for interface in pods {
            // One that is gone meanwhile is forgotten when the plugin says so.
            if let Ok(ifindex) = nix::net::if_::if_nametoindex(interface.as_str()) {
                self.attach_pod(&interface, ifindex)?;
            }
        }
        Ok(())
    }

    /// These programs have taken over from others of this agent, and are where those were.
    pub fn follow(&mut self, before: &Self) {
        self.attached.clone_from(&before.attached);
        let replaced = self.attached.values_mut().filter(|(_, how)| *how == Attachment::Fresh);
        replaced.for_each(|(_, how)| *how = Attachment::Replaced);
    }

    fn pin_programs(&self, folder: &Path) -> Result<(), LoadError> {
        for name in program::SOCK_ADDR.into_iter().chain(program::CLASSIFIERS).chain([program::SOCK_RELEASE]) {
            let fail = |source| LoadError::Attach { name, target: folder.display().to_string(), source };
            sys::pin(self.program_fd(name).map_err(fail)?.as_fd(), &folder.join(name)).map_err(fail)?;
        }
        if let Ok(program) = self.program_fd(program::XDP_LB) {
            let fail =
                |source| LoadError::Attach { name: program::XDP_LB, target: folder.display().to_string(), source };
            sys::pin(program.as_fd(), &folder.join(program::XDP_LB)).map_err(fail)?;
        }
        Ok(())
    }

    /// Attaches the socket hooks, what translates back before what translates.
    pub fn attach_sockets(&mut self, cgroup_root: &Path) -> Result<(), LoadError> {
        let folder = open_cgroup(cgroup_root)?;
        let target = cgroup_root.display().to_string();
        for name in [program::SOCK_RELEASE].into_iter().chain(program::SOCK_ADDR) {
            let fail = |source| LoadError::Attach { name, target: target.clone(), source };
            let id = folder.metadata().map_err(fail)?.ino();
            let pin = self.links.join(name);
            let how = if self.waits() && pin.exists() {
                Attachment::Waiting
            } else {
                self.link(name, &pin, LinkTarget::Cgroup(id), folder.as_raw_fd() as u32).map_err(fail)?
            };
            self.attached.insert(name.into(), (target.clone(), how));
        }
        Ok(())
    }

    /// Attaches `to_net` and `from_net` to the uplink, if there is one.
    pub fn attach_uplink(&mut self, uplink: Option<&str>) -> Result<(), LoadError> {
        let Some(uplink) = uplink else { return Ok(()) };
        for name in [program::FROM_NET, program::TO_NET] {
            let pin = self.links.join(name);
            let how = self.classifier(name, &pin, uplink, self.uplink_ifindex)?;
            self.attached.insert(name.into(), (uplink.into(), how));
        }
        Ok(())
    }

    /// Attaches `xdp_lb` to the uplink, as far as that is wanted and taken.
    pub fn attach_xdp(&mut self, config: &Config) -> XdpStatus {
        let uplink = config.uplink.as_deref().map(|name| (name, self.uplink_ifindex));
        if self.waits() {
            return XdpStatus::waiting();
        }
        xdp::attach(&mut self.ebpf, &self.links, config.xdp, uplink, &mut self.attached)
    }

    /// Attaches `to_pod` and `from_pod` to the host side of a veth.
    pub fn attach_pod(&mut self, interface: &str, ifindex: u32) -> Result<(), LoadError> {
        for name in [program::TO_POD, program::FROM_POD] {
            let key = format!("pods/{interface}-{name}");
            let how = self.classifier(name, &self.links.join(&key), interface, ifindex)?;
            self.attached.insert(key, (interface.into(), how));
        }
        Ok(())
    }

    /// Detaches from the host side of a veth, which may be gone.
    pub fn detach_pod(&mut self, interface: &str) -> Result<(), LoadError> {
        for name in [program::FROM_POD, program::TO_POD] {
            let key = format!("pods/{interface}-{name}");
            detach(&self.links.join(&key))?;
            self.attached.remove(&key);
            if self.clsact {
                detach_clsact(interface, name);
            }
        }
        Ok(())
    }

    fn program_fd(&self, name: &'static str) -> io::Result<OwnedFd> {
        let none = || io::Error::other("program is not loaded");
        let program = self.ebpf.program(name).ok_or_else(none)?;
        program.fd().map_err(io::Error::other)?.as_fd().try_clone_to_owned()
    }

    fn link(&self, name: &'static str, pin: &Path, target: LinkTarget, target_fd: u32) -> io::Result<Attachment> {
        let program = self.program_fd(name)?;
        hold(program.as_fd(), pin, target, || sys::link_create(program.as_fd(), target_fd, attach_type(name), None))
    }

    fn classifier(
        &mut self,
        name: &'static str,
        pin: &Path,
        interface: &str,
        ifindex: u32,
    ) -> Result<Attachment, LoadError> {
        if self.waits() && self.served.contains(interface) {
            return Ok(Attachment::Waiting);
        }
        if !self.clsact {
            return self.link(name, pin, LinkTarget::Tcx(ifindex), ifindex).map_err(|source| LoadError::Attach {
                name,
                target: interface.into(),
                source,
            });
        }
        let program: &mut SchedClassifier = find(&mut self.ebpf, name)?;
        classifier(program, name, interface).map(|()| Attachment::Clsact).map_err(|source| LoadError::Clsact {
            name,
            target: interface.into(),
            source,
        })
    }
}

/// Puts the program behind the link that is pinned, if it is at that place, and makes a new one otherwise.
pub(crate) fn hold(
    program: BorrowedFd<'_>,
    pin: &Path,
    target: LinkTarget,
    create: impl FnOnce() -> io::Result<OwnedFd>,
) -> io::Result<Attachment> {
    match sys::open_pin(pin) {
        Ok(link) => {
            // Same place: exchange the program. Another place (the cgroup or interface was made anew): start anew.
            if sys::link_target(link.as_fd())? == target {
                match sys::link_update(link.as_fd(), program) {
                    Ok(()) => return Ok(Attachment::Replaced),
                    Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                    Err(error) => return Err(error),
                }
            }
            fs::remove_file(pin)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let link = create()?;
    sys::pin(link.as_fd(), pin)?;
    Ok(Attachment::Fresh)
}

/// Detaches and removes everything under `bpf_root`: first the links, so that no program runs on maps that are half
/// gone. Nothing there is no error. Returns the pins that were there.
pub fn cleanup(bpf_root: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let mut removed = Vec::new();
    let links = links_folder(bpf_root);
    let (others, book) = upgrade::everything(bpf_root);
    let folders = [links.join("pods"), links].into_iter().chain(others).chain([maps_folder(bpf_root)]);
    for folder in folders {
        let fail = |source| LoadError::Remove { path: folder.clone(), source };
        match fs::read_dir(&folder) {
            Ok(entries) => {
                for entry in entries {
                    let path = entry.map_err(fail)?.path();
                    if !path.is_dir() {
                        detach(&path)?;
                        removed.push(path);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(fail(source)),
        }
        fs::remove_dir(&folder).map_err(fail)?;
    }
    if book.exists() {
        remove_file(&book)?;
        removed.push(book);
    }
    match fs::remove_dir(bpf_root) {
        // A mount point or a folder that holds other things stays.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => info!(path = %bpf_root.display(), %error, "the folder of pins stays"),
    }
    Ok(removed)
}
