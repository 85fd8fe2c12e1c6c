//! The few kernel interfaces that have no safe wrapper: pidfd and a child in a session of its own.
//! Everything else in the crate goes through `nix` or `std`.
#![expect(unsafe_code, reason = "pidfd_open(2) and pre_exec have no safe wrapper in std or nix")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process that can be waited for, whoever its parent is (`pidfd_open(2)`, Linux 5.3).
pub struct PidFd(AsyncFd<OwnedFd>);

impl PidFd {
    /// Opens `pid`. ESRCH when it is gone already. Needs a tokio runtime.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor (close-on-exec), nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        readable(fd).map(Self)
    }

    /// Returns when the process has exited.
    pub async fn exited(&self) -> io::Result<()> {
        self.0.readable().await.map(|_| ())
    }

    /// Sends `signal` to exactly this process (`pidfd_send_signal(2)`).
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> io::Result<()> {
        // SAFETY: descriptor is open for as long as self; a null siginfo is allowed.
        let r = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.get_ref().as_raw_fd(),
                signal as i32,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if r < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Registers a descriptor with the runtime, for reading.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open and stays the same descriptor until it is dropped, which AsyncFd does last.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// Lets the child lead a session of its own, so that no terminal or process group takes it along.
pub fn own_session(command: &mut Command) -> &mut Command {
    // SAFETY: setsid is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        })
    }
}
