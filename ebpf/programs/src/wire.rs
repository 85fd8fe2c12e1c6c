//! What the packet path needs of a length of addresses: where things stand in a packet, which maps have them as keys, what
//! the node has of that family. Everything else of the path is written once, for both.
//!
//! ```text
//!            header     id of a datagram   checksum   maps
//!  Addr4     34 bytes   16 bits            its own    CONNTRACK     FRAGMENTS     ENDPOINTS_BY_IP  NODES
//!  Addr6     54 bytes   32 bits            none       CONNTRACK_V6  FRAGMENTS_V6  ENDPOINTS_IP_V6  NODES_V6
//! ```
//!
//! May not know: what is done with a packet, and at which hook. [`crate::wire6`] has the long length.

use aya_ebpf::maps::LruHashMap;
use strake_abi::config::{Config, DNS};
use strake_abi::conntrack::{Conntrack, ConntrackKey, FragmentKey, FragmentPorts, Tuple};
use strake_abi::endpoint::Endpoint;
use strake_abi::flow::{DropReason, Hook};
use strake_abi::service::{SCOPE_INTERNAL, Service, ServiceKey};
use strake_abi::{Addr4, Addr6, Port, proto};
use strake_logic::dns::Scratch;
use strake_logic::packet::{self, ETH_LEN, Ip, Ipv4, ethertype};
use strake_logic::reply::{self, TAIL_LEN};
use strake_logic::{checksum, icmp, rewrite};

use crate::dsr::Outer;
use crate::family::Address;
use crate::maps::{CONNTRACK, ENDPOINTS_BY_IP, FRAGMENTS, NODES, ROUTES, SCRATCH, SERVICES, get};
use crate::route::Answer;
use crate::service::{self, Client};
use crate::skb::{Action, Kind, PASS, Skb};
use crate::work::Work;

/// See above.
pub trait Wire: Address + Client + Outer + rewrite::Address + Into<Addr6> {
    /// An ICMP error, and what becomes of it.
    type Error: 'static;
    type Rewrite: 'static;
    /// A DNS question.
    type Dns: 'static;
    const ETHERTYPE: u16;
    /// Seconds that the other pieces of a datagram are waited for, as the kernel does it (ip_frag_time; RFC 8200, 4.5).
    const REASSEMBLY_S: u32;
    /// Bytes of a refusal.
    const RESET_LEN: u32;
    const UNREACHABLE_LEN: u32;

    /// This CPU's working memory. Its users do not interrupt each other, and each takes it once.
    fn work() -> Option<&'static mut Work<Self>>;
    /// This CPU's memory of ways out of the uplink; under the same rule.
    fn route_answer(place: u32) -> Option<&'static mut Answer<Self>>;
    fn conntrack() -> &'static LruHashMap<ConntrackKey<Self>, Conntrack<Self>>;
    fn fragment(ip: &Ip<Self>, border: u8) -> Option<&'static FragmentPorts>;
    fn put_fragment(ip: &Ip<Self>, border: u8, ports: &FragmentPorts);

    /// Reads the header that `head` begins with, and what of it is not in `head`.
    fn read_ip(skb: Skb, head: &Self::Head, len: u32, ip: &mut Ip<Self>) -> Result<(), DropReason>;
    /// Writes the addresses of `to`, which begins with them as they stand in the header; `difference` is what they change
    /// in a checksum.
    fn store_addresses(skb: Skb, to: &Tuple<Self>, difference: u32) -> Result<(), DropReason>;
    /// One hop less to live.
    fn decrement_hops(skb: Skb, ip: &Ip<Self>) -> Result<(), DropReason>;

    /// The node's address, if it has one.
    fn node(config: &Config) -> Option<Self>;
    /// The source that a Pod sees when it reaches itself.
    fn gateway(config: &Config) -> Self;
    fn is_own_pod(config: &Config, addr: Self) -> bool;
    fn is_in_cluster(config: &Config, addr: Self) -> bool;
    fn is_cluster_ip(config: &Config, addr: Self) -> bool;
    /// Whether it is an address of any node.
    fn is_node(addr: &Self) -> bool;
    /// Whether routers know it as one machine's.
    fn is_routed(addr: &Self) -> bool;

