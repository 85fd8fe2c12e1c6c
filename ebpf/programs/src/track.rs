//! Rows of `CONNTRACK` and `CONNTRACK_V6`: touching, ending and making them.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use strake_abi::config::Config;
use strake_abi::conntrack::{
    CT_DSR, CT_FIN_ORIGINAL, CT_FIN_REPLY, CT_QUIET, CT_SNAT, CT_TRANSLATED, Conntrack, ConntrackKey,
    DIRECTION_ORIGINAL, DIRECTION_REPLY, FlowState, Tuple,
};
use strake_abi::flow::{Counter, DropReason, Hook};
use strake_logic::{choose, flow};

use crate::maps::get;
use crate::report::{self, count, seconds};
use crate::service::random;
use crate::skb::Packet;
use crate::wire::Wire;
use crate::work::Work;

/// How many ports are tried before a flow is refused: with two thirds of the range taken, one flow in 400,000 is; with nine
/// tenths, one in 30.
const ATTEMPTS: u32 = 32;

/// The row of a packet, if there is one.
#[inline(always)]
pub fn find<A: Wire>(key: &ConntrackKey<A>) -> Option<&'static mut Conntrack<A>> {
    // SAFETY: see `maps::get`. Two CPUs that touch one row at a time may lose a count; each field is one word.
    A::conntrack().get_ptr_mut(key).map(|row| unsafe { &mut *row })
}

/// Whether the row speaks for the packet. If its own direction has been quiet for too long, the other may not have.
#[inline(always)]
pub fn is_live<A: Wire>(config: &Config, key: &ConntrackKey<A>, row: &Conntrack<A>, tcp_flags: u8, now_s: u32) -> bool {
    flow::is_live(config, key.proto, row.state, row.last_seen_s, now_s, tcp_flags)
        || is_peer_live(config, key, row, tcp_flags, now_s)
}

#[inline(never)]
fn is_peer_live<A: Wire>(
    config: &Config,
    key: &ConntrackKey<A>,
    row: &Conntrack<A>,
    tcp_flags: u8,
    now_s: u32,
) -> bool {
    let peer = ConntrackKey { tuple: row.to.mirror(), ..*key };
    get!(A::conntrack(), &peer)
        .is_some_and(|peer| flow::is_live(config, key.proto, peer.state, peer.last_seen_s, now_s, tcp_flags))
}

/// Accounts a packet to its row, and follows TCP and SCTP.
#[inline(always)]
pub fn touch<A: Wire>(hook: Hook, key: &ConntrackKey<A>, row: &mut Conntrack<A>, packet: &Packet<A>, now_s: u32) {
    row.last_seen_s = now_s;
    row.packets += 1;
    row.bytes += u64::from(packet.len);
    if flow::is_event(key.proto, packet.tcp_flags) {
        follow(hook, key, row, packet.tcp_flags);
    } else if row.state == FlowState::New as u8 && (row.direction == DIRECTION_REPLY || row.flags & CT_DSR != 0) {
        row.state = FlowState::Established as u8;
    }
}

/// SYN, FIN or RST, or what is said by SCTP in these terms: the state is that of the flow, so both rows change.
#[inline(never)]
fn follow<A: Wire>(hook: Hook, key: &ConntrackKey<A>, row: &mut Conntrack<A>, tcp_flags: u8) {
    let peer_key = ConntrackKey { tuple: row.to.mirror(), ..*key };
    let Some(peer) = find(&peer_key) else {
        row.state = flow::step(key.proto, row.state, row.flags, tcp_flags, row.direction).0;
        return;
    };
    let direction = row.direction;
    let (original, reply) = if direction == DIRECTION_ORIGINAL { (row, peer) } else { (peer, row) };
    let before = original.state;
    let (state, fins) = flow::step(key.proto, before, original.flags, tcp_flags, direction);
    original.flags |= fins & (CT_FIN_ORIGINAL | CT_FIN_REPLY);
    original.state = state;
    reply.state = state;
    if state != FlowState::Closed as u8 || before == state {
        return;
    }
    if original.flags & CT_QUIET == 0 {
        report::closed(hook, key.proto, original, reply);
    }
    // What is left of the flow needs no translation, so its rows are given back at once: a map of live flows stays in
    // the caches. Translated ones age, for the last acknowledgement and for whoever did not hear it.
    if original.flags & CT_TRANSLATED == 0 {
        for key in [key, &peer_key] {
            if A::conntrack().remove(key).is_ok() {
                count(Counter::ConntrackFreed);
            }
        }
    }
}

/// A flow to be written down.
#[repr(C)]
pub struct New<A> {
    /// The row of the original direction. `to` is what is wished for; its source port may be changed.
    pub row: Conntrack<A>,
    /// What the opener put on the wire.
    pub key: ConntrackKey<A>,
    /// The key of the answers.
    pub reply_key: ConntrackKey<A>,
}

