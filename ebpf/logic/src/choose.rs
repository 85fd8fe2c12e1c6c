//! Choosing: a backend of a slice, a source port of a range, the validity of what was chosen before.

use strake_abi::Port;

/// An index below `count`, uniform as far as `random` is (multiply and shift, no division: Lemire 2019).
/// 0 if `count` is 0; callers have answered that case before.
#[inline(always)]
pub const fn index(random: u32, count: u32) -> u32 {
    ((random as u64 * count as u64) >> 32) as u32
}

/// A port of the inclusive range, both in host order. A range that is upside down gives its `min`.
#[inline(always)]
pub const fn port(random: u32, min: u16, max: u16) -> Port {
    let span = if max >= min { (max - min) as u32 + 1 } else { 1 };
    Port::new(min.wrapping_add(index(random, span) as u16))
}

/// Whether something last used at `last_s` is still valid at `now_s`. Clocks of two CPUs may differ by a moment, so
/// a time in the near future counts as now.
#[inline(always)]
pub const fn is_fresh(now_s: u32, last_s: u32, timeout_s: u32) -> bool {
    now_s.saturating_sub(last_s) < timeout_s
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn index_is_within_the_slice(random in any::<u32>(), count in 1u32..) {
            prop_assert!(index(random, count) < count);
        }

        #[test]
        fn port_is_within_the_range(random in any::<u32>(), a in any::<u16>(), b in any::<u16>()) {
            let (min, max) = (a.min(b), a.max(b));
            prop_assert!((min..=max).contains(&port(random, min, max).get()));
        }
    }

    #[test]
    fn every_backend_is_reached() {
        for count in 1..=64u32 {
            let step = u32::MAX / 4096;
            let mut seen = [0u32; 64];
            for i in 0..4096u32 {
                seen[index(i * step, count) as usize] += 1;
            }
            let (least, most) = (seen[..count as usize].iter().min().unwrap(), seen.iter().max().unwrap());
            assert!(most - least <= 2, "{count} backends: {least} to {most} of 4096");
        }
    }

    #[test]
    fn affinity_ends_with_its_timeout() {
        assert!(is_fresh(100, 90, 11));
        assert!(!is_fresh(100, 90, 10));
        assert!(is_fresh(100, 101, 1));
        assert!(!is_fresh(100, 100, 0));
    }
}
