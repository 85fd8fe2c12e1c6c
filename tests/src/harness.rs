//! A kernel with the programs loaded and nothing attached: maps to fill, packets to run.
//!
//! A packet "arrives" at the loopback interface (index 1), so that is the veth and the uplink of these tests.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, RingBuf};
use aya::programs::{Program, ProgramError, SchedClassifier, TestRun, TestRunOptions};
use aya::{Ebpf, EbpfLoader, Pod};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use strake_abi::config::{self, Config};
use strake_abi::conntrack::{CONNTRACK, CONNTRACK_V6, Conntrack, ConntrackKey};
use strake_abi::endpoint::{ENDPOINTS, Endpoint, NODE_LOCAL, NODE_REMOTE, NODES, NODES_V6};
use strake_abi::flow::{COUNTERS, Counter, DROPS, DropReason, EVENTS, FlowEvent};
use strake_abi::program::XDP_LB;
use strake_abi::service::{
    BACKENDS, Backend, MAGLEV, MAGLEV_ROW, MEMBERS, MaglevRow, MemberKey, SERVICES, SERVICES_V6, SOURCE_RANGES,
    Service, ServiceKey, ServiceKey6, SourceKey,
};
use strake_abi::{ABI_VERSION, Addr4, Addr6, Cidr4, Port, proto};
use strake_logic::maglev;

/// Loopback, which exists everywhere.
pub const IFINDEX: u32 = 1;
pub const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 5];
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const POD: [u8; 4] = [10, 244, 0, 5];
/// Another Pod of this node.
pub const LOCAL: [u8; 4] = [10, 244, 0, 9];
/// A Pod of another node.
pub const REMOTE: [u8; 4] = [10, 244, 1, 7];
pub const NODE: [u8; 4] = [192, 168, 50, 11];
pub const OTHER_NODE: [u8; 4] = [192, 168, 50, 12];
pub const OUTSIDE: [u8; 4] = [203, 0, 113, 9];
pub const GATEWAY: [u8; 4] = [169, 254, 1, 1];
pub const VIP: [u8; 4] = [10, 96, 3, 7];
pub const VIP2: [u8; 4] = [10, 96, 3, 8];
pub const DNS: [u8; 4] = [10, 96, 0, 10];

/// `TC_ACT_UNSPEC`: whoever sits behind our programs has their say.
pub const PASS: u32 = u32::MAX;
pub const DROP: u32 = 2;
pub const REDIRECT: u32 = 7;
/// The verdicts of XDP: to the stack, and out of the interface again.
pub const XDP_PASS: u32 = 2;
pub const XDP_TX: u32 = 3;

/// One kernel at a time: counters of events are compared, and the machine has two CPUs.
static ONE: Mutex<()> = Mutex::new(());

pub struct Kernel {
    pub bpf: Ebpf,
    _one: MutexGuard<'static, ()>,
}

/// What became of a packet.
#[derive(Debug)]
pub struct Out {
    pub verdict: u32,
    pub frame: Vec<u8>,
    pub duration: Duration,
}

impl Kernel {
    /// Programs loaded, the node configured, one Pod behind the veth.
    pub fn new() -> Result<Self> {
        Self::load(0)
    }

    /// The same; `have_set_retval` is what the loader would find out about the kernel.
    pub fn load(have_set_retval: u8) -> Result<Self> {
        Self::sized(have_set_retval, 4096)
    }

