//! Naming a process so that a reused pid is never mistaken for it.

use std::fs;

use serde::{Deserialize, Serialize};

/// A process: its pid and the clock tick it started at (`/proc/PID/stat`, field 22).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Id {
    pub pid: i32,
    pub started: u64,
}

impl Id {
    /// The process that has `pid` now.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold spaces and parentheses: count fields from the last one.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace();
        let state = fields.next()?;
        if state == "Z" || state == "X" {
            return None;
        }
        Some(Self { pid, started: fields.nth(18)?.parse().ok()? })
    }

    pub fn alive(&self) -> bool {
        Self::of(self.pid) == Some(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_ended_is_not_alive_even_before_it_is_reaped() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let id = Id::of(child.id() as i32).unwrap();
        assert!(id.alive());
        assert!(!Id { started: id.started + 1, ..id }.alive());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!id.alive());
    }
}