    fn service_at(config: &Config, to: &Tuple<Self>, proto: u8, scope: u8) -> Option<&'static Service>;
    /// Why a port of an address that looks like a ClusterIP leads nowhere. None if it may be another's.
    fn unknown_port(config: &Config, addr: &Self) -> Option<DropReason>;
    /// The address by which ClientIP affinity knows the Pod that a packet is from.
    fn pod_client(skb: Skb, src: Self) -> Addr4;

    /// Interface of the Pod of this node that has the address.
    fn pod_at(addr: &Self) -> Option<u32>;
    fn is_of(endpoint: &Endpoint, addr: Self) -> bool;
    /// Whether a Pod may send this at all, and (false) whether it is for its link only.
    fn admit(skb: Skb, endpoint: &Endpoint, ip: &Ip<Self>) -> Result<bool, DropReason>;

    /// What is for the cluster DNS, and what becomes of it.
    fn dns(skb: Skb, config: &Config, work: &mut Work<Self>) -> Option<Action>;
    fn icmp_error(skb: Skb, hook: Hook, border: u8, work: &mut Work<Self>) -> Action;
    /// What is no flow may be a neighbour's question for an announced address.
    #[inline(always)]
    fn neighbour(_: Skb, _: &mut Work<Self>) -> Action {
        PASS
    }

    fn reset(frame: &mut Self::Frame, head: &Self::Head, ip: &Ip<Self>, tcp: &[u8; 20]) -> bool;
    /// With a `tail`, so much more is quoted.
    fn unreachable(
        frame: &mut Self::Frame,
        head: &Self::Head,
        ip: &Ip<Self>,
        datagram: &[u8; 8],
        tail: Option<&[u8; TAIL_LEN]>,
    ) -> bool;
    fn store_reset(skb: Skb, frame: &Self::Frame) -> Result<(), DropReason>;
    fn store_unreachable(skb: Skb, frame: &Self::Frame) -> Result<(), DropReason>;
    fn store_unreachable_long(skb: Skb, frame: &Self::Frame) -> Result<(), DropReason>;

    /// The Ethernet header.
    #[inline(always)]
    fn ethernet(head: &Self::Head) -> &[u8; ETH_LEN] {
        const { assert!(size_of::<Self::Head>() >= ETH_LEN) };
        // SAFETY: a head is an array of at least as many bytes (asserted).
        unsafe { &*core::ptr::from_ref(head).cast() }
    }
}

impl Wire for Addr4 {
    type Error = icmp::Error;
    type Rewrite = icmp::Rewrite;
    type Dns = Scratch;
    const ETHERTYPE: u16 = ethertype::IPV4;
    const REASSEMBLY_S: u32 = 30;
    const RESET_LEN: u32 = reply::RESET_LEN as u32;
    const UNREACHABLE_LEN: u32 = reply::UNREACHABLE_LEN as u32;

