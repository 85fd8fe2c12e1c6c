//! Addresses and ports in network byte order. Only the constructors and getters here swap bytes.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::macros::abi_struct;

/// An IPv4 address; the four bytes in memory are the four octets in order, whatever the host's endianness.
/// Equal to `bpf_sock_addr.user_ip4` and to the 32-bit load of an address in a packet.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr4(pub u32);

impl Addr4 {
    /// 0.0.0.0; in a [`crate::service::ServiceKey`], "any address of this node".
    pub const ANY: Self = Self(0);

    /// From the octets in writing order.
    pub const fn new(octets: [u8; 4]) -> Self {
        Self(u32::from_ne_bytes(octets))
    }

    /// The octets in writing order.
    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    /// As `::ffff:a.b.c.d`, the form of events.
    pub const fn mapped(self) -> [u8; 16] {
        let [a, b, c, d] = self.octets();
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
    }
}

impl From<Ipv4Addr> for Addr4 {
    fn from(addr: Ipv4Addr) -> Self {
        Self::new(addr.octets())
    }
}

impl From<Addr4> for Ipv4Addr {
    fn from(addr: Addr4) -> Self {
        addr.octets().into()
    }
}

impl fmt::Display for Addr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from(*self).fmt(f)
    }
}

impl fmt::Debug for Addr4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address of 128 bits: IPv6, or IPv4 as `::ffff:a.b.c.d` where both families stand side by side. The sixteen bytes in
/// memory are the sixteen octets in order. Equal to `bpf_sock_addr.user_ip6`.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr6(pub [u32; 4]);

impl Addr6 {
    /// `::`; in a [`crate::service::ServiceKey6`], "any IPv6 address of this node".
    pub const ANY: Self = Self([0; 4]);

    /// `::ffff:a.b.c.d`.
    #[inline(always)]
    pub const fn mapped(addr: Addr4) -> Self {
        Self([0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), addr.0])
    }

    /// The IPv4 address, if this is a mapped one.
    #[inline(always)]
    pub const fn v4(self) -> Option<Addr4> {
        let [a, b, c, d] = self.0;
        if a == 0 && b == 0 && c == u32::from_ne_bytes([0, 0, 0xff, 0xff]) { Some(Addr4(d)) } else { None }
    }

    /// Whether it is of the link, `fe80::/10`: no router sends it on (RFC 4291, 2.5.6).
    #[inline(always)]
    pub const fn is_link_local(self) -> bool {
        self.0[0] & u32::from_ne_bytes([0xff, 0xc0, 0, 0]) == u32::from_ne_bytes([0xfe, 0x80, 0, 0])
    }

    /// Whether it is `ff00::/8`.
    #[inline(always)]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & u32::from_ne_bytes([0xff, 0, 0, 0]) == u32::from_ne_bytes([0xff, 0, 0, 0])
    }

    /// The octets in writing order.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 16] {
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] =
            [self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes(), self.0[2].to_ne_bytes(), self.0[3].to_ne_bytes()];
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// As people write it: a mapped address as IPv4.
    pub const fn ip(self) -> IpAddr {
        Ipv6Addr::from_octets(self.octets()).to_canonical()
    }
}

impl From<Addr4> for Addr6 {
    fn from(addr: Addr4) -> Self {
        Self::mapped(addr)
    }
}

impl From<Ipv6Addr> for Addr6 {
    fn from(addr: Ipv6Addr) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = addr.octets();
        Self([[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes))
    }
}

impl From<IpAddr> for Addr6 {
    fn from(addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(addr) => Self::mapped(addr.into()),
            IpAddr::V6(addr) => addr.into(),
        }
    }
}

impl From<Ipv4Addr> for Addr6 {
    fn from(addr: Ipv4Addr) -> Self {
        Self::mapped(addr.into())
    }
}

impl fmt::Display for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.ip().fmt(f)
    }
}

impl fmt::Debug for Addr6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A TCP or UDP port (or an ICMP echo identifier) in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Port(pub u16);

