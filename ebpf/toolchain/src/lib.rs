//! Finds what compiles Rust to eBPF on this machine, runs it, or says exactly what is missing.
//!
//! Two things are needed: a rustc that may use `-Z build-std` together with the library sources it was built from, and
//! `bpf-linker`. Where they may come from, first that is complete wins:
//!
//! | | rustc and sources | how unstable options are allowed |
//! |---|---|---|
//! | 1 | a rustup nightly with the component `rust-src` | it is a nightly |
//! | 2 | Debian's `rustc-web`, `cargo-web`, `rust-web-src` (or `rustc`, `rust-src`) in /usr | `RUSTC_BOOTSTRAP=1` |
//!
//! Used by the build script of `strake-bpf-object`, and by xtask, which installs what [`Missing::commands`] names.
//! It knows nothing about the programs beyond the name of their binary.

#![forbid(unsafe_code)]

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

mod build;
mod missing;

pub use build::{BuildError, build};
pub use missing::{Missing, Step};

/// A complete toolchain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// cargo of the same release as `rustc`.
    pub cargo: PathBuf,
    /// The compiler.
    pub rustc: PathBuf,
    /// What `bpf-linker` to link with.
    pub linker: PathBuf,
    /// Whether `RUSTC_BOOTSTRAP=1` has to be set for `-Z build-std`.
    pub bootstrap: bool,
    /// Where it was found, for people.
    pub origin: String,
}

/// Where to look. [`Places::of_this_machine`] is the one to use; tests make their own.
#[derive(Clone, Debug)]
pub struct Places {
    /// Directories that hold rustup's toolchains (`~/.rustup/toolchains`).
    pub rustup_toolchains: Vec<PathBuf>,
    /// Prefixes of distribution toolchains (`/usr`).
    pub prefixes: Vec<PathBuf>,
    /// Directories searched for `bpf-linker`.
    pub bin_dirs: Vec<PathBuf>,
}

impl Places {
    /// From the environment: `RUSTUP_HOME`, `CARGO_HOME`, `HOME`, `PATH`.
    pub fn of_this_machine() -> Self {
        let home = env::var_os("HOME").map(PathBuf::from);
        let under_home = |name: &str| home.as_ref().map(|h| h.join(name));
        let rustup = env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(|| under_home(".rustup"));
        let cargo = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| under_home(".cargo"));
        let mut bin_dirs: Vec<PathBuf> = cargo.iter().map(|c| c.join("bin")).collect();
        if let Some(path) = env::var_os("PATH") {
            bin_dirs.extend(env::split_paths(&path));
        }
        Self {
            rustup_toolchains: rustup.iter().map(|r| r.join("toolchains")).collect(),
            prefixes: vec![PathBuf::from("/usr")],
            bin_dirs,
        }
    }

    /// The directories whose change may change the answer of [`find_in`].
    pub fn watched(&self) -> impl Iterator<Item = &Path> {
        self.rustup_toolchains.iter().map(PathBuf::as_path)
    }
}

/// [`find_in`] the places of this machine.
pub fn find() -> Result<Toolchain, Missing> {
    find_in(&Places::of_this_machine())
}

/// The first complete toolchain in `places`.
///
/// # Errors
/// [`Missing`] says which half is missing and how to get it.
pub fn find_in(places: &Places) -> Result<Toolchain, Missing> {
    let rust = nightly(places).or_else(|| distribution(places));
    let linker = places.bin_dirs.iter().map(|d| d.join("bpf-linker")).find(|p| p.is_file());
    match (rust, linker) {
        (Some(rust), Some(linker)) => Ok(Toolchain {
            cargo: rust.cargo,
            rustc: rust.rustc,
            linker,
            bootstrap: rust.bootstrap,
            origin: rust.origin,
        }),
        (rust, linker) => Err(Missing {
            rust: rust.is_none(),
            linker: linker.is_none(),
            llvm: rust.as_ref().and_then(|r| llvm_major(&r.rustc)),
            rustup: places.rustup_toolchains.iter().any(|d| d.is_dir()),
        }),
    }
}

struct Rust {
    cargo: PathBuf,
    rustc: PathBuf,
    bootstrap: bool,
    origin: String,
}

/// Directory below a sysroot where `-Z build-std` wants the sources.
const SOURCES: &str = "lib/rustlib/src/rust/library/core/Cargo.toml";

