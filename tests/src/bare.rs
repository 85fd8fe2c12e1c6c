//! A BPF program that does nothing, as the reference for those that do something.
//!
//! Knows the kernel's calls only; nothing of ours.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper that takes a program as instructions")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_LINK_CREATE: libc::c_long = 28;

/// What a program is attached to.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// tc: returns `TC_ACT_OK`.
    Classifier,
    /// XDP: returns `XDP_TX`.
    Xdp,
    /// XDP: returns `XDP_PASS`.
    XdpPass,
}

impl Kind {
    /// The kernel's number of the program type, and what the program returns.
    fn numbers(self) -> (u32, u32) {
        match self {
            Self::Classifier => (3, 0),
            Self::Xdp => (6, 3),
            Self::XdpPass => (6, 2),
        }
    }
}

/// A program of two instructions: a constant, and the return of it.
#[derive(Debug)]
pub struct Bare(OwnedFd);

impl Bare {
    /// Loads it; needs root.
    pub fn load(kind: Kind) -> io::Result<Self> {
        #[repr(C)]
        struct Attr {
            kind: u32,
            count: u32,
            instructions: u64,
            license: u64,
            log_level: u32,
            log_size: u32,
            log: u64,
        }
        const MOV_R0: u64 = 0xb7;
        const EXIT: u64 = 0x95;
        let (kind, value) = kind.numbers();
        let program = [MOV_R0 | u64::from(value) << 32, EXIT];
        let license = c"GPL";
        let mut attr = Attr {
            kind,
            count: program.len() as u32,
            instructions: program.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log: 0,
        };
        let fd = bpf(BPF_PROG_LOAD, &mut attr)?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Runs it once on a frame, as `BPF_PROG_TEST_RUN` does; how long it took.
    pub fn run(&self, frame: &[u8]) -> io::Result<Duration> {
        self.repeat(frame, 1)
    }

    /// The same, several times; the duration is that of one run.
    pub fn repeat(&self, frame: &[u8], repeat: u32) -> io::Result<Duration> {
        #[repr(C)]
        struct Attr {
            program: u32,
            result: u32,
            size_in: u32,
            size_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
            context_in: u32,
            context_out: u32,
            context: [u64; 2],
        }
        let mut out = vec![0_u8; 4096];
        let mut attr = Attr {
            program: self.0.as_raw_fd() as u32,
            result: 0,
            size_in: frame.len() as u32,
            size_out: out.len() as u32,
            data_in: frame.as_ptr() as u64,
            data_out: out.as_mut_ptr() as u64,
            repeat,
            duration: 0,
            context_in: 0,
            context_out: 0,
            context: [0; 2],
        };
        bpf(BPF_PROG_TEST_RUN, &mut attr)?;
        Ok(Duration::from_nanos(attr.duration.into()))
    }

    /// Attaches it to an interface of the calling thread's namespace, in whatever mode of XDP the kernel likes, for as long
    /// as the answer is held.
    pub fn attach_xdp(&self, interface: &str) -> io::Result<OwnedFd> {
        const BPF_XDP: u32 = 37;
        let ifindex = nix::net::if_::if_nametoindex(interface)?;
        let mut attr = [self.0.as_raw_fd() as u32, ifindex, BPF_XDP, 0];
        let link = bpf(BPF_LINK_CREATE, &mut attr)?;
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(link) })
    }
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is a live, repr(C) value without padding whose size is passed along, and the pointers in it outlive
    // the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
