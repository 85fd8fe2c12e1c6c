//! subPath mounts. The path is walked inside the volume with openat2(RESOLVE_BENEATH), so that a link a container
//! planted cannot lead outside, and what was opened is what is mounted.

use std::fs;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use super::mounts;
use crate::error::{Error, Result};

/// Opens (and makes, as directories) `sub` below `volume` and binds it at `target`; returns `target`.
pub fn prepare(volume: &Path, sub: &str, target: &Path) -> Result<PathBuf> {
    let relative = Path::new(sub);
    let inside =
        !sub.is_empty() && relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !inside {
        return Err(Error::Pod(format!("subPath {sub:?} must be a relative path without ..")));
    }
    let found = open_beneath(volume, relative)?;
    let stat = fstat(&found).map_err(Error::os("stat", volume.join(relative)))?;
    let directory = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
    if target.exists() {
        // Left by a container that ran before: what it shows may have been replaced since.
        mounts::unmount_below(target)?;
    }
    if directory {
        fs::create_dir_all(target).map_err(Error::io("create directory", target))?;
    } else {
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(Error::io("create directory", parent))?;
        }
        fs::File::create(target).map_err(Error::io("create", target))?;
    }
    let source = PathBuf::from(format!("/proc/thread-self/fd/{}", found.as_raw_fd()));
    mounts::bind(&source, target)?;
    Ok(target.to_owned())
}

fn open_beneath(volume: &Path, relative: &Path) -> Result<OwnedFd> {
    let full = || volume.join(relative);
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let root = open(volume, flags | OFlag::O_DIRECTORY, Mode::empty()).map_err(Error::os("open", volume))?;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(&root, relative, how) {
        Ok(fd) => return Ok(fd),
        Err(Errno::ENOENT) => {}
        Err(e) => return Err(Error::os("open inside the volume", full())(e)),
    }
    // What is made has the volume's own permissions, whatever our umask.
    let mode = Mode::from_bits_truncate(fstat(&root).map_err(Error::os("stat", volume))?.st_mode & 0o777);
    let mut at = root;
    for part in relative.components() {
        let Component::Normal(name) = part else { continue };
        let made = match mkdirat(&at, name, mode) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(e) => return Err(Error::os("create directory inside the volume", full())(e)),
        };
        // No link is followed while making directories.
        let step = how.resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        at = openat2(&at, name, step).map_err(Error::os("open inside the volume", full()))?;
        if made {
            let opened = format!("/proc/thread-self/fd/{}", at.as_raw_fd());
            fs::set_permissions(opened, fs::Permissions::from_mode(mode.bits())).map_err(Error::io("chmod", full()))?;
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_that_leads_outside_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        std::os::unix::fs::symlink("in", dir.path().join("link")).unwrap();
        assert!(open_beneath(dir.path(), Path::new("out/passwd")).is_err());
        assert!(open_beneath(dir.path(), Path::new("link")).is_ok());
        assert!(open_beneath(dir.path(), Path::new("new/deep")).is_ok());
        assert!(dir.path().join("new/deep").is_dir());
        assert!(prepare(dir.path(), "../x", Path::new("/nowhere")).is_err());
        assert!(prepare(dir.path(), "/x", Path::new("/nowhere")).is_err());
    }
}
