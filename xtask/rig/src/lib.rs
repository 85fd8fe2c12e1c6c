//! Many nodes on one machine, each in a room of its own.
//!
//! ```text
//!  the host's shell                fabric (netns)                  node1 (netns, mount ns, cgroup NAME/node1)
//!  <link> 10.201.N.1/24 --veth--   bridge br0   --veth--  eth0 10.201.N.11/24   strake, containerd, Pods
//!                                               --veth--  node2 eth0 10.201.N.12/24 ...
//! ```
//! A node's eth0 has an IPv6 address too, fd5b:7261:201:N::11/64 written in hexadecimal; the host's link has none.
//!
//! A room has no default route: nothing in it can reach further than the bridge. The machine's own uplink, routes,
//! resolver, rules and root cgroup are not touched; what the host gets is one veth with one address.
//!
//! Everything is found again by the rig's name: the cgroup `NAME`, the link [`Spec::host_link`], and the state file in
//! the data dir. So [`down`] also cleans up after an [`Rig::up`] that was killed halfway, and ends no process that is
//! not in the rig's own cgroup.
//!
//! Knows Linux; nothing of Kubernetes or of what runs in the rooms.
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod process;
mod room;
mod run;
pub mod vm;

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use room::Room;
pub use run::run;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    #[error("`{command}` failed ({status}): {stderr}")]
    Command { command: String, status: std::process::ExitStatus, stderr: String },
    #[error("starting `{command}`: {source} (is the package that has it installed? `cargo xtask setup` sees to it)")]
    Spawn { command: String, source: io::Error },
    #[error("{path} is not a rig's state: {source}")]
    State { path: PathBuf, source: serde_json::Error },
    #[error("no cgroup2 file system is mounted; the socket hooks need one")]
    NoCgroup2,
    #[error("all of 10.201.0.0/16 to 10.204.0.0/16 overlaps with addresses this machine uses")]
    NoSubnet,
    #[error("the room of {0} ended as soon as it was made")]
    RoomEnded(String),
    #[error(
        "{0} holds files and no rig.json, so no rig was built there: it is left alone (is --data-dir right? remove it by hand if it is)"
    )]
    NotARig(PathBuf),
    #[error("processes {0:?} of cgroup {1} survived SIGKILL for 10 s")]
    Unkillable(Vec<i32>, String),
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// What rig to build.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// Names the cgroup; two rigs on one machine have two names. Letters, digits and dashes.
    pub name: String,
    pub data_dir: PathBuf,
    /// How many nodes, `node1` to `nodeN`.
    pub nodes: usize,
}

impl Spec {
    /// The link the host's shell reaches the nodes through: `strake0` for the default rig, at most 15 bytes.
    pub fn host_link(&self) -> String {
        host_link(&self.name)
    }
}

fn host_link(name: &str) -> String {
    if name == "strake" {
        return "strake0".into();
    }
    format!("sk{:08x}", hash(name))
}

/// Where a cluster keeps what it has, unless it is told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/strake";

/// The name of the rig that has a data dir: `strake` for the default one, so that two rigs never share a name.
pub fn name_of(data_dir: &Path) -> String {
    if data_dir == Path::new(DEFAULT_DATA_DIR) {
        return "strake".into();
    }
    format!("strake-{:08x}", hash(data_dir.as_os_str().as_encoded_bytes()))
}

