//! Mounts below the kubelet's directories: tmpfs, bind, and taking down whatever a crash left.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::error::{Error, Result};

/// Whether something is mounted at `path` itself.
pub fn is_mount(path: &Path) -> bool {
    let (Ok(own), Some(Ok(parent))) = (fs::metadata(path), path.parent().map(fs::metadata)) else { return false };
    own.dev() != parent.dev()
}

/// Mounts a tmpfs (of at most `size` bytes) unless one is there.
pub fn tmpfs(path: &Path, size: Option<i64>) -> Result<()> {
    if is_mount(path) {
        return Ok(());
    }
    let size = size.map(|s| format!("size={s},"));
    let options = format!("{}mode=0755", size.unwrap_or_default());
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
        .map_err(Error::os("mount tmpfs at", path))
}

/// Makes `target` show `source`.
pub fn bind(source: &Path, target: &Path) -> Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .map_err(Error::os("bind mount at", target))
}

/// Mount points at or below `dir` in a mountinfo text, deepest first.
fn points(mountinfo: &str, dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        mountinfo.lines().filter_map(|l| l.split(' ').nth(4)).map(unescape).filter(|p| p.starts_with(dir)).collect();
    found.reverse();
    found.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    found
}

/// Undoes the octal escapes of mountinfo.
fn unescape(s: &str) -> PathBuf {
    let mut out = String::with_capacity(s.len());
    let mut rest = s;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        match rest.get(at + 1..at + 4).and_then(|d| u8::from_str_radix(d, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                out.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    PathBuf::from(out)
}

/// Unmounts everything at or below `dir`. An error means that something is still mounted there.
pub fn unmount_below(dir: &Path) -> Result<()> {
    let read =
        || fs::read_to_string("/proc/thread-self/mountinfo").map_err(Error::io("read", "/proc/thread-self/mountinfo"));
    for point in points(&read()?, dir) {
        match umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(e) => return Err(Error::os("unmount", &point)(e)),
        }
    }
    match points(&read()?, dir).first() {
        None => Ok(()),
        Some(left) => Err(Error::Pod(format!("{} is still mounted", left.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_come_deepest_first_and_unescaped() {
        let info = "30 1 0:1 / /pods/u/volumes/a rw - tmpfs tmpfs rw\n\
                    31 30 0:2 / /pods/u/volumes/a/b\\040c rw - tmpfs tmpfs rw\n\
                    32 1 0:3 / /podsx rw - tmpfs tmpfs rw\n";
        let got = points(info, Path::new("/pods"));
        assert_eq!(got, [PathBuf::from("/pods/u/volumes/a/b c"), PathBuf::from("/pods/u/volumes/a")]);
    }
}
