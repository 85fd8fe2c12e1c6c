//! A virtual machine with another kernel: an initramfs made here, a script run in it, its exit status.
//!
//! ```text
//!   QEMU (tcg, no KVM needed)     ttyS0: the kernel ──► console.log
//!   kernel + initramfs            ttyS1: what the script prints ──► lines ──► the caller; last line: exit status
//! ```
//!
//! The guest has no network and no disk: what is not in the initramfs is not there. Knows Linux and QEMU; nothing of
//! what runs in the guest.

mod cpio;
mod guest;
mod kernel;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub use guest::{Guest, Outcome};
pub use kernel::{Kernel, Module};

/// The program that boots a guest.
pub const QEMU: &str = "qemu-system-x86_64";

/// Why a guest could not be made or did not say how it ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error(transparent)]
    Command(#[from] crate::Error),
    #[error("{path} holds no kernel (vmlinuz and modules/RELEASE); `cargo xtask vm` fetches some")]
    NoKernel { path: PathBuf },
    #[error("kernel {release} has no module {name}, neither as a file nor built in")]
    NoModule { release: String, name: String },
    #[error("module {path} is packed in a way that this does not know; known are .ko, .ko.xz and .ko.zst")]
    Packed { path: PathBuf },
    #[error("{program} needs the library {library}, which this machine does not have")]
    NoLibrary { program: PathBuf, library: String },
    #[error("the guest with kernel {release} was not done after {limit:?}; its last words:\n{tail}")]
    TooLong { release: String, limit: Duration, tail: String },
    #[error("the guest with kernel {release} ended without an exit status; its last words:\n{tail}")]
    Died { release: String, tail: String },
}

impl Error {
    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
