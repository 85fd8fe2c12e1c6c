//! Growing pauses between attempts, 10 s to 5 min as the stock kubelet has them. Pure: time is an argument.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// First pause.
pub const INITIAL: Duration = Duration::from_secs(10);
/// Longest pause.
pub const LONGEST: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Entry {
    pause: Duration,
    updated: Timestamp,
}

/// Pauses by key.
#[derive(Debug)]
pub struct Backoff {
    initial: Duration,
    longest: Duration,
    entries: HashMap<String, Entry>,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(INITIAL, LONGEST)
    }
}

fn since(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or(Duration::ZERO)
}

impl Backoff {
    /// Pauses from `initial`, doubling, to `longest`; forgotten when an event comes twice `longest` after the last.
    pub fn new(initial: Duration, longest: Duration) -> Self {
        Self { initial, longest, entries: HashMap::new() }
    }

    /// The pause still to wait for `key` after an event (an exit, a failed pull) at `event`; `None` when none is due.
    pub fn remaining(&self, key: &str, event: Timestamp, now: Timestamp) -> Option<Duration> {
        let entry = self.entries.get(key)?;
        if since(event, entry.updated) > self.longest * 2 {
            return None;
        }
        entry.pause.checked_sub(since(now, event)).filter(|d| !d.is_zero())
    }

    /// The whole pause in force for `key`.
    pub fn pause(&self, key: &str) -> Duration {
        self.entries.get(key).map_or(Duration::ZERO, |e| e.pause)
    }

    /// Notes another attempt after an event at `event`: the next pause is twice as long.
    pub fn next(&mut self, key: &str, event: Timestamp, now: Timestamp) {
        let pause = match self.entries.get(key) {
            Some(e) if since(event, e.updated) <= self.longest * 2 => (e.pause * 2).min(self.longest),
            _ => self.initial,
        };
        self.entries.insert(key.to_owned(), Entry { pause, updated: now });
    }

    /// Forgets a key.
    pub fn forget(&mut self, key: &str) {
        self.entries.remove(key);
    }
}

/// A pause as Go prints it: `10s`, `1m20s`, `5m0s`.
pub fn go_duration(d: Duration) -> String {
    let s = d.as_secs();
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + s).unwrap()
    }

    #[test]
    fn pauses_double_to_five_minutes_and_are_forgotten_after_ten() {
        let mut b = Backoff::default();
        assert_eq!(b.remaining("c", at(0), at(0)), None, "the first restart is at once");
        let mut now = 0;
        let mut seen = Vec::new();
        for _ in 0..7 {
            b.next("c", at(now), at(now));
            let left = b.remaining("c", at(now), at(now)).unwrap();
            seen.push(left.as_secs());
            assert_eq!(b.remaining("c", at(now), at(now + left.as_secs() as i64)), None);
            now += left.as_secs() as i64;
        }
        assert_eq!(seen, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(b.remaining("c", at(now + 1000), at(now + 1000)), None);
        b.next("c", at(now + 1000), at(now + 1000));
        assert_eq!(b.pause("c"), INITIAL);
    }

    #[test]
    fn durations_read_as_in_go() {
        assert_eq!(go_duration(Duration::from_secs(10)), "10s");
        assert_eq!(go_duration(Duration::from_secs(80)), "1m20s");
        assert_eq!(go_duration(Duration::from_secs(300)), "5m0s");
    }
}