    /// The same with room for so many backends and connections.
    pub fn sized(have_set_retval: u8, rows: u32) -> Result<Self> {
        let one = ONE.lock().unwrap_or_else(|broken| broken.into_inner());
        let mut loader = EbpfLoader::new();
        loader.override_global(config::HAVE_SET_RETVAL, &have_set_retval, true);
        for map in [BACKENDS, CONNTRACK, CONNTRACK_V6] {
            loader.map_max_entries(map, rows);
        }
        let mut bpf = loader.load(strake_bpf_object::OBJECT).context("loading the object")?;
        for name in strake_abi::program::CLASSIFIERS {
            classifier(&mut bpf, name)?.load().with_context(|| format!("loading {name}"))?;
        }
        match bpf.program_mut(XDP_LB) {
            Some(Program::Xdp(program)) => program.load().with_context(|| format!("loading {XDP_LB}"))?,
            _ => bail!("no program {XDP_LB}"),
        }
        let mut kernel = Self { bpf, _one: one };
        kernel.configure(|_| {})?;
        let ip6 = crate::six_harness::POD6.into();
        let endpoint =
            Endpoint { ip: Addr4::new(POD), ip6, mac: POD_MAC, host_mac: HOST_MAC, id: 1, ..Endpoint::default() };
        kernel.insert(ENDPOINTS, IFINDEX, endpoint)?;
        kernel.insert(NODES, Addr4::new(NODE), NODE_LOCAL)?;
        kernel.insert(NODES, Addr4::new(OTHER_NODE), NODE_REMOTE)?;
        kernel.insert(NODES_V6, Addr6::from(crate::six_harness::NODE6), NODE_LOCAL)?;
        kernel.insert(NODES_V6, Addr6::from(crate::six_harness::OTHER_NODE6), NODE_REMOTE)?;
        Ok(kernel)
    }

    /// Writes `CONFIG`, changed by `edit`.
    pub fn configure(&mut self, edit: impl FnOnce(&mut Config)) -> Result<()> {
        let mut value = Config {
            abi_version: ABI_VERSION,
            flags: config::MASQUERADE | config::DNS | config::TRACK_ALL | config::EVENTS | config::DIRECT,
            node_ip: Addr4::new(NODE),
            cluster_dns: Addr4::new(DNS),
            pod_gateway: Addr4::new(GATEWAY),
            uplink_ifindex: IFINDEX,
            pod_cidr: Cidr4::new(Ipv4Addr::new(10, 244, 0, 0), 24),
            cluster_cidr: Cidr4::new(Ipv4Addr::new(10, 244, 0, 0), 16),
            service_cidr: Cidr4::new(Ipv4Addr::new(10, 96, 0, 0), 16),
            snat_port_min: 61000,
            snat_port_max: 65535,
            node_port_min: 30000,
            node_port_max: 32767,
            udp_timeout_s: 60,
            tcp_timeout_s: 3600,
            tcp_closing_timeout_s: 60,
            ..Config::default()
        };
        crate::six_harness::configure(&mut value);
        edit(&mut value);
        let mut map = Array::<_, Config>::try_from(self.map(config::CONFIG)?)?;
        map.set(0, value, 0)?;
        Ok(())
    }

    fn map(&mut self, name: &str) -> Result<&mut aya::maps::Map> {
        self.bpf.map_mut(name).with_context(|| format!("map {name}"))
    }

    /// Writes the Maglev table of a slice, and says where and how large it is in the Service.
    pub fn table(&mut self, service: Service, slice: &[Backend], base: u32) -> Result<Service> {
        let size = maglev::size(slice.len() as u32);
        let names: Vec<_> = slice.iter().map(|b| (b.addr, b.port)).collect();
        let mut entries = vec![0; size.next_multiple_of(MAGLEV_ROW) as usize];
        maglev::fill(&names, &mut vec![maglev::Turn::default(); names.len()], &mut entries[..size as usize]);
        for (row, entries) in (base..).zip(entries.as_chunks().0) {
            self.set(MAGLEV, row, MaglevRow { entries: *entries })?;
        }
        Ok(Service { maglev_base: base, maglev_size: size, ..service })
    }