/// FNV-1a.
fn hash(name: impl AsRef<[u8]>) -> u32 {
    name.as_ref().iter().fold(0x811c_9dc5, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

/// What is remembered between runs, in `<data dir>/rig.json`.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    spec: Spec,
    /// The second and third byte of the /24.
    subnet: (u8, u8),
    fabric: Option<process::Id>,
    rooms: Vec<(String, Option<process::Id>)>,
}

/// A rig that stands.
#[derive(Debug)]
pub struct Rig {
    pub spec: Spec,
    subnet: (u8, u8),
    rooms: Vec<Room>,
}

impl Rig {
    /// Builds the rig, or what is missing of it. Idempotent; a room that died is made anew.
    pub fn up(spec: Spec) -> Result<Self, Error> {
        fs::create_dir_all(&spec.data_dir).map_err(Error::io(format!("making {}", spec.data_dir.display())))?;
        let path = state_path(&spec.data_dir);
        let mut state =
            load(&path)?.unwrap_or(State { spec: spec.clone(), subnet: (0, 0), fabric: None, rooms: vec![] });
        state.spec = Spec { nodes: spec.nodes.max(state.rooms.len()), ..spec };
        if state.subnet == (0, 0) {
            state.subnet = free_subnet(&state.spec.name)?;
        }
        save(&path, &state)?;
        let name = state.spec.name.clone();
        let groups = cgroup::Hierarchies::detect()?;

        groups.make(&format!("{name}/fabric"))?;
        let (fabric, fabric_is_new) = match state.fabric.filter(process::Id::alive) {
            Some(id) => (id, false),
            None => {
                let id = room::hold(
                    &groups,
                    &format!("{name}/fabric"),
                    "fabric",
                    "ip link add br0 type bridge && ip link set br0 up && ip link set lo up",
                )?;
                state.fabric = Some(id);
                save(&path, &state)?;
                (id, true)
            }
        };
        let host = address(state.subnet, 1);
        room::join_host(fabric.pid, &state.spec.host_link(), host, fabric_is_new)?;

        for n in 1..=state.spec.nodes {
            let node = format!("node{n}");
            let group = format!("{name}/{node}/system");
            groups.make(&group)?;
            let known = state.rooms.iter().find(|(r, _)| *r == node).and_then(|(_, id)| *id).filter(process::Id::alive);
            let (holder, is_new) = match known {
                Some(id) => (id, fabric_is_new),
                None => {
                    let dir = state.spec.data_dir.join("nodes").join(&node);
                    fs::create_dir_all(dir.join("bpf")).map_err(Error::io(format!("making {}", dir.display())))?;
                    fs::write(dir.join("resolv.conf"), "# A room of the rig reaches no resolver outside.\n")
                        .map_err(Error::io(format!("writing {}/resolv.conf", dir.display())))?;
                    let id = room::hold(&groups, &group, &node, &room::mounts(&dir))?;
                    state.rooms.retain(|(r, _)| *r != node);
                    state.rooms.push((node.clone(), Some(id)));
                    save(&path, &state)?;
                    (id, true)
                }
            };
            // 11 and up: room below for the host and for things put on the bridge by hand.
            room::join_node(fabric.pid, holder.pid, &node, address(state.subnet, 10 + n as u8), is_new)?;
        }
        Self::from_state(&state, groups)
    }

    /// The rig whose data dir this is, if it was built.
    pub fn open(data_dir: &Path) -> Result<Option<Self>, Error> {
        let Some(state) = load(&state_path(data_dir))? else { return Ok(None) };
        Self::from_state(&state, cgroup::Hierarchies::detect()?).map(Some)
    }

    fn from_state(state: &State, groups: cgroup::Hierarchies) -> Result<Self, Error> {
        let mut rooms: Vec<Room> = state
            .rooms
            .iter()
            .filter_map(|(name, holder)| holder.map(|holder| (name, holder)))
            .map(|(name, holder)| {
                let n = name.trim_start_matches("node").parse().unwrap_or(0_u8);
                Room::new(&state.spec, &groups, name, holder, address(state.subnet, 10 + n))
            })
            .collect();
        rooms.sort_by_key(|room| room.ip);
        Ok(Self { spec: state.spec.clone(), subnet: state.subnet, rooms })
    }

    /// The nodes, node1 first.
    pub fn rooms(&self) -> &[Room] {
        &self.rooms
    }

    /// The host's own address on the bridge.
    pub fn host_address(&self) -> Ipv4Addr {
        address(self.subnet, 1)
    }
}

/// Takes down the rig `name`, in whatever state it is, and removes its data dir. Returns what was removed, a line each.
pub fn down(name: &str, data_dir: &Path) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    let groups = cgroup::Hierarchies::detect()?;
    let ended = groups.end_all(name)?;
    if ended > 0 {
        removed.push(format!("{ended} processes in cgroup {name}"));
    }
    let gone = groups.remove(name)?;
    if gone > 0 {
        removed.push(format!("{gone} cgroups below {name}"));
    }
    let link = host_link(name);
    if Path::new("/sys/class/net").join(&link).exists() {
        // It vanishes by itself when the fabric's namespace does, which may happen between the two lines.
        match run("ip", &["link", "delete", &link]) {
            Err(e) if Path::new("/sys/class/net").join(&link).exists() => return Err(e),
            _ => removed.push(format!("link {link}")),
        }
    }
    if data_dir.exists() {
        is_removable(data_dir)?;
        fs::remove_dir_all(data_dir).map_err(Error::io(format!("removing {}", data_dir.display())))?;
        removed.push(format!("{}", data_dir.display()));
    }
    Ok(removed)
}

