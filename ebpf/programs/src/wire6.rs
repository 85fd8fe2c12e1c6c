//! The packet path's long addresses: see [`crate::wire`].

use aya_ebpf::maps::LruHashMap;
use strake_abi::config::Config;
use strake_abi::conntrack::{Conntrack, ConntrackKey, FragmentKey6, FragmentPorts, Tuple6};
use strake_abi::endpoint::Endpoint;
use strake_abi::flow::{DropReason, Hook};
use strake_abi::service::{SCOPE_INTERNAL, Service, ServiceKey6};
use strake_abi::{Addr4, Addr6, Port, proto};
use strake_logic::ipv6::{self, HEAD_LEN, Ipv6, MAX_HEADERS, Step, icmp, ndp, reply};
use strake_logic::packet::{ETH_LEN, Fragment, ethertype};
use strake_logic::reply::TAIL_LEN;

use crate::announce;
use crate::maps::{
    CONNTRACK_V6, ENDPOINTS, ENDPOINTS_IP_V6, FRAGMENTS_V6, NODES_V6, ROUTES_V6, SCRATCH_V6, SERVICES_V6, get,
};
use crate::route::Answer;
use crate::service;
use crate::skb::{Action, PASS, Skb};
use crate::wire::Wire;
use crate::work::Work;

impl Wire for Addr6 {
    type Error = icmp::Error;
    type Rewrite = icmp::Rewrite;
    type Dns = ();
    const ETHERTYPE: u16 = ethertype::IPV6;
    const REASSEMBLY_S: u32 = 60;
    const RESET_LEN: u32 = reply::RESET_LEN as u32;
    const UNREACHABLE_LEN: u32 = reply::UNREACHABLE_LEN as u32;

    #[inline(always)]
    fn work() -> Option<&'static mut Work<Self>> {
        // SAFETY: the map is per CPU; see the declaration.
        SCRATCH_V6.get_ptr_mut(0).map(|work| unsafe { &mut *work })
    }

    #[inline(always)]
    fn route_answer(place: u32) -> Option<&'static mut Answer<Self>> {
        // SAFETY: the map is per CPU; see the declaration.
        ROUTES_V6.get_ptr_mut(place).map(|answer| unsafe { &mut *answer })
    }

    #[inline(always)]
    fn conntrack() -> &'static LruHashMap<ConntrackKey<Self>, Conntrack<Self>> {
        &CONNTRACK_V6
    }

    #[inline(always)]
    fn fragment(ip: &Ipv6, border: u8) -> Option<&'static FragmentPorts> {
        get!(FRAGMENTS_V6, &fragment_key(ip, border))
    }

    #[inline(always)]
    fn put_fragment(ip: &Ipv6, border: u8, ports: &FragmentPorts) {
        let _ = FRAGMENTS_V6.insert(&fragment_key(ip, border), ports, 0);
    }

    #[inline(always)]
    fn read_ip(skb: Skb, head: &Self::Head, len: u32, ip: &mut Ipv6) -> Result<(), DropReason> {
        if ipv6::fixed(ip, head, len).is_err() {
            return Err(DropReason::Malformed);
        }
        walk(skb, ip)
    }

    #[inline(always)]
    fn store_addresses(skb: Skb, to: &Tuple6, _: u32) -> Result<(), DropReason> {
        // No checksum of the header makes up for the change in a sum that the device made of the whole packet.
        skb.store_first_summed::<32, _>(ETH_LEN + 8, to)
    }

    #[inline(always)]
    fn decrement_hops(skb: Skb, ip: &Ipv6) -> Result<(), DropReason> {
        let hops = ip.ttl;
        if hops <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        skb.store_summed(ETH_LEN + 7, &(hops - 1))
    }

    #[inline(always)]
    fn node(config: &Config) -> Option<Self> {
        if config.node_ip6 == Self::ANY { None } else { Some(config.node_ip6) }
    }

    #[inline(always)]
    fn gateway(config: &Config) -> Self {
        config.pod_gateway6
    }

    #[inline(always)]
    fn is_own_pod(config: &Config, addr: Self) -> bool {
        config.pod_cidr6.contains(addr)
    }

    #[inline(always)]
    fn is_in_cluster(config: &Config, addr: Self) -> bool {
        config.cluster_cidr6.contains(addr)
    }

    #[inline(always)]
    fn is_cluster_ip(config: &Config, addr: Self) -> bool {
        config.service_cidr6.contains(addr)
    }

    #[inline(always)]
    fn is_node(addr: &Self) -> bool {
        get!(NODES_V6, addr).is_some()
    }

    #[inline(always)]
    fn is_routed(addr: &Self) -> bool {
        !addr.is_multicast() && !addr.is_link_local()
    }

    #[inline(always)]
    fn service_at(config: &Config, to: &Tuple6, proto: u8, scope: u8) -> Option<&'static Service> {
        service::find6(config, to.dst, to.dport, proto, scope)
    }

    #[inline(always)]
    fn unknown_port(config: &Config, addr: &Self) -> Option<DropReason> {
        config.service_cidr6.contains(*addr).then(|| unknown_port(addr))
    }

    #[inline(always)]
    fn pod_client(skb: Skb, _: Self) -> Addr4 {
        get!(ENDPOINTS, &skb.ifindex()).map_or(Addr4::ANY, |endpoint| endpoint.ip)
    }

    #[inline(always)]
    fn pod_at(addr: &Self) -> Option<u32> {
        get!(ENDPOINTS_IP_V6, addr).copied()
    }

    #[inline(always)]
    fn is_of(endpoint: &Endpoint, addr: Self) -> bool {
        endpoint.ip6 == addr
    }

    #[inline(always)]
    fn admit(skb: Skb, endpoint: &Endpoint, ip: &Ipv6) -> Result<bool, DropReason> {
        if endpoint.ip6 == Self::ANY {
            return Err(DropReason::UnsupportedProtocol);
        }
        let own = ip.src == endpoint.ip6;
        // An address of the link, or none yet, speaks to the link (RFC 4291, 2.5.2 and 2.5.6).
        let link = (ip.src.is_link_local() || ip.src == Self::ANY) && !Self::is_routed(&ip.dst);
        if !own && !link {
            return Err(DropReason::SpoofedIp);
        }
        // A later fragment is data: whatever it begins with is no message's type.
        if ip.proto == proto::ICMPV6 && ip.fragment != Fragment::Later {
            let Some(kind) = skb.load::<u8>(ip.l4) else { return Err(DropReason::Malformed) };
            if ndp::is_ndp(kind) {
                // Nobody reads it in pieces (RFC 6980).
                if ip.fragment == Fragment::First {
                    return Err(DropReason::SpoofedNdp);
                }
                neighbour(skb, endpoint, ip.l4, kind)?;
                return Ok(false);
            }
        }
        // Of what is for the link only, neighbour discovery is all that a Pod needs.
        if own { Ok(true) } else { Err(DropReason::UnsupportedProtocol) }
    }

    #[inline(always)]
    fn neighbour(skb: Skb, work: &mut Work<Self>) -> Action {
        // Behind extension headers nobody asks.
        let ip = &work.packet.ip;
        if ip.proto == proto::ICMPV6 && ip.l4 == HEAD_LEN { announce::answer_ndp(skb, work) } else { PASS }
    }

    #[inline(always)]
    fn dns(_: Skb, _: &Config, _: &mut Work<Self>) -> Option<Action> {
        None
    }

    #[inline(always)]
    fn icmp_error(skb: Skb, hook: Hook, border: u8, work: &mut Work<Self>) -> Action {
        crate::icmp6::translate(skb, hook, border, work)
    }

    #[inline(always)]
    fn reset(frame: &mut Self::Frame, head: &Self::Head, ip: &Ipv6, tcp: &[u8; 20]) -> bool {
        reply::tcp_reset(frame, head, ip, tcp)
    }

    #[inline(always)]
    fn unreachable(
        frame: &mut Self::Frame,
        head: &Self::Head,
        ip: &Ipv6,
        datagram: &[u8; 8],
        tail: Option<&[u8; TAIL_LEN]>,
    ) -> bool {
        reply::port_unreachable(frame, head, ip, datagram, tail)
    }

    #[inline(always)]
    fn store_reset(skb: Skb, frame: &Self::Frame) -> Result<(), DropReason> {
        skb.store_first::<{ reply::RESET_LEN }, _>(0, frame)
    }

    #[inline(always)]
    fn store_unreachable(skb: Skb, frame: &Self::Frame) -> Result<(), DropReason> {
        skb.store_first::<{ reply::UNREACHABLE_LEN }, _>(0, frame)
    }

    #[inline(always)]
    fn store_unreachable_long(skb: Skb, frame: &Self::Frame) -> Result<(), DropReason> {
        skb.store_first::<{ reply::UNREACHABLE_LEN + TAIL_LEN }, _>(0, frame)
    }
}

