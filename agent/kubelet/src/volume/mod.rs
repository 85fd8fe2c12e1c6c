//! The volumes of a Pod on the node: set up before its containers, kept up to date while it lives, taken down after.
//!
//! ```text
//! PODS/UID/volumes/kubernetes.io~KIND/NAME   one directory a volume (tmpfs for secrets, tokens, memory)
//! PODS/UID/volume-subpaths/VOL/CONTAINER/N   bind mount of a subPath
//! ```
//! Kinds: emptyDir, hostPath, configMap, secret, projected, downwardAPI. Others are refused by name.

pub mod atomic;
mod content;
pub mod mounts;
pub mod subpath;
pub mod token;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, EmptyDirVolumeSource, HostPathVolumeSource, Pod, Secret, Volume};

use crate::downward::Facts;
use crate::error::{Error, Result};
use crate::objects::{Objects, User};
use crate::{pod, quantity};
use token::Tokens;

/// What setting up needs.
pub struct Context<'a> {
    /// `Config::pods_dir`.
    pub pods_dir: &'a Path,
    /// ConfigMaps in use.
    pub config_maps: &'a Objects<ConfigMap>,
    /// Secrets in use.
    pub secrets: &'a Objects<Secret>,
    /// The Pod's worker, woken by changes.
    pub user: &'a User,
    /// For the downward API.
    pub facts: &'a Facts,
    /// Tokens of the Pod.
    pub tokens: &'a mut Tokens,
}

/// Volumes that are ready.
#[derive(Debug, Default)]
pub struct Ready {
    /// Host path by volume name.
    pub paths: HashMap<String, PathBuf>,
    /// After this long something must be renewed.
    pub refresh: Option<Duration>,
}

/// Directory of a Pod.
pub fn pod_dir(pods_dir: &Path, uid: &str) -> PathBuf {
    pods_dir.join(uid)
}

fn dir(pods_dir: &Path, uid: &str, kind: &str, name: &str) -> PathBuf {
    pod_dir(pods_dir, uid).join("volumes").join(format!("kubernetes.io~{kind}")).join(name)
}

/// Sets every volume up, or brings it up to date. Idempotent; the first failure is told.
pub async fn setup(ctx: &mut Context<'_>, p: &Arc<Pod>) -> Result<Ready> {
    let mut ready = Ready::default();
    let fs_group = p.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|s| s.fs_group);
    for v in p.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let path = one(ctx, p, v, fs_group).await.map_err(|e| match e {
            e @ Error::Volume { .. } => e,
            e => Error::Volume { volume: v.name.clone(), message: e.to_string() },
        })?;
        ready.paths.insert(v.name.clone(), path);
    }
    ready.refresh = ctx.tokens.refresh_in();
    Ok(ready)
}

async fn one(ctx: &mut Context<'_>, p: &Pod, v: &Volume, fs_group: Option<i64>) -> Result<PathBuf> {
    let uid = pod::uid(p);
    if let Some(source) = &v.empty_dir {
        return empty_dir(&dir(ctx.pods_dir, uid, "empty-dir", &v.name), source, p, fs_group);
    }
    if let Some(source) = &v.host_path {
        return host_path(source);
    }
    let kind = if v.config_map.is_some() {
        "configmap"
    } else if v.secret.is_some() {
        "secret"
    } else if v.projected.is_some() {
        "projected"
    } else if v.downward_api.is_some() {
        "downward-api"
    } else {
        return Err(Error::Volume {
            volume: v.name.clone(),
            message: "this kubelet has emptyDir, hostPath, configMap, secret, projected and downwardAPI volumes only"
                .into(),
        });
    };
    let payload = content::collect(ctx, p, v).await?;
    let path = dir(ctx.pods_dir, uid, kind, &v.name);
    make_dir(&path, 0o755)?;
    if kind != "configmap" {
        mounts::tmpfs(&path, None)?;
    }
    atomic::write(&path, &payload, fs_group)?;
    Ok(path)
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create directory", path))?;
    let meta = fs::metadata(path).map_err(Error::io("stat", path))?;
    if meta.mode() & 0o777 != mode {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(Error::io("chmod", path))?;
    }
    Ok(())
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, p: &Pod, fs_group: Option<i64>) -> Result<PathBuf> {
    let new = !path.exists();
    fs::create_dir_all(path).map_err(Error::io("create directory", path))?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            let wanted = source.size_limit.as_ref().and_then(quantity::value).filter(|s| *s > 0);
            let pod_limit = Some(pod::pod_limit(p, "memory")).filter(|l| *l > 0);
            mounts::tmpfs(path, [wanted, pod_limit].into_iter().flatten().min())?;
        }
        other => {
            return Err(Error::Pod(format!("unsupported emptyDir medium {other:?} (this node has no huge pages)")));
        }
    }
    if new {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).map_err(Error::io("chmod", path))?;
        if let Some(group) = fs_group {
            own(path, group)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o2777)).map_err(Error::io("chmod", path))?;
        }
    }
    Ok(path.to_owned())
}

