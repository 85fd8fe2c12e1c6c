//! Compiles a crate of BPF programs with a [`Toolchain`].

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Toolchain;

/// The target triple of little-endian BPF.
const TARGET: &str = "bpfel-unknown-none";

/// Why the programs could not be compiled.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// cargo did not start.
    #[error("starting {cargo} to compile the eBPF programs: {source}")]
    Spawn {
        /// What was started.
        cargo: PathBuf,
        /// Why it did not.
        source: std::io::Error,
    },
    /// cargo said no; its own messages follow.
    #[error("compiling the eBPF programs in {dir} with {origin} failed:\n{stderr}")]
    Failed {
        /// The crate.
        dir: PathBuf,
        /// The toolchain.
        origin: String,
        /// cargo's messages.
        stderr: String,
    },
}

/// Compiles the crate in `dir` (a workspace of its own) and returns the path of the object of its binary `bin`.
///
/// `target_dir` is kept between builds and may be shared; cargo locks it.
///
/// # Errors
/// [`BuildError`], with everything that cargo and the linker said.
pub fn build(toolchain: &Toolchain, dir: &Path, target_dir: &Path, bin: &str) -> Result<PathBuf, BuildError> {
    let arch = std::env::consts::ARCH;
    let flags = [
        format!("-Clinker={}", toolchain.linker.display()),
        "-Clink-arg=--btf".to_owned(),
        // Told to expand memcpy in order, LLVM expands no memset at all: each becomes a call of a loop over bytes, which
        // doubles what the verifiers look at.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        // Blocks in the order they were written: a loop whose head is fallen into from its end is a "back-edge" to the
        // verifiers of Linux 5.10 to 6.1, which follow only jumps backwards.
        "-Clink-arg=--llvm-args=-disable-block-placement".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--cfg=bpf_target_arch=\"{arch}\""),
    ];
    let mut command = Command::new(&toolchain.cargo);
    command
        .current_dir(dir)
        .args(["build", "--locked", "--release", "--target", TARGET, "-Z", "build-std=core", "--bin", bin])
        .arg("--target-dir")
        .arg(target_dir)
        .stdin(Stdio::null());
    // A build script runs inside another cargo; nothing of that one may leak into this one.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let inherited = text.starts_with("CARGO") && text != "CARGO_HOME" && !text.starts_with("CARGO_HTTP");
        if inherited || text.starts_with("RUSTC") || text == "RUSTFLAGS" || text == "RUSTUP_TOOLCHAIN" {
            command.env_remove(name);
        }
    }
    command.env("RUSTC", &toolchain.rustc).env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    if toolchain.bootstrap {
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    let output = command.output().map_err(|source| BuildError::Spawn { cargo: toolchain.cargo.clone(), source })?;
    if !output.status.success() {
        return Err(BuildError::Failed {
            dir: dir.to_owned(),
            origin: toolchain.origin.clone(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    Ok(target_dir.join(TARGET).join("release").join(bin))
}
