//! Socket hooks: a VIP becomes a backend when a program connects or sends, and no packet carries the VIP.
//!
//! ```text
//!  connect(VIP)  -> connect4: choose, SOCK_FLOWS[cookie] = (VIP, backend)      getpeername4: backend -> VIP
//!  sendto(VIP)   -> sendmsg4: SOCK_NAT[cookie, VIP] or choose                  recvmsg4:     backend -> VIP
//!  close()       -> sock_release: SOCK_FLOWS[cookie] is deleted
//! ```
//!
//! An `AF_INET6` socket that dials `::ffff:a.b.c.d` comes by connect6, recvmsg6 and getpeername6, and is served by the
//! same Service, rows and affinity. (Its sendto() needs nothing: the kernel hands it to sendmsg4.)
//!
//! The cluster DNS address is in no row of `SERVICES`, so that questions reach `from_pod` as they are.

use core::marker::PhantomData;

use aya_ebpf::bindings::{BPF_ANY, bpf_sock_addr};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval,
};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use aya_ebpf::{EbpfContext, Global};
use strake_abi::config::Config;
use strake_abi::conntrack::Tuple4;
use strake_abi::endpoint::{ENDPOINT_NO_SOCKET, PodNetns};
use strake_abi::flow::{Counter, DropReason, EventKind, Hook, Verdict};
use strake_abi::service::{Backend, SCOPE_INTERNAL, SERVICE_DROP_IF_EMPTY, SERVICE_NO_SOCKET, Service};
use strake_abi::sock::{SOCK_NAT_FORWARD, SOCK_NAT_REVERSE, SockFlow, SockNat, SockNatKey};
use strake_abi::{Addr4, Port, proto};
use strake_logic::choose::is_fresh;

use crate::maps::{self, PODS_BY_NETNS, SOCK_FLOWS, SOCK_NAT, get};
use crate::report::{Event, count, count_drop, now_ns, seconds};
use crate::service;

/// The system call goes on.
const ALLOW: i32 = 1;
/// The system call fails: with EPERM, or with what `bpf_set_retval` said.
const DENY: i32 = 0;
const ECONNREFUSED: i32 = 111;

/// See `strake_abi::config::HAVE_SET_RETVAL`. While it is 0 the verifier never sees the call.
#[unsafe(no_mangle)]
static HAVE_SET_RETVAL: Global<u8> = Global::new(0);

/// Where the context holds the address. A program may touch the words of its own family only, so what is not inlined
/// is compiled once for each.
trait Family: Copy {
    const CONNECT: Hook;
    const SENDMSG: Hook;

    /// None if the address is not of this family.
    ///
    /// # Safety
    ///
    /// The context is that of the running program; so below.
    unsafe fn read(ctx: *const bpf_sock_addr) -> Option<Addr4>;

    /// # Safety
    ///
    /// See `read`.
    unsafe fn write(ctx: *mut bpf_sock_addr, addr: Addr4);
}

/// The hooks of `AF_INET` addresses.
#[derive(Clone, Copy)]
struct V4;

impl Family for V4 {
    const CONNECT: Hook = Hook::SockConnect4;
    const SENDMSG: Hook = Hook::SockSendmsg4;

    #[inline(always)]
    unsafe fn read(ctx: *const bpf_sock_addr) -> Option<Addr4> {
        // SAFETY: said by the caller.
        Some(Addr4(unsafe { (*ctx).user_ip4 }))
    }

    #[inline(always)]
    unsafe fn write(ctx: *mut bpf_sock_addr, addr: Addr4) {
        // SAFETY: said by the caller; the field may be written.
        unsafe { (*ctx).user_ip4 = addr.0 };
    }
}

/// The hooks of `AF_INET6` addresses, where they are IPv4-mapped.
#[derive(Clone, Copy)]
struct Mapped;

impl Family for Mapped {
    const CONNECT: Hook = Hook::SockConnect6;
    const SENDMSG: Hook = Hook::SockSendmsg4;

