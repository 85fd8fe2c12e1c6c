//! Loads the programs, pins maps and links, and attaches; over what an agent before us left, in place.
//!
//! ```text
//!   bpf_root/maps/NAME          every map of the object
//!   bpf_root/links/NAME         socket hooks, uplink
//!   bpf_root/links/pods/IF-NAME host sides of veths
//! ```
//!
//! A pinned map is reused as it is, a pinned link gets the new program by one atomic exchange: there is no instant
//! without a program, and no entry is lost. May not know: Services, what the maps hold (but for the ABI version).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapError};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{CgroupSock, CgroupSockAddr, Program, ProgramError, SchedClassifier, TcAttachType};
use aya::{Ebpf, EbpfError, EbpfLoader};
use strake_abi::config::{CONFIG, Config as AbiConfig, HAVE_SET_RETVAL};
use strake_abi::program;
use tracing::{info, warn};

use crate::config::{Config, MapSizes};
use crate::features::{FeatureError, Features, check_bpffs, open_cgroup, probe_kernel};
use crate::sys::{self, LinkTarget};

/// The filter's place among clsact filters: before those without a priority of their own.
const CLSACT_PRIORITY: u16 = 40;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 1);

/// Why the programs are not in place.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    Feature(#[from] FeatureError),
    #[error("making folder {path}")]
    Folder { path: PathBuf, source: io::Error },
    #[error(
        "the state pinned under {path} is of ABI version {found}, this binary speaks {}: finish with the binary that wrote it, or remove that state (flows of the packet path are cut)",
        strake_abi::ABI_VERSION
    )]
    AbiVersion { path: PathBuf, found: u32 },
    #[error("reading {path}")]
    Pinned { path: PathBuf, source: MapError },
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
}

/// The loaded object and what is attached.
pub struct Loaded {
    // Programs must live as long as new veths come. Maps and links live by their pins.
    ebpf: Ebpf,
    pub features: Features,
    pub uplink_ifindex: u32,
    /// By link name: where, and how.
    pub attached: BTreeMap<String, (String, Attachment)>,
    links: PathBuf,
    clsact: bool,
}

/// The folder with the pinned maps.
pub fn maps_folder(bpf_root: &Path) -> PathBuf {
    bpf_root.join("maps")
}