impl Port {
    /// From a number in the host's order, as people write it.
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// The number as people write it.
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl From<u16> for Port {
    fn from(host: u16) -> Self {
        Self::new(host)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// An Ethernet address, in transmission order.
pub type Mac = [u8; 6];

abi_struct! {
    /// An IPv4 prefix. All zero is the *empty* prefix (it contains nothing), not 0.0.0.0/0.
    pub struct Cidr4: 8 {
        /// Network address, host bits zero.
        pub addr: Addr4 = 0,
        /// Mask in network byte order, as an address is.
        pub mask: Addr4 = 4,
    }
}

impl Cidr4 {
    /// The prefix of `len` bits (0 to 32, more is taken as 32) around `addr`. A length of 0 gives the empty prefix.
    pub fn new(addr: Ipv4Addr, len: u8) -> Self {
        let len = if len > 32 { 32 } else { len };
        let mask = if len == 0 { 0 } else { u32::MAX << (32 - u32::from(len)) };
        let mask = Addr4(mask.to_be());
        Self { addr: Addr4(Addr4::from(addr).0 & mask.0), mask }
    }

    /// Whether the prefix holds the address. The empty prefix holds none.
    #[inline(always)]
    pub const fn contains(&self, addr: Addr4) -> bool {
        self.mask.0 != 0 && addr.0 & self.mask.0 == self.addr.0
    }
}

abi_struct! {
    /// An IPv6 prefix. All zero is the *empty* prefix (it contains nothing), not ::/0.
    pub struct Cidr6: 32 {
        /// Network address, host bits zero.
        pub addr: Addr6 = 0,
        /// Mask in network byte order, as an address is.
        pub mask: Addr6 = 16,
    }
}

impl Cidr6 {
    /// The prefix of `len` bits (0 to 128, more is taken as 128) around `addr`. A length of 0 gives the empty prefix.
    pub fn new(addr: Ipv6Addr, len: u8) -> Self {
        let len = u32::from(len.min(128));
        let mask = if len == 0 { 0 } else { u128::MAX << (128 - len) };
        Self { addr: Ipv6Addr::from(u128::from(addr) & mask).into(), mask: Ipv6Addr::from(mask).into() }
    }

    /// Whether the prefix holds the address. The empty prefix holds none.
    #[inline(always)]
    pub const fn contains(&self, addr: Addr6) -> bool {
        let ([a, b, c, d], [p, q, r, s], [w, x, y, z]) = (addr.0, self.mask.0, self.addr.0);
        p != 0 && ((a & p) ^ w) | ((b & q) ^ x) | ((c & r) ^ y) | ((d & s) ^ z) == 0
    }
}

#[cfg(feature = "user")]
mod pod {
    #![expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait")]
    // SAFETY: transparent over an integer.
    unsafe impl aya::Pod for super::Addr4 {}
    // SAFETY: transparent over integers.
    unsafe impl aya::Pod for super::Addr6 {}
    // SAFETY: transparent over an integer.
    unsafe impl aya::Pod for super::Port {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_in_memory_are_bytes_on_the_wire() {
        let addr = Addr4::from(Ipv4Addr::new(10, 96, 0, 1));
        assert_eq!(addr.0.to_ne_bytes(), [10, 96, 0, 1]);
        assert_eq!(Port::new(443).0.to_ne_bytes(), [0x01, 0xbb]);
        assert_eq!(Port::new(443).get(), 443);
    }

    #[test]
    fn both_families_fit_into_the_long_address() {
        let ip: Ipv6Addr = "fd00:10:96::7".parse().unwrap();
        let addr = Addr6::from(ip);
        assert_eq!(addr.octets(), ip.octets());
        assert_eq!((addr.v4(), addr.ip()), (None, ip.into()));
        let addr = Addr6::from(Ipv4Addr::new(10, 96, 0, 1));
        assert_eq!(addr.octets(), Addr4::new([10, 96, 0, 1]).mapped());
        assert_eq!((addr.v4(), addr.ip()), (Some(Addr4::new([10, 96, 0, 1])), IpAddr::from([10, 96, 0, 1])));
        // The node's "any address" is one of each family.
        assert_ne!(Addr6::ANY, Addr6::mapped(Addr4::ANY));
        assert_eq!(Addr6::ANY.v4(), None);
    }

    #[test]
    fn prefix_holds_its_own_and_nothing_else() {
        let cidr = Cidr4::new(Ipv4Addr::new(10, 244, 3, 7), 24);
        assert_eq!(cidr.addr, Addr4::new([10, 244, 3, 0]));
        assert!(cidr.contains(Addr4::new([10, 244, 3, 255])));
        assert!(!cidr.contains(Addr4::new([10, 244, 4, 0])));
        assert!(!Cidr4::default().contains(Addr4::new([0, 0, 0, 0])));
        let addr = |text: &str| Addr6::from(text.parse::<Ipv6Addr>().unwrap());
        let cidr = Cidr6::new("fd00:10:244:3::7".parse().unwrap(), 60);
        assert_eq!(cidr.addr, addr("fd00:10:244::"));
        assert!(cidr.contains(addr("fd00:10:244:f:ffff::1")) && !cidr.contains(addr("fd00:10:244:10::1")));
        assert!(!cidr.contains(addr("fd01:10:244::")) && !Cidr6::default().contains(Addr6::ANY));
        assert!(Cidr6::new("fd00::1".parse().unwrap(), 128).contains(addr("fd00::1")));
    }

    #[test]
    fn kinds_of_addresses_are_told_apart() {
        let addr = |text: &str| Addr6::from(text.parse::<Ipv6Addr>().unwrap());
        assert!(addr("fe80::1").is_link_local() && addr("febf::1").is_link_local());
        assert!(!addr("fec0::1").is_link_local() && !addr("fd00::1").is_link_local());
        assert!(addr("ff02::1").is_multicast() && !addr("fe80::1").is_multicast());
    }
}
