//! Writing a translation into a packet.

use strake_abi::conntrack::{CT_TRANSLATED, Conntrack, ConntrackKey, Tuple};
use strake_abi::flow::{DropReason, Hook};
use strake_abi::proto::SCTP;
use strake_logic::packet::{ETH_LEN, Fragment};
use strake_logic::{rewrite, sctp};

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
#[inline(always)]
pub fn apply<A: Wire>(skb: Skb, packet: &Packet<A>, to: &Tuple<A>) -> Result<(), DropReason> {
    // Beside each other, not one below the other: all that is being called shares 512 bytes of stack.
    if packet.ip.proto == SCTP { apply_sctp(skb, packet, to) } else { apply_internet(skb, packet, to) }
}

/// For checksums of 16 bits over the addresses too.
#[inline(never)]
fn apply_internet<A: Wire>(skb: Skb, packet: &Packet<A>, to: &Tuple<A>) -> Result<(), DropReason> {
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

/// The checksum has no addresses in it, and if it was left to the device, or to nobody, it stays zero. How the one of a
/// datagram in pieces changes depends on how long they are together, which none but the last one says: such a datagram goes
/// on only while it keeps its ports.
#[inline(never)]
fn apply_sctp<A: Wire>(skb: Skb, packet: &Packet<A>, to: &Tuple<A>) -> Result<(), DropReason> {
    A::store_addresses(skb, to, rewrite::differences(SCTP, &packet.tuple, to).addresses)?;
    if packet.tuple.sport == to.sport && packet.tuple.dport == to.dport {
        return Ok(());
    }
    if packet.ip.fragment != Fragment::No {
        return Err(DropReason::SctpFragment);
    }
    let at = packet.ip.l4 + sctp::CHECKSUM;
    let Some(field) = skb.load::<[u8; 4]>(at) else { return Err(DropReason::RewriteFailed) };
    let new = rewrite::ports(to);
    if field != [0; 4] {
        let field = sctp::update(field, rewrite::ports(&packet.tuple), new, packet.ip.l4_len);
        skb.store_summed(at, &field)?;
    }
    skb.store_summed(packet.ip.l4, &new)
}

/// Exchanges source and destination Ethernet address.
#[inline(never)]
pub fn turn_ethernet(skb: Skb, head: &[u8; ETH_LEN]) -> Result<(), DropReason> {
    let turned: [u8; 12] =
        [head[6], head[7], head[8], head[9], head[10], head[11], head[0], head[1], head[2], head[3], head[4], head[5]];
    skb.store(0, &turned)
}
