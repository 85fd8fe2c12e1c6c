//! Writing a translation into a packet.

use strake_abi::conntrack::{CT_TRANSLATED, Conntrack, ConntrackKey, Tuple4};
use strake_abi::flow::{DropReason, Hook};
use strake_abi::proto;
use strake_logic::packet::{ETH_LEN, Fragment, Head, checksum_offset};
use strake_logic::{checksum, rewrite};

use crate::skb::{Packet, Skb};
use crate::track;

/// A packet of a flow that is known: it is accounted to its row, and carries the row's translation from here on.
#[inline(always)]
pub fn carry(
    hook: Hook,
    skb: Skb,
    key: &ConntrackKey,
    row: &mut Conntrack,
    packet: &Packet,
    now_s: u32,
) -> Result<(), DropReason> {
    track::touch(hook, key, row, packet, now_s);
    if row.flags & CT_TRANSLATED != 0 {
        let to = row.to;
        apply(skb, packet, &to)?;
    }
    Ok(())
}

/// Makes the packet carry the tuple `to`, checksums included.
#[inline(never)]
pub fn apply(skb: Skb, packet: &Packet, to: &Tuple4) -> Result<(), DropReason> {
    let proto = packet.ip.proto;
    let l4 = packet.ip.l4;
    let differences = rewrite::differences(proto, &packet.tuple, to);
    skb.store(ETH_LEN + 12, &rewrite::addresses(to))?;
    skb.fix_l3(ETH_LEN + 10, differences.addresses)?;
    // The transport header, its checksum over the whole datagram too, is in the first fragment only.
    if packet.ip.fragment == Fragment::Later {
        return Ok(());
    }
    let Some(field) = checksum_offset(proto) else { return Ok(()) };
    if proto == proto::ICMP {
        skb.store(l4 + 4, &rewrite::echo_id(to).0)?;
        return skb.fix_l4(l4 + field, differences.ports, false);
    }
    skb.fix_l4(l4 + field, differences.addresses, true)?;
    if packet.tuple.sport != to.sport || packet.tuple.dport != to.dport {
        skb.store(l4, &rewrite::ports(to))?;
        skb.fix_l4(l4 + field, differences.ports, false)?;
    }
    Ok(())
}

/// Exchanges source and destination Ethernet address.
#[inline(always)]
pub fn turn_ethernet(skb: Skb, head: &Head) -> Result<(), DropReason> {
    let turned: [u8; 12] =
        [head[6], head[7], head[8], head[9], head[10], head[11], head[0], head[1], head[2], head[3], head[4], head[5]];
    skb.store(0, &turned)
}

/// One hop less to live, for packets that do not pass the kernel's own forwarding.
#[inline(always)]
pub fn decrement_ttl(skb: Skb, packet: &Packet) -> Result<(), DropReason> {
    let ttl = packet.ip.ttl;
    if ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    skb.store(ETH_LEN + 8, &(ttl - 1))?;
    skb.fix_l3(ETH_LEN + 10, checksum::difference(&[ttl, packet.ip.proto], &[ttl - 1, packet.ip.proto]))
}
