//! What differs between families: the words of the context that a hook may touch, and the maps of an address's length.
//!
//! ```text
//!  hook     address           Family   Address  maps
//!  *4       a.b.c.d           V4       Addr4    SERVICES     NODES     SOCK_FLOWS     SOCK_NAT
//!  *6       ::ffff:a.b.c.d    Mapped   Addr4    the same
//!  *6       any other         V6       Addr6    SERVICES_V6  NODES_V6  SOCK_FLOWS_V6  SOCK_NAT_V6
//! ```
//!
//! Backends, members and affinity are shared. May not know: which backend is chosen, and when.

use aya_ebpf::bindings::{BPF_ANY, bpf_sock_addr};
use strake_abi::config::Config;
use strake_abi::endpoint::PodNetns;
use strake_abi::flow::Hook;
use strake_abi::service::{SCOPE_INTERNAL, SERVICE_ADMITS_PODS, Service};
use strake_abi::sock::{SockFlow, SockFlow6, SockNat, SockNat6, SockNatKey, SockNatKey6};
use strake_abi::{Addr4, Addr6, Port};

use crate::maps::{SOCK_FLOWS, SOCK_FLOWS_V6, SOCK_NAT, SOCK_NAT_V6, get};
use crate::report;
use crate::service::{self, Target, Wide};

/// An address and a port.
#[derive(Clone, Copy, PartialEq)]
pub struct End<A> {
    pub addr: A,
    pub port: Port,
}

/// The ids of a choice: a Service's and its backend's.
#[derive(Clone, Copy)]
pub struct Ids {
    pub service: u32,
    pub backend: u32,
}

/// A row of `SOCK_NAT` or `SOCK_NAT_V6`.
pub struct Nat<A: 'static> {
    pub other: End<A>,
    pub ids: Ids,
    pub last_used_s: &'static mut u32,
}

/// What the maps of one length of address hold.
pub trait Address: Wide + PartialEq + 'static {
    fn service(config: &Config, asked: End<Self>, proto: u8) -> Option<&'static Service>;

    /// Whether a Service with source ranges admits a Pod.
    fn admits(service: &Service, pod: &PodNetns) -> bool;

    /// Remembers that a connected socket asked for one end and was given another. Without a row the connection works
    /// and only its name is lost.
    fn put_flow(cookie: u64, asked: End<Self>, given: End<Self>, ids: Ids, proto: u8);

    /// What a connected socket asked for, and what was chosen, if `given` is what it was given.
    fn chosen(cookie: u64, given: End<Self>) -> Option<(End<Self>, Ids)>;

    /// The end that a connected socket asked for, if `given` is what it was given.
    #[inline(always)]
    fn asked(cookie: u64, given: End<Self>) -> Option<End<Self>> {
        Self::chosen(cookie, given).map(|(asked, _)| asked)
    }

    /// Remembers one direction of an unconnected socket. Without a row the datagram goes out; the next may choose
    /// another backend, and the answer shows its address.
    fn put_nat(cookie: u64, direction: u16, at: End<Self>, other: End<Self>, ids: Ids, now_s: u32);

    fn nat(cookie: u64, direction: u16, at: End<Self>) -> Option<Nat<Self>>;

    /// Into an event; the field is zero.
    fn tell(self, field: &mut [u8; 16]);
}

/// Both lengths have the same rows, but for the addresses and the padding of a key.
macro_rules! rows {
    ($flow:ident in $flows:ident, $key:ident $({ $($reserved:ident)+ })? -> $nat:ident in $nats:ident) => {
        #[inline(always)]
        fn put_flow(cookie: u64, asked: End<Self>, given: End<Self>, ids: Ids, proto: u8) {
            let row = $flow {
                vip: asked.addr,
                backend: given.addr,
                vip_port: asked.port,
                backend_port: given.port,
                service_id: ids.service,
                backend_id: ids.backend,
                proto: u32::from(proto),
            };
            let _ = $flows.insert(&cookie, &row, u64::from(BPF_ANY));
        }

        #[inline(always)]
        fn chosen(cookie: u64, given: End<Self>) -> Option<(End<Self>, Ids)> {
            let row = get!($flows, &cookie)?;
            let same = row.backend == given.addr && row.backend_port == given.port;
            let ids = Ids { service: row.service_id, backend: row.backend_id };
            same.then(|| (End { addr: row.vip, port: row.vip_port }, ids))
        }

        #[inline(always)]
        fn put_nat(cookie: u64, direction: u16, at: End<Self>, other: End<Self>, ids: Ids, now_s: u32) {
            let key = $key { cookie, addr: at.addr, port: at.port, direction $($(, $reserved: 0)+)? };
            let row = $nat {
                addr: other.addr,
                port: other.port,
                reserved: 0,
                service_id: ids.service,
                backend_id: ids.backend,
                last_used_s: now_s,
            };
            let _ = $nats.insert(&key, &row, u64::from(BPF_ANY));
        }

        #[inline(always)]
        fn nat(cookie: u64, direction: u16, at: End<Self>) -> Option<Nat<Self>> {
            let key = $key { cookie, addr: at.addr, port: at.port, direction $($(, $reserved: 0)+)? };
            // SAFETY: see `maps::get`; the field that is written is a word.
            let row = unsafe { &mut *$nats.get_ptr_mut(&key)? };
            Some(Nat {
                other: End { addr: row.addr, port: row.port },
                ids: Ids { service: row.service_id, backend: row.backend_id },
                last_used_s: &mut row.last_used_s,
            })
        }
    };
}