    pub fn insert<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V) -> Result<()> {
        let mut map = HashMap::<&mut MapData, K, V>::try_from(self.map(map)?)?;
        map.insert(key, value, 0)?;
        Ok(())
    }

    pub fn remove<K: Pod, V: Pod>(&mut self, map: &str, key: K) -> Result<()> {
        let mut map = HashMap::<&mut MapData, K, V>::try_from(self.map(map)?)?;
        map.remove(&key)?;
        Ok(())
    }

    pub fn set<V: Pod>(&mut self, map: &str, index: u32, value: V) -> Result<()> {
        let mut map = Array::<_, V>::try_from(self.map(map)?)?;
        map.set(index, value, 0)?;
        Ok(())
    }

    /// A frontend with backends at `base` of the array; members too.
    pub fn service(&mut self, key: ServiceKey, service: Service, backends: &[Backend]) -> Result<()> {
        self.service6(key.into(), service, backends)
    }

    /// The same for a frontend of either family.
    pub fn service6(&mut self, key: ServiceKey6, service: Service, backends: &[Backend]) -> Result<()> {
        for (i, backend) in backends.iter().enumerate() {
            self.set(BACKENDS, service.backend_base + i as u32, *backend)?;
            let member = MemberKey { service_id: service.id, backend_id: backend.id };
            self.insert(MEMBERS, member, *backend)?;
        }
        let count = backends.len() as u32;
        let service = Service { backend_count: count, ..service };
        match key.v4() {
            Some(key) => self.insert(SERVICES, key, service),
            None => self.insert(SERVICES_V6, key, service),
        }
    }

    /// Puts a range of clients on a list; `prefix` as written.
    pub fn admit(&mut self, list: u32, addr: impl Into<IpAddr>, prefix: u8) -> Result<()> {
        let addr = addr.into();
        let bits = SourceKey::bits(if addr.is_ipv4() { 96 + prefix } else { prefix });
        let mut map = LpmTrie::<_, SourceKey, u32>::try_from(self.map(SOURCE_RANGES)?)?;
        map.insert(&Key::new(bits, SourceKey { list, addr: addr.into() }), 1, 0)?;
        Ok(())
    }

    /// Takes the range away again.
    pub fn forbid(&mut self, list: u32, addr: [u8; 4], prefix: u8) -> Result<()> {
        let key = SourceKey { list, addr: Addr4::new(addr).into() };
        let mut map = LpmTrie::<_, SourceKey, u32>::try_from(self.map(SOURCE_RANGES)?)?;
        map.remove(&Key::new(SourceKey::bits(96 + prefix), key))?;
        Ok(())
    }

    /// Runs a frame through a program.
    pub fn run(&mut self, program: &str, frame: &[u8]) -> Result<Out> {
        self.repeat(program, frame, 1)
    }

    /// The same, several times on one packet; the duration is that of one run.
    pub fn repeat(&mut self, program: &str, frame: &[u8], repeat: u32) -> Result<Out> {
        let mut out = vec![0u8; 4096];
        let options =
            TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), repeat, ..TestRunOptions::new() };
        let result = match self.bpf.program(program).with_context(|| format!("program {program}"))? {
            Program::Xdp(xdp) => xdp.test_run(options)?,
            _ => classifier(&mut self.bpf, program)?.test_run(options)?,
        };
        out.truncate(result.data_size_out as usize);
        Ok(Out { verdict: result.return_value, frame: out, duration: result.duration })
    }

    pub fn conntrack6(&mut self) -> Result<Vec<(ConntrackKey<Addr6>, Conntrack<Addr6>)>> {
        let map = HashMap::<_, ConntrackKey<Addr6>, Conntrack<Addr6>>::try_from(self.map(CONNTRACK_V6)?)?;
        Ok(map.iter().collect::<Result<_, _>>()?)
    }

    pub fn conntrack(&mut self) -> Result<Vec<(ConntrackKey, Conntrack)>> {
        let map = HashMap::<_, ConntrackKey, Conntrack>::try_from(self.map(CONNTRACK)?)?;
        Ok(map.iter().collect::<Result<_, _>>()?)
    }

    pub fn dropped(&mut self, reason: DropReason) -> Result<u64> {
        self.per_cpu(DROPS, reason as u32)
    }

    pub fn counted(&mut self, counter: Counter) -> Result<u64> {
        self.per_cpu(COUNTERS, counter as u32)
    }

    pub fn per_cpu(&mut self, map: &str, index: u32) -> Result<u64> {
        let map = PerCpuArray::<_, u64>::try_from(self.map(map)?)?;
        Ok(map.get(&index, 0)?.iter().sum())
    }

    /// The events so far, which are then gone.
    pub fn events(&mut self) -> Result<Vec<FlowEvent>> {
        let mut ring = RingBuf::try_from(self.map(EVENTS)?)?;
        let mut events = Vec::new();
        while let Some(item) = ring.next() {
            events.push(FlowEvent::from_bytes(&item).with_context(|| format!("an event of {} bytes", item.len()))?);
        }
        Ok(events)
    }
}

pub fn classifier<'a>(bpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = bpf.program_mut(name).with_context(|| format!("program {name}"))?;
    program.try_into().map_err(|e: ProgramError| e.into())
}

