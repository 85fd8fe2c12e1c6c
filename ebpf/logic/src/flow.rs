//! The life of a flow, seen from the middle (RFC 9293, 3.3.2, and RFC 9260, 4, reduced to what a tracker can know). SCTP's
//! chunks are told in TCP's flags ([`crate::sctp::flags`]).
//!
//! ```text
//!            first packet of the reply side       FIN of one side       FIN of the other
//!   New ------------------------------> Established -----------> Closing ------------> Closed
//!    |                                       |                      |                    |
//!    +------------------ RST ----------------+----------------------+------------------->+
//!                                                                  SYN of the opener: a new flow
//! ```
//!
//! SCTP: established by COOKIE ACK, not by INIT ACK, behind which the opener has still to come back; closing with the first
//! SHUTDOWN or SHUTDOWN ACK, closed by SHUTDOWN COMPLETE or ABORT.

use strake_abi::conntrack::{CT_FIN_ORIGINAL, CT_FIN_REPLY, DIRECTION_ORIGINAL, FlowState};
use strake_abi::{config::Config, proto};

use crate::choose::is_fresh;
use crate::packet::tcp_flag::{ACK, FIN, RST, SYN};

/// Seconds of silence after which an SCTP association is forgotten: the kernel's own (`nf_conntrack_sctp_timeout_*`), for
/// heartbeats come every 30 s and a path fails after 6 of them.
const SCTP_ESTABLISHED_S: u32 = 210;
/// One that has ended.
const SCTP_CLOSED_S: u32 = 10;
/// By state.
static SCTP_S: [u32; 4] = [SCTP_HANDSHAKE_S, SCTP_ESTABLISHED_S, SCTP_HANDSHAKE_S, SCTP_CLOSED_S];
/// One that is being made or shut down. Longer than the kernel's 3 s: Linux repeats an INIT and a COOKIE ECHO after 3 s and
/// then ever more slowly, and only the backend that made the cookie takes it.
const SCTP_HANDSHAKE_S: u32 = 30;

/// Whether flows of a protocol say when they begin and when they end.
#[inline(always)]
pub const fn says_when(protocol: u8) -> bool {
    matches!(protocol, proto::TCP | proto::SCTP)
}

/// State and FIN bits after a packet with `flags` in `direction`.
#[inline(always)]
pub const fn step(protocol: u8, state: u8, fins: u16, flags: u8, direction: u8) -> (u8, u16) {
    let original = direction == DIRECTION_ORIGINAL;
    if flags & RST != 0 {
        return (FlowState::Closed as u8, fins);
    }
    if protocol == proto::SCTP {
        let next = if state == FlowState::Closed as u8 {
            state
        } else if flags & FIN != 0 {
            FlowState::Closing as u8
        } else if state == FlowState::New as u8 && !original && flags & SYN == 0 {
            FlowState::Established as u8
        } else {
            state
        };
        return (next, fins);
    }
    let mut fins = fins;
    if flags & FIN != 0 {
        fins |= if original { CT_FIN_ORIGINAL } else { CT_FIN_REPLY };
    }
    let both = CT_FIN_ORIGINAL | CT_FIN_REPLY;
    let next = if state == FlowState::Closed as u8 || fins & both == both {
        FlowState::Closed as u8
    } else if fins & both != 0 {
        FlowState::Closing as u8
    } else if state == FlowState::New as u8 && !original {
        FlowState::Established as u8
    } else {
        state
    };
    (next, fins)
}

