//! Pods of this node: the rows that say who a veth and a socket belong to, written before a program looks them up.
//!
//! May not know: Services, how the veth was made.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use strake_abi::addr::{Addr4, Addr6};
use strake_abi::endpoint::{ENDPOINT_NO_SOCKET, Endpoint, PodNetns};
use strake_state::{ObjectName, Sandboxes, World};

use crate::features::own_netns_cookie;
use crate::maps::{KernelMaps, MapsError};

/// A Pod's interface, as the CNI plugin made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    pub pod: ObjectName,
    /// The Pod's address.
    pub ip: Ipv4Addr,
    /// Its IPv6 address, if it has one.
    pub ip6: Option<Ipv6Addr>,
    /// Host side of the veth, in the agent's network namespace.
    pub interface: String,
    pub ifindex: u32,
    /// Hardware address of the Pod side.
    pub mac: [u8; 6],
    /// Hardware address of the host side.
    pub host_mac: [u8; 6],
    /// Path of the Pod's network namespace.
    pub netns: PathBuf,
}

/// Why an endpoint cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("entering network namespace {path} of Pod {pod}")]
    Netns { path: PathBuf, pod: ObjectName, source: io::Error },
    #[error(transparent)]
    Maps(#[from] MapsError),
    #[error("interface {interface} of Pod {pod} has index {found} here, not {said}")]
    Interface { interface: String, pod: ObjectName, said: u32, found: String },
}

/// What is remembered of an endpoint.
#[derive(Clone, Debug)]
pub struct Known {
    pub spec: EndpointSpec,
    pub cookie: u64,
    pub id: u32,
    pub no_socket: bool,
}

/// Endpoints by interface name.
#[derive(Default)]
pub struct Endpoints {
    known: HashMap<String, Known>,
    next_id: u32,
}

/// The cookie of a network namespace given by path, found by a thread that goes there.
fn netns_cookie(path: &Path) -> io::Result<u64> {
    let netns = std::fs::File::open(path)?;
    let visit = move || -> io::Result<u64> {
        setns(&netns, CloneFlags::CLONE_NEWNET)?;
        own_netns_cookie()
    };
    std::thread::Builder::new()
        .name("strake-netns".into())
        .spawn(visit)?
        .join()
        .map_err(|_| io::Error::other("the thread that enters the namespace died"))?
}

impl Endpoints {
    /// Finds out what the maps need to know. `cookies` says whether the kernel has namespace cookies.
    pub fn learn(
        &mut self,
        spec: EndpointSpec,
        cookies: bool,
        world: &World,
        sandboxes: &Sandboxes,
        maps: &KernelMaps,
    ) -> Result<Known, EndpointError> {
        let found = nix::net::if_::if_nametoindex(spec.interface.as_str());
        if found != Ok(spec.ifindex) {
            return Err(EndpointError::Interface {
                interface: spec.interface,
                pod: spec.pod,
                said: spec.ifindex,
                found: found.map_or_else(|error| error.to_string(), |index| index.to_string()),
            });
        }
        let cookie = if cookies {
            netns_cookie(&spec.netns).map_err(|source| EndpointError::Netns {
                path: spec.netns.clone(),
                pod: spec.pod.clone(),
                source,
            })?
        } else {
            0
        };
        let id = match self.known.get(&spec.interface) {
            Some(known) => known.id,
            None => {
                self.next_id += 1;
                self.next_id
            }
        };
        // Before the first snapshot after a restart, what was decided for this Pod stays decided.
        let no_socket = match maps.endpoints.get(&spec.ifindex)? {
            Some(row) if !world.synced && row.ip == spec.ip.into() => row.flags & ENDPOINT_NO_SOCKET != 0,
            _ => world.socket_opt_out(&spec.pod, sandboxes).is_some(),
        };
        Ok(Known { spec, cookie, id, no_socket })
    }

