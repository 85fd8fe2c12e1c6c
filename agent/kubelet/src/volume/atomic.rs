//! All files of a volume change at once or not at all.
//!
//! ```text
//! VOLUME/..2026_01_02_03_04_05.0123456789/a/b     the files
//! VOLUME/..data -> ..2026_01_02_03_04_05.0123456789    swapped by rename(2)
//! VOLUME/a      -> ..data/a                       what the container reads
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::jiff::Timestamp;

use crate::error::{Error, Result};

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// Owner, root without one.
    pub owner: Option<u32>,
}

/// Files by path relative to the volume.
pub type Payload = BTreeMap<PathBuf, File>;

/// A path that stays inside the volume and does not meet the writer's own names.
pub fn checked(path: &str) -> Result<PathBuf> {
    let p = Path::new(path);
    let fine = !path.is_empty()
        && !path.starts_with("..")
        && path.len() < 4096
        && p.components().all(|c| matches!(c, Component::Normal(n) if n.len() < 256));
    if fine { Ok(p.to_owned()) } else { Err(Error::Pod(format!("invalid path in a volume: {path:?}"))) }
}

/// Writes the payload; returns whether anything changed.
pub fn write(volume: &Path, payload: &Payload, group: Option<i64>) -> Result<bool> {
    let group = group.and_then(|g| u32::try_from(g).ok());
    let data = volume.join("..data");
    let old = fs::read_link(&data).ok().map(|target| volume.join(target));
    let changed = !old.as_deref().is_some_and(|dir| same(dir, payload, group));
    if changed {
        let name = format!(
            "..{}.{:010}",
            Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S"),
            rand::random_range(0..10_000_000_000_u64)
        );
        let dir = volume.join(&name);
        fs::create_dir(&dir).map_err(Error::io("create directory", &dir))?;
        permit(&dir, 0o755, None, group, true)?;
        for (path, file) in payload {
            let to = dir.join(path);
            let mut parent = dir.clone();
            for part in path.parent().into_iter().flat_map(Path::components) {
                parent.push(part);
                if !parent.exists() {
                    fs::create_dir(&parent).map_err(Error::io("create directory", &parent))?;
                    permit(&parent, 0o755, None, group, true)?;
                }
            }
            fs::write(&to, &file.data).map_err(Error::io("write", &to))?;
            permit(&to, file.mode, file.owner, group, false)?;
        }
        let next = volume.join("..data_tmp");
        let _ = fs::remove_file(&next);
        symlink(&name, &next).map_err(Error::io("link", &next))?;
        fs::rename(&next, &data).map_err(Error::io("rename to", &data))?;
    }
    // Links: also repaired when a crash came between the swap and here.
    let wanted: BTreeSet<PathBuf> =
        payload.keys().filter_map(|p| p.components().next()).map(|c| PathBuf::from(c.as_os_str())).collect();
    for name in &wanted {
        let link = volume.join(name);
        let target = Path::new("..data").join(name);
        if fs::read_link(&link).ok().as_deref() != Some(&*target) {
            let _ = fs::remove_file(&link);
            symlink(&target, &link).map_err(Error::io("link", &link))?;
        }
    }
    let current = fs::read_link(&data).unwrap_or_default();
    for entry in fs::read_dir(volume).map_err(Error::io("list", volume))?.flatten() {
        let name = PathBuf::from(entry.file_name());
        let path = entry.path();
        if name.to_string_lossy().starts_with("..") {
            let ours = name == Path::new("..data") || name == current;
            if !ours && path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(&path).map_err(Error::io("remove directory", &path))?;
            }
        } else if !wanted.contains(&name) && path.is_symlink() {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    Ok(changed)
}

/// Mode of a file or directory that a group may read.
fn effective(mode: u32, group: Option<u32>, directory: bool) -> u32 {
    match (group, directory) {
        (None, _) => mode,
        (Some(_), false) => mode | 0o440,
        (Some(_), true) => mode | 0o2550,
    }
}

fn permit(path: &Path, mode: u32, owner: Option<u32>, group: Option<u32>, directory: bool) -> Result<()> {
    if owner.is_some() || group.is_some() {
        std::os::unix::fs::chown(path, owner, group).map_err(Error::io("chown", path))?;
    }
    let mode = effective(mode, group, directory);
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::io("chmod", path))
}

fn same(dir: &Path, payload: &Payload, group: Option<u32>) -> bool {
    let mut found = 0;
    let mut stack = vec![dir.to_owned()];
    while let Some(d) = stack.pop() {
        let Ok(entries) = fs::read_dir(&d) else { return false };
        for e in entries.flatten() {
            let path = e.path();
            let Ok(meta) = e.metadata() else { return false };
            if meta.is_dir() {
                stack.push(path);
                continue;
            }
            let Some(want) = path.strip_prefix(dir).ok().and_then(|p| payload.get(p)) else { return false };
            let fine = meta.mode() & 0o7777 == effective(want.mode, group, false)
                && want.owner.is_none_or(|o| meta.uid() == o)
                && group.is_none_or(|g| meta.gid() == g)
                && fs::read(&path).is_ok_and(|b| b == want.data);
            if !fine {
                return false;
            }
            found += 1;
        }
    }
    found == payload.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str, u32)]) -> Payload {
        files
            .iter()
            .map(|(p, d, m)| (PathBuf::from(p), File { data: d.as_bytes().to_vec(), mode: *m, owner: None }))
            .collect()
    }

    #[test]
    fn files_change_together_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let v = dir.path();
        assert!(write(v, &payload(&[("a", "1", 0o644), ("d/e/f", "2", 0o600)]), None).unwrap());
        assert_eq!(fs::read_to_string(v.join("d/e/f")).unwrap(), "2");
        assert_eq!(fs::metadata(v.join("d/e/f")).unwrap().mode() & 0o777, 0o600);
        let first = fs::read_link(v.join("..data")).unwrap();
        assert!(!write(v, &payload(&[("a", "1", 0o644), ("d/e/f", "2", 0o600)]), None).unwrap());
        assert_eq!(fs::read_link(v.join("..data")).unwrap(), first, "no change, no swap");
        assert!(write(v, &payload(&[("a", "3", 0o644), ("b", "4", 0o644)]), None).unwrap());
        assert_eq!(fs::read_to_string(v.join("a")).unwrap(), "3");
        assert!(!v.join("d").exists() && !v.join(&first).exists());
        assert!(write(v, &Payload::new(), None).unwrap());
        assert_eq!(fs::read_dir(v).unwrap().count(), 2, "only ..data and its directory are left");
    }

    #[test]
    fn a_crash_between_swap_and_links_is_repaired() {
        let dir = tempfile::tempdir().unwrap();
        let p = payload(&[("a", "1", 0o644)]);
        write(dir.path(), &p, None).unwrap();
        fs::remove_file(dir.path().join("a")).unwrap();
        assert!(!write(dir.path(), &p, None).unwrap());
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "1");
    }

    #[test]
    fn paths_stay_inside() {
        for bad in ["", "/a", "../a", "..a", "a/../b", "a/./../b"] {
            assert!(checked(bad).is_err(), "{bad}");
        }
        assert!(checked("a/b.c").is_ok());
    }
}