pub fn frontend(addr: [u8; 4], port: u16, protocol: u8) -> ServiceKey {
    ServiceKey { addr: Addr4::new(addr), port: Port::new(port), proto: protocol, scope: 0 }
}

pub fn backend(addr: [u8; 4], port: u16, flags: u8, id: u32) -> Backend {
    backend6(Addr4::new(addr), port, flags, id)
}

pub fn backend6(addr: impl Into<Addr6>, port: u16, flags: u8, id: u32) -> Backend {
    Backend { addr: addr.into(), port: Port::new(port), flags, reserved: 0, id }
}

pub const SYN: u8 = 2;
pub const ACK: u8 = 16;
pub const FIN: u8 = 1;
pub const RST: u8 = 4;

/// One end of a conversation.
pub type End = ([u8; 4], u16);

fn macs(src: [u8; 4]) -> ([u8; 6], [u8; 6]) {
    if src == POD { (POD_MAC, HOST_MAC) } else { (HOST_MAC, POD_MAC) }
}

/// A TCP segment with right checksums.
pub fn tcp(src: End, dst: End, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (from, to) = macs(src.0);
    let mut builder =
        etherparse::PacketBuilder::ethernet2(from, to).ipv4(src.0, dst.0, 64).tcp(src.1, dst.1, 1000, 64240);
    if flags & SYN != 0 {
        builder = builder.syn().options(&[etherparse::TcpOptionElement::MaximumSegmentSize(1460)]).unwrap();
    }
    if flags & ACK != 0 {
        builder = builder.ack(77);
    }
    if flags & FIN != 0 {
        builder = builder.fin();
    }
    if flags & RST != 0 {
        builder = builder.rst();
    }
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// A UDP datagram with right checksums.
pub fn udp(src: End, dst: End, payload: &[u8]) -> Vec<u8> {
    let (from, to) = macs(src.0);
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(from, to)
        .ipv4(src.0, dst.0, 64)
        .udp(src.1, dst.1)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// An ICMP error from `router` to `to`, about the IPv4 packet in `about` (a frame).
pub fn icmp_error(router: [u8; 4], to: [u8; 4], kind: u8, code: u8, about: &[u8]) -> Vec<u8> {
    let (from, mac_to) = macs(router);
    let quoted = &about[14..14 + 28];
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2(from, mac_to)
        .ipv4(router, to, 64)
        .icmpv4_raw(kind, code, if code == 4 { [0, 0, 0x05, 0x14] } else { [0; 4] })
        .write(&mut frame, quoted)
        .unwrap();
    frame
}

/// Ends of a frame, after every checksum in it was verified by an independent parser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub src: End,
    pub dst: End,
    pub proto: u8,
    pub ttl: u8,
}

pub fn seen(frame: &[u8]) -> Seen {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap_or_else(|e| panic!("{e}: {frame:02x?}"));
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4: {frame:02x?}") };
    let header = ip.header().to_header();
    assert_eq!(header.calc_header_checksum(), header.header_checksum, "IPv4 checksum");
    let (sport, dport, protocol) = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let sum = tcp.calc_checksum_ipv4(header.source, header.destination).unwrap();
            assert_eq!(sum % 0xffff, tcp.checksum() % 0xffff, "TCP checksum");
            (tcp.source_port(), tcp.destination_port(), proto::TCP)
        }
        Some(TransportSlice::Udp(udp)) => {
            if udp.checksum() != 0 {
                let sum =
                    udp.to_header().calc_checksum_ipv4_raw(header.source, header.destination, udp.payload()).unwrap();
                assert_eq!(sum % 0xffff, udp.checksum() % 0xffff, "UDP checksum");
            }
            (udp.source_port(), udp.destination_port(), proto::UDP)
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            let sum = icmp.icmp_type().calc_checksum(icmp.payload());
            assert_eq!(sum % 0xffff, icmp.checksum() % 0xffff, "ICMP checksum");
            (0, 0, proto::ICMP)
        }
        other => panic!("unexpected transport {other:?}"),
    };
    Seen { src: (header.source, sport), dst: (header.destination, dport), proto: protocol, ttl: header.time_to_live }
}