fn complete(prefix: &Path) -> Option<(PathBuf, PathBuf)> {
    let (cargo, rustc) = (prefix.join("bin/cargo"), prefix.join("bin/rustc"));
    (cargo.is_file() && rustc.is_file() && prefix.join(SOURCES).is_file()).then_some((cargo, rustc))
}

fn nightly(places: &Places) -> Option<Rust> {
    let mut found: Vec<PathBuf> = places
        .rustup_toolchains
        .iter()
        .filter_map(|dir| dir.read_dir().ok())
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("nightly")))
        .collect();
    // `nightly-<host>` sorts after `nightly-2026-01-01-<host>`: the moving one wins over dated ones.
    found.sort();
    found.into_iter().rev().find_map(|dir| {
        let (cargo, rustc) = complete(&dir)?;
        let origin = format!("rustup toolchain {}", dir.file_name()?.to_string_lossy());
        Some(Rust { cargo, rustc, bootstrap: false, origin })
    })
}

fn distribution(places: &Places) -> Option<Rust> {
    places.prefixes.iter().find_map(|prefix| {
        let (cargo, rustc) = complete(prefix)?;
        let origin = format!("the distribution's toolchain in {}", prefix.display());
        Some(Rust { cargo, rustc, bootstrap: true, origin })
    })
}

/// Major version of the LLVM a rustc was built with: `bpf-linker` must be built with the same or a newer one.
fn llvm_major(rustc: &Path) -> Option<u32> {
    let out = Command::new(rustc).arg("-vV").output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?;
    let version = text.lines().find_map(|l| l.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A directory that looks like an installation, as far as finding goes.
    fn install(prefix: &Path, sources: bool) {
        fs::create_dir_all(prefix.join("bin")).unwrap();
        fs::write(prefix.join("bin/cargo"), "").unwrap();
        fs::write(prefix.join("bin/rustc"), "").unwrap();
        if sources {
            let file = prefix.join(SOURCES);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "").unwrap();
        }
    }

    fn places(root: &Path) -> Places {
        Places {
            rustup_toolchains: vec![root.join("rustup")],
            prefixes: vec![root.join("usr")],
            bin_dirs: vec![root.join("bin")],
        }
    }

    fn room(name: &str) -> PathBuf {
        let dir = env::temp_dir().join(format!("strake-toolchain-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("bin")).unwrap();
        dir
    }

    #[test]
    fn nightly_without_sources_yields_to_the_distribution() {
        let root = room("yields");
        install(&root.join("rustup/nightly-x86_64-unknown-linux-gnu"), false);
        install(&root.join("usr"), true);
        fs::write(root.join("bin/bpf-linker"), "").unwrap();
        let found = find_in(&places(&root)).unwrap();
        assert!(found.bootstrap);
        assert_eq!(found.rustc, root.join("usr/bin/rustc"));
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn nightly_with_sources_comes_first() {
        let root = room("first");
        install(&root.join("rustup/nightly-2026-01-01-x86_64-unknown-linux-gnu"), true);
        install(&root.join("rustup/nightly-x86_64-unknown-linux-gnu"), true);
        install(&root.join("rustup/stable-x86_64-unknown-linux-gnu"), true);
        install(&root.join("usr"), true);
        fs::write(root.join("bin/bpf-linker"), "").unwrap();
        let found = find_in(&places(&root)).unwrap();
        assert!(!found.bootstrap);
        assert!(found.origin.ends_with("nightly-x86_64-unknown-linux-gnu"), "{}", found.origin);
        fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn missing_parts_are_named_with_their_remedy() {
        let root = room("missing");
        let missing = find_in(&places(&root)).unwrap_err();
        assert!(missing.rust && missing.linker);
        let text = missing.to_string();
        assert!(text.contains("cargo xtask setup") && text.contains("bpf-linker"), "{text}");
        assert!(missing.commands().iter().any(|s| s.command.contains("apt-get install")));

        install(&root.join("usr"), true);
        let missing = find_in(&places(&root)).unwrap_err();
        assert!(!missing.rust && missing.linker);
        assert!(missing.commands().iter().any(|s| s.command.contains("cargo install bpf-linker")));
        fs::remove_dir_all(root).unwrap();
    }
}