fn links_folder(bpf_root: &Path) -> PathBuf {
    bpf_root.join("links")
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

/// Probes the kernel, loads the object and verifies every program. Attaches nothing yet.
pub fn load(config: &Config) -> Result<Loaded, LoadError> {
    let features = preflight(config)?;
    make(&config.bpf_root)?;
    refuse_other_abi(config)?;
    let (maps, links) = (maps_folder(&config.bpf_root), links_folder(&config.bpf_root));
    make(&maps)?;
    make(&links.join("pods"))?;

    let set_retval = u8::from(features.set_retval);
    let mut loader = EbpfLoader::new();
    loader.override_global(HAVE_SET_RETVAL, &set_retval, false);
    for name in program::MAPS {
        loader.map_pin_path(name, maps.join(name));
    }
    for (name, size) in sizes(&config.sizes) {
        loader.map_max_entries(name, size);
    }
    let mut ebpf = loader.load(strake_bpf_object::OBJECT).map_err(|source| LoadError::Object(Box::new(source)))?;
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

    let uplink_ifindex = match &config.uplink {
        None => 0,
        Some(name) => nix::net::if_::if_nametoindex(name.as_str())
            .map_err(|source| LoadError::NoUplink { name: name.clone(), source })?,
    };
    let clsact = config.force_clsact || !features.tcx;
    Ok(Loaded { ebpf, features, uplink_ifindex, attached: BTreeMap::new(), links, clsact })
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

/// Bytes of a `CONFIG` row, now and up to version 3.
const SIZE: usize = size_of::<AbiConfig>();
const SIZE_TO_3: usize = 88;

fn first_word<const N: usize>(data: MapData) -> Result<u32, MapError> {
    let map: Array<MapData, [u8; N]> = Array::try_from(Map::from_map_data(data)?)?;
    let row = map.get(&0, 0)?;
    Ok(row.first_chunk().map_or(u32::MAX, |word| u32::from_ne_bytes(*word)))
}

/// The pinned CONFIG says which ABI wrote the maps. Maps of another one must not be touched, let alone reused.
fn refuse_other_abi(config: &Config) -> Result<(), LoadError> {
    let path = maps_folder(&config.bpf_root).join(CONFIG);
    if !path.exists() {
        return Ok(());
    }
    let pinned = |source| LoadError::Pinned { path: path.clone(), source };
    let data = MapData::from_pin(&path).map_err(pinned)?;
    let value_size = data.info().map_err(pinned)?.value_size() as usize;
    // The version is the first word in every version.
    let found = match value_size {
        SIZE => first_word::<SIZE>(data).map_err(pinned)?,
        SIZE_TO_3 => first_word::<SIZE_TO_3>(data).map_err(pinned)?,
        // Whatever wrote another size is later.
        _ => u32::MAX,
    };
    // 0: an agent died between making the maps and writing CONFIG; nothing is attached to them yet.
    if found == strake_abi::ABI_VERSION || found == 0 {
        return Ok(());
    }
    if !config.discard_incompatible {
        return Err(LoadError::AbiVersion { path: config.bpf_root.clone(), found });
    }
    warn!(found, ours = strake_abi::ABI_VERSION, "removing pinned state of another ABI version");
    cleanup(&config.bpf_root).map(drop)
}

fn find<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    let program = ebpf.program_mut(name).ok_or(LoadError::NoProgram { name })?;
    program.try_into().map_err(|_| LoadError::NoProgram { name })
}

/// `enum bpf_attach_type`.
fn attach_type(name: &str) -> u32 {
    match name {
        program::SOCK_CONNECT4 => 10,
        program::SOCK_CONNECT6 => 11,
        program::SOCK_SENDMSG4 => 14,
        program::SOCK_SENDMSG6 => 15,
        program::SOCK_RECVMSG4 => 19,
        program::SOCK_RECVMSG6 => 20,
        program::SOCK_GETPEER4 => 29,
        program::SOCK_GETPEER6 => 30,
        program::SOCK_RELEASE => 34,
        program::TO_POD | program::TO_NET => 47,
        _ => 46,
    }
}

impl Loaded {
    /// Attaches the socket hooks, what translates back before what translates.
    pub fn attach_sockets(&mut self, cgroup_root: &Path) -> Result<(), LoadError> {
        let folder = open_cgroup(cgroup_root)?;
        let target = cgroup_root.display().to_string();
        for name in [program::SOCK_RELEASE].into_iter().chain(program::SOCK_ADDR) {
            let fail = |source| LoadError::Attach { name, target: target.clone(), source };
            let id = folder.metadata().map_err(fail)?.ino();
            let pin = self.links.join(name);
            let how = self.link(name, &pin, LinkTarget::Cgroup(id), folder.as_raw_fd() as u32).map_err(fail)?;
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
        match sys::open_pin(pin) {
            Ok(link) => {
                // Same place: exchange the program. Another place (the cgroup or interface was made anew): start anew.
                if sys::link_target(link.as_fd())? == target {
                    match sys::link_update(link.as_fd(), program.as_fd()) {
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
        let link = sys::link_create(program.as_fd(), target_fd, attach_type(name))?;
        sys::pin(link.as_fd(), pin)?;
        Ok(Attachment::Fresh)
    }

    fn classifier(
        &mut self,
        name: &'static str,
        pin: &Path,
        interface: &str,
        ifindex: u32,
    ) -> Result<Attachment, LoadError> {
        if !self.clsact {
            return self.link(name, pin, LinkTarget::Tcx(ifindex), ifindex).map_err(|source| LoadError::Attach {
                name,
                target: interface.into(),
                source,
            });
        }
        self.clsact(name, interface).map_err(|source| LoadError::Clsact { name, target: interface.into(), source })
    }

    /// Below 6.6 a filter is attached by netlink. It stays when we go, and is replaced by its priority and handle.
    fn clsact(
        &mut self,
        name: &'static str,
        interface: &str,
    ) -> Result<Attachment, Box<dyn std::error::Error + Send + Sync>> {
        match tc::qdisc_add_clsact(interface) {
            Ok(()) => {}
            Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let program: &mut SchedClassifier = find(&mut self.ebpf, name)?;
        let direction = tc_direction(name);
        let options = NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, classid: None };
        let fresh = program.attach_with_options(interface, direction, TcAttachOptions::Netlink(options));
        let id = match fresh {
            Ok(id) => id,
            Err(_) => {
                let old = ManuallyDrop::new(clsact_link(interface, direction)?);
                program.attach_to_link(ManuallyDrop::into_inner(old))?
            }
        };
        // Dropping the link would detach the filter.
        let _stays = ManuallyDrop::new(program.take_link(id)?);
        Ok(Attachment::Clsact)
    }
}

fn tc_direction(name: &str) -> TcAttachType {
    if matches!(name, program::TO_POD | program::TO_NET) { TcAttachType::Egress } else { TcAttachType::Ingress }
}

fn clsact_link(interface: &str, direction: TcAttachType) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, direction, CLSACT_PRIORITY, CLSACT_HANDLE, None)
}

/// Removes our filter if there is one; an interface that is gone took it along.
fn detach_clsact(interface: &str, name: &'static str) {
    // Dropping the link detaches it.
    drop(clsact_link(interface, tc_direction(name)));
}

/// Detaches the link pinned at `path`, if there is one, and removes the pin.
fn detach(path: &Path) -> Result<(), LoadError> {
    if let Ok(link) = sys::open_pin(path) {
        // What it was attached to may be gone, and then so is the attachment.
        let _ = sys::link_detach(link.as_fd());
    }
    remove(path)
}

fn remove(path: &Path) -> Result<(), LoadError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(LoadError::Remove { path: path.into(), source }),
        _ => Ok(()),
    }
}

/// Detaches and removes everything under `bpf_root`: first the links, so that no program runs on maps that are half
/// gone. Nothing there is no error. Returns the pins that were there.
pub fn cleanup(bpf_root: &Path) -> Result<Vec<PathBuf>, LoadError> {
    let mut removed = Vec::new();
    for folder in [links_folder(bpf_root).join("pods"), links_folder(bpf_root), maps_folder(bpf_root)] {
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
    match fs::remove_dir(bpf_root) {
        // A mount point or a folder that holds other things stays.
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => info!(path = %bpf_root.display(), %error, "the folder of pins stays"),
    }
    Ok(removed)
}

/// Removes our clsact filters from an interface of the calling thread's namespace (kernels below 6.6).
pub fn cleanup_clsact(interface: &str) {
    for name in [program::FROM_NET, program::TO_NET] {
        detach_clsact(interface, name);
    }
}
