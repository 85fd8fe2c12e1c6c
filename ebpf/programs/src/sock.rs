//! Socket hooks: a VIP becomes a backend when a program connects or sends, and no packet carries the VIP.
//!
//! ```text
//!  connect(VIP)  -> connect4,6: choose, SOCK_FLOWS[cookie] = (VIP, backend)      getpeername4,6: backend -> VIP
//!  sendto(VIP)   -> sendmsg4,6: SOCK_NAT[cookie, VIP] or choose                  recvmsg4,6:     backend -> VIP
//!  close()       -> sock_release: SOCK_FLOWS[cookie] is deleted
//! ```
//!
//! An `AF_INET6` socket that dials `::ffff:a.b.c.d` comes by connect6, recvmsg6 and getpeername6, and is served by the
//! same Service, rows and affinity as an `AF_INET` one. (Its sendto() needs nothing: the kernel hands it to sendmsg4.)
//! What differs between the two and IPv6 proper is in [`crate::family`].
//!
//! The cluster DNS address is in no row of `SERVICES`, so that questions reach `from_pod` as they are.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval,
};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use aya_ebpf::{EbpfContext, Global};
use strake_abi::config::{Config, HANDOVER};
use strake_abi::endpoint::{ENDPOINT_NO_SOCKET, PodNetns};
use strake_abi::flow::{Counter, DropReason, EventKind, Hook, Verdict};
use strake_abi::service::{
    SERVICE_ADMITS_NODE, SERVICE_ADMITS_PODS, SERVICE_DROP_IF_EMPTY, SERVICE_NO_SOCKET, Service,
};
use strake_abi::sock::{SOCK_NAT_FORWARD, SOCK_NAT_REVERSE};
use strake_abi::{Addr4, Port, proto};
use strake_logic::choose::is_fresh;

use crate::family::{Address, End, Family, Ids, Mapped, V4, V6, is_mapped};
use crate::maps::{self, PODS_BY_NETNS, SOCK_FLOWS, SOCK_FLOWS_V6, get};
use crate::report::{self, Event, count, count_drop, now_ns, seconds};
use crate::service::{self, Target};

/// The system call goes on.
const ALLOW: i32 = 1;
/// The system call fails: with EPERM, or with what `bpf_set_retval` said.
const DENY: i32 = 0;
const EPERM: i32 = 1;
const ETIMEDOUT: i32 = 110;
const ECONNREFUSED: i32 = 111;
const AF_INET6: u32 = 10;

/// See `strake_abi::config::HAVE_SET_RETVAL`. While it is 0 the verifier never sees the call.
#[unsafe(no_mangle)]
static HAVE_SET_RETVAL: Global<u8> = Global::new(0);

/// What a socket hook knows.
#[derive(Clone, Copy)]
struct Socket<F: Family> {
    ctx: *mut bpf_sock_addr,
    /// The other side.
    end: End<F::Addr>,
    proto: u8,
}

impl<F: Family> Socket<F> {
    #[inline(always)]
    fn of(ctx: &SockAddrContext) -> Self {
        let ctx = ctx.sock_addr;
        // SAFETY: the context is valid while the program runs, and the entry points below tell families apart.
        unsafe {
            Self {
                ctx,
                end: End { addr: F::read(ctx), port: Port((*ctx).user_port as u16) },
                proto: (*ctx).protocol as u8,
            }
        }
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: see `of`.
        unsafe { bpf_get_socket_cookie(self.ctx.cast()) }
    }

    #[inline(always)]
    fn netns_cookie(&self) -> u64 {
        // SAFETY: see `of`.
        unsafe { bpf_get_netns_cookie(self.ctx.cast()) }
    }

    #[inline(always)]
    fn set(&self, end: End<F::Addr>) {
        // SAFETY: see `of`; address and port may be written.
        unsafe {
            F::write(self.ctx, end.addr);
            (*self.ctx).user_port = u32::from(end.port.0);
        }
    }
}

/// Calls one of two instances of a hook of `AF_INET6`.
macro_rules! by_family {
    ($hook:ident, $ctx:expr) => {
        // SAFETY: the context is valid while the program runs.
        if unsafe { is_mapped($ctx.sock_addr) } { $hook::<Mapped>($ctx) } else { $hook::<V6>($ctx) }
    };
}

/// What is to become of a socket's address.
enum Answer<A> {
    /// Nothing.
    Leave,
    /// This backend of this Service. The client is a Pod's address, or the node's.
    Use(Target<A>),
    /// An error.
    Refuse,
}

