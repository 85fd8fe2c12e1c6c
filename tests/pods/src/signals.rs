//! Ending well as PID 1, for which the kernel has no default action on SIGTERM.
#![expect(unsafe_code, reason = "signal masks have no safe interface in std")]

use std::time::Duration;

fn term_set() -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the zeroed set before it is used; SIGTERM and SIGINT are valid numbers.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::sigaddset(&raw mut set, libc::SIGINT);
        set
    }
}

fn block() -> libc::sigset_t {
    let set = term_set();
    // SAFETY: `set` is initialised; the old mask is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    set
}

/// Blocks until SIGTERM or SIGINT arrives.
pub fn wait_for_term() {
    let set = block();
    let mut signal = 0;
    // SAFETY: both pointers are valid for the call.
    unsafe { libc::sigwait(&raw const set, &raw mut signal) };
}

/// On SIGTERM, goes on for `drain` seconds and then leaves with 0. Call it before any other thread starts.
pub fn exit_on_term(drain: u64) {
    block();
    std::thread::spawn(move || {
        wait_for_term();
        std::thread::sleep(Duration::from_secs(drain));
        std::process::exit(0);
    });
}
