//! The maps. Names and types are those of `strake-abi`; sizes are defaults that the loader may override.

use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use strake_abi::announce::Announced;
use strake_abi::config::Config;
use strake_abi::conntrack::{Conntrack, ConntrackKey, FragmentKey, FragmentKey6, FragmentPorts, ParkedKey};
use strake_abi::dns::{DnsKey, DnsName, DnsZone};
use strake_abi::endpoint::{Endpoint, PodNetns};
use strake_abi::flow::{Counter, DropReason, EventKind};
use strake_abi::service::{
    Affinity, AffinityKey, AffinityKey6, Backend, MaglevRow, MemberKey, Service, ServiceKey, ServiceKey6, SourceKey,
};
use strake_abi::sock::{SockFlow, SockFlow6, SockNat, SockNat6, SockNatKey, SockNatKey6};
use strake_abi::{Addr4, Addr6};

use crate::park::Parked;
use crate::route::{Answer, REMEMBERED};
use crate::work::Work;

#[map]
pub static CONFIG: Array<Config> = Array::with_max_entries(1, 0);

#[map]
pub static SERVICES: HashMap<ServiceKey, Service> = HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);
#[map]
pub static SERVICES_V6: HashMap<ServiceKey6, Service> = HashMap::with_max_entries(32_768, BPF_F_NO_PREALLOC);
#[map]
pub static BACKENDS: Array<Backend> = Array::with_max_entries(262_144, BPF_F_MMAPABLE);
#[map]
pub static MEMBERS: HashMap<MemberKey, Backend> = HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);
#[map]
pub static AFFINITY: LruHashMap<AffinityKey, Affinity> = LruHashMap::with_max_entries(65_536, 0);
#[map]
pub static AFFINITY_V6: LruHashMap<AffinityKey6, Affinity> = LruHashMap::with_max_entries(16_384, 0);
#[map]
pub static SOURCE_RANGES: LpmTrie<SourceKey, u32> = LpmTrie::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
pub static MAGLEV: Array<MaglevRow> = Array::with_max_entries(32_768, 0);

#[map]
pub static SOCK_FLOWS: LruHashMap<u64, SockFlow> = LruHashMap::with_max_entries(65_536, 0);
#[map]
pub static SOCK_NAT: LruHashMap<SockNatKey, SockNat> = LruHashMap::with_max_entries(65_536, 0);
#[map]
pub static SOCK_FLOWS_V6: LruHashMap<u64, SockFlow6> = LruHashMap::with_max_entries(16_384, 0);
#[map]
pub static SOCK_NAT_V6: LruHashMap<SockNatKey6, SockNat6> = LruHashMap::with_max_entries(16_384, 0);

#[map]
pub static CONNTRACK: LruHashMap<ConntrackKey, Conntrack> = LruHashMap::with_max_entries(131_072, 0);
#[map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> = LruHashMap::with_max_entries(8_192, 0);
#[map]
pub static CONNTRACK_V6: LruHashMap<ConntrackKey<Addr6>, Conntrack<Addr6>> = LruHashMap::with_max_entries(32_768, 0);
#[map]
pub static FRAGMENTS_V6: LruHashMap<FragmentKey6, FragmentPorts> = LruHashMap::with_max_entries(2_048, 0);
#[map]
pub static FRAG_AWAITED: LruHashMap<FragmentKey6, u32> = LruHashMap::with_max_entries(1_024, 0);
#[map]
pub static FRAG_PARKED: LruHashMap<ParkedKey, Parked> = LruHashMap::with_max_entries(1_024, 0);
#[map]
pub static FRAG_SCRATCH: PerCpuArray<Parked> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static ANNOUNCED: HashMap<Addr6, Announced> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);

#[map]
pub static ENDPOINTS: HashMap<u32, Endpoint> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);
#[map]
pub static ENDPOINTS_BY_IP: HashMap<Addr4, u32> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);
#[map]
pub static ENDPOINTS_IP_V6: HashMap<Addr6, u32> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);
#[map]
pub static PODS_BY_NETNS: HashMap<u64, PodNetns> = HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);
#[map]
pub static NODES: HashMap<Addr4, u32> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);
#[map]
pub static NODES_V6: HashMap<Addr6, u32> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

#[map]
pub static DNS_NAMES: HashMap<DnsKey, DnsName> = HashMap::with_max_entries(131_072, BPF_F_NO_PREALLOC);
#[map]
pub static DNS_ZONE: Array<DnsZone> = Array::with_max_entries(1, 0);
#[map]
pub static SCRATCH: PerCpuArray<Work<Addr4>> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static SCRATCH_V6: PerCpuArray<Work<Addr6>> = PerCpuArray::with_max_entries(1, 0);

#[map]
pub static ROUTES: PerCpuArray<Answer<Addr4>> = PerCpuArray::with_max_entries(REMEMBERED, 0);
#[map]
pub static ROUTES_V6: PerCpuArray<Answer<Addr6>> = PerCpuArray::with_max_entries(REMEMBERED, 0);

#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);
#[map]
pub static EVENTS_LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(EventKind::SLOTS, 0);
#[map]
pub static EVENTS_WOKEN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static DROPS: PerCpuArray<u64> = PerCpuArray::with_max_entries(DropReason::SLOTS, 0);
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::SLOTS, 0);

/// The node's configuration, once the agent has written it.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0).filter(|config| config.abi_version != 0)
}

/// A row of a hash map, for reading.
macro_rules! get {
    ($map:expr, $key:expr) => {
        // SAFETY: the row stays allocated until the program returns (RCU), and a row that is deleted and reused
        // meanwhile gives, at worst, the value of another moment; the values are plain integers.
        unsafe { $map.get($key) }
    };
}
pub(crate) use get;
