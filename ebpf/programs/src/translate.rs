//! Writing a translation into a packet.

use strake_abi::conntrack::{CT_TRANSLATED, Conntrack, ConntrackKey, Tuple};
use strake_abi::flow::{DropReason, Hook};
use strake_logic::packet::{ETH_LEN, Fragment};
use strake_logic::rewrite;

use crate::skb::{Packet, Skb};
use crate::track;
use crate::wire::Wire;

/// A packet of a flow that is known: it is accounted to its row, and carries the row's translation from here on.
#[inline(always)]
pub fn carry<A: Wire>(
    hook: Hook,
    skb: Skb,
    key: &ConntrackKey<A>,
    row: &mut Conntrack<A>,
    packet: &Packet<A>,
    now_s: u32,
) -> Result<(), DropReason> {
    // The last packet of a flow that is not translated takes its rows away: they may be another flow's at once.
    let translated = row.flags & CT_TRANSLATED != 0;
    track::touch(hook, key, row, packet, now_s);
    if translated {
        apply(skb, packet, &row.to)?;
    }
    Ok(())
}

/// Makes the packet carry the tuple `to`, checksums included.
#[inline(never)]
pub fn apply<A: Wire>(skb: Skb, packet: &Packet<A>, to: &Tuple<A>) -> Result<(), DropReason> {
    let proto = packet.ip.proto;
    let l4 = packet.ip.l4;
    let differences = rewrite::differences(proto, &packet.tuple, to);
    A::store_addresses(skb, to, differences.addresses)?;
    // The transport header, its checksum over the whole datagram too, is in the first fragment only.
    if packet.ip.fragment == Fragment::Later {
        return Ok(());
    }
    let Some(field) = A::checksum_offset(proto) else { return Ok(()) };
    if proto == A::ICMP {
        if A::ICMP_PSEUDO {
            skb.fix_l4(l4 + field, differences.addresses, proto, true)?;
        }
        skb.store(l4 + 4, &rewrite::echo_id(to).0)?;
        return skb.fix_l4(l4 + field, differences.ports, proto, false);
    }
    skb.fix_l4(l4 + field, differences.addresses, proto, true)?;
    if packet.tuple.sport != to.sport || packet.tuple.dport != to.dport {
        skb.store(l4, &rewrite::ports(to))?;
        skb.fix_l4(l4 + field, differences.ports, proto, false)?;
    }
    Ok(())
}

/// Exchanges source and destination Ethernet address.
#[inline(never)]
pub fn turn_ethernet(skb: Skb, head: &[u8; ETH_LEN]) -> Result<(), DropReason> {
    let turned: [u8; 12] =
        [head[6], head[7], head[8], head[9], head[10], head[11], head[0], head[1], head[2], head[3], head[4], head[5]];
    skb.store(0, &turned)
}