/// Gives a path to a group.
fn own(path: &Path, group: i64) -> Result<()> {
    let gid = u32::try_from(group).map_err(|_| Error::Pod(format!("fsGroup {group} is not a group id")))?;
    std::os::unix::fs::lchown(path, None, Some(gid)).map_err(Error::io("chown", path))
}

fn host_path(source: &HostPathVolumeSource) -> Result<PathBuf> {
    let path = PathBuf::from(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let fail = |what: &str| Error::Pod(format!("hostPath type check failed: {} is not {what}", path.display()));
    let meta = fs::metadata(&path).ok();
    let is = |check: fn(&fs::FileType) -> bool| meta.as_ref().is_some_and(|m| check(&m.file_type()));
    match kind {
        "" => {}
        "DirectoryOrCreate" => match &meta {
            None => make_dir(&path, 0o755)?,
            Some(m) if m.is_dir() => {}
            Some(_) => return Err(fail("a directory")),
        },
        "FileOrCreate" => match &meta {
            None => {
                fs::File::create(&path).map_err(Error::io("create", &path))?;
            }
            Some(m) if m.is_file() => {}
            Some(_) => return Err(fail("a file")),
        },
        "Directory" if !is(fs::FileType::is_dir) => return Err(fail("a directory")),
        "File" if !is(fs::FileType::is_file) => return Err(fail("a file")),
        "Socket" if !is(fs::FileType::is_socket) => return Err(fail("a socket file")),
        "CharDevice" if !is(fs::FileType::is_char_device) => return Err(fail("a character device")),
        "BlockDevice" if !is(fs::FileType::is_block_device) => return Err(fail("a block device")),
        "Directory" | "File" | "Socket" | "CharDevice" | "BlockDevice" => {}
        other => return Err(Error::Pod(format!("{other:?} is an invalid hostPath type"))),
    }
    Ok(path)
}

/// emptyDir volumes on disk that hold more than their sizeLimit: volume name, limit in bytes.
pub fn over_limit(pods_dir: &Path, p: &Pod) -> Option<(String, String)> {
    for v in p.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let Some(e) = v.empty_dir.as_ref().filter(|e| e.medium.as_deref().unwrap_or_default().is_empty()) else {
            continue;
        };
        let Some(limit) = &e.size_limit else { continue };
        let Some(bytes) = quantity::value(limit).filter(|b| *b > 0) else { continue };
        if used(&dir(pods_dir, pod::uid(p), "empty-dir", &v.name)) > bytes as u64 {
            return Some((v.name.clone(), limit.0.clone()));
        }
    }
    None
}

/// Bytes allocated below a directory, links not followed.
pub fn used(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() => used(&e.path()) + m.blocks() * 512,
            Ok(m) => m.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Takes down everything of a Pod: mounts below its directory, deepest first, then the directory itself.
/// Never deletes through a mount that could not be taken down.
pub fn teardown(pods_dir: &Path, uid: &str) -> Result<()> {
    let dir = pod_dir(pods_dir, uid);
    if uid.is_empty() || !dir.exists() {
        return Ok(());
    }
    mounts::unmount_below(&dir)?;
    fs::remove_dir_all(&dir).map_err(Error::io("remove directory", &dir))
}