    #[inline(always)]
    unsafe fn read(ctx: *const bpf_sock_addr) -> Option<Addr4> {
        // SAFETY: said by the caller. Volatile, for words of 32 bits are what every kernel lets a program read.
        let word = |i: usize| unsafe { (&raw const (*ctx).user_ip6[i]).read_volatile() };
        (word(0) == 0 && word(1) == 0 && word(2) == MAPPED).then(|| Addr4(word(3)))
    }

    #[inline(always)]
    unsafe fn write(ctx: *mut bpf_sock_addr, addr: Addr4) {
        // SAFETY: said by the caller; the field may be written, and the other words are those of a mapped address.
        unsafe { (&raw mut (*ctx).user_ip6[3]).write_volatile(addr.0) };
    }
}

/// The third word of `::ffff:0.0.0.0`.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// What a socket hook knows.
#[derive(Clone, Copy)]
struct Socket<F> {
    ctx: *mut bpf_sock_addr,
    addr: Addr4,
    port: Port,
    proto: u8,
    family: PhantomData<F>,
}

impl<F: Family> Socket<F> {
    #[inline(always)]
    fn of(ctx: &SockAddrContext) -> Option<Self> {
        let ctx = ctx.sock_addr;
        // SAFETY: the context is valid while the program runs; so below.
        unsafe {
            Some(Self {
                ctx,
                addr: F::read(ctx)?,
                port: Port((*ctx).user_port as u16),
                proto: (*ctx).protocol as u8,
                family: PhantomData,
            })
        }
    }

    #[inline(always)]
    fn cookie(self) -> u64 {
        // SAFETY: see `of`.
        unsafe { bpf_get_socket_cookie(self.ctx.cast()) }
    }

    #[inline(always)]
    fn netns_cookie(self) -> u64 {
        // SAFETY: see `of`.
        unsafe { bpf_get_netns_cookie(self.ctx.cast()) }
    }

    #[inline(always)]
    fn set(self, addr: Addr4, port: Port) {
        // SAFETY: see `of`; the port may be written.
        unsafe {
            F::write(self.ctx, addr);
            (*self.ctx).user_port = u32::from(port.0);
        }
    }
}

/// What is to become of a socket's address.
enum Answer {
    /// Nothing.
    Leave,
    /// This backend of this Service. The client is a Pod's address, or the node's.
    Use(Backend),
    /// An error.
    Refuse,
}

#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    connecting::<V4>(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    connecting::<Mapped>(&ctx)
}

#[inline(always)]
fn connecting<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(socket) = Socket::<F>::of(ctx) else { return ALLOW };
    let Some(config) = maps::config() else { return ALLOW };
    if socket.proto != proto::TCP && socket.proto != proto::UDP {
        return ALLOW;
    }
    let Some(service) = service::find(config, socket.addr, socket.port, socket.proto, SCOPE_INTERNAL) else {
        return ALLOW;
    };
    connect(socket, service, config)
}

#[inline(never)]
fn connect<F: Family>(socket: Socket<F>, service: &Service, config: &Config) -> i32 {
    let backend = match choose(&socket, F::CONNECT, service, config) {
        Answer::Leave => return ALLOW,
        Answer::Refuse => return DENY,
        Answer::Use(backend) => backend,
    };
    let cookie = socket.cookie();
    let flow = SockFlow {
        vip: socket.addr,
        backend: backend.addr,
        vip_port: socket.port,
        backend_port: backend.port,
        service_id: service.id,
        backend_id: backend.id,
        proto: u32::from(socket.proto),
    };
    // Without a row the connection works and only its name is lost.
    let _ = SOCK_FLOWS.insert(&cookie, &flow, u64::from(BPF_ANY));
    socket.set(backend.addr, backend.port);
    count(Counter::SockConnect);
    tell(&socket, F::CONNECT, service, Some(&backend), DropReason::None);
    ALLOW
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    sending::<V4>(&ctx)
}

#[inline(always)]
fn sending<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(socket) = Socket::<F>::of(ctx) else { return ALLOW };
    let Some(config) = maps::config() else { return ALLOW };
    if socket.proto != proto::UDP {
        return ALLOW;
    }
    let Some(service) = service::find(config, socket.addr, socket.port, socket.proto, SCOPE_INTERNAL) else {
        return ALLOW;
    };
    sendmsg(socket, service, config)
}