    /// Writes the rows and remembers the endpoint.
    pub fn write(&mut self, known: Known, maps: &mut KernelMaps) -> Result<(), MapsError> {
        let Known { spec, cookie, id, no_socket } = &known;
        let ip = Addr4::from(spec.ip);
        // The same veth name may have had another index, Pod or namespace before.
        if let Some(old) = self.known.get(&spec.interface).cloned()
            && (old.spec != *spec || old.cookie != *cookie)
        {
            self.remove(&old.spec.interface, maps)?;
        }
        let flags = if *no_socket { ENDPOINT_NO_SOCKET } else { 0 };
        let ip6 = spec.ip6.map_or(Addr6::ANY, Addr6::from);
        let row = Endpoint {
            ip,
            mac: spec.mac,
            host_mac: spec.host_mac,
            flags,
            reserved: 0,
            id: *id,
            netns_cookie: *cookie,
            ip6,
        };
        maps.endpoints.put(&[(spec.ifindex, row)])?;
        maps.endpoints_by_ip.put(&[(ip, spec.ifindex)])?;
        if ip6 != Addr6::ANY {
            maps.endpoints_ip_v6.put(&[(ip6, spec.ifindex)])?;
        }
        if *cookie != 0 {
            maps.pods_by_netns.put(&[(*cookie, PodNetns { ip, id: *id, flags: u32::from(flags) })])?;
        }
        self.known.insert(spec.interface.clone(), known);
        Ok(())
    }

    /// Deletes the rows of an endpoint. Returns what was known; an unknown one is no error.
    pub fn remove(&mut self, interface: &str, maps: &mut KernelMaps) -> Result<Option<Known>, MapsError> {
        let Some(known) = self.known.get(interface).cloned() else { return Ok(None) };
        let ip6 = known.spec.ip6.map_or(Addr6::ANY, Addr6::from);
        forget_rows(known.spec.ifindex, known.spec.ip.into(), ip6, known.cookie, maps)?;
        self.known.remove(interface);
        Ok(Some(known))
    }

    /// Deletes rows of interfaces that are not among the known ones: Pods that went while no agent ran.
    pub fn prune(&mut self, maps: &mut KernelMaps) -> Result<usize, MapsError> {
        let live: Vec<u32> = self.known.values().map(|known| known.spec.ifindex).collect();
        let rows = maps.endpoints.all()?;
        let stale: Vec<_> = rows.into_iter().filter(|(ifindex, _)| !live.contains(ifindex)).collect();
        for (ifindex, row) in &stale {
            forget_rows(*ifindex, row.ip, row.ip6, row.netns_cookie, maps)?;
        }
        Ok(stale.len())
    }

    /// Follows the opt-outs: annotations, and runtimes.
    pub fn follow(&mut self, world: &World, sandboxes: &Sandboxes, maps: &mut KernelMaps) -> Result<(), MapsError> {
        let changed: Vec<Known> = self
            .known
            .values()
            .filter(|known| world.socket_opt_out(&known.spec.pod, sandboxes).is_some() != known.no_socket)
            .map(|known| Known { no_socket: !known.no_socket, ..known.clone() })
            .collect();
        changed.into_iter().try_for_each(|known| self.write(known, maps))
    }

    /// Every endpoint, ordered by Pod.
    pub fn list(&self) -> Vec<&Known> {
        let mut list: Vec<_> = self.known.values().collect();
        list.sort_by_key(|known| &known.spec.pod);
        list
    }
}

fn forget_rows(ifindex: u32, ip: Addr4, ip6: Addr6, cookie: u64, maps: &mut KernelMaps) -> Result<(), MapsError> {
    // The address may belong to another Pod's veth by now.
    if maps.endpoints_by_ip.get(&ip)? == Some(ifindex) {
        maps.endpoints_by_ip.remove(&[ip])?;
    }
    if ip6 != Addr6::ANY && maps.endpoints_ip_v6.get(&ip6)? == Some(ifindex) {
        maps.endpoints_ip_v6.remove(&[ip6])?;
    }
    if cookie != 0 && maps.pods_by_netns.get(&cookie)?.is_some_and(|row| row.ip == ip) {
        maps.pods_by_netns.remove(&[cookie])?;
    }
    maps.endpoints.remove(&[ifindex])
}