const fn fragment_key(ip: &Ipv6, border: u8) -> FragmentKey6 {
    FragmentKey6 { src: ip.src, dst: ip.dst, id: ip.id, proto: ip.proto, border, reserved: 0 }
}

/// Walks the chain of extension headers, which most packets have not.
#[inline(always)]
pub fn walk(skb: Skb, ip: &mut Ipv6) -> Result<(), DropReason> {
    if ipv6::is_extension(ip.proto) { walk_on(skb, ip) } else { Ok(()) }
}

#[inline(never)]
fn walk_on(skb: Skb, ip: &mut Ipv6) -> Result<(), DropReason> {
    let mut walked = 0;
    while walked < MAX_HEADERS {
        let Some(bytes) = skb.load::<[u8; 8]>(ip.l4) else { return Err(DropReason::Malformed) };
        match ipv6::step(ip, &bytes) {
            Step::On => {}
            Step::Data => return Ok(()),
            Step::Malformed => return Err(DropReason::Malformed),
            Step::Odd => return Err(DropReason::ExtensionHeaders),
        }
        if !ipv6::is_extension(ip.proto) {
            return Ok(());
        }
        walked += 1;
    }
    Err(DropReason::ExtensionHeaders)
}

/// Whether a message of neighbour discovery is the Pod's to send.
#[inline(never)]
fn neighbour(skb: Skb, endpoint: &Endpoint, at: usize, kind: u8) -> Result<(), DropReason> {
    let target = if kind == 133 {
        Addr6::ANY
    } else {
        let Some(message) = skb.load::<[u8; ndp::NDP_LEN]>(at) else { return Err(DropReason::Malformed) };
        ndp::target(&message)
    };
    if ndp::is_sane(kind, target, endpoint.ip6) { Ok(()) } else { Err(DropReason::SpoofedNdp) }
}

/// Whether a port that no Service has stands on a ClusterIP that exists (reject) or not (drop).
#[inline(never)]
fn unknown_port(addr: &Addr6) -> DropReason {
    let key = ServiceKey6 { addr: *addr, port: Port(0), proto: 0, scope: SCOPE_INTERNAL };
    if get!(SERVICES_V6, &key).is_some() { DropReason::NoServicePort } else { DropReason::NoService }
}
