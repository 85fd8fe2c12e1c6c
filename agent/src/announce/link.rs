//! The uplink as an announcement needs it: its hardware address, frames sent from it, multicast groups joined on it.
//!
//! May not know: Leases, Services.

use std::io;
use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use super::frames;

/// A link that frames can be sent from.
pub struct Uplink {
    pub mac: [u8; 6],
    address: LinkAddr,
    /// Solicited-node groups joined for IPv6 addresses: a card and a snooping switch deliver no others.
    groups: Vec<(Ipv6Addr, UdpSocket)>,
}

impl Uplink {
    /// The link of that name in this network namespace.
    pub fn find(name: &str) -> io::Result<Self> {
        let named = |what: &str| io::Error::new(io::ErrorKind::NotFound, format!("link {name} {what}"));
        let address = nix::ifaddrs::getifaddrs()?
            .filter(|link| link.interface_name == name)
            .find_map(|link| link.address?.as_link_addr().copied())
            .ok_or_else(|| named("is not there"))?;
        let mac = address.addr().ok_or_else(|| named("has no hardware address"))?;
        Ok(Self { mac, address, groups: Vec::new() })
    }

    /// Joins the groups at which neighbours ask for the IPv6 addresses; those that `before` joined stay joined.
    pub fn listen(&mut self, addresses: &[IpAddr], before: Option<Self>) {
        let mut joined = before.filter(|before| before.address.ifindex() == self.address.ifindex()).map(|b| b.groups);
        for address in addresses {
            let IpAddr::V6(address) = address else { continue };
            let group = frames::solicited_node(*address);
            if self.groups.iter().any(|(known, _)| *known == group) {
                continue;
            }
            let kept = joined.as_mut().and_then(|all| {
                let at = all.iter().position(|(known, _)| *known == group)?;
                Some(all.swap_remove(at).1)
            });
            match kept.map_or_else(|| self.join(&group), Ok) {
                Ok(socket) => self.groups.push((group, socket)),
                Err(error) => tracing::warn!(%error, %address, %group, "neighbours' questions may not be heard"),
            }
        }
    }

    fn join(&self, group: &Ipv6Addr) -> io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
        socket.join_multicast_v6(group, u32::try_from(self.address.ifindex()).map_err(io::Error::other)?)?;
        Ok(socket)
    }

    /// Tells the neighbours that these addresses are here now.
    pub fn greet(&self, addresses: &[IpAddr]) -> io::Result<()> {
        // No protocol: it sends, and is never given a frame.
        let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
        let send = |frame: &[u8]| sendto(raw.as_raw_fd(), frame, &self.address, MsgFlags::empty());
        for address in addresses {
            match address {
                IpAddr::V4(v4) => {
                    // Some neighbours heed one form only.
                    send(&frames::gratuitous_arp(self.mac, *v4, frames::REQUEST))?;
                    send(&frames::gratuitous_arp(self.mac, *v4, frames::REPLY))?;
                }
                IpAddr::V6(v6) => {
                    send(&frames::neighbour_advertisement(self.mac, *v6))?;
                }
            }
        }
        Ok(())
    }
}