#[inline(never)]
fn sendmsg<F: Family>(socket: Socket<F>, service: &Service, config: &Config) -> i32 {
    let cookie = socket.cookie();
    let now_s = seconds(now_ns());
    let forward = SockNatKey { cookie, addr: socket.addr, port: socket.port, direction: SOCK_NAT_FORWARD };
    if let Some(row) = SOCK_NAT.get_ptr_mut(&forward) {
        // SAFETY: see `maps::get`.
        let row = unsafe { &mut *row };
        if row.service_id == service.id && is_fresh(now_s, row.last_used_s, config.udp_timeout_s) {
            if let Some(backend) = service::is_member(service.id, row.backend_id) {
                row.last_used_s = now_s;
                remember_vip(&socket, cookie, service, backend, now_s);
                socket.set(backend.addr, backend.port);
                count(Counter::SockSendmsg);
                return ALLOW;
            }
            count(Counter::BackendReplaced);
        }
    }
    let backend = match choose(&socket, F::SENDMSG, service, config) {
        Answer::Leave => return ALLOW,
        Answer::Refuse => return DENY,
        Answer::Use(backend) => backend,
    };
    let value = SockNat {
        addr: backend.addr,
        port: backend.port,
        reserved: 0,
        service_id: service.id,
        backend_id: backend.id,
        last_used_s: now_s,
    };
    // Without rows the datagram goes out; the next may choose another backend, and the answer shows its address.
    let _ = SOCK_NAT.insert(&forward, &value, u64::from(BPF_ANY));
    remember_vip(&socket, cookie, service, &backend, now_s);
    socket.set(backend.addr, backend.port);
    count(Counter::SockSendmsg);
    tell(&socket, F::SENDMSG, service, Some(&backend), DropReason::None);
    ALLOW
}

/// The row that recvmsg needs, if it is not there (any more).
#[inline(never)]
fn remember_vip<F: Family>(socket: &Socket<F>, cookie: u64, service: &Service, backend: &Backend, now_s: u32) {
    let key = SockNatKey { cookie, addr: backend.addr, port: backend.port, direction: SOCK_NAT_REVERSE };
    if let Some(row) = get!(SOCK_NAT, &key)
        && row.addr == socket.addr
        && row.port == socket.port
    {
        return;
    }
    let value = SockNat {
        addr: socket.addr,
        port: socket.port,
        reserved: 0,
        service_id: service.id,
        backend_id: backend.id,
        last_used_s: now_s,
    };
    let _ = SOCK_NAT.insert(&key, &value, u64::from(BPF_ANY));
}

#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    received::<V4>(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    received::<Mapped>(&ctx)
}

#[inline(always)]
fn received<F: Family>(ctx: &SockAddrContext) -> i32 {
    let Some(socket) = Socket::<F>::of(ctx) else { return ALLOW };
    let cookie = socket.cookie();
    let key = SockNatKey { cookie, addr: socket.addr, port: socket.port, direction: SOCK_NAT_REVERSE };
    if let Some(row) = get!(SOCK_NAT, &key) {
        socket.set(row.addr, row.port);
        count(Counter::SockRecvmsg);
        return ALLOW;
    }
    if show_vip(&socket, cookie) {
        count(Counter::SockRecvmsg);
    }
    ALLOW
}

