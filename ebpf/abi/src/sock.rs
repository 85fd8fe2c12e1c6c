//! What the socket hooks remember, by socket cookie (`SO_COOKIE`, unique while the machine runs).
//!
//! A connected socket has one row in `SOCK_FLOWS`, deleted when it is released. An unconnected UDP socket has two rows
//! in `SOCK_NAT` for each Service it talks to: forward (VIP -> backend, the stickiness) and reverse (backend -> VIP,
//! for recvmsg). Both maps are LRU: what is lost is a name, never a packet of an established connection.

use crate::addr::{Addr4, Addr6, Port};
use crate::macros::abi_struct;

/// LRU hash `u64` (cookie) -> [`SockFlow`].
pub const SOCK_FLOWS: &str = "SOCK_FLOWS";
/// LRU hash [`SockNatKey`] -> [`SockNat`].
pub const SOCK_NAT: &str = "SOCK_NAT";
/// LRU hash `u64` (cookie) -> [`SockFlow6`]. An IPv6 socket that used an IPv4-mapped address has its row in `SOCK_FLOWS`.
pub const SOCK_FLOWS_V6: &str = "SOCK_FLOWS_V6";
/// LRU hash [`SockNatKey6`] -> [`SockNat6`].
pub const SOCK_NAT_V6: &str = "SOCK_NAT_V6";

abi_struct! {
    /// The Service that a connected socket used.
    pub struct SockFlow: 24 {
        /// What the program asked for.
        pub vip: Addr4 = 0,
        /// What it was given.
        pub backend: Addr4 = 4,
        /// Port of `vip`.
        pub vip_port: Port = 8,
        /// Port of `backend`.
        pub backend_port: Port = 10,
        /// [`crate::service::Service::id`].
        pub service_id: u32 = 12,
        /// [`crate::service::Backend::id`].
        pub backend_id: u32 = 16,
        /// IANA protocol number (as `u32`, no padding).
        pub proto: u32 = 20,
    }
}

/// [`SockNatKey::direction`]: the key holds the VIP, the value the backend.
pub const SOCK_NAT_FORWARD: u16 = 0;
/// [`SockNatKey::direction`]: the key holds the backend, the value the VIP.
pub const SOCK_NAT_REVERSE: u16 = 1;

abi_struct! {
    /// One address that an unconnected UDP socket sends to or hears from.
    pub struct SockNatKey: 16 {
        /// Socket cookie.
        pub cookie: u64 = 0,
        /// VIP or backend.
        pub addr: Addr4 = 8,
        /// Its port.
        pub port: Port = 12,
        /// [`SOCK_NAT_FORWARD`] or [`SOCK_NAT_REVERSE`].
        pub direction: u16 = 14,
    }
}

abi_struct! {
    /// The other address.
    pub struct SockNat: 20 {
        /// Backend or VIP.
        pub addr: Addr4 = 0,
        /// Its port.
        pub port: Port = 4,
        /// Zero.
        pub reserved: u16 = 6,
        /// [`crate::service::Service::id`].
        pub service_id: u32 = 8,
        /// [`crate::service::Backend::id`].
        pub backend_id: u32 = 12,
        /// Seconds of `CLOCK_MONOTONIC` at the last datagram.
        pub last_used_s: u32 = 16,
    }
}

abi_struct! {
    /// [`SockFlow`] of IPv6.
    pub struct SockFlow6: 48 {
        /// What the program asked for.
        pub vip: Addr6 = 0,
        /// What it was given.
        pub backend: Addr6 = 16,
        /// Port of `vip`.
        pub vip_port: Port = 32,
        /// Port of `backend`.
        pub backend_port: Port = 34,
        /// [`crate::service::Service::id`].
        pub service_id: u32 = 36,
        /// [`crate::service::Backend::id`].
        pub backend_id: u32 = 40,
        /// IANA protocol number (as `u32`, no padding).
        pub proto: u32 = 44,
    }
}

abi_struct! {
    /// [`SockNatKey`] of IPv6.
    pub struct SockNatKey6: 32 {
        /// Socket cookie.
        pub cookie: u64 = 0,
        /// VIP or backend.
        pub addr: Addr6 = 8,
        /// Its port.
        pub port: Port = 24,
        /// [`SOCK_NAT_FORWARD`] or [`SOCK_NAT_REVERSE`].
        pub direction: u16 = 26,
        /// Zero.
        pub reserved: u32 = 28,
    }
}

abi_struct! {
    /// [`SockNat`] of IPv6.
    pub struct SockNat6: 32 {
        /// Backend or VIP.
        pub addr: Addr6 = 0,
        /// Its port.
        pub port: Port = 16,
        /// Zero.
        pub reserved: u16 = 18,
        /// [`crate::service::Service::id`].
        pub service_id: u32 = 20,
        /// [`crate::service::Backend::id`].
        pub backend_id: u32 = 24,
        /// Seconds of `CLOCK_MONOTONIC` at the last datagram.
        pub last_used_s: u32 = 28,
    }
}
