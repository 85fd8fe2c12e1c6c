//! Whether this kernel can attach classifiers by clsact: tried in a network namespace of its own, which is gone at once.
//!
//! The modules `sch_ingress` and `cls_bpf` bring it; a kernel loads them by itself when they are asked for, if it finds
//! them. So nothing but asking tells. May not know: programs and maps of ours.

use std::io;
use std::os::fd::AsRawFd;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

const RTM_NEWQDISC: u16 = 36;
const RTM_NEWTFILTER: u16 = 44;
const NLMSG_ERROR: u16 = 2;
/// NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE.
const NEW: u16 = 1 | 4 | 0x200 | 0x400;
const TCA_KIND: u16 = 1;
const TC_H_CLSACT: u32 = 0xffff_fff1;
/// clsact's ingress side.
const INGRESS: u32 = 0xffff_fff2;
/// clsact's own handle.
const HANDLE: u32 = 0xffff_0000;
/// Priority 1, ETH_P_ALL.
const FILTER_INFO: u32 = 1 << 16 | 0x0003_u16.to_be() as u32;
const LOOPBACK: i32 = 1;

/// What there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clsact {
    Complete,
    /// No clsact qdisc.
    NoQdisc,
    /// The qdisc, and no BPF classifier for it.
    NoClassifier,
}

/// Asks the kernel.
pub fn probe() -> io::Result<Clsact> {
    let asked = std::thread::Builder::new().name("strake-clsact".into()).spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        ask()
    })?;
    asked.join().map_err(|_| io::Error::other("the thread that asked for clsact died"))?
}

fn ask() -> io::Result<Clsact> {
    let channel =
        socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    bind(channel.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let exchange = |message: &[u8]| -> io::Result<i32> {
        send(channel.as_raw_fd(), message, MsgFlags::empty())?;
        let mut buffer = [0; 4096];
        let length = recv(channel.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        acknowledged(&buffer[..length])
    };
    match exchange(&request(RTM_NEWQDISC, HANDLE, TC_H_CLSACT, 0, "clsact"))? {
        0 | libc::EEXIST => {}
        libc::ENOENT => return Ok(Clsact::NoQdisc),
        error => return Err(io::Error::from_raw_os_error(error)),
    }
    // It names no program, so a kernel that knows the kind refuses it for that.
    match exchange(&request(RTM_NEWTFILTER, 0, INGRESS, FILTER_INFO, "bpf"))? {
        libc::ENOENT => Ok(Clsact::NoClassifier),
        0 | libc::EINVAL => Ok(Clsact::Complete),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// A `struct tcmsg` with nothing but a kind.
fn request(message: u16, handle: u32, parent: u32, info: u32, kind: &str) -> Vec<u8> {
    let attribute = 4 + kind.len() + 1;
    let mut bytes = Vec::new();
    bytes.extend((16 + 20 + attribute.next_multiple_of(4) as u32).to_ne_bytes());
    bytes.extend(message.to_ne_bytes());
    bytes.extend(NEW.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([0; 4]);
    bytes.extend(LOOPBACK.to_ne_bytes());
    for word in [handle, parent, info] {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend((attribute as u16).to_ne_bytes());
    bytes.extend(TCA_KIND.to_ne_bytes());
    bytes.extend(kind.as_bytes());
    bytes.resize(16 + 20 + attribute.next_multiple_of(4), 0);
    bytes
}

/// The positive errno of an acknowledgement; 0 is success.
fn acknowledged(answer: &[u8]) -> io::Result<i32> {
    match (answer.get(4..6), answer.get(16..20).and_then(|code| code.first_chunk::<4>())) {
        (Some(kind), Some(code)) if kind == NLMSG_ERROR.to_ne_bytes() => Ok(-i32::from_ne_bytes(*code)),
        _ => Err(io::Error::other("netlink answered with something else than an acknowledgement")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_as_long_as_it_says_and_its_kind_ends_with_a_zero() {
        for kind in ["bpf", "clsact", "fq_codel"] {
            let bytes = request(RTM_NEWQDISC, HANDLE, TC_H_CLSACT, 0, kind);
            assert_eq!(bytes.len(), u32::from_ne_bytes(*bytes.first_chunk().unwrap()) as usize);
            assert_eq!(bytes.len() % 4, 0);
            assert_eq!(&bytes[40..40 + kind.len()], kind.as_bytes());
            assert_eq!(bytes[40 + kind.len()], 0);
        }
    }

    #[test]
    fn an_acknowledgement_is_told_from_anything_else() {
        let mut answer = vec![36, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        answer.extend((-libc::ENOENT).to_ne_bytes());
        assert_eq!(acknowledged(&answer).unwrap(), libc::ENOENT);
        answer[4] = 3;
        assert!(acknowledged(&answer).is_err());
        assert!(acknowledged(&answer[..10]).is_err());
    }
}
