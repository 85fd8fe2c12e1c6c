//! The cluster's names, as the kernel answers them.
//!
//! A name is its wire form (RFC 1035, 3.1) in lower case: length byte and label, repeated, and the root's zero. The key
//! is a 128-bit hash of it (`strake_logic::dns::hash`), and the name stands in the value to be compared, so a
//! collision of hashes can make a name fall to the agent's server, and never answer a wrong address.

use crate::addr::Addr4;
use crate::macros::abi_struct;

/// Hash [`DnsKey`] -> [`DnsName`].
pub const DNS_NAMES: &str = "DNS_NAMES";
/// Array of one [`DnsZone`]: the cluster domain and its SOA.
pub const DNS_ZONE: &str = "DNS_ZONE";

/// Longest name (wire form, root included) the kernel answers: `<63>.<63>.svc.cluster.local` is 147.
pub const NAME_MAX: usize = 160;
/// [`NAME_MAX`] in 64-bit words.
pub const NAME_WORDS: usize = NAME_MAX / 8;
/// Longest zone name (wire form) whose impossible names the kernel denies.
pub const ZONE_MAX: usize = 32;
/// Most bytes of a SOA's rdata.
pub const SOA_MAX: usize = 96;

abi_struct! {
    /// Hash of a lower-case wire name.
    pub struct DnsKey: 16 {
        /// Two independent lanes.
        pub hash: [u64; 2] = 0,
    }
}

/// The name has the A record of [`DnsName::addr`].
pub const DNS_HAS_A: u16 = 1 << 0;
/// An AAAA question for the name is answered with "no data" (NOERROR, no answer, SOA; RFC 2308, 2.2). Needs `DNS_ZONE`.
pub const DNS_NODATA_AAAA: u16 = 1 << 1;

abi_struct! {
    /// A name of the cluster.
    pub struct DnsName: 176 {
        /// The lower-case wire name, zero after its end. Words only for speed: the bytes in memory are the wire's.
        pub name: [u64; 20] = 0,
        /// Bytes of the name, root included; 1 to [`NAME_MAX`].
        pub name_len: u16 = 160,
        /// `DNS_*`.
        pub flags: u16 = 162,
        /// Address of the A record.
        pub addr: Addr4 = 164,
        /// Time to live in seconds, host order.
        pub ttl: u32 = 168,
        /// [`crate::service::Service::id`] of its first port, 0 for none.
        pub service_id: u32 = 172,
    }
}

abi_struct! {
    /// The zone. `soa_len` 0 switches every negative answer of the kernel off.
    pub struct DnsZone: 144 {
        /// Bytes of the zone's own wire name (`cluster.local` is 15); the last that many bytes of a question's name
        /// are the owner of the SOA.
        pub zone_len: u16 = 0,
        /// Bytes of `soa_rdata` in use, 0 to [`SOA_MAX`].
        pub soa_len: u16 = 2,
        /// Negative time to live in seconds, host order (RFC 2308, 5).
        pub ttl: u32 = 4,
        /// The SOA's rdata, uncompressed: mname, rname, serial, refresh, retry, expire, minimum.
        pub soa_rdata: [[u8; 8]; 12] = 8,
        /// The zone's wire name in lower case, zero after its end; all zero if it is longer than [`ZONE_MAX`]. With it the
        /// kernel answers NXDOMAIN for names below the zone that no cluster can have (`strake_logic::dns::is_impossible`).
        pub name: [u64; 4] = 104,
        /// Zero.
        pub reserved: u64 = 136,
    }
}