/// Whether everything in the directory is a rig's: it has a rig's state, or nothing yet ([`Rig::up`] begins with both).
fn is_removable(data_dir: &Path) -> Result<(), Error> {
    if state_path(data_dir).exists() {
        return Ok(());
    }
    let partial = state_path(data_dir).with_extension("partial");
    let reading = || format!("reading {}", data_dir.display());
    for entry in fs::read_dir(data_dir).map_err(Error::io(reading()))? {
        if entry.map_err(Error::io(reading()))?.path() != partial {
            return Err(Error::NotARig(data_dir.into()));
        }
    }
    Ok(())
}

fn state_path(data_dir: &Path) -> PathBuf {
    data_dir.join("rig.json")
}

fn load(path: &Path) -> Result<Option<State>, Error> {
    match fs::read(path) {
        Ok(text) => {
            serde_json::from_slice(&text).map(Some).map_err(|source| Error::State { path: path.into(), source })
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { what: format!("reading {}", path.display()), source }),
    }
}

fn save(path: &Path, state: &State) -> Result<(), Error> {
    let partial = path.with_extension("partial");
    let text = serde_json::to_vec_pretty(state).map_err(|source| Error::State { path: path.into(), source })?;
    fs::write(&partial, text)
        .and_then(|()| fs::rename(&partial, path))
        .map_err(Error::io(format!("writing {}", path.display())))
}

fn address(subnet: (u8, u8), host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, subnet.0, subnet.1, host)
}

/// A /24 that no route of this machine covers.
fn free_subnet(name: &str) -> Result<(u8, u8), Error> {
    let used = used_networks(&fs::read_to_string("/proc/net/route").map_err(Error::io("reading /proc/net/route"))?);
    // Rigs made at the same moment should not meet: each begins where its name points.
    let start = hash(name) % 1024;
    (0..1024_u32)
        .map(|n| (start + n) % 1024)
        .map(|n| (201 + (n / 256) as u8, (n % 256) as u8))
        .find(|s| !used.iter().any(|(net, mask)| *mask != 0 && u32::from(address(*s, 0)) & mask == net & mask))
        .ok_or(Error::NoSubnet)
}

/// (network, mask) of each line of /proc/net/route, host byte order.
fn used_networks(table: &str) -> Vec<(u32, u32)> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let number = |n: usize| u32::from_str_radix(fields.get(n)?, 16).ok().map(u32::from_be);
            Some((number(1)?, number(7)?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_the_kernels_limit_and_differ() {
        assert_eq!(host_link("strake"), "strake0");
        assert!(host_link("strake-t-123456-cluster").len() < 16);
        assert_ne!(host_link("a"), host_link("b"));
    }

    #[test]
    fn the_routing_table_is_read_in_host_order() {
        let table =
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\nx\t0007C90A\t0\t1\t0\t0\t0\t00FFFFFF\n";
        assert_eq!(used_networks(table), [(0x0ac9_0700, 0xffff_ff00)]);
    }
}