    #[inline(always)]
    fn work() -> Option<&'static mut Work<Self>> {
        // SAFETY: the map is per CPU; see the declaration.
        SCRATCH.get_ptr_mut(0).map(|work| unsafe { &mut *work })
    }

    #[inline(always)]
    fn route_answer(place: u32) -> Option<&'static mut Answer<Self>> {
        // SAFETY: the map is per CPU; see the declaration.
        ROUTES.get_ptr_mut(place).map(|answer| unsafe { &mut *answer })
    }

    #[inline(always)]
    fn conntrack() -> &'static LruHashMap<ConntrackKey<Self>, Conntrack<Self>> {
        &CONNTRACK
    }

    #[inline(always)]
    fn fragment(ip: &Ipv4, border: u8) -> Option<&'static FragmentPorts> {
        get!(FRAGMENTS, &fragment_key(ip, border))
    }

    #[inline(always)]
    fn put_fragment(ip: &Ipv4, border: u8, ports: &FragmentPorts) {
        let _ = FRAGMENTS.insert(&fragment_key(ip, border), ports, 0);
    }

    #[inline(always)]
    fn read_ip(_: Skb, head: &Self::Head, len: u32, ip: &mut Ipv4) -> Result<(), DropReason> {
        let Ok(read) = packet::ipv4(head, len) else { return Err(DropReason::Malformed) };
        *ip = read;
        Ok(())
    }

    #[inline(always)]
    fn store_addresses(skb: Skb, to: &Tuple<Self>, difference: u32) -> Result<(), DropReason> {
        skb.store_first::<8, _>(ETH_LEN + 12, to)?;
        skb.fix_l3(ETH_LEN + 10, difference)
    }

    #[inline(always)]
    fn decrement_hops(skb: Skb, ip: &Ipv4) -> Result<(), DropReason> {
        let ttl = ip.ttl;
        if ttl <= 1 {
            return Err(DropReason::TtlExceeded);
        }
        skb.store(ETH_LEN + 8, &(ttl - 1))?;
        skb.fix_l3(ETH_LEN + 10, checksum::difference(&[ttl, ip.proto], &[ttl - 1, ip.proto]))
    }

    #[inline(always)]
    fn node(config: &Config) -> Option<Self> {
        Some(config.node_ip)
    }

    #[inline(always)]
    fn gateway(config: &Config) -> Self {
        config.pod_gateway
    }

    #[inline(always)]
    fn is_own_pod(config: &Config, addr: Self) -> bool {
        config.pod_cidr.contains(addr)
    }

    #[inline(always)]
    fn is_in_cluster(config: &Config, addr: Self) -> bool {
        config.cluster_cidr.contains(addr)
    }

    #[inline(always)]
    fn is_cluster_ip(config: &Config, addr: Self) -> bool {
        config.service_cidr.contains(addr)
    }

    #[inline(always)]
    fn is_node(addr: &Self) -> bool {
        get!(NODES, addr).is_some()
    }

    #[inline(always)]
    fn is_routed(addr: &Self) -> bool {
        let [first, ..] = addr.octets();
        first < 224
    }

    #[inline(always)]
    fn service_at(config: &Config, to: &Tuple<Self>, proto: u8, scope: u8) -> Option<&'static Service> {
        service::find(config, to.dst, to.dport, proto, scope)
    }

    #[inline(always)]
    fn unknown_port(config: &Config, addr: &Self) -> Option<DropReason> {
        config.service_cidr.contains(*addr).then(|| unknown_port(*addr))
    }

    #[inline(always)]
    fn pod_client(_: Skb, src: Self) -> Addr4 {
        src
    }

    #[inline(always)]
    fn pod_at(addr: &Self) -> Option<u32> {
        get!(ENDPOINTS_BY_IP, addr).copied()
    }

    #[inline(always)]
    fn is_of(endpoint: &Endpoint, addr: Self) -> bool {
        endpoint.ip == addr
    }

    #[inline(always)]
    fn admit(_: Skb, endpoint: &Endpoint, ip: &Ipv4) -> Result<bool, DropReason> {
        if ip.src == endpoint.ip { Ok(true) } else { Err(DropReason::SpoofedIp) }
    }

    #[inline(always)]
    fn dns(skb: Skb, config: &Config, work: &mut Work<Self>) -> Option<Action> {
        let packet = &work.packet;
        if packet.ip.dst != config.cluster_dns {
            return None;
        }
        let question = packet.ip.proto == proto::UDP && packet.tuple.dport == Port::new(53);
        let question = question && packet.kind == Kind::Flow && config.flags & DNS != 0;
        Some(if question { crate::dns::answer(skb, work) } else { PASS })
    }

    #[inline(always)]
    fn icmp_error(skb: Skb, hook: Hook, border: u8, work: &mut Work<Self>) -> Action {
        crate::icmp::translate(skb, hook, border, work)
    }

    #[inline(always)]
    fn reset(frame: &mut Self::Frame, head: &Self::Head, ip: &Ipv4, tcp: &[u8; 20]) -> bool {
        reply::tcp_reset(frame, head, ip, tcp)
    }

    #[inline(always)]
    fn unreachable(
        frame: &mut Self::Frame,
        head: &Self::Head,
        ip: &Ipv4,
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

const fn fragment_key(ip: &Ipv4, border: u8) -> FragmentKey {
    FragmentKey { src: ip.src, dst: ip.dst, id: ip.id as u16, proto: ip.proto, border }
}

/// Whether a port that no Service has stands on a ClusterIP that exists (reject) or not (drop).
#[inline(never)]
fn unknown_port(addr: Addr4) -> DropReason {
    let key = ServiceKey { addr, port: Port(0), proto: 0, scope: SCOPE_INTERNAL };
    if get!(SERVICES, &key).is_some() { DropReason::NoServicePort } else { DropReason::NoService }
}
