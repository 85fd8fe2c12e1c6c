//! Hash maps for what is made anew with every snapshot: a hash that is seeded, and several times as fast as the standard
//! library's.

pub type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
pub type HashSet<K> = std::collections::HashSet<K, foldhash::fast::RandomState>;