#[cgroup_sock_addr(connect4)]
pub fn sock_connect4(ctx: SockAddrContext) -> i32 {
    connecting::<V4>(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn sock_connect6(ctx: SockAddrContext) -> i32 {
    by_family!(connecting, &ctx)
}

#[inline(always)]
fn connecting<F: Family>(ctx: &SockAddrContext) -> i32 {
    let socket = Socket::<F>::of(ctx);
    let Some(config) = maps::config() else { return ALLOW };
    if socket.proto != proto::TCP && socket.proto != proto::UDP {
        return ALLOW;
    }
    let Some(service) = F::Addr::service(config, socket.end, socket.proto) else { return ALLOW };
    connect(socket, service, config)
}

#[inline(never)]
fn connect<F: Family>(socket: Socket<F>, service: &Service, config: &Config) -> i32 {
    let backend = match choose(&socket, F::CONNECT, service, config) {
        Answer::Leave => return ALLOW,
        Answer::Refuse => return DENY,
        Answer::Use(backend) => backend,
    };
    let ids = Ids { service: service.id, backend: backend.id };
    F::Addr::put_flow(socket.cookie(), socket.end, End::from(&backend), ids, socket.proto);
    socket.set(End::from(&backend));
    count(Counter::SockConnect);
    tell(&socket, F::CONNECT, service, Some(&backend), DropReason::None);
    ALLOW
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sock_sendmsg4(ctx: SockAddrContext) -> i32 {
    sending::<V4>(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sock_sendmsg6(ctx: SockAddrContext) -> i32 {
    sending::<V6>(&ctx)
}

#[inline(always)]
fn sending<F: Family>(ctx: &SockAddrContext) -> i32 {
    let socket = Socket::<F>::of(ctx);
    let Some(config) = maps::config() else { return ALLOW };
    if socket.proto != proto::UDP {
        return ALLOW;
    }
    let Some(service) = F::Addr::service(config, socket.end, socket.proto) else { return ALLOW };
    sendmsg(socket, service, config)
}

#[inline(never)]
fn sendmsg<F: Family>(socket: Socket<F>, service: &Service, config: &Config) -> i32 {
    let cookie = socket.cookie();
    let now_s = seconds(now_ns());
    if let Some(row) = F::Addr::nat(cookie, SOCK_NAT_FORWARD, socket.end)
        && row.ids.service == service.id
        && is_fresh(now_s, *row.last_used_s, config.udp_timeout_s)
    {
        if let Some(backend) = service::is_member(service.id, row.ids.backend) {
            *row.last_used_s = now_s;
            let backend = Target::of(backend);
            remember_vip(&socket, cookie, service, &backend, now_s);
            socket.set(End::from(&backend));
            count(Counter::SockSendmsg);
            return ALLOW;
        }
        count(Counter::BackendReplaced);
    }
    let backend = match choose(&socket, F::SENDMSG, service, config) {
        Answer::Leave => return ALLOW,
        Answer::Refuse => return DENY,
        Answer::Use(backend) => backend,
    };
    let ids = Ids { service: service.id, backend: backend.id };
    F::Addr::put_nat(cookie, SOCK_NAT_FORWARD, socket.end, End::from(&backend), ids, now_s);
    remember_vip(&socket, cookie, service, &backend, now_s);
    socket.set(End::from(&backend));
    count(Counter::SockSendmsg);
    tell(&socket, F::SENDMSG, service, Some(&backend), DropReason::None);
    ALLOW
}

/// The row that recvmsg needs, if it is not there (any more).
#[inline(never)]
fn remember_vip<F: Family>(socket: &Socket<F>, cookie: u64, service: &Service, backend: &Target<F::Addr>, now_s: u32) {
    let at = End::from(backend);
    if let Some(row) = F::Addr::nat(cookie, SOCK_NAT_REVERSE, at)
        && row.other == socket.end
    {
        return;
    }
    let ids = Ids { service: service.id, backend: backend.id };
    F::Addr::put_nat(cookie, SOCK_NAT_REVERSE, at, socket.end, ids, now_s);
}

#[cgroup_sock_addr(recvmsg4)]
pub fn sock_recvmsg4(ctx: SockAddrContext) -> i32 {
    received::<V4>(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
pub fn sock_recvmsg6(ctx: SockAddrContext) -> i32 {
    by_family!(received, &ctx)
}

#[inline(always)]
fn received<F: Family>(ctx: &SockAddrContext) -> i32 {
    let socket = Socket::<F>::of(ctx);
    let cookie = socket.cookie();
    if let Some(row) = F::Addr::nat(cookie, SOCK_NAT_REVERSE, socket.end) {
        socket.set(row.other);
        count(Counter::SockRecvmsg);
    } else if show_vip(&socket, cookie) {
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
    by_family!(peer, &ctx)
}

#[inline(always)]
fn peer<F: Family>(ctx: &SockAddrContext) -> i32 {
    let socket = Socket::<F>::of(ctx);
    show_vip(&socket, socket.cookie());
    ALLOW
}

/// Shows the VIP in place of the backend that a connected socket was given.
#[inline(always)]
fn show_vip<F: Family>(socket: &Socket<F>, cookie: u64) -> bool {
    let Some(vip) = F::Addr::asked(cookie, socket.end) else { return false };
    socket.set(vip);
    true
}

#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    // SAFETY: the context is valid while the program runs; so below.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // Most sockets have no row. One of IPv6 may have used a mapped address.
    let _ = SOCK_FLOWS.remove(&cookie);
    // SAFETY: see above.
    if unsafe { (*ctx.sock).family } == AF_INET6 {
        let _ = SOCK_FLOWS_V6.remove(&cookie);
    }
    ALLOW
}

/// The backend for a socket that asks for a Service.
#[inline(never)]
fn choose<F: Family>(socket: &Socket<F>, hook: Hook, service: &Service, config: &Config) -> Answer<F::Addr> {
    if service.flags & SERVICE_NO_SOCKET != 0 {
        return Answer::Leave;
    }
    // The programs behind choose.
    if config.flags & HANDOVER != 0 {
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
    if service.source_list != 0 {
        let admitted = match pod {
            Some(pod) => F::Addr::admits(service, pod),
            None if netns == config.host_netns_cookie => service.flags & SERVICE_ADMITS_NODE != 0,
            None => service.flags & SERVICE_ADMITS_PODS != 0,
        };
        if !admitted {
            return refuse(socket, hook, service, pod, DropReason::SourceNotInRanges);
        }
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
    refuse(socket, hook, service, pod, DropReason::NoEndpoints)
}

/// No endpoint: as close to "connection refused" as the kernel allows. The error itself where `bpf_set_retval` can set
/// it, else the VIP on the wire for `from_pod` to answer, else (a process of the node) EPERM.
///
/// Not in the source ranges: silence, which is `from_pod`'s. Where there is none, what silence ends in, at once: for TCP a
/// time-out, for a datagram EPERM, as netfilter has it for a process of the node.
#[inline(always)]
fn refuse<F: Family>(
    socket: &Socket<F>,
    hook: Hook,
    service: &Service,
    pod: Option<&PodNetns>,
    reason: DropReason,
) -> Answer<F::Addr> {
    let outsider = reason as u8 == DropReason::SourceNotInRanges as u8;
    let silent = outsider || service.flags & SERVICE_DROP_IF_EMPTY != 0;
    let helper = HAVE_SET_RETVAL.load() != 0;
    if pod.is_some() && (silent || !helper) {
        return Answer::Leave;
    }
    if helper {
        let error = match (outsider, socket.proto) {
            (false, _) => ECONNREFUSED,
            (true, proto::TCP) => ETIMEDOUT,
            (true, _) => EPERM,
        };
        // SAFETY: no memory is involved.
        unsafe { bpf_set_retval(-error) };
    }
    count_drop(reason);
    tell(socket, hook, service, None, reason);
    Answer::Refuse
}

/// Sends the event of a choice or of a refusal.
#[inline(never)]
fn tell<F: Family>(
    socket: &Socket<F>,
    hook: Hook,
    service: &Service,
    backend: Option<&Target<F::Addr>>,
    reason: DropReason,
) {
    let Some(config) = maps::config() else { return };
    let refused = reason as u8 != DropReason::None as u8;
    let (cookie, netns) = (socket.cookie(), socket.netns_cookie());
    let pod = get!(PODS_BY_NETNS, &netns);
    let kind = if refused { EventKind::Drop } else { EventKind::Connect };
    let Some(mut event) = Event::begin(config, kind, hook, socket.proto) else { return };
    let fields = event.fields();
    if let Some(pod) = pod {
        report::map(&mut fields.src, pod.ip);
    }
    let (to, backend_id) = backend.map_or((socket.end, 0), |backend| (End::from(backend), backend.id));
    socket.end.addr.tell(&mut fields.dst);
    fields.dst_port = socket.end.port;
    to.addr.tell(&mut fields.backend);
    fields.backend_port = to.port;
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
