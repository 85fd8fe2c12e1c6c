//! Answering a packet with a refusal, in place.

use strake_abi::flow::{Hook, Verdict};
use strake_abi::proto;
use strake_logic::reply::TAIL_LEN;

use crate::report::refused_as_read;
use crate::skb::{Action, DROP, Skb, code, into_pod, out_of};
use crate::wire::Wire;
use crate::work::Work;

/// What the program returns to the kernel, after a refusal was sent if there is to be one.
#[inline(always)]
pub fn code_or_refuse<A: Wire>(skb: Skb, hook: Hook, action: Action) -> i32 {
    let action = match action.refusal() {
        Some(reason) => refuse::<A>(skb, hook, reason),
        None => action,
    };
    code::<A>(skb, hook, action)
}

/// Answers TCP with a reset, UDP and SCTP with "port unreachable", back where the packet came from; drops what cannot be
/// answered (resets, fragments, other protocols).
#[inline(never)]
fn refuse<A: Wire>(skb: Skb, hook: Hook, reason: u8) -> Action {
    let Some(work) = A::work() else { return DROP };
    let Work { packet, frame, header, .. } = work;
    let (tcp, sctp) = (packet.ip.proto == proto::TCP, packet.ip.proto == proto::SCTP);
    let built = if tcp {
        skb.load_into(packet.ip.l4, header) && A::reset(frame, &packet.head, &packet.ip, header)
    } else {
        // An INIT is known by its tag, which stands in its chunk.
        let mut tail = header.first_chunk_mut().filter(|_| sctp);
        let whole = tail.as_mut().is_none_or(|tail| skb.load_into(packet.ip.l4 + 8, *tail));
        skb.load::<[u8; 8]>(packet.ip.l4)
            .filter(|_| whole)
            .is_some_and(|front| A::unreachable(frame, &packet.head, &packet.ip, &front, tail.as_deref()))
    };
    refused_as_read(skb, packet, hook, reason, if built { Verdict::Rejected } else { Verdict::Dropped });
    if !built {
        return DROP;
    }
    let sent = if tcp {
        skb.resize(A::RESET_LEN).and_then(|()| A::store_reset(skb, frame))
    } else if sctp {
        skb.resize(A::UNREACHABLE_LEN + TAIL_LEN as u32).and_then(|()| A::store_unreachable_long(skb, frame))
    } else {
        skb.resize(A::UNREACHABLE_LEN).and_then(|()| A::store_unreachable(skb, frame))
    };
    if sent.is_err() {
        return DROP;
    }
    match hook {
        Hook::FromPod => into_pod(skb.ifindex()),
        _ => out_of(skb.ifindex()),
    }
}
