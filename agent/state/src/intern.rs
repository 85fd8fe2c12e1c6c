//! Names kept once. A Service's is in its slices and in every map by name, a node's in each of its endpoints.
//!
//! May not know: what a name is of.

use std::collections::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

/// Names that nobody has any more are looked for when there are twice as many as after the last time, and not before
/// there are this many.
const FEW: usize = 4096;

#[derive(Default)]
struct Pool {
    names: HashSet<Arc<str>>,
    /// How many there were after the last time.
    kept: usize,
}

static POOL: LazyLock<Mutex<Pool>> = LazyLock::new(Mutex::default);

/// The one copy of a name.
pub(crate) fn intern(name: &str) -> Arc<str> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner).intern(name)
}

impl Pool {
    fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        if self.names.len() >= FEW.max(2 * self.kept) {
            self.names.retain(|name| Arc::strong_count(name) > 1);
            self.kept = self.names.len();
        }
        let new: Arc<str> = name.into();
        self.names.insert(new.clone());
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once_and_not_for_longer_than_somebody_has_it() {
        let mut pool = Pool::default();
        let first = pool.intern("node-1");
        assert!(Arc::ptr_eq(&first, &pool.intern("node-1")));
        for number in 0..10 * FEW {
            drop(pool.intern(&format!("pod-{number}")));
        }
        assert!(pool.names.len() <= FEW);
        assert!(Arc::ptr_eq(&first, &pool.intern("node-1")));
    }
}
