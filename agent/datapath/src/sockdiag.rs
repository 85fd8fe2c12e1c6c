//! Ends UDP sockets that are connected to a backend which is gone (`SOCK_DESTROY`, `CONFIG_INET_DIAG_DESTROY`).
//!
//! A connected UDP socket keeps sending to the address that connect() was given: no packet ever tells it that the
//! backend left. Destroying it makes a waiting call fail with ECONNABORTED and the next send with EDESTADDRREQ, so that
//! a resolver or a QUIC client opens another. Only sockets whose cookie a socket hook recorded are touched: one that dialled the Pod itself is not ours.
//!
//! Sockets are per network namespace: every namespace that a process of the node's cgroup subtree lives in is visited,
//! on a thread of its own (setns changes the thread).
//!
//! May not know: Services, maps.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const HEADER: usize = 16;
/// `struct inet_diag_req_v2`: family, protocol, ext, pad, states, then the socket id.
const REQUEST: usize = 8;
/// `struct inet_diag_sockid`: ports, addresses, interface, cookie.
const SOCKID: usize = 48;
const ESTABLISHED: u32 = 1 << 1;

/// Why sockets could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum SockDiagError {
    #[error("listing the processes under {path}")]
    Processes { path: PathBuf, source: io::Error },
    #[error("opening a sock_diag socket")]
    Open(#[source] nix::Error),
    #[error("asking sock_diag for {what}")]
    Ask { what: &'static str, source: nix::Error },
    #[error("sock_diag refused to {what}")]
    Refused { what: &'static str, source: io::Error },
    #[error("entering the network namespace of process {pid}")]
    Enter { pid: u32, source: nix::Error },
    #[error("the thread that visits network namespaces died")]
    Thread,
}

/// Destroys the connected UDP sockets whose cookie is in `cookies`, in every network namespace of the cgroup subtree;
/// `cookies` says which remote end each is expected to have, so that a cookie reused by the kernel is not hit.
/// Returns how many were destroyed. A namespace that goes away meanwhile is skipped.
pub fn destroy_udp(cgroup_root: &Path, cookies: HashMap<u64, SocketAddr>) -> Result<usize, SockDiagError> {
    if cookies.is_empty() {
        return Ok(0);
    }
    let namespaces = namespaces_of(cgroup_root)?;
    let visit = move || -> Result<usize, SockDiagError> {
        let mut destroyed = 0;
        for (pid, netns) in namespaces {
            setns(&netns, CloneFlags::CLONE_NEWNET).map_err(|source| SockDiagError::Enter { pid, source })?;
            for family in [libc::AF_INET, libc::AF_INET6] {
                destroyed += destroy_here(family as u8, &cookies)?;
            }
        }
        Ok(destroyed)
    };
    std::thread::Builder::new()
        .name("strake-sockdiag".into())
        .spawn(visit)
        .map_err(|_| SockDiagError::Thread)?
        .join()
        .map_err(|_| SockDiagError::Thread)?
}

/// One process and open namespace file for each distinct network namespace under `cgroup_root`.
fn namespaces_of(cgroup_root: &Path) -> Result<Vec<(u32, File)>, SockDiagError> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut folders = vec![cgroup_root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let gone = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV));
        let procs = match fs::read_to_string(folder.join("cgroup.procs")) {
            Ok(procs) => procs,
            Err(error) if folder != cgroup_root && gone(&error) => continue,
            // A threaded or domain-invalid cgroup answers EOPNOTSUPP: its processes are listed by its parent.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => String::new(),
            Err(source) => return Err(SockDiagError::Processes { path: folder, source }),
        };
        for pid in procs.lines().filter_map(|line| line.parse::<u32>().ok()) {
            let Ok(netns) = File::open(format!("/proc/{pid}/ns/net")) else { continue };
            if let Ok(meta) = netns.metadata()
                && seen.insert(meta.ino())
            {
                found.push((pid, netns));
            }
        }
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        folders.extend(entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()));
    }
    Ok(found)
}

fn destroy_here(family: u8, cookies: &HashMap<u64, SocketAddr>) -> Result<usize, SockDiagError> {
    let channel =
        socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)
            .map_err(SockDiagError::Open)?;
    bind(channel.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(SockDiagError::Open)?;
    let fd = channel.as_raw_fd();

    let ask = |what, source| SockDiagError::Ask { what, source };
    send(fd, &request(family, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, &[0; SOCKID]), MsgFlags::empty())
        .map_err(|source| ask("UDP sockets", source))?;
    let mut doomed: Vec<[u8; SOCKID]> = Vec::new();
    let mut buffer = vec![0_u8; 64 * 1024];
    'dump: loop {
        let received = recv(fd, &mut buffer, MsgFlags::empty()).map_err(|source| ask("UDP sockets", source))?;
        for (kind, body) in Messages(&buffer[..received]) {
            match kind {
                NLMSG_DONE => break 'dump,
                NLMSG_ERROR => return Err(refused("list UDP sockets", body)),
                _ => {
                    if let Some(id) = body.get(4..4 + SOCKID).and_then(|id| <[u8; SOCKID]>::try_from(id).ok())
                        && cookies.get(&cookie(&id)) == Some(&remote(family, &id))
                    {
                        doomed.push(id);
                    }
                }
            }
        }
    }

    let mut destroyed = 0;
    for id in doomed {
        send(fd, &request(family, SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, &id), MsgFlags::empty())
            .map_err(|source| ask("the end of a UDP socket", source))?;
        let received = recv(fd, &mut buffer, MsgFlags::empty()).map_err(|s| ask("the end of a UDP socket", s))?;
        for (kind, body) in Messages(&buffer[..received]) {
            match (kind, error_code(body)) {
                (NLMSG_ERROR, 0) => destroyed += 1,
                // Closed meanwhile.
                (NLMSG_ERROR, libc::ENOENT) => {}
                (NLMSG_ERROR, _) => return Err(refused("destroy a UDP socket", body)),
                _ => {}
            }
        }
    }
    Ok(destroyed)
}

