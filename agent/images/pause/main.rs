//! The sandbox container's process: holds the Pod's namespaces open and, where the Pod shares one PID
//! namespace, reaps the orphans that end up below it. No libc, no allocator: three system calls in a loop.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

#[cfg(target_arch = "x86_64")]
mod nr {
    pub const SIGPROCMASK: usize = 14;
    pub const SIGTIMEDWAIT: usize = 128;
    pub const WAIT4: usize = 61;
    pub const EXIT: usize = 231;
}
#[cfg(target_arch = "aarch64")]
mod nr {
    pub const SIGPROCMASK: usize = 135;
    pub const SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
    pub const EXIT: usize = 94;
}

const SIGINT: usize = 2;
const SIGTERM: usize = 15;
const SIGCHLD: usize = 17;
const WNOHANG: usize = 1;

#[cfg(target_arch = "x86_64")]
fn syscall(nr: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let ret: isize;
    // SAFETY: the four calls made below only read or write the memory whose address they are given, which
    // outlives the call; rcx and r11 are declared clobbered as the ABI says.
    unsafe {
        asm!("syscall", inlateout("rax") nr as isize => ret, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
             lateout("rcx") _, lateout("r11") _);
    }
    ret
}
#[cfg(target_arch = "aarch64")]
fn syscall(nr: usize, a: usize, b: usize, c: usize, d: usize) -> isize {
    let ret: isize;
    // SAFETY: as above.
    unsafe { asm!("svc 0", in("x8") nr, inlateout("x0") a as isize => ret, in("x1") b, in("x2") c, in("x3") d) };
    ret
}

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "and rsp, -16", "call {main}", main = sym run);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "bl {main}", main = sym run);

extern "C" fn run() -> ! {
    let set: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
    let set_at = &raw const set as usize;
    syscall(nr::SIGPROCMASK, 0, set_at, 0, 8);
    loop {
        let signal = syscall(nr::SIGTIMEDWAIT, set_at, 0, 0, 8);
        if signal == SIGCHLD as isize {
            while syscall(nr::WAIT4, usize::MAX, 0, WNOHANG, 0) > 0 {}
        } else if signal > 0 {
            syscall(nr::EXIT, 0, 0, 0, 0);
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    syscall(nr::EXIT, 1, 0, 0, 0);
    loop {}
}
