//! Where programs are attached, by links with pins or by filters, and how one is put in another's place.
//!
//! May not know: maps.

use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{SchedClassifier, TcAttachType};
use strake_abi::program;

use super::{UpgradeError, at};
use crate::sys;

/// The filter's place among clsact filters: before those without a priority of their own.
pub const CLSACT_PRIORITY: u16 = 40;
/// Right behind it, for as long as two versions' programs are there.
pub const CLSACT_BEHIND: u16 = 41;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 1);

type Cause = Box<dyn std::error::Error + Send + Sync>;

pub(crate) fn links_folder(root: &Path) -> PathBuf {
    root.join("links")
}

/// `enum bpf_attach_type`.
pub(crate) fn attach_type(name: &str) -> u32 {
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

fn direction(name: &str) -> TcAttachType {
    if matches!(name, program::TO_POD | program::TO_NET) { TcAttachType::Egress } else { TcAttachType::Ingress }
}

fn clsact_link(interface: &str, name: &str, priority: u16) -> io::Result<SchedClassifierLink> {
    SchedClassifierLink::attached(interface, direction(name), priority, CLSACT_HANDLE, None)
}

/// Below 6.6 a filter is attached by netlink. It stays when we go, and is replaced by its priority and handle.
pub(crate) fn attach_with_clsact(
    program: &mut SchedClassifier,
    name: &str,
    interface: &str,
    priority: u16,
) -> Result<(), Cause> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) => {}
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let options = NlOptions { priority, handle: CLSACT_HANDLE, classid: None };
    let fresh = program.attach_with_options(interface, direction(name), TcAttachOptions::Netlink(options));
    let id = match fresh {
        Ok(id) => id,
        Err(_) => {
            let old = ManuallyDrop::new(clsact_link(interface, name, priority)?);
            program.attach_to_link(ManuallyDrop::into_inner(old))?
        }
    };
    // Dropping the link would detach the filter.
    let _stays = ManuallyDrop::new(program.take_link(id)?);
    Ok(())
}

/// In the place of its own.
pub(crate) fn classifier(program: &mut SchedClassifier, name: &str, interface: &str) -> Result<(), Cause> {
    attach_with_clsact(program, name, interface, CLSACT_PRIORITY)
}

/// Removes our filter if there is one; an interface that is gone took it along.
pub(crate) fn detach_clsact(interface: &str, name: &str) {
    detach_behind(interface, name);
    // Dropping the link detaches it.
    drop(clsact_link(interface, name, CLSACT_PRIORITY));
}

pub(super) fn detach_behind(interface: &str, name: &str) {
    drop(clsact_link(interface, name, CLSACT_BEHIND));
}

/// Removes our clsact filters from an interface of the calling thread's namespace (kernels below 6.6).
pub fn cleanup_clsact(interface: &str) {
    for name in [program::FROM_NET, program::TO_NET] {
        detach_clsact(interface, name);
    }
}

/// Detaches the link pinned at `path`, if there is one, and removes the pin.
pub(crate) fn detach(path: &Path) -> Result<(), UpgradeError> {
    if let Ok(link) = sys::open_pin(path) {
        // What it was attached to may be gone, and then so is the attachment.
        let _ = sys::link_detach(link.as_fd());
    }
    remove_file(path)
}

/// Removes a pin, which may be gone.
pub(crate) fn remove_file(path: &Path) -> Result<(), UpgradeError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(at(path)(source)),
        _ => Ok(()),
    }
}

/// The names in a folder of pins, without its folders; none if there is no such folder.
pub(super) fn pins(folder: &Path) -> Result<Vec<String>, UpgradeError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(at(folder)(source)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at(folder))?;
        if entry.file_type().map_err(at(folder))?.is_dir() {
            continue;
        }
        names.extend(entry.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Removes a folder with the pins and folders in it; links are detached.
pub(super) fn clear(folder: &Path) -> Result<(), UpgradeError> {
    for name in pins(folder)? {
        detach(&folder.join(name))?;
    }
    for inner in ["links", "maps", "programs"].map(|inner| folder.join(inner)) {
        if inner.exists() {
            clear(&inner)?;
        }
    }
    match fs::remove_dir(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(at(folder)(source)),
        _ => Ok(()),
    }
}

/// A link of the programs that are in place.
pub(super) struct Hook {
    pub pin: PathBuf,
    /// Its own name and that of no other.
    pub name: String,
    /// The program that is to be there; none of those there are.
    pub program: Option<String>,
}

/// Every link, in the order in which programs are put there: what translates back before what translates.
pub(super) fn hooks(root: &Path, programs: &[String]) -> Result<Vec<Hook>, UpgradeError> {
    let links = links_folder(root);
    let mut hooks = Vec::new();
    for name in pins(&links)? {
        // The name of a link of XDP has its mode behind that of the program.
        let of = |program: &&String| {
            name.strip_prefix(program.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        let program = programs.iter().find(of).cloned();
        hooks.push(Hook { pin: links.join(&name), name, program });
    }
    for name in pins(&links.join("pods"))? {
        let program = programs.iter().find(|program| name.ends_with(&format!("-{program}"))).cloned();
        hooks.push(Hook { pin: links.join("pods").join(&name), name, program });
    }
    let order = |hook: &Hook| {
        let program = hook.program.as_deref();
        let opens = [program::SOCK_CONNECT4, program::SOCK_CONNECT6, program::FROM_NET, program::FROM_POD];
        program.map_or(usize::MAX, |program| opens.iter().position(|name| *name == program).map_or(0, |at| at + 1))
    };
    hooks.sort_by_key(order);
    Ok(hooks)
}
