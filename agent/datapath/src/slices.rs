//! Which parts of the `BACKENDS` array are in use, and which may be.
//!
//! ```text
//!   free ──take──► in use ──retire──► retired ──(a grace period)──► free
//! ```
//!
//! A program may have read a Service's value just before it was swapped and index the old slice just after; so a slice
//! is reused only when every program that could have is surely done. May not know: what is in a slice, maps.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// Programs run without sleeping, so anything that read an old value is done in microseconds; a virtual CPU that was
/// taken away in between may need longer.
pub const GRACE: Duration = Duration::from_secs(2);

/// A run of slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Extent {
    pub base: u32,
    /// At least 1.
    pub count: u32,
}

/// There is no run of free slots that is long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no {needed} adjacent free slots in BACKENDS: the longest run is {longest}, {free} are free in all, {retired} wait for their grace period"
)]
pub struct NoRoom {
    pub needed: u32,
    pub longest: u32,
    pub free: u32,
    pub retired: u32,
}

/// The allocator.
#[derive(Clone, Debug)]
pub struct Slices {
    /// By base; neighbours are always merged.
    free: BTreeMap<u32, u32>,
    retired: VecDeque<(Instant, Extent)>,
    size: u32,
}

impl Slices {
    /// An array of `size` slots of which `used` extents are taken (they may repeat and overlap).
    pub fn new(size: u32, used: impl IntoIterator<Item = Extent>) -> Self {
        let mut used: Vec<Extent> = used.into_iter().filter(|extent| extent.count > 0).collect();
        used.sort();
        let mut free = BTreeMap::new();
        let mut at = 0;
        for Extent { base, count } in used {
            if base > at {
                free.insert(at, base - at);
            }
            at = at.max(base.saturating_add(count));
        }
        if at < size {
            free.insert(at, size - at);
        }
        Self { free, retired: VecDeque::new(), size }
    }

    /// Takes `count` adjacent slots: the smallest run that holds them.
    pub fn take(&mut self, count: u32) -> Result<u32, NoRoom> {
        let fitting = self.free.iter().filter(|(_, length)| **length >= count);
        let Some((&base, &length)) = fitting.min_by_key(|(_, length)| **length) else {
            return Err(NoRoom {
                needed: count,
                longest: self.free.values().copied().max().unwrap_or(0),
                free: self.free.values().sum(),
                retired: self.retired.iter().map(|(_, extent)| extent.count).sum(),
            });
        };
        self.free.remove(&base);
        if length > count {
            self.free.insert(base + count, length - count);
        }
        Ok(base)
    }

    /// No Service points at the extent any more.
    pub fn retire(&mut self, extent: Extent, now: Instant) {
        self.retired.push_back((now, extent));
    }

    /// Gives back what was taken and never pointed at.
    pub fn give_back(&mut self, extent: Extent) {
        let Extent { mut base, mut count } = extent;
        if let Some((&before, &length)) = self.free.range(..base).next_back()
            && before + length == base
        {
            self.free.remove(&before);
            (base, count) = (before, count + length);
        }
        if let Some(length) = self.free.remove(&(base + count)) {
            count += length;
        }
        self.free.insert(base, count);
    }

    /// Frees what was retired a grace period ago.
    pub fn reclaim(&mut self, now: Instant) {
        while let Some((since, extent)) = self.retired.front().copied() {
            if now.saturating_duration_since(since) < GRACE {
                break;
            }
            self.retired.pop_front();
            self.give_back(extent);
        }
    }

    /// Frees all that is retired: the caller has waited for every running program.
    pub fn reclaim_all(&mut self) {
        while let Some((_, extent)) = self.retired.pop_front() {
            self.give_back(extent);
        }
    }

    /// Slots in use or retired.
    pub fn used(&self) -> u32 {
        self.size - self.free.values().sum::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_retired_slice_is_not_reused_before_its_grace_period() {
        let mut slices = Slices::new(4, []);
        let now = Instant::now();
        let base = slices.take(4).unwrap();
        slices.retire(Extent { base, count: 4 }, now);
        slices.reclaim(now + GRACE / 2);
        assert_eq!(slices.take(1).unwrap_err().retired, 4);
        slices.reclaim(now + GRACE);
        assert_eq!(slices.take(4), Ok(0));
    }

    #[test]
    fn overlapping_extents_after_a_crash_are_all_kept() {
        let used = [(2, 3), (3, 4), (2, 3)].map(|(base, count)| Extent { base, count });
        let mut slices = Slices::new(10, used);
        assert_eq!(slices.used(), 5);
        assert_eq!(slices.take(2), Ok(0));
        assert_eq!(slices.take(3), Ok(7));
        assert!(slices.take(1).is_err());
    }

    proptest! {
        #[test]
        fn slots_are_never_shared_and_never_lost(ops in prop::collection::vec((1_u32..9, any::<bool>()), 0..80)) {
            let mut slices = Slices::new(64, []);
            let mut held: Vec<Extent> = Vec::new();
            for (count, give_back) in ops {
                if give_back && !held.is_empty() {
                    let extent = held.swap_remove(count as usize % held.len());
                    slices.give_back(extent);
                } else if let Ok(base) = slices.take(count) {
                    let fresh = Extent { base, count };
                    prop_assert!(base + count <= 64);
                    let apart = |e: &Extent| e.base + e.count <= fresh.base || fresh.base + fresh.count <= e.base;
                    prop_assert!(held.iter().all(apart));
                    held.push(fresh);
                }
                prop_assert_eq!(slices.used(), held.iter().map(|e| e.count).sum::<u32>());
            }
        }
    }
}
