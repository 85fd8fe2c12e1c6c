//! Links, addresses, neighbours and routes through rtnetlink, in this thread's network namespace or another.
//!
//! Knows netlink. Every error names the link or route it was about.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use futures::TryStreamExt;
use netlink_packet_route::address::AddressHeaderFlags;
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::{RouteProtocol, RouteScope};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::Error;

/// Marks the routes this agent made (`ip route` shows it as `proto 83`), so that it removes no other.
pub const ROUTE_PROTOCOL: u8 = 83;

/// A netlink connection and its driver, ended when dropped.
pub struct Netlink {
    pub handle: Handle,
    driver: tokio::task::JoinHandle<()>,
}

impl Netlink {
    /// Opens a route socket in the calling thread's network namespace. Needs a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(Error::io("opening a route netlink socket"))?;
        Ok(Self { handle, driver: tokio::spawn(connection) })
    }

    /// Index of a link by name.
    pub async fn index(&self, name: &str) -> Result<u32, Error> {
        self.find(name).await?.map(|(index, _)| index).ok_or_else(|| Error::NoLink(name.into()))
    }

    /// Index and MTU of a link by name, or None where there is none.
    pub async fn find(&self, name: &str) -> Result<Option<(u32, u32)>, Error> {
        match self.handle.link().get().match_name(name).execute().try_next().await {
            Ok(Some(link)) => {
                let mtu = link.attributes.iter().find_map(|a| match a {
                    LinkAttribute::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
                Ok(Some((link.header.index, mtu.unwrap_or(1500))))
            }
            Ok(None) => Ok(None),
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -nix::libc::ENODEV => Ok(None),
            Err(source) => Err(Error::Netlink { what: format!("looking for link {name}"), source }),
        }
    }

    /// Makes a veth pair whose second end is born in `netns` (a file descriptor) under the name `inner`.
    pub async fn add_veth(&self, outer: &str, temporary: &str, mtu: u32) -> Result<(), Error> {
        self.handle
            .link()
            .add(LinkVeth::new(outer, temporary).mtu(mtu).build())
            .execute()
            .await
            .map_err(Error::netlink(format!("making the veth pair {outer}")))
    }

    /// Moves a link into a namespace, giving it its name, hardware address and MTU there.
    pub async fn hand_over(&self, index: u32, netns: RawFd, name: &str, mac: [u8; 6], mtu: u32) -> Result<(), Error> {
        let message =
            LinkUnspec::new_with_index(index).setns_by_fd(netns).name(name).address(mac.to_vec()).mtu(mtu).build();
        self.handle
            .link()
            .change(message)
            .execute()
            .await
            .map_err(Error::netlink(format!("moving the Pod's end of the veth into its namespace as {name}")))
    }

    /// Brings a link up, with a hardware address where one is given.
    pub async fn up(&self, index: u32, mac: Option<[u8; 6]>) -> Result<(), Error> {
        if let Some(mac) = mac {
            let message = LinkUnspec::new_with_index(index).address(mac.to_vec()).build();
            let what = format!("setting the hardware address of link {index}");
            self.handle.link().change(message).execute().await.map_err(Error::netlink(what))?;
        }
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().change(message).execute().await.map_err(Error::netlink(format!("bringing link {index} up")))
    }

    /// Removes a link; one that is gone already is no error. Returns whether it was there.
    pub async fn remove(&self, name: &str) -> Result<bool, Error> {
        let Some((index, _)) = self.find(name).await? else { return Ok(false) };
        match self.handle.link().del(index).execute().await {
            Ok(()) => Ok(true),
            Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -nix::libc::ENODEV => Ok(false),
            Err(source) => Err(Error::Netlink { what: format!("removing link {name}"), source }),
        }
    }

    /// Puts `ip/prefix` on a link (idempotent). An IPv6 address is usable at once: nobody is asked whether he has it.
    pub async fn add_address(&self, index: u32, ip: impl Into<IpAddr>, prefix: u8) -> Result<(), Error> {
        let ip = ip.into();
        let mut request = self.handle.address().add(index, ip, prefix).replace();
        if ip.is_ipv6() {
            request.message_mut().header.flags.insert(AddressHeaderFlags::Nodad);
        }
        request.execute().await.map_err(Error::netlink(format!("putting {ip}/{prefix} on link {index}")))
    }

    /// Pins a neighbour: no ARP or neighbour discovery is sent or believed for it.
    pub async fn pin_neighbour(&self, index: u32, ip: impl Into<IpAddr>, mac: [u8; 6]) -> Result<(), Error> {
        let ip = ip.into();
        self.handle
            .neighbours()
            .add(index, ip)
            .link_layer_address(&mac)
            .replace()
            .execute()
            .await
            .map_err(Error::netlink(format!("pinning neighbour {ip} on link {index}")))
    }

    /// Routes `destination/prefix` straight out of a link.
    pub async fn route_to_link(&self, destination: impl Into<IpAddr>, prefix: u8, index: u32) -> Result<(), Error> {
        let destination = destination.into();
        let what = || format!("routing {destination}/{prefix} to link {index}");
        let builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination, prefix)
            .map_err(Error::route(what()))?
            .output_interface(index)
            .scope(RouteScope::Link);
        self.route(builder, what()).await
    }

    /// Routes `destination/prefix` through `gateway`; with a link the check that the gateway is in a connected net is
    /// skipped.
    pub async fn route_via(
        &self,
        destination: impl Into<IpAddr>,
        prefix: u8,
        gateway: impl Into<IpAddr>,
        link: Option<u32>,
    ) -> Result<(), Error> {
        let (destination, gateway) = (destination.into(), gateway.into());
        let what = || format!("routing {destination}/{prefix} via {gateway}");
        let mut builder = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(destination, prefix)
            .and_then(|builder| builder.gateway(gateway))
            .map_err(Error::route(what()))?;
        if let Some(index) = link {
            builder = builder.output_interface(index).onlink();
        }
        self.route(builder, what()).await
    }

    async fn route(&self, builder: RouteMessageBuilder<IpAddr>, what: String) -> Result<(), Error> {
        let message = builder.protocol(RouteProtocol::Other(ROUTE_PROTOCOL)).build();
        self.handle.route().add(message).replace().execute().await.map_err(Error::netlink(what))
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Runs `work` on a thread of its own inside the network namespace at `path`, with a runtime of its own.
///
/// A thread, because a namespace belongs to a thread and the caller's must not change.
pub fn in_netns<T, F, W>(path: &Path, work: W) -> Result<T, Error>
where
    T: Send,
    F: Future<Output = Result<T, Error>>,
    W: FnOnce() -> F + Send,
{
    let netns = File::open(path).map_err(|source| Error::Netns { path: path.into(), source })?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET)
                .map_err(|source| Error::Enter { path: path.into(), source })?;
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(Error::io("starting a runtime in the Pod's namespace"))?;
            runtime.block_on(work())
        });
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The descriptor of a namespace file, for the kernel to look at while `file` lives.
pub fn raw(file: &File) -> RawFd {
    file.as_raw_fd()
}