impl Address for Addr4 {
    #[inline(always)]
    fn service(config: &Config, asked: End<Self>, proto: u8) -> Option<&'static Service> {
        service::find(config, asked.addr, asked.port, proto, SCOPE_INTERNAL)
    }

    #[inline(always)]
    fn admits(service: &Service, pod: &PodNetns) -> bool {
        service::admits(service, pod.ip)
    }

    rows!(SockFlow in SOCK_FLOWS, SockNatKey -> SockNat in SOCK_NAT);

    #[inline(always)]
    fn tell(self, field: &mut [u8; 16]) {
        report::map(field, self);
    }
}

impl Address for Addr6 {
    #[inline(always)]
    fn service(config: &Config, asked: End<Self>, proto: u8) -> Option<&'static Service> {
        service::find6(config, asked.addr, asked.port, proto, SCOPE_INTERNAL)
    }

    #[inline(always)]
    fn admits(service: &Service, _: &PodNetns) -> bool {
        service.flags & SERVICE_ADMITS_PODS != 0
    }

    rows!(SockFlow6 in SOCK_FLOWS_V6, SockNatKey6 { reserved } -> SockNat6 in SOCK_NAT_V6);

    #[inline(always)]
    fn tell(self, field: &mut [u8; 16]) {
        *field = self.octets();
    }
}

impl<A> From<&Target<A>> for End<A>
where
    A: Copy,
{
    #[inline(always)]
    fn from(target: &Target<A>) -> Self {
        Self { addr: target.addr, port: target.port }
    }
}

/// Where the context holds the address. A program may touch the words of its own hook only, so what is not inlined is
/// compiled once for each.
pub trait Family: Copy {
    type Addr: Address;
    const CONNECT: Hook;
    const SENDMSG: Hook;

    /// # Safety
    ///
    /// The context is that of the running program, and its address is of this family; so below.
    unsafe fn read(ctx: *const bpf_sock_addr) -> Self::Addr;

    /// # Safety
    ///
    /// See `read`.
    unsafe fn write(ctx: *mut bpf_sock_addr, addr: Self::Addr);
}

/// The hooks of `AF_INET` addresses.
#[derive(Clone, Copy)]
pub struct V4;

impl Family for V4 {
    type Addr = Addr4;
    const CONNECT: Hook = Hook::SockConnect4;
    const SENDMSG: Hook = Hook::SockSendmsg4;

    #[inline(always)]
    unsafe fn read(ctx: *const bpf_sock_addr) -> Addr4 {
        // SAFETY: said by the caller.
        Addr4(unsafe { (*ctx).user_ip4 })
    }

    #[inline(always)]
    unsafe fn write(ctx: *mut bpf_sock_addr, addr: Addr4) {
        // SAFETY: said by the caller; the field may be written.
        unsafe { (*ctx).user_ip4 = addr.0 };
    }
}

/// The hooks of `AF_INET6` addresses, where the address is IPv4-mapped.
#[derive(Clone, Copy)]
pub struct Mapped;

impl Family for Mapped {
    type Addr = Addr4;
    const CONNECT: Hook = Hook::SockConnect6;
    // Such a datagram does not come by sendmsg6: the kernel hands it to sendmsg4.
    const SENDMSG: Hook = Hook::SockSendmsg4;

    #[inline(always)]
    unsafe fn read(ctx: *const bpf_sock_addr) -> Addr4 {
        // SAFETY: said by the caller.
        Addr4(unsafe { word(ctx, 3) })
    }

    #[inline(always)]
    unsafe fn write(ctx: *mut bpf_sock_addr, addr: Addr4) {
        // SAFETY: said by the caller; the field may be written, and the other words are those of a mapped address.
        unsafe { (&raw mut (*ctx).user_ip6[3]).write_volatile(addr.0) };
    }
}

/// The hooks of `AF_INET6` addresses, where the address is IPv6's own.
#[derive(Clone, Copy)]
pub struct V6;

impl Family for V6 {
    type Addr = Addr6;
    const CONNECT: Hook = Hook::SockConnect6;
    const SENDMSG: Hook = Hook::SockSendmsg6;

    #[inline(always)]
    unsafe fn read(ctx: *const bpf_sock_addr) -> Addr6 {
        // SAFETY: said by the caller.
        unsafe { Addr6([word(ctx, 0), word(ctx, 1), word(ctx, 2), word(ctx, 3)]) }
    }

    #[inline(always)]
    unsafe fn write(ctx: *mut bpf_sock_addr, addr: Addr6) {
        let [a, b, c, d] = addr.0;
        // SAFETY: said by the caller; the field may be written.
        unsafe {
            (&raw mut (*ctx).user_ip6[0]).write_volatile(a);
            (&raw mut (*ctx).user_ip6[1]).write_volatile(b);
            (&raw mut (*ctx).user_ip6[2]).write_volatile(c);
            (&raw mut (*ctx).user_ip6[3]).write_volatile(d);
        }
    }
}

/// One of the four words of an IPv6 address: volatile, for 32 bits at a time are what every kernel lets a program read.
///
/// # Safety
///
/// See [`Family::read`].
#[inline(always)]
unsafe fn word(ctx: *const bpf_sock_addr, i: usize) -> u32 {
    // SAFETY: said by the caller.
    unsafe { (&raw const (*ctx).user_ip6[i]).read_volatile() }
}

/// Whether an `AF_INET6` hook was called with an IPv4-mapped address.
///
/// # Safety
///
/// The context is that of the running program.
#[inline(always)]
pub unsafe fn is_mapped(ctx: *const bpf_sock_addr) -> bool {
    let [a, b, c, _] = Addr6::mapped(Addr4::ANY).0;
    // SAFETY: said by the caller.
    unsafe { word(ctx, 0) == a && word(ctx, 1) == b && word(ctx, 2) == c }
}