fn request(family: u8, kind: u16, flags: u16, id: &[u8; SOCKID]) -> Vec<u8> {
    let length = HEADER + REQUEST + SOCKID;
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([family, libc::IPPROTO_UDP as u8, 0, 0]);
    message.extend(ESTABLISHED.to_ne_bytes());
    message.extend(id);
    message
}

fn cookie(id: &[u8; SOCKID]) -> u64 {
    let word = |at: usize| u64::from(u32::from_ne_bytes([id[at], id[at + 1], id[at + 2], id[at + 3]]));
    word(40) | word(44) << 32
}

/// The remote end; that of an IPv6 socket with an IPv4-mapped one is told as IPv4.
fn remote(family: u8, id: &[u8; SOCKID]) -> SocketAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&id[20..36]);
    let [a, b, c, d, ..] = octets;
    let ip = if family == libc::AF_INET as u8 { [a, b, c, d].into() } else { IpAddr::V6(Ipv6Addr::from(octets)) };
    SocketAddr::new(ip.to_canonical(), u16::from_be_bytes([id[2], id[3]]))
}

/// The positive errno of an NLMSG_ERROR body; 0 is an acknowledgement.
fn error_code(body: &[u8]) -> i32 {
    body.first_chunk::<4>().and_then(|code| i32::from_ne_bytes(*code).checked_neg()).unwrap_or(libc::EBADMSG)
}

fn refused(what: &'static str, body: &[u8]) -> SockDiagError {
    SockDiagError::Refused { what, source: io::Error::from_raw_os_error(error_code(body)) }
}

/// Netlink messages of one datagram: (type, body).
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = u32::from_ne_bytes(*self.0.first_chunk()?) as usize;
        if length < HEADER || length > self.0.len() {
            return None;
        }
        let kind = u16::from_ne_bytes([self.0[4], self.0[5]]);
        let body = &self.0[HEADER..length];
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    }
}

/// All that is read of a datagram, for any bytes.
pub(crate) fn read_any(bytes: &[u8]) {
    let mut seen = 0;
    for (kind, body) in Messages(bytes) {
        seen += HEADER + body.len();
        if kind == NLMSG_ERROR {
            let _ = error_code(body);
        }
        if let Some(id) = body.get(4..4 + SOCKID).and_then(|id| <[u8; SOCKID]>::try_from(id).ok()) {
            let _ = (cookie(&id), remote(libc::AF_INET as u8, &id), remote(libc::AF_INET6 as u8, &id));
        }
    }
    assert!(seen <= bytes.len(), "{seen} bytes were read of {}", bytes.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_id_is_read_as_the_kernel_lays_it_out() {
        let mut id = [0; SOCKID];
        id[2..4].copy_from_slice(&53_u16.to_be_bytes());
        id[20..24].copy_from_slice(&[10, 1, 2, 3]);
        id[40..44].copy_from_slice(&7_u32.to_ne_bytes());
        id[44..48].copy_from_slice(&1_u32.to_ne_bytes());
        assert_eq!(remote(libc::AF_INET as u8, &id), "10.1.2.3:53".parse().unwrap());
        assert_eq!(cookie(&id), 1 << 32 | 7);
        let six = libc::AF_INET6 as u8;
        id[20..36].copy_from_slice(&Ipv6Addr::from([0xfd00, 0, 0, 0, 0, 0, 0, 9]).octets());
        assert_eq!(remote(six, &id), "[fd00::9]:53".parse().unwrap());
        id[20..36].copy_from_slice(&std::net::Ipv4Addr::new(10, 1, 2, 3).to_ipv6_mapped().octets());
        assert_eq!(remote(six, &id), "10.1.2.3:53".parse().unwrap());
    }

    #[test]
    fn a_cut_off_datagram_yields_only_whole_messages() {
        let whole = request(libc::AF_INET as u8, SOCK_DESTROY, 0, &[0; SOCKID]);
        let mut two = whole.clone();
        two.extend(&whole[..20]);
        assert_eq!(Messages(&two).count(), 1);
    }
}