/// Begins `work.new`: a flow that `work.packet` opens at an interface, so far without a translation.
#[inline(always)]
pub fn begin<A: Wire>(work: &mut Work<A>, ifindex: u32, border: u8) {
    let Work { packet, new: New { row, key, .. }, .. } = work;
    packet.put_key(key, border);
    // Field by field, as the key. So below.
    row.to = packet.tuple;
    row.service_id = 0;
    row.backend_id = 0;
    row.last_seen_s = seconds(packet.now_ns);
    row.packets = 1;
    row.bytes = u64::from(packet.len);
    row.created_ns = packet.now_ns;
    row.flags = 0;
    row.state = FlowState::New as u8;
    row.direction = DIRECTION_ORIGINAL;
    row.ifindex = ifindex;
    row.cookie = 0;
}

/// The tuple of an answer, written where it is to be.
#[inline(always)]
pub fn mirror<A: Copy>(out: &mut Tuple<A>, tuple: &Tuple<A>) {
    out.src = tuple.dst;
    out.dst = tuple.src;
    out.sport = tuple.dport;
    out.dport = tuple.sport;
}

/// The row of the answers to a flow that was opened with `asked`.
#[inline(always)]
fn answers<A: Copy>(out: &mut Conntrack<A>, row: &Conntrack<A>, asked: &Tuple<A>) {
    mirror(&mut out.to, asked);
    out.service_id = row.service_id;
    out.backend_id = row.backend_id;
    out.last_seen_s = row.last_seen_s;
    out.packets = 0;
    out.bytes = 0;
    out.created_ns = row.created_ns;
    out.flags = row.flags;
    out.state = FlowState::New as u8;
    out.direction = DIRECTION_REPLY;
    out.ifindex = row.ifindex;
    out.cookie = row.cookie;
}

/// Writes both rows of `work.new`. If another flow already owns the answers that this one would get, another source port
/// is taken: that is how collisions are found, and how ports are allocated.
#[inline(never)]
pub fn open<A: Wire>(config: &Config, work: &mut Work<A>) -> Result<(), DropReason> {
    // With direct server return the answers do not pass here.
    if work.new.row.flags & CT_DSR == 0 {
        expect_answers(config, work)?;
    }
    let New { row, key, .. } = &work.new;
    if A::conntrack().insert(key, row, u64::from(BPF_NOEXIST)).is_err() {
        replace(key, row)?;
    }
    count(Counter::ConntrackCreated);
    Ok(())
}

#[inline(always)]
fn expect_answers<A: Wire>(config: &Config, work: &mut Work<A>) -> Result<(), DropReason> {
    let Work { new, reply, .. } = &mut *work;
    answers(reply, &new.row, &new.key.tuple);
    mirror(&mut new.reply_key.tuple, &new.row.to);
    new.reply_key.proto = new.key.proto;
    new.reply_key.border = new.key.border;
    new.reply_key.reserved = 0;
    if new.row.to != new.key.tuple {
        reply.flags |= CT_TRANSLATED;
    }
    if A::conntrack().insert(&new.reply_key, &*reply, u64::from(BPF_NOEXIST)).is_err() {
        settle_answers(config, work)?;
    }
    work.new.row.flags = work.reply.flags;
    Ok(())
}

/// Writes the row of the answers where there is one already: in its place if it is this flow's or that of a flow which is
/// over, else at another port.
#[inline(always)]
fn settle_answers<A: Wire>(config: &Config, work: &mut Work<A>) -> Result<(), DropReason> {
    let Work { new, reply, hold_s, .. } = work;
    flow::hold_s(config, new.key.proto, hold_s);
    let now_s = new.row.last_seen_s;
    let Some(owner) = get!(A::conntrack(), &new.reply_key) else { return Err(DropReason::ConntrackFull) };
    let is_ours = owner.direction == DIRECTION_REPLY && owner.to == reply.to;
    if is_ours || flow::is_over(hold_s, owner.state, owner.last_seen_s, now_s) {
        return replace(&new.reply_key, &*reply);
    }
    count(Counter::Collision);
    reply.flags |= CT_SNAT | CT_TRANSLATED;
    // The verifier walks through every round, by every way there is through it: there must be few.
    for _ in 0..ATTEMPTS {
        let port = choose::port(random(), config.snat_port_min, config.snat_port_max);
        new.row.to.sport = port;
        new.reply_key.tuple.dport = port;
        let Some(owner) = get!(A::conntrack(), &new.reply_key) else {
            if A::conntrack().insert(&new.reply_key, &*reply, u64::from(BPF_NOEXIST)).is_ok() {
                return Ok(());
            }
            continue;
        };
        if flow::is_over(hold_s, owner.state, owner.last_seen_s, now_s) {
            return replace(&new.reply_key, &*reply);
        }
    }
    Err(DropReason::PortsExhausted)
}

#[inline(always)]
fn replace<A: Wire>(key: &ConntrackKey<A>, row: &Conntrack<A>) -> Result<(), DropReason> {
    if A::conntrack().insert(key, row, u64::from(BPF_ANY)).is_err() {
        return Err(DropReason::ConntrackFull);
    }
    count(Counter::ConntrackReplaced);
    Ok(())
}
