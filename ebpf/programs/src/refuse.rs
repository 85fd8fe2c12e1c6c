//! Answering a packet with a refusal, in place.

use strake_abi::flow::{DropReason, Hook};
use strake_abi::proto;
use strake_logic::reply;

use crate::report::{dropped, rejected};
use crate::skb::{Packet, Skb, into_pod, out_of};

/// Answers TCP with a reset and UDP with "port unreachable", back where the packet came from; drops what cannot be
/// answered (resets, fragments, other protocols).
#[inline(never)]
pub fn refuse(skb: Skb, hook: Hook, packet: &Packet<'_>, reason: DropReason) -> i32 {
    match build(skb, packet) {
        Some(Answer::Reset(frame)) => {
            rejected(skb, hook, reason);
            send(skb, hook, &frame)
        }
        Some(Answer::Unreachable(frame)) => {
            rejected(skb, hook, reason);
            send(skb, hook, &frame)
        }
        None => dropped(skb, hook, reason),
    }
}

enum Answer {
    Reset([u8; reply::RESET_LEN]),
    Unreachable([u8; reply::UNREACHABLE_LEN]),
}

#[inline(always)]
fn build(skb: Skb, packet: &Packet<'_>) -> Option<Answer> {
    if packet.ip.proto == proto::TCP {
        let segment: [u8; 20] = skb.load(packet.ip.l4)?;
        return reply::tcp_reset(packet.head, &packet.ip, &segment).map(Answer::Reset);
    }
    let datagram: [u8; 8] = skb.load(packet.ip.l4)?;
    reply::port_unreachable(packet.head, &packet.ip, &datagram).map(Answer::Unreachable)
}

#[inline(always)]
fn send<const N: usize>(skb: Skb, hook: Hook, frame: &[u8; N]) -> i32 {
    if skb.resize(N as u32).and_then(|()| skb.store(0, frame)).is_err() {
        return dropped(skb, hook, DropReason::RewriteFailed);
    }
    match hook {
        Hook::FromPod => into_pod(skb.ifindex()),
        _ => out_of(skb.ifindex()),
    }
}
