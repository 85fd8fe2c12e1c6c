//! Working memory of one packet, in a per-CPU map: what would fill the stack, and what the verifier had better forget.
//! Only classifiers use it; they run with softirqs off, one at a time on a CPU.

use strake_abi::conntrack::Conntrack;
use strake_logic::dns::Scratch;
use strake_logic::icmp;
use strake_logic::reply::Frame;

use crate::maps::SCRATCH;
use crate::skb::Packet;
use crate::track::New;

#[repr(C)]
pub struct Work {
    /// The packet that is being looked at.
    pub packet: Packet,
    /// The flow that it opens.
    pub new: New,
    /// The row of that flow's answers.
    pub reply: Conntrack,
    /// The front of a packet that is built in place.
    pub frame: Frame,
    /// A transport header.
    pub header: [u8; 20],
    /// An ICMP error.
    pub error: icmp::Error,
    /// What becomes of it.
    pub rewrite: icmp::Rewrite,
    /// A DNS question.
    pub dns: Scratch,
}

/// This CPU's.
#[inline(always)]
pub fn work() -> Option<&'static mut Work> {
    // SAFETY: the map is per CPU, its users do not interrupt each other (see above), and each takes it once.
    SCRATCH.get_ptr_mut(0).map(|work| unsafe { &mut *work })
}
