//! Answering a packet with a refusal, in place.

use strake_abi::flow::{DropReason, Hook, Verdict};
use strake_abi::proto;
use strake_logic::reply::{self, Frame};

use crate::report::refused;
use crate::skb::{Action, DROP, Skb, code, into_pod, out_of};
use crate::work::{Work, work};

/// What the program returns to the kernel, after a refusal was sent if there is to be one.
#[inline(always)]
pub fn code_or_refuse(skb: Skb, hook: Hook, action: Action) -> i32 {
    let action = match action.refusal() {
        Some(reason) => refuse(skb, hook, reason),
        None => action,
    };
    code(skb, hook, action)
}

/// Answers TCP with a reset and UDP with "port unreachable", back where the packet came from; drops what cannot be
/// answered (resets, fragments, other protocols).
#[inline(never)]
fn refuse(skb: Skb, hook: Hook, reason: u8) -> Action {
    let Some(work) = work() else { return DROP };
    let Work { packet, frame, header, .. } = work;
    let tcp = packet.ip.proto == proto::TCP;
    let built = if tcp {
        skb.load_into(packet.ip.l4, header) && reply::tcp_reset(frame, &packet.head, &packet.ip, header)
    } else {
        skb.load::<[u8; 8]>(packet.ip.l4)
            .is_some_and(|datagram| reply::port_unreachable(frame, &packet.head, &packet.ip, &datagram))
    };
    refused(skb, hook, reason, if built { Verdict::Rejected } else { Verdict::Dropped });
    if !built {
        return DROP;
    }
    let sent =
        if tcp { send::<{ reply::RESET_LEN }>(skb, frame) } else { send::<{ reply::UNREACHABLE_LEN }>(skb, frame) };
    if sent.is_err() {
        return DROP;
    }
    match hook {
        Hook::FromPod => into_pod(skb.ifindex()),
        _ => out_of(skb.ifindex()),
    }
}

#[inline(always)]
fn send<const N: usize>(skb: Skb, frame: &Frame) -> Result<(), DropReason> {
    skb.resize(N as u32)?;
    skb.store_front::<N, _>(frame)
}
