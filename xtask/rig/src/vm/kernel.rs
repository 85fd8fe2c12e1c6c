//! A kernel on disk: its image, its modules, and which modules another one needs before it.
//!
//! ```text
//!   DIR/vmlinuz
//!   DIR/modules/RELEASE/{modules.builtin, kernel/**/NAME.ko[.xz|.zst]}
//! ```

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;

/// A kernel that can be booted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// As `uname -r` says it.
    pub release: String,
    pub image: PathBuf,
    modules: PathBuf,
}

/// A module, unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    pub name: String,
    pub content: Vec<u8>,
}

impl Kernel {
    /// The kernel in a folder.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let none = || Error::NoKernel { path: folder.into() };
        let image = folder.join("vmlinuz");
        let mut releases = fs::read_dir(folder.join("modules")).map_err(|_| none())?.flatten();
        let modules = releases.next().map(|entry| entry.path()).ok_or_else(none)?;
        let release = modules.file_name().and_then(|name| name.to_str()).ok_or_else(none)?.to_owned();
        if !image.is_file() {
            return Err(none());
        }
        Ok(Self { release, image, modules })
    }

    /// The first two numbers of the release.
    pub fn version(&self) -> (u32, u32) {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }

    /// `names` and what they depend on, in the order in which they can be loaded. What is built in needs no loading.
    pub fn modules(&self, names: &[&str]) -> Result<Vec<Module>, Error> {
        let mut files = BTreeMap::new();
        index(&self.modules.join("kernel"), &mut files)?;
        let path = self.modules.join("modules.builtin");
        let builtin = fs::read_to_string(&path).map_err(Error::io(format!("reading {}", path.display())))?;
        let builtin = builtin.lines().filter_map(|line| module_name(Path::new(line))).collect();
        let mut found = Found { kernel: self, files, builtin, seen: HashSet::new(), order: Vec::new() };
        for name in names {
            found.visit(name)?;
        }
        Ok(found.order)
    }
}

struct Found<'a> {
    kernel: &'a Kernel,
    files: BTreeMap<String, PathBuf>,
    builtin: HashSet<String>,
    seen: HashSet<String>,
    order: Vec<Module>,
}

impl Found<'_> {
    fn visit(&mut self, name: &str) -> Result<(), Error> {
        let name = name.replace('-', "_");
        if !self.seen.insert(name.clone()) || self.builtin.contains(&name) {
            return Ok(());
        }
        let Some(path) = self.files.get(&name) else {
            return Err(Error::NoModule { release: self.kernel.release.clone(), name });
        };
        let content = unpack(path)?;
        for needed in depends(&content) {
            self.visit(&needed)?;
        }
        self.order.push(Module { name, content });
        Ok(())
    }
}

fn index(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), Error> {
    let entries = fs::read_dir(folder).map_err(Error::io(format!("listing {}", folder.display())))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some(name) = module_name(&path) {
            files.insert(name, path);
        }
    }
    Ok(())
}

/// `net/sched/sch-x.ko.xz` is module `sch_x`.
fn module_name(path: &Path) -> Option<String> {
    let (name, _) = path.file_name()?.to_str()?.split_once(".ko")?;
    Some(name.replace('-', "_"))
}

fn unpack(path: &Path) -> Result<Vec<u8>, Error> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return fs::read(path).map_err(Error::io(format!("reading {}", path.display()))),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return Err(Error::Packed { path: path.into() }),
    };
    let command = || format!("{program} -dc {}", path.display());
    let output = Command::new(program).arg("-dc").arg(path).output();
    let output = output.map_err(|source| crate::Error::Spawn { command: command(), source })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(crate::Error::Command { command: command(), status: output.status, stderr }.into());
    }
    Ok(output.stdout)
}

/// `depends=a,b` of a module's `.modinfo`: strings that end with a zero.
fn depends(content: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = content.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value = content[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(value).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel of files that only look like modules.
    fn kernel(dir: &Path) -> Kernel {
        let net = dir.join("modules/5.10.0-1-cloud/kernel/net");
        fs::create_dir_all(&net).unwrap();
        fs::write(dir.join("vmlinuz"), "").unwrap();
        fs::write(dir.join("modules/5.10.0-1-cloud/modules.builtin"), "kernel/lib/crc.ko\n").unwrap();
        fs::write(net.join("udp-diag.ko"), b"x\0license=GPL\0depends=inet_diag,crc\0name=udp_diag\0").unwrap();
        fs::write(net.join("inet_diag.ko"), b"x\0depends=\0").unwrap();
        Kernel::open(dir).unwrap()
    }

    #[test]
    fn a_module_comes_after_what_it_depends_on() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = kernel(dir.path());
        assert_eq!(kernel.version(), (5, 10));
        let names = |wanted: &[&str]| -> Vec<String> {
            kernel.modules(wanted).unwrap().into_iter().map(|module| module.name).collect()
        };
        assert_eq!(names(&["udp_diag", "inet_diag"]), ["inet_diag", "udp_diag"]);
        assert!(names(&["crc"]).is_empty(), "it is built in");
    }

    #[test]
    fn what_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = kernel(dir.path()).modules(&["veth"]).unwrap_err().to_string();
        assert_eq!(error, "kernel 5.10.0-1-cloud has no module veth, neither as a file nor built in");
        assert!(matches!(Kernel::open(&dir.path().join("no")), Err(Error::NoKernel { .. })));
    }
}
