//! What is missing, why it is needed, and the commands that bring it.

use std::fmt;

/// Which half of the toolchain was not found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Missing {
    /// No rustc with library sources that may build `core` for the BPF target.
    pub rust: bool,
    /// No `bpf-linker`.
    pub linker: bool,
    /// Major LLVM version of the rustc that was found, if one was.
    pub llvm: Option<u32>,
    /// Whether rustup is on this machine, so that a nightly is the shorter way.
    pub rustup: bool,
}

/// One command, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// For a POSIX shell; needs root if it starts with `apt-get`.
    pub command: String,
    /// What it brings.
    pub why: &'static str,
}

/// Version that the programs are linked with in development.
pub(crate) const LINKER_VERSION: &str = "0.13.0";
/// LLVM of Debian's `rustc-web` at the time of writing; the rustc that is found, if any, has the last word.
const DEFAULT_LLVM: u32 = 22;

impl Missing {
    /// Commands for a Debian-like system, in order. On a machine with rustup and the network,
    /// [`Missing::rustup_commands`] is the alternative.
    pub fn commands(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.rust {
            steps.push(Step {
                command: "apt-get install -y --no-install-recommends rustc-web cargo-web rust-web-src".to_owned(),
                why: "a rustc with its library sources, to build `core` for the BPF target",
            });
        }
        if self.linker {
            let llvm = self.llvm.unwrap_or(DEFAULT_LLVM);
            steps.push(Step {
                command: format!(
                    "apt-get install -y --no-install-recommends llvm-{llvm}-dev libpolly-{llvm}-dev zlib1g-dev libzstd-dev"
                ),
                why: "the LLVM that bpf-linker is linked with (the same major version as rustc's)",
            });
            steps.push(Step {
                command: format!(
                    "LLVM_PREFIX=/usr/lib/llvm-{llvm} cargo install bpf-linker --version {LINKER_VERSION} \
                     --no-default-features --features llvm-{llvm}"
                ),
                why: "the linker that turns LLVM bitcode into one BPF object with BTF",
            });
        }
        steps
    }

    /// Commands for a machine with rustup.
    pub fn rustup_commands(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.rust {
            steps.push(Step {
                command: "rustup toolchain install nightly --profile minimal --component rust-src".to_owned(),
                why: "a rustc with its library sources, to build `core` for the BPF target",
            });
        }
        if self.linker {
            steps.push(Step {
                command: format!("cargo install bpf-linker --version {LINKER_VERSION}"),
                why: "the linker that turns LLVM bitcode into one BPF object with BTF",
            });
        }
        steps
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.rust, self.linker) {
            (true, true) => "a rustc with library sources, and bpf-linker, are",
            (true, false) => {
                "a rustc with library sources (rustup nightly with rust-src, or rustc-web and rust-web-src) is"
            }
            _ => "bpf-linker is",
        };
        writeln!(f, "the eBPF programs cannot be compiled: {what} missing.")?;
        writeln!(f, "Run `cargo xtask setup`, or by hand:")?;
        for step in self.commands() {
            writeln!(f, "  {}    # {}", step.command, step.why)?;
        }
        if self.rustup {
            writeln!(f, "or, with rustup:")?;
            for step in self.rustup_commands() {
                writeln!(f, "  {}", step.command)?;
            }
        }
        Ok(())
    }
}
