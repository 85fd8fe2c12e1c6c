//! Addresses of one Pod CIDR of a node, one file an address, so that a crash at any instruction leaves either a lease
//! with an owner or none.
//!
//! A lease is created with `O_EXCL` and holds the container's id: two ADDs cannot take one address, and a repeated ADD
//! finds its own. The search starts after the address handed out last, so that a freed address rests as long as the
//! range allows and a peer that still talks to its old owner meets nobody.
//!
//! Knows files and numbers; nothing of links.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use crate::Error;

const LAST: &str = "last";

/// The address pool of a node in one family. `dir` holds one file for each leased address.
pub struct Pool {
    dir: PathBuf,
    cidr: IpNetwork,
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

impl Pool {
    /// Opens the pool, making its directory.
    pub fn open(dir: impl Into<PathBuf>, cidr: impl Into<IpNetwork>) -> Result<Self, Error> {
        let (dir, cidr) = (dir.into(), cidr.into());
        let narrowest = if cidr.is_ipv4() { 30 } else { 126 };
        if cidr.prefix() > narrowest {
            return Err(Error::CidrTooSmall { cidr, narrowest });
        }
        fs::create_dir_all(&dir).map_err(Error::io(format!("making the address pool {}", dir.display())))?;
        Ok(Self { dir, cidr })
    }

    /// First and last address for Pods: without the network's own, the first (kept for the node) and the last (IPv4's
    /// broadcast).
    fn range(&self) -> (u128, u128) {
        (number(self.cidr.network()) + 2, number(self.cidr.broadcast()) - 1)
    }

    fn address(&self, number: u128) -> IpAddr {
        match self.cidr {
            // Numbers of the range are below 2^32.
            IpNetwork::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            IpNetwork::V6(_) => Ipv6Addr::from(number).into(),
        }
    }

    /// Leases an address to `owner`, or returns the one it holds.
    pub fn lease(&self, owner: &str) -> Result<IpAddr, Error> {
        if let Some(held) = self.held(owner)? {
            return Ok(held);
        }
        let (first, last) = self.range();
        let capacity = last - first + 1;
        let previous = fs::read_to_string(self.dir.join(LAST)).ok().and_then(|s| s.trim().parse::<IpAddr>().ok());
        let start = previous.map(number).filter(|p| (first..last).contains(p)).map_or(first, |p| p + 1);
        for step in 0..capacity {
            let ip = self.address(first + (start - first + step) % capacity);
            let path = self.dir.join(ip.to_string());
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(mut file) => {
                    let written = file.write_all(owner.as_bytes()).and_then(|()| file.sync_all());
                    if let Err(source) = written {
                        // An empty lease would be nobody's for ever. The first error is the one to tell.
                        let _ = fs::remove_file(&path);
                        return Err(Error::Io { what: format!("writing the lease {}", path.display()), source });
                    }
                    // A hint only: losing it costs a shorter rest for an address.
                    let _ = fs::write(self.dir.join(LAST), ip.to_string());
                    return Ok(ip);
                }
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(source) => {
                    return Err(Error::Io { what: format!("making the lease {}", path.display()), source });
                }
            }
        }
        Err(Error::Exhausted { cidr: self.cidr, capacity })
    }

    /// Gives back what `owner` holds; returns it, or None where it holds nothing.
    pub fn release(&self, owner: &str) -> Result<Option<IpAddr>, Error> {
        let Some(ip) = self.held(owner)? else { return Ok(None) };
        let path = self.dir.join(ip.to_string());
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(Error::Io { what: format!("removing the lease {}", path.display()), source: e })
            }
            _ => Ok(Some(ip)),
        }
    }

    fn held(&self, owner: &str) -> Result<Option<IpAddr>, Error> {
        let what = || format!("reading the address pool {}", self.dir.display());
        for entry in fs::read_dir(&self.dir).map_err(Error::io(what()))? {
            let entry = entry.map_err(Error::io(what()))?;
            let Some(ip) = entry.file_name().to_str().and_then(|n| n.parse::<IpAddr>().ok()) else { continue };
            if fs::read_to_string(entry.path()).is_ok_and(|holder| holder == owner) {
                return Ok(Some(ip));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn pool(cidr: &str) -> (tempfile::TempDir, Pool) {
        let dir = tempfile::tempdir().unwrap();
        let pool = Pool::open(dir.path(), cidr.parse::<IpNetwork>().unwrap()).unwrap();
        (dir, pool)
    }

    #[test]
    fn no_address_is_leased_twice_and_a_full_pool_says_so() {
        let (_dir, pool) = pool("10.1.2.0/29");
        let leased: HashSet<_> = (0..5).map(|n| pool.lease(&format!("c{n}")).unwrap()).collect();
        assert_eq!(leased.len(), 5);
        let expected: HashSet<_> = (2..=6).map(|n| IpAddr::from([10, 1, 2, n])).collect();
        assert_eq!(leased, expected);
        let full = pool.lease("one too many").unwrap_err().to_string();
        assert_eq!(full, "all 5 addresses of the node's Pod CIDR 10.1.2.0/29 are taken");
    }

    #[test]
    fn an_ipv6_range_is_a_pool_like_any_other() {
        let (_dir, wide) = pool("fd00:10:244:1::/64");
        assert_eq!(wide.lease("a").unwrap().to_string(), "fd00:10:244:1::2");
        assert_eq!(wide.lease("b").unwrap().to_string(), "fd00:10:244:1::3");
        assert_eq!(wide.lease("a").unwrap().to_string(), "fd00:10:244:1::2", "a repeated ADD finds its own");
        assert_eq!(wide.release("a").unwrap().unwrap().to_string(), "fd00:10:244:1::2");
        assert_eq!(wide.lease("c").unwrap().to_string(), "fd00:10:244:1::4", "a freed one rests");
        let (dir, narrow) = pool("fd00::/126");
        narrow.lease("a").unwrap();
        assert!(narrow.lease("b").unwrap_err().to_string().contains("all 1 addresses"));
        let none = Pool::open(dir.path(), "fd00::/127".parse::<IpNetwork>().unwrap());
        assert!(none.is_err_and(|error| error.to_string().contains("smaller than a /126")));
    }

    #[test]
    fn a_repeated_add_finds_its_own_address() {
        let (_dir, pool) = pool("10.1.2.0/24");
        assert_eq!(pool.lease("a").unwrap(), pool.lease("a").unwrap());
    }

    #[test]
    fn a_freed_address_rests_before_it_is_used_again() {
        let (_dir, pool) = pool("10.1.2.0/24");
        let first = pool.lease("a").unwrap();
        assert_eq!(pool.release("a").unwrap(), Some(first));
        assert_ne!(pool.lease("b").unwrap(), first);
        assert_eq!(pool.release("a").unwrap(), None);
    }

    #[test]
    fn concurrent_leases_differ() {
        let (_dir, pool) = pool("10.1.2.0/24");
        let all: Vec<_> = std::thread::scope(|s| {
            let pool = &pool;
            let threads: Vec<_> = (0..16).map(|n| s.spawn(move || pool.lease(&format!("c{n}")).unwrap())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 16);
    }
}
