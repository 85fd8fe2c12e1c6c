//! The life of a flow, seen from the middle (RFC 9293, 3.3.2, reduced to what a tracker can know).
//!
//! ```text
//!            first packet of the reply side       FIN of one side       FIN of the other
//!   New ------------------------------> Established -----------> Closing ------------> Closed
//!    |                                       |                      |                    |
//!    +------------------ RST ----------------+----------------------+------------------->+
//!                                                                  SYN of the opener: a new flow
//! ```

use strake_abi::conntrack::{CT_FIN_ORIGINAL, CT_FIN_REPLY, DIRECTION_ORIGINAL, FlowState};
use strake_abi::{config::Config, proto};

use crate::choose::is_fresh;
use crate::packet::tcp_flag::{ACK, FIN, RST, SYN};

/// State and FIN bits after a TCP segment with `flags` in `direction`.
#[inline(always)]
pub const fn step(state: u8, fins: u16, flags: u8, direction: u8) -> (u8, u16) {
    let original = direction == DIRECTION_ORIGINAL;
    if flags & RST != 0 {
        return (FlowState::Closed as u8, fins);
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

/// Whether a segment opens a connection.
#[inline(always)]
pub const fn is_open(flags: u8) -> bool {
    flags & (SYN | ACK | RST | FIN) == SYN
}

/// Whether a segment may change the state of both rows of its flow. All others only touch their own row.
#[inline(always)]
pub const fn is_event(flags: u8) -> bool {
    flags & (SYN | FIN | RST) != 0
}

/// Idle seconds after which a row in this state means nothing any more.
#[inline(always)]
pub const fn timeout_s(config: &Config, protocol: u8, state: u8) -> u32 {
    if protocol != proto::TCP {
        config.udp_timeout_s
    } else if state == FlowState::Established as u8 {
        config.tcp_timeout_s
    } else {
        config.tcp_closing_timeout_s
    }
}

/// Whether a row still speaks for a packet with these TCP flags (0 for other protocols).
#[inline(always)]
pub const fn is_live(config: &Config, protocol: u8, state: u8, last_seen_s: u32, now_s: u32, flags: u8) -> bool {
    if protocol == proto::TCP && state == FlowState::Closed as u8 && is_open(flags) {
        return false;
    }
    is_fresh(now_s, last_seen_s, timeout_s(config, protocol, state))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use strake_abi::conntrack::DIRECTION_REPLY;

    fn run(segments: &[(u8, u8)]) -> u8 {
        segments.iter().fold((FlowState::New as u8, 0), |(s, f), (flags, dir)| step(s, f, *flags, *dir)).0
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

    proptest! {
        #[test]
        fn closed_stays_closed_and_fins_never_unset(segments in proptest::collection::vec((any::<u8>(), 0u8..2), 0..40)) {
            let (mut state, mut fins) = (FlowState::New as u8, 0);
            for (flags, direction) in segments {
                let (next, bits) = step(state, fins, flags, direction);
                prop_assert!(FlowState::from_u8(next).is_some());
                prop_assert_eq!(bits & fins, fins);
                prop_assert!(next >= state, "{} after {}", next, state);
                (state, fins) = (next, bits);
            }
        }
    }
}