#[cgroup_sock_addr(getpeername4)]
pub fn sock_getpeer4(ctx: SockAddrContext) -> i32 {
    peer::<V4>(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
pub fn sock_getpeer6(ctx: SockAddrContext) -> i32 {
    peer::<Mapped>(&ctx)
}

#[inline(always)]
fn peer<F: Family>(ctx: &SockAddrContext) -> i32 {
    if let Some(socket) = Socket::<F>::of(ctx) {
        show_vip(&socket, socket.cookie());
    }
    ALLOW
}

/// Shows the VIP in place of the backend that a connected socket was given.
#[inline(always)]
fn show_vip<F: Family>(socket: &Socket<F>, cookie: u64) -> bool {
    if let Some(flow) = get!(SOCK_FLOWS, &cookie)
        && flow.backend == socket.addr
        && flow.backend_port == socket.port
    {
        socket.set(flow.vip, flow.vip_port);
        return true;
    }
    false
}

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    // SAFETY: the context is valid while the program runs.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // Most sockets have no row.
    let _ = SOCK_FLOWS.remove(&cookie);
    ALLOW
}

/// The backend for a socket that asks for a Service.
#[inline(never)]
fn choose<F: Family>(socket: &Socket<F>, hook: Hook, service: &Service, config: &Config) -> Answer {
    if service.flags & SERVICE_NO_SOCKET != 0 {
        return Answer::Leave;
    }
    let netns = socket.netns_cookie();
    let pod = if netns == config.host_netns_cookie { None } else { get!(PODS_BY_NETNS, &netns) };
    if let Some(pod) = pod
        && pod.flags & u32::from(ENDPOINT_NO_SOCKET) != 0
    {
        count(Counter::SockOptOut);
        return Answer::Leave;
    }
    if service.backend_count != 0 {
        // In somebody else's Pod the namespace stands for its address, as one of 0.0.0.0/8, which no client has.
        let client = match pod {
            Some(pod) => pod.ip,
            None if netns == config.host_netns_cookie => config.node_ip,
            None => Addr4((netns as u32 & 0x00ff_ffff).to_be()),
        };
        if let Some(backend) = service::choose(service, client, seconds(now_ns())) {
            return Answer::Use(backend);
        }
    }
    refuse(socket, hook, service, pod)
}

/// No endpoint. As close to "connection refused" as the kernel allows: the error itself where `bpf_set_retval` can set
/// it, else the VIP on the wire for `from_pod` to answer, else (a process of the node) EPERM.
#[inline(always)]
fn refuse<F: Family>(socket: &Socket<F>, hook: Hook, service: &Service, pod: Option<&PodNetns>) -> Answer {
    let silent = service.flags & SERVICE_DROP_IF_EMPTY != 0;
    let helper = HAVE_SET_RETVAL.load() != 0;
    if pod.is_some() && (silent || !helper) {
        return Answer::Leave;
    }
    if helper {
        // SAFETY: no memory is involved.
        unsafe { bpf_set_retval(-ECONNREFUSED) };
    }
    count_drop(DropReason::NoEndpoints);
    tell(socket, hook, service, None, DropReason::NoEndpoints);
    Answer::Refuse
}

/// Sends the event of a choice or of a refusal.
#[inline(never)]
fn tell<F: Family>(socket: &Socket<F>, hook: Hook, service: &Service, backend: Option<&Backend>, reason: DropReason) {
    let Some(config) = maps::config() else { return };
    let refused = reason as u8 != DropReason::None as u8;
    let (cookie, netns) = (socket.cookie(), socket.netns_cookie());
    let src = get!(PODS_BY_NETNS, &netns).map_or(Addr4::ANY, |pod| pod.ip);
    let (to, to_port, backend_id) = backend.map_or((socket.addr, socket.port, 0), |b| (b.addr, b.port, b.id));
    let kind = if refused { EventKind::Drop } else { EventKind::Connect };
    let Some(mut event) = Event::begin(config, kind, hook, socket.proto) else { return };
    let asked = Tuple4 { src, dst: socket.addr, sport: Port(0), dport: socket.port };
    event.ends(&asked, to, to_port);
    let fields = event.fields();
    if src == Addr4::ANY {
        fields.src = [0; 16];
    }
    fields.timestamp_ns = now_ns();
    fields.cookie = cookie;
    fields.netns_cookie = netns;
    fields.verdict = if refused { Verdict::Rejected } else { Verdict::Forwarded } as u8;
    fields.reason = reason as u8;
    fields.service_id = service.id;
    fields.backend_id = backend_id;
    // SAFETY: no memory is involved; so below.
    fields.cgroup_id = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: see above.
    fields.pid = unsafe { bpf_get_current_pid_tgid() >> 32 } as u32;
    event.submit();
}