/// Whether a packet opens a connection.
#[inline(always)]
pub const fn is_open(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// Whether a packet may change the state of both rows of its flow. All others only touch their own row.
#[inline(always)]
pub const fn is_event(protocol: u8, flags: u8) -> bool {
    flags & (SYN | FIN | RST) != 0 || protocol == proto::SCTP && flags != 0
}

/// Idle seconds after which a row in this state means nothing any more.
#[inline(always)]
pub const fn timeout_s(config: &Config, protocol: u8, state: u8) -> u32 {
    if protocol == proto::SCTP {
        SCTP_S[(state & 3) as usize]
    } else if protocol != proto::TCP {
        config.udp_timeout_s
    } else if state == FlowState::Established as u8 {
        config.tcp_timeout_s
    } else {
        config.tcp_closing_timeout_s
    }
}

/// Idle seconds after which the ports of a protocol's flows are for others, by state. Those of a closed flow are at once.
#[inline(always)]
pub const fn hold_s(config: &Config, protocol: u8, by_state: &mut [i64; 4]) {
    by_state[FlowState::New as usize] = timeout_s(config, protocol, FlowState::New as u8) as i64;
    by_state[FlowState::Established as usize] = timeout_s(config, protocol, FlowState::Established as u8) as i64;
    by_state[FlowState::Closing as usize] = by_state[FlowState::New as usize];
    by_state[FlowState::Closed as usize] = i64::MIN / 2;
}

/// Whether the ports of a row are for others. One comparison: the verifier comes by here with each port that is tried.
#[inline(always)]
pub const fn is_over(by_state: &[i64; 4], state: u8, last_seen_s: u32, now_s: u32) -> bool {
    now_s as i64 - last_seen_s as i64 - by_state[(state & 3) as usize] >= 0
}

/// Whether a row still speaks for a packet with these flags (0 for protocols that have none).
#[inline(always)]
pub const fn is_live(config: &Config, protocol: u8, state: u8, last_seen_s: u32, now_s: u32, flags: u8) -> bool {
    if says_when(protocol) && state == FlowState::Closed as u8 && is_open(flags) {
        return false;
    }
    is_fresh(now_s, last_seen_s, timeout_s(config, protocol, state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use strake_abi::conntrack::DIRECTION_REPLY;

    fn run_of(protocol: u8, packets: &[(u8, u8)]) -> u8 {
        packets.iter().fold((FlowState::New as u8, 0), |(s, f), (flags, dir)| step(protocol, s, f, *flags, *dir)).0
    }

    fn run(segments: &[(u8, u8)]) -> u8 {
        run_of(proto::TCP, segments)
    }

    const O: u8 = DIRECTION_ORIGINAL;
    const R: u8 = DIRECTION_REPLY;

    #[test]
    fn a_connection_lives_and_ends() {
        assert_eq!(run(&[(SYN, O)]), FlowState::New as u8);
        assert_eq!(run(&[(SYN, O), (SYN | ACK, R)]), FlowState::Established as u8);
        assert_eq!(run(&[(SYN, O), (SYN | ACK, R), (FIN | ACK, R)]), FlowState::Closing as u8);
        assert_eq!(run(&[(SYN, O), (SYN | ACK, R), (FIN | ACK, R), (FIN | ACK, O)]), FlowState::Closed as u8);
        assert_eq!(run(&[(SYN, O), (RST | ACK, R)]), FlowState::Closed as u8);
    }

    #[test]
    fn a_repeated_fin_of_one_side_does_not_close() {
        assert_eq!(run(&[(SYN, O), (SYN | ACK, R), (FIN | ACK, O), (FIN | ACK, O)]), FlowState::Closing as u8);
    }

    #[test]
    fn only_a_syn_revives_a_closed_flow() {
        let config = Config { tcp_closing_timeout_s: 60, ..Config::default() };
        let live = |flags| is_live(&config, proto::TCP, FlowState::Closed as u8, 100, 101, flags);
        assert!(live(ACK) && live(FIN | ACK) && live(SYN | ACK));
        assert!(!live(SYN));
    }

    #[test]
    fn an_association_lives_and_ends() {
        let run = |packets: &[(u8, u8)]| run_of(proto::SCTP, packets);
        let made = [(SYN, O), (SYN | ACK, R), (0, O), (ACK, R)];
        assert_eq!(run(&made[..1]), FlowState::New as u8);
        assert_eq!(run(&made[..3]), FlowState::New as u8, "the cookie is still on its way");
        assert_eq!(run(&made), FlowState::Established as u8);
        let shut = [&made[..], &[(FIN, R)]].concat();
        assert_eq!(run(&shut), FlowState::Closing as u8);
        assert_eq!(run(&[&shut[..], &[(FIN, O)]].concat()), FlowState::Closing as u8);
        assert_eq!(run(&[&shut[..], &[(FIN, O), (RST, R)]].concat()), FlowState::Closed as u8);
        assert_eq!(run(&[&made[..], &[(RST, O)]].concat()), FlowState::Closed as u8);
        assert!(is_event(proto::SCTP, ACK) && !is_event(proto::TCP, ACK) && !is_event(proto::SCTP, 0));
    }

    #[test]
    fn only_an_init_revives_a_closed_association() {
        let config = Config::default();
        let live =
            |state: FlowState, age: u32, flags: u8| is_live(&config, proto::SCTP, state as u8, 100, 100 + age, flags);
        assert!(live(FlowState::Closed, 9, 0) && !live(FlowState::Closed, 11, 0) && !live(FlowState::Closed, 1, SYN));
        assert!(live(FlowState::Closed, 1, FIN) && live(FlowState::Established, 209, SYN));
        assert!(
            !live(FlowState::Established, 211, 0) && !live(FlowState::New, 31, 0) && live(FlowState::Closing, 29, 0)
        );
    }

    proptest! {
        #[test]
        fn a_port_is_held_while_its_row_speaks_for_packets(
            protocol in proptest::sample::select(&[proto::TCP, proto::UDP, proto::SCTP]),
            state in 0u8..4,
            last_s: u32,
            now_s: u32,
            timeouts in any::<[u32; 3]>(),
        ) {
            let config = Config {
                tcp_timeout_s: timeouts[0].max(1), tcp_closing_timeout_s: timeouts[1].max(1),
                udp_timeout_s: timeouts[2].max(1), ..Config::default()
            };
            let mut hold = [0; 4];
            hold_s(&config, protocol, &mut hold);
            let speaks = state != FlowState::Closed as u8 && is_live(&config, protocol, state, last_s, now_s, 0);
            prop_assert_eq!(is_over(&hold, state, last_s, now_s), !speaks);
        }
    }

    proptest! {
        #[test]
        fn closed_stays_closed_and_fins_never_unset(sctp in any::<bool>(), segments in proptest::collection::vec((any::<u8>(), 0u8..2), 0..40)) {
            let (mut state, mut fins) = (FlowState::New as u8, 0);
            for (flags, direction) in segments {
                let protocol = if sctp { proto::SCTP } else { proto::TCP };
                let (next, bits) = step(protocol, state, fins, flags, direction);
                prop_assert!(FlowState::from_u8(next).is_some());
                prop_assert_eq!(bits & fins, fins);
                prop_assert!(next >= state, "{} after {}", next, state);
                (state, fins) = (next, bits);
            }
        }
    }
}
