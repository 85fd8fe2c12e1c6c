//! What a new flow from outside is given: the same by the stack's hook and by the driver's.

use strake_abi::config::Config;
use strake_abi::conntrack::{BORDER_NET, CT_DSR, CT_REDIRECT, CT_SNAT, CT_TRANSLATED};
use strake_abi::flow::DropReason;
use strake_abi::service::{BACKEND_LOCAL, Service};
use strake_logic::choose;

use crate::report::seconds;
use crate::service::{self, Target};
use crate::skb::Packet;
use crate::wire::Wire;
use crate::work::Work;
use crate::{dsr, track};

/// The backend of a packet's flow, if the Service has any.
#[inline(always)]
pub fn choose<A: Wire>(service: &Service, packet: &Packet<A>) -> Option<Target<A>> {
    match service.backend_count {
        0 => None,
        _ => service::choose_outside(service, &packet.tuple, packet.ip.proto, seconds(packet.now_ns)),
    }
}

/// Begins the flow to that backend: as the client if it is on this node, which the answers pass then, else as the node.
#[inline(always)]
pub fn lead<A: Wire>(
    work: &mut Work<A>,
    config: &Config,
    service: &Service,
    backend: &Target<A>,
    ifindex: u32,
) -> Result<(), DropReason> {
    track::begin(work, ifindex, BORDER_NET);
    let Work { packet, new, .. } = work;
    let row = &mut new.row;
    row.to.dst = backend.addr;
    row.to.dport = backend.port;
    row.service_id = service.id;
    row.backend_id = backend.id;
    if backend.flags & BACKEND_LOCAL == 0 {
        if dsr::serves(config, service, backend, &packet.tuple.src) {
            row.flags = CT_DSR | CT_TRANSLATED;
            return Ok(());
        }
        // Without an address of its own the node cannot stand in for the client.
        let Some(node) = A::node(config) else { return Err(DropReason::NotConfigured) };
        row.to.src = node;
        row.to.sport = choose::port(service::random(), config.snat_port_min, config.snat_port_max);
        row.flags = CT_SNAT | CT_REDIRECT;
    }
    Ok(())
}
