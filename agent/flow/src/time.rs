//! Clocks: events carry CLOCK_MONOTONIC (`bpf_ktime_get_ns`), people want the time of day.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since the epoch, now.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// What to add to a CLOCK_MONOTONIC time in nanoseconds to get nanoseconds since the epoch. Changes when the time of
/// day is set, so it is taken anew for every batch.
pub fn monotonic_offset() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |monotonic| {
        let monotonic = monotonic.tv_sec() as u64 * 1_000_000_000 + monotonic.tv_nsec() as u64;
        now().saturating_sub(monotonic)
    })
}
