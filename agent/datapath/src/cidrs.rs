//! A prefix of each family.

use std::fmt;

use ipnetwork::{Ipv4Network, Ipv6Network};

/// A prefix of IPv4, one of IPv6, both, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cidrs {
    pub v4: Option<Ipv4Network>,
    pub v6: Option<Ipv6Network>,
}

impl fmt::Display for Cidrs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.v4, &self.v6) {
            (Some(v4), Some(v6)) => write!(f, "{v4},{v6}"),
            (Some(v4), None) => v4.fmt(f),
            (None, Some(v6)) => v6.fmt(f),
            (None, None) => f.write_str("none"),
        }
    }
}
