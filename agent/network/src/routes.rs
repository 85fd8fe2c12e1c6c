//! Routes to the Pod CIDRs of other nodes, kept equal to what the cluster says.
//!
//! Only routes marked with [`ROUTE_PROTOCOL`](crate::link::ROUTE_PROTOCOL) that go through a gateway are ours to
//! remove; the /32s and /128s of local Pods have none and belong to the CNI plugin.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use ipnetwork::IpNetwork;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol};
use rtnetlink::RouteMessageBuilder;

use crate::Error;
use crate::link::{Netlink, ROUTE_PROTOCOL};

/// Makes the node's routes lead each Pod CIDR to the node that owns it. Returns how many were changed.
///
/// New routes are in place before old ones go, so a CIDR that moves is never without a route.
pub async fn sync(netlink: &Netlink, wanted: &BTreeMap<IpNetwork, IpAddr>) -> Result<usize, Error> {
    let mut have = ours(netlink, RouteMessageBuilder::<Ipv4Addr>::new().build()).await?;
    have.extend(ours(netlink, RouteMessageBuilder::<Ipv6Addr>::new().build()).await?);
    let mut changed = 0;
    for (cidr, gateway) in wanted {
        if !have.iter().any(|(c, g, _)| c == cidr && g == gateway) {
            netlink.route_via(cidr.network(), cidr.prefix(), *gateway, None).await?;
            changed += 1;
        }
    }
    for (cidr, gateway, message) in have {
        if !wanted.contains_key(&cidr) {
            let what = format!("removing the route to {cidr} via {gateway}");
            netlink.handle.route().del(message).execute().await.map_err(Error::netlink(what))?;
            changed += 1;
        }
    }
    Ok(changed)
}

/// Our routes of the family that `query` is of.
async fn ours(netlink: &Netlink, query: RouteMessage) -> Result<Vec<(IpNetwork, IpAddr, RouteMessage)>, Error> {
    let mut dump = netlink.handle.route().get(query).execute();
    let mut found = Vec::new();
    while let Some(route) = dump.try_next().await.map_err(Error::netlink("listing routes"))? {
        if route.header.protocol != RouteProtocol::Other(ROUTE_PROTOCOL) {
            continue;
        }
        let (mut destination, mut gateway) = (None, None);
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = ip(address),
                RouteAttribute::Gateway(address) => gateway = ip(address),
                _ => {}
            }
        }
        if let (Some(ip), Some(gateway)) = (destination, gateway)
            && let Ok(cidr) = IpNetwork::new(ip, route.header.destination_prefix_length)
        {
            found.push((cidr, gateway, route));
        }
    }
    Ok(found)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
